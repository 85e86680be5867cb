"""Figures in two variables: maps of a profile with the pull of each bin, and points in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from pcdiff.evaluation.binning import Binned, comparable
from pcdiff.evaluation.style import STYLE, TRUTH, axis_label, colour, named, page, panel
from pcdiff.physics import Measured, Observable, Profile

__all__ = ["map_figure", "plane", "pulls"]

Floats = npt.NDArray[np.float64]

_LARGEST_PULL = 5.0
_GREY = "#BDBDBD"
# Inches: side of a map, from one map to the next, from one row to the next, and the margins.
_SIDE, _STEP, _ROW, _LEFT, _BOTTOM = 2.7, 2.95, 3.9, 0.85, 0.6
# Points that a panel of a plane shows: more would run into one another.
_MOST_POINTS = 4000
_PANELS_IN_ROW = 3


def pulls(truth: Binned, sample: Binned) -> Floats:
    """(f_b - g_b) / sqrt(var f_b + var g_b) of sample and truth; not a number where fewer than 25 clouds of either fill the bin.

    Returns:
        Shape (b,).
    """
    variance = truth.variance + sample.variance
    found = np.full(len(variance), np.nan)
    np.divide(sample.mean - truth.mean, np.sqrt(variance), out=found, where=comparable(truth, sample))
    return found


def map_figure(profile: Profile, label: str, truth: Binned, samples: Mapping[str, Binned]) -> Figure:
    """A profile in two variables: the truth and each sample on one colour scale, and the pull of each bin of each sample.

    With one sample the three maps stand in a row, with several the pulls below their samples. Bins that no cloud fills are
    white, pulls of bins that fewer than 25 clouds fill are grey, and pulls beyond 5 have the colour of 5.

    Args:
        label: of the truth.
        samples: by their label.
    """
    maps = {label: truth.mean} | {name: sample.mean for name, sample in samples.items()}
    scale = _scale(np.concatenate(list(maps.values())), log=profile.log_y)
    row, together = len(maps), len(samples) == 1
    first_pull, rows = (row + 0.45, 1) if together else (1.0, 2 if samples else 1)
    columns = row + (len(samples) + 0.45 if together else 0)
    with mpl.rc_context(STYLE):
        sheet = page(_LEFT + columns * _STEP + 0.85, 0.1 + rows * _ROW)
        top = (rows - 1) * _ROW + _BOTTOM
        for column, (name, contents) in enumerate(maps.items()):
            axes = panel(sheet, _LEFT + column * _STEP, top, _SIDE, _SIDE)
            drawn = _draw_map(axes, profile, np.where(contents > 0, contents, np.nan), cmap="viridis", norm=scale)
            _label(axes, profile, _in_lines(name), first=column == 0)
        _colour_bar(sheet, drawn, _LEFT + row * _STEP, top, label=profile.content)
        limits = Normalize(-_LARGEST_PULL, _LARGEST_PULL)
        for column, (name, sample) in enumerate(samples.items()):
            axes = panel(sheet, _LEFT + (first_pull + column) * _STEP, _BOTTOM, _SIDE, _SIDE, facecolor=_GREY)
            drawn = _draw_map(axes, profile, pulls(truth, sample), cmap="RdBu_r", norm=limits)
            _label(axes, profile, f"pull of {name.rpartition(' (')[0]}", first=column == 0 and not together)
        if samples:
            right = _LEFT + (first_pull + len(samples)) * _STEP
            _colour_bar(sheet, drawn, right, _BOTTOM, label="(sample $-$ truth) / error", extend="both")
    return sheet


def _label(axes: Axes, profile: Profile, title: str, *, first: bool) -> None:
    axes.set_title(title)
    axes.set_xlabel(profile.labels[0])
    if first:
        axes.set_ylabel(profile.labels[1])
    else:
        axes.tick_params(labelleft=False)


def _colour_bar(sheet: Figure, drawn: Any, left: float, bottom: float, **options: Any) -> None:
    sheet.colorbar(drawn, cax=panel(sheet, left, bottom, 0.14, _SIDE), **options)


def _scale(contents: Floats, *, log: bool) -> Normalize:
    """One colour scale for all maps."""
    filled = contents[contents > 0]
    if not len(filled):
        return Normalize(0.0, 1.0)
    high = float(filled.max())
    if not log:
        return Normalize(0.0, high)
    # The emptiest bins, of one cloud each, would use up most of the colours.
    low = float(np.quantile(filled, 0.02))
    return LogNorm(np.clip(low, 1e-5 * high, 0.5 * high), high)


def _draw_map(axes: Axes, profile: Profile, contents: Floats, **colours: Any) -> Any:
    across, up = profile.edges
    if profile.log_x:
        axes.set_xscale("log")
    # The second variable runs fastest; rows of the mesh are those of the vertical axis.
    mesh = contents.reshape(len(across) - 1, len(up) - 1).T
    return axes.pcolormesh(across, up, mesh, rasterized=True, **colours)


def _in_lines(label: str) -> str:
    """The size of a set below its name."""
    name, _, size = label.rpartition(" (")
    return f"{name}\n({size}"


def plane(first: Observable, second: Observable, truth: Measured, samples: Mapping[str, Measured]) -> Figure:
    """Two observables against each other, point by point: the truth beside each generated sample.

    Each panel shows the same number of points, the first ones of its set, so that equal densities look alike; with weights
    their areas are as the weights. The frame is that of the truth; a point outside stands at its edge.

    Args:
        first, second: of the same level.
        samples: name in the title -> observables; those that lack one of the two are left out.
    """
    pair = (first, second)
    drawn = {"truth": truth} | {
        name: sample for name, sample in samples.items() if all(each.name in sample.values for each in pair)
    }
    shown = min(_MOST_POINTS, *(len(measured.values[first.name]) for measured in drawn.values()))
    frame = [_frame(truth.values[each.name]) for each in pair]
    columns = min(len(drawn), _PANELS_IN_ROW)
    rows = -(-len(drawn) // columns)
    (left, right), (bottom, top) = frame
    height = float(np.clip((top - bottom) / (right - left), 0.3, 3.0))
    with mpl.rc_context(STYLE):
        sheet = page(_LEFT + 4.0 * columns, (3.8 * height + 1.2) * rows)
        for place, (name, measured) in enumerate(drawn.items()):
            row, column = divmod(place, columns)
            bottom = _BOTTOM + (3.8 * height + 1.2) * (rows - 1 - row)
            axes = panel(sheet, _LEFT + 4.0 * column, bottom, 3.8, 3.8 * height)
            x, y = (np.clip(measured.values[o.name][:shown], *f) for o, f in zip(pair, frame, strict=True))
            weights = np.ones(len(measured)) if measured.weights is None else measured.weights
            areas = 3.0 * weights[measured.owners(first)[:shown]]
            shade = TRUTH if place == 0 else colour(place - 1)
            axes.scatter(x, y, s=areas, color=shade, alpha=0.7, linewidths=0, rasterized=True)
            axes.set_title(f"{_in_lines(named(name, measured))}, {shown:,} points shown")
            axes.set(xlim=frame[0], ylim=frame[1], aspect="equal")
            axes.set_xlabel(axis_label(first.label, first.unit))
            if column == 0:
                axes.set_ylabel(axis_label(second.label, second.unit))
            else:
                axes.tick_params(labelleft=False)
    return sheet


def _frame(values: Floats) -> tuple[float, float]:
    """The range of the values with a tenth of it added on either side."""
    low, high = float(values.min()), float(values.max())
    margin = 0.1 * (high - low) or 0.5
    return low - margin, high + margin
