"""How all figures look: colours, markers, fonts, and how sets of clouds are named in legends.

Figures are made without pyplot, so that nothing is left behind in a notebook or a long-running process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from pcdiff.physics import Measured, noun

__all__ = [
    "LEGEND_LINE",
    "STYLE",
    "TRUTH",
    "axis_label",
    "colour",
    "legend_above",
    "legend_rows",
    "line",
    "marker",
    "named",
    "page",
    "panel",
    "plain",
]

# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers; markers differ as well.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
TRUTH = "#4D4D4D"
DPI = 130
LEGEND_LINE = 0.24
"""Height of one line of a legend in inches."""
# Characters of the longest label that fits into half the width of a figure.
_LONG = 24
# Longer names are cut.
_LONGEST = 60
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.labelsize": 13,
    "axes.titlesize": 12,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
}


def page(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, that can be drawn and saved; to be used inside ``rc_context(STYLE)``."""
    # Panels are placed by hand. Without a layout of its own a figure takes up the one of the user's settings when it is saved.
    figure = Figure(figsize=(width, height), dpi=DPI, layout=PlaceHolderLayoutEngine(True, True))
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Axes at a place in inches from the lower left corner.

    A layout that is fixed makes the panels of all figures equally large, and costs none of the time of one that is found.
    """
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), **options)


def colour(place: int) -> str:
    """That of the sample at this place."""
    return _COLOURS[place % len(_COLOURS)]


def marker(place: int) -> str:
    """That of the sample at this place."""
    return _MARKERS[place % len(_MARKERS)]


def line(place: int) -> str:
    """The line style of the sample at this place."""
    return _LINES[place % len(_LINES)]


def named(name: str, measured: Measured) -> str:
    """A set in a legend: its name and size, and with weights the number of clouds of equal weight that tell as much."""
    effective = "" if measured.weights is None else f", effective {measured.effective_size:,.0f}"
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return plain(f"{name} ({len(measured):,} {noun(measured.kind)}{effective})")


def plain(text: str) -> str:
    """Text that matplotlib neither reads as mathematics nor, for a leading underscore, hides from the legend."""
    return text.replace("$", r"\$").lstrip("_")


def axis_label(label: str, unit: str) -> str:
    """A label with its unit."""
    return f"{label} [{unit}]" if unit else label


def legend_rows(labels: Sequence[str]) -> int:
    """Number of lines of the legend that :func:`legend_above` draws."""
    return -(-len(labels) // _columns(labels))


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where no data are: two entries a line unless one is long."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0, 1.0, 0.1),
        mode="expand" if _columns(labels) > 1 and len(labels) > 1 else None,
        ncols=_columns(labels),
        borderaxespad=0.3,
        handlelength=1.6,
        labelspacing=0.35,
    )


def _columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels)) <= _LONG else 1
