"""Plain vectors in files: clouds of one point without cloud features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import uproot

from pcdiff.clouds import PointClouds
from pcdiff.data import toy
from pcdiff.io import registry


@pytest.mark.parametrize(
    ("format", "suffix"), [("parquet", "parquet"), ("root", "root"), ("rntuple", "root"), ("flat", "hdf5")]
)
@pytest.mark.parametrize("piece", [7, 1000])
def test_round_trip_is_exact(tmp_path: Path, format: str, suffix: str, piece: int) -> None:
    points = toy("spiral", 200)
    path = registry.write(points.split(piece), tmp_path / f"a.{suffix}", format=format, metadata={"note": 1})
    back = PointClouds.concatenate(list(registry.iterate(path, step_size=33)))
    assert back.equals(points)
    assert back.provenance == points.provenance
    found = registry.inspect(path)
    assert (found.format, found.clouds, found.metadata["note"]) == (format, 200, 1)
    assert [column.feature for column in found.columns if column.feature] == ["x", "y"]


@pytest.mark.parametrize("format", ["root", "rntuple"])
def test_plain_uproot_finds_the_points(tmp_path: Path, format: str) -> None:
    points = toy("swiss-roll", 50)
    with uproot.open(registry.write(points, tmp_path / "a.root", format=format)) as file:
        arrays = file["Vectors"].arrays()
    assert set(arrays.fields) == {"nPoint", "Point_x", "Point_y"}
    np.testing.assert_array_equal(arrays["Point_y"][:, 0], points.column("y"))


@pytest.mark.parametrize("suffix", ["hdf5", "h5"])
def test_jetnet_files_hold_jets_only(tmp_path: Path, suffix: str, refused: Callable[..., None]) -> None:
    path = tmp_path / f"a.{suffix}"
    points = toy("spiral", 5)
    refused(
        lambda: registry.write(points, path, format="jetnet"),
        path,
        "'jetnet' holds jets, found vectors",
        "flat",
        "parquet",
    )
    assert not list(tmp_path.iterdir())
    assert registry.inspect(registry.write(points, path)).format == "flat"
