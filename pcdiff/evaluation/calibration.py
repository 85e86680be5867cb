"""Whether the probabilities of a classifier can be believed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["calibration_error", "reliability"]

Floats = npt.NDArray[np.float64]


def reliability(
    is_true: npt.NDArray[np.bool_], scores: Floats, weights: Floats, bins: int = 10
) -> tuple[Floats, Floats, Floats]:
    """How often clouds are true against how probable a classifier called it, in bins of about equal numbers of clouds.

    Args:
        is_true: shape (n,).
        scores: shape (n,), probabilities.
        weights: shape (n,), how much each cloud counts.
        bins: their number; fewer where scores are equal.

    Returns:
        Mean probability, share of true clouds and its standard error, one value a bin.
    """
    found = _binned(scores, bins)
    content = np.bincount(found, weights)
    middle = np.bincount(found, weights * scores) / content
    share = np.bincount(found, weights * is_true) / content
    error = np.sqrt(np.bincount(found, weights**2 * (is_true - share[found]) ** 2)) / content
    return middle, share, error


def calibration_error(is_true: npt.NDArray[np.bool_], scores: Floats, weights: Floats, bins: int = 10) -> float:
    """Mean over the bins of :func:`reliability`, by their content, of |share of true clouds - mean probability|.

    The expected calibration error of Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, who take bins of
    equal width. Of n clouds with perfect probabilities near 0.5 chance alone gives 0.4 sqrt(bins / n). Arguments as in
    :func:`reliability`.
    """
    found = _binned(scores, bins)
    return float(np.abs(np.bincount(found, weights * (is_true - scores))).sum() / weights.sum())


def _binned(scores: Floats, bins: int) -> npt.NDArray[np.int64]:
    """The bin of each score. Equal scores share one: cut apart they would be sorted by what they should not tell."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    _, found = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    return found
