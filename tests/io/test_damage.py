"""Files that `make fuzz` found to be read wrongly or refused unclearly, each by its recipe, and files that mean harm."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import asdf
import awkward as ak
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io.rootfile import chunks, open_root, open_tree

from .test_abacus import HEADER, slab

SOURCE = Path(pcdiff.__file__).parent


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The file with the first occurrence of some bytes replaced by others, as many."""
    content = path.read_bytes()
    assert content.count(old) >= 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize("part", [b"SNOD", b"HEAP", b"TREE"])
def test_damaged_names_of_hdf5(tmp_path: Path, jets: PointClouds, part: bytes, refused: Callable[..., None]) -> None:
    """h5py raises RuntimeError and KeyError when it looks for a name in a damaged index."""
    path = replaced(pcdiff.write(jets, tmp_path / "jets.hdf5"), part, part.lower())
    refused(lambda: pcdiff.read(path), path)
    refused(lambda: pcdiff.inspect(path, format="flat"), path)


@pytest.mark.parametrize(("format", "suffix"), [("jetnet", "hdf5"), ("flat", "h5"), ("parquet", "parquet")])
def test_a_changed_unit(
    tmp_path: Path, jets: PointClouds, format: str, suffix: str, refused: Callable[..., None]
) -> None:
    """What is said of the columns was under no checksum but in ROOT files."""
    path = pcdiff.write(jets, tmp_path / f"jets.{suffix}", format=format)
    replaced(path, b'"unit": "GeV"', b'"unit": "MeV"')
    refused(lambda: pcdiff.read(path, format=format), path, "damaged")


@pytest.mark.parametrize(
    ("format", "name"), [("flat", "clouds/pt"), ("jetnet", "pcdiff/clouds/type"), ("flat", "points/ptrel")]
)
def test_exchanged_values_of_hdf5(
    tmp_path: Path, jets: PointClouds, format: str, name: str, refused: Callable[..., None]
) -> None:
    """With a checksum of HDF5 that fits, as when an index points to another chunk."""
    path = pcdiff.write(jets, tmp_path / "jets.hdf5", format=format)
    with h5py.File(path, "r+") as file:
        file[name][:] = file[name][:][::-1]
    refused(lambda: pcdiff.read(path), path, "checksum differs")


def test_a_changed_type_of_hdf5(tmp_path: Path, jets: PointClouds, refused: Callable[..., None]) -> None:
    """The same bytes as numbers of another type."""
    path = pcdiff.write(jets, tmp_path / "jets.hdf5", format="flat")
    with h5py.File(path, "r+") as file:
        values = file["clouds/num_constituents"][:]
        del file["clouds/num_constituents"]
        file["clouds/num_constituents"] = values.view(np.uint64)
    refused(lambda: pcdiff.read(path), path, "num_constituents", "<u8", "<i8")


def test_fewer_clouds_than_were_written(tmp_path: Path, jets: PointClouds, refused: Callable[..., None]) -> None:
    path = pcdiff.write(jets, tmp_path / "jets.hdf5", format="jetnet")
    with h5py.File(path, "r+") as file:
        for name in ("particle_features", "jet_features"):
            file[name].resize(60, axis=0)
        columns = [*file["pcdiff/points"].values(), *file["pcdiff/clouds"].values()]
        for column in columns:
            column.resize(60 if len(column) == 120 else int(jets.offsets[60]), axis=0)
    refused(lambda: pcdiff.read(path), path, "checksum differs")


def test_changed_values_of_parquet(tmp_path: Path, jets: PointClouds, refused: Callable[..., None]) -> None:
    path = pcdiff.write(jets, tmp_path / "jets.parquet")
    about = pq.ParquetFile(path).metadata.metadata[b"pcdiff"]
    table = pq.read_table(path)
    turned = table.take(list(range(len(table)))[::-1]).cast(table.schema)
    pq.write_table(turned.replace_schema_metadata({b"pcdiff": about}), path)
    refused(lambda: pcdiff.read(path), path, "checksum differs")


def test_changed_attributes_and_columns_of_halotools(
    tmp_path: Path, halos: PointClouds, refused: Callable[..., None]
) -> None:
    """The redshift stood under no checksum, and a column of another name was passed over."""
    path = pcdiff.write(halos[:1], tmp_path / "box.hdf5", format="halotools")
    assert pcdiff.read(path).equals(halos[:1])
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file.attrs["redshift"] = 0.25
    refused(lambda: pcdiff.read(path), path, "redshift", "checksum differs")
    path.write_bytes(whole)
    replaced(path, b"halo_vx", b"halo_ux")
    refused(lambda: pcdiff.read(path), path, "data", "damaged")


def test_files_of_the_time_before_checksums(tmp_path: Path, jets: PointClouds) -> None:
    path = pcdiff.write(jets, tmp_path / "jets.hdf5", format="flat")
    with h5py.File(path, "r+") as file:
        text = file["about"][()].decode()
        del file["about"]
        file["about"] = np.bytes_(re.sub(r', "checksums": .*', "}", text).encode())
    assert pcdiff.read(path).equals(jets)


def test_bytes_that_are_asked_for_are_not_taken(tmp_path: Path, jets: PointClouds) -> None:
    """A page of an RNTuple that says it has a terabyte took it, before it was found that the file ends."""
    path = pcdiff.write(jets, tmp_path / "jets.root", format="rntuple")
    with open_root(path) as file, pytest.raises((OSError, ValueError, uproot.DeserializationError)):
        _ = file.file.source.chunk(0, 1 << 40).raw_data


