"""What readers of halo catalogues share: one cloud from physical columns, and files that are one catalogue together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import POSITION, VELOCITY, halo_schema

__all__ = ["NO_MASS", "catalogue", "positive", "siblings"]

NO_MASS = "halos without a mass of this definition (0 in the file) are left out"
"""What :func:`catalogue` does, for people."""

# Positions that a file rounded, as a part of the box: single precision keeps 1e-7, text of six decimals less.
_ROUNDING = 1e-5

# A catalogue of more files would be a damaged header.
_MOST_FILES = 100_000


def catalogue(
    position: npt.NDArray[Any],
    velocity: npt.NDArray[Any] | None,
    mass: npt.NDArray[Any],
    features: Mapping[str, float],
    *,
    mass_name: str,
    provenance: Mapping[str, Any],
) -> PointClouds:
    """One periodic box of halos as a cloud of single-precision columns.

    A position at the far side of the box is one at the near side, and rounding may have moved it beyond either: such positions are
    put inside. Those farther out are left to :meth:`PointClouds.validate`, which refuses them.

    Args:
        position: comoving, Mpc/h, shape (n, 3).
        velocity: peculiar, km/s, shape (n, 3); None where the file has none.
        mass: Msun/h, shape (n,); halos of mass 0 are left out.
        features: the cloud columns, ``box_size`` in Mpc/h among them.
        mass_name: what the file calls the mass.
        provenance: where the halos came from.

    Raises:
        DataError: a mass is negative or not finite, or no halo has one.
    """
    wrong = ~(np.isfinite(mass) & (mass >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"{mass_name!r} is {mass[at]} in halo {at}; expected a mass that is not negative")
    kept = mass > 0
    if len(mass) and not kept.any():
        raise DataError(f"{mass_name!r} is 0 in all {len(mass)} halos; expected masses, maybe of another definition")
    box = np.float32(features["box_size"])
    inside = _inside(position[kept], box)
    points: dict[str, npt.NDArray[Any]] = dict(zip(POSITION, inside, strict=True))
    if velocity is not None:
        points |= dict(zip(VELOCITY, velocity[kept].T.astype(np.float32), strict=True))
    points["log10_mass"] = np.log10(mass[kept].astype(np.float64)).astype(np.float32)
    return PointClouds.from_flat(
        points,
        [0, int(kept.sum())],
        {name: np.array([value], np.float32) for name, value in features.items()},
        halo_schema(tuple(points), tuple(features)),
        provenance,
    )


def _inside(position: npt.NDArray[Any], box: np.float32) -> npt.NDArray[np.float32]:
    """Shape (3, n): positions at or rounded beyond the edges of the box put into [0, box)."""
    x = position.T.astype(np.float64)
    near = _ROUNDING * box
    x = np.where((x >= -near) & (x < 0), x + box, x)
    x = np.where((x >= box) & (x <= box + near), x - box, x)
    out = x.astype(np.float32)
    # What is less than half a step of single precision below the far side rounds to it.
    out[(x < box) & (out == box)] = 0
    return out


def positive(value: float, name: str, path: Path) -> float:
    """The value, if it is a finite number above 0.

    Raises:
        DataError: it is not; names the file and the key.
    """
    if not (np.isfinite(value) and value > 0):
        raise DataError(f"{path}: {name} is {value}, expected a number above 0")
    return float(value)


def siblings(path: Path, files: int) -> list[Path]:
    """All files of a catalogue that the first stands for: ``NAME.0``, ``NAME.1``, ..., or ``NAME.0.hdf5``, ....

    Args:
        path: the file that the user named.
        files: how many there are, as the file says.

    Raises:
        DataError: another than the first was named, or one is missing.
    """
    if files == 1:
        return [path]
    if not 1 <= files <= _MOST_FILES:
        raise DataError(f"{path}: says that it is one of {files} files, expected 1 to {_MOST_FILES}: is it damaged?")
    named = re.fullmatch(r"(.+)\.(\d+)(\.[A-Za-z]\w*)?", path.name)
    if named is None:
        raise DataError(f"{path}: is one of {files} files, expected a name with its number such as {path.stem}.0")
    stem, number, suffix = named[1], int(named[2]), named[3] or ""
    found = [path.with_name(f"{stem}.{i}{suffix}") for i in range(files)]
    if number != 0:
        raise DataError(
            f"{path}: is number {number} of {files} files that are one catalogue; name the first, {found[0].name}, which "
            "stands for all"
        )
    for part in found:
        if not part.is_file():
            raise DataError(f"{path}: is the first of {files} files, and {part.name} is missing beside it")
    return found
