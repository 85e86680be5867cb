"""Quality against the number of evaluations of the net, for each sampler of the probability-flow ODE and each grid.

    python benchmarks/evaluations.py gluon30-teacher --students gluon30 gluon30-fast --truth data/gluon30_test.hdf5 --update-readme

Samplers, grids and numbers of evaluations make the same jets of the same noise, but for the error of their steps. What is measured,
and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from generators import evaluations, load_all
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from measuring import conditions, described
from rich.progress import Progress
from tables import README, bullets, console, markdown_table, show, update_readme

import pcdiff
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.conditions import Conditions
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation import wasserstein
from pcdiff.evaluation.style import STYLE, TRUTH, colour, line, marker, page, panel
from pcdiff.files import write_json
from pcdiff.generator import Generator
from pcdiff.physics import observables
from pcdiff.resources import find

RESULTS = Path(__file__).with_name("results") / "evaluations.json"
FIGURES = Path(__file__).parents[1] / "docs" / "images"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """A sampler of the ODE.

    Attributes:
        sampler, order: as in :class:`pcdiff.config.SamplingConfig`.
        each: evaluations a step.
        look: colour and place among the methods of this colour.
    """

    sampler: str
    order: int | None
    each: int
    look: tuple[int, int]


METHODS = {
    "ddim 1": Method("ddim", 1, 1, (1, 0)),
    "ddim 2": Method("ddim", 2, 1, (1, 1)),
    "ddim 3": Method("ddim", 3, 1, (1, 2)),
    "unipc 2": Method("unipc", 2, 1, (0, 1)),
    "unipc 3": Method("unipc", 3, 1, (0, 2)),
    "heun": Method("heun", None, 2, (2, 1)),
    "euler": Method("euler", None, 1, (3, 0)),
}
GRIDS = ("log-snr", "quadratic", "fitted")
EVALUATIONS = (5, 10, 20, 50)
# W1M, and what sees the steps best: of all observables, the two that 5 and 10 steps moved by the most floors.
OBSERVABLES = ("relative_mass", "total_ptrel", "tau3")
# Jets that pass through the sampler together.
_BLOCK = 128
FINE = {"sampler": "unipc", "order": 3, "grid": "log-snr"}


@dataclass(frozen=True)
class Extent:
    """How much is measured: jets, evaluations of the net, steps of the fine solution, draws of the floor."""

    jets: int
    evaluations: tuple[int, ...]
    fine: int
    draws: int


FULL = Extent(jets=10_000, evaluations=EVALUATIONS, fine=200, draws=10)
QUICK = Extent(jets=40, evaluations=(4, 8), fine=40, draws=3)


class Trajectories:
    """The noise of some jets, which every sampler starts from."""

    def __init__(self, generator: Generator, jets: int, seed: int, found: Conditions | None = None) -> None:
        self.generator, self.seed = generator, seed
        # A student may have another model of the number of points than the generator that it learned from.
        self.found: Conditions = generator.conditions(0, jets, seed) if found is None else found
        self.noise, self.mask, self.cond = generator.batch(0, self.found, seed)

    def ends(self, **sampling: Any) -> npt.NDArray[np.float32]:
        """Standardised points of all jets by the default sampler but for what is named; flat, shape (P, F)."""
        # In less precision the fine solution would be none.
        chosen = self.generator.choose(**sampling, precision="float32")
        x = torch.zeros_like(self.noise)
        # Jets of like sizes share a block, which spares padding.
        for block in torch.from_numpy(np.argsort(self.found.counts, kind="stable")).split(_BLOCK):
            mask = self.mask[block]
            mask = mask[:, : int(mask.sum(dim=1).max())]
            noise = self.noise[block, : mask.shape[1]]
            numbers = block.numpy()
            x[block, : mask.shape[1]] = self.generator.solve(
                noise, mask, self.cond[block], numbers, self.seed, chosen, torch.device("cpu")
            )
        ends: npt.NDArray[np.float32] = x[self.mask].numpy()
        return ends

    def clouds(self, ends: npt.NDArray[np.float32]) -> PointClouds:
        return self.generator.decode(ends, self.found, {})

    def relative_errors(self, ends: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> Floats:
        """|x - y| / |y| of all points of a jet together, shape (n,)."""
        starts = offsets_of(self.found.counts)[:-1]
        squares = [
            np.add.reduceat((part.astype(np.float64) ** 2).sum(axis=1), starts) for part in (ends - exact, exact)
        ]
        return np.sqrt(squares[0] / squares[1])


def distances(truth: PointClouds, sample: PointClouds) -> dict[str, float]:
    """W1 of each of :data:`OBSERVABLES`."""
    known = observables("jets")
    return {name: wasserstein(known[name].function(truth), known[name].function(sample)) for name in OBSERVABLES}


def compared(
    trajectories: Trajectories, sampling: Mapping[str, Any], exact: npt.NDArray[np.float32], truth: PointClouds
) -> dict[str, Any]:
    """Median relative error and distances of the ends by some sampler; None for both where it diverges.

    That is where the error is larger than what it is an error of; such jets may not even be finite.
    """
    ends = trajectories.ends(**sampling)
    error = float(np.median(trajectories.relative_errors(ends, exact)))
    if not error <= 1:
        return {"relative_error": None, "distances": None}
    return {"relative_error": error, "distances": distances(truth, trajectories.clouds(ends))}


def floors(truth: PointClouds, jets: int, draws: int) -> dict[str, list[float]]:
    """The same between two parts of the truth without a jet in common, each of so many jets; by draw.

    Raises:
        DataError: there are too few jets.
    """
    if len(truth) < 2 * jets:
        raise DataError(
            f"the truth has {len(truth):,} jets, expected at least {2 * jets:,}: two parts as large as the sample"
        )
    found: dict[str, list[float]] = {name: [] for name in OBSERVABLES}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(truth))
        for name, value in distances(truth[order[:jets]], truth[order[jets : 2 * jets]]).items():
            found[name].append(value)
    return found


def measure(
    generator: Generator,
    truth: PointClouds,
    extent: Extent,
    advance: Callable[[str], None] = lambda _: None,
    students: Mapping[str, Generator] = MappingProxyType({}),
) -> dict[str, Any]:
    """All samplers of one generator, and its students as they are: plain data.

    Grids that are not fitted yet are fitted to the generator in memory.

    Args:
        truth: jets to compare with, at least twice as many as are made.
        students: what was distilled from the generator, and begins from the same noise.
        advance: told what has just been measured.
    """
    own = floors(truth, extent.jets, extent.draws)
    steps = {count // method.each for method in METHODS.values() for count in extent.evaluations}
    generator.fit_grids(sorted(steps - set(generator.grids)))
    trajectories = Trajectories(generator, extent.jets, seed=1)
    exact = trajectories.ends(**FINE, steps=extent.fine)
    half = trajectories.ends(**FINE, steps=extent.fine // 2)
    advance("the fine solution")
    same = truth[: extent.jets]
    rows = []
    for name, method in METHODS.items():
        for grid in GRIDS:
            for count in extent.evaluations:
                chosen = {"sampler": method.sampler, "order": method.order, "steps": count // method.each, "grid": grid}
                about = {"method": name, "grid": grid, "asked": count, "evaluations": evaluations(generator, **chosen)}
                rows.append(about | compared(trajectories, chosen, exact, same))
                advance(f"{name}, {grid}, {count} evaluations")
    taught = []
    for name, student in students.items():
        own_way = Trajectories(student, extent.jets, seed=1, found=trajectories.found)
        if not torch.equal(own_way.cond, trajectories.cond):
            raise DataError(f"{name}: makes other jets of this noise, so it was not distilled from the generator")
        about = {"name": name, "evaluations": evaluations(student)}
        taught.append(about | compared(own_way, {}, exact, same))
        advance(name)
    return {
        "students": taught,
        "jets": extent.jets,
        "fine_steps": extent.fine,
        "fine_error": float(np.median(trajectories.relative_errors(half, exact))),
        "fine_distances": distances(same, trajectories.clouds(exact)),
        "floors": own,
        "rows": rows,
    }


def draw(name: str, found: Mapping[str, Any]) -> Figure:
    """One column of panels a grid, one row a measure; to be saved inside ``rc_context(STYLE)``."""
    known = observables("jets")
    labels = {
        "relative_error": "median relative error",
        **{name: f"W1 / floor\n{known[name].label}" for name in OBSERVABLES},
    }
    width, height, left, bottom, gap = 3.5, 2.5, 1.0, 0.65, 0.14
    across, up = left + len(GRIDS) * (width + gap), bottom + len(labels) * (height + gap)
    figure = page(across + 0.1, up + 1.05)
    for row, (measure_name, label) in enumerate(reversed(labels.items())):
        shared: Axes | None = None
        for column, grid in enumerate(GRIDS):
            axes = panel(
                figure, left + column * (width + gap), bottom + row * (height + gap), width, height, sharey=shared
            )
            shared = shared or axes
            _curves(axes, found, measure_name, grid)
            axes.tick_params(labelbottom=row == 0, labelleft=column == 0)
            if row == 0:
                axes.set_xlabel("evaluations of the net")
            if column == 0:
                axes.set_ylabel(label)
            if row == len(labels) - 1:
                axes.set_title(f"grid {grid}")
    handles, texts = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        texts,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=5,
        title=f"{name}, {found['jets']:,} jets",
    )
    return figure


def _curves(axes: Axes, found: Mapping[str, Any], name: str, grid: str) -> None:
    """All methods in one panel, where they do not diverge."""
    floors = np.asarray(found["floors"].get(name, [1.0]))
    for label, method in METHODS.items():
        rows = [
            row
            for row in found["rows"]
            if row["method"] == label and row["grid"] == grid and row["relative_error"] is not None
        ]
        y = [row["relative_error"] if name == "relative_error" else row["distances"][name] for row in rows]
        tone, place = method.look
        axes.plot(
            [row["evaluations"] for row in rows],
            np.asarray(y) / floors.mean(),
            color=colour(tone),
            marker=marker(place),
            linestyle=line(place),
            markersize=5,
            label=label,
        )
    axes.set(xscale="log", yscale="log")
    for place, row in enumerate(_students(found) if grid == "fitted" else ()):
        value = row["relative_error"] if name == "relative_error" else row["distances"][name] / floors.mean()
        axes.plot(row["evaluations"], value, color=colour(4 + place), marker="*", markersize=11, linestyle="")
        text = axes.annotate(
            row["name"], (row["evaluations"], value), (6, 6), textcoords="offset points", fontsize="small"
        )
        # The name stays legible where curves cross it.
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ticks = sorted({row["asked"] for row in found["rows"]} | {row["evaluations"] for row in _students(found)})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_minor_formatter(NullFormatter())
    if name == "relative_error":
        return
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    spread = floors.std(ddof=1) / floors.mean()
    axes.axhspan(1 - spread, 1 + spread, color=TRUTH, alpha=0.3, linewidth=0, label="truth against truth")
    fine = found["fine_distances"][name] / floors.mean()
    axes.axhline(fine, color=TRUTH, linestyle=":", label=f"unipc 3, {found['fine_steps']} steps")


def _students(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those whose jets resemble the fine solution at all."""
    return [row for row in found["students"] if row["relative_error"] is not None]


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Heading and lines: relative error in per cent / W1M in floors."""
    asked = sorted({row["asked"] for row in found["rows"]})
    floor = float(np.mean(found["floors"]["relative_mass"]))
    lines = [["sampler", "grid", *(f"{count} evaluations" for count in asked)]]
    for method in METHODS:
        for grid in GRIDS:
            rows = {r["asked"]: r for r in found["rows"] if r["method"] == method and r["grid"] == grid}
            lines.append([method, grid, *(_cell(rows[count], floor) for count in asked)])
    return lines


def _cell(row: Mapping[str, Any], floor: float) -> str:
    if row["relative_error"] is None:
        return "diverges"
    return f"{100 * row['relative_error']:.2g} % / {row['distances']['relative_mass'] / floor:.1f}"


def notes(found: Mapping[str, Any]) -> list[str]:
    """What must stand beside the numbers of one generator."""
    mean, spread = (float(f(found["floors"]["relative_mass"])) for f in (np.mean, lambda x: np.std(x, ddof=1)))
    fine = (
        f"Fine solution: unipc of order 3 in {found['fine_steps']} steps, W1M {found['fine_distances']['relative_mass'] / mean:.1f} floors; "
        f"half as many steps end {100 * found['fine_error']:.2g} % away."
    )
    taught = [
        f"{row['name']}, distilled from it, with {row['evaluations']} {'evaluation' if row['evaluations'] == 1 else 'evaluations'} of its own net: {_cell(row, mean)}."
        for row in found["students"]
    ]
    return [
        *taught,
        "In each cell: median relative error of the end of the trajectory / W1M in floors; Heun's method makes an even number of evaluations.",
        fine,
        f"Floor of W1M, {found['jets']:,} true jets against as many others: {1e3 * mean:.2f} ± {1e3 * spread:.2f} (10⁻³).",
    ]


def save(name: str, found: Mapping[str, Any], folder: Path) -> list[Path]:
    """The picture as PNG and as PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"evaluations_{name}{suffix}" for suffix in (".png", ".pdf")]
    with rc_context(STYLE):
        figure = draw(name, found)
        for path in paths:
            figure.savefig(path)
    return paths