@pytest.mark.parametrize("key", ["source: ../secret.asdf", "source: 'http://127.0.0.1:9/x'", "$ref: ../secret.asdf#/x"])
def test_data_elsewhere(tmp_path: Path, key: str, refused: Callable[..., None]) -> None:
    """ASDF would open other files, and addresses in the network, that an array names as its source."""
    folder = tmp_path / "sim" / "halos" / "z0.500" / "halo_info"
    folder.mkdir(parents=True)
    path = folder / "halo_info_000.asdf"
    asdf.AsdfFile({"header": HEADER, "data": slab(8, 0)}).write_to(path)
    head, mark, tail = path.read_bytes().partition(b"source: 0")
    assert mark
    path.write_bytes(head + key.encode() + tail)
    refused(lambda: pcdiff.read(folder), path, key.partition(":")[0], "in the file itself")


class Bomb:
    """Its pickle runs code."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a file was unpickled",))


def test_pickles_stay_closed(tmp_path: Path, refused: Callable[..., None]) -> None:
    npz = tmp_path / "jets.npz"
    np.savez(npz, X=np.array([[[Bomb()] * 4]], object), y=np.zeros(1))
    refused(lambda: pcdiff.read(npz), npz, "'X'")
    for suffix in ("npz", "root", "hdf5", "parquet", "list"):
        path = tmp_path / f"bomb.{suffix}"
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DataError):
            pcdiff.read(path)


def test_nothing_is_ever_unpickled() -> None:
    """Not by any line of pcdiff; torch's restricted loader takes the one file that is not safetensors."""
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|dill|joblib|shelve|marshal)\b", text, re.MULTILINE), file
        assert not re.search(r"allow_pickle\s*=\s*True|read_pickle|yaml\.(unsafe_|full_)?load\(", text), file
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, file
        for call in re.findall(r"np\.load\([^\n]*", text):
            assert "allow_pickle=False" in call, file


def test_lists_that_end_beyond_their_numbers_take_no_memory(tmp_path: Path) -> None:
    """uproot would ask for as much as they say before it looks for the numbers."""
    file = tmp_path / "jets.root"
    sizes = np.array([3, 1, 4])
    with uproot.recreate(file, compression=None) as out:
        content = np.arange(sizes.sum(), dtype=np.float32)
        out.mktree("tree", {"x": "var * float32"}).extend({"x": ak.unflatten(content, sizes)})
    content = file.read_bytes()
    # Where lists begin in the bytes of the basket, after its head of unknown length.
    heads = [head for head in range(300) if (head + np.array([0, 12, 16])).astype(">i4").tobytes() in content]
    assert len(heads) == 1
    begins = heads[0] + np.array([0, 12, 16])
    for at, value in ((2, 2**30), (1, 2**30), (1, -(2**30))):
        broken = begins.copy()
        broken[at] = value
        file.write_bytes(content.replace(begins.astype(">i4").tobytes(), broken.astype(">i4").tobytes()))
        with open_root(file) as opened:
            tree = open_tree(file, opened, "tree")
            with pytest.raises(DataError, match=r"jets\.root: tree 'tree', branches x cannot be read"):
                next(chunks(tree, ["x"], 10))


def test_a_page_that_says_to_hold_billions_of_numbers_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jets.root"
    with uproot.recreate(file) as out:
        out.mkrntuple("tree", {"x": np.arange(9, dtype=np.float32)})
    with open_root(file) as opened:
        tree = open_tree(file, opened, "tree")
        assert next(chunks(tree, ["x"], 10))["x"].to_list() == list(range(9))
        (page,) = tree.handle.ntuple.page_link_list[0][0].pages
        monkeypatch.setitem(page._fields, "num_elements", 2**31)
        with pytest.raises(
            DataError, match=r"a page of \d+ bytes says that it holds 2,147,483,648 numbers; the file is damaged"
        ):
            next(chunks(tree, ["x"], 10))


def test_a_chunk_shorter_than_its_checksum(tmp_path: Path, jets: PointClouds, refused: Callable[..., None]) -> None:
    """libhdf5 2.0.0 dies of it."""
    path = pcdiff.write(jets, tmp_path / "jets.h5", format="flat")
    with h5py.File(path) as file:
        chunk = file["clouds/pt"].id.get_chunk_info(0)
    # Size, filters passed over, place in the data set and the end of an element, address.
    key = struct.pack("<IIQQQ", chunk.size, 0, 0, 0, chunk.byte_offset)
    replaced(path, key, struct.pack("<IIQQQ", 3, 0, 0, 0, chunk.byte_offset))
    refused(lambda: pcdiff.read(path, format="flat"), path, "a chunk of 3 bytes, expected at least its checksum")


def test_a_catalogue_of_pcdiff_without_its_checksums(
    tmp_path: Path, halos: PointClouds, refused: Callable[..., None]
) -> None:
    """One letter of the name under which they are kept, and it would be a catalogue of somebody else."""
    path = pcdiff.write(halos[:1], tmp_path / "box.hdf5", format="halotools")
    replaced(path, b"about\0", b"abOut\0")
    refused(lambda: pcdiff.read(path, format="halotools"), path, "was written by pcdiff, but its checksums")


def test_a_column_of_parquet_whose_name_is_no_text(
    tmp_path: Path, jets: PointClouds, refused: Callable[..., None]
) -> None:
    """pyarrow raises UnicodeDecodeError as it opens the file."""
    path = pcdiff.write(jets, tmp_path / "jets.parquet")
    # As Thrift has it, with its length before it; what pcdiff keeps as JSON stays.
    content = path.read_bytes()
    assert b"\x06etarel" in content
    path.write_bytes(content.replace(b"\x06etarel", b"\x06etar\xffl"))
    refused(lambda: pcdiff.read(path, format="parquet"), path, "cannot be opened")
