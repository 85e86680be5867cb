"""One function a command: it calls the Python function of the same name and prints what comes back.

Imports stand inside, so that ``pcdiff --help`` is quick and ``pcdiff inspect`` never imports torch.
"""

from __future__ import annotations

import argparse
import json
import sys
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
    print_table(("", "mean", "error"), rows)
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
    print_table(("catalogue", *(word for name in names for word in (name, "in the file"))), rows)


def evaluate(args: argparse.Namespace) -> None:
    """``pcdiff evaluate``"""
    from pcdiff.cli.progress import stages
    from pcdiff.evaluation import evaluate
    from pcdiff.io import iterate
    from pcdiff.resources import find

    stems = [Path(sample).stem for sample in args.samples]
    names = stems if len(set(stems)) == len(stems) else args.samples
    samples = {name: find(sample) for name, sample in zip(names, args.samples, strict=True)}
    chosen = given(args, "output", "classifiers", "fpnd", "draws", "seed", "workers", "dask", "most")
    for name in ("reference", "training"):
        if name in args:
            chosen[name] = iterate(find(getattr(args, name)), **reading(args))
    truth = iterate(find(args.truth), **reading(args))
    with stages() as say:
        evaluation = evaluate(truth, samples, **chosen, progress=say)
    _show(evaluation)


def reweight(args: argparse.Namespace) -> None:
    """``pcdiff reweight``"""
    from pcdiff.cli.progress import bar
    from pcdiff.evaluation.reweighting import reweight
    from pcdiff.io import read, write
    from pcdiff.resources import find

    truth, sample = read(find(args.truth), **reading(args)), read(find(args.sample))
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

    chosen = given(args, "count", "classifiers", "fpnd", "draws", "seed", "device", "workers", "dask")
    if "truth" in args:
        chosen["truth"] = read(find(args.truth), **reading(args))
    with bar("sampling") as advance:
        evaluation = compare_runs(args.runs, args.output, **chosen, progress=advance)
    _show(evaluation)


def inspect(args: argparse.Namespace) -> None:
    """``pcdiff inspect``"""
    from pcdiff.cli.facts import about, is_generator
    from pcdiff.io import inspect
    from pcdiff.resources import find

    if is_generator(args.file):
        if reading(args):
            raise PcdiffError(f"{args.file}: is a generator; --format and --option say how to read a file")
        print_table(("", ""), list(about(args.file).items()))
        return
    found = inspect(find(args.file), **reading(args))
    say(f"{found.path}: {found.clouds:,} clouds, read as {found.format!r}")
    print_table(
        ("in the file", "feature", "type"), [(column.source, column.feature, column.type) for column in found.columns]
    )
    if found.metadata:
        print_table(("metadata", ""), [(key, _plain(value)) for key, value in found.metadata.items()])
    for note in found.notes:
        say(note)


def convert(args: argparse.Namespace) -> None:
    """``pcdiff convert``"""
    from pcdiff.cli.progress import bar
    from pcdiff.io import iterate, write
    from pcdiff.resources import find

    inputs = [find(name) for name in args.inputs]
    pieces = iterate(inputs, **given(args, "step_size"), **reading(args))

    def counted(advance: Callable[[int], None]) -> Iterator[PointClouds]:
        for piece in pieces:
            yield piece
            advance(len(piece))

    with bar("converting") as advance:
        path = write(counted(advance), args.output, **given(args, "format"))
    say(str(path))


def info(args: argparse.Namespace) -> None:
    """``pcdiff info``"""
    from pcdiff.cli.facts import about, environment

    print_table(("", ""), list((environment() if args.path is None else about(args.path)).items()))


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

    return read(find(args.file), **reading(args))[: getattr(args, "n", None)]


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that the user gave."""
    return {name: getattr(args, name) for name in names if name in args}


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How the user wants an input to be read."""
    return options(args.options) | ({"format": args.input_format} if "input_format" in args else {})


def _show(evaluation: Evaluation) -> None:
    """The tables, and where the report is."""
    _console().print(*evaluation.tables(), sep="\n\n")
    if evaluation.output is not None:
        say(f"report: {evaluation.output / 'index.html'}")


def options(words: Iterable[str], name: str = "--option", example: str = "jets=FatJet") -> dict[str, Any]:
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


def _console() -> Console:
    from rich.console import Console

    # Names of files and columns may hold brackets, which are no markup; a pipe has no width to fit.
    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def say(text: str) -> None:
    _console().print(text, soft_wrap=True)


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=any(headings), pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
