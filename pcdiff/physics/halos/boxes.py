"""Catalogues in periodic boxes as all observables of halos take them: in float64, one box after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, require_cubes
from pcdiff.errors import DataError
from pcdiff.kinematics import into_box
from pcdiff.physics.units import require_standard_units
from pcdiff.schema import POSITION, VELOCITY, halo_schema

__all__ = ["box_sizes", "distortion", "per_box", "positions", "require_units", "velocities"]

Floats = npt.NDArray[np.float64]

# km/s of expansion today over a distance of 1 Mpc/h.
_HUBBLE = 100.0


def require_units(clouds: PointClouds, where: str) -> None:
    """Refuse catalogues that are not in Mpc/h and km/s.

    Args:
        where: what the error message starts with.

    Raises:
        DataError: a position or the box size is missing, a column of a standard name has another unit than the standard one, or a box
            is no cube.
    """
    found = clouds.schema
    try:
        standard = halo_schema(found.point_names, found.cloud_names)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    require_standard_units(found, standard, where)
    require_cubes(clouds, where)


def box_sizes(clouds: PointClouds) -> Floats:
    """The side of each box in Mpc/h, shape (n,).

    Raises:
        DataError: a box is no cube.
    """
    require_cubes(clouds)
    return np.asarray(clouds.feature("box_size"), np.float64)


def positions(clouds: PointClouds) -> Floats:
    """Positions in Mpc/h, at least 0 and less than the box size, shape (P, 3)."""
    return into_box(
        np.stack([clouds.column(name) for name in POSITION], axis=1).astype(np.float64),
        _of_points(clouds, box_sizes(clouds)),
    )


def velocities(clouds: PointClouds) -> Floats:
    """Peculiar velocities in km/s, shape (P, 3).

    Raises:
        DataError: a component is not stored.
    """
    return np.asarray(np.stack([clouds.column(name) for name in VELOCITY], axis=1), np.float64)


def distortion(clouds: PointClouds, axis: int) -> Floats:
    """Positions in redshift space, seen from far away along an axis, shape (P, 3).

    A halo is displaced by v (1 + z) / H(z), in Mpc/h v / (100 km/s) (1 + z) / E(z), with E^2 = Omega_m (1 + z)^3 + 1 - Omega_m of a flat
    universe with a cosmological constant (Kaiser, "Clustering in real space and in redshift space", MNRAS 227 (1987) 1).

    Args:
        axis: 0 to 2, the line of sight.

    Raises:
        DataError: velocities, the redshift or omega_m are not stored.
    """
    z, omega = (clouds.feature(name).astype(np.float64) for name in ("redshift", "omega_m"))
    expansion = _HUBBLE * np.sqrt(omega * (1 + z) ** 3 + 1 - omega)
    found = positions(clouds)
    shift = velocities(clouds)[:, axis] * np.repeat((1 + z) / expansion, clouds.counts)
    found[:, axis] += shift
    return into_box(found, _of_points(clouds, box_sizes(clouds)))


def per_box(clouds: PointClouds, *values: Floats) -> Iterator[tuple[float, list[Floats]]]:
    """The side of each box, and its part of each of some arrays whose first axis is that of all points."""
    for size, start, stop in zip(box_sizes(clouds), clouds.offsets[:-1], clouds.offsets[1:], strict=True):
        yield float(size), [each[start:stop] for each in values]


def _of_points(clouds: PointClouds, values: Floats) -> Floats:
    found: Floats = np.repeat(values, clouds.counts)[:, None]
    return found
