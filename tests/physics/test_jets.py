"""Jet observables against closed forms and invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import jets, measure, observables
from pcdiff.schema import jet_schema

N, SIZE = 50, 12


@pytest.fixture
def columns():
    rng = np.random.default_rng(5)
    return {
        "pt": rng.exponential(30.0, N * SIZE) + 0.1,
        "eta": rng.normal(0.5, 0.3, N * SIZE),
        "phi": rng.uniform(-np.pi, np.pi, N * SIZE),
        "mass": rng.uniform(0.0, 5.0, N * SIZE),
    }


def jets_of(columns, size=SIZE, features=None):
    features = features or {}
    total = len(next(iter(columns.values())))
    return PointClouds.from_flat(
        columns, np.arange(0, total + 1, size), features, jet_schema(list(columns), list(features))
    )


def pair(pt, eta, phi):
    return jets_of({"pt": np.array(pt), "eta": np.array(eta), "phi": np.array(phi)}, 2)


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("direction", [(1.0, 0.0), (0.0, 1.0), (0.6, -0.8)])
def test_mass_of_two_massless_constituents(distance, direction):
    pt, eta, phi = [500.0, 3.0], [1.0, 1.0 + distance * direction[0]], [2.0, 2.0 + distance * direction[1]]
    # Differences of the rounded coordinates are exact, so the only error left is that of the mass itself.
    rapidity, angle = eta[1] - eta[0], phi[1] - phi[0]
    expected = np.sqrt(4 * pt[0] * pt[1] * (np.sinh(rapidity / 2) ** 2 + np.sin(angle / 2) ** 2))
    np.testing.assert_allclose(jets.mass(pair(pt, eta, phi)), expected, rtol=1e-13 + 1e-15 / distance)


def test_mass_of_back_to_back_constituents():
    np.testing.assert_allclose(jets.mass(pair([7.0, 7.0], [0.0, 0.0], [0.5, 0.5 - np.pi])), 14.0, rtol=1e-12)


@pytest.mark.parametrize("pt", [0.5, 1e4])
@pytest.mark.parametrize("eta", [0.0, -4.0])
def test_mass_of_one_constituent_is_its_own(pt, eta):
    one = {"pt": np.array([pt]), "eta": np.array([eta]), "phi": np.array([3.0]), "mass": np.array([0.13957])}
    np.testing.assert_allclose(jets.mass(jets_of(one, 1)), 0.13957, rtol=1e-6)


def test_mass_is_that_of_the_summed_four_momentum(columns):
    pt, eta, phi, mass = (columns[name].reshape(N, SIZE) for name in ("pt", "eta", "phi", "mass"))
    x, y, z = (pt * np.cos(phi)).sum(1), (pt * np.sin(phi)).sum(1), (pt * np.sinh(eta)).sum(1)
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2).sum(1)
    clouds = jets_of(columns)
    np.testing.assert_allclose(jets.mass(clouds), np.sqrt(energy**2 - x**2 - y**2 - z**2), rtol=1e-11)
    np.testing.assert_allclose(jets.pt(clouds), np.hypot(x, y), rtol=1e-11)
    np.testing.assert_allclose(jets.eta(clouds), np.arcsinh(z / np.hypot(x, y)), rtol=1e-11)


def test_mass_is_invariant_under_rotation_reflection_and_permutation(columns):
    mass = jets.mass(jets_of(columns))
    order = np.random.default_rng(1).permutation(SIZE)
    turned = (columns["phi"] + 2.5 + np.pi) % (2 * np.pi) - np.pi
    for other in (
        {**columns, "phi": turned},
        {**columns, "phi": -columns["phi"]},
        {**columns, "eta": -columns["eta"]},
        {name: values.reshape(N, SIZE)[:, order].ravel() for name, values in columns.items()},
    ):
        np.testing.assert_allclose(jets.mass(jets_of(other)), mass, rtol=1e-11)


def test_mass_is_invariant_under_a_boost_along_the_beam(columns):
    pt, eta, mass = columns["pt"], columns["eta"], columns["mass"]
    transverse = np.sqrt(pt**2 + mass**2)
    boosted = np.arcsinh(transverse / pt * np.sinh(np.arcsinh(pt / transverse * np.sinh(eta)) + 1.7))
    np.testing.assert_allclose(jets.mass(jets_of({**columns, "eta": boosted})), jets.mass(jets_of(columns)), rtol=1e-11)


def test_a_collinear_jet_has_no_mass():
    line = {"pt": np.array([3.0, 2.0, 1.0]), "eta": np.full(3, 1.3), "phi": np.full(3, -2.0)}
    assert jets.mass(jets_of(line, 3))[0] < 1e-14


def test_relative_and_absolute_columns_give_the_same_observables():
    rng = np.random.default_rng(8)
    relative = {
        "etarel": rng.normal(0, 0.1, N * SIZE),
        "phirel": rng.normal(0, 0.1, N * SIZE),
        "ptrel": rng.dirichlet(np.ones(SIZE), N).ravel(),
    }
    features = {"pt": rng.uniform(800, 1600, N), "eta": rng.uniform(-2, 2, N), "phi": rng.uniform(-np.pi, np.pi, N)}
    each = {name: np.repeat(values, SIZE) for name, values in features.items()}
    absolute = {
        "pt": relative["ptrel"] * each["pt"],
        "eta": relative["etarel"] + each["eta"],
        "phi": (relative["phirel"] + each["phi"] + np.pi) % (2 * np.pi) - np.pi,
    }
    one, other = measure(jets_of(relative, features=features)), measure(jets_of(absolute, features=features))
    known = {name for name, observable in observables("jets").items() if not observable.columns}
    assert set(one.values) == set(other.values) == known
    for name in one.values:
        np.testing.assert_allclose(one.values[name], other.values[name], rtol=1e-9, atol=1e-12, err_msg=name)
    # Massless constituents: the relative mass is the mass in units of the stored jet pT.
    np.testing.assert_allclose(one.values["relative_mass"] * features["pt"], one.values["mass"], rtol=1e-11)
    np.testing.assert_allclose(one.values["total_ptrel"], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(one.values["multiplicity"], SIZE)


def test_owners_name_the_cloud_of_each_value():
    clouds = PointClouds.from_flat(
        {"pt": [9.0, 5.0, 7.0], "eta": [0.0] * 3, "phi": [0.0] * 3}, [0, 2, 3], {}, jet_schema(["pt", "eta", "phi"], [])
    )
    measured, known = measure(clouds), observables("jets")
    assert measured.owners(known["ptrel"]).tolist() == [0, 0, 1]
    assert measured.owners(known["mass"]).tolist() == [0, 1]
    np.testing.assert_allclose(measured.values["ptrel"], [9 / 14, 5 / 14, 1.0])


def test_an_observable_that_the_columns_do_not_determine_is_missing_and_not_guessed():
    clouds = jets_of({"etarel": np.zeros(2), "phirel": np.zeros(2), "ptrel": np.full(2, 0.5)}, 2)
    measured = measure(clouds)
    assert set(measured.missing) == {"mass", "soft_drop_mass", "pt", "eta"}
    assert "relative_mass" in measured.values


def test_other_units_empty_sets_and_broken_values_are_refused():
    columns = {"pt": np.array([1.0]), "eta": np.zeros(1), "phi": np.zeros(1)}
    clouds = jets_of(columns, 1)
    schema = replace(clouds.schema, points=(replace(clouds.schema.points[0], unit="MeV"), *clouds.schema.points[1:]))
    with pytest.raises(DataError, match=r"a\.root: point feature 'pt' is in 'MeV', expected 'GeV'"):
        measure(PointClouds.from_flat(columns, [0, 1], {}, schema), "a.root")
    with pytest.raises(DataError, match="truth: has no clouds"):
        measure(clouds[:0], "truth")
    with pytest.raises(DataError, match="not finite"):
        measure(jets_of({**columns, "eta": np.array([np.nan])}, 1))
    with pytest.raises(DataError, match="relative jet mass is not finite in 1 of 1 values"):
        measure(jets_of({**columns, "pt": np.zeros(1)}, 1))


def test_unknown_kinds_have_no_observables():
    with pytest.raises(DataError, match="jets"):
        observables("galaxies")
