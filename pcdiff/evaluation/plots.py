"""Figures of observables: the truth, generated samples and, below, their ratio to the truth.

Figures are made without pyplot, so that nothing is left behind in a notebook or a long-running process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from pcdiff.physics import Measured, Observable

__all__ = ["bins", "figure", "histogram", "plane"]

# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers; markers differ as well.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "D", "v", "P", "X")
_TRUTH = "#4D4D4D"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.labelsize": 14,
    "legend.fontsize": 12,
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
_MOST_BINS = 40
_LEAST_ENTRIES = 25
# Points that a panel of a plane shows: more would run into one another.
_MOST_POINTS = 4000
_PANELS_IN_ROW = 3


def bins(observable: Observable, truth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bin edges that suit the truth, rising, shape (b + 1,).

    Bins of equal width (equal ratio where the observable asks for it, whole numbers where it is one) cover the central
    99 % of the truth by the Rice rule, 2 n^(1/3) bins but at most 40. They go on outside while there is truth, by half
    that range at most (by all of it where the axis is logarithmic). Thin bins are joined with the next one inwards
    until each holds at least 25 entries of the truth.

    Args:
        truth: shape (n,), at least one value.
    """
    if observable.integer:
        low, high = truth.min(), truth.max()
        width = np.ceil((high - low + 1) / _MOST_BINS)
        edges = np.arange(low, high + width + 1, width) - 0.5
    elif observable.log_x and (truth > 0).any():
        edges = np.exp(_even(np.log(truth[truth > 0]), reach=1.0))
    else:
        edges = _even(truth, reach=0.5)
    return _joined(edges, np.clip(truth, edges[0], edges[-1]))


def histogram(
    observable: Observable, measured: Measured, edges: npt.NDArray[np.float64]
) -> hist.Hist[hist.storage.Weight]:
    """The normalised distribution of an observable, with its statistical variance.

    Values are shares of all entries divided by bin width; what lies outside the edges is counted in the outermost bins.
    The variance treats whole clouds as independent, not their points: with n_cb entries of cloud c in bin b, and f_b the
    share of bin b of all N entries,

        var(f_b) = sum_c (n_cb - f_b n_c)^2 / N^2,

    which for one entry a cloud is the binomial f_b (1 - f_b) / N.

    Returns:
        A histogram with a variable axis and Weight storage.
    """
    values = np.clip(measured.values[observable.name], edges[0], edges[-1])
    owners = measured.owners(observable)
    size, count = len(values), len(edges) - 1
    where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, count - 1)
    cells, in_cell = np.unique(owners * count + where, return_counts=True)
    of_cloud = np.bincount(owners, minlength=len(measured))
    cell_bin, cell_cloud = cells % count, cells // count
    share = np.bincount(where, minlength=count) / size
    squares = np.bincount(cell_bin, in_cell**2, minlength=count)
    cross = np.bincount(cell_bin, in_cell * of_cloud[cell_cloud], minlength=count)
    variance = np.maximum(squares - 2 * share * cross + share**2 * np.sum(of_cloud**2), 0.0) / size**2

    result = hist.Hist(hist.axis.Variable(edges, label=observable.label, flow=False), storage=hist.storage.Weight())
    view: Any = result.view()
    width = np.diff(edges)
    view.value, view.variance = share / width, variance / width**2
    return result


def figure(observable: Observable, truth: Measured, samples: Mapping[str, Measured]) -> Figure:
    """One observable of the truth and of generated samples, with the ratio to the truth below.

    Bands and bars are one standard deviation of statistical error: the band that of the truth, the bars those of the
    samples. A ratio off the scale is an arrow at its edge.

    Args:
        samples: name in the legend -> observables; those that lack this observable are left out.
    """
    edges = bins(observable, truth.values[observable.name])
    true = histogram(observable, truth, edges)
    drawn = {
        f"{name} ({len(sample):,} {truth.kind})": histogram(observable, sample, edges)
        for name, sample in samples.items()
        if observable.name in sample.values
    }
    ratios = [_ratio(sample, true) for sample in drawn.values()]
    with mpl.rc_context(_STYLE):
        page = Figure(figsize=(6.4, 6.0), dpi=160, layout="constrained")
        FigureCanvasAgg(page)
        main, below = page.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        _draw_truth(main, below, true, f"truth ({len(truth):,} {truth.kind})")
        limit = _ratio_limit(true, ratios)
        for place, (label, sample) in enumerate(drawn.items()):
            centres = _places(observable, edges, (place + 1) / (len(drawn) + 1))
            style = {
                "color": _COLOURS[place % len(_COLOURS)],
                "marker": _MARKERS[place % len(_MARKERS)],
                "markersize": 4,
                "linestyle": "none",
                "elinewidth": 1.2,
            }
            shown = sample.values() > 0
            main.errorbar(
                centres[shown],
                sample.values()[shown],
                np.sqrt(sample.variances()[shown]),
                label=_plain(label),
                **style,
            )
            _draw_ratio(below, centres, *ratios[place], limit, style)
        _finish(main, below, observable, [true, *drawn.values()], limit)
    return page


