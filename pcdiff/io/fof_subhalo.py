"""Group catalogues of Arepo and SUBFIND as IllustrisTNG and CAMELS publish them: ``fof_subhalo_tab_NNN.i.hdf5``, ``groups_NNN.hdf5``.

Layout (Nelson et al., "The IllustrisTNG Simulations: Public Data Release", arXiv:1812.05609): ``Group/GroupPos`` (n, 3) in comoving
kpc/h, ``Group/GroupVel`` (n, 3) in km/s times the scale factor a, so that the peculiar velocity is this over a, and masses in
1e10 Msun/h: ``GroupMass`` of all particles of the friends-of-friends group, ``Group_M_Crit200``, ``Group_M_Mean200``, ... within
spherical overdensities, which are 0 where a group has no bound subhalo. ``Header`` has BoxSize (comoving kpc/h), Redshift,
Omega0, NumFiles and the numbers of groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import hdf5
from pcdiff.io.catalogue import NO_MASS, catalogue, positive, siblings
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import POSITION, VELOCITY

__all__ = ["FORMAT"]

_HEADER = "Header"
_POSITION, _VELOCITY = "Group/GroupPos", "Group/GroupVel"
_MASS = "GroupMass"
_FEATURES = {"box_size": "BoxSize", "redshift": "Redshift", "omega_m": "Omega0"}


@dataclass(frozen=True)
class _Header:
    """What the first file says: the files of the catalogue, its number of groups, and the cloud columns."""

    files: tuple[Path, ...]
    groups: int
    features: dict[str, float]


def _fits(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return hdf5.exists(file, _HEADER) and hdf5.exists(file, "Group")
    except DataError:
        return False


def _number(file: h5py.File, key: str) -> float:
    return float(hdf5.numbers(file, _HEADER, key)[0])


def _header(path: Path) -> _Header:
    with hdf5.opened(path) as file:
        files = siblings(path, int(_number(file, "NumFiles")))
        box_size = positive(_number(file, "BoxSize"), "attribute 'BoxSize' of 'Header'", path) / 1e3
        features = {"box_size": box_size} | {
            name: _number(file, key) for name, key in _FEATURES.items() if name != "box_size"
        }
        return _Header(tuple(files), int(_number(file, "Ngroups_Total")), features)


def _datasets(file: h5py.File, mass: str) -> tuple[h5py.Dataset, ...]:
    """Positions, velocities and masses; none where a file holds no groups, for such files may lack them."""
    groups = int(_number(file, "Ngroups_ThisFile"))
    if groups == 0:
        return ()
    found = (
        hdf5.dataset(file, _POSITION, ndim=2, shape=(3,), axes="groups, x y z"),
        hdf5.dataset(file, _VELOCITY, ndim=2, shape=(3,), axes="groups, x y z"),
        hdf5.dataset(file, f"Group/{mass}", ndim=1, axes="groups"),
    )
    for column in found:
        if len(column) != groups:
            raise DataError(
                f"{file.filename}: dataset {column.name.lstrip('/')!r} has {len(column)} rows, expected {groups} as the "
                "header says"
            )
    return found


def _check_total(path: Path, header: _Header, found: int) -> None:
    if found != header.groups:
        raise DataError(f"{path}: says {header.groups} groups in all, found {found} in {len(header.files)} files")


def _iterate(path: Path, _step_size: int, *, mass: str = _MASS) -> Iterator[PointClouds]:
    """The catalogue as one cloud.

    Args:
        mass: the dataset of ``Group`` that is the mass: ``GroupMass``, ``Group_M_Crit200``, ``Group_M_Mean200``, ....
    """
    header = _header(path)
    parts: list[tuple[npt.NDArray[Any], ...]] = [(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))]
    for part in header.files:
        with hdf5.opened(part) as file:
            columns = _datasets(file, mass)
            if columns:
                parts.append(tuple(hdf5.rows(column, 0, len(column)).astype(np.float64) for column in columns))
    position, velocity, masses = (np.concatenate(column) for column in zip(*parts, strict=True))
    _check_total(path, header, len(masses))
    yield catalogue(
        position / 1e3,
        velocity * (1 + header.features["redshift"]),
        masses * 1e10,
        header.features,
        mass_name=mass,
        provenance={"sources": [str(path)]},
    )


def _describe(path: Path, *, mass: str = _MASS) -> Description:
    """What is inside; the option as for reading."""
    header = _header(path)
    halos = 0
    for part in header.files:
        with hdf5.opened(part) as file:
            columns = _datasets(file, mass)
            halos += len(columns[0]) if columns else 0
    _check_total(path, header, halos)
    described = [Column(f"{_POSITION}[:, {i}]", name) for i, name in enumerate(POSITION)]
    described += [Column(f"{_VELOCITY}[:, {i}]", name) for i, name in enumerate(VELOCITY)]
    described += [Column(f"Group/{mass}", "log10_mass")]
    described += [Column(f"{_HEADER}: {key}", name) for name, key in _FEATURES.items()]
    notes = (f"{halos:,} halos in {len(header.files)} file{'' if len(header.files) == 1 else 's'}", NO_MASS)
    return Description(path, "fof-subhalo", 1, tuple(described), header.features, notes)


FORMAT = Format(
    name="fof-subhalo",
    description="group catalogues of IllustrisTNG and CAMELS (HDF5), read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("halos",),
)
