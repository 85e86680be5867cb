from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import awkward as ak
import numpy as np
import pytest

from pcdiff import encodings, mapped, transforms
from pcdiff.clouds import PointClouds
from pcdiff.encodings import Function, Scale
from pcdiff.errors import DataError
from pcdiff.schema import Feature, halo_schema, jet_schema, vector_schema
from pcdiff.transforms import Transform, cloud_columns, point_columns

POINTS = {"etarel": "standard", "phirel": "standard", "ptrel": "log"}
CLOUDS = {"pt": "log", "eta": "standard", "mass": "log"}


def jets(n: int = 50, *, types: bool = True, seed: int = 0) -> PointClouds:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 12, n)
    total = int(counts.sum())
    points = {
        "etarel": rng.normal(0.05, 0.1, total).astype(np.float32),
        "phirel": rng.normal(0, 0.1, total).astype(np.float32),
        "ptrel": rng.lognormal(-3, 1, total).astype(np.float32),
    }
    clouds = {
        "pt": rng.uniform(800, 1600, n).astype(np.float32),
        "eta": rng.normal(0.1, 0.7, n).astype(np.float32),
        "mass": rng.uniform(20, 200, n).astype(np.float32),
    }
    if types:
        clouds["type"] = rng.choice([0, 2], n).astype(np.int32)
    schema = jet_schema(list(points), list(clouds), axis="all")
    return PointClouds.from_flat(points, np.concatenate([[0], np.cumsum(counts)]), clouds, schema)


def test_valid_points_come_out_standardised() -> None:
    clouds = jets(500)
    encoded = Transform.fit(clouds, POINTS, CLOUDS).encode(clouds)
    ptrel = encoded.points[:, 2].astype(np.float64)
    assert abs(ptrel.mean()) < 1e-5
    assert abs(ptrel.std() - 1) < 1e-5
    # Features that flip under a symmetry have unit mean square about zero.
    for signed in (encoded.points[:, 0], encoded.points[:, 1], encoded.cond[:, 2]):
        assert abs(np.mean(signed.astype(np.float64) ** 2) - 1) < 1e-5


def test_decoding_undoes_encoding() -> None:
    clouds = jets()
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    encoded = transform.encode(clouds)
    features = {**cloud_columns(clouds, list(CLOUDS)), "phi": np.zeros(len(clouds), np.float32)}
    back = transform.decode(encoded.points, encoded.offsets, features, transform.type_index(clouds))
    for name in POINTS:
        np.testing.assert_allclose(back.column(name), clouds.column(name), rtol=2e-6, atol=1e-8)
    for name in (*CLOUDS, "type"):
        np.testing.assert_array_equal(back.feature(name), clouds.feature(name))
    assert back.schema.axis == "all"
    assert back.schema.cloud("type").categories == clouds.schema.cloud("type").categories


