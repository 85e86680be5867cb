from __future__ import annotations

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.memorisation import (
    duplicates,
    memorisation,
    nearest_distances,
    projections,
    repetition_metrics,
)
from pcdiff.evaluation.transport import energy_movers_distances
from pcdiff.physics import Measured
from pcdiff.resources import find


@pytest.fixture(scope="module")
def gluons() -> PointClouds:
    """22,000 real-physics jets, in an order that mixes the files."""
    parts = [pcdiff.read(find(f"datasets/jets/gluon30_{name}.hdf5")) for name in ("train", "test")]
    return PointClouds.concatenate(parts)


def shuffled(clouds: PointClouds, seed: int) -> PointClouds:
    return clouds[np.random.default_rng(seed).permutation(len(clouds))]


def jittered(clouds: PointClouds, relative: float, seed: int) -> PointClouds:
    """Momenta and angles multiplied by 1 + a small normal number."""
    rng = np.random.default_rng(seed)
    points = {
        name: clouds.column(name) * (1 + relative * rng.normal(size=clouds.num_points))
        for name in clouds.schema.point_names
    }
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(
        {name: points[name].astype(np.float32) for name in points}, clouds.offsets, features, clouds.schema
    )


@pytest.mark.parametrize("extent", [0.5, 1.0])
def test_projections_bound_the_distance_from_below(gluons: PointClouds, toy_jets, extent: float) -> None:
    # Toy jets differ in total ptrel, which the bound must not overcount.
    for clouds in (gluons[:60], toy_jets(60, seed=1)):
        distances = energy_movers_distances(clouds, clouds)
        vectors = projections(clouds, extent)
        bounds = np.abs(vectors[:, None] - vectors[None]).sum(axis=-1).max(axis=-1)
        assert (bounds <= distances + 1e-12).all()
        # Two thirds of the distance or so, or candidates would not be found.
        assert np.median(bounds[distances > 0] / distances[distances > 0]) > 0.5


def test_the_nearest_jet_is_that_of_all_distances(gluons: PointClouds) -> None:
    clouds, bank = gluons[:40], gluons[1000:1800]
    distances = energy_movers_distances(clouds, bank)
    found = nearest_distances(clouds, bank, candidates=len(bank))
    assert found.proven.all()
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(found.index, distances.argmin(axis=1))
    # What is said to be proven is right with few candidates too, and what is found is never too near.
    few = nearest_distances(clouds, bank, candidates=8)
    assert 0 < few.proven.sum() < len(clouds)
    np.testing.assert_allclose(few.distance[few.proven], distances.min(axis=1)[few.proven], rtol=1e-12)
    assert (few.distance >= distances.min(axis=1) - 1e-12).all()


def test_copies_are_found_where_they_are(gluons: PointClouds) -> None:
    bank = gluons[:1000]
    order = np.random.default_rng(2).integers(1000, size=30)
    found = nearest_distances(bank[order], bank, candidates=16)
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.distance, 0, atol=1e-12)
    assert found.proven.all()


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_two_per_cent_of_copies_are_caught(gluons: PointClouds, jitter: float) -> None:
    clouds = shuffled(gluons, seed=3)
    training, test, fresh = clouds[:4000], clouds[4000:6000], clouds[6000:8000]
    copies = jittered(training[:40], jitter, seed=4) if jitter else training[:40]
    share, ratio = memorisation(PointClouds.concatenate([fresh[40:], copies]), training, test, candidates=16)
    # 20 + 40 of 2,000 where 20 are expected: 4.6 standard deviations, of which 3 must be left.
    assert share.pull is not None
    assert share.pull > 3
    assert ratio.pull is not None
    assert abs(ratio.pull) < 4


def test_an_independent_sample_is_not_flagged(gluons: PointClouds) -> None:
    shares, ratios = [], []
    for seed in range(6):
        clouds = shuffled(gluons, seed=10 + seed)
        share, ratio = memorisation(clouds[2000:2600], clouds[:2000], clouds[2600:3200], candidates=8, clouds=600)
        shares.append(share.pull)
        ratios.append(ratio.pull)
    # Six pulls of variance at most 1: none beyond four, and their mean within four of its standard errors.
    assert np.abs([shares, ratios]).max() < 4
    assert np.abs(np.mean([shares, ratios], axis=1)).max() < 4 / np.sqrt(6)


def test_jets_nearer_to_training_everywhere_have_a_smaller_ratio(gluons: PointClouds) -> None:
    training, test = gluons[:1000], gluons[2000:3000]
    share, ratio = memorisation(jittered(training, 0.1, seed=5), training, test, candidates=8)
    assert ratio.value < 1
    for metric in (share, ratio):
        assert metric.pull is not None
        assert metric.pull > 3


def test_two_per_cent_of_duplicates_are_caught_and_truth_is_not(gluons: PointClouds) -> None:
    clouds = shuffled(gluons, seed=6)
    truth, sample = clouds[:6000], clouds[6000:12_000]
    doubled = PointClouds.concatenate([sample[:5880], sample[:120]])
    found = duplicates(doubled, truth)
    # 120 copies and their 120 originals of 6,000.
    assert found.value == pytest.approx(0.01 + 240 / 6000, abs=4 * found.error)
    assert found.pull is not None
    assert found.pull > 5
    pulls = [
        duplicates(other[:3000], other[3000:6000], seed=seed).pull
        for seed, other in ((seed, shuffled(gluons, seed=20 + seed)) for seed in range(12))
    ]
    # Twelve pulls of variance at most 1.
    assert np.abs(pulls).max() < 4
    assert abs(np.mean(pulls)) < 4 / np.sqrt(12)


def test_same_seed_same_numbers(gluons: PointClouds) -> None:
    one, again, other = (
        duplicates(gluons[:3000], gluons[3000:6000], clouds=1000, seed=seed).value for seed in (1, 1, 2)
    )
    assert one == again != other


def test_metrics_of_small_or_other_sets(gluons: PointClouds) -> None:
    def measured(clouds: PointClouds) -> Measured:
        values = {name: clouds.column(name).astype(np.float64) for name in ("etarel", "phirel", "ptrel")}
        return Measured("jets", clouds.counts, values, clouds=clouds)

    truth, sample = measured(gluons[:600]), measured(gluons[600:1200])
    assert [metric.name for metric in repetition_metrics(truth, sample, None, seed=0)] == ["duplicates"]
    names = [metric.name for metric in repetition_metrics(truth, sample, gluons[2000:2500], seed=0)]
    assert names == ["duplicates", "near_training", "nearest_training_ratio"]
    assert repetition_metrics(truth, measured(gluons[:400]), None, seed=0) == []
    assert repetition_metrics(Measured("vectors", truth.counts, {}), sample, None, seed=0) == []


def test_bad_input_is_refused(gluons: PointClouds) -> None:
    with pytest.raises(DataError, match=r"found 0 jets to compare with and 64 candidates"):
        nearest_distances(gluons[:2], gluons[:0])
    with pytest.raises(DataError, match=r"100 jets of either set are too few for a quantile of 0.01"):
        duplicates(gluons[:100], gluons[:200])
