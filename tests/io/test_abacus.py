"""AbacusSummit's CompaSO halos: slabs written here by hand from the layout, and a real small box."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import asdf
import numpy as np
import pytest

import pcdiff

HEADER = {
    "BoxSize": 500.0,
    "Redshift": 0.5,
    "Omega_M": 0.315,
    "ParticleMassHMsun": 2e9,
    "VelZSpace_to_kms": 50000.0,
    "SimName": "hand",
}


def slab(size: int, seed: int) -> dict[str, np.ndarray]:
    """Positions in units of the box around 0, velocities in the same units."""
    rng = np.random.default_rng(seed)
    return {
        "id": np.arange(size, dtype=np.uint64),
        "N": rng.integers(35, 5000, size).astype(np.uint32),
        **{f"x_{center}": rng.uniform(-0.5, 0.5, (size, 3)).astype(np.float32) for center in ("com", "L2com")},
        **{f"v_{center}": rng.normal(0, 0.005, (size, 3)).astype(np.float32) for center in ("com", "L2com")},
    }


def write(folder: Path, parts: list[dict[str, np.ndarray]], header: dict = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        asdf.AsdfFile({"header": header, "data": part}).write_to(folder / f"halo_info_{i:03d}.asdf")
    return folder


@pytest.fixture
def box(tmp_path: Path) -> Path:
    return write(tmp_path / "sim" / "halos" / "z0.500" / "halo_info", [slab(size, size) for size in (20, 10, 15)])


@pytest.mark.parametrize("center", ["com", "L2com"])
@pytest.mark.parametrize("named", ["folder", "first"])
def test_slabs_are_one_box(box: Path, center: str, named: str) -> None:
    path = box if named == "folder" else box / "halo_info_000.asdf"
    parts = [slab(size, size) for size in (20, 10, 15)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    clouds = pcdiff.read(path, **({} if center == "com" else {"center": center}))
    assert clouds.counts.tolist() == [45]
    for i, name in enumerate("xyz"):
        expected = (whole[f"x_{center}"][:, i].astype(float) * 500) % 500
        np.testing.assert_allclose(clouds.column(name), expected, atol=1e-4)
        np.testing.assert_allclose(clouds.column(f"v{name}"), whole[f"v_{center}"][:, i] * 50000, rtol=1e-5)
    np.testing.assert_allclose(clouds.column("log10_mass"), np.log10(whole["N"] * 2e9), rtol=1e-6)
    features = {name: float(clouds.feature(name)[0]) for name in clouds.schema.cloud_names}
    assert features == pytest.approx({"box_size": 500, "redshift": 0.5, "omega_m": 0.315})
    found = pcdiff.inspect(path)
    assert (found.format, found.clouds, found.notes[0]) == ("abacus", 1, "3 slabs")


def test_a_slab_alone_is_no_box(box: Path, refused: Callable[..., None]) -> None:
    second = box / "halo_info_001.asdf"
    refused(lambda: pcdiff.read(second), second, "one of 3 slabs", "halo_info_000.asdf")
    second.unlink()
    refused(lambda: pcdiff.read(box), box, "slab 1 is missing")
    other = box / "slab.asdf"
    shutil.copy(box / "halo_info_000.asdf", other)
    refused(lambda: pcdiff.read(other), other, "expected halo_info_000.asdf")
    empty = box.parent / "empty" / "halo_info"
    empty.mkdir(parents=True)
    refused(lambda: pcdiff.read(empty), empty, "found no slabs")


def test_a_glob_of_folders(tmp_path: Path) -> None:
    for name, size in (("a", 3), ("b", 4)):
        write(tmp_path / name / "halos" / "z0.500" / "halo_info", [slab(size, 0)])
    clouds = pcdiff.read(tmp_path / "*" / "halos" / "z0.500" / "halo_info")
    assert clouds.counts.tolist() == [3, 4]


def test_what_is_missing_is_named(tmp_path: Path, refused: Callable[..., None]) -> None:
    part = slab(5, 0)
    part["x_center"] = part.pop("x_com")
    folder = write(tmp_path / "a" / "halo_info", [part])
    refused(lambda: pcdiff.read(folder), folder, "'x_com'", "did you mean 'x_L2com'")
    stated = {("OmegaM" if key == "Omega_M" else key): value for key, value in HEADER.items()}
    folder = write(tmp_path / "b" / "halo_info", [slab(5, 0)], stated)
    refused(lambda: pcdiff.read(folder), folder, "'Omega_M'", "did you mean 'OmegaM'")
    folder = write(tmp_path / "c" / "halo_info", [slab(5, 0)], HEADER | {"BoxSize": 0.0})
    refused(lambda: pcdiff.read(folder), folder, "'BoxSize' of the header is 0.0")
    refused(lambda: pcdiff.read(folder, center="L1com"), folder, "'L1com'", "'L2com'")
    folder = write(tmp_path / "d" / "halo_info", [slab(5, 0)])
    refused(lambda: pcdiff.read(folder, cleaned=True), folder, "leaning info")


def test_a_file_cut_short(box: Path, refused: Callable[..., None]) -> None:
    """In its header, and in each of its blocks: in what the block says of itself, and in its data."""
    path = box / "halo_info_001.asdf"
    content = path.read_bytes()
    blocks = [at for at in range(len(content)) if content.startswith(b"\xd3BLK", at)]
    assert len(blocks) == 6
    for end, said in [(100, "no block of data"), *((at + more, "cut short") for at in blocks for more in (20, 60))]:
        path.write_bytes(content[:end])
        refused(lambda: pcdiff.read(box), path, said)


@pytest.mark.parametrize("column", ["N", "x_com", "v_com"])
def test_a_size_that_no_file_of_this_size_holds(tmp_path: Path, column: str, refused: Callable[..., None]) -> None:
    """As the tree declares it, and as the block does."""
    columns = slab(7, 0)
    rest = columns.pop(column)
    path = tmp_path / "halo_info" / "halo_info_000.asdf"
    path.parent.mkdir()
    file = asdf.AsdfFile({"header": HEADER, "data": {column: rest, **columns}})
    file.write_to(path, include_block_index=False)
    content = path.read_bytes()
    shape = content.index(b"shape: [7", content.index(f"  {column}:".encode())) + len(b"shape: [7")
    path.write_bytes(content[:shape] + b"000000000" + content[shape:])
    refused(lambda: pcdiff.read(path), path, f"{column!r} declares the shape (7000000000", "damaged")
    block = content.index(b"\xd3BLK")
    path.write_bytes(content[: block + 30] + struct.pack(">Q", 10**12) + content[block + 38 :])
    refused(lambda: pcdiff.read(path), path, "declares 1000000000000 bytes unpacked", "damaged")


@pytest.mark.parametrize("named", ["folder", "first"])
def test_a_real_box(tmp_path: Path, shared: Path, named: str) -> None:
    """AbacusSummit's code, 64^3 particles in 32 Mpc/h: three slabs, compressed by Blosc."""
    folder = tmp_path / "Mini_N64_L32" / "halos" / "z0.000" / "halo_info"
    folder.mkdir(parents=True)
    for file in sorted((shared / "halos").glob("halo_info_*.asdf")):
        shutil.copy(file, folder)
    clouds = pcdiff.read(folder if named == "folder" else folder / "halo_info_000.asdf")
    assert clouds.counts.tolist() == [381]
    for name in "xyz":
        assert clouds.column(name).min() >= 0
        assert clouds.column(name).max() < 32
        # Halos fill the box, and do not stream through it: 1,000 km/s is beyond their root mean square.
        assert np.ptp(clouds.column(name)) > 31
        assert 100 < np.sqrt(np.mean(clouds.column(f"v{name}").astype(float) ** 2)) < 1000
    # CompaSO keeps halos from 35 particles on.
    assert np.isclose(clouds.column("log10_mass").min(), np.log10(35 * 10882397390.0), atol=1e-6)
    assert float(clouds.feature("omega_m")[0]) == pytest.approx(0.315192)
    assert float(clouds.feature("redshift")[0]) == 0
    assert pcdiff.inspect(folder).metadata["particle_mass"] == 10882397390.0
