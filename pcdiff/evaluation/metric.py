"""What a metric is: a value with its error, and with what chance alone would give.

Two finite samples of the same physics are never at distance zero: a Wasserstein distance is positive by construction
and falls only as the square root of the sample sizes. So a value says nothing by itself. Each comes with

- its error: the spread when both samples are resampled with replacement (bootstrap);
- the truth-versus-truth floor: the mean and spread of the same metric between two samples of the truth *of the same
  sizes* as those compared;
- the pull, (value - floor) / sqrt(error^2 + floor_error^2), counted so that a positive one is a difference from the truth. Far from
  the truth the error of a squared distance grows with the distance itself, so pulls tell that samples differ, values by how much.

Resampling draws whole clouds: the constituents of one jet are correlated, and treating them as independent would make
the errors and the floor too small. The floor comes from pairs of independent resamples of the truth. To leading order in
1/n a distance of two such resamples is distributed as that of two new samples of the truth: both are functionals of the same
Brownian bridge (van der Vaart and Wellner, "Weak Convergence and Empirical Processes", 1996, chapter 3.6).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pcdiff.errors import DataError
from pcdiff.physics import Measured

__all__ = ["Group", "Metric", "Resamples", "estimate"]

Floats = npt.NDArray[np.float64]

# Where a metric stands in tables: among those that papers publish, those of whole clouds, those of one observable.
Group = Literal["published", "clouds", "observable"]


@dataclass(frozen=True)
class Metric:
    """One comparison of a generated sample with the truth.

    Attributes:
        name: key in tables and files, for example ``w1_mass``.
        title: the same in plain words.
        unit: that of value, errors and floor; ``""`` for a pure number.
        group: ``"published"`` for metrics of the literature, ``"clouds"`` for others of whole clouds, ``"observable"`` for
            those of one observable.
        about: name of the observable or profile that it compares, or ``""``.
        value: the metric of the two samples as they are.
        error: its standard deviation over bootstrap resamples of both, or as its definition states it.
        resampled: mean over these resamples. For W1 this is what ``w1m`` and ``w1p`` of the JetNet library print when their
            ``num_eval_samples`` is the sample size; resampling adds noise, so it is above ``value``.
        floor: mean of the metric between two samples of the truth of the same sizes.
        floor_error: standard deviation of one such value.
        pull: (value - floor) / sqrt(error^2 + floor_error^2), with the sign turned where smaller values are worse; None
            where neither fluctuates but they differ.
        truth_size: number of true clouds.
        sample_size: number of generated clouds.
        draws: number of resamples, batches or folds that the errors come from.
        warning: why the samples are too small to tell, or ``""``.
    """

    name: str
    title: str
    unit: str
    group: Group
    about: str
    value: float
    error: float
    resampled: float
    floor: float
    floor_error: float
    pull: float | None
    truth_size: int
    sample_size: int
    draws: int
    warning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def estimate(
    name: str,
    title: str,
    *,
    group: Group,
    sizes: tuple[int, int],
    value: float,
    resampled: Floats,
    null: Floats,
    error: float | None = None,
    floor: float | None = None,
    unit: str = "",
    about: str = "",
    tellable: float | None = None,
    larger_is_worse: bool = True,
) -> Metric:
    """A metric from its value and its draws.

    Args:
        sizes: number of true and of generated clouds.
        value: of the samples as they are.
        resampled: shape (draws,), of bootstrap resamples of both samples; their spread is the error.
        null: shape (draws,), of pairs of samples of the truth of these sizes; their mean and spread are the floor.
        error: in place of the spread of ``resampled``.
        floor: in place of the mean of ``null``.
        tellable: warn where a difference of this size could be chance.
        larger_is_worse: false for a metric that falls when samples differ, such as coverage.
    """
    n, m = sizes
    spread = float(resampled.std(ddof=1)) if error is None else error
    floor_error = float(null.std(ddof=1))
    floor = float(null.mean()) if floor is None else floor
    noise = float(np.hypot(spread, floor_error))
    worse = value - floor if larger_is_worse else floor - value
    warning = ""
    if tellable is not None and floor + 3 * floor_error > tellable:
        warning = (
            f"too few clouds to tell: with {m} generated and {n} true ones a distance below "
            f"{floor + 3 * floor_error:.2g}{' ' + unit if unit else ''} can be chance"
        )
    return Metric(
        name=name,
        title=title,
        unit=unit,
        group=group,
        about=about,
        value=value,
        error=spread,
        resampled=float(resampled.mean()),
        floor=floor,
        floor_error=floor_error,
        pull=worse / noise if noise > 0 else (0.0 if worse == 0 else None),
        truth_size=n,
        sample_size=m,
        draws=len(null),
        warning=warning,
    )


@dataclass(frozen=True)
class Resamples:
    """How much each cloud counts in each resample, shape (draws, n) or (draws, m): the same draws for all metrics.

    ``truth`` and ``sample`` weigh the two sets compared; ``null_truth`` and ``null_sample`` both weigh true clouds, in numbers that
    tell as much as the truth and the sample. A resample of a weighted set draws clouds alike and keeps their weights, which are
    ``truth_weights``, shape (n,), and ``sample_weights``, shape (m,).
    """

    truth_weights: Floats
    sample_weights: Floats
    truth: Floats
    sample: Floats
    null_truth: Floats
    null_sample: Floats

    @classmethod
    def draw(cls, truth: Measured, sample: Measured, draws: int, seed: int) -> Resamples:
        """Draw them.

        Raises:
            DataError: fewer than two draws.
        """
        if draws < 2:
            raise DataError(f"draws is {draws}; expected at least 2, since errors are a spread over draws")
        rng = np.random.default_rng(seed)
        n, m = len(truth), len(sample)
        real, generated = (np.ones(len(side)) if side.weights is None else side.weights for side in (truth, sample))
        return cls(
            truth_weights=real,
            sample_weights=generated,
            truth=_counts(rng, n, n, draws) * real,
            sample=_counts(rng, m, m, draws) * generated,
            null_truth=_counts(rng, n, n, draws) * real,
            null_sample=_counts(rng, n, max(1, round(sample.effective_size)), draws) * real,
        )

    def __len__(self) -> int:
        return len(self.truth)

    def pooled(self) -> tuple[Floats, Floats]:
        """Weights of all clouds, true ones first, in the truth and in the sample: shape (1 + draws, n + m) each.

        The first row is the sets as they are, the others are their resamples.
        """
        n, m = len(self.truth_weights), len(self.sample_weights)
        first = np.pad(np.vstack([self.truth_weights, self.truth]), ((0, 0), (0, m)))
        second = np.pad(np.vstack([self.sample_weights, self.sample]), ((0, 0), (n, 0)))
        return first, second


def _counts(rng: np.random.Generator, clouds: int, size: int, draws: int) -> Floats:
    """How often each cloud is in each resample of ``size`` with replacement, shape (draws, clouds)."""
    return np.stack([np.bincount(rng.integers(clouds, size=size), minlength=clouds) for _ in range(draws)]).astype(
        np.float64
    )
