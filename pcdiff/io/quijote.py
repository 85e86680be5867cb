"""Friends-of-friends catalogues of Quijote: ``group_tab_NNN.i``, little-endian binary.

Layout (Villaescusa-Navarro et al., "The Quijote simulations", arXiv:1909.05273; Pylians, ``readfof``): a header of five numbers,
the groups in this file and in all (int32), the particle numbers in this file (int32) and in all (uint64), and the number of files
(uint32); then, one after the other for all groups of the file, the number of particles and an offset (int32), the mass in
1e10 Msun/h (float32), the position in kpc/h and the velocity (3 float32 each), and the numbers and masses of particles by type
(6 int32 and 6 float32). Runs with stars add a star-formation rate (float32) and may add a type (uint32). The peculiar velocity
in km/s is the velocity times 1 + z.

The file ends there, so its size tells these layouts apart. It states neither the box nor the redshift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io.catalogue import NO_MASS, catalogue, positive, siblings
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import POSITION, VELOCITY

__all__ = ["FORMAT"]

_HEADER = np.dtype([("groups", "<i4"), ("all_groups", "<i4"), ("ids", "<i4"), ("all_ids", "<u8"), ("files", "<u4")])

# Bytes of a group: what all layouts have, and what a star-formation rate and a type add.
_WIDTH, _EXTRA = 84, (0, 4, 8)

# Where the columns that are read begin, in bytes a group.
_MASS, _POSITION, _VELOCITY = 8, 12, 24


@dataclass(frozen=True)
class _Part:
    """One file: its groups, and what its header says of all files."""

    path: Path
    groups: int
    all_groups: int
    files: int

    def column(self, begins: int, width: int) -> npt.NDArray[np.float32]:
        """The column that begins there, in bytes a group: shape (groups, width)."""
        offset = _HEADER.itemsize + begins * self.groups
        found = np.fromfile(self.path, "<f4", self.groups * width, offset=offset)
        return found.reshape(self.groups, width)


def _fits(path: Path) -> bool:
    try:
        _part(path)
    except DataError:
        return False
    return True


def _part(path: Path) -> _Part:
    """The header of a file, whose size is what it declares."""
    size = path.stat().st_size
    if size < _HEADER.itemsize:
        raise DataError(f"{path}: has {size} bytes, expected at least the {_HEADER.itemsize} of a group_tab header")
    header = np.fromfile(path, _HEADER, 1)[0]
    found = _Part(path, int(header["groups"]), int(header["all_groups"]), int(header["files"]))
    possible = [_HEADER.itemsize + (_WIDTH + extra) * found.groups for extra in _EXTRA]
    if found.groups < 0 or size not in possible:
        raise DataError(
            f"{path}: declares {found.groups} groups and has {size} bytes, expected "
            f"{', '.join(map(str, possible[:-1]))} or {possible[-1]}: is it cut short, or not a group_tab file?"
        )
    return found


def _parts(path: Path) -> list[_Part]:
    first = _part(path)
    parts = [_part(part) for part in siblings(path, first.files)]
    for part in parts:
        if (part.files, part.all_groups) != (first.files, first.all_groups):
            raise DataError(
                f"{part.path}: says {part.files} files and {part.all_groups} groups in all, expected {first.files} and "
                f"{first.all_groups} as {path.name}"
            )
    total = sum(part.groups for part in parts)
    if total != first.all_groups:
        raise DataError(f"{path}: says {first.all_groups} groups in all, found {total} in {len(parts)} files")
    return parts


def _iterate(path: Path, _step_size: int, *, box_size: float, redshift: float) -> Iterator[PointClouds]:
    """The catalogue as one cloud.

    Args:
        box_size: side of the periodic box in Mpc/h.
        redshift: redshift of the catalogue.
    """
    positive(box_size, "the option box_size", path)
    positive(1 + redshift, "1 + the option redshift", path)
    parts = _parts(path)

    def column(begins: int, width: int) -> npt.NDArray[Any]:
        return np.concatenate([part.column(begins, width) for part in parts]).astype(np.float64)

    yield catalogue(
        column(_POSITION, 3) / 1e3,
        column(_VELOCITY, 3) * (1 + redshift),
        column(_MASS, 1)[:, 0] * 1e10,
        {"box_size": box_size, "redshift": redshift},
        mass_name="GroupMass",
        provenance={"sources": [str(path)]},
    )


def _describe(path: Path, *, box_size: float, redshift: float) -> Description:
    """What is inside; the options as for reading."""
    parts = _parts(path)
    halos = sum(part.groups for part in parts)
    columns = [
        Column("GroupLen", "", "<i4"),
        Column("GroupOffset", "", "<i4"),
        Column("GroupMass", "log10_mass", "<f4"),
    ]
    columns += [Column(f"GroupPos[:, {i}]", name, "<f4") for i, name in enumerate(POSITION)]
    columns += [Column(f"GroupVel[:, {i}]", name, "<f4") for i, name in enumerate(VELOCITY)]
    columns += [Column("option box_size", "box_size"), Column("option redshift", "redshift")]
    notes = (f"{halos:,} halos in {len(parts)} file{'' if len(parts) == 1 else 's'}", NO_MASS)
    return Description(path, "quijote", 1, tuple(columns), {"box_size": box_size, "redshift": redshift}, notes)


FORMAT = Format(
    name="quijote",
    description="friends-of-friends catalogues of Quijote (group_tab), read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("halos",),
)
