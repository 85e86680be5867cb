"""Group catalogues of IllustrisTNG and CAMELS, written here by hand from the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import pcdiff

Z = 0.5


def groups(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mass = rng.uniform(10, 1e4, size).astype("f4")
    crit = 0.8 * mass
    crit[::7] = 0
    return {
        "GroupPos": rng.uniform(0, 25000, (size, 3)).astype("f4"),
        "GroupVel": rng.normal(0, 100, (size, 3)).astype("f4"),
        "GroupMass": mass,
        "Group_M_Crit200": crit,
        "Group_M_Mean200": (0.9 * mass).astype("f4"),
    }


def write(path: Path, columns: dict[str, np.ndarray], total: int, files: int = 1, **header: float) -> None:
    size = len(columns["GroupMass"])
    with h5py.File(path, "w") as file:
        stated = {
            "BoxSize": 25000.0,
            "Redshift": Z,
            "Time": 1 / (1 + Z),
            "Omega0": 0.3,
            "NumFiles": np.int32(files),
            "Ngroups_ThisFile": np.int32(size),
            "Ngroups_Total": np.int32(total),
        }
        file.create_group("Header").attrs.update(stated | header)
        group = file.create_group("Group")
        if size:
            for name, values in columns.items():
                group[name] = values


@pytest.mark.parametrize("mass", ["GroupMass", "Group_M_Crit200", "Group_M_Mean200"])
@pytest.mark.parametrize("name", ["fof_subhalo_tab_090.hdf5", "groups_090.hdf5"])
def test_one_file(tmp_path: Path, mass: str, name: str) -> None:
    """Ckpc/h, km/s times the scale factor and 1e10 Msun/h become Mpc/h, peculiar km/s and log10 of Msun/h."""
    columns = groups(50)
    write(tmp_path / name, columns, 50)
    clouds = pcdiff.read(tmp_path / name, **({} if mass == "GroupMass" else {"mass": mass}))
    kept = columns[mass] > 0
    assert kept.all() == (mass != "Group_M_Crit200")
    for i, axis in enumerate("xyz"):
        np.testing.assert_allclose(clouds.column(axis), columns["GroupPos"][kept, i] / 1e3, rtol=1e-6)
        np.testing.assert_allclose(clouds.column(f"v{axis}"), columns["GroupVel"][kept, i] * (1 + Z), rtol=1e-6)
    np.testing.assert_allclose(clouds.column("log10_mass"), 10 + np.log10(columns[mass][kept]), rtol=1e-6)
    features = {key: float(clouds.feature(key)[0]) for key in clouds.schema.cloud_names}
    assert features == pytest.approx({"box_size": 25, "redshift": Z, "omega_m": 0.3}, rel=1e-6)
    assert pcdiff.inspect(tmp_path / name).format == "fof-subhalo"


def test_the_first_file_stands_for_all(tmp_path: Path, refused: Callable[..., None]) -> None:
    """Also where one has no groups, and therefore no datasets."""
    sizes = [6, 0, 4]
    parts = [groups(size, seed) for seed, size in enumerate(sizes)]
    paths = [tmp_path / f"fof_subhalo_tab_099.{i}.hdf5" for i in range(3)]
    for path, part in zip(paths, parts, strict=True):
        write(path, part, 10, 3)
    clouds = pcdiff.read(paths[0])
    assert clouds.counts.tolist() == [10]
    expected = np.concatenate([part["GroupPos"][:, 2] for part in parts]) / 1e3
    np.testing.assert_allclose(clouds.column("z"), expected, rtol=1e-6)
    assert pcdiff.inspect(paths[0]).notes[0] == "10 halos in 3 files"
    refused(lambda: pcdiff.read(paths[2]), paths[2], "number 2 of 3 files", f"name the first, {paths[0].name}")
    paths[1].unlink()
    refused(lambda: pcdiff.read(paths[0]), paths[0], f"{paths[1].name} is missing")
    write(paths[1], groups(1), 10, 3)
    refused(lambda: pcdiff.read(paths[0]), paths[0], "10 groups in all, found 11 in 3 files")


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda file: file.move("Group/GroupVel", "Group/GroupVelocity"), ("'Group/GroupVel'", "'GroupVelocity'")),
        (
            lambda file: file.move("Group/GroupMass", "Group/GroupMasses"),
            ("'Group/GroupMass'", "did you mean 'GroupMasses'"),
        ),
        (lambda file: file["Header"].attrs.pop("BoxSize"), ("'BoxSize' of 'Header'",)),
        (lambda file: file["Header"].attrs.pop("Omega0"), ("'Omega0' of 'Header'",)),
        (lambda file: file["Header"].attrs.__setitem__("BoxSize", 0.0), ("'BoxSize'", "is 0.0")),
        (lambda file: file["Header"].attrs.__setitem__("Ngroups_ThisFile", 9), ("has 20 rows", "expected 9")),
        (lambda file: file["Header"].attrs.__setitem__("Redshift", "now"), ("'Redshift'", "'now'", "a number")),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: Callable, keys: tuple, refused: Callable[..., None]) -> None:
    path = tmp_path / "groups_090.hdf5"
    write(path, groups(20), 20)
    with h5py.File(path, "a") as file:
        change(file)
    refused(lambda: pcdiff.read(path), path, *keys)


def test_an_unknown_mass(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "groups_090.hdf5"
    write(path, groups(20), 20)
    refused(lambda: pcdiff.read(path, mass="Group_M_crit200"), path, "did you mean 'Group_M_Crit200'")


def test_a_file_cut_short(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "groups_090.hdf5"
    write(path, groups(20), 20)
    path.write_bytes(path.read_bytes()[:-400])
    refused(lambda: pcdiff.read(path, format="fof-subhalo"), path, "cannot be opened", "whole HDF5 file")
