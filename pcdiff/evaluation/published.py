"""Metrics that papers on generated jets quote, each with its error and with what it is between two samples of the truth.

W1EFP, FPD, KPD, coverage, MMD and FPND have the definitions of the JetNet library (W1M and W1P, which are distances of single observables,
stand in :mod:`pcdiff.evaluation.marginals`). Papers quote them without a floor; here each has one:

- W1EFP: as any W1, from pairs of resamples of the truth;
- FPD and KPD: from the plug-in distances of such pairs, which is what the batches estimate; those of FPD go through its extrapolation;
  the median of KPD's batches is a little below their mean, and its error is that of one batch, so its pulls are on the low side;
- coverage and MMD: from batches whose two sides are of the truth, without a jet in common;
- FPND: that of the truth itself in the same number, since a truth that is not JetNet differs from JetNet by physics too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.errors import DataError
from pcdiff.evaluation.fpnd import FPND_MOST, FPND_TYPES, activations, frechet_from_real
from pcdiff.evaluation.marginals import weighted_wasserstein
from pcdiff.evaluation.metric import Metric, Resamples, estimate
from pcdiff.evaluation.physics_distances import (
    extrapolated,
    frechet_distance,
    frechet_physics_distance,
    kernel_discrepancy,
    kernel_physics_distance,
    moments,
    resample_sizes,
    scaled,
)
from pcdiff.evaluation.transport import chance_batches, jets_in_plane, matched_batches
from pcdiff.physics import Measured
from pcdiff.physics.jets import prime_columns

__all__ = ["published_metrics"]

Floats = npt.NDArray[np.float64]

# As the JetNet library draws by default.
_JETS, _BATCHES, _SEED = 100, 10, 42


def published_metrics(
    truth: Measured, sample: Measured, resamples: Resamples, *, seed: int, fpnd: bool = False
) -> list[Metric]:
    """The published metrics that two sets of jets determine.

    Those of energy-flow polynomials need these polynomials; coverage and MMD need 200 true and 100 generated jets.

    Args:
        resamples: of these two.
        seed: same seed, same numbers.
        fpnd: FPND as well, which takes about five seconds for 1,000 jets.

    Raises:
        DataError: FPND of what it is not defined for: other than jets of at most 30 constituents, true ones all of one type g, q
            or t; or without what ``pcdiff data fetch fpnd`` fetches.
    """
    metrics = []
    if truth.polynomials is not None and sample.polynomials is not None:
        metrics += [
            _w1_polynomials(truth.polynomials, sample.polynomials, resamples),
            _frechet(truth, sample, resamples),
            _kernel(truth, sample, resamples),
        ]
    if jets_in_plane(truth) is None or jets_in_plane(sample) is None:
        if fpnd:
            raise DataError("FPND is defined for jets with etarel, phirel and ptrel, which these sets do not determine")
        return metrics
    if _counting(truth) >= 2 * _JETS and _counting(sample) >= _JETS:
        metrics += _coverage(truth, sample, seed)
    if fpnd:
        metrics.append(_particlenet(truth, sample, _single_type(truth), resamples))
    return metrics


def _w1_polynomials(real: Floats, generated: Floats, resamples: Resamples) -> Metric:
    columns = prime_columns()
    pooled = np.concatenate([real[:, columns], generated[:, columns]])
    first, second = resamples.pooled()

    def mean(values: Floats, one: Floats, two: Floats) -> Floats:
        owners = np.arange(len(values))
        found: Floats = np.mean([weighted_wasserstein(column, owners, one, two) for column in values.T], axis=0)
        return found

    value, *resampled = mean(pooled, first, second)
    return estimate(
        "w1efp",
        f"W1EFP, mean of {len(columns)} EFPs (n = 4, d = 4)",
        group="published",
        sizes=(len(real), len(generated)),
        value=float(value),
        resampled=np.array(resampled),
        null=mean(real[:, columns], resamples.null_truth, resamples.null_sample),
    )


def _frechet(truth: Measured, sample: Measured, resamples: Resamples) -> Metric:
    assert truth.polynomials is not None
    assert sample.polynomials is not None
    real, generated = truth.polynomials, sample.polynomials
    value, _ = frechet_physics_distance(real, generated, real_weights=truth.weights, generated_weights=sample.weights)
    one, two = scaled(real, generated)

    def distances(other: Floats, first: Floats, second: Floats) -> Floats:
        pairs = zip(*moments(one, first), *moments(other, second), strict=True)
        return np.array([frechet_distance(*pair) for pair in pairs])

    null = distances(one, resamples.null_truth, resamples.null_sample)
    # Resamples of N clouds are further apart than their sets by a term in 1/N: that of the truth with itself.
    sizes = resample_sizes()
    rng = np.random.default_rng(_SEED)
    chances = resamples.truth_weights / resamples.truth_weights.sum()
    again = [rng.multinomial(sizes[0], chances, size=_BATCHES).astype(np.float64) for _ in range(2)]
    apart = sizes[0] * distances(one, again[0], again[1]).mean()
    return estimate(
        "fpd",
        f"FPD, {real.shape[1]} EFPs",
        group="published",
        sizes=(len(real), len(generated)),
        value=value,
        resampled=distances(two, resamples.truth, resamples.sample),
        null=np.array([extrapolated(sizes, plain + apart / sizes)[0] for plain in null]),
    )


def _kernel(truth: Measured, sample: Measured, resamples: Resamples) -> Metric:
    assert truth.polynomials is not None
    assert sample.polynomials is not None
    real, generated = truth.polynomials, sample.polynomials
    value, error = kernel_physics_distance(
        real, generated, real_weights=truth.weights, generated_weights=sample.weights
    )
    return estimate(
        "kpd",
        f"KPD, {real.shape[1]} EFPs",
        group="published",
        sizes=(len(real), len(generated)),
        value=value,
        resampled=np.array([value]),
        error=error,
        null=kernel_discrepancy(scaled(real, real)[0], resamples.null_truth, resamples.null_sample),
    )


def _coverage(truth: Measured, sample: Measured, seed: int) -> list[Metric]:
    assert truth.clouds is not None
    assert sample.clouds is not None
    found = matched_batches(
        truth.clouds,
        sample.clouds,
        size=_JETS,
        batches=_BATCHES,
        seed=seed,
        real_weights=truth.weights,
        generated_weights=sample.weights,
    )
    sizes = len(truth), len(sample)
    # Other draws than those of the comparison.
    null = chance_batches(truth.clouds, sizes, size=_JETS, batches=_BATCHES, seed=seed + 1, weights=truth.weights)
    titles = f"{_JETS} jets x {_BATCHES}"
    return [
        estimate(
            name,
            f"{title}, {titles}",
            group="published",
            sizes=sizes,
            value=float(values.mean()),
            resampled=_as_means(values, sizes),
            null=_as_means(by_chance, sizes),
            larger_is_worse=name == "mmd",
        )
        for name, title, values, by_chance in zip(
            ("coverage", "mmd"), ("Cov, coverage", "MMD, minimum matching distance"), found, null, strict=True
        )
    ]


def _as_means(batches: Floats, sizes: tuple[int, int]) -> Floats:
    """Values of batches, drawn together to spread as their mean does.

    The mean of B batches of k clouds of either set varies with the draw of the batches, by 1 / B of their variance, and with the sets of n
    and m clouds that they are drawn from, by k / n and k / m of the part of it that each set has a half of.
    """
    mean = batches.mean()
    sets = _JETS * (1 / sizes[0] + 1 / sizes[1]) / 2
    return np.asarray(mean + (batches - mean) * np.sqrt(1 / len(batches) + sets))


def _particlenet(truth: Measured, sample: Measured, type: str, resamples: Resamples) -> Metric:
    assert truth.clouds is not None
    assert sample.clouds is not None
    size = min(FPND_MOST, len(truth), len(sample))
    distances = []
    for clouds, weights, drawn in (
        (sample.clouds, resamples.sample_weights, resamples.sample),
        (truth.clouds, resamples.truth_weights, resamples.truth),
    ):
        found = activations(clouds[:size])
        distances.append(frechet_from_real(found, np.vstack([weights, drawn])[:, :size], type))
    (value, *resampled), (floor, *null) = distances
    return estimate(
        "fpnd",
        f"FPND from JetNet's {type} jets, {size} jets; the floor is the truth's own",
        group="published",
        sizes=(size, size),
        value=float(value),
        resampled=np.array(resampled),
        null=np.array(null),
        floor=float(floor),
    )


def _counting(measured: Measured) -> int:
    """Number of clouds whose weight is not zero."""
    return len(measured) if measured.weights is None else int(np.count_nonzero(measured.weights))


def _single_type(truth: Measured) -> str:
    """The type of all jets, one that FPND knows."""
    assert truth.clouds is not None
    names: list[str] = []
    if "type" in truth.clouds.schema.cloud_names:
        categories = truth.clouds.schema.cloud("type").categories
        names = [categories[int(number)] for number in np.unique(truth.clouds.feature("type"))]
    if len(names) != 1 or names[0] not in FPND_TYPES:
        raise DataError(
            f"FPND: the true jets have {'the types ' + ', '.join(names) if names else 'no type'}; "
            f"expected all of one of {', '.join(FPND_TYPES)}"
        )
    return names[0]