def markdown(result: Mapping[str, Any]) -> str:
    """As in benchmarks/README.md."""
    parts = []
    for name, found in result["generators"].items():
        parts += [
            f"#### {name}",
            f"![Error and distance from the truth against the number of evaluations](../docs/images/evaluations_{name}.png)",
            markdown_table(table(found)),
            bullets(notes(found)),
        ]
    return "\n\n".join([*parts, bullets(described(result["conditions"]))])


def main() -> None:
    """Measure, print, draw, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "generators", nargs="*", help="runs, folders of generators, or names (default: all that come with pcdiff)"
    )
    parser.add_argument(
        "--truth", required=True, help="file of true jets that no training saw, twice as many as are made"
    )
    parser.add_argument("--students", nargs="+", default=[], help="generators that were distilled from the first one")
    parser.add_argument("--jets", type=int, help=f"made by each sampler (default: {FULL.jets:,})")
    parser.add_argument(
        "--quick", action="store_true", help="a few jets, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the pictures (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    extent = QUICK if chosen.quick else FULL
    if chosen.jets:
        extent = Extent(chosen.jets, extent.evaluations, extent.fine, extent.draws)
    at, out = conditions(), console()
    result: dict[str, Any] = {"conditions": at, "generators": {}}
    try:
        generators = load_all(chosen.generators)
        students = load_all(chosen.students) if chosen.students else {}
        truth = pcdiff.read(find(chosen.truth))
        with Progress(console=out) as progress:
            work = 1 + len(METHODS) * len(GRIDS) * len(extent.evaluations)
            for place, (name, generator) in enumerate(generators.items()):
                taught = {} if place else students
                bar = progress.add_task(name, total=work + len(taught))
                result["generators"][name] = measure(
                    generator,
                    truth,
                    extent,
                    lambda what, bar=bar: progress.update(bar, advance=1, description=what),
                    taught,
                )
    except PcdiffError as error:
        raise SystemExit(f"evaluations.py: {error}") from error
    for name, found in result["generators"].items():
        show(name, table(found), out)
        for note in notes(found):
            out.print(note, highlight=False)
        out.print(", ".join(map(str, save(name, found, chosen.figures))))
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, result)
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("evaluations.py", markdown(result))
        out.print(f"tables: {README}")


if __name__ == "__main__":
    main()
