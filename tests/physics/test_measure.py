"""All observables, profiles and weights of one set of clouds."""

from __future__ import annotations

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import jets, measure, observables, profiles
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
