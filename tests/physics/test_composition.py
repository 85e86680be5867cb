"""What constituents are, against sums written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import jets, measure, observables, profiles
from pcdiff.schema import PARTICLE_CLASSES, jet_schema

LABELLED = {name: about for name, about in {**observables("jets"), **profiles("jets")}.items() if about.columns}


@pytest.fixture
def labelled(build, random_jets):
    """The random jets with a class for each constituent, and a charge for those that are not neutral."""
    plain = build(random_jets)
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 5, plain.num_points).astype(np.int32)
    charge = np.where(np.isin(kind, [1, 2]), 0, rng.choice([-1, 1], plain.num_points)).astype(np.int32)
    return with_columns(plain, {"charge": charge, "particle_class": kind})


def with_columns(clouds, columns):
    every = {name: clouds.column(name) for name in clouds.schema.point_names} | columns
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(every, clouds.offsets, features, jet_schema(list(every), list(features)))


def test_each_class_is_counted(labelled):
    counted = [jets.class_multiplicity(labelled, name) for name in PARTICLE_CLASSES]
    for number, found in enumerate(counted):
        np.testing.assert_array_equal(found, (labelled.column("particle_class").reshape(40, 12) == number).sum(axis=1))
    np.testing.assert_array_equal(sum(counted), jets.multiplicity(labelled))
    np.testing.assert_array_equal(measure(labelled).values["photon_multiplicity"], counted[2])


def test_names_decide_and_not_their_numbers(labelled):
    """A file that lists its classes in another order, or only some of them."""
    points = [
        replace(feature, categories=tuple(reversed(feature.categories))) if feature.categories else feature
        for feature in labelled.schema.points
    ]
    columns = {name: labelled.column(name) for name in labelled.schema.point_names}
    columns["particle_class"] = 4 - columns["particle_class"]
    features = {name: labelled.feature(name) for name in labelled.schema.cloud_names}
    schema = replace(labelled.schema, points=tuple(points))
    turned = PointClouds.from_flat(columns, labelled.offsets, features, schema)
    for name, about in LABELLED.items():
        before, after = about.function(labelled), about.function(turned)
        assert (before != after).sum() == 0, name


def test_classes_share_the_momentum(labelled):
    found = jets.class_composition(labelled).toarray()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    ptrel, kind = (labelled.column(name).reshape(40, 12) for name in ("ptrel", "particle_class"))
    np.testing.assert_allclose(found[:, 2], (ptrel * (kind == 2)).sum(axis=1) / ptrel.sum(axis=1))


@pytest.mark.parametrize("kappa", [0.3, 0.5, 1.0])
def test_jet_charge_of_equal_constituents(build, kappa):
    """n constituents of charge Q and equal momentum: n (1 / n)^kappa Q; of opposite charges: none."""
    alike, opposite = [(0.0, 0.0, 0.25)] * 4, [(0.0, 0.1, 0.5), (0.1, 0.0, 0.5)]
    clouds = with_columns(build([alike, opposite]), {"charge": np.array([-1] * 4 + [1, -1])})
    np.testing.assert_allclose(jets.jet_charge(clouds, kappa), [-(4 ** (1 - kappa)), 0.0], atol=1e-15)
    np.testing.assert_allclose(measure(clouds).values["jet_charge"], jets.jet_charge(clouds, 0.5))


def test_jet_charge_is_odd_and_does_not_see_neutral_constituents_split(labelled):
    found = jets.jet_charge(labelled)
    conjugate = with_columns(labelled, {"charge": -labelled.column("charge")})
    np.testing.assert_array_equal(jets.jet_charge(conjugate), -found)
    neutral = with_columns(labelled, {"charge": np.zeros(labelled.num_points, np.int32)})
    assert not jets.jet_charge(neutral).any()


def test_without_the_columns_there_is_nothing_of_them(build, random_jets):
    measured = measure(build(random_jets))
    assert not {*measured.values, *measured.profiles, *measured.missing} & set(LABELLED)


def test_other_names_are_said(labelled):
    columns = {name: labelled.column(name) for name in labelled.schema.point_names}
    features = {name: labelled.feature(name) for name in labelled.schema.cloud_names}
    points = tuple(
        replace(feature, categories=("track", "tower", "a", "b", "c")) if feature.categories else feature
        for feature in labelled.schema.points
    )
    clouds = PointClouds.from_flat(columns, labelled.offsets, features, replace(labelled.schema, points=points))
    with pytest.raises(DataError, match=r"particle_class stands for track, tower, .*; expected some of charged hadron"):
        jets.class_composition(clouds)
    assert "track" in measure(clouds).missing["muon_multiplicity"]
