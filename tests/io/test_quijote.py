"""Friends-of-friends catalogues of Quijote, written here by hand from the layout."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pcdiff

BOX, Z = 1000.0, 0.5
OPTIONS = {"box_size": BOX, "redshift": Z}


def groups(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "length": rng.integers(20, 5000, size).astype("<i4"),
        "offset": np.arange(size, dtype="<i4"),
        "mass": rng.uniform(1e3, 1e5, size).astype("<f4"),
        "position": rng.uniform(0, 1e6, (size, 3)).astype("<f4"),
        "velocity": rng.normal(0, 200, (size, 3)).astype("<f4"),
        "lengths": np.zeros((size, 6), "<i4"),
        "masses": np.ones((size, 6), "<f4"),
    }


def content(columns: dict[str, np.ndarray], total: int, files: int, extra: tuple[str, ...] = ()) -> bytes:
    size = len(columns["length"])
    header = struct.pack("<iiiQI", size, total, 10 * size, 10 * total, files)
    stars = [np.full(size, 7, dtype).tobytes() for dtype in extra]
    return header + b"".join(column.tobytes() for column in columns.values()) + b"".join(stars)


def check(clouds: pcdiff.PointClouds, columns: dict[str, np.ndarray]) -> None:
    """Comoving Mpc/h, peculiar km/s, log10 of Msun/h."""
    for i, name in enumerate("xyz"):
        np.testing.assert_allclose(clouds.column(name), columns["position"][:, i] / 1e3, rtol=1e-6)
        np.testing.assert_allclose(clouds.column(f"v{name}"), 1.5 * columns["velocity"][:, i], rtol=1e-6)
    np.testing.assert_allclose(clouds.column("log10_mass"), 10 + np.log10(columns["mass"].astype(float)), rtol=1e-6)


@pytest.mark.parametrize("extra", [(), ("<f4",), ("<f4", "<u4")])
def test_one_file_of_each_layout(tmp_path: Path, extra: tuple[str, ...]) -> None:
    columns = groups(50)
    path = tmp_path / "group_tab_004.0"
    path.write_bytes(content(columns, 50, 1, extra))
    clouds = pcdiff.read(path, **OPTIONS)
    assert (len(clouds), clouds.num_points, clouds.schema.kind) == (1, 50, "halos")
    assert all(clouds.column(name).dtype == np.float32 for name in clouds.schema.point_names)
    assert {name: float(clouds.feature(name)[0]) for name in clouds.schema.cloud_names} == OPTIONS
    check(clouds, columns)
    found = pcdiff.inspect(path, **OPTIONS)
    assert (found.format, found.clouds, found.notes[0]) == ("quijote", 1, "50 halos in 1 file")


def write_parts(folder: Path, sizes: list[int], number: str = "004") -> dict[str, np.ndarray]:
    parts = [groups(size, seed) for seed, size in enumerate(sizes)]
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(parts):
        (folder / f"group_tab_{number}.{i}").write_bytes(content(part, sum(sizes), len(sizes)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_the_first_file_stands_for_all(tmp_path: Path, refused: Callable[..., None]) -> None:
    """Also where a file in the middle has no groups, and where there are so many that names no longer sort as numbers."""
    sizes = [5, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]
    columns = write_parts(tmp_path, sizes)
    clouds = pcdiff.read(tmp_path / "group_tab_004.0", **OPTIONS)
    assert len(clouds) == 1
    check(clouds, columns)
    other = tmp_path / "group_tab_004.3"
    refused(lambda: pcdiff.read(other, **OPTIONS), other, "number 3 of 11 files", "name the first, group_tab_004.0")
    (tmp_path / "group_tab_004.7").unlink()
    first = tmp_path / "group_tab_004.0"
    refused(lambda: pcdiff.read(first, **OPTIONS), first, "first of 11 files", "group_tab_004.7 is missing")


def test_several_boxes(tmp_path: Path) -> None:
    for box in range(3):
        write_parts(tmp_path / str(box), [4 + box])
    clouds = pcdiff.read(tmp_path / "*" / "group_tab_004.0", **OPTIONS)
    assert clouds.counts.tolist() == [4, 5, 6]


def test_the_file_does_not_state_the_box(tmp_path: Path, refused: Callable[..., None]) -> None:
    write_parts(tmp_path, [5])
    path = tmp_path / "group_tab_004.0"
    refused(lambda: pcdiff.read(path), path, "'box_size'")
    refused(lambda: pcdiff.read(path, box_size=BOX), path, "'redshift'")
    refused(lambda: pcdiff.read(path, box_size=0, redshift=0), path, "box_size is 0")
    refused(lambda: pcdiff.read(path, box_size=BOX, redshift=-1), path, "redshift")
    refused(lambda: pcdiff.read(path, box_size=100, redshift=0), path, "point feature", "box size 100.0")


@pytest.mark.parametrize("kept", [10, 24, 400, -1])
def test_a_file_cut_short(tmp_path: Path, kept: int, refused: Callable[..., None]) -> None:
    path = tmp_path / "group_tab_004.0"
    path.write_bytes(content(groups(50), 50, 1)[:kept])
    refused(lambda: pcdiff.read(path, **OPTIONS), path, f"{path.stat().st_size} bytes", "expected")


@pytest.mark.parametrize("declared", [2**31 - 1, -1])
def test_declared_groups_are_held_against_the_size_of_the_file(
    tmp_path: Path, declared: int, refused: Callable[..., None]
) -> None:
    path = tmp_path / "group_tab_004.0"
    path.write_bytes(struct.pack("<iiiQI", declared, declared, 0, 0, 1) + bytes(84))
    refused(lambda: pcdiff.read(path, **OPTIONS), path, f"declares {declared} groups", "108 bytes")


def test_files_that_do_not_agree(tmp_path: Path, refused: Callable[..., None]) -> None:
    first, second = (tmp_path / f"group_tab_004.{i}" for i in range(2))
    first.write_bytes(content(groups(3), 7, 2))
    second.write_bytes(content(groups(5), 8, 2))
    refused(lambda: pcdiff.read(first, **OPTIONS), second, "8 groups in all", "7 as group_tab_004.0")
    second.write_bytes(content(groups(5), 7, 2))
    refused(lambda: pcdiff.read(first, **OPTIONS), first, "7 groups in all, found 8 in 2 files")
    first.write_bytes(content(groups(3), 3, 2**31))
    refused(lambda: pcdiff.read(first, **OPTIONS), first, "2147483648 files")
