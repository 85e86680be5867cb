"""Figures of an evaluation as a whole: what gives samples away, and what classifiers found."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from sklearn.metrics import roc_curve

from pcdiff.evaluation.calibration import reliability
from pcdiff.evaluation.result import SampleResult
from pcdiff.evaluation.style import (
    LEGEND_LINE,
    STYLE,
    TRUTH,
    colour,
    legend_above,
    legend_rows,
    line,
    marker,
    named,
    page,
    panel,
    plain,
)
from pcdiff.physics import Measured

if TYPE_CHECKING:
    from pcdiff.evaluation.classifier import ClassifierTest

__all__ = ["classifier_figure", "largest_pulls", "ranking_figure"]

Floats = npt.NDArray[np.float64]

_MOST_BARS = 15
_MOST_IMPORTANT = 10
# Inches for the words beside bars, the bars, one bar, and the space between groups of bars.
_WORDS, _BARS, _BAR, _GAP = 3.2, 4.6, 0.1, 0.15
# Points of their size, and characters that fit into a line.
_WORD_SIZE, _WORD_LINE = 11, 36
_SIDE = 3.0
# Where a symmetric logarithmic axis has ticks, those that are on it.
_TICKS = [start * 10**power for power in range(6) for start in (1, 2, 5)]
# Beyond this many thresholds the worst pull would press the others flat on a linear axis.
_SPREAD = 8.0


def largest_pulls(sample: SampleResult) -> dict[str, float]:
    """The largest pull of the metrics of each observable and profile, the worst first; infinity where a metric has none."""
    found: dict[str, float] = {}
    for metric in sample.metrics:
        if metric.about:
            pull = np.inf if metric.pull is None else metric.pull
            found[metric.about] = max(found.get(metric.about, -np.inf), pull)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def ranking_figure(samples: Sequence[SampleResult], titles: Mapping[str, str]) -> Figure:
    """What gives the samples away: the largest pull of each observable, the worst first, beside the threshold.

    The axis is linear up to the threshold and logarithmic beyond where pulls are many times it. A bar with an arrow goes on
    beyond the axis.

    Args:
        samples: at least one metric of any observable.
        titles: of the observables, by name.
    """
    pulls = [largest_pulls(sample) for sample in samples]
    names = dict.fromkeys(name for found in pulls for name in found)
    worst = sorted(names, key=lambda name: -max(found.get(name, -np.inf) for found in pulls))[:_MOST_BARS]
    threshold = max(sample.threshold for sample in samples)
    finite = [found[name] for found in pulls for name in worst if np.isfinite(found.get(name, np.inf))]
    highest, lowest = max(1.5 * threshold, *finite, 0.0), min(-1.0, *finite, 0.0)
    labels = [plain(f"{s.compared.name} ({s.compared.clouds:,})") for s in samples]
    labels.append(f"threshold {threshold:.1f}")
    height = len(worst) * (len(samples) * _BAR + _GAP)
    above = LEGEND_LINE * legend_rows(labels) + 0.15
    with mpl.rc_context(STYLE):
        sheet = page(_WORDS + _BARS + 0.35, height + 0.7 + above)
        axes = panel(sheet, _WORDS, 0.6, _BARS, height)
        if highest > _SPREAD * threshold:
            axes.set_xscale("symlog", linthresh=threshold, linscale=0.8)
            axes.set_xticks([0, *(tick for tick in _TICKS if tick < 1.15 * highest)])
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(1.15 * lowest, 1.15 * highest)
        for place, (found, label) in enumerate(zip(pulls, labels, strict=False)):
            lengths = np.array([found.get(name, np.nan) for name in worst])
            _bars(axes, lengths, None, place, len(samples), label)
        axes.axvline(threshold, color=TRUTH, linestyle="--", linewidth=1.2, label=labels[-1])
        axes.axvline(0, color="black", linewidth=0.8)
        _name_bars(axes, [titles[name] for name in worst])
        axes.set_xlabel("largest pull; beyond the threshold it is a difference")
        legend_above(axes)
    return sheet


def _bars(axes: Axes, lengths: Floats, errors: Floats | None, place: int, several: int, label: str) -> None:
    """Bars of one of several samples, one group of bars for each length; those that leave the axis end in an arrow."""
    middle = np.arange(len(lengths)) + (place - (several - 1) / 2) * 0.8 / several
    end = axes.get_xlim()[1] if np.isinf(lengths).any() else np.inf
    shown = np.minimum(lengths, end)
    axes.barh(middle, shown, 0.8 / several, color=colour(place), label=label, xerr=errors, error_kw={"elinewidth": 1.0})
    beyond = lengths > end
    if beyond.any():
        axes.plot(np.full(beyond.sum(), end), middle[beyond], ">", color=colour(place), clip_on=False)


def _name_bars(axes: Axes, titles: Sequence[str]) -> None:
    axes.set_yticks(
        np.arange(len(titles)),
        [textwrap.fill(plain(title), _WORD_LINE) for title in titles],
        fontsize=_WORD_SIZE,
        linespacing=0.95,
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(titles) - 0.4, -0.6)


def classifier_figure(
    tests: Mapping[str, ClassifierTest], truth: Measured, samples: Mapping[str, Measured], titles: Mapping[str, str]
) -> Figure:
    """What one kind of classifier found: ROC curves, calibration, and, of boosted trees, what gives the samples away.

    Args:
        tests: name of the sample -> its test, all of one kind.
        truth: the true clouds, whose weights count.
        samples: name -> the clouds.
        titles: of the observables, by name.
    """
    ranked = any(test.ranking for test in tests.values())
    labels = [f"{named(name, samples[name])}: AUC {test.auc:.3f} ± {test.error:.3f}" for name, test in tests.items()]
    width = 0.75 + 2 * _SIDE + 0.85 + (_WORDS + _SIDE if ranked else 0) + 0.25
    with mpl.rc_context(STYLE):
        sheet = page(width, 0.6 + _SIDE + LEGEND_LINE * len(labels) + 0.25)
        curves = panel(sheet, 0.75, 0.6, _SIDE, _SIDE)
        calibration = panel(sheet, 0.75 + _SIDE + 0.85, 0.6, _SIDE, _SIDE)
        for place, (label, (name, test)) in enumerate(zip(labels, tests.items(), strict=True)):
            is_true, scores, weights = _pooled(test, truth, samples[name])
            style: dict[str, Any] = {"color": colour(place), "linewidth": 1.4}
            curves.plot(*roc_curve(is_true, scores, sample_weight=weights)[:2], line(place), label=label, **style)
            middle, share, error = reliability(is_true, scores, weights)
            points: dict[str, Any] = {
                "color": colour(place),
                "marker": marker(place),
                "markersize": 4,
                "linestyle": "none",
            }
            calibration.errorbar(middle, share, error, elinewidth=1.1, **points)
        _square(curves, (0, 1), "share of generated called true", "share of true called true")
        low, high = np.min(calibration.dataLim.get_points()), np.max(calibration.dataLim.get_points())
        margin = 0.08 * (high - low)
        frame = (low - margin, high + margin)
        _square(calibration, frame, "probability of being true", "share that is true")
        curves.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.3, labelspacing=0.35)
        if ranked:
            _importances(panel(sheet, width - 0.25 - _SIDE, 0.6, _SIDE, _SIDE), tests, titles)
    return sheet


def _pooled(test: ClassifierTest, truth: Measured, sample: Measured) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Whether each cloud of both sets is true, its score, and a weight with which both sets count alike."""
    weights = [np.ones(len(measured)) if measured.weights is None else measured.weights for measured in (truth, sample)]
    return (
        np.repeat([True, False], [len(truth), len(sample)]),
        np.concatenate([test.truth_scores, test.sample_scores]),
        np.concatenate([each / each.mean() / len(each) for each in weights]) * (len(truth) + len(sample)) / 2,
    )


def _square(axes: Axes, limits: tuple[float, float], across: str, up: str) -> None:
    """Equal scales and the diagonal: what a classifier that knows nothing, or is calibrated, would show."""
    axes.plot(limits, limits, color=TRUTH, linewidth=1.0, zorder=0)
    axes.set(xlim=limits, ylim=limits, xlabel=across, ylabel=up)


def _importances(axes: Axes, tests: Mapping[str, ClassifierTest], titles: Mapping[str, str]) -> None:
    found = [{one.observable: (one.importance, one.error) for one in test.ranking} for test in tests.values()]
    names = dict.fromkeys(name for ranking in found for name in ranking)
    worst = sorted(names, key=lambda name: -max(each.get(name, (0.0, 0.0))[0] for each in found))[:_MOST_IMPORTANT]
    for place, ranking in enumerate(found):
        lengths, errors = np.array([ranking.get(name, (np.nan, np.nan)) for name in worst]).T
        _bars(axes, lengths, errors, place, len(found), "")
    axes.axvline(0, color="black", linewidth=0.8)
    _name_bars(axes, [titles[name] for name in worst])
    axes.set_xlabel("drop in AUC without it")
