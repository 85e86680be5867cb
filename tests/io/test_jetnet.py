"""JetNet HDF5: the public layout, exact round trips, and refusals."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.io import hdf5
from pcdiff.schema import JET_TYPES, jet_schema

COUNTS = [3, 1, 4]


def arrays(mask: bool = True, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Particles (3, 4, 4 or 3) and jets (3, 4) as the public files hold them."""
    rng = np.random.default_rng(0)
    real = np.arange(4) < np.array(COUNTS)[:, None]
    particles = np.zeros((3, 4, 4), dtype)
    particles[real, :3] = rng.uniform(0.01, 0.2, (8, 3))
    particles[..., 3] = real
    jets = np.column_stack([rng.uniform(900, 1100, 3), rng.normal(size=3), rng.uniform(50, 150, 3), COUNTS])
    return particles if mask else particles[..., :3], jets.astype(dtype)


def make(path: Path, particles: np.ndarray | None = None, jets: np.ndarray | None = None) -> Path:
    standard = arrays()
    with h5py.File(path, "w") as file:
        file["particle_features"] = standard[0] if particles is None else particles
        file["jet_features"] = standard[1] if jets is None else jets
    return path


class TestRead:
    def test_public_layout(self, tmp_path: Path) -> None:
        particles, jets = arrays()
        clouds = pcdiff.read(make(tmp_path / "t.hdf5"))
        assert clouds.schema == jet_schema(
            ("etarel", "phirel", "ptrel"), ("pt", "eta", "mass", "num_constituents", "type"), axis="all"
        )
        assert clouds.counts.tolist() == COUNTS
        padded, mask = clouds.padded()
        np.testing.assert_array_equal(padded, particles[..., :3])
        np.testing.assert_array_equal(mask, particles[..., 3] > 0.5)
        for i, name in enumerate(("pt", "eta", "mass", "num_constituents")):
            assert clouds.feature(name).dtype == np.float32
            np.testing.assert_array_equal(clouds.feature(name), jets[:, i])
        assert clouds.feature("type").tolist() == [JET_TYPES.index("t")] * 3
        assert clouds.provenance["sources"] == [str(tmp_path / "t.hdf5")]

    def test_the_stored_type_of_number_is_kept(self, tmp_path: Path) -> None:
        particles, jets = arrays(dtype=np.float64)
        clouds = pcdiff.read(make(tmp_path / "g.hdf5", particles, jets))
        assert clouds.column("ptrel").dtype == clouds.feature("mass").dtype == np.float64

    def test_real_constituents_may_stand_anywhere(self, tmp_path: Path) -> None:
        particles, _ = arrays()
        mixed = particles[:, ::-1]
        clouds = pcdiff.read(make(tmp_path / "g.hdf5", mixed))
        assert clouds.counts.tolist() == COUNTS
        np.testing.assert_array_equal(clouds.column("etarel"), mixed[mixed[..., 3] > 0.5][:, 0])

    def test_without_mask(self, tmp_path: Path) -> None:
        path = make(tmp_path / "g.hdf5", arrays(mask=False)[0])
        assert pcdiff.read(path).equals(pcdiff.read(make(tmp_path / "g150.hdf5")))
        assert any("no mask column" in note for note in pcdiff.inspect(path).notes)

    @pytest.mark.parametrize(
        ("name", "number"), [("g.hdf5", 0), ("q150.hdf5", 1), ("z30.h5", 4), ("jets.hdf5", None), ("train.h5", None)]
    )
    def test_type_from_the_name(self, tmp_path: Path, name: str, number: int | None) -> None:
        clouds = pcdiff.read(make(tmp_path / name))
        if number is None:
            assert "type" not in clouds.schema.cloud_names
        else:
            assert clouds.feature("type").tolist() == [number] * 3
            assert clouds.feature("type").dtype == np.int32

    @pytest.mark.parametrize("value", ["w", np.bytes_(b"w")])
    def test_the_attribute_wins_over_the_name_and_the_option_over_both(self, tmp_path: Path, value: object) -> None:
        path = make(tmp_path / "g.hdf5")
        with h5py.File(path, "a") as file:
            file.attrs["type"] = value
        assert pcdiff.read(path).feature("type")[0] == JET_TYPES.index("w")
        assert pcdiff.read(path, type="z").feature("type")[0] == JET_TYPES.index("z")

    @pytest.mark.parametrize("step_size", [1, 2, 3, 10])
    def test_pieces_join_to_the_whole(self, tmp_path: Path, step_size: int) -> None:
        path = make(tmp_path / "g.hdf5")
        pieces = list(pcdiff.iterate(path, step_size=step_size))
        assert [len(piece) for piece in pieces] == [min(step_size, 3 - i) for i in range(0, 3, step_size)]
        assert PointClouds.concatenate(pieces).equals(pcdiff.read(path))

    def test_describe(self, tmp_path: Path) -> None:
        found = pcdiff.inspect(make(tmp_path / "g.hdf5"))
        assert (found.format, found.clouds) == ("jetnet", 3)
        assert [column.feature for column in found.columns] == [
            *("etarel", "phirel", "ptrel", ""),
            *("pt", "eta", "mass", "num_constituents"),
        ]
        assert "all jets are of type g" in found.notes


