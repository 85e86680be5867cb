from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation import published
from pcdiff.evaluation.metric import Metric, Resamples
from pcdiff.evaluation.physics_distances import frechet_physics_distance, kernel_physics_distance
from pcdiff.evaluation.published import published_metrics
from pcdiff.physics import Measured
from pcdiff.physics.jets import flow_polynomials, prime_columns
from pcdiff.resources import find


def measured(clouds: PointClouds, weights: np.ndarray | None = None) -> Measured:
    values = {name: clouds.column(name).astype(np.float64) for name in ("etarel", "phirel", "ptrel")}
    return Measured("jets", clouds.counts, values, weights=weights, polynomials=flow_polynomials(clouds), clouds=clouds)


def part(jets: Measured, where: slice | np.ndarray) -> Measured:
    clouds = jets.clouds[where]
    values = {name: clouds.column(name).astype(np.float64) for name in jets.values}
    return Measured("jets", clouds.counts, values, polynomials=jets.polynomials[where], clouds=clouds)


def wider(clouds: PointClouds, factor: float) -> PointClouds:
    """Angles multiplied by a factor."""
    points = {name: clouds.column(name) * (1 if name == "ptrel" else factor) for name in clouds.schema.point_names}
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(points, clouds.offsets, features, clouds.schema)


@pytest.fixture(scope="module")
def gluons() -> Measured:
    """6,000 jets with their polynomials."""
    return measured(pcdiff.read(find("datasets/jets/gluon30_test.hdf5")))


@pytest.fixture(autouse=True)
def no_resources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCDIFF_CACHE", str(tmp_path))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage of few jets, whose distances take most of the time."""
    monkeypatch.setattr(published, "_JETS", 25)
    monkeypatch.setattr(published, "_BATCHES", 6)


def compare(truth: Measured, sample: Measured, seed: int = 0, *, fpnd: bool = False) -> dict[str, Metric]:
    metrics = published_metrics(truth, sample, Resamples.draw(truth, sample, 20, seed), seed=seed, fpnd=fpnd)
    return {metric.name: metric for metric in metrics}


def test_values_are_those_of_the_definitions(gluons: Measured, small_batches: None) -> None:
    truth, sample = part(gluons, slice(0, 900)), part(gluons, slice(900, 1500))
    found = compare(truth, sample)
    assert list(found) == ["w1efp", "fpd", "kpd", "coverage", "mmd"]
    assert all(metric.group == "published" and metric.unit == "" for metric in found.values())
    assert found["fpd"].title == "FPD, 36 EFPs"
    assert found["coverage"].title == "Cov, coverage, 25 jets x 6"
    assert (found["kpd"].truth_size, found["kpd"].sample_size) == (900, 600)
    real, generated = truth.polynomials, sample.polynomials
    single = [wasserstein_distance(real[:, column], generated[:, column]) for column in prime_columns()]
    assert len(single) == 5
    assert found["w1efp"].value == pytest.approx(np.mean(single), rel=1e-9)
    assert found["fpd"].value == frechet_physics_distance(real, generated)[0]
    assert (found["kpd"].value, found["kpd"].error) == kernel_physics_distance(real, generated)


def test_truth_against_truth_is_at_the_floor(gluons: Measured, small_batches: None) -> None:
    pulls: dict[str, list[float]] = {}
    for seed in range(8):
        order = np.random.default_rng(100 + seed).permutation(len(gluons))
        for name, metric in compare(part(gluons, order[:1000]), part(gluons, order[1000:1700]), seed).items():
            assert metric.pull is not None
            pulls.setdefault(name, []).append(metric.pull)
    for name, values in pulls.items():
        # Eight pulls whose variance is at most 1, as the error counts fluctuations that are in the floor's spread too.
        assert np.abs(values).max() < 4, name
        assert abs(np.mean(values)) < 4 / np.sqrt(8), name


def test_jets_that_are_too_wide_are_seen(gluons: Measured, small_batches: None) -> None:
    truth = part(gluons, slice(0, 3000))
    found = compare(truth, measured(wider(gluons.clouds[3000:], 1.2)))
    for name in ("w1efp", "fpd", "kpd"):
        assert found[name].pull is not None
        assert found[name].pull > 3, name


