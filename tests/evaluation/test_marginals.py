"""Metrics of single observables, their errors and floors against closed forms."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import wasserstein_distance

from pcdiff.errors import DataError
from pcdiff.evaluation import marginals
from pcdiff.evaluation.binning import Binned, bins
from pcdiff.evaluation.marginals import marginal_metrics, wasserstein, weighted_wasserstein
from pcdiff.evaluation.metric import Resamples
from pcdiff.physics import Measured, Profile, measure, observables


def cloud_values(name, values):
    """One value a cloud of one observable."""
    return Measured("jets", np.ones(len(values), np.int64), {name: np.asarray(values, np.float64)})


def point_values(name, values, size):
    return Measured("jets", np.full(len(values) // size, size), {name: np.asarray(values, np.float64)})


def compare(truth, sample, *, reference=None, draws=20, seed=0):
    return marginal_metrics(truth, sample, Resamples.draw(truth, sample, draws, seed), reference=reference)


def w1(truth, sample, **chosen):
    """The only Wasserstein distance of sets with one observable."""
    (metric,) = (metric for metric in compare(truth, sample, **chosen) if metric.name.startswith("w1_"))
    return metric


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
    first, second = (rng.multinomial(size, np.full(40, 1 / 40), 3).astype(np.float64) for size in (25, 60))
    found = weighted_wasserstein(values, owners, first, second)
    expected = [wasserstein_distance(values, values, a[owners], b[owners]) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (weighted_wasserstein(values, owners, first, 2 * first) == 0).all()


def test_floor_of_a_uniform_truth_is_that_of_the_brownian_bridge():
    """For U(0, 1), E W1 = sqrt(1/n + 1/m) E int |B| = sqrt(1/n + 1/m) sqrt(2 pi) / 8, with variance 7/60 - pi/32."""
    n, m, draws = 4000, 1000, 200
    truth = cloud_values("mass", np.random.default_rng(2).uniform(size=n))
    metric = w1(truth, cloud_values("mass", np.random.default_rng(3).uniform(size=m)), draws=draws)
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
    metric = w1(cloud_values("mass", truth), cloud_values("mass", sample), reference=cloud_values("mass", reference))
    expected = (wasserstein(truth, reference[:100]) + wasserstein(truth, reference[100:200])) / 2
    assert metric.floor == pytest.approx(expected, rel=1e-12)
    points = [np.repeat(values, 3) for values in (truth, sample, reference)]
    same = w1(*(point_values("etarel", p, 3) for p in points[:2]), reference=point_values("etarel", points[2], 3))
    assert same.floor == pytest.approx(expected, rel=1e-12)


def test_points_that_repeat_their_cloud_carry_no_more_information_than_the_cloud():
    size, n = 16, 400
    truth, sample = np.random.default_rng(5).normal(size=n), np.random.default_rng(6).normal(size=n)
    cloud = w1(cloud_values("mass", truth), cloud_values("mass", sample), draws=60)
    repeated = [np.repeat(values, size) for values in (truth, sample)]
    point = w1(*(point_values("etarel", values, size) for values in repeated), draws=60)
    for field in ("value", "error", "floor", "floor_error", "resampled"):
        assert getattr(point, field) == pytest.approx(getattr(cloud, field), rel=1e-9)
    # Taken as independent, the points would make the floor too small by sqrt(size); 5 standard errors of both means.
    naive = w1(*(cloud_values("mass", values) for values in repeated), draws=60)
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
    for name in ("w1_etarel", "w1_phirel", "w1_multiplicity", "w1_eta", "chi2_etarel", "triangular_multiplicity"):
        assert bad[name].pull == pytest.approx(good[name].pull, rel=1e-9)


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
    assert w1(same, same).pull == 0.0
    metric = w1(same, other)
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


def gaussians(shift, sizes, seed):
    rng = np.random.default_rng(seed)
    return cloud_values("mass", rng.normal(100, 20, sizes[0])), cloud_values(
        "mass", rng.normal(100 + shift, 20, sizes[1])
    )


def test_triangular_discriminator_of_equal_and_of_separate_samples_is_zero_and_one():
    truth, _ = gaussians(0, (2000, 1), 0)
    assert by_name(compare(truth, truth))["triangular_mass"].value == 0
    # Far outside: all entries in the outermost bin, which holds a share f of the truth; then the sum is (1 - f) / 1 to order f.
    away = cloud_values("mass", np.full(1000, 1e4))
    edges = bins(observables("jets")["mass"], truth.values["mass"])
    share = np.mean(truth.values["mass"] >= edges[-2])
    expected = 0.5 * ((1 - share) ** 2 / (1 + share) + (1 - share))
    assert by_name(compare(truth, away))["triangular_mass"].value == pytest.approx(expected, rel=1e-12)


def test_chi_squared_of_one_entry_a_cloud_follows_its_distribution():
    """Mean 1 and variance 2 / (B - 1) for B bins, over pairs of samples of one truth."""
    found = [by_name(compare(*gaussians(0, (1500, 1000), seed)))["chi2_mass"] for seed in range(60)]
    values = np.array([metric.value for metric in found])
    ndf = len(bins(observables("jets")["mass"], gaussians(0, (1500, 1), 0)[0].values["mass"])) - 2
    expected = np.sqrt(2 / ndf)
    assert abs(values.mean() - 1) < 4 * expected / np.sqrt(60)
    assert abs(values.std() / expected - 1) < 4 / np.sqrt(2 * 60)
    # The floors, which come from one truth each, say the same.
    assert abs(np.mean([metric.floor for metric in found]) - 1) < 0.05
    assert abs(np.mean([metric.floor_error for metric in found]) / expected - 1) < 0.1


def test_chi_squared_treats_the_points_of_a_cloud_as_one():
    truth, sample = gaussians(0, (1500, 1000), 3)
    cloud = by_name(compare(truth, sample))["chi2_mass"]
    repeated = (point_values("etarel", np.repeat(side.values["mass"], 8), 8) for side in (truth, sample))
    point = by_name(compare(*repeated))["chi2_etarel"]
    # Eight equal entries change the bins (there are more entries to fill them), not the size of chi-squared.
    assert point.floor == pytest.approx(cloud.floor, abs=4 * cloud.floor_error / np.sqrt(20))


@pytest.mark.parametrize("name", ["w1_mass", "chi2_mass", "triangular_mass"])
def test_pulls_of_the_truth_are_small_and_rarely_large(name):
    pulls = np.array([by_name(compare(*gaussians(0, (800, 600), 100 + s)))[name].pull for s in range(150)])
    # The error holds that of the floor and of the value, which is more than the spread of the value alone.
    assert abs(pulls.mean()) < 0.35
    assert 0.3 < pulls.std() < 1.1
    assert (pulls > 3).mean() < 0.03


def test_a_shift_is_seen_and_moves_chi_squared_by_its_noncentrality():
    """A shift of delta standard deviations adds n m / (n + m) delta^2 to the sum over bins, where bins are fine."""
    n, delta = 6000, 0.2
    truth, sample = gaussians(20 * delta, (n, n), 7)
    found = by_name(compare(truth, sample))
    edges = bins(observables("jets")["mass"], truth.values["mass"])
    noncentrality, count = n / 2 * delta**2, len(edges) - 1
    expected, error = 1 + noncentrality / count, np.sqrt(2 * count + 4 * noncentrality) / count
    assert abs(found["chi2_mass"].value - expected) < 4 * error
    # Triangular of two Gaussians is delta^2 / 4 for small delta, plus the noise of the bins.
    noise = found["triangular_mass"].floor
    assert found["triangular_mass"].value - noise == pytest.approx(delta**2 / 4, rel=4 * error / expected)
    # W1 is the shift itself.
    assert abs(found["w1_mass"].value - 20 * delta) < 4 * found["w1_mass"].error
    assert all(found[f"{kind}_mass"].pull > 4 for kind in ("w1", "chi2", "triangular"))


def test_weights_that_undo_a_bias_take_the_difference_away():
    """Of a sample drawn from q, weights p / q make one of p, with fewer effective clouds."""
    rng = np.random.default_rng(8)
    truth = cloud_values("mass", rng.normal(100, 20, 5000))
    x = rng.normal(104, 20, 20000)
    weights = np.exp((4**2 - 2 * 4 * (x - 100)) / (2 * 20**2))
    plain = by_name(compare(truth, cloud_values("mass", x)))
    weighted = Measured("jets", np.ones(len(x), np.int64), {"mass": x}, weights=weights / weights.mean())
    assert weighted.effective_size == pytest.approx(20000 / np.exp(0.2**2), rel=0.02)
    found = by_name(compare(truth, weighted))
    for name in ("w1_mass", "chi2_mass", "triangular_mass"):
        assert plain[name].pull > 5
        assert abs(found[name].pull) < 3


def test_equal_weights_of_any_size_change_nothing():
    truth, sample = gaussians(0, (300, 200), 9)
    same = Measured("jets", sample.counts, sample.values, weights=np.ones(200))
    assert compare(truth, same) == compare(truth, sample)


def test_contents_of_weighted_bins_have_the_variance_of_many_samples():
    rng = np.random.default_rng(10)
    mass = observables("jets")["mass"]
    edges = np.array([0.0, 0.3, 0.6, 1.0])

    def drawn():
        x = rng.uniform(size=400)
        return Binned.of_observable(mass, Measured("jets", np.ones(400, np.int64), {"mass": x}, weights=1 + x), edges)

    many = [drawn() for _ in range(400)]
    means, variances = np.array([b.mean for b in many]), np.array([b.variance for b in many])
    # Share of a bin: the integral of 1 + x over it, divided by 3/2.
    expected = np.diff(edges + edges**2 / 2) / 1.5
    np.testing.assert_allclose(means.mean(axis=0), expected, atol=5 * means.std() / 20)
    # The standard error of a variance of 400 normal numbers is 7 %.
    np.testing.assert_allclose(means.var(axis=0), variances.mean(axis=0), rtol=5 * 0.07)


def test_a_profile_is_compared_by_what_clouds_put_into_its_bins(monkeypatch):
    """Two bins that each cloud fills with numbers of its own: the difference of means over its error, squared."""
    rng = np.random.default_rng(11)
    profile = Profile("made", "made profile", lambda clouds: clouds, (np.arange(4.0),), ("x",), "content")
    monkeypatch.setattr(marginals, "profiles", lambda kind: {"made": profile})

    def drawn(n, shift):
        contents = csr_array(rng.exponential(1.0, (n, 3)) + shift)
        return Measured("jets", np.ones(n, np.int64), {}, profiles={"made": contents})

    truth, sample = drawn(500, 0.0), drawn(400, 0.2)
    found = by_name(compare(truth, sample))["chi2_made"]
    one, other = (side.profiles["made"].toarray() for side in (truth, sample))
    difference = one.mean(axis=0) - other.mean(axis=0)
    expected = np.mean(difference**2 / (one.var(axis=0) / 500 + other.var(axis=0) / 400))
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.pull > 3
    assert found.about == "made"
