"""Figures of observables and profiles: the truth, generated samples and, below, their ratio to the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from pcdiff.evaluation.binning import Binned, bins
from pcdiff.evaluation.maps import map_figure
from pcdiff.evaluation.style import (
    LEGEND_LINE,
    STYLE,
    TRUTH,
    axis_label,
    colour,
    legend_above,
    legend_rows,
    line,
    marker,
    named,
    page,
    panel,
)
from pcdiff.physics import Measured, Observable, Profile

__all__ = ["figure", "histogram", "profile_figure"]

Floats = npt.NDArray[np.float64]
Histogram = hist.Hist[hist.storage.Weight]

# Half the height of the ratio panel is one of these.
_LIMITS = (0.1, 0.2, 0.5, 1.0)
# A logarithmic axis across that is shorter than this ratio has numbers at 1, 2 and 5 of each decade.
_SHORT = 100.0
# Errors from which on something that may be negative is told from 0.
_TOLD_FROM_ZERO = 2.0
# A logarithmic axis shows contents down to the truth's lowest bin, but not below this fraction of the highest.
_DECADES = 1e7


@dataclass(frozen=True)
class _Axes:
    """The words and scales of a figure."""

    across: str
    up: str
    log_x: bool
    log_y: bool
    integer: bool = False
    categories: tuple[str, ...] = ()
    signed: bool = False


def figure(observable: Observable, truth: Measured, samples: Mapping[str, Measured]) -> Figure:
    """One observable of the truth and of generated samples, with the ratio to the truth below.

    Values are shares of all entries divided by bin width. Bands and bars are one standard deviation of statistical error
    with whole clouds independent (see :class:`~pcdiff.evaluation.binning.Binned`): the band that of the truth, the bars
    those of the samples. A ratio off the scale is an arrow at its edge.

    Args:
        samples: name in the legend -> observables; those that lack this observable are left out.
    """
    edges = bins(observable, truth.values[observable.name])

    def drawn(measured: Measured) -> Histogram:
        return histogram(Binned.of_observable(observable, measured, edges), edges, density=True)

    density = "probability" if observable.integer else "probability density"
    words = _Axes(
        axis_label(observable.label, observable.unit),
        axis_label(density, _inverse(observable.unit)),
        observable.log_x,
        observable.log_y,
        observable.integer,
    )
    found = {named(name, sample): drawn(sample) for name, sample in samples.items() if observable.name in sample.values}
    return _with_ratio(words, named("truth", truth), drawn(truth), found)


def profile_figure(profile: Profile, truth: Measured, samples: Mapping[str, Measured]) -> Figure:
    """One profile of the truth and of generated samples.

    In one variable as :func:`figure`, with means over clouds, and without the bins at either end that no cloud fills; in two as maps side
    by side, and below or beside them maps of the pulls of each bin. Of what may be negative there is no ratio where the truth is within
    two of its errors of 0.

    Args:
        samples: name in the legend -> observables; those that lack this profile are left out.
    """
    binned = {
        named(name, sample): Binned.of_profile(profile.name, sample)
        for name, sample in samples.items()
        if profile.name in sample.profiles
    }
    true = Binned.of_profile(profile.name, truth)
    if len(profile.edges) == 2:
        return map_figure(profile, named("truth", truth), true, binned)
    (edges,), (label,) = profile.edges, profile.labels
    words = _Axes(
        label,
        profile.content,
        profile.log_x,
        profile.log_y,
        categories=profile.categories,
        signed=not profile.distribution,
    )
    drawn = slice(0, len(edges) - 1) if profile.categories else _used([true, *binned.values()])
    edges = edges[drawn.start : drawn.stop + 1]
    found = {name: histogram(sample.part(drawn), edges) for name, sample in binned.items()}
    return _with_ratio(words, named("truth", truth), histogram(true.part(drawn), edges), found)


def _used(sets: Sequence[Binned]) -> slice:
    """The bins from the first to the last that any cloud fills; all where there is none."""
    filled = np.flatnonzero(np.sum([each.filled for each in sets], axis=0))
    return slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, sets[0].contents.shape[1])


def _inverse(unit: str) -> str:
    """That of a density."""
    if not unit:
        return ""
    return f"({unit})$^{{-1}}$" if "/" in unit else f"{unit}$^{{-1}}$"


def histogram(binned: Binned, edges: Floats, *, density: bool = False) -> Histogram:
    """The contents of bins with their statistical variance.

    Args:
        binned: b bins.
        edges: shape (b + 1,).
        density: divide the contents by the widths of the bins.

    Returns:
        A histogram with a variable axis and Weight storage.
    """
    result = hist.Hist(hist.axis.Variable(edges, flow=False), storage=hist.storage.Weight())
    view: Any = result.view()
    width = np.diff(edges) if density else np.ones(len(edges) - 1)
    view.value, view.variance = binned.mean / width, binned.variance / width**2
    return result


def _with_ratio(words: _Axes, truth: str, true: Histogram, samples: Mapping[str, Histogram]) -> Figure:
    """Two panels: contents, and their ratio to the truth."""
    ratios = [_ratio(sample, true, signed=words.signed) for sample in samples.values()]
    limit = _ratio_limit(true, ratios, signed=words.signed)
    above = LEGEND_LINE * legend_rows([truth, *samples]) + 0.1
    with mpl.rc_context(STYLE):
        sheet = page(6.3, 5.4 + above)
        main = panel(sheet, 0.95, 2.0, 5.05, 3.4)
        below = panel(sheet, 0.95, 0.62, 5.05, 1.3, sharex=main)
        _draw_truth(main, below, true, truth, signed=words.signed)
        for place, ((label, sample), ratio) in enumerate(zip(samples.items(), ratios, strict=True)):
            _draw_sample(main, below, sample, ratio, label, words, limit, (place, len(samples)))
        _finish(main, below, words, [true, *samples.values()], limit)
    return sheet


def _draw_sample(
    main: Axes,
    below: Axes,
    sample: Histogram,
    ratio: tuple[Floats, Floats],
    label: str,
    words: _Axes,
    limit: float,
    place: tuple[int, int],
) -> None:
    """One of several samples: points with errors, and a step line through them where there are more than two samples."""
    number, several = place
    edges = sample.axes[0].edges
    centres = _places(edges, (number + 1) / (several + 1), log=words.log_x and edges[0] > 0)
    crowded = several > 2
    bars: dict[str, Any] = {
        "color": colour(number),
        "marker": marker(number),
        "markersize": 2.5 if crowded else 4,
        "linestyle": "none",
        "elinewidth": 0.7 if crowded else 1.2,
    }
    shown = sample.variances() > 0 if words.signed and not words.log_y else sample.values() > 0
    main.errorbar(centres[shown], sample.values()[shown], np.sqrt(sample.variances()[shown]), label=label, **bars)
    if crowded:
        steps: dict[str, Any] = {"color": colour(number), "linestyle": line(number), "linewidth": 1.1, "baseline": None}
        main.stairs(sample.values(), edges, **steps)
        below.stairs(ratio[0], edges, **steps)
    _draw_ratio(below, centres, *ratio, limit, bars)


def _ratio(sample: Histogram, true: Histogram, *, signed: bool) -> tuple[Floats, Floats]:
    """Ratio to the truth and its error from the sample alone.

    Not a number where the truth has no entry or, of what may be negative, cannot be told from 0.
    """
    size = sample.values().shape
    ratio, error = np.full(size, np.nan), np.full(size, np.nan)
    known = np.abs(true.values()) > (_TOLD_FROM_ZERO * np.sqrt(true.variances()) if signed else 0)
    # Where a single cloud says what there is, nothing is known of its error.
    known &= (true.variances() > 0) | (not signed)
    np.divide(sample.values(), true.values(), out=ratio, where=known)
    np.divide(np.sqrt(sample.variances()), np.abs(true.values()), out=error, where=known)
    return ratio, error


def _ratio_limit(true: Histogram, ratios: list[tuple[Floats, Floats]], *, signed: bool) -> float:
    """Half the height of the ratio panel: the smallest of a few that shows nine in ten of all ratios and errors."""
    _, band = _ratio(true, true, signed=signed)
    reach = np.concatenate([band, *(np.abs(ratio - 1) for ratio, _ in ratios)])
    reach = reach[np.isfinite(reach)]
    wanted = float(np.quantile(reach, 0.9)) if len(reach) else 0.0
    return next((limit for limit in _LIMITS if 1.2 * wanted <= limit), _LIMITS[-1])


def _draw_truth(main: Axes, below: Axes, true: Histogram, label: str, *, signed: bool) -> None:
    edges, error = true.axes[0].edges, np.sqrt(true.variances())
    mplhep.histplot(true, ax=main, histtype="fill", yerr=False, color=TRUTH, alpha=0.25, label=label)
    mplhep.histplot(true, ax=main, histtype="step", yerr=False, color=TRUTH, linewidth=1.0)
    band: dict[str, Any] = {"color": TRUTH, "alpha": 0.45, "linewidth": 0}
    main.stairs(true.values() + error, edges, baseline=true.values() - error, fill=True, **band)
    ratio, ratio_error = _ratio(true, true, signed=signed)
    below.stairs(ratio + ratio_error, edges, baseline=ratio - ratio_error, fill=True, **{**band, "alpha": 0.25})
    below.axhline(1.0, color=TRUTH, linewidth=1.0)


def _places(edges: Floats, share: float, *, log: bool) -> Floats:
    """Where markers stand: at this share of each bin's drawn width, so that samples do not hide each other."""
    low, high = edges[:-1], edges[1:]
    return low * (high / low) ** share if log else low + (high - low) * share


