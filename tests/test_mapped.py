from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pcdiff import mapped
from pcdiff.clouds import PointClouds
from pcdiff.errors import PcdiffError
from pcdiff.mapped import GrowingArray, in_pieces, mapped_clouds

from .test_transforms import jets


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_pieces_on_the_disk_are_the_clouds(size: int, tmp_path: Path) -> None:
    clouds = jets(100, types=True, seed=4)
    found = mapped_clouds(clouds.split(size), tmp_path)
    assert found.equals(clouds)
    assert found.provenance == clouds.provenance


def test_no_file_is_ever_seen(tmp_path: Path) -> None:
    """Neither while the arrays are there nor after, so that no kill can leave one behind."""
    clouds = mapped_clouds(jets(100).split(10), tmp_path)
    assert list(tmp_path.iterdir()) == []
    del clouds
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_read_only(tmp_path: Path) -> None:
    column = mapped_clouds([jets(10)], tmp_path).column("ptrel")
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


def test_pieces_of_different_types_become_what_numpy_makes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_ROWS", 3)
    parts = [
        np.arange(8, dtype=np.float32)[:, None] / 3,
        np.arange(5, dtype=np.int16)[:, None],
        np.ones((2, 1), np.float64) / 7,
        np.zeros((0, 1), np.float32),
    ]
    array = GrowingArray(tmp_path)
    for part in parts:
        array.append(part)
    expected = np.concatenate(parts)
    assert array.mapped().dtype == expected.dtype
    np.testing.assert_array_equal(array.mapped(), expected)


def test_without_rows_there_is_an_empty_array(tmp_path: Path) -> None:
    array = GrowingArray(tmp_path)
    array.append(np.zeros((0, 3), np.float32))
    assert array.mapped().shape == (0, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(PcdiffError, match=rf"{tmp_path}: not enough disk.*No space left on device"):
        mapped_clouds(jets(10).split(5), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PcdiffError, match=r"no right.*Permission denied"):
        GrowingArray(tmp_path)


def test_pieces_hold_about_as_many_points_whatever_the_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_POINTS", 200)
    clouds = jets(300)
    parts = list(in_pieces(clouds))
    assert max(piece.num_points for piece in parts) < 400
    assert PointClouds.concatenate(parts).equals(clouds)
