"""Parquet: exact round trips, what others see, and files that others wrote."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.schema import jet_schema


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("step_size", [11, 1000])
def test_round_trip_is_exact(tmp_path: Path, jets: PointClouds, piece: int, step_size: int) -> None:
    path = pcdiff.write(jets.split(piece), tmp_path / "a.parquet", metadata={"seed": 7})
    pieces = list(pcdiff.iterate(path, step_size=step_size))
    assert all(len(part) <= step_size for part in pieces)
    back = PointClouds.concatenate(pieces)
    assert back.equals(jets)
    assert back.provenance == jets.provenance
    assert pcdiff.inspect(path).metadata == {**jets.provenance, "seed": 7}


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i8", "f2", "f4", "f8"])
def test_every_type_survives(tmp_path: Path, dtype: str) -> None:
    values = np.array([0, 1, 1]).astype(dtype)
    clouds = PointClouds.from_flat({"x": values}, [0, 1, 3], {"y": values[:2]}, jet_schema(["x"], ["y"]))
    assert pcdiff.read(pcdiff.write(clouds, tmp_path / "a.parquet")).equals(clouds)


def test_without_cloud_features(tmp_path: Path) -> None:
    clouds = PointClouds.from_flat({"x": [1.0, 2.0]}, [0, 2], {}, jet_schema(["x"], []))
    assert pcdiff.read(pcdiff.write(clouds, tmp_path / "a.parquet")).equals(clouds)


def test_others_read_it(tmp_path: Path, jets: PointClouds) -> None:
    path = pcdiff.write(jets, tmp_path / "a.parquet")
    array = ak.from_parquet(path)
    assert ak.fields(array) == ["points", *jets.schema.cloud_names]
    assert ak.array_equal(array.points, ak.without_parameters(jets.points), dtype_exact=True)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_columns_can_be_written_to(tmp_path: Path, jets: PointClouds) -> None:
    back = pcdiff.read(pcdiff.write(jets, tmp_path / "a.parquet"))
    assert back.column("etarel").flags.writeable


def test_describe(tmp_path: Path, jets: PointClouds) -> None:
    found = pcdiff.inspect(pcdiff.write(jets, tmp_path / "a.parquet"))
    assert (found.format, found.clouds) == ("parquet", len(jets))
    assert [column.feature for column in found.columns] == [*jets.schema.point_names, *jets.schema.cloud_names]


LISTS = {
    "Jet_pt": pa.array([[9.0, 5.0], [], [7.0]]),
    "Jet_eta": pa.array([[0.1, 0.2], [], [0.3]], pa.large_list(pa.float32())),
    "Jet_phi": pa.array([[0.1], [0.2], [0.3]]),
    "grid": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
    "parts": pa.array([[{"pt": 3, "name": "a"}], [{"pt": 2, "name": "b"}, {"pt": 1, "name": "c"}], []]),
    "missing": pa.array([[1.0, None], [], [2.0]]),
    "no_list": pa.array([[1.0, 2.0], None, [2.0]]),
    "mass": pa.array([80.0, 90.0, 100.0]),
    "hole": pa.array([80.0, None, 100.0]),
    "word": pa.array(["a", "b", "c"]),
    "dotted.name": pa.array([1, 2, 3]),
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    pq.write_table(pa.table(LISTS), tmp_path / "foreign.parquet", row_group_size=2)
    return tmp_path / "foreign.parquet"


@pytest.mark.parametrize("step_size", [1, 2, 100])
def test_foreign_file_through_a_mapping(foreign: Path, step_size: int) -> None:
    pieces = pcdiff.iterate(
        foreign,
        step_size=step_size,
        points={"pt": "Jet_pt", "eta": "Jet_eta"},
        clouds={"mass": "mass", "number": "dotted.name"},
        drop_empty=True,
    )
    clouds = PointClouds.concatenate(list(pieces))
    assert clouds.points.to_list() == [
        [{"pt": 9.0, "eta": np.float32(0.1)}, {"pt": 5.0, "eta": np.float32(0.2)}],
        [{"pt": 7.0, "eta": np.float32(0.3)}],
    ]
    assert clouds.features.to_list() == [{"mass": 80.0, "number": 1}, {"mass": 100.0, "number": 3}]
    assert clouds.schema.point("pt").unit == "GeV"


def test_records_and_lists_of_fixed_size(foreign: Path) -> None:
    assert pcdiff.read(foreign, points={"pt": "parts.pt"}, drop_empty=True).points.pt.to_list() == [[3], [2, 1]]
    assert pcdiff.read(foreign, points={"x": "grid"}).points.x.to_list() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ("points", "Jet_pt", "parts.name")),
        ({"points": {"pt": "Jet_p"}}, ("'Jet_p'", "did you mean 'Jet_pt'")),
        ({"points": {"pt": "Jet_pt", "phi": "Jet_phi"}}, ("'Jet_phi'", "other lengths")),
        ({"points": {"pt": "mass"}}, ("'mass'", "lists")),
        ({"points": {"pt": "parts.name"}}, ("'parts.name'", "numbers")),
        ({"points": {"pt": "missing"}}, ("'missing'", "1 missing values")),
        ({"points": {"pt": "no_list"}}, ("'no_list'", "1 missing lists")),
        ({"points": {"pt": "Jet_pt"}, "clouds": {"mass": "hole"}}, ("'hole'", "1 missing values")),
        ({"points": {"pt": "Jet_pt"}, "clouds": {"mass": "word"}}, ("'word'", "numbers")),
        ({"points": {"pt": "Jet_pt"}, "clouds": {"mass": "Jet_pt"}}, ("'Jet_pt'", "numbers")),
        ({"points": {"pt": "Jet_pt"}}, ("no points", "cloud 1")),
        ({"points": {}}, ("at least one point feature",)),
    ],
)
def test_bad_mappings(foreign: Path, options: dict, keys: tuple[str, ...], refused) -> None:
    refused(lambda: pcdiff.read(foreign, **options), foreign, *keys)


def test_foreign_file_is_described_without_a_mapping(foreign: Path) -> None:
    found = pcdiff.inspect(foreign)
    assert found.clouds == 3
    assert {column.source for column in found.columns} >= {"Jet_pt", "parts.pt", "mass"}
    assert all(column.feature == "" for column in found.columns)
    assert "not written by pcdiff" in found.notes[0]


@pytest.mark.parametrize("kind", ["truncated", "text", "nothing"])
def test_broken_files(tmp_path: Path, jets: PointClouds, kind: str, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.parquet")
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-100], "text": b"pt,eta\n" * 50, "nothing": b""}[kind])
    refused(lambda: pcdiff.read(path), path, "Parquet")


def test_flipped_bits_are_found(tmp_path: Path, jets: PointClouds, refused) -> None:
    path = pcdiff.write(jets, tmp_path / "a.parquet")
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 255
    path.write_bytes(data)
    refused(lambda: pcdiff.read(path), path, "damaged")


def test_a_feature_that_is_in_the_way(tmp_path: Path, refused) -> None:
    clouds = PointClouds.from_flat({"x": [1.0]}, [0, 1], {"points": [1]}, jet_schema(["x"], ["points"]))
    refused(lambda: pcdiff.write(clouds, tmp_path / "a.parquet"), tmp_path / "a.parquet", "'points'")
    assert list(tmp_path.iterdir()) == []