def _draw_ratio(
    below: Axes, centres: Floats, ratio: Floats, error: Floats, limit: float, style: Mapping[str, Any]
) -> None:
    inside = (ratio > 1 - limit) & (ratio <= 1 + limit)
    below.errorbar(centres[inside], ratio[inside], error[inside], **style)
    for arrow, outside, at in (
        ("^", ratio > 1 + limit, 1 + 0.93 * limit),
        ("v", ratio <= 1 - limit, 1 - 0.93 * limit),
    ):
        below.plot(centres[outside], np.full(outside.sum(), at), arrow, color=style["color"], markersize=5)


def _finish(main: Axes, below: Axes, words: _Axes, drawn: Sequence[Histogram], limit: float) -> None:
    edges = drawn[0].axes[0].edges
    if words.log_x and edges[0] > 0:
        below.set_xscale("log")
        if edges[-1] < _SHORT * edges[0]:
            below.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            below.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            below.xaxis.set_minor_formatter(NullFormatter())
    elif words.integer:
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.xaxis.set_minor_locator(NullLocator())
    elif words.categories:
        below.set_xticks((edges[1:] + edges[:-1]) / 2, words.categories, fontsize="x-small")
        below.xaxis.set_minor_locator(NullLocator())
    below.set_xlim(edges[0], edges[-1])
    below.set_ylim(1 - limit, 1 + limit)
    below.set_yticks([1 - limit / 2, 1.0, 1 + limit / 2])
    below.set_xlabel(words.across)
    below.set_ylabel("ratio to truth")
    main.set_ylabel(words.up)
    main.set_xlabel("")
    main.tick_params(labelbottom=False)
    for axes in (main, below):
        axes.yaxis.set_label_coords(-0.135, 0.5)
    heights = np.concatenate([each.values() + np.sqrt(each.variances()) for each in drawn])
    if words.log_y:
        main.set_yscale("log")
        true, highest = drawn[0].values(), heights.max()
        main.set_ylim(max(0.3 * true[true > 0].min(), highest / _DECADES), 2.0 * highest)
    else:
        depths = np.concatenate([each.values() - np.sqrt(each.variances()) for each in drawn])
        low, high = (min(0.0, depths.min()), max(0.0, heights.max())) if words.signed else (0.0, heights.max())
        main.set_ylim(low - (0.08 * (high - low) if low < 0 else 0.0), high + 0.08 * (high - low))
        if low < 0:
            main.axhline(0.0, color="black", linewidth=0.8)
    legend_above(main)