def test_conditions_are_count_features_and_type() -> None:
    clouds = jets()
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    cond = transform.encode(clouds).cond
    assert cond.shape == (len(clouds), transform.conditions) == (len(clouds), 1 + 3 + 2)
    count = clouds.counts
    np.testing.assert_allclose(cond[:, 0], (count - count.mean()) / count.std(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(cond[:, 4:].argmax(1), clouds.feature("type") // 2)
    assert transform.types == ("g", "t")


def test_one_type_needs_no_condition() -> None:
    clouds = jets()
    gluons = clouds[clouds.feature("type") == 0]
    transform = Transform.fit(gluons, POINTS, CLOUDS)
    assert transform.types == ("g",)
    assert transform.conditions == 4
    with pytest.raises(DataError, match="types t were not in the training data"):
        transform.encode(clouds)


def test_reflection_before_and_after_encoding_is_the_same() -> None:
    clouds = jets()
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    encoded = transform.encode(clouds)
    for (signs, cond_signs), (points, features) in zip(
        transform.reflections(), [(("etarel",), ("eta",)), (("phirel",), ())], strict=True
    ):
        mirrored = PointClouds.from_flat(
            {name: clouds.column(name) * (-1 if name in points else 1) for name in POINTS},
            clouds.offsets,
            {name: clouds.feature(name) * (-1 if name in features else 1) for name in clouds.schema.cloud_names},
            clouds.schema,
        )
        again = transform.encode(mirrored)
        np.testing.assert_array_equal(again.points, encoded.points * signs)
        np.testing.assert_array_equal(again.cond, encoded.cond * cond_signs)


def test_stored_as_json() -> None:
    transform = Transform.fit(jets(), POINTS, CLOUDS)
    assert Transform.from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


def test_logarithm_of_zero_names_the_feature() -> None:
    clouds = jets()
    clouds.column("ptrel")[3] = 0
    with pytest.raises(DataError, match=r"'ptrel' is 0.0 in 1 of .* must be positive"):
        Transform.fit(clouds, POINTS, CLOUDS)


def test_a_constant_feature_keeps_its_scale() -> None:
    scale = Scale.fit("x", "standard", np.full(5, 3.0))
    assert scale.std == 1.0
    np.testing.assert_array_equal(scale.inverse(scale.forward(np.full(2, 3.0))), [3.0, 3.0])


def test_inverse_of_a_logarithm_is_positive_and_finite() -> None:
    values = Scale("ptrel", "log", -4.0, 1.0).inverse(np.array([-1e4, 0.0, 1e4]))
    assert np.isfinite(values).all()
    assert (values > 0).all()


def test_columns_are_derived_where_they_are_not_stored() -> None:
    """Relative features of absolute momenta, and the jet from the sum of its constituents."""
    pt, eta, phi = np.array([3.0, 1.0]), np.array([0.5, 0.1]), np.array([3.1, -3.1])
    clouds = PointClouds.from_flat({"pt": pt, "eta": eta, "phi": phi}, [0, 2], {}, jet_schema(["pt", "eta", "phi"], []))
    axis = ak.sum(clouds.momenta(), axis=1)
    relative = point_columns(clouds, ["etarel", "phirel", "ptrel"])
    np.testing.assert_allclose(relative["ptrel"], pt / axis.pt[0])
    np.testing.assert_allclose(relative["etarel"], eta - axis.eta[0])
    assert np.all(np.abs(relative["phirel"]) < 0.1)
    np.testing.assert_allclose(cloud_columns(clouds, ["mass"])["mass"], axis.mass)


def test_unknown_feature_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'ptrel'"):
        Transform.fit(jets(), {"ptrell": "log"}, {})


def test_absolute_azimuth_needs_that_of_the_jet() -> None:
    rng = np.random.default_rng(1)
    columns = {"pt": rng.uniform(1, 9, 6), "eta": rng.normal(size=6), "phi": rng.uniform(-3, 3, 6)}
    jet = {"pt": rng.uniform(1, 9, 2), "phi": rng.uniform(-3, 3, 2)}
    clouds = PointClouds.from_flat(columns, [0, 2, 6], jet, jet_schema(list(columns), list(jet)))
    with pytest.raises(DataError, match="'phi' turns with the jet"):
        Transform.fit(clouds, {"pt": "log", "eta": "standard", "phi": "standard"}, {"pt": "log"})
    transform = Transform.fit(clouds, {"phi": "standard"}, {"phi": "standard"})
    far = np.full((2, 1), 9.0, np.float32)
    made = transform.decode(far, np.array([0, 1, 2]), {"phi": np.zeros(2)}, np.zeros(2, np.int64))
    assert (np.abs(made.column("phi")) <= np.float32(np.pi)).all()


def test_vectors_come_back_without_azimuth_and_type() -> None:
    rng = np.random.default_rng(2)
    columns = {"x": rng.normal(3, 2, 200).astype(np.float32), "phi": rng.normal(9, 1, 200).astype(np.float32)}
    clouds = PointClouds.from_flat(columns, np.arange(201), {}, vector_schema(["x", "phi"]))
    transform = Transform.fit(clouds, {"phi": "standard", "x": "standard"}, {})
    encoded = transform.encode(clouds)
    # Every cloud has one point, so the only condition is a constant.
    np.testing.assert_array_equal(encoded.cond, np.zeros((200, 1)))
    assert transform.reflections() == []
    back = transform.decode(encoded.points, encoded.offsets, {}, np.zeros(200, np.int64))
    assert back.schema == vector_schema(["phi", "x"])
    for name, values in columns.items():
        np.testing.assert_allclose(back.column(name), values, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(DataError, match="no point feature 'ptrel': there are: x"):
        Transform.fit(
            PointClouds.from_flat({"x": np.ones(2)}, [0, 1, 2], {}, vector_schema(["x"])), {"ptrel": "log"}, {}
        )


def boxes(sizes: Sequence[float] = (50.0, 50.0), redshifts: Sequence[float] = (0.0, 0.0)) -> PointClouds:
    """Halo catalogues of three halos each."""
    rng = np.random.default_rng(0)
    n = 3 * len(sizes)
    columns = {name: (50 * rng.random(n)).astype(np.float32) for name in "xyz"}
    columns |= {
        name: (scale * rng.standard_normal(n)).astype(np.float32)
        for name, scale in (("vx", 100), ("vy", 300), ("vz", 200))
    }
    columns["log10_mass"] = (13 + rng.exponential(0.3, n)).astype(np.float32)
    features = {
        "box_size": np.array(sizes, np.float32),
        "redshift": np.array(redshifts, np.float32),
        "omega_m": np.linspace(0.1, 0.5, len(sizes), dtype=np.float32),
    }
    offsets = np.arange(0, n + 1, 3)
    return PointClouds.from_flat(columns, offsets, features, halo_schema(tuple(columns), tuple(features)))


PERIODIC = {
    **dict.fromkeys(("x", "y", "z"), "periodic"),
    **dict.fromkeys(("vx", "vy", "vz"), "standard"),
    "log10_mass": "normal-score",
}


def test_boxes_come_back() -> None:
    """What is the same for all boxes and conditions nothing is kept with the transform."""
    clouds = boxes()
    transform = Transform.from_dict(
        json.loads(json.dumps(Transform.fit(clouds, PERIODIC, {"omega_m": "standard"}).to_dict()))
    )
    assert transform.constants == {"box_size": 50.0, "redshift": 0.0}
    encoded = transform.encode(clouds)
    back = transform.decode(
        encoded.points, encoded.offsets, {"omega_m": clouds.feature("omega_m")}, np.zeros(len(clouds), np.int64)
    )
    assert set(back.schema.cloud_names) == set(clouds.schema.cloud_names)
    for name in clouds.schema.point_names:
        np.testing.assert_allclose(back.column(name), clouds.column(name), rtol=1e-5, atol=2e-4)
    back.validate("decoded")
    # Positions have a hundred units a box, and the components of a velocity one scale.
    np.testing.assert_allclose(encoded.points[:, 0], 2 * clouds.column("x"), rtol=1e-6)
    speeds = np.concatenate([clouds.column(name) for name in ("vx", "vy", "vz")]).astype(np.float64)
    np.testing.assert_allclose(encoded.points[:, 4], clouds.column("vy") / np.sqrt(np.mean(speeds**2)), rtol=1e-5)


def test_whole_turns_of_the_box_decode_to_the_same_place() -> None:
    clouds = boxes()
    transform = Transform.fit(clouds, PERIODIC, {"omega_m": "standard"})
    encoded = transform.encode(clouds)
    turned = encoded.points.copy()
    turned[:, :3] += 100 * np.array([1, -3, 2])
    back = transform.decode(
        turned, encoded.offsets, {"omega_m": clouds.feature("omega_m")}, np.zeros(len(clouds), np.int64)
    )
    for name in "xyz":
        difference = np.abs(back.column(name) - clouds.column(name))
        assert np.minimum(difference, 50 - difference).max() < 1e-3
        assert back.column(name).min() >= 0
        assert back.column(name).max() < 50


def test_symmetries_of_the_cube_are_named() -> None:
    """Three mirrors and six orders of the axes, of positions and velocities together."""
    transform = Transform.fit(boxes(), PERIODIC, {"omega_m": "standard"})
    signs = [signs.tolist() for signs, _ in transform.reflections()]
    assert signs == [[-1 if name.endswith(axis) else 1 for name in transform.channels] for axis in "xyz"]
    turns = [turn.tolist() for turn in transform.turns()]
    assert len(turns) == 6
    assert all(turn[3:6] == [3 + axis for axis in turn[:3]] and turn[6] == 6 for turn in turns)
    assert sorted(turn[:3] for turn in turns) == sorted(map(list, permutations(range(3))))
    torus = transform.torus
    assert torus is not None
    assert (torus.positions, torus.vectors, torus.scalars, torus.period) == ((0, 1, 2), ((3, 4, 5),), (6,), 100.0)


@pytest.mark.parametrize(
    ("clouds", "points", "message"),
    [
        (
            boxes(),
            {**PERIODIC, "x": "standard"},
            "found 'x' as standard among the point features, expected x: periodic",
        ),
        (boxes(), {"x": "periodic", "y": "periodic"}, "found no 'z' among the point features, expected z: periodic"),
        (boxes(), {**PERIODIC, "vx": "periodic"}, "point feature 'vx' is no position in a periodic box"),
        (boxes((50.0, 60.0)), PERIODIC, "have sizes from 50 to 60 Mpc/h; expected one size"),
    ],
)
def test_what_does_not_fit_a_periodic_box_is_named(
    clouds: PointClouds, points: dict[str, Function], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Transform.fit(clouds, points, {"omega_m": "standard"})


def labelled(n: int = 50, seed: int = 0) -> PointClouds:
    """Jets whose constituents have a charge and a class, between the other columns."""
    clouds = jets(n, seed=seed)
    rng = np.random.default_rng([seed, 1])
    kind = rng.integers(0, 5, clouds.num_points).astype(np.int32)
    columns = {
        "particle_class": kind,
        **{name: clouds.column(name) for name in POINTS},
        "charge": np.where(np.isin(kind, [1, 2]), 0, rng.choice([-1, 1], len(kind))).astype(np.int32),
    }
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(columns, clouds.offsets, features, jet_schema(list(columns), list(features)))


LABELLED = {
    "etarel": "standard",
    "particle_class": "categorical",
    "phirel": "standard",
    "ptrel": "log",
    "charge": "categorical",
}


def test_categories_are_several_channels_and_come_back() -> None:
    clouds = labelled()
    transform = Transform.fit(clouds, LABELLED, CLOUDS)
    assert transform.channels == ("etarel", *["particle_class"] * 5, "phirel", "ptrel", *["charge"] * 3)
    encoded = transform.encode(clouds)
    assert encoded.points.shape == (clouds.num_points, 11)
    features = {**cloud_columns(clouds, list(CLOUDS)), "phi": np.zeros(len(clouds), np.float32)}
    back = transform.decode(encoded.points, encoded.offsets, features, transform.type_index(clouds))
    for name in ("particle_class", "charge"):
        np.testing.assert_array_equal(back.column(name), clouds.column(name))
        assert back.column(name).dtype == np.int32
        assert back.schema.point(name) == clouds.schema.point(name)
    np.testing.assert_allclose(back.column("ptrel"), clouds.column("ptrel"), rtol=2e-6)
    assert Transform.from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


def test_a_reflection_changes_no_category() -> None:
    """A mirror image has the same charges; charge conjugation is not among the symmetries."""
    transform = Transform.fit(labelled(), LABELLED, CLOUDS)
    flipped = [
        {name for name, sign in zip(transform.channels, signs, strict=True) if sign < 0}
        for signs, _ in transform.reflections()
    ]
    assert flipped == [{"etarel"}, {"phirel"}]


def test_numbers_that_stand_for_other_names_are_refused() -> None:
    clouds = labelled()
    transform = Transform.fit(clouds, LABELLED, CLOUDS)
    points = tuple(
        Feature("particle_class", categories=("photon", "hadron", "a", "b", "c")) if feature.categories else feature
        for feature in clouds.schema.points
    )
    columns = {name: clouds.column(name) for name in clouds.schema.point_names}
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    other = PointClouds.from_flat(columns, clouds.offsets, features, replace(clouds.schema, points=points))
    with pytest.raises(
        DataError, match=r"'particle_class' stand for photon, hadron, a, b, c, expected charged hadron, .*muon"
    ):
        transform.encode(other)
    with pytest.raises(DataError, match="no point feature 'particle_class'"):
        transform.encode(jets())


def test_scales_of_many_points_are_those_of_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of 3,000 of 18,000 points are within five standard errors of those of all, and not the same."""
    clouds = jets(3000, seed=6)
    whole = Transform.fit(clouds, POINTS, CLOUDS)
    monkeypatch.setattr(transforms, "_FITTED_POINTS", 3000)
    part = Transform.fit(clouds, POINTS, CLOUDS)
    assert part.types == whole.types
    ptrel, every = part.points[2], whole.points[2]
    assert isinstance(ptrel, Scale)
    assert isinstance(every, Scale)
    assert 0 < abs(ptrel.mean - every.mean) < 5 * every.std / np.sqrt(3000)
    assert ptrel.std == pytest.approx(every.std, rel=5 / np.sqrt(2 * 3000))
    assert part.count.mean == pytest.approx(whole.count.mean, abs=5 * whole.count.std / np.sqrt(450))


def test_categories_are_those_of_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """One point in thousands has a rare pair of categories: it is known, and shares are exact, however few points are looked at at once."""
    rng = np.random.default_rng(3)
    n = 5000
    columns = {
        "pt": rng.uniform(1, 2, n),
        "charge": rng.integers(-1, 2, n).astype(np.float32),
        "pdg": rng.choice([11, 13, 211], n),
    }
    columns["charge"][4321], columns["pdg"][4321] = 7, 999
    schema = jet_schema(list(columns), [])
    clouds = PointClouds.from_flat(columns, np.arange(0, n + 1, 5), {}, schema)
    functions: dict[str, Function] = {"pt": "log", "charge": "categorical", "pdg": "categorical"}
    whole = Transform.fit(clouds, functions, {}, use_type=False)
    monkeypatch.setattr(transforms, "_FITTED_POINTS", 100)
    monkeypatch.setattr(encodings, "_PART", 64)
    part = Transform.fit(clouds, functions, {}, use_type=False)
    assert part.points[1:] == whole.points[1:]
    assert part.combinations == whole.combinations
    assert part.combinations is not None
    assert (7, 999) in part.combinations.values


def test_derived_cloud_features_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = jets(200)
    bare = PointClouds.from_flat(
        {name: clouds.column(name) for name in POINTS},
        clouds.offsets,
        {name: clouds.feature(name) for name in ("pt", "eta")},
        jet_schema(list(POINTS), ["pt", "eta"], axis="all"),
    )
    whole = cloud_columns(bare, ["mass", "phi"])
    monkeypatch.setattr(mapped, "_POINTS", 30)
    pieces = cloud_columns(bare, ["mass", "phi"])
    for name, values in whole.items():
        np.testing.assert_array_equal(pieces[name], values)
