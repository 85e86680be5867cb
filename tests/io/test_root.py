"""pcdiff's own ROOT files with a TTree: exact round trips, and what a user without pcdiff finds inside."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot
import vector

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import registry
from pcdiff.schema import Feature, Schema, jet_schema


def make_jets(
    n: int,
    *,
    dtype: str = "float32",
    phi: bool = True,
    extra: bool = False,
    sizes: tuple[int, int] = (1, 40),
    seed: int = 3,
) -> PointClouds:
    """Jets whose pt, eta, phi and mass are exactly, up to rounding, those of the sum of their constituents."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*sizes, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    jet = np.repeat(np.arange(n), counts)
    axis_eta, axis_phi = rng.normal(0, 1, n), rng.uniform(-np.pi, np.pi, n)
    points = vector.array(
        {
            "pt": rng.exponential(30, total) + 0.5,
            "eta": axis_eta[jet] + rng.normal(0, 0.1, total),
            "phi": axis_phi[jet] + rng.normal(0, 0.1, total),
            "mass": np.zeros(total),
        }
    )
    parts = [np.bincount(jet, getattr(points, component), n) for component in ("px", "py", "pz", "E")]
    axis = vector.array(dict(zip(("px", "py", "pz", "E"), parts, strict=True)))
    columns: dict[str, npt.NDArray[np.generic]] = {
        "etarel": (points.eta - axis.eta[jet]).astype(dtype),
        "phirel": ((points.phi - axis.phi[jet] + np.pi) % (2 * np.pi) - np.pi).astype(dtype),
        "ptrel": (points.pt / axis.pt[jet]).astype(dtype),
    }
    features: dict[str, npt.NDArray[np.generic]] = {
        "type": rng.integers(0, 5, n),
        **{name: getattr(axis, name).astype(dtype) for name in ("pt", "eta", "phi", "mass")},
    }
    if not phi:
        del features["phi"]
    if extra:
        columns |= {
            "pdgId": rng.choice([211, -211, 22, 130], total).astype(np.int32),
            "isMuon": rng.random(total) < 0.1,
        }
        features |= {"num_constituents": counts.astype(np.uint16)}
    return PointClouds.from_flat(columns, offsets, features, jet_schema(list(columns), list(features), axis="kept"))


