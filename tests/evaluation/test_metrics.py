"""Wasserstein distances, their errors and floors against closed forms."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from pcdiff.errors import DataError
from pcdiff.evaluation.metrics import _resamples, _weighted_wasserstein, compare, wasserstein
from pcdiff.physics import Measured, measure


def cloud_values(name, values):
    """One value a cloud of one observable."""
    return Measured("jets", np.ones(len(values), np.int64), {name: np.asarray(values, np.float64)})


def point_values(name, values, size):
    return Measured("jets", np.full(len(values) // size, size), {name: np.asarray(values, np.float64)})


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_distance_of_shifted_and_scaled_samples():
    x = np.random.default_rng(0).normal(size=1000)
    assert wasserstein(x, x + 0.25) == pytest.approx(0.25, rel=1e-12)
    assert wasserstein(x, x - 3.0) == pytest.approx(3.0, rel=1e-12)
    # Scaling by a > 1 moves each quantile x to a x.
    assert wasserstein(x, 1.5 * x) == pytest.approx(0.5 * np.abs(x).mean(), rel=1e-12)
    assert wasserstein(4 * x, 4 * x**2) == pytest.approx(4 * wasserstein(x, x**2), rel=1e-12)
    assert wasserstein(x, x) == 0.0


def test_weighted_distance_is_scipys_and_exactly_zero_for_equal_samples():
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    values = np.round(rng.normal(size=len(owners)), 1)  # with ties
    first, second = _resamples(rng, 40, 25, 3), _resamples(rng, 40, 60, 3)
    assert (first.sum(axis=1) == 25).all()
    found = _weighted_wasserstein(values, owners, first, second)
    expected = [wasserstein_distance(values, values, a[owners], b[owners]) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (_weighted_wasserstein(values, owners, first, 2 * first) == 0).all()


def test_floor_of_a_uniform_truth_is_that_of_the_brownian_bridge():
    """For U(0, 1), E W1 = sqrt(1/n + 1/m) E int |B| = sqrt(1/n + 1/m) sqrt(2 pi) / 8, with variance 7/60 - pi/32."""
    n, m, draws = 4000, 1000, 200
    truth = cloud_values("mass", np.random.default_rng(2).uniform(size=n))
    (metric,) = compare(truth, cloud_values("mass", np.random.default_rng(3).uniform(size=m)), draws=draws)
    scale = np.sqrt(1 / n + 1 / m)
    mean, std = scale * np.sqrt(2 * np.pi) / 8, scale * np.sqrt(7 / 60 - np.pi / 32)
    # 5 standard errors of the mean of the draws, and 3 % for the truth's own fluctuation and the next order in 1/n.
    assert abs(metric.floor - mean) < 5 * std / np.sqrt(draws) + 0.03 * mean
    # The norm of the bridge has a kurtosis of about 5: the error of a standard deviation is sqrt((5 - 1) / 4 / draws).
    assert abs(metric.floor_error - std) < 5 * std * np.sqrt(1 / draws)
    # The independent sample fluctuates as the floor says.
    assert abs(metric.value - metric.floor) < 6 * metric.floor_error
    assert metric.resampled > metric.value


def test_measured_floor_is_the_mean_over_pieces_of_the_reference():
    rng = np.random.default_rng(4)
    truth, sample, reference = (rng.normal(size=size) for size in (300, 100, 250))
    (metric,) = compare(
        cloud_values("mass", truth), cloud_values("mass", sample), reference=cloud_values("mass", reference)
    )
    expected = (wasserstein(truth, reference[:100]) + wasserstein(truth, reference[100:200])) / 2
    assert metric.floor == pytest.approx(expected, rel=1e-12)
    points = [np.repeat(values, 3) for values in (truth, sample, reference)]
    (same,) = compare(
        *(point_values("etarel", p, 3) for p in points[:2]), reference=point_values("etarel", points[2], 3)
    )
    assert same.floor == pytest.approx(expected, rel=1e-12)


def test_points_that_repeat_their_cloud_carry_no_more_information_than_the_cloud():
    size, n = 16, 400
    truth, sample = np.random.default_rng(5).normal(size=n), np.random.default_rng(6).normal(size=n)
    (cloud,) = compare(cloud_values("mass", truth), cloud_values("mass", sample), draws=60)
    repeated = [np.repeat(values, size) for values in (truth, sample)]
    (point,) = compare(*(point_values("etarel", values, size) for values in repeated), draws=60)
    for field in ("value", "error", "floor", "floor_error", "resampled"):
        assert getattr(point, field) == pytest.approx(getattr(cloud, field), rel=1e-9)
    # Taken as independent, the points would make the floor too small by sqrt(size); 5 standard errors of both means.
    (naive,) = compare(*(cloud_values("mass", values) for values in repeated), draws=60)
    relative = np.hypot(naive.floor_error / naive.floor, cloud.floor_error / cloud.floor) / np.sqrt(60)
    assert point.floor / naive.floor == pytest.approx(np.sqrt(size), rel=5 * relative + 0.05)
    assert point.error > 2 * naive.error


def test_a_spoiled_sample_is_caught_and_a_true_one_is_not(toy_jets):
    truth = measure(toy_jets(3000, 1))
    good = by_name(compare(truth, measure(toy_jets(3000, 2))))
    assert max(metric.pull for metric in good.values()) < 4
    bad = by_name(compare(truth, measure(toy_jets(3000, 2, scale=1.1))))
    assert bad["w1_total_ptrel"].pull > 5
    assert bad["w1_ptrel"].pull > 5
    assert bad["w1_pt"].pull > 5
    # What was not touched is not blamed.
    for name in ("w1_etarel", "w1_phirel", "w1_multiplicity", "w1_eta"):
        assert bad[name] == good[name]


def test_w1p_is_the_mean_over_the_constituent_features(toy_jets):
    metrics = by_name(compare(measure(toy_jets(500, 1)), measure(toy_jets(400, 2))))
    parts = [metrics[f"w1_{name}"] for name in ("etarel", "phirel", "ptrel")]
    for field in ("value", "resampled", "floor"):
        assert getattr(metrics["w1p"], field) == pytest.approx(np.mean([getattr(part, field) for part in parts]))


def test_every_number_states_its_sample_sizes_and_is_json(toy_jets):
    metrics = compare(measure(toy_jets(200, 1)), measure(toy_jets(100, 2)), draws=7)
    for metric in metrics:
        data = json.loads(json.dumps(metric.to_dict(), allow_nan=False))
        assert (data["truth_size"], data["sample_size"], data["draws"]) == (200, 100, 7)
        assert data["floor"] > 0


def test_same_seed_same_numbers(toy_jets):
    truth, sample = measure(toy_jets(200, 1)), measure(toy_jets(100, 2))
    assert compare(truth, sample, seed=3) == compare(truth, sample, seed=3)
    assert compare(truth, sample, seed=3) != compare(truth, sample, seed=4)


def test_small_samples_warn_and_large_ones_do_not(toy_jets):
    truth = measure(toy_jets(3000, 1))
    assert all(
        "too few clouds" in by_name(compare(truth, measure(toy_jets(40, 2))))[f"w1_{name}"].warning
        for name in ("mass", "pt", "multiplicity")
    )
    assert not any(metric.warning for metric in compare(truth, measure(toy_jets(3000, 2))))


def test_constants_have_no_undefined_pull():
    same, other = cloud_values("multiplicity", np.full(50, 30.0)), cloud_values("multiplicity", np.full(40, 29.0))
    assert compare(same, same)[0].pull == 0.0
    (metric,) = compare(same, other)
    assert (metric.value, metric.floor, metric.pull) == (1.0, 0.0, None)


def test_refusals():
    truth, sample = cloud_values("mass", np.arange(20.0)), cloud_values("mass", np.arange(10.0))
    with pytest.raises(DataError, match="draws is 1; expected at least 2"):
        compare(truth, sample, draws=1)
    with pytest.raises(DataError, match="reference has 9 clouds, expected at least as many as the sample's 10"):
        compare(truth, sample, reference=cloud_values("mass", np.arange(9.0)))


def test_twenty_draws_of_thousands_of_jets_take_seconds():
    rng = np.random.default_rng(0)
    names = ("relative_mass", "mass", "pt", "eta"), ("etarel", "phirel", "ptrel")

    def jets(n):
        values = {name: rng.normal(size=n) for name in names[0]} | {name: rng.normal(size=30 * n) for name in names[1]}
        return Measured("jets", np.full(n, 30), values)

    truth, sample = jets(6000), jets(10000)
    start = time.process_time()
    compare(truth, sample, draws=20)
    assert time.process_time() - start < 10