class TestWrite:
    @pytest.mark.parametrize("piece", [1, 7, 1000])
    @pytest.mark.parametrize("step_size", [11, 1000])
    def test_round_trip_is_exact(self, tmp_path: Path, jets: PointClouds, piece: int, step_size: int) -> None:
        path = pcdiff.write(jets.split(piece), tmp_path / "g.h5", metadata={"seed": 7})
        back = PointClouds.concatenate(list(pcdiff.iterate(path, step_size=step_size)))
        assert back.equals(jets)
        assert back.provenance == jets.provenance
        assert pcdiff.inspect(path).metadata == {**jets.provenance, "seed": 7}

    def test_others_find_the_public_layout(self, tmp_path: Path, jets: PointClouds) -> None:
        path = pcdiff.write(jets, tmp_path / "x.hdf5")
        with h5py.File(path) as file:
            particles, rows = file["particle_features"], file["jet_features"]
            assert particles.shape == (len(jets), int(jets.counts.max()), 4)
            assert particles.dtype == rows.dtype == np.float32
            assert (particles.compression, particles.shuffle, particles.fletcher32) == ("gzip", True, True)
            np.testing.assert_array_equal(particles[..., 3].sum(axis=1), jets.counts)
            np.testing.assert_array_equal(particles[...][particles[..., 3] > 0][:, 2], jets.column("ptrel"))
            np.testing.assert_array_equal(rows[:, 2], jets.feature("mass"))
            np.testing.assert_array_equal(rows[:, 3], jets.feature("num_constituents"))

    def test_double_precision_is_kept(self, tmp_path: Path) -> None:
        particles, jets = arrays(dtype=np.float64)
        clouds = pcdiff.read(make(tmp_path / "g.hdf5", particles, jets))
        assert pcdiff.read(pcdiff.write(clouds, tmp_path / "copy.hdf5")).equals(clouds)

    def test_columns_of_several_precisions(self, tmp_path: Path) -> None:
        full = arrays(dtype=np.float64)[0]
        real = full[..., 3] > 0
        points = {"etarel": full[real][:, 0].astype(np.float32), "phirel": full[real][:, 1], "ptrel": full[real][:, 2]}
        features = {"pt": np.array([900, 1000, 1100]), "eta": np.zeros(3, np.float16), "mass": np.ones(3, np.float32)}
        schema = jet_schema(tuple(points), tuple(features))
        clouds = PointClouds.from_flat(points, np.cumsum([0, *COUNTS]), features, schema)
        assert pcdiff.read(pcdiff.write(clouds, tmp_path / "a.h5")).equals(clouds)

    def test_what_is_not_stored_is_derived(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        points = {"pt": rng.uniform(1, 50, 8), "eta": rng.normal(size=8), "phi": rng.uniform(-3, 3, 8)}
        schema = jet_schema(("pt", "eta", "phi"), ())
        clouds = PointClouds.from_flat(points, np.cumsum([0, *COUNTS]), {}, schema)
        path = pcdiff.write(clouds, tmp_path / "a.h5")
        assert pcdiff.read(path).equals(clouds)
        jet = ak.sum(clouds.momenta(), axis=1)
        with h5py.File(path) as file:
            del_mask = file["particle_features"][..., 3] > 0
            for i, values in enumerate((jet.pt, jet.eta, jet.mass, COUNTS)):
                np.testing.assert_allclose(file["jet_features"][:, i], values, rtol=1e-6)
            ptrel = file["particle_features"][...][del_mask][:, 2]
            np.testing.assert_allclose(ptrel, points["pt"] / np.repeat(jet.pt.to_numpy(), COUNTS), rtol=1e-6)

    def test_size(self, tmp_path: Path, jets: PointClouds, refused) -> None:
        path = pcdiff.write(jets, tmp_path / "a.h5", size=30)
        with h5py.File(path) as file:
            assert file["particle_features"].shape[1] == 30
        assert pcdiff.read(path).equals(jets)
        target = tmp_path / "b.h5"
        refused(lambda: pcdiff.write(jets, target, size=5), target, "size=5")
        assert not target.exists()

    def test_long_provenance(self, tmp_path: Path, jets: PointClouds) -> None:
        jets.provenance["sources"] = [f"file{i:050d}.root" for i in range(5000)]
        assert pcdiff.read(pcdiff.write(jets, tmp_path / "a.h5")).provenance == jets.provenance

    def test_no_momenta(self, tmp_path: Path, refused) -> None:
        clouds = PointClouds.from_flat({"depth": [1.0]}, [0, 1], {}, jet_schema(["depth"], []))
        refused(lambda: pcdiff.write(clouds, tmp_path / "a.h5"), tmp_path / "a.h5", "etarel, phirel, ptrel")
        assert list(tmp_path.iterdir()) == []

    def test_metadata_that_are_not_json(self, tmp_path: Path, jets: PointClouds, refused) -> None:
        target = tmp_path / "a.h5"
        refused(lambda: pcdiff.write(jets, target, metadata={"x": {1, 2}}), target, "metadata")
        assert list(tmp_path.iterdir()) == []


def broken(kind: str, path: Path) -> None:
    """A file with one fault."""
    particles, jets = arrays()
    if kind == "nan":
        particles[1, 0, 1] = np.nan
    elif kind == "negative":
        particles[2, 1, 2] = -0.1
    elif kind == "infinite jet":
        jets[0, 2] = np.inf
    elif kind == "two axes":
        particles = particles[:, 0]
    elif kind == "five columns":
        particles = np.concatenate([particles, particles[..., :1]], axis=2)
    elif kind == "jet columns":
        jets = jets[:, :3]
    elif kind == "rows":
        jets = jets[:2]
    elif kind == "integers":
        particles = particles.astype(np.int32)
    elif kind == "empty":
        particles[1] = 0
    make(path, particles, jets)
    with h5py.File(path, "a") as file:
        if kind == "missing":
            file.move("jet_features", "jet_feature")
        elif kind == "soft link":
            file.move("jet_features", "there")
            file["jet_features"] = h5py.SoftLink("/there")
        elif kind == "external link":
            del file["jet_features"]
            file["jet_features"] = h5py.ExternalLink("other.h5", "/jet_features")
        elif kind == "external storage":
            del file["jet_features"]
            raw = path.with_suffix(".raw")
            raw.write_bytes(jets.tobytes())
            file.create_dataset("jet_features", jets.shape, jets.dtype, external=[(str(raw), 0, jets.nbytes)])
        elif kind == "virtual":
            del file["jet_features"]
            layout = h5py.VirtualLayout(jets.shape, jets.dtype)
            layout[...] = h5py.VirtualSource("other.h5", "jet_features", jets.shape)
            file.create_virtual_dataset("jet_features", layout)
        elif kind == "group":
            del file["jet_features"]
            file.create_group("jet_features")
        elif kind == "objects":
            del file["jet_features"]
            file.create_dataset("jet_features", (3, 4), h5py.vlen_dtype(np.float32))
        elif kind == "compound":
            del file["jet_features"]
            file.create_dataset("jet_features", (3, 4), np.dtype([("pt", "f4")]))
        elif kind == "huge":
            del file["jet_features"]
            file.create_dataset("jet_features", (10**12, 4), np.float32, chunks=(1000, 4))
        elif kind == "huge chunk":
            del file["jet_features"]
            file.create_dataset("jet_features", (3, 4), np.float32, chunks=(10**8, 4), maxshape=(None, 4))
        elif kind == "null":
            del file["jet_features"]
            file["jet_features"] = h5py.Empty("f4")
        elif kind == "attribute":
            file.attrs["type"] = "x"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "text":
        path.write_text("etarel,phirel,ptrel\n" * 100)
    elif kind == "nothing":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("nan", ("'phirel'", "cloud 1")),
        ("negative", ("'ptrel'", "cloud 2")),
        ("infinite jet", ("'mass'", "cloud 0")),
        ("two axes", ("'particle_features'", "(3, 4)", "expected 3 dimensions (clouds, points, features)")),
        ("five columns", ("'particle_features'", "(3, 4, 5)")),
        ("jet columns", ("'jet_features'", "(3, 3)", "(n, 4)")),
        ("rows", ("'jet_features'", "2 rows", "expected 3")),
        ("integers", ("'particle_features'", "int32", "floating point")),
        ("empty", ("1 of 3", "drop_empty=True", "--option drop_empty=true")),
        ("missing", ("'jet_features'", "did you mean 'jet_feature'")),
        ("soft link", ("'jet_features'", "link")),
        ("external link", ("'jet_features'", "link")),
        ("external storage", ("'jet_features'", "other files")),
        ("virtual", ("'jet_features'", "other files")),
        ("group", ("'jet_features'", "a group")),
        ("objects", ("'jet_features'", "object")),
        ("compound", ("'jet_features'", "floating point")),
        ("huge", ("'jet_features'", "declares")),
        ("huge chunk", ("'jet_features'", "declares")),
        ("null", ("'jet_features'", "None")),
        ("attribute", ("attribute type", "'x'")),
        ("truncated", ("cannot be opened",)),
        ("text", ("cannot be opened",)),
        ("nothing", ("cannot be opened",)),
    ],
)
def test_bad_files(tmp_path: Path, kind: str, keys: tuple[str, ...], refused) -> None:
    path = tmp_path / "g.hdf5"
    broken(kind, path)
    refused(lambda: pcdiff.read(path), path, *keys)


