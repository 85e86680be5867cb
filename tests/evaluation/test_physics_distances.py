from __future__ import annotations

import numpy as np
import pytest

from pcdiff.errors import DataError
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


def rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_commuting_covariances_have_a_closed_form() -> None:
    # With a common basis: |mean difference|^2 + sum of (difference of standard deviations)^2.
    rng = np.random.default_rng(1)
    q = rotation(8, 2)
    one, two = rng.uniform(0.1, 3, 8), rng.uniform(0.1, 3, 8)
    mean = rng.normal(size=8)
    found = frechet_distance(mean, q @ np.diag(one**2) @ q.T, np.zeros(8), q @ np.diag(two**2) @ q.T)
    assert found == pytest.approx(mean @ mean + ((one - two) ** 2).sum(), rel=1e-12)


def test_singular_covariances_and_equal_ones() -> None:
    # A line of length 3 against one of length 4 at a right angle: nothing overlaps.
    one, two = np.diag([9.0, 0.0]), np.diag([0.0, 16.0])
    assert frechet_distance(np.zeros(2), one, np.zeros(2), two) == pytest.approx(25.0)
    q = rotation(36, 3)
    covariance = q @ np.diag(np.logspace(-12, 0, 36)) @ q.T
    found = frechet_distance(np.zeros(36), covariance, np.zeros(36), covariance)
    assert 0 <= found < 1e-14


def test_frechet_distance_is_symmetric_and_turns_with_the_axes() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 6, 9))
    one, two, mean, q = a @ a.T, b @ b.T, rng.normal(size=6), rotation(6, 5)
    found = frechet_distance(mean, one, np.zeros(6), two)
    assert frechet_distance(np.zeros(6), two, mean, one) == pytest.approx(found, rel=1e-12)
    assert frechet_distance(q @ mean, q @ one @ q.T, np.zeros(6), q @ two @ q.T) == pytest.approx(found, rel=1e-12)


def test_moments_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(6)
    features = 100 + rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 5))
    counts = rng.integers(0, 4, size=(2, 3000))
    means, covariances = moments(features, counts)
    for count, mean, covariance in zip(counts, means, covariances, strict=True):
        rows = np.repeat(features, count, axis=0)
        np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False, bias=True), rtol=1e-9)


def test_fpd_of_shifted_gaussians_is_the_squared_shift() -> None:
    # Scaling by the largest value of a real feature divides the shift of 3 in one of four features.
    rng = np.random.default_rng(7)
    real, generated = rng.normal(size=(2, 30_000, 4))
    generated[:, 0] += 3
    found, error = frechet_physics_distance(real, generated)
    expected = (3 / np.abs(real[:, 0]).max()) ** 2
    # The mean of a shift has the standard deviation sqrt(2 / n): four of these.
    assert found == pytest.approx(expected, abs=4 * 2 * np.sqrt(expected) * np.sqrt(2 / 30_000) / np.abs(real).max())
    assert error < 0.01 * expected


def test_extrapolation_finds_what_the_slope_leaves_over() -> None:
    sizes = resample_sizes()
    assert sizes[0] == 20_000
    assert sizes[-1] in (49_999, 50_000)
    np.testing.assert_allclose(np.diff(1 / sizes), -3e-5 / 9, rtol=1e-3)
    # The library's fit stops with a slope too small: the intercept is too large, by at most what the whole slope adds on average, give
    # or take a hundredth of that for where the iteration stops.
    distances = 1e-3 + 3.0 / sizes
    found, _ = extrapolated(sizes, distances)
    added = np.mean(3.0 / sizes)
    assert 0.1 * added < found - 1e-3 < 1.01 * added
    # Without a slope there is nothing to leave over.
    assert extrapolated(sizes, np.full(10, 2.5))[0] == pytest.approx(2.5, rel=1e-4)


def test_kernel_sums_match_the_definition() -> None:
    rng = np.random.default_rng(8)
    x = rng.uniform(-1, 1, size=(700, 3))
    first, second = rng.integers(1, 4, size=(2, 2, 700)).astype(float)
    kernel = (x @ x.T / 3 + 1) ** 4
    for one, two, found in zip(first, second, kernel_discrepancy(x, first, second), strict=True):
        p, q = one / one.sum(), two / two.sum()
        assert found == pytest.approx(p @ kernel @ p + q @ kernel @ q - 2 * p @ kernel @ q, rel=1e-6, abs=1e-14)


def test_kpd_of_equal_distributions_averages_to_the_plug_in_distance() -> None:
    # The estimate of a batch is unbiased for the two sets as they are; the median of ten is off by less than four of its errors.
    rng = np.random.default_rng(9)
    real, generated = rng.normal(size=(2, 20_000, 4))
    value, error = kernel_physics_distance(real, generated)
    x, y = scaled(real, generated)
    both = np.concatenate([x, y])
    ones = np.repeat([[1.0], [0.0]], 20_000).reshape(1, -1)
    plug_in = kernel_discrepancy(both, ones, 1 - ones)[0]
    assert plug_in > 0
    assert abs(value - plug_in) < 4 * error / np.sqrt(10) * 1.25


def test_weights_stand_for_repeated_clouds() -> None:
    rng = np.random.default_rng(10)
    real = rng.normal(size=(20_000, 3))
    generated = rng.normal(size=(20_000, 3))
    counts = rng.integers(0, 3, 20_000) * (generated[:, 0] > 0)
    repeated = np.repeat(generated, counts, axis=0)
    for distance in (frechet_physics_distance, kernel_physics_distance):
        value, error = distance(real, generated, generated_weights=counts.astype(float))
        again, other = distance(real, repeated)
        # Same distribution, other draws; the scatter of FPD over draws is within a few per cent here.
        assert value == pytest.approx(again, abs=4 * np.hypot(error, other) + 0.02 * again)


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    real, generated = np.random.default_rng(11).normal(size=(2, 5000, 3))
    for distance in (frechet_physics_distance, kernel_physics_distance):
        assert distance(real, generated) == distance(real, generated)
        assert distance(real, generated) != distance(real, generated, seed=43)


def test_bad_input_is_refused() -> None:
    good = np.ones((10, 2)) * np.arange(10)[:, None]
    with pytest.raises(DataError, match=r"found shapes \(10, 2\) and \(10, 1\)"):
        frechet_physics_distance(good, good[:, :1])
    with pytest.raises(DataError, match=r"generated features: found 1 clouds, expected at least 2"):
        kernel_physics_distance(good, good[:1])
    with pytest.raises(DataError, match=r"real features: 1 values are not finite"):
        kernel_physics_distance(np.where(good == 9, np.nan, good)[:, :1], good[:, :1])
    with pytest.raises(DataError, match=r"real weights: expected 10 finite numbers"):
        kernel_physics_distance(good, good, real_weights=np.zeros(10))
    with pytest.raises(DataError, match=r"found 2 sizes from 20000 to 50000"):
        frechet_physics_distance(good, good, sizes=2)
    with pytest.raises(DataError, match=r"found 1 batches of 5000"):
        kernel_physics_distance(good, good, batches=1)
