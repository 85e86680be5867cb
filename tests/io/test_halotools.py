"""Halotools HDF5: opened by halotools itself, and read from files written here by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds

# In a process of its own, because halotools keeps a log in the home folder that it finds when it is imported.
OPEN = """
import sys
import numpy as np
from halotools.sim_manager import CachedHaloCatalog

found = CachedHaloCatalog(fname=sys.argv[1], **({"update_cached_fname": True} if len(sys.argv) > 3 else {}))
table = found.halo_table
about = {key: np.array(getattr(found, key)) for key in ("Lbox", "redshift", "particle_mass", "simname", "halo_finder")}
np.savez(sys.argv[2], **{name: np.asarray(table[name]) for name in table.colnames}, **about, omega_m=found.omega_m)
"""


def opened_by_halotools(path: Path, folder: Path, *further: str) -> dict[str, np.ndarray]:
    output = folder / "seen.npz"
    command = [sys.executable, "-W", "ignore", "-c", OPEN, str(path), str(output), *further]
    subprocess.run(command, check=True, env={**os.environ, "HOME": str(folder)}, timeout=300)
    return dict(np.load(output))


def test_halotools_opens_what_pcdiff_writes(
    tmp_path: Path, halos: PointClouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its absolute path, also where it was written by a relative one; elsewhere once halotools was told of the move."""
    box = halos[6:7]
    monkeypatch.chdir(tmp_path)
    path = pcdiff.write(box, "a.hdf5", format="halotools", particle_mass=1e10, simname="uniform").absolute()
    seen = opened_by_halotools(path, tmp_path)
    for name in ("x", "y", "z", "vx", "vy", "vz"):
        np.testing.assert_array_equal(seen[f"halo_{name}"], box.column(name))
    np.testing.assert_allclose(np.log10(seen["halo_mvir"]), box.column("log10_mass"), rtol=1e-12)
    np.testing.assert_array_equal(seen["halo_mvir_host_halo"], seen["halo_mvir"])
    assert np.unique(seen["halo_id"]).size == box.num_points
    assert seen["Lbox"].tolist() == [box.feature("box_size")[0]] * 3
    assert float(seen["redshift"]) == box.feature("redshift")[0]
    assert float(seen["omega_m"]) == box.feature("omega_m")[0]
    assert float(seen["particle_mass"]) == 1e10
    assert (seen["simname"].item(), seen["halo_finder"].item()) == (b"uniform", b"pcdiff")
    moved = path.rename(tmp_path / "moved.hdf5")
    np.testing.assert_array_equal(opened_by_halotools(moved, tmp_path, "moved")["halo_x"], box.column("x"))


def test_round_trip_is_exact(tmp_path: Path, halos: PointClouds) -> None:
    """All boxes, each in a file of its own."""
    for i, box in enumerate(halos.split(1)):
        pcdiff.write(box, tmp_path / f"{i:02d}.hdf5", format="halotools", metadata={"note": i})
    back = pcdiff.read(tmp_path / "*.hdf5")
    assert back.equals(halos)
    assert back.provenance == halos.provenance
    found = pcdiff.inspect(tmp_path / "07.hdf5")
    assert (found.format, found.clouds, found.metadata["note"], found.metadata["particle_mass"]) == (
        "halotools",
        1,
        7,
        0,
    )
    assert "not known" in found.metadata["processing_notes"]


def test_one_catalogue_a_file(tmp_path: Path, halos: PointClouds, refused: Callable[..., None]) -> None:
    path = tmp_path / "a.hdf5"
    for clouds, found in ((halos, "found 40 catalogues"), (halos.split(1), "found more than one catalogues")):
        refused(
            lambda clouds=clouds: pcdiff.write(clouds, path, format="halotools"), path, found, "expected one", "flat"
        )
    refused(
        lambda: pcdiff.write(halos[:1], tmp_path / "a.h5", format="halotools"), tmp_path / "a.h5", "'.h5'", "'.hdf5'"
    )
    assert not list(tmp_path.iterdir())


