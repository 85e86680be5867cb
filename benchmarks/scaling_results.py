"""What the numbers of scaling.py say: exponents, limits, tables and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from measuring import described
from scipy.stats import linregress
from tables import bullets, digits, markdown_table, spread_of

from pcdiff.evaluation.style import STYLE, TRUTH, colour, line, marker, page, panel

PADDED = "padded attention"
SHIPPED = "gluon30-teacher"
# Below, a cloud's share of what a batch costs whatever it holds is not small.
FROM = 100
# What the library is held to: the largest exponent of EPiC layers, and how many times as fast as padded attention the default net and the
# shipped one train on jets of up to 150 constituents.
LARGEST_EXPONENT = 1.1
LEAST_RATIO = 3.0
HELD = ("epic", f"that of {SHIPPED}")

KINDS = ("training", "sampling")
# And their units.
_MEASURES = {"time": "ms", "memory": "MB"}

Row = Mapping[str, Any]


def value(row: Row, kind: str, measure: str) -> float:
    """Milliseconds or megabytes for one cloud; of the rounds of a time the fastest, which other processes disturb least."""
    found = row[kind]
    if measure == "time":
        return float(found["milliseconds_per_cloud"]["low"])
    return float(found["megabytes"]) / float(found["clouds"])


def exponents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each net and each of training and sampling the power of the number of points by which time and memory of a cloud grow.

    The slope of a straight line through the logarithms, by least squares, over the sizes from 100 points on (over all if these are
    fewer than three), and its standard error from how the sizes scatter around it; and the slope between the two largest sizes
    alone, which is the one that goes on.
    """
    found = []
    for net in dict.fromkeys(row["net"] for row in rows):
        measured = [row for row in rows if row["net"] == net and "left_out" not in row]
        large = [row for row in measured if row["points"] >= FROM]
        used = large if len(large) > 2 else measured
        for kind in KINDS:
            entry: dict[str, Any] = {"net": net, "kind": kind, "points": [row["points"] for row in used]}
            x = np.log([float(row["points"]) for row in used])
            for measure in _MEASURES:
                y = np.log([value(row, kind, measure) for row in used])
                fit = linregress(x, y)
                entry[measure] = {
                    "exponent": float(fit.slope),
                    "error": float(fit.stderr),
                    "at_the_end": float((y[-1] - y[-2]) / (x[-1] - x[-2])),
                }
            found.append(entry)
    return found


