"""Fréchet and kernel physics distance: two samples compared in a space of many features at once.

With means mu and covariances C of the features (usually 36 energy-flow polynomials) of the two samples,

    FPD = |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))            extrapolated to infinite samples
    KPD = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),    k(x, y) = (x.y / d + 1)^4,    x and x' different draws, y and y' too

Kansal et al., "Evaluating generative models in high energy physics", arXiv 2211.10295. Definitions, sizes and random draws are by
default those of version 0.2.5 of the JetNet library, so that values can stand beside published ones: on the same features both
distances agree with it to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import curve_fit

from pcdiff.errors import DataError

__all__ = [
    "extrapolated",
    "frechet_distance",
    "frechet_physics_distance",
    "kernel_discrepancy",
    "kernel_physics_distance",
    "moments",
    "resample_sizes",
    "scaled",
]

Floats = npt.NDArray[np.float64]

# Numbers held at once: a block that stays in a processor's cache.
_BLOCK = 1 << 18


def frechet_distance(mean_1: Floats, covariance_1: Floats, mean_2: Floats, covariance_2: Floats) -> float:
    """Squared Wasserstein-2 distance of two normal distributions.

    ``|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))`` (Dowson and Landau, "The Fréchet distance between multivariate normal
    distributions", Journal of Multivariate Analysis 12, 1982). With C = A A^T the trace of the root is the sum of the singular
    values of A_1^T A_2: always real, and defined for covariances without an inverse.

    Args:
        mean_1: shape (d,).
        covariance_1: shape (d, d), symmetric; eigenvalues below zero are taken for rounding of zero.
        mean_2: shape (d,).
        covariance_2: shape (d, d).

    >>> frechet_distance(np.zeros(1), np.eye(1), np.full(1, 3.0), 4 * np.eye(1))  # 3^2 + (2 - 1)^2
    10.0
    """
    overlap = np.linalg.svd(_root(covariance_1).T @ _root(covariance_2), compute_uv=False).sum()
    difference = mean_1 - mean_2
    distance = difference @ difference + np.trace(covariance_1) + np.trace(covariance_2) - 2 * overlap
    return max(0.0, float(distance))


def frechet_physics_distance(
    real: Floats,
    generated: Floats,
    *,
    seed: int = 42,
    least: int = 20_000,
    most: int = 50_000,
    sizes: int = 10,
    batches: int = 20,
    real_weights: Floats | None = None,
    generated_weights: Floats | None = None,
) -> tuple[float, float]:
    """FPD: the Fréchet distance of features, extrapolated to samples of infinite size.

    A Fréchet distance of samples of N clouds is too large by a term that falls as 1/N. It is computed for resamples (with
    replacement) of ``sizes`` sizes even in 1/N, averaged over ``batches`` of each, and a straight line in 1/N is fitted to the averages:
    FPD is the intercept that :func:`extrapolated` finds. For resamples the limit is the distance of the two sets as they are, so sets of
    finite size keep their own excess, and the fit of the library has one too: compare with the truth-versus-truth floor.

    Args:
        real: features, shape (n, d). Both sets are divided by the largest absolute value of each real feature.
        generated: features, shape (m, d).
        seed: same seed, same numbers.
        least: smallest size of a resample.
        most: largest size.
        real_weights: shape (n,), how much each cloud counts: clouds are drawn in proportion.
        generated_weights: shape (m,).

    Returns:
        FPD and the standard error of the intercept from the scatter about the line.

    Raises:
        DataError: shapes that do not fit, features that are not finite, fewer than two clouds, or weights that cannot be
            probabilities.
    """
    if not 1 < least < most or sizes < 3 or batches < 1:
        raise DataError(
            f"sizes of resamples: found {sizes} sizes from {least} to {most}, {batches} batches of each; "
            "expected at least 3 rising sizes of more than one cloud, and at least one batch"
        )
    real, generated = scaled(real, generated)
    chances = _chances(real_weights, len(real), "real"), _chances(generated_weights, len(generated), "generated")
    drawn = resample_sizes(least, most, sizes)
    rng = np.random.default_rng(seed)
    # In the order in which the JetNet library draws.
    counts = [
        [_counts(rng, len(features), size, p) for features, p in zip((real, generated), chances, strict=True)]
        for size in drawn
        for _ in range(batches)
    ]
    repeated = np.repeat(drawn, batches)
    unbiased = repeated / (repeated - 1)
    distances = [
        frechet_distance(mean_1, factor * covariance_1, mean_2, factor * covariance_2)
        for mean_1, covariance_1, mean_2, covariance_2, factor in zip(
            *moments(real, np.stack([pair[0] for pair in counts])),
            *moments(generated, np.stack([pair[1] for pair in counts])),
            unbiased,
            strict=True,
        )
    ]
    return extrapolated(drawn, np.reshape(distances, (sizes, batches)).mean(axis=1))


def kernel_physics_distance(
    real: Floats,
    generated: Floats,
    *,
    seed: int = 42,
    batches: int = 10,
    size: int = 5_000,
    real_weights: Floats | None = None,
    generated_weights: Floats | None = None,
) -> tuple[float, float]:
    """KPD: squared maximum mean discrepancy of features with a polynomial kernel of degree 4.

    The unbiased estimate (Gretton et al., "A Kernel Two-Sample Test", Journal of Machine Learning Research 13, 2012, equation 3) of
    ``batches`` pairs of resamples, with replacement, of ``size`` clouds each. It can be negative.

    Args:
        real: features, shape (n, d). Both sets are divided by the largest absolute value of each real feature.
        generated: features, shape (m, d).
        seed: same seed, same numbers.
        real_weights: shape (n,), how much each cloud counts: clouds are drawn in proportion.
        generated_weights: shape (m,).

    Returns:
        The median over the batches, and half the distance between their 16.275 % and 83.725 % quantiles.

    Raises:
        DataError: as :func:`frechet_physics_distance`.
    """
    if batches < 2 or size < 2:
        raise DataError(f"found {batches} batches of {size} clouds, expected at least 2 of at least 2")
    real, generated = scaled(real, generated)
    chances = _chances(real_weights, len(real), "real"), _chances(generated_weights, len(generated), "generated")
    found = []
    for batch in range(batches):
        # The seeds of the JetNet library.
        rng = np.random.default_rng(seed + 1000 * batch)
        x = real[rng.choice(len(real), size=size, p=chances[0])]
        y = generated[rng.choice(len(generated), size=size, p=chances[1])]
        within = sum(_pairs(part) / (size * (size - 1)) for part in (x, y))
        found.append(within - 2 * _kernel_sum(x, y, np.ones((1, size)), np.ones((1, size)))[0] / size**2)
    low, high = np.percentile(found, [16.275, 83.725])
    return float(np.median(found)), float(high - low) / 2


def kernel_discrepancy(features: Floats, first: Floats, second: Floats) -> Floats:
    """Squared maximum mean discrepancy, with the kernel of KPD, of distributions that weigh the same clouds, shape (draws,).

    ``sum_ij w_i w_j k(x_i, x_j)`` with w the difference of the two normalised weights: what the batches of
    :func:`kernel_physics_distance` estimate.

    Args:
        features: shape (n, d), scaled.
        first: shape (draws, n), how much each cloud counts in the first sample.
        second: shape (draws, n).
    """
    excess = first / first.sum(axis=1, keepdims=True) - second / second.sum(axis=1, keepdims=True)
    return _kernel_sum(features, features, excess, excess)


def moments(features: Floats, weights: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Means (draws, d) and covariances (draws, d, d) of features under weights, as of a whole population (no n - 1).

    The products of all pairs of features are formed once and weighed by one matrix product, for all draws together.

    Args:
        features: shape (n, d).
        weights: shape (draws, n), not negative.
    """
    draws, d = len(weights), features.shape[1]
    rows, columns = np.triu_indices(d)
    # Near the mean little is lost when the square of the mean is taken off.
    center = features.mean(axis=0)
    first, second, total = np.zeros((draws, d)), np.zeros((draws, len(rows))), np.zeros((draws, 1))
    for part in _blocks(len(features), max(1, _BLOCK // len(rows))):
        values = np.ascontiguousarray((features[part] - center).T)
        weight = weights[:, part].astype(np.float64)
        total += weight.sum(axis=1, keepdims=True)
        first += weight @ values.T
        second += weight @ (values[rows] * values[columns]).T
    mean = first / total
    covariance = np.empty((draws, d, d))
    covariance[:, rows, columns] = second / total
    covariance[:, columns, rows] = covariance[:, rows, columns]
    covariance -= mean[:, :, None] * mean[:, None, :]
    return mean + center, covariance


def scaled(real: Floats, generated: Floats) -> tuple[Floats, Floats]:
    """Both sets divided by the largest absolute value of each real feature, where it is not zero.

    Raises:
        DataError: shapes that do not fit, features that are not finite, or fewer than two clouds.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise DataError(f"features: found shapes {real.shape} and {generated.shape}, expected (n, d) and (m, d)")
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < 2:
            raise DataError(f"{name} features: found {len(features)} clouds, expected at least 2")
        if not np.isfinite(features).all():
            raise DataError(
                f"{name} features: {int((~np.isfinite(features)).sum())} values are not finite, expected none"
            )
    largest = np.abs(real).max(axis=0)
    largest[largest == 0] = 1.0
    return real / largest, generated / largest


def extrapolated(sizes: npt.NDArray[np.int64], distances: Floats) -> tuple[float, float]:
    """The intercept, and its standard error, of a line in 1/N with intercept and slope not below zero, as the JetNet library fits it.

    The library calls scipy's ``curve_fit`` with bounds, which starts at an intercept and a slope of 1 and stops when the sum of squares
    hardly changes, not at the least squares. As values of 1/N are small the slope is then still near zero, and the intercept is
    too large by what the slope should have taken, about 1e-4 for 36 polynomials of jets. Published values have this excess, also those
    of truth against truth, so it is kept: it cancels in the difference from a floor that is fitted alike.

    Args:
        sizes: numbers of clouds N, shape (p,).
        distances: mean distance of resamples of each size, shape (p,).
    """
    found, covariance = curve_fit(
        lambda inverse, intercept, slope: intercept + slope * inverse,
        1 / sizes,
        distances,
        bounds=([0, 0], [np.inf, np.inf]),
    )
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def resample_sizes(least: int = 20_000, most: int = 50_000, sizes: int = 10) -> npt.NDArray[np.int64]:
    """Numbers of clouds even in 1/N, rounded down, shape (sizes,)."""
    return (1 / np.linspace(1 / least, 1 / most, sizes)).astype(np.int64)


def _root(covariance: Floats) -> Floats:
    """A with A A^T = C."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def _pairs(x: Floats) -> float:
    """Sum of the kernel over all ordered pairs of different clouds."""
    ones = np.ones((1, len(x)))
    alone = ((np.einsum("id,id->i", x, x) / x.shape[1] + 1) ** 4).sum()
    return float(_kernel_sum(x, x, ones, ones)[0] - alone)


def _kernel_sum(x: Floats, y: Floats, first: Floats, second: Floats) -> Floats:
    """``sum_ij first_i second_j (x_i.y_j / d + 1)^4`` for each draw, shape (draws,)."""
    total = np.zeros(len(first))
    side = math.isqrt(_BLOCK)
    columns = [(np.ascontiguousarray(y[part].T) / x.shape[1], second[:, part]) for part in _blocks(len(y), side)]
    for part in _blocks(len(x), side):
        for transposed, weight in columns:
            kernel = x[part] @ transposed
            kernel += 1
            kernel *= kernel
            kernel *= kernel
            total += np.einsum("dj,dj->d", first[:, part] @ kernel, weight)
    return total


def _blocks(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows."""
    return (slice(start, start + size) for start in range(0, rows, size))


def _counts(rng: np.random.Generator, clouds: int, size: int, chances: Floats | None) -> npt.NDArray[np.uint32]:
    """How often each cloud is in a resample."""
    return np.bincount(rng.choice(clouds, size=size, p=chances), minlength=clouds).astype(np.uint32)


def _chances(weights: Floats | None, clouds: int, name: str) -> Floats | None:
    """Weights as probabilities."""
    if weights is None:
        return None
    if weights.shape != (clouds,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise DataError(
            f"{name} weights: expected {clouds} finite numbers that are not negative and not all zero, "
            f"found shape {weights.shape} with {int((~(weights >= 0)).sum())} others"
        )
    chances: Floats = weights / weights.sum()
    return chances
