"""All observables, profiles and weights of one set of clouds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import pcdiff
from pcdiff import physics
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.executors import processes
from pcdiff.physics import jets, measure, observables, profiles
from pcdiff.resources import find
from pcdiff.schema import jet_schema, vector_schema


def weighted(weights):
    features = {"weight": np.asarray(weights, np.float64)}
    columns = {"pt": np.array([9.0, 5.0, 7.0]), "eta": np.array([0.0, 0.2, 0.0]), "phi": np.zeros(3)}
    return PointClouds.from_flat(columns, [0, 2, 3], features, jet_schema(list(columns), ["weight"]))


def without_labels(known):
    return [name for name, about in known.items() if not about.columns]


def test_jets_have_all_observables_profiles_and_polynomials(gluons):
    measured = measure(gluons)
    assert list(measured.values) == without_labels(observables("jets"))
    assert list(measured.profiles) == without_labels(profiles("jets"))
    assert not measured.missing
    assert measured.weights is None
    assert measured.effective_size == len(measured) == 200
    assert measured.clouds is gluons
    np.testing.assert_array_equal(measured.polynomials, jets.flow_polynomials(gluons))
    for name in measured.profiles:
        profile = profiles("jets")[name]
        bins = np.prod([len(edges) - 1 for edges in profile.edges])
        assert measured.profiles[name].shape == (200, bins)
        assert len(profile.labels) == len(profile.edges)
        assert all((np.diff(edges) > 0).all() for edges in profile.edges)


@pytest.mark.parametrize("kind", ["jets", "halos"])
def test_processes_measure_the_same_in_blocks(kind, gluons, monkeypatch):
    """Bit for bit, in as many blocks as there are for far larger sets."""
    monkeypatch.setattr(physics, "_BLOCK", 1_000)
    clouds = gluons if kind == "jets" else pcdiff.read(find("datasets/halos_pm/lhc_validation.hdf5"))[:9]
    expected = measure(clouds)
    with processes(2)(2) as pool:
        found = measure(clouds, pool=pool)
    assert len(physics._blocks(clouds)) >= physics._FEWEST_BLOCKS
    assert found.values.keys() == expected.values.keys()
    for name, values in expected.values.items():
        np.testing.assert_array_equal(found.values[name], values)
    for name, contents in expected.profiles.items():
        assert (found.profiles[name] != contents).nnz == 0
    for name, totals in expected.totals.items():
        np.testing.assert_array_equal(found.totals[name], totals)
    assert (found.polynomials is None) == (expected.polynomials is None) == (kind == "halos")
    if kind == "jets":
        np.testing.assert_array_equal(found.polynomials, expected.polynomials)
    assert found.clouds is clouds
    assert found.missing == expected.missing


@pytest.mark.parametrize("kind", ["jets", "halos"])
def test_threads_of_blas_change_nothing(kind, gluons):
    """A worker process has one, the process that it works for as many as there are cores."""
    clouds = gluons if kind == "jets" else pcdiff.read(find("datasets/halos_pm/lhc_validation.hdf5"))[:9]
    with threadpool_limits(1, user_api="blas"):
        expected = measure(clouds)
    with threadpool_limits(2, user_api="blas"):
        found = measure(clouds)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(found.values[name], values)
    for name, contents in expected.profiles.items():
        assert (found.profiles[name] != contents).nnz == 0
    if kind == "jets":
        np.testing.assert_array_equal(found.polynomials, expected.polynomials)


def test_what_one_block_lacks_is_missing_in_all(gluons, monkeypatch):
    def some(clouds):
        if clouds.counts[0] == gluons.counts[-1]:
            raise DataError("not these")
        return clouds.counts.astype(float)

    about = observables("jets")["multiplicity"]
    monkeypatch.setattr(physics, "observables", lambda kind: {"multiplicity": replace(about, function=some)})
    found = physics._joined([physics._of_columns(part) for part in (gluons[:-1], gluons[-1:])])
    assert "multiplicity" not in found.values
    assert found.missing["multiplicity"] == "not these"


def test_profiles_of_gluon_jets_lie_within_their_bins(gluons):
    """At most 1 % of the momentum or of the emissions is left out."""
    measured = measure(gluons)
    image = measured.profiles["jet_image"].sum() / measured.values["total_ptrel"].sum()
    correlator = measured.profiles["energy_energy_correlator"].sum() / (1 - measured.values["ptd"] ** 2).sum()
    lund = measured.profiles["lund_plane"].sum() / sum(map(len, jets.lund_emissions(gluons)))
    ranks = measured.profiles["rank_spectrum"].sum() / measured.values["total_ptrel"].sum()
    assert all(0.99 < share <= 1 + 1e-12 for share in (image, correlator, lund, ranks))


def test_what_the_columns_do_not_determine_is_missing():
    columns = {"pt": np.array([1.0]), "phi": np.zeros(1)}
    measured = measure(PointClouds.from_flat(columns, [0, 1], {}, jet_schema(list(columns), [])))
    assert list(measured.values) == ["multiplicity"]
    assert not measured.profiles
    assert measured.polynomials is None
    known = {*without_labels(observables("jets")), *without_labels(profiles("jets"))}
    assert set(measured.missing) == known - {"multiplicity"}


def test_vectors_have_neither_profiles_nor_polynomials():
    measured = measure(PointClouds.from_flat({"x": [1.0], "y": [2.0]}, [0, 1], {}, vector_schema(["x", "y"])))
    assert measured.profiles == {} == profiles("vectors")
    assert measured.polynomials is None


def test_weights_have_mean_one_and_say_how_many_clouds_count():
    measured = measure(weighted([0.5, 2.0]))
    np.testing.assert_allclose(measured.weights, [0.4, 1.6])
    np.testing.assert_allclose(measured.effective_size, 2.5**2 / (0.5**2 + 2.0**2))
    np.testing.assert_allclose(measure(weighted([0.0, 3.0])).effective_size, 1.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -2.0], "a.root: the weight of cloud 1 is -2; expected weights that are not negative"),
        ([0.0, 0.0], "a.root: the weights of all 2 clouds are 0"),
        ([1.0, np.nan], "a.root: cloud feature 'weight' is not finite in 1 of 2 values"),
    ],
)
def test_other_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        measure(weighted(weights), "a.root")


def test_weights_survive_a_root_file(tmp_path):
    import uproot

    import pcdiff
    from pcdiff import io

    io.write(weighted([0.5, 2.0]), tmp_path / "jets.root")
    with uproot.open(tmp_path / "jets.root") as file:
        assert file["Jets/Jet_weight"].array().to_list() == [0.5, 2.0]
    np.testing.assert_allclose(measure(pcdiff.read(tmp_path / "jets.root")).weights, [0.4, 1.6])


def test_derived_coordinates_are_computed_once():
    clouds = weighted([1.0, 1.0])
    assert clouds.relative() is clouds.relative()
    assert clouds.momenta() is clouds.momenta()