@pytest.mark.parametrize("format", ["root", "rntuple"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("phi", [True, False])
@pytest.mark.parametrize("sizes", [(1, 2), (1, 40)])
@pytest.mark.parametrize("n", [1, 57])
def test_round_trip_is_exact(
    tmp_path: Path, format: str, dtype: str, phi: bool, sizes: tuple[int, int], n: int
) -> None:
    jets = make_jets(n, dtype=dtype, phi=phi, extra=True, sizes=sizes)
    path = registry.write(jets, tmp_path / "jets.root", format=format)
    back = registry.read(path)
    assert back.equals(jets)
    assert back.schema == jets.schema
    assert back.column("ptrel").dtype == dtype
    assert back.column("pdgId").dtype == np.int32
    assert back.column("isMuon").dtype == np.bool_
    assert back.feature("num_constituents").dtype == np.uint16


@pytest.mark.parametrize("format", ["root", "rntuple"])
@pytest.mark.parametrize("size", [1, 7, 57, 1000])
def test_pieces_make_the_same_file_and_are_read_in_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, size: int
) -> None:
    monkeypatch.setattr("pcdiff.io.rootlayout._CLUSTER", 10)
    jets = make_jets(57)
    path = registry.write(jets.split(size), tmp_path / "jets.root", format=format)
    pieces = list(registry.iterate(path, step_size=size))
    assert [len(piece) for piece in pieces] == [len(piece) for piece in jets.split(size)]
    assert PointClouds.concatenate(pieces).equals(jets)


@pytest.mark.parametrize("format", ["root", "rntuple"])
def test_extreme_numbers_survive(tmp_path: Path, format: str) -> None:
    single, double = np.finfo(np.float32), np.finfo(np.float64)
    schema = jet_schema(["a", "b", "c"], ["d"])
    columns = {
        "a": np.array([single.max, single.smallest_subnormal, -0.0], np.float32),
        "b": np.array([double.max, double.smallest_subnormal, 1 / 3]),
        "c": np.array([2**63 - 1, -(2**63), 0], np.int64),
    }
    clouds = PointClouds.from_flat(columns, [0, 1, 3], {"d": np.array([2**64 - 1, 0], np.uint64)}, schema)
    assert registry.read(registry.write(clouds, tmp_path / "x.root", format=format)).equals(clouds)


def test_plain_uproot_finds_nanoaod_names_and_closing_four_momenta(tmp_path: Path) -> None:
    jets = make_jets(200, extra=True)
    path = registry.write(jets, tmp_path / "jets.root", metadata={"seed": 7, "config_sha256": "ab"})
    with uproot.open(path) as file:
        assert file.classnames(cycle=False) == {"Jets": "TTree", "pcdiff": "TObjString"}
        tree = file["Jets"]
        components = [f"{prefix}_{name}" for prefix in ("Jet", "Constituent") for name in ("pt", "eta", "phi", "mass")]
        relative = [f"Constituent_{name}" for name in ("etarel", "phirel", "ptrel")]
        assert {"Jet_type", "nConstituent", "Constituent_pdgId", *components, *relative} <= set(tree.keys())
        counters = {branch.count_branch.name for branch in tree.values() if branch.count_branch is not None}
        assert counters == {"nConstituent"}
        assert tree["Constituent_pt"].typename == "float[]"
        arrays = tree.arrays()
        about = json.loads(str(file["pcdiff"]))

    assert about["metadata"] == {"seed": 7, "config_sha256": "ab"}
    assert about["software"] == f"pcdiff {pcdiff.__version__}"
    assert {about["units"][branch] for branch in ("Jet_pt", "Jet_mass", "Constituent_pt", "Constituent_mass")} == {
        "GeV"
    }
    assert about["units"]["Constituent_phi"] == "rad"
    assert set(about["derived"]) == {f"Constituent_{name}" for name in ("pt", "eta", "phi", "mass")}
    assert set(about["units"]) == set(tree.keys()) - {"nConstituent"}

    assert arrays["nConstituent"].to_list() == ak.num(arrays["Constituent_pt"]).to_list() == jets.counts.tolist()
    total = ak.sum(
        ak.zip(
            {
                name: ak.values_astype(arrays[f"Constituent_{name}"], np.float64)
                for name in ("pt", "eta", "phi", "mass")
            },
            with_name="Momentum4D",
        ),
        axis=1,
    )
    np.testing.assert_allclose(total.pt, arrays["Jet_pt"], rtol=2e-6)
    np.testing.assert_allclose(total.eta, arrays["Jet_eta"], atol=2e-6)
    np.testing.assert_allclose(np.cos(total.phi - arrays["Jet_phi"]), 1, atol=1e-10)
    # m^2 is a difference of E^2 and p^2: rounding of the inputs, a few 1e-7, is magnified by (E/m)^2.
    energy = np.sqrt(total.p**2 + total.mass**2)
    np.testing.assert_allclose(total.mass**2 / energy**2, (arrays["Jet_mass"] / energy) ** 2, atol=3e-6)
    np.testing.assert_allclose(
        ak.flatten(arrays["Constituent_pt"]), ak.flatten(arrays["Constituent_ptrel"] * arrays["Jet_pt"]), rtol=3e-7
    )
    np.testing.assert_allclose(
        ak.flatten(arrays["Constituent_eta"]), ak.flatten(arrays["Constituent_etarel"] + arrays["Jet_eta"]), atol=1e-6
    )


def test_without_the_jets_phi_no_phi_is_written(tmp_path: Path) -> None:
    path = registry.write(make_jets(5, phi=False), tmp_path / "jets.root")
    with uproot.open(path) as file:
        assert {"Jet_phi", "Constituent_phi"}.isdisjoint(file["Jets"].keys())
        assert {"Constituent_pt", "Constituent_eta", "Constituent_mass"} <= set(file["Jets"].keys())


def test_cartesian_momenta_determine_phi(tmp_path: Path) -> None:
    points = {"px": [3.0, 0.0], "py": [4.0, 2.0], "pz": [0.0, 1.0], "energy": [5.0, 3.0]}
    clouds = PointClouds.from_flat(points, [0, 2], {}, jet_schema(list(points), []))
    path = registry.write(clouds, tmp_path / "jets.root")
    with uproot.open(path) as file:
        arrays = file["Jets"].arrays()
    np.testing.assert_allclose(arrays["Constituent_pt"][0], [5, 2], rtol=1e-7)
    np.testing.assert_allclose(arrays["Constituent_phi"][0], [np.arctan2(4, 3), np.pi / 2], rtol=1e-7)
    np.testing.assert_allclose(arrays["Constituent_mass"][0], [0, 2], atol=1e-7)
    assert registry.read(path).equals(clouds)


def test_stored_momenta_are_not_replaced_by_derived_ones(tmp_path: Path) -> None:
    points = {"pt": np.array([1 / 3]), "rapidity": np.array([0.7]), "phi": np.array([0.1])}
    clouds = PointClouds.from_flat(points, [0, 1], {}, jet_schema(list(points), []))
    path = registry.write(clouds, tmp_path / "jets.root")
    with uproot.open(path) as file:
        tree = file["Jets"]
        assert tree["Constituent_pt"].array()[0, 0] == 1 / 3
        # Massless: pseudorapidity equals rapidity.
        assert tree["Constituent_eta"].array()[0, 0] == pytest.approx(0.7, rel=1e-7)
    assert registry.read(path).equals(clouds)


@pytest.mark.parametrize("format", ["root", "rntuple"])
def test_halos_have_their_own_names(tmp_path: Path, format: str) -> None:
    position = {name: np.array([1.0, 2.0, 3.0], np.float32) for name in ("x", "y", "z")}
    schema = Schema("halos", tuple(Feature(name, "Mpc/h") for name in position), (Feature("omega_m"),))
    clouds = PointClouds.from_flat(position, [0, 2, 3], {"omega_m": [0.3, 0.31]}, schema)
    path = registry.write(clouds, tmp_path / "halos.root", format=format)
    with uproot.open(path) as file:
        assert set(file["Halos"].keys()) == {"Box_omega_m", "nHalo", "Halo_x", "Halo_y", "Halo_z"}
    assert registry.read(path).equals(clouds)


def test_inspect_tells_stored_from_derived(tmp_path: Path) -> None:
    jets = make_jets(5, phi=False)
    path = registry.write(jets, tmp_path / "jets.root", metadata={"seed": 1})
    found = registry.inspect(path)
    assert (found.format, found.clouds, dict(found.metadata)) == ("root", 5, {**jets.provenance, "seed": 1})
    features = {column.source: column.feature for column in found.columns}
    assert features["Constituent_ptrel"] == "ptrel"
    assert features["Jet_pt"] == "pt"
    assert features["Constituent_pt"] == features["nConstituent"] == ""
    assert found.notes == ("derived when the file was written: Constituent_pt, Constituent_eta, Constituent_mass",)


def test_provenance_is_kept(tmp_path: Path) -> None:
    jets = make_jets(4)
    jets.provenance = {"sources": ["é.h5"], "seed": 3}
    assert registry.read(registry.write(jets, tmp_path / "jets.root")).provenance == jets.provenance


def test_columns_that_root_cannot_hold_are_refused_without_output(tmp_path: Path) -> None:
    for columns, message in (
        ({"pt": np.ones(2, np.float16)}, "Constituent_pt has type float16"),
        ({"p-t": np.ones(2)}, "'Constituent_p-t' cannot be the name of a branch"),
    ):
        clouds = PointClouds.from_flat(columns, [0, 2], {}, jet_schema(list(columns), []))
        with pytest.raises(DataError, match=message):
            registry.write(clouds, tmp_path / "x.root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [{"loss": float("nan")}, {"path": Path()}])
def test_metadata_that_json_cannot_hold_leave_no_output(tmp_path: Path, metadata: dict[str, object]) -> None:
    with pytest.raises(DataError, match="JSON"):
        registry.write(make_jets(2), tmp_path / "x.root", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_no_clouds_leave_no_output(tmp_path: Path) -> None:
    for nothing in (iter(()), make_jets(3)[:0]):
        with pytest.raises(DataError, match="nothing to write"):
            registry.write(nothing, tmp_path / "x.root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected a ROOT file"),
        (b"not a root file", "is not a ROOT file: it starts with b'not a ro'"),
        (b"root", "is cut short or damaged"),
        (b"root" + bytes(300), "is cut short or damaged"),
    ],
)
def test_foreign_bytes_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.root"
    path.write_bytes(content)
    for use in (registry.read, registry.inspect):
        with pytest.raises(DataError, match=message) as caught:
            use(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["root", "rntuple"])
def test_truncated_files_are_refused(tmp_path: Path, format: str) -> None:
    path = registry.write(make_jets(50), tmp_path / "x.root", format=format)
    content = path.read_bytes()
    for keep in (20, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"cut short or damaged: \d+ bytes"):
            registry.read(path)


@pytest.mark.parametrize("format", ["root", "rntuple"])
def test_flipped_bytes_never_give_wrong_jets(tmp_path: Path, format: str) -> None:
    """Each damaged file is refused in one line or, where unused bytes were hit, gives the same jets."""
    jets = make_jets(30)
    path = registry.write(jets, tmp_path / "x.root", format=format)
    content = path.read_bytes()
    messages = []
    for at in np.linspace(0, len(content) - 1, 150, dtype=int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            same = registry.read(path, format=format).equals(jets)
        except DataError as error:
            messages.append(str(error))
        else:
            assert same, f"byte {at}"
    assert messages
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_a_byte_flipped_where_uproot_has_no_checksum_is_noticed(tmp_path: Path) -> None:
    """Few numbers do not shrink, so uproot stores them bare."""
    jets = make_jets(30)
    path = registry.write(jets, tmp_path / "x.root")
    content = bytearray(path.read_bytes())
    at = content.index(jets.feature("pt").astype(">f4").tobytes())
    content[at + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="'Jet_pt' of tree 'Jets' is damaged: its checksum differs"):
        registry.read(path)


def test_a_file_of_a_newer_pcdiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    with uproot.recreate(path) as file:
        file.mktree("Jets", {"Jet_pt": np.dtype("f4")})
        file["pcdiff"] = json.dumps({"pcdiff": 99})
    with pytest.raises(DataError, match="newer pcdiff"):
        registry.read(path)


def signed(about: dict[str, object], **changes: object) -> str:
    """The text of the object ``pcdiff``, changed and with the checksum that belongs to it."""
    content = {name: value for name, value in {**about, **changes}.items() if name != "checksum"}
    return json.dumps({**content, "checksum": zlib.crc32(json.dumps(content).encode())})


def test_a_missing_branch_is_named(tmp_path: Path) -> None:
    jets = make_jets(3)
    path = registry.write(jets, tmp_path / "x.root")
    with uproot.open(path) as file:
        about = json.loads(str(file["pcdiff"]))
    with uproot.recreate(path) as file:
        columns = {"Constituent_etarell": np.dtype("f4"), "Constituent_phirel": np.dtype("f4")}
        file.mktree("Jets", columns)
        file["pcdiff"] = signed(about, entries=0)
    with pytest.raises(DataError, match="no branch 'Constituent_etarel': did you mean 'Constituent_etarell'"):
        registry.read(path)


def test_a_tree_of_another_length_than_written_is_refused(tmp_path: Path) -> None:
    path = registry.write(make_jets(3), tmp_path / "x.root")
    with uproot.open(path) as file:
        about = json.loads(str(file["pcdiff"]))
    with uproot.update(path) as file:
        file["pcdiff"] = signed(about, entries=4)
    with pytest.raises(DataError, match="has 3 entries, expected 4"):
        registry.read(path)


@pytest.mark.slow
def test_coffea_opens_it(tmp_path: Path) -> None:
    nanoevents = pytest.importorskip("coffea.nanoevents")
    jets = make_jets(20)
    path = registry.write(jets, tmp_path / "jets.root")
    factory = nanoevents.NanoEventsFactory.from_root(
        {str(path): "Jets"}, schemaclass=nanoevents.BaseSchema, mode="virtual"
    )
    events = factory.events()
    np.testing.assert_array_equal(ak.to_numpy(events.Jet_pt), jets.feature("pt"))
    np.testing.assert_array_equal(ak.to_numpy(ak.flatten(events.Constituent_ptrel)), jets.column("ptrel"))
