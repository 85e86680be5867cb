"""Area under the ROC curve of weighted scores, and its error.

The area is the chance that a true cloud scores higher than a generated one, a tie counting half. Its variance is that of DeLong,
DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves: a
nonparametric approach", Biometrics 44 (1988) 837: with V_i the share of generated clouds that score lower than true cloud i, and
U_j the share of true clouds that score higher than generated cloud j,

    AUC = mean V = mean U,        var AUC = var(V) / n + var(U) / m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Placements", "area", "placements"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Placements:
    """Where the scores of each of two samples lie among those of the other.

    Attributes:
        truth: V, shape (n,).
        sample: U, shape (m,).
        truth_weights: shape (n,), of sum 1.
        sample_weights: shape (m,), of sum 1.
    """

    truth: Floats
    sample: Floats
    truth_weights: Floats
    sample_weights: Floats

    def __sub__(self, other: Placements) -> Placements:
        """Those of the difference of two areas, of the same clouds under two scores, which are correlated."""
        truth, sample = self.truth - other.truth, self.sample - other.sample
        return Placements(truth, sample, self.truth_weights, self.sample_weights)

    @property
    def mean(self) -> float:
        """The area, or a difference of areas."""
        return float(self.truth @ self.truth_weights)

    @property
    def variance(self) -> float:
        """That of :attr:`mean`, from the spread of the clouds of both samples."""
        return sum(
            # The last factor is n / (n - 1), n being the number of clouds of equal weight that tell as much.
            float(weights**2 @ (values - self.mean) ** 2) / (1 - float(weights @ weights))
            for values, weights in ((self.truth, self.truth_weights), (self.sample, self.sample_weights))
        )


def placements(truth: Floats, sample: Floats, truth_weights: Floats, sample_weights: Floats) -> Placements:
    """Placements of scores.

    Args:
        truth: scores of true clouds, shape (n,), n >= 2; larger is more like the truth.
        sample: scores of generated clouds, shape (m,), m >= 2.
        truth_weights: shape (n,), how much each cloud counts, positive, of any sum.
        sample_weights: shape (m,), likewise.
    """
    first, second = truth_weights / truth_weights.sum(), sample_weights / sample_weights.sum()
    return Placements(_share_below(truth, sample, second), 1 - _share_below(sample, truth, first), first, second)


def area(
    truth: Floats, sample: Floats, truth_weights: Floats | None = None, sample_weights: Floats | None = None
) -> tuple[float, float]:
    """The area and its error; arguments as in :func:`placements`, without weights all count alike.

    >>> import numpy as np
    >>> area(np.array([0.9, 0.8, 0.6, 0.3]), np.array([0.7, 0.2]))[0]
    0.75
    """
    first = np.ones(len(truth)) if truth_weights is None else truth_weights
    second = np.ones(len(sample)) if sample_weights is None else sample_weights
    found = placements(truth, sample, first, second)
    return found.mean, float(np.sqrt(found.variance))


def _share_below(scores: Floats, others: Floats, weights: Floats) -> Floats:
    """For each score the share of the others below it, equal ones counting half."""
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    cumulated = np.concatenate([[0.0], np.cumsum(weights[order])])
    lower, upper = (cumulated[np.searchsorted(ordered, scores, side)] for side in ("left", "right"))
    result: Floats = (lower + upper) / 2
    return result
