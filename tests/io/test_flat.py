"""pcdiff's own HDF5 of flat columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.io import hdf5, registry


def test_the_layout_is_that_of_the_documentation(tmp_path: Path, halos: PointClouds) -> None:
    """Plain h5py finds each box without pcdiff."""
    with h5py.File(pcdiff.write(halos, tmp_path / "a.hdf5")) as file:
        offsets = file["offsets"][:]
        np.testing.assert_array_equal(np.diff(offsets), halos.counts)
        for box in (0, 17, 39):
            found = file["points/vx"][offsets[box] : offsets[box + 1]]
            np.testing.assert_array_equal(found, halos[box : box + 1].column("vx"))
        np.testing.assert_array_equal(file["clouds/sigma_8"][:], halos.feature("sigma_8"))
        for column in (file["offsets"], file["points/x"], file["clouds/redshift"]):
            assert column.chunks
            assert column.compression == "gzip"
            assert column.shuffle
            assert column.fletcher32


@pytest.mark.parametrize("suffix", [".hdf5", ".h5"])
def test_the_kind_of_the_clouds_decides_the_default(
    tmp_path: Path, jets: PointClouds, halos: PointClouds, suffix: str
) -> None:
    for clouds, format in ((jets, "jetnet"), (halos, "flat")):
        path = pcdiff.write(clouds, tmp_path / f"{format}{suffix}")
        assert pcdiff.inspect(path).format == format
        assert pcdiff.read(path).equals(clouds)


def test_jets_can_be_flat(tmp_path: Path, jets: PointClouds) -> None:
    path = pcdiff.write(jets.split(11), tmp_path / "a.hdf5", format="flat")
    assert pcdiff.read(path).equals(jets)
    assert pcdiff.inspect(path).format == "flat"


def test_what_a_format_does_not_hold_is_said_with_those_that_do(
    tmp_path: Path, jets: PointClouds, halos: PointClouds, refused: Callable[..., None]
) -> None:
    path = tmp_path / "a.hdf5"
    refused(
        lambda: pcdiff.write(halos, path, format="jetnet"), path, "'jetnet' holds jets, found halos", "flat, halotools"
    )
    refused(lambda: pcdiff.write(jets, path, format="halotools"), path, "'halotools' holds halos, found jets", "jetnet")
    assert not list(tmp_path.iterdir())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, halos: PointClouds) -> None:
    a, b = (pcdiff.write(halos.split(9), tmp_path / f"{name}.hdf5").read_bytes() for name in "ab")
    assert a == b


def test_a_piece_is_let_go_before_the_next(tmp_path: Path, halos: PointClouds) -> None:
    """Neither reading nor writing holds more than the piece at hand."""
    import weakref

    living: list[weakref.ref[PointClouds]] = []

    def pieces():
        for piece in halos.split(5):
            assert sum(one() is not None for one in living) <= 1
            living.append(weakref.ref(piece))
            yield piece
            del piece

    path = pcdiff.write(pieces(), tmp_path / "a.hdf5")
    living.clear()
    for piece in registry.iterate(path, step_size=5):
        assert sum(one() is not None for one in living) <= 1
        living.append(weakref.ref(piece))
        del piece
    assert len(living) == 8


def damaged(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def replaced(file: h5py.File, name: str, values: object) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda file: file.move("points/vx", "points/v_x"), ("'points/vx'", "did you mean 'v_x'")),
        (lambda file: file.move("clouds/omega_m", "clouds/omega"), ("'clouds/omega_m'", "did you mean 'omega'")),
        (lambda file: replaced(file, "points/z", np.zeros(3)), ("'points/z' has 3 rows", "expected")),
        (lambda file: replaced(file, "clouds/redshift", np.zeros(3)), ("'clouds/redshift' has 3 rows", "expected 40")),
        (lambda file: replaced(file, "offsets", np.zeros(0, int)), ("'offsets' is empty",)),
        (lambda file: replaced(file, "offsets", np.zeros(41)), ("'offsets' holds float64", "integers")),
        (lambda file: file["offsets"].__setitem__(0, 1), ("'offsets' goes from 1", "rise from 0")),
        (lambda file: file["offsets"].__setitem__(5, 0), ("'offsets'", "falls")),
        (lambda file: file["offsets"].__setitem__(40, 10**12), ("'offsets'", "to 1000000000000", "expected")),
        (lambda file: file["offsets"].resize((30,)), ("'clouds/box_size' has 40 rows", "expected 29")),
        (lambda file: replaced(file, "about", np.bytes_(b"{}")), ("metadata",)),
        (
            lambda file: (
                file.__delitem__("points/x"),
                file.create_dataset("points/x", (10**11,), "f4", chunks=(1 << 16,)),
            ),
            ("'points/x' declares 400000.0 MB", "damaged"),
        ),
    ],
)
def test_damage_is_named(
    tmp_path: Path, halos: PointClouds, change: Callable, keys: tuple[str, ...], refused: Callable[..., None]
) -> None:
    path = pcdiff.write(halos, tmp_path / "a.hdf5")
    damaged(path, change)
    refused(lambda: pcdiff.read(path, format="flat"), path, *keys)


def test_offsets_that_do_not_reach_the_end(tmp_path: Path, halos: PointClouds, refused: Callable[..., None]) -> None:
    path = pcdiff.write(halos, tmp_path / "a.hdf5")
    last = int(halos.offsets[-2])
    damaged(path, lambda file: file["offsets"].__setitem__(40, last))
    refused(lambda: list(registry.iterate(path, step_size=8)), path, f"to {last}", f"to {halos.num_points}")


def test_a_file_cut_short_and_a_flipped_byte(tmp_path: Path, halos: PointClouds, refused: Callable[..., None]) -> None:
    path = pcdiff.write(halos, tmp_path / "a.hdf5")
    whole = path.read_bytes()
    for part in (0.3, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        refused(lambda: pcdiff.read(path), path, "cannot be opened")
    path.write_bytes(whole)
    with h5py.File(path) as file:
        where = file["points/vy"].id.get_chunk_info(0).byte_offset
    path.write_bytes(whole[: where + 40] + bytes([whole[where + 40] ^ 1]) + whole[where + 41 :])
    refused(lambda: pcdiff.read(path), path, "'points/vy' cannot be read", "damaged")


def test_numbers_in_attributes(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["redshift"] = np.bytes_("0.5000")
        file.attrs["name"] = "box"
        file.create_group("Header").attrs["BoxSize"] = [75000.0]
        file["data"] = [1.0]
        file.attrs["empty"] = np.zeros(0)
    with hdf5.opened(path) as file:
        assert hdf5.numbers(file, "", "redshift").tolist() == [0.5]
        assert hdf5.numbers(file, "Header", "BoxSize").tolist() == [75000]
        assert hdf5.text(file, "", "name") == "box"
        for call, *keys in (
            (lambda: hdf5.numbers(file, "", "name"), "'name'", "'box'"),
            (lambda: hdf5.numbers(file, "", "empty"), "'empty'", "expected a number"),
            (lambda: hdf5.numbers(file, "Header", "Boxsize"), "'Boxsize' of 'Header'", "did you mean 'BoxSize'"),
            (lambda: hdf5.numbers(file, "Headers", "BoxSize"), "'Headers'", "did you mean 'Header'"),
            (lambda: hdf5.numbers(file, "data", "BoxSize"), "'data'"),
        ):
            refused(call, path, *keys)
