"""Bins, their contents and the statistical errors of these."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from pcdiff.evaluation.binning import Binned, bins, comparable
from pcdiff.physics import Measured, observables

JETS = observables("jets")


def cloud_values(name, values, weights=None):
    return Measured("jets", np.ones(len(values), np.int64), {name: np.asarray(values, np.float64)}, weights=weights)


@pytest.mark.parametrize("size", [1, 9, 30, 1000, 100_000])
@pytest.mark.parametrize("name", ["mass", "ptrel", "multiplicity"])
def test_bins_rise_and_hold_enough_of_the_truth(name, size):
    values = np.random.default_rng(size).gamma(2.0, 20.0, size)
    values = np.ceil(values) if name == "multiplicity" else values
    edges = bins(JETS[name], values)
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 121
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    assert counts.sum() == size
    # The fullest bin only stays thinner where there are not even so many values beside it.
    assert np.sum(counts < np.clip(size / 5, 5, 25)) <= 2
    if name == "multiplicity":
        assert (np.mod(edges, 1) == 0.5).all()


def test_bins_of_a_constant_and_of_zeros():
    assert bins(JETS["mass"], np.full(10, 3.0)).tolist() == [2.5, 3.5]
    assert bins(JETS["ptrel"], np.zeros(10)).tolist() == [-0.5, 0.5]
    assert bins(JETS["multiplicity"], np.full(10, 30.0)).tolist() == [29.5, 30.5]


def test_contents_are_shares_with_binomial_errors_and_keep_what_is_outside():
    values = np.array([-50.0, 0.5, 1.5, 1.5, 3.0, 99.0])
    found = Binned.of_observable(JETS["mass"], cloud_values("mass", values), np.array([0.0, 1.0, 2.0, 4.0]))
    share = np.array([2, 2, 2]) / 6
    np.testing.assert_allclose(found.mean, share)
    np.testing.assert_allclose(found.variance, share * (1 - share) / 6)
    assert found.filled.tolist() == [2, 2, 2]


def test_points_that_repeat_their_cloud_have_the_errors_of_the_cloud():
    values = np.random.default_rng(0).normal(size=200)
    edges = np.linspace(-3, 3, 11)
    repeated = Measured("jets", np.full(200, 9), {"etarel": np.repeat(values, 9)})
    one = Binned.of_observable(JETS["mass"], cloud_values("mass", values), edges)
    many = Binned.of_observable(JETS["etarel"], repeated, edges)
    np.testing.assert_allclose(many.mean, one.mean, rtol=1e-12)
    np.testing.assert_allclose(many.variance, one.variance, rtol=1e-9)


def test_errors_of_correlated_weighted_points_are_those_of_repeated_samples():
    """The variance formula against the spread over 400 samples; 5 standard errors of a variance."""
    edges = np.array([-10.0, -0.5, 0.0, 0.5, 10.0])
    rng = np.random.default_rng(1)

    def sample():
        counts = rng.integers(1, 9, 300)
        shared = np.repeat(rng.normal(size=300), counts)
        weights = rng.gamma(2.0, 0.5, 300)
        return Measured("jets", counts, {"etarel": shared + rng.normal(size=counts.sum())}, weights=weights)

    drawn = [Binned.of_observable(JETS["etarel"], sample(), edges) for _ in range(400)]
    spread = np.var([one.mean for one in drawn], axis=0, ddof=1)
    claimed = np.mean([one.variance for one in drawn], axis=0)
    np.testing.assert_allclose(claimed / spread, 1.0, atol=5 * np.sqrt(2 / 400))


def test_whole_weights_give_the_contents_of_copies():
    rng = np.random.default_rng(2)
    values, copies = rng.normal(size=50), rng.integers(0, 4, 50)
    edges = np.linspace(-2, 2, 6)
    weighted = Binned.of_observable(JETS["mass"], cloud_values("mass", values, copies.astype(np.float64)), edges)
    copied = Binned.of_observable(JETS["mass"], cloud_values("mass", np.repeat(values, copies)), edges)
    np.testing.assert_allclose(weighted.mean, copied.mean, rtol=1e-12)


def test_a_profile_is_the_mean_over_clouds_with_its_standard_error():
    rng = np.random.default_rng(3)
    contents = rng.poisson(0.7, (40, 5)).astype(np.float64)
    measured = Measured("jets", np.ones(40, np.int64), {}, {"made": csr_array(contents)})
    found = Binned.of_profile("made", measured)
    np.testing.assert_allclose(found.mean, contents.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, contents.var(axis=0) / 40, rtol=1e-12)
    assert found.filled.tolist() == (contents > 0).sum(axis=0).tolist()


def test_a_mean_over_pairs_has_the_errors_of_repeated_samples():
    """Of a profile with totals of its own: the variance formula against the spread over 400 samples; 5 standard errors of a variance."""
    rng = np.random.default_rng(4)

    def sample():
        totals = rng.gamma(3.0, 2.0, (200, 3))
        contents = totals * rng.normal([0.5, -1.0, 0.0], 0.3, (200, 3)) + rng.normal(size=(200, 3))
        weights = rng.gamma(2.0, 0.5, 200)
        measured = Measured(
            "halos", np.ones(200, np.int64), {}, {"made": csr_array(contents)}, weights=weights, totals={"made": totals}
        )
        return Binned.of_profile("made", measured)

    drawn = [sample() for _ in range(400)]
    means = [one.mean for one in drawn]
    spread = np.var(means, axis=0, ddof=1)
    np.testing.assert_allclose(np.mean(means, axis=0), [0.5, -1.0, 0.0], atol=5 * np.sqrt(spread.max() / 400))
    np.testing.assert_allclose(
        np.mean([one.variance for one in drawn], axis=0) / spread, 1.0, atol=5 * np.sqrt(2 / 400)
    )
    part = drawn[0].part(slice(1, 3))
    np.testing.assert_allclose(part.mean, drawn[0].mean[1:])
    np.testing.assert_allclose(part.variance, drawn[0].variance[1:])


def test_bins_without_anything_to_divide_by_are_zero():
    totals = np.array([[2.0, 0.0], [3.0, 0.0]])
    measured = Measured(
        "halos", np.ones(2, np.int64), {}, {"made": csr_array([[1.0, 0.0], [4.0, 0.0]])}, totals={"made": totals}
    )
    found = Binned.of_profile("made", measured)
    assert found.mean.tolist() == [1.0, 0.0]
    assert found.variance[1] == 0


@pytest.mark.parametrize(
    ("size", "filled", "enough"),
    [(1000, 25, True), (1000, 24, False), (24, 12, True), (24, 11, False), (12, 10, True), (9, 9, False)],
)
def test_bins_are_compared_where_enough_clouds_fill_them(size, filled, enough):
    contents = np.zeros((size, 1))
    contents[:filled, 0] = np.linspace(1, 2, filled)
    one = Binned(csr_array(contents), np.ones(size), np.ones(size))
    assert comparable(one, one).tolist() == [enough]


def test_few_boxes_have_few_bins_of_several_each():
    values = np.random.default_rng(6).normal(240, 15, 24)
    edges = bins(observables("halos")["velocity_dispersion"], values)
    assert len(edges) > 3
    assert (np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] >= 4).sum() >= 3
