"""One function a command: it calls the Python function of the same name and prints what comes back.

Imports stand inside, so that ``pcdiff --help`` is quick and ``pcdiff inspect`` never imports torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcdiff.errors import PcdiffError

if TYPE_CHECKING:
    from rich.console import Console

    from pcdiff.clouds import PointClouds
    from pcdiff.evaluation import Evaluation


def train(args: argparse.Namespace) -> None:
    """``pcdiff train``"""
    from pcdiff.config import load_config
    from pcdiff.distributed import World
    from pcdiff.training import train

    world = World.joined()
    with world.together():
        config = load_config(args.config, args.overrides)
    run = train(config, **given(args, "resume"))
    if world.main:
        say(f"{run}: trained; next: pcdiff sample {run} -n 10000 -o synthetic.root")


def distill(args: argparse.Namespace) -> None:
    """``pcdiff distill``"""
    from pcdiff.config import DistillConfig, load_as
    from pcdiff.distill import distill
    from pcdiff.distributed import World

    world = World.joined()
    with world.together():
        config = load_as(DistillConfig, args.config, args.overrides)
    run = distill(config, **given(args, "resume"))
    if world.main:
        say(f"{run}: distilled; next: pcdiff sample {run} -n 10000 -o synthetic.root")


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
        followed["options"] = _options(args.sampler_options, "--sampler-option", "eta=0.5")
    if "dask" in args:
        _sample_in_shards(args, followed)
        return
    if "shards" in args:
        raise PcdiffError("--shards says how many --dask makes, which is absent; for one of them: --shard I/N")
    generator = Generator.load(args.generator)
    chosen = followed | given(args, "n", "shard")
    if "given" in args:
        chosen["given"] = read(find(args.given), **_reading(args))
        chosen.setdefault("n", len(chosen["given"]))
        if "trajectory" in args:
            raise PcdiffError("--trajectory follows clouds that are drawn; expected it without --given")
    elif _reading(args):
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
    if _reading(args):
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


def likelihood(args: argparse.Namespace) -> None:
    """``pcdiff likelihood``"""
    import numpy as np

    from pcdiff.cli.progress import bar
    from pcdiff.density import cloud_log_likelihood
    from pcdiff.generator import Generator

    clouds = _clouds(args)
    chosen = given(args, "steps", "probes", "seed", "device") | ({"kind": "exact"} if "exact" in args else {})
    with bar("likelihood", len(clouds)) as advance:
        found = cloud_log_likelihood(Generator.load(args.generator), clouds, **chosen, progress=advance)
    rows: list[tuple[str, ...]] = []
    for text, values in (
        ("log p of the points in order", found.points),
        ("log p of their number", found.counts),
        ("log n!", found.orders),
        ("log p of the cloud", found.total),
        ("the same for a point", found.per_point),
    ):
        known = len(values) > 1 and np.isfinite(values).all()
        error = values.std(ddof=1) / np.sqrt(len(values)) if known else np.nan
        rows.append((text, f"{values.mean():.4f}", f"{error:.4f}"))
    say(f"{args.file}: {len(clouds):,} clouds, mean in nats and its standard error")
    _print_table(("", "mean", "error"), rows)
    unseen = int(np.isinf(found.counts).sum())
    if unseen:
        say(f"{unseen:,} of the clouds have a number of points that no cloud of the training data had: their p is 0")
    if found.error.any():
        say(f"of it from the probes of the divergence: {np.sqrt((found.error**2).mean() / len(clouds)):.4f}")


def posterior(args: argparse.Namespace) -> None:
    """``pcdiff posterior``"""
    from pcdiff.cli.progress import bar
    from pcdiff.generator import Generator
    from pcdiff.inference import posteriors

    clouds = _clouds(args)
    chosen = given(args, "features", "levels", "seed", "device")
    with bar("posterior", len(clouds)) as advance:
        found = posteriors(Generator.load(args.generator), clouds, **chosen, progress=advance)
    names = found[0].names
    truth = {name: clouds.feature(name) for name in names if name in clouds.schema.cloud_names}
    rows = []
    for i, one in enumerate(found):
        row = [str(i)]
        for name in names:
            row.append(f"{one.mean(name):.4f} ± {one.std(name):.4f}")
            row.append(f"{truth[name][i]:.4f}" if name in truth else "")
        rows.append(tuple(row))
    _print_table(("catalogue", *(word for name in names for word in (name, "in the file"))), rows)


def evaluate(args: argparse.Namespace) -> None:
    """``pcdiff evaluate``"""
    from pcdiff.cli.progress import stages
    from pcdiff.evaluation import evaluate
    from pcdiff.io import iterate
    from pcdiff.resources import find

    stems = [Path(sample).stem for sample in args.samples]
    names = stems if len(set(stems)) == len(stems) else args.samples
    samples = {name: find(sample) for name, sample in zip(names, args.samples, strict=True)}
    chosen = given(args, "output", "classifiers", "fpnd", "draws", "seed", "workers", "most")
    for name in ("reference", "training"):
        if name in args:
            chosen[name] = iterate(find(getattr(args, name)), **_reading(args))
    truth = iterate(find(args.truth), **_reading(args))
    with stages() as say:
        evaluation = evaluate(truth, samples, **chosen, progress=say)
    _show(evaluation)


def reweight(args: argparse.Namespace) -> None:
    """``pcdiff reweight``"""
    from pcdiff.cli.progress import bar
    from pcdiff.evaluation.reweighting import reweight
    from pcdiff.io import read, write
    from pcdiff.resources import find

    truth, sample = read(find(args.truth), **_reading(args)), read(find(args.sample))
    chosen = given(args, "kind", "folds", "held_out", "clip", "seed")
    with bar("folds", chosen.get("folds")) as advance:
        found = reweight(truth, sample, **chosen, progress=lambda: advance(1))
    say(f"{write(found.sample, args.output)}: {found}")
    if "report" in args:
        _show(found.closure(args.report))


def compare(args: argparse.Namespace) -> None:
    """``pcdiff compare``"""
    from pcdiff.cli.progress import bar
    from pcdiff.comparison import compare_runs
    from pcdiff.io import read
    from pcdiff.resources import find

    chosen = given(args, "count", "classifiers", "fpnd", "draws", "seed", "device", "workers")
    if "truth" in args:
        chosen["truth"] = read(find(args.truth), **_reading(args))
    with bar("sampling") as advance:
        evaluation = compare_runs(args.runs, args.output, **chosen, progress=advance)
    _show(evaluation)


def inspect(args: argparse.Namespace) -> None:
    """``pcdiff inspect``"""
    from pcdiff.cli.facts import about, is_generator
    from pcdiff.io import inspect
    from pcdiff.resources import find

    if is_generator(args.file):
        if _reading(args):
            raise PcdiffError(f"{args.file}: is a generator; --format and --option say how to read a file")
        _print_table(("", ""), list(about(args.file).items()))
        return
    found = inspect(find(args.file), **_reading(args))
    say(f"{found.path}: {found.clouds:,} clouds, read as {found.format!r}")
    _print_table(
        ("in the file", "feature", "type"), [(column.source, column.feature, column.type) for column in found.columns]
    )
    if found.metadata:
        _print_table(("metadata", ""), [(key, _plain(value)) for key, value in found.metadata.items()])
    for note in found.notes:
        say(note)


def convert(args: argparse.Namespace) -> None:
    """``pcdiff convert``"""
    from pcdiff.cli.progress import bar
    from pcdiff.io import iterate, write
    from pcdiff.resources import find

    inputs = [find(name) for name in args.inputs]
    pieces = iterate(inputs, **given(args, "step_size"), **_reading(args))

    def counted(advance: Callable[[int], None]) -> Iterator[PointClouds]:
        for piece in pieces:
            yield piece
            advance(len(piece))

    with bar("converting") as advance:
        path = write(counted(advance), args.output, **given(args, "format"))
    say(str(path))


def merge(args: argparse.Namespace) -> None:
    """``pcdiff merge``"""
    from pcdiff.production import merge

    say(str(merge(args.shards, args.output, **given(args, "format"))))


def info(args: argparse.Namespace) -> None:
    """``pcdiff info``"""
    from pcdiff.cli.facts import about, environment

    _print_table(("", ""), list((environment() if args.path is None else about(args.path)).items()))


def generators(args: argparse.Namespace) -> None:  # noqa: ARG001
    """``pcdiff generators``"""
    from pcdiff.cli.facts import shipped_generators

    _print_table(("name", "generates"), list(shipped_generators().items()))


def sync(args: argparse.Namespace) -> None:
    """``pcdiff track sync``"""
    from pcdiff.tracking import sync

    done = sync(args.run_folder, **given(args, "uri"))
    say(
        f"{done.uri}: sent {done.metrics:,} metric values and {done.artifacts} files to {done.experiment}/{done.run_id}"
    )


def ui(args: argparse.Namespace) -> None:
    """``pcdiff ui``"""
    from pcdiff.tracking import ui

    ui(**given(args, "uri", "port"))


def schema(args: argparse.Namespace) -> None:
    """``pcdiff config schema``"""
    from pcdiff.config import Config, DistillConfig, json_schema

    found = json_schema(DistillConfig if "distill" in args else Config)
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def show(args: argparse.Namespace) -> None:
    """``pcdiff config show``"""
    from pcdiff.config import load_any, to_yaml

    sys.stdout.write(to_yaml(load_any(args.config, args.overrides)))


def _clouds(args: argparse.Namespace) -> PointClouds:
    """Those of the file, as many as asked for."""
    from pcdiff.io import read
    from pcdiff.resources import find

    return read(find(args.file), **_reading(args))[: getattr(args, "n", None)]


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that the user gave."""
    return {name: getattr(args, name) for name in names if name in args}


def _reading(args: argparse.Namespace) -> dict[str, Any]:
    """How the user wants an input to be read."""
    return _options(args.options) | ({"format": args.input_format} if "input_format" in args else {})


def _show(evaluation: Evaluation) -> None:
    """The tables, and where the report is."""
    _console().print(*evaluation.tables(), sep="\n\n")
    if evaluation.output is not None:
        say(f"report: {evaluation.output / 'index.html'}")


def _options(words: Iterable[str], name: str = "--option", example: str = "jets=FatJet") -> dict[str, Any]:
    """Options from ``key=value``, values in YAML; ``name`` and ``example`` are for the error message."""
    from pcdiff.config.dialect import parse

    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise PcdiffError(f"{name} {word}: expected KEY=VALUE, for example {example}")
        try:
            options[key], _ = parse(value)
        except ValueError as error:
            raise PcdiffError(f"{name} {word}: {error}") from error
    return options


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


def _console() -> Console:
    from rich.console import Console

    # Names of files and columns may hold brackets, which are no markup; a pipe has no width to fit.
    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def say(text: str) -> None:
    _console().print(text, soft_wrap=True)


def _print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=any(headings), pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
