"""What each command that samples a generator, or prepares it for that, does with its options.

Imports stand inside for the reason that they do in :mod:`pcdiff.cli.commands`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

from pcdiff.cli.commands import given, options, print_table, reading, say
from pcdiff.errors import PcdiffError

__all__ = ["export", "generators", "grid", "merge", "sample"]


def sample(args: argparse.Namespace) -> None:
    """``pcdiff sample``"""
    from pcdiff.cli.progress import bar
    from pcdiff.generator import Generator, shard_range
    from pcdiff.io import read, write
    from pcdiff.resources import find

    followed = given(args, "seed", "steps", "order", "grid", "sampler", "denoise", "guidance", "precision", "device")
    if "conditions" in args:
        followed["conditions"] = _conditions(args.conditions)
    if "sampler_options" in args:
        followed["options"] = options(args.sampler_options, "--sampler-option", "eta=0.5")
    if "dask" in args:
        _sample_in_shards(args, followed)
        return
    if "shards" in args:
        raise PcdiffError("--shards says how many --dask makes, which is absent; for one of them: --shard I/N")
    generator = Generator.load(args.generator)
    chosen = followed | given(args, "n", "shard")
    if "given" in args:
        chosen["given"] = read(find(args.given), **reading(args))
        chosen.setdefault("n", len(chosen["given"]))
        if "trajectory" in args:
            raise PcdiffError("--trajectory follows clouds that are drawn; expected it without --given")
    elif reading(args):
        raise PcdiffError("--from and --option say how to read the file of --given, which is absent")
    n = chosen.get("n", 0)
    if "shard" in args and n:
        first, stop = shard_range(n, args.shard)
        n = stop - first
    start = time.monotonic()
    with bar("sampling", n or None) as advance:
        path = write(generator.iterate(**chosen, progress=advance), args.output, **given(args, "format"))
    took = time.monotonic() - start
    say(f"{path}: {n:,} clouds in {took:.1f} s, {n / took:,.0f} a second")
    if "trajectory" in args:
        from pcdiff.trajectory import draw_trajectory, trajectory

        clouds = trajectory(generator, args.trajectory, **followed)
        beside = path.with_name(f"{path.stem}_trajectory{path.suffix}")
        say(
            f"{write(clouds, beside, **given(args, 'format'))}: the sampler's intermediates of {args.trajectory} clouds"
        )
        say(str(draw_trajectory(clouds, beside.with_suffix(".png"))))


def _sample_in_shards(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """On a cluster, to a folder."""
    from pcdiff.executors import dask_workers
    from pcdiff.production import sample_in_shards

    for option in ("given", "trajectory", "shard", "format"):
        if option in args:
            raise PcdiffError(f"--{option} does not go with --dask, which writes a folder of Parquet files")
    if reading(args):
        raise PcdiffError("--from and --option say how to read the file of --given, which does not go with --dask")
    if "n" not in args:
        raise PcdiffError("say how many clouds to generate: -n N")
    start = time.monotonic()
    executors = dask_workers(args.dask)
    files = sample_in_shards(
        args.generator, args.n, args.output, executors=executors, **given(args, "shards"), **settings
    )
    say(
        f"{args.output}: {len(files)} shards, {time.monotonic() - start:.1f} s; next: pcdiff merge {args.output} -o FILE"
    )


def merge(args: argparse.Namespace) -> None:
    """``pcdiff merge``"""
    from pcdiff.production import merge

    say(str(merge(args.shards, args.output, **given(args, "format"))))


def export(args: argparse.Namespace) -> None:
    """``pcdiff export``"""
    from pcdiff.export import export_onnx

    chosen = given(args, "sampler", "order", "steps", "grid", "denoise", "guidance")
    path = export_onnx(args.generator, args.output, **chosen)
    say(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; its metadata say what goes in and comes out (docs/how-to/export.md)"
    )


def grid(args: argparse.Namespace) -> None:
    """``pcdiff grid``"""
    from pcdiff.generator import Generator
    from pcdiff.resources import require_own

    # Fitting takes minutes.
    require_own(Generator.folder(args.generator))
    generator = Generator.load(args.generator)
    generator.fit_grids(**given(args, "steps", "device"))
    folder = generator.save_grids(args.generator)
    fitted = ", ".join(map(str, sorted(generator.grids)))
    say(f"{folder}: grids for {fitted} steps; use one with: pcdiff sample {args.generator} --grid fitted --steps N")


def generators(args: argparse.Namespace) -> None:  # noqa: ARG001
    """``pcdiff generators``"""
    from pcdiff.cli.facts import shipped_generators

    print_table(("name", "generates"), list(shipped_generators().items()))


def _conditions(words: Iterable[str]) -> dict[str, Any]:
    """What is asked of the clouds, from ``name=value`` and ``name=low:high``."""
    asked: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            value = text.split(",") if name == "type" and text else tuple(map(float, text.split(":", 1)))
        except ValueError:
            raise PcdiffError(
                f"--set {word}: expected NAME=NUMBER, NAME=LOW:HIGH or type=NAME, for example pt=900:1100"
            ) from None
        if name in asked:
            raise PcdiffError(f"--set {word}: {name} is asked for twice; expected once")
        asked[name] = value if name == "type" or len(value) > 1 else value[0]
    return asked