def test_what_halotools_needs(tmp_path: Path, halos: PointClouds, refused: Callable[..., None]) -> None:
    path = tmp_path / "a.hdf5"
    box = halos[:1]

    def without(*names: str) -> PointClouds:
        points = {name: box.column(name) for name in box.schema.point_names if name not in names}
        clouds = {name: box.feature(name) for name in box.schema.cloud_names if name not in names}
        schema = box.schema.select(tuple(points), tuple(clouds))
        return PointClouds.from_flat(points, box.offsets, clouds, schema)

    for name in ("redshift", "log10_mass"):
        refused(
            lambda name=name: pcdiff.write(without(name), path, format="halotools"), path, repr(name), "halotools needs"
        )
    still = without("vx", "vy", "vz", "sigma_8")
    assert pcdiff.read(pcdiff.write(still, path, format="halotools")).schema.point_names == (
        "x",
        "y",
        "z",
        "log10_mass",
    )


def write(path: Path, size: int = 20, **attributes: object) -> np.ndarray:
    """As halotools stores a catalogue of its own: text for the redshift, three sides, halos within others, names pickled nowhere."""
    rng = np.random.default_rng(4)
    names = [
        "halo_id",
        "halo_upid",
        "halo_x",
        "halo_y",
        "halo_z",
        "halo_vx",
        "halo_vy",
        "halo_vz",
        "halo_mvir",
        "halo_m200b",
    ]
    table = np.zeros(size, [(name, "i8" if name in names[:2] else "f4") for name in names])
    table["halo_id"] = np.arange(size)
    table["halo_upid"] = np.where(np.arange(size) % 4 == 3, 0, -1)
    for name in names[2:5]:
        table[name] = rng.uniform(0, 250, size)
    for name in names[5:8]:
        table[name] = rng.normal(0, 300, size)
    for name in names[8:]:
        table[name] = 10 ** rng.uniform(11, 15, size)
    stated = {
        "Lbox": np.full(3, 250.0),
        "particle_mass": 1.35e8,
        "redshift": np.bytes_("0.5000"),
        "simname": np.bytes_("bolshoi"),
        "fname": np.bytes_("/elsewhere/a.hdf5"),
    }
    with h5py.File(path, "w") as file:
        file["data"] = table
        file.attrs.update(stated | attributes)
    return table


@pytest.mark.parametrize("subhalos", [False, True])
@pytest.mark.parametrize("mass", ["halo_mvir", "halo_m200b"])
def test_a_catalogue_of_halotools(tmp_path: Path, subhalos: bool, mass: str) -> None:
    path = tmp_path / "a.hdf5"
    table = write(path)
    clouds = pcdiff.read(path, subhalos=subhalos, mass=mass)
    table = table if subhalos else table[table["halo_upid"] == -1]
    assert len(table) == (20 if subhalos else 15)
    for name in ("x", "y", "z", "vx", "vy", "vz"):
        np.testing.assert_array_equal(clouds.column(name), table[f"halo_{name}"])
    np.testing.assert_allclose(clouds.column("log10_mass"), np.log10(table[mass]), rtol=1e-6)
    assert clouds.schema.cloud_names == ("box_size", "redshift")
    assert (clouds.feature("box_size")[0], clouds.feature("redshift")[0]) == (250, 0.5)
    found = pcdiff.inspect(path, subhalos=subhalos, mass=mass)
    assert found.metadata["simname"] == "bolshoi"
    assert any("left out; the option subhalos" in note for note in found.notes) != subhalos


def test_what_is_missing_is_named(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "a.hdf5"
    write(path)
    refused(lambda: pcdiff.read(path, mass="halo_mvirr"), path, "'halo_mvirr'", "did you mean 'halo_mvir'")
    write(path, Lbox=np.array([250.0, 250.0, 100.0]))
    refused(lambda: pcdiff.read(path), path, "'Lbox'", "equal sides")
    write(path, Lbox=-1.0)
    refused(lambda: pcdiff.read(path), path, "'Lbox' is -1.0")
    with h5py.File(path, "a") as file:
        file.attrs["Lbox"] = 250.0
        del file.attrs["redshift"]
    refused(lambda: pcdiff.read(path), path, "'redshift'")
    table = write(path)
    with h5py.File(path, "a") as file:
        del file["data"]
        file["data"] = table[[name for name in table.dtype.names if name != "halo_y"]].copy()
    refused(lambda: pcdiff.read(path), path, "'halo_y'", "did you mean 'halo_")
    write(path, size=3)
    path.write_bytes(path.read_bytes()[:-300])
    refused(lambda: pcdiff.read(path, format="halotools"), path, "cannot be opened")
