"""The ragged value object: exact rearrangements, and momenta in closed form."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree as ET

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import Feature, jet_schema, vector_schema

SCHEMA = jet_schema(["etarel", "phirel", "ptrel", "pdgId"], ["pt", "eta", "type"])
POLAR = jet_schema(["pt", "eta", "phi"], ["pt", "eta", "phi"])


def make(counts: list[int] | np.ndarray, seed: int = 0) -> PointClouds:
    """Clouds of these sizes with columns of several types."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    size, total = len(counts), int(offsets[-1])
    points = {
        "etarel": rng.normal(0, 0.1, total).astype(np.float32),
        "phirel": rng.normal(0, 0.1, total),
        "ptrel": rng.uniform(0, 1, total).astype(np.float32),
        "pdgId": rng.integers(-300, 300, total).astype(np.int32),
    }
    features = {
        "pt": rng.uniform(500, 600, size).astype(np.float32),
        "eta": rng.normal(size=size),
        "type": rng.integers(0, 5, size).astype(np.int32),
    }
    return PointClouds.from_flat(points, offsets, features, SCHEMA, {"sources": [f"seed{seed}"]})


def polar(pt: object, eta: object, phi: object, counts: list[int], axis: tuple[list[float], ...] | None = None):
    """Clouds in (pt, eta, phi)."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    axis = axis or tuple([value] * len(counts) for value in (100.0, 0.0, 0.0))
    names = ("pt", "eta", "phi")
    points = dict(zip(names, map(np.asarray, (pt, eta, phi)), strict=True))
    return PointClouds.from_flat(points, offsets, dict(zip(names, axis, strict=True)), POLAR)


sizes = st.lists(st.integers(0, 6), min_size=1, max_size=12)


class TestConstruction:
    @pytest.mark.parametrize(
        ("offsets", "message"),
        [
            ([1, 3], "rise from 0"),
            ([0, 2], "number of points 3"),
            ([0, 4], "number of points 3"),
            ([0, 3, 2, 3], "fall 1 times"),
            ([0.0, 3.0], "whole numbers"),
            ([[0, 3]], "whole numbers"),
            ([], "whole numbers"),
        ],
    )
    def test_offsets_are_checked(self, offsets: list[int], message: str) -> None:
        with pytest.raises(DataError, match=message):
            PointClouds.from_flat({"pt": [3.0, 2.0, 1.0]}, offsets, {}, jet_schema(["pt"], []))

    @pytest.mark.parametrize(
        ("points", "features", "message"),
        [
            ({"pt": [1.0]}, {"mass": [1.0]}, "found columns pt; expected pt, eta"),
            ({"pt": [1.0], "eta": [1.0, 2.0]}, {"mass": [1.0]}, "different length"),
            ({"pt": [1.0], "eta": [1.0]}, {"mass": [1.0, 2.0]}, "one row a cloud"),
            ({"pt": ["a"], "eta": [1.0]}, {"mass": [1.0]}, "'pt'.*expected numbers"),
            ({"pt": [None], "eta": [1.0]}, {"mass": [1.0]}, "'pt'.*expected numbers"),
            ({"pt": [[1.0]], "eta": [1.0]}, {"mass": [1.0]}, "'pt'.*one dimension"),
            ({"pt": 1.0, "eta": [1.0]}, {"mass": [1.0]}, "'pt'.*one dimension"),
        ],
    )
    def test_columns_are_checked(self, points: dict, features: dict, message: str) -> None:
        with pytest.raises(DataError, match=message):
            PointClouds.from_flat(points, [0, 1], features, jet_schema(["pt", "eta"], ["mass"]))

    def test_from_awkward_and_back(self) -> None:
        clouds = make([2, 0, 3])
        assert PointClouds(clouds.points, clouds.features, clouds.schema).equals(clouds)
        assert ak.to_list(ak.num(clouds.points, axis=1)) == [2, 0, 3]

    @pytest.mark.parametrize("broken", [[[{"pt": 1.0}, {"pt": None}]], [[{"pt": 1.0}], None], [[None, {"pt": 1.0}]]])
    def test_missing_values_are_refused_and_not_dropped(self, broken: list) -> None:
        with pytest.raises(DataError, match="missing values"):
            PointClouds(ak.Array(broken), None, jet_schema(["pt"], []))

    def test_other_byte_orders_hold_the_same_data(self) -> None:
        clouds = make([2, 3])
        swapped = {name: clouds.column(name) for name in SCHEMA.point_names}
        swapped["etarel"] = swapped["etarel"].astype(">f4")
        features = {name: clouds.feature(name) for name in SCHEMA.cloud_names}
        assert PointClouds.from_flat(swapped, clouds.offsets, features, SCHEMA).equals(clouds)

    def test_no_copy(self) -> None:
        column = np.array([3.0, 2.0])
        clouds = PointClouds.from_flat({"pt": column}, [0, 2], {}, jet_schema(["pt"], []))
        assert np.shares_memory(clouds.column("pt"), column)
        assert np.shares_memory(ak.to_numpy(ak.flatten(clouds.points.pt)), column)
        assert clouds.nbytes == 2 * 8 + 2 * 8


class TestSelection:
    @given(sizes, st.data())
    @settings(deadline=None, max_examples=50)
    def test_as_a_list_selects(self, counts: list[int], data: st.DataObject) -> None:
        clouds, n = make(counts), len(counts)
        bound = st.none() | st.integers(-n - 2, n + 2)
        step = st.none() | st.sampled_from([-2, -1, 1, 2, 3])
        where = data.draw(
            st.builds(slice, bound, bound, step)
            | st.lists(st.integers(-n, n - 1), max_size=8)
            | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
        )
        chosen = clouds[where]
        rows = np.arange(n)[np.array(where, np.int64) if isinstance(where, list) else where]
        points, features = clouds.points.to_list(), clouds.features.to_list()
        assert chosen.points.to_list() == [points[row] for row in rows]
        assert chosen.features.to_list() == [features[row] for row in rows]
        assert chosen.schema == clouds.schema

    @given(sizes, st.integers(1, 13))
    @settings(deadline=None, max_examples=50)
    def test_concatenate_undoes_split(self, counts: list[int], size: int) -> None:
        clouds = make(counts)
        pieces = list(clouds.split(size))
        assert all(len(piece) <= size for piece in pieces)
        joined = PointClouds.concatenate(pieces)
        assert joined.equals(clouds)
        assert joined.provenance == clouds.provenance

    def test_concatenate_joins_sources(self) -> None:
        joined = PointClouds.concatenate([make([1], seed=1), make([2], seed=2), make([1], seed=1)])
        assert joined.provenance["sources"] == ["seed1", "seed2"]

    def test_concatenate_refuses_another_schema(self) -> None:
        with pytest.raises(DataError, match="different schema"):
            PointClouds.concatenate([make([1]), polar([1.0], [0.0], [0.0], [1])])
        with pytest.raises(DataError, match="nothing"):
            PointClouds.concatenate([])

    @pytest.mark.parametrize(
        ("where", "error"),
        [(np.array([True]), DataError), ([3], IndexError), ([-4], IndexError), (1, TypeError), ([0.5], TypeError)],
    )
    def test_bad_selections(self, where: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            make([1, 2, 3])[where]  # type: ignore[index]

    @given(sizes, st.integers(0, 7))
    @settings(deadline=None, max_examples=50)
    def test_leading(self, counts: list[int], size: int) -> None:
        clouds = make(counts)
        assert clouds.leading(size).points.to_list() == clouds.points[:, :size].to_list()


class TestPadding:
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 3))
    @settings(deadline=None, max_examples=50)
    def test_round_trip(self, counts: list[int], room: int) -> None:
        schema = jet_schema(["etarel", "phirel", "ptrel"], ["pt"])
        full = make(counts)
        points = {name: full.column(name).astype(np.float32) for name in schema.point_names}
        clouds = PointClouds.from_flat(points, full.offsets, {"pt": full.feature("pt")}, schema)
        padded, mask = clouds.padded(max(counts) + room)
        assert padded.shape == (len(counts), max(counts) + room, 3)
        assert not padded[~mask].any()
        assert mask.sum(axis=1).tolist() == counts
        assert PointClouds.from_padded(padded, mask, {"pt": clouds.feature("pt")}, schema).equals(clouds)

    def test_a_large_cloud_is_not_cut(self) -> None:
        with pytest.raises(DataError, match="does not fit"):
            make([3]).padded(2)

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(DataError, match="padded points"):
            PointClouds.from_padded(np.zeros((2, 3, 1)), np.zeros((2, 2), bool), {}, jet_schema(["pt"], []))


class TestValidate:
    @pytest.mark.parametrize("level", ["point", "cloud"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_non_finite(self, level: str, bad: float) -> None:
        clouds = make([2, 0, 2])[[0, 2]]
        values = clouds.column("phirel") if level == "point" else clouds.feature("eta")
        values[-1] = bad
        with pytest.raises(DataError, match=f"^a.h5: {level} feature '(phirel|eta)' is not finite .* in cloud 1;"):
            clouds.validate("a.h5")

    def test_negative_fraction(self) -> None:
        clouds = make([1, 2])
        clouds.column("ptrel")[1] = -0.5
        with pytest.raises(DataError, match=r"'ptrel' is -0\.5 in cloud 1"):
            clouds.validate()

    @pytest.mark.parametrize("bad", [-1, 5])
    def test_a_number_without_category(self, bad: int) -> None:
        clouds = make([1, 2])
        clouds.feature("type")[0] = bad
        with pytest.raises(DataError, match=f"'type' is {bad} in cloud 0; expected 0 to 4 for g, q, t, w, z"):
            clouds.validate()

    def test_a_category_is_a_whole_number(self) -> None:
        clouds = PointClouds.from_flat({"particle_class": [2.0, 0.5]}, [0, 2], {}, jet_schema(["particle_class"], []))
        with pytest.raises(DataError, match=r"'particle_class' is 0\.5 in cloud 0; expected 0 to 4 for charged hadron"):
            clouds.validate()

    def test_empty_clouds(self) -> None:
        with pytest.raises(DataError, match="1 of 3 clouds have no points, the first is cloud 1"):
            make([1, 0, 2]).validate()

    def test_good_clouds_are_returned(self) -> None:
        clouds = make([1, 2])
        assert clouds.validate() is clouds


class TestMomenta:
    @given(
        st.floats(0.1, 500), st.floats(0.1, 500), st.floats(-2, 2), st.floats(-2, 2), st.floats(-3, 3), st.floats(-3, 3)
    )
    @settings(deadline=None, max_examples=50)
    def test_two_massless_constituents(self, pt1, pt2, eta1, eta2, phi1, phi2) -> None:
        clouds = polar([pt1, pt2], [eta1, eta2], [phi1, phi2], [2])
        jet = ak.sum(clouds.momenta(), axis=1)
        mass2 = 2 * pt1 * pt2 * (np.cosh(eta1 - eta2) - np.cos(phi1 - phi2))
        assert jet.mass2[0] == pytest.approx(mass2, abs=1e-13 * jet.E[0] ** 2)

    @pytest.mark.parametrize("massive", [False, True])
    def test_all_columns_give_the_same_momenta(self, massive: bool) -> None:
        rng = np.random.default_rng(5)
        counts, total = [3, 1, 6], 10
        offsets = np.concatenate([[0], np.cumsum(counts)])
        pt, eta, phi = rng.uniform(1, 90, total), rng.normal(size=total), rng.uniform(-np.pi, np.pi, total)
        mass = rng.uniform(0.1, 2, total) if massive else np.zeros(total)
        px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
        energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
        axis = {"pt": rng.uniform(100, 200, 3), "eta": rng.normal(size=3), "phi": rng.uniform(-3, 3, 3)}
        repeated = {name: np.repeat(values, counts) for name, values in axis.items()}
        columns = {
            "pt": pt,
            "eta": eta,
            "phi": phi,
            "mass": mass,
            "px": px,
            "py": py,
            "pz": pz,
            "energy": energy,
            "rapidity": np.arctanh(pz / energy),
            "etarel": eta - repeated["eta"],
            "phirel": phi - repeated["phi"],
            "ptrel": pt / repeated["pt"],
        }
        sets = [("pt", "eta", "phi", "mass"), ("pt", "rapidity", "phi", "mass"), ("px", "py", "pz", "energy")]
        if not massive:
            sets += [("pt", "eta", "phi"), ("pt", "rapidity", "phi"), ("etarel", "phirel", "ptrel")]
        for names in sets:
            points = {name: columns[name] for name in names}
            found = PointClouds.from_flat(points, offsets, axis, jet_schema(names, tuple(axis))).momenta()
            assert found.pt.layout.content.dtype == np.float64
            for name, expected in (("px", px), ("py", py), ("pz", pz), ("E", energy), ("phi", phi), ("eta", eta)):
                values = ak.to_numpy(ak.flatten(getattr(found, name)))
                np.testing.assert_allclose(values, expected, rtol=1e-11, atol=1e-11)

    def test_azimuth_wraps(self) -> None:
        schema = jet_schema(["etarel", "phirel", "ptrel"], ["pt", "eta", "phi"])
        clouds = PointClouds.from_flat(
            {"etarel": [0.0, 0.0], "phirel": [0.3, -0.1], "ptrel": [0.5, 0.5]},
            [0, 2],
            {"pt": [10.0], "eta": [0.0], "phi": [3.0]},
            schema,
        )
        phi = ak.flatten(clouds.momenta().phi).to_numpy()
        np.testing.assert_allclose(phi, [3.3 - 2 * np.pi, 2.9], rtol=1e-15)

    def test_masses_do_not_need_the_azimuth_of_the_jet(self) -> None:
        clouds = make([4, 7])
        turned = PointClouds.from_flat(
            {name: clouds.column(name) for name in SCHEMA.point_names},
            clouds.offsets,
            {**{name: clouds.feature(name) for name in SCHEMA.cloud_names}, "phi": [1.0, -2.0]},
            jet_schema(SCHEMA.point_names, [*SCHEMA.cloud_names, "phi"]),
        )
        masses = [ak.to_numpy(ak.sum(some.momenta(), axis=1).mass) for some in (clouds, turned)]
        np.testing.assert_allclose(masses[0], masses[1], rtol=1e-9)

    def test_columns_that_are_not_momenta(self) -> None:
        clouds = PointClouds.from_flat({"pt": [1.0]}, [0, 1], {}, jet_schema(["pt"], []))
        with pytest.raises(DataError, match="no four-momenta in point features pt"):
            clouds.momenta()

    def test_points_behave_as_vectors(self) -> None:
        schema = jet_schema(["px", "py", "pz", "energy"], [])
        clouds = PointClouds.from_flat({"px": [3.0], "py": [4.0], "pz": [0.0], "energy": [13.0]}, [0, 1], {}, schema)
        assert clouds.points.pt.to_list() == [[5.0]]
        assert clouds.points.mass.to_list() == [[12.0]]


class TestRelative:
    @given(st.integers(0, 2**32 - 1))
    @settings(deadline=None, max_examples=30)
    def test_inverse_of_momenta(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 6, 4)
        total = int(counts.sum())
        schema = jet_schema(["etarel", "phirel", "ptrel"], ["pt", "eta", "phi"])
        points = {
            "etarel": rng.normal(0, 0.4, total),
            "phirel": rng.uniform(-1, 1, total),
            "ptrel": rng.uniform(0.01, 1, total),
        }
        axis = {"pt": rng.uniform(100, 900, 4), "eta": rng.normal(size=4), "phi": rng.uniform(-np.pi, np.pi, 4)}
        offsets = np.concatenate([[0], np.cumsum(counts)])
        momenta = PointClouds.from_flat(points, offsets, axis, schema).momenta()
        absolute = {name: ak.to_numpy(ak.flatten(getattr(momenta, name))) for name in ("pt", "eta", "phi")}
        relative = PointClouds.from_flat(absolute, offsets, axis, POLAR).relative()
        for name, values in points.items():
            found = ak.to_numpy(ak.flatten(relative[name]))
            np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-12)

    def test_stored_columns_are_canonical(self) -> None:
        clouds = make([2, 3])
        relative = clouds.relative()
        assert np.shares_memory(ak.to_numpy(ak.flatten(relative.etarel)), clouds.column("etarel"))

    def test_without_an_axis_it_is_the_sum(self) -> None:
        schema = jet_schema(["pt", "eta", "phi"], [])
        clouds = PointClouds.from_flat({"pt": [30.0, 30.0], "eta": [0.5, 0.5], "phi": [3.1, -3.1]}, [0, 2], {}, schema)
        relative = clouds.relative()
        half = np.pi - 3.1
        np.testing.assert_allclose(relative.phirel.to_numpy()[0], [-half, half], rtol=1e-12)
        np.testing.assert_allclose(relative.ptrel.to_numpy()[0], 0.5 / np.cos(half), rtol=1e-12)


class TestFingerprint:
    def test_a_copy_agrees_and_provenance_does_not_matter(self) -> None:
        clouds, copy = make([2, 3]), make([2, 3])
        copy.provenance["seed"] = 3
        assert copy.equals(clouds)

    @pytest.mark.parametrize("name", SCHEMA.point_names + SCHEMA.cloud_names)
    def test_one_bit_changes_it(self, name: str) -> None:
        clouds, other = make([2, 3]), make([2, 3])
        values = other.column(name) if name in SCHEMA.point_names and name != "pt" else other.feature(name)
        values.view(np.uint8)[0] ^= 1
        assert other.fingerprint() != clouds.fingerprint()
        assert not other.equals(clouds)

    def test_sizes_types_and_names_change_it(self) -> None:
        def one(values: np.ndarray, offsets: list[int], name: str = "pt") -> str:
            return PointClouds.from_flat({name: values}, offsets, {}, jet_schema([name], [])).fingerprint()

        values = np.zeros(2, np.float32)
        prints = [
            one(values, [0, 2]),
            one(values, [0, 1, 2]),
            one(values, [0, 0, 2]),
            one(values.astype(np.float64), [0, 2]),
            one(values.view(np.int32), [0, 2]),
            one(values, [0, 2], "eta"),
        ]
        assert len(set(prints)) == len(prints)

    def test_the_meaning_counts(self) -> None:
        features = [Feature("pt", unit) for unit in ("GeV", "TeV")]
        a, b = (
            PointClouds.from_flat({"pt": [1.0]}, [0, 1], {}, jet_schema(["pt"], [], extra={"pt": feature}))
            for feature in features
        )
        assert not a.equals(b)


def test_a_notebook_shows_sizes_and_columns_with_units() -> None:
    features = {"<b>": Feature("<b>", "a & b", "c < d")}
    clouds = PointClouds.from_flat(
        {"pt": [1.0, 2.0, 3.0]}, [0, 2, 3], {"<b>": [1.0, 2.0]}, jet_schema(["pt"], ["<b>"], extra=features)
    )
    page = clouds._repr_html_()
    assert "2 clouds (jets), 3 points" in page
    assert "<td>point</td><td>pt</td><td>GeV</td>" in page
    assert "<td>cloud</td><td>&lt;b&gt;</td><td>a &amp; b</td><td>c &lt; d</td>" in page
    assert ET.fromstring(f"<div>{page}</div>").findall(".//tbody/tr")[1][1].text == "<b>"


def test_missing_momenta_name_near_misses_and_no_file_where_there_is_none() -> None:
    clouds = PointClouds.from_flat(
        {"Pt": [1.0], "etaa": [0.0], "depth": [2.0], "phi": [0.0]},
        [0, 1],
        {},
        jet_schema(["Pt", "etaa", "depth", "phi"], []),
    )
    with pytest.raises(DataError) as caught:
        clouds.momenta()
    message = str(caught.value)
    assert message.endswith("did you mean 'eta'?")
    assert "points: 'Pt' is no such name, did you mean 'pt'?" in message
    assert "'depth' is" not in message
    assert "read from" not in message


def test_reading_never_imports_torch() -> None:
    code = (
        "import sys, pcdiff; pcdiff.read; pcdiff.PointClouds; "
        "assert not {'torch', 'uproot', 'h5py', 'mlflow', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_some_of_the_points_are_those_of_awkward() -> None:
    """As a jagged mask has it; a cloud may lose all of its points."""
    rng = np.random.default_rng(7)
    counts = np.array([3, 1, 4, 2])
    values = rng.standard_normal(counts.sum())
    clouds = PointClouds.from_flat({"x": values}, np.concatenate([[0], np.cumsum(counts)]), {}, vector_schema(["x"]))
    keep = np.array([1, 0, 1, 0, 0, 1, 1, 0, 1, 1], bool)
    found = clouds.points_where(keep)
    assert found.counts.tolist() == [2, 0, 2, 2]
    assert found.points.x.to_list() == clouds.points.x[ak.unflatten(keep, counts)].to_list()
    assert clouds.owners.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]


def test_features_are_added_and_replaced() -> None:
    clouds = make([2, 3])
    found = clouds.with_features({"mass": [50.0, 60.0], "eta": 1.5, "sigma_8": 0.8})
    assert found.schema.cloud_names == ("pt", "eta", "type", "mass", "sigma_8")
    assert found.feature("mass").tolist() == [50, 60]
    assert found.feature("eta").tolist() == [1.5, 1.5]
    assert (found.schema.cloud("mass").unit, found.schema.cloud("sigma_8").unit) == ("GeV", "")
    assert found.schema.cloud("type") == clouds.schema.cloud("type")
    assert found.provenance == clouds.provenance
    assert found.column("ptrel") is clouds.column("ptrel")
    np.testing.assert_array_equal(found.feature("pt"), clouds.feature("pt"))
    with pytest.raises(DataError, match="'mass' has 3 rows, expected 2"):
        clouds.with_features({"mass": [1.0, 2.0, 3.0]})