def tables(result: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Heading and lines of each table by its title."""
    made: dict[str, list[list[str]]] = {}
    if "points" in result:
        part = result["points"]
        made["Exponents of the number of points"] = _exponents(part["exponents"])
        for kind in KINDS:
            made[f"{kind.capitalize()}, for one cloud"] = _sizes(part["rows"], kind)
    if "batches" in result:
        made["Training on jets of up to 150 constituents"] = _batches(result["batches"]["rows"])
    if "cores" in result:
        made["All cores against one"] = _cores(result["cores"]["rows"])
    return made


def _exponents(found: Sequence[Row]) -> list[list[str]]:
    lines = [["net", "", "points", "time", "at the end", "memory", "at the end"]]
    for entry in found:
        fits = [entry[measure] for measure in _MEASURES]
        cells = [f"{fit['exponent']:.2f} ± {fit['error']:.2f}|{fit['at_the_end']:.2f}" for fit in fits]
        span = f"{entry['points'][0]:,} to {entry['points'][-1]:,}"
        lines.append([entry["net"], entry["kind"], span, *"|".join(cells).split("|")])
    return lines


def _sizes(rows: Sequence[Row], kind: str) -> list[list[str]]:
    nets = list(dict.fromkeys(row["net"] for row in rows))
    lines = [["points", *nets]]
    for points in dict.fromkeys(row["points"] for row in rows):
        of_size = {row["net"]: row for row in rows if row["points"] == points}
        lines.append([f"{points:,}", *(_cell(of_size[net], kind) for net in nets)])
    return lines


def _cell(row: Row, kind: str) -> str:
    if "left_out" in row:
        return f"left out: {row['left_out']}"
    return " / ".join(f"{digits(value(row, kind, measure))} {unit}" for measure, unit in _MEASURES.items())


def _batches(rows: Sequence[Row]) -> list[list[str]]:
    lines = [["net", "width, layers", "jets/s", "padded", PADDED, "ratio to its padded self", f"ratio to {PADDED}"]]
    for row in rows:
        speeds = [spread_of(row["clouds_per_second"][kind]) for kind in ("similar", "padded", "reference")]
        ratios = [spread_of(row[name]) for name in ("ratio_of_batches", "ratio")]
        lines.append([row["net"], f"{row['hidden']}, {row['layers']}", *speeds, *ratios])
    return lines


def _cores(rows: Sequence[Row]) -> list[list[str]]:
    lines = [["points", "net", "threads", *KINDS]]
    for row in rows:
        lines.append(
            [f"{row['points']:,}", row["net"], str(row["threads"]), *(digits(row[kind]["ratio"]) for kind in KINDS)]
        )
    return lines


def notes(result: Mapping[str, Any]) -> list[str]:
    """What must stand beside the numbers, and whether the limits are met."""
    said = []
    if "points" in result:
        part = result["points"]
        epic = [entry for entry in part["exponents"] if entry["net"] == "epic"]
        worst = max(entry[measure]["exponent"] for entry in epic for measure in _MEASURES)
        said += [
            f"EPiC, largest of the four exponents: {worst:.2f}, limit {LARGEST_EXPONENT}: {_met(worst <= LARGEST_EXPONENT)}.",
            f"A size is left out where a step and an evaluation would take more than {part['most_seconds']:.0f} s or {part['most_megabytes']:,.0f} MB.",
        ]
    if "batches" in result:
        ratios = {row["net"]: row["ratio"]["median"] for row in result["batches"]["rows"]}
        said += [
            f"150 constituents, {net}: {ratios[net]:.1f} times as fast as {PADDED} of its width and depth, limit {LEAST_RATIO:.0f}: "
            f"{_met(ratios[net] >= LEAST_RATIO)}."
            for net in HELD
        ]
    for name, part in result.items():
        at = part["conditions"]
        said.append(f"{name.capitalize()}: {at['rounds']} rounds; {' '.join(described(at))}")
    return said


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def draw(result: Mapping[str, Any]) -> Figure:
    """Training and sampling side by side, time above memory; to be saved inside ``rc_context(STYLE)``."""
    width, height, left, bottom, gap = 3.6, 2.7, 1.0, 0.65, 0.14
    figure = page(left + 2 * (width + gap) + 0.1, bottom + 2 * (height + gap) + 0.75)
    for row, (measure, unit) in enumerate(reversed(_MEASURES.items())):
        shared: Axes | None = None
        for column, kind in enumerate(KINDS):
            place = left + column * (width + gap), bottom + row * (height + gap)
            axes = panel(figure, *place, width, height, sharey=shared)
            shared = shared or axes
            _curves(axes, result["points"]["rows"], kind, measure)
            axes.tick_params(labelbottom=row == 0, labelleft=column == 0)
            if row == 0:
                axes.set_xlabel("points of a cloud")
            else:
                axes.set_title({"training": "training step", "sampling": "evaluation in sampling"}[kind])
            if column == 0:
                axes.set_ylabel(f"{measure} of a cloud [{unit}]")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3)
    return figure


def _curves(axes: Axes, rows: Sequence[Row], kind: str, measure: str) -> None:
    """All nets in one panel, and a line that is proportional to the number of points."""
    measured = [row for row in rows if "left_out" not in row]
    for place, net in enumerate(dict.fromkeys(row["net"] for row in measured)):
        of_net = [row for row in measured if row["net"] == net]
        axes.plot(
            [row["points"] for row in of_net],
            [value(row, kind, measure) for row in of_net],
            color=colour(place),
            marker=marker(place),
            linestyle=line(place),
            markersize=5,
            label=net,
        )
    sizes = sorted({row["points"] for row in measured})
    last = max((row for row in measured if row["net"] == measured[0]["net"]), key=lambda row: row["points"])
    ends = np.array([sizes[0], sizes[-1]])
    axes.plot(
        ends,
        0.5 * value(last, kind, measure) * ends / last["points"],
        color=TRUTH,
        linestyle=":",
        label="proportional to points",
    )
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """The picture as PNG and as PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scaling{suffix}" for suffix in (".png", ".pdf")]
    with rc_context(STYLE):
        figure = draw(result)
        for path in paths:
            figure.savefig(path)
    return paths


def markdown(result: Mapping[str, Any]) -> str:
    """As in benchmarks/README.md."""
    picture = "![Time and memory of a cloud against its number of points](../docs/images/scaling.png)"
    parts = [picture] if "points" in result else []
    parts += [f"#### {title}\n\n{markdown_table(lines)}" for title, lines in tables(result).items()]
    return "\n\n".join([*parts, bullets(notes(result))])