def plane(first: Observable, second: Observable, truth: Measured, samples: Mapping[str, Measured]) -> Figure:
    """Two observables against each other, point by point: the truth beside each generated sample.

    Each panel shows the same number of points, the first ones of its set, so that equal densities look alike. The frame is
    that of the truth; a point outside stands at its edge.

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
    colours = [_TRUTH, *(_COLOURS[place % len(_COLOURS)] for place in range(len(drawn) - 1))]
    columns = min(len(drawn), _PANELS_IN_ROW)
    rows = -(-len(drawn) // columns)
    (left, right), (bottom, top) = frame
    height = float(np.clip((top - bottom) / (right - left), 0.3, 3.0))
    with mpl.rc_context(_STYLE):
        page = Figure(figsize=(4.6 * columns, (4.1 * height + 0.9) * rows), dpi=160, layout="compressed")
        FigureCanvasAgg(page)
        panels = list(page.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes, (name, measured), colour in zip(panels, drawn.items(), colours, strict=False):
            x, y = (np.clip(measured.values[o.name][:shown], *f) for o, f in zip(pair, frame, strict=True))
            axes.plot(x, y, ".", color=colour, markersize=2.6, alpha=0.7, markeredgewidth=0, rasterized=True)
            axes.set_title(_plain(f"{name} ({shown:,} {truth.kind})"), fontsize=12)
            axes.set(xlim=frame[0], ylim=frame[1], aspect="equal")
            axes.set_xlabel(_axis_label(first))
        for axes in panels[len(drawn) :]:
            axes.remove()
        for axes in panels[::columns]:
            axes.set_ylabel(_axis_label(second))
    return page


def _frame(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The range of the values with a tenth of it added on either side."""
    low, high = float(values.min()), float(values.max())
    margin = 0.1 * (high - low) or 0.5
    return low - margin, high + margin


def _axis_label(observable: Observable) -> str:
    return observable.label + (f" [{observable.unit}]" if observable.unit else "")


def _even(values: npt.NDArray[np.float64], reach: float) -> npt.NDArray[np.float64]:
    """Edges of equal width over the central 99 % of the values, and by at most ``reach`` of that beyond."""
    low, high = np.quantile(values, (0.005, 0.995))
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    count = int(np.clip(np.ceil(2 * len(values) ** (1 / 3)), 5, _MOST_BINS))
    width = (high - low) / count
    before = min(int(np.ceil((low - values.min()) / width)), int(reach * count))
    after = min(int(np.ceil((values.max() - high) / width)), int(reach * count))
    return np.asarray(low + width * np.arange(-before, count + after + 1), np.float64)