def test_empty_jets_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "g.hdf5"
    broken("empty", path)
    assert pcdiff.read(path, drop_empty=True).counts.tolist() == [3, 4]


def test_links_in_the_way_are_not_followed(tmp_path: Path, jets: PointClouds, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.move("pcdiff/points", "elsewhere")
        file["pcdiff/points"] = h5py.SoftLink("/elsewhere")
    refused(lambda: pcdiff.read(path), path, "'pcdiff/points'", "link")


def test_flipped_bits_are_found(tmp_path: Path, jets: PointClouds, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.h5")
    with h5py.File(path) as file:
        where = file["particle_features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[where + 40] ^= 255
    path.write_bytes(data)
    refused(lambda: pcdiff.read(path), path, "'particle_features'", "damaged")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{", "cannot be understood"),
        ('{"pcdiff": 99}', "newer pcdiff"),
        ('{"pcdiff": 1}', "cannot be understood"),
        ('{"pcdiff": 1, "schema": {}, "provenance": {}, "metadata": {}}', "not a stored pcdiff schema"),
    ],
)
def test_bad_stored_metadata(tmp_path: Path, jets: PointClouds, refused, text: str, key: str) -> None:
    path = pcdiff.write(jets, tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["pcdiff/about"]
        file.create_dataset("pcdiff/about", data=np.bytes_(text))
    refused(lambda: pcdiff.read(path), path, key)


def test_a_number_that_stands_for_no_class(tmp_path: Path, jets: PointClouds, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["pcdiff/points/particle_class"][7] = 5
    refused(
        lambda: pcdiff.read(path), path, "'particle_class' is 5", "expected 0 to 4 for charged hadron, neutral hadron"
    )


def test_columns_of_ours_cut_short(tmp_path: Path, jets: PointClouds, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["pcdiff/points/pdgId"].resize((5,))
    refused(lambda: pcdiff.read(path), path, "pdgId")


def test_unreadable_filter_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    path = tmp_path / "g.hdf5"
    particles, jets = arrays()
    with h5py.File(path, "w") as file:
        file.create_dataset("particle_features", data=particles, compression="gzip")
        file["jet_features"] = jets
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    refused(lambda: pcdiff.read(path), path, "'particle_features'", "hdf5plugin")


def test_a_full_disk_while_writing(tmp_path: Path, jets: PointClouds, monkeypatch, refused) -> None:
    monkeypatch.setattr(hdf5, "_Output", limited_output(4096))
    target = tmp_path / "a.h5"
    refused(lambda: pcdiff.write(jets.split(10), target), target, "not enough disk")
    assert list(tmp_path.iterdir()) == []


def limited_output(size: int) -> type:
    """An output on a disk that is full after so many bytes."""

    class Full:
        def __init__(self, stream) -> None:
            self._stream = stream

        def write(self, data) -> int:
            if self._stream.tell() + len(data) > size:
                raise OSError(28, "No space left on device")
            return self._stream.write(data)

        def __getattr__(self, name: str):
            return getattr(self._stream, name)

    class Limited(hdf5._Output):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._stream = Full(self._stream)

    return Limited