def test_a_missing_kind_of_jets_lowers_coverage_and_raises_mmd(gluons: Measured) -> None:
    truth = part(gluons, slice(0, 3000))
    # The eighth of narrowest jets only, each four times: nothing is near the wide ones.
    width = gluons.polynomials[3000:, 1]
    narrow = np.repeat(3000 + np.argsort(width)[:375], 4)
    found = compare(truth, part(gluons, narrow))
    for name in ("coverage", "mmd"):
        assert found[name].pull is not None
        assert found[name].pull > 3, name
    assert found["coverage"].value < found["coverage"].floor
    assert found["mmd"].value > found["mmd"].floor


def test_weights_stand_for_repeated_jets(gluons: Measured, small_batches: None) -> None:
    truth, sample = part(gluons, slice(0, 1000)), part(gluons, slice(1000, 1600))
    counts = np.random.default_rng(3).integers(0, 3, 600)
    weighted = compare(truth, replace(sample, weights=counts / counts.mean()))
    repeated = compare(truth, part(gluons, np.repeat(np.arange(1000, 1600), counts)))
    assert weighted["w1efp"].value == pytest.approx(repeated["w1efp"].value, rel=1e-9)
    # The others draw, and other jets: four standard errors of each.
    for name in ("fpd", "kpd", "coverage", "mmd"):
        one, two = weighted[name], repeated[name]
        assert abs(one.value - two.value) < 4 * np.hypot(one.error, two.error), name


def test_what_the_sets_do_not_determine_is_left_out(gluons: Measured) -> None:
    truth, sample = part(gluons, slice(0, 250)), part(gluons, slice(250, 320))
    assert list(compare(truth, sample)) == ["w1efp", "fpd", "kpd"]
    assert compare(replace(truth, polynomials=None), sample) == {}
    assert compare(Measured("vectors", truth.counts, {}), Measured("vectors", sample.counts, {})) == {}


def test_fpnd_comes_with_the_truths_own_as_its_floor(gluons: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    # In place of the network's: multiplicity and ptrel of the first constituent; in place of the distance: their weighted mean.
    def activations(clouds: PointClouds) -> np.ndarray:
        return np.stack([clouds.counts, clouds.column("ptrel")[clouds.offsets[:-1]]], axis=1)

    monkeypatch.setattr(published, "activations", activations)
    monkeypatch.setattr(
        published, "frechet_from_real", lambda found, weights, type: (weights @ found[:, 1]) / weights.sum(axis=1)
    )
    truth, sample = part(gluons, slice(0, 150)), part(gluons, slice(150, 250))
    assert "fpnd" not in compare(truth, sample)
    found = compare(truth, sample, fpnd=True)["fpnd"]
    leading = gluons.clouds.column("ptrel")[gluons.clouds.offsets[:-1]]
    assert found.value == pytest.approx(leading[150:250].mean(), rel=1e-6)
    assert found.floor == pytest.approx(leading[:100].mean(), rel=1e-6)
    # The bootstrap error of a mean of 100, to four standard deviations of a standard deviation from 20 draws.
    assert found.error == pytest.approx(leading[150:250].std() / 10, rel=4 / np.sqrt(2 * 19))
    assert (found.truth_size, found.sample_size) == (100, 100)
    assert "g jets, 100 jets" in found.title
    # Of a mixture of types there are no statistics.
    features = {name: gluons.clouds.feature(name)[:150].copy() for name in gluons.clouds.schema.cloud_names}
    features["type"][0] = 1
    points = {name: truth.clouds.column(name) for name in truth.clouds.schema.point_names}
    mixed = PointClouds.from_flat(points, truth.clouds.offsets, features, truth.clouds.schema)
    with pytest.raises(DataError, match="the true jets have the types g, q; expected all of one of g, q, t"):
        compare(replace(truth, clouds=mixed), sample, fpnd=True)


def test_fpnd_without_its_resources_says_how_to_get_them(gluons: Measured) -> None:
    with pytest.raises(DataError, match="pcdiff data fetch fpnd"):
        compare(part(gluons, slice(0, 50)), part(gluons, slice(50, 100)), fpnd=True)