def _joined(edges: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Fewer bins: neighbours joined, from either end towards the fullest bin, until each holds enough of the values."""
    counts = np.histogram(values, edges)[0]
    peak = int(np.argmax(counts))
    left = _filled(edges[: peak + 1], counts[:peak])
    right = _filled(edges[:peak:-1], counts[:peak:-1])
    return np.array([*left, *reversed(right)])


def _filled(edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> list[float]:
    """The first edge, and each further one once enough entries lie between it and the one kept before."""
    kept, entries = [float(edges[0])], 0
    for edge, count in zip(edges[1:], counts, strict=True):
        entries += count
        if entries >= _LEAST_ENTRIES:
            kept.append(float(edge))
            entries = 0
    # What is left over goes to the bin before, not to the fullest one, where it would be lost to sight.
    return [*kept[:-1], float(edges[-1])] if entries and len(kept) > 1 else kept


def _ratio(
    sample: hist.Hist[hist.storage.Weight], true: hist.Hist[hist.storage.Weight]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Ratio to the truth and its error from the sample alone; not a number where the truth has no entry."""
    size = sample.values().shape
    ratio, error = np.full(size, np.nan), np.full(size, np.nan)
    np.divide(sample.values(), true.values(), out=ratio, where=true.values() > 0)
    np.divide(np.sqrt(sample.variances()), true.values(), out=error, where=true.values() > 0)
    return ratio, error


def _ratio_limit(
    true: hist.Hist[hist.storage.Weight], ratios: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
) -> float:
    """Half the height of the ratio panel: the smallest of a few that shows nine in ten of all ratios and errors."""
    _, band = _ratio(true, true)
    reach = np.concatenate([band, *(np.abs(ratio - 1) for ratio, _ in ratios)])
    wanted = float(np.nanquantile(reach, 0.9))
    return next((limit for limit in (0.1, 0.2, 0.5) if 1.2 * wanted <= limit), 1.0)


def _draw_truth(main: Axes, below: Axes, true: hist.Hist[hist.storage.Weight], label: str) -> None:
    edges, error = true.axes[0].edges, np.sqrt(true.variances())
    mplhep.histplot(true, ax=main, histtype="fill", yerr=False, color=_TRUTH, alpha=0.25, label=label)
    mplhep.histplot(true, ax=main, histtype="step", yerr=False, color=_TRUTH, linewidth=1.0)
    band: dict[str, Any] = {"color": _TRUTH, "alpha": 0.45, "linewidth": 0}
    main.stairs(true.values() + error, edges, baseline=true.values() - error, fill=True, **band)
    ratio, ratio_error = _ratio(true, true)
    below.stairs(ratio + ratio_error, edges, baseline=ratio - ratio_error, fill=True, **{**band, "alpha": 0.25})
    below.axhline(1.0, color=_TRUTH, linewidth=1.0)


def _places(observable: Observable, edges: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """Where markers stand: at this share of each bin's drawn width, so that samples do not hide each other."""
    low, high = edges[:-1], edges[1:]
    return low * (high / low) ** share if observable.log_x else low + (high - low) * share


def _draw_ratio(
    below: Axes,
    centres: npt.NDArray[np.float64],
    ratio: npt.NDArray[np.float64],
    error: npt.NDArray[np.float64],
    limit: float,
    style: Mapping[str, Any],
) -> None:
    inside = (ratio > 1 - limit) & (ratio <= 1 + limit)
    below.errorbar(centres[inside], ratio[inside], error[inside], **style)
    for marker, outside, at in (
        ("^", ratio > 1 + limit, 1 + 0.93 * limit),
        ("v", ratio <= 1 - limit, 1 - 0.93 * limit),
    ):
        below.plot(centres[outside], np.full(outside.sum(), at), marker, color=style["color"], markersize=5)


def _finish(
    main: Axes, below: Axes, observable: Observable, drawn: Sequence[hist.Hist[hist.storage.Weight]], limit: float
) -> None:
    edges = drawn[0].axes[0].edges
    heights = np.concatenate([each.values() + np.sqrt(each.variances()) for each in drawn])
    if observable.log_x:
        below.set_xscale("log")
    elif observable.integer:
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.xaxis.set_minor_locator(NullLocator())
    main.legend(loc="upper right")
    # The legend takes the top of the panel; the highest bin stays below it.
    free = 1 - 0.05 - 0.08 * len(main.get_legend_handles_labels()[0])
    low, high = heights[heights > 0].min(), heights.max()
    if observable.log_y:
        main.set_yscale("log")
        main.set_ylim(0.3 * low, 0.3 * low * (high / (0.3 * low)) ** (1 / free))
    else:
        main.set_ylim(0, high / free)
    below.set_xlim(edges[0], edges[-1])
    below.set_ylim(1 - limit, 1 + limit)
    unit = observable.unit
    below.set_xlabel(_axis_label(observable))
    below.set_ylabel("ratio to truth")
    density = "probability" if observable.integer else "probability density"
    main.set_ylabel(density + (f" [{unit}$^{{-1}}$]" if unit else ""))
    main.set_xlabel("")
    main.figure.align_ylabels()


def _plain(text: str) -> str:
    """Text that matplotlib neither reads as mathematics nor, for a leading underscore, hides from the legend."""
    return text.replace("$", r"\$").lstrip("_")
