"""Distances between generated clouds and the truth, each with its error and with what chance alone would give.

Two finite samples of the same physics are never at distance zero: a Wasserstein distance is positive by construction
and falls only as the square root of the sample sizes. So a value says nothing by itself. Each comes with

- its error: the spread when both samples are resampled with replacement (bootstrap);
- the truth-versus-truth floor: the mean and spread of the distance between two samples of the truth *of the same
  sizes* as those compared;
- the pull, (value - floor) / sqrt(error^2 + floor_error^2).

Resampling draws whole clouds: the constituents of one jet are correlated, and treating them as independent would make
the errors and the floor too small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from pcdiff.errors import DataError
from pcdiff.physics import Measured, Observable, observables

__all__ = ["Metric", "compare", "unit_notes", "wasserstein"]

_W1P = ("etarel", "phirel", "ptrel")
# A sample is called too small when a shift of this fraction of the truth's standard deviation could be chance.
_TELLABLE = 0.1

Draws = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """One distance between a generated sample and the truth.

    Attributes:
        name: key in tables and files, for example ``w1_mass``.
        title: the same in plain words.
        unit: that of value, errors and floor; ``""`` for a pure number.
        value: the distance of the two samples as they are.
        error: standard deviation of the distance over bootstrap resamples of both.
        resampled: mean of the distance over these resamples. This is what ``w1m`` and ``w1p`` of the JetNet library
            print when their ``num_eval_samples`` is the sample size; resampling adds noise, so it is above ``value``.
        floor: mean distance of two samples of the truth of the same sizes.
        floor_error: standard deviation of one such distance.
        pull: (value - floor) / sqrt(error^2 + floor_error^2); None where neither fluctuates but they differ.
        truth_size: number of true clouds.
        sample_size: number of generated clouds.
        draws: number of resamples.
        warning: why the samples are too small to tell, or ``""``.
    """

    name: str
    title: str
    unit: str
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


def wasserstein(
    real: npt.NDArray[np.float64] | Sequence[float], generated: npt.NDArray[np.float64] | Sequence[float]
) -> float:
    """Wasserstein-1 distance of two samples of one number, in the unit of that number.

    ``W1 = integral of |F_real(x) - F_generated(x)| dx`` over the empirical distribution functions F (Ramdas et al., "On
    Wasserstein Two Sample Testing and Related Families of Nonparametric Tests", arXiv 1509.02237). On relative jet
    masses this is W1M, on each constituent feature W1P, of Kansal et al., "Particle Cloud Generation with Message
    Passing Generative Adversarial Networks", arXiv 2106.11535.

    Args:
        real: shape (n,), finite.
        generated: shape (m,), finite; the sizes may differ.

    >>> wasserstein([0.0, 1.0, 3.0], [5.0, 6.0, 8.0])
    5.0
    """
    return float(wasserstein_distance(real, generated))


def compare(
    truth: Measured, sample: Measured, *, reference: Measured | None = None, draws: int = 20, seed: int = 0
) -> list[Metric]:
    """W1 of each observable that both sets have, and W1P, the mean of those of etarel, phirel and ptrel.

    The floor comes from pairs of independent resamples of the truth, one of the truth's size and one of the sample's.
    To leading order in 1/n a distance of two such resamples is distributed as that of two new samples of the truth: both
    are functionals of the same Brownian bridge (van der Vaart and Wellner, "Weak Convergence and Empirical
    Processes", 1996, chapter 3.6). With a ``reference`` the floor is instead measured: the mean distance from the truth
    to pieces of the reference of the sample's size; its error remains that of the resamples.

    Args:
        truth: observables of the true clouds.
        sample: observables of the generated clouds.
        reference: observables of further true clouds, independent of ``truth``; at least as many as the sample has.
        draws: number of resamples, at least 2.
        seed: same seed, same numbers.

    Raises:
        DataError: too few draws, or a reference that is smaller than the sample.
    """
    if draws < 2:
        raise DataError(f"draws is {draws}; expected at least 2, since errors are a spread over draws")
    if reference is not None and len(reference) < len(sample):
        raise DataError(
            f"the reference has {len(reference)} clouds, expected at least as many as the sample's {len(sample)}"
        )
    rng = np.random.default_rng(seed)
    n, m = len(truth), len(sample)
    weights = _Weights(
        truth=_resamples(rng, n, n, draws),
        sample=_resamples(rng, m, m, draws),
        null_truth=_resamples(rng, n, n, draws),
        null_sample=_resamples(rng, n, m, draws),
    )
    sets = [truth, sample] if reference is None else [truth, sample, reference]
    shared = {
        name: observable
        for name, observable in observables(truth.kind).items()
        if all(name in measured.values for measured in sets)
    }
    distances = {name: _distances(shared[name], truth, sample, reference, weights) for name in shared}
    metrics = []
    for name, observable in shared.items():
        title = "W1M, relative jet mass" if name == "relative_mass" else f"W1, {observable.title}"
        tellable = _TELLABLE * float(np.std(truth.values[name]))
        metrics.append(_metric(f"w1_{name}", title, observable.unit, distances[name], tellable, n, m))
    if all(name in shared for name in _W1P):
        parts = [distances[name] for name in _W1P]
        mean = _Distances(
            value=float(np.mean([part.value for part in parts])),
            resampled=np.mean([part.resampled for part in parts], axis=0),
            null=np.mean([part.null for part in parts], axis=0),
            floor=float(np.mean([part.floor for part in parts])),
        )
        tellable = _TELLABLE * float(np.mean([np.std(truth.values[name]) for name in _W1P]))
        metrics.append(_metric("w1p", "W1P, mean of etarel, phirel, ptrel", "", mean, tellable, n, m))
    return metrics


def unit_notes(truth: Measured, sample: Measured) -> tuple[str, ...]:
    """One note for each observable in GeV whose medians differ by a factor within 20 % of 1000, either way."""
    notes = []
    for name, observable in observables(truth.kind).items():
        if observable.unit != "GeV" or name not in truth.values or name not in sample.values:
            continue
        low, high = sorted(abs(float(np.median(measured.values[name]))) for measured in (truth, sample))
        if low > 0 and abs(high / low / 1000 - 1) <= 0.2:
            notes.append(f"values of {observable.title} differ by about 1000: is one of them in MeV?")
    return tuple(notes)


@dataclass(frozen=True)
class _Weights:
    """How often each cloud is in each resample, shape (draws, n) or (draws, m): the same for all observables.

    ``truth`` and ``sample`` weigh the two sets compared; ``null_truth`` and ``null_sample`` both weigh true clouds.
    """

    truth: Weights
    sample: Weights
    null_truth: Weights
    null_sample: Weights


@dataclass(frozen=True)
class _Distances:
    """Distances of the samples as they are, of resamples of both (draws,), of pairs of true resamples; the floor."""

    value: float
    resampled: Draws
    null: Draws
    floor: float


def _resamples(rng: np.random.Generator, clouds: int, size: int, draws: int) -> Weights:
    """How often each cloud is in each resample of ``size`` with replacement, shape (draws, clouds)."""
    return np.stack([np.bincount(rng.integers(clouds, size=size), minlength=clouds) for _ in range(draws)])


def _distances(
    observable: Observable, truth: Measured, sample: Measured, reference: Measured | None, weights: _Weights
) -> _Distances:
    real, generated = truth.values[observable.name], sample.values[observable.name]
    owners = truth.owners(observable)
    pooled = np.concatenate([real, generated])
    pooled_owners = np.concatenate([owners, sample.owners(observable) + len(truth)])
    first = np.pad(weights.truth, ((0, 0), (0, len(sample))))
    second = np.pad(weights.sample, ((0, 0), (len(truth), 0)))
    null = _weighted_wasserstein(real, owners, weights.null_truth, weights.null_sample)
    return _Distances(
        value=wasserstein(real, generated),
        resampled=_weighted_wasserstein(pooled, pooled_owners, first, second),
        null=null,
        floor=float(null.mean()) if reference is None else _measured_floor(observable, truth, reference, len(sample)),
    )


def _measured_floor(observable: Observable, truth: Measured, reference: Measured, size: int) -> float:
    """Mean distance from the truth to disjoint pieces of ``size`` clouds of the reference."""
    owners = reference.owners(observable)
    bounds = np.searchsorted(owners, np.arange(0, len(reference) + 1, size))
    values, real = reference.values[observable.name], truth.values[observable.name]
    pieces = [values[start:stop] for start, stop in itertools.pairwise(bounds)]
    return float(np.mean([wasserstein(real, piece) for piece in pieces]))


def _weighted_wasserstein(
    values: npt.NDArray[np.float64], owners: npt.NDArray[np.int64], first: Weights, second: Weights
) -> Draws:
    """W1 of pairs of samples that weigh the same values, shape (draws,).

    Sorting once for all draws makes this an order of magnitude quicker than as many calls of scipy.

    Args:
        values: shape (v,).
        owners: shape (v,), the cloud of each value.
        first: shape (draws, clouds), how often each cloud is in the first sample.
        second: the same for the second sample.
    """
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order])
    owners = owners[order]
    result = np.empty(len(first))
    for draw, (one, two) in enumerate(zip(first, second, strict=True)):
        a, b = one[owners], two[owners]
        total_a, total_b = int(a.sum()), int(b.sum())
        # In whole numbers the distance of equal samples is exactly zero.
        excess = np.cumsum(a * total_b - b * total_a)
        result[draw] = np.abs(excess[:-1]) @ gaps / (total_a * total_b)
    return result


def _metric(name: str, title: str, unit: str, found: _Distances, tellable: float, n: int, m: int) -> Metric:
    error, floor_error = float(found.resampled.std(ddof=1)), float(found.null.std(ddof=1))
    noise = float(np.hypot(error, floor_error))
    difference = found.value - found.floor
    least = found.floor + 3 * floor_error
    warning = ""
    if least > tellable:
        warning = (
            f"too few clouds to tell: with {m} generated and {n} true ones a distance below {least:.2g}"
            f"{' ' + unit if unit else ''} can be chance"
        )
    return Metric(
        name=name,
        title=title,
        unit=unit,
        value=found.value,
        error=error,
        resampled=float(found.resampled.mean()),
        floor=found.floor,
        floor_error=floor_error,
        pull=difference / noise if noise > 0 else (0.0 if difference == 0 else None),
        truth_size=n,
        sample_size=m,
        draws=len(found.null),
        warning=warning,
    )
