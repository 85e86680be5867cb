"""Numbers, masses and velocities of halos, one by one and box by box, in float64; masses in Msun/h, velocities in km/s."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.physics.halos.boxes import box_sizes, velocities
from pcdiff.physics.histogram import filled

__all__ = [
    "MASS_EDGES",
    "bulk_flow",
    "log10_mass",
    "mass_function",
    "number_of_halos",
    "speed",
    "velocity_along_x",
    "velocity_dispersion",
]

Floats = npt.NDArray[np.float64]

# Ten bins a decade of mass, from dwarf galaxies to more than the heaviest cluster.
MASS_EDGES = np.linspace(10.0, 16.0, 61)


def log10_mass(clouds: PointClouds) -> Floats:
    """log10 of the mass of each halo in Msun/h, shape (P,)."""
    return clouds.column("log10_mass").astype(np.float64)


def speed(clouds: PointClouds) -> Floats:
    """|v| of each halo in km/s, shape (P,)."""
    found: Floats = np.linalg.norm(velocities(clouds), axis=1)
    return found


def velocity_along_x(clouds: PointClouds) -> Floats:
    """One component of the peculiar velocity of each halo in km/s, shape (P,); a box has no preferred axis."""
    return clouds.column("vx").astype(np.float64)


def number_of_halos(clouds: PointClouds) -> Floats:
    """Number of halos of each box, shape (n,)."""
    return clouds.counts.astype(np.float64)


def velocity_dispersion(clouds: PointClouds) -> Floats:
    """Root of the mean squared velocity about the box's own mean, over halos and the three components, shape (n,), in km/s."""
    found = velocities(clouds)
    rest = found - np.repeat(_means(clouds, found), clouds.counts, axis=0)
    return np.asarray(np.sqrt(_means(clouds, rest**2).mean(axis=1)))


def bulk_flow(clouds: PointClouds) -> Floats:
    """|mean v| of the halos of each box, all counting alike, shape (n,), in km/s."""
    found: Floats = np.linalg.norm(_means(clouds, velocities(clouds)), axis=1)
    return found


def mass_function(clouds: PointClouds) -> csr_array:
    """dn / dlog10 M of each box: halos a volume and decade of mass, in (Mpc/h)^-3, shape (n, 60).

    Jenkins et al., "The mass function of dark matter haloes", arXiv astro-ph/0005260, have it in ln M.
    """
    weight = 1 / (box_sizes(clouds) ** 3 * np.diff(MASS_EDGES).mean())
    owners = clouds.owners
    return filled(owners, len(clouds), [log10_mass(clouds)], [MASS_EDGES], weight[owners])


def _means(clouds: PointClouds, values: Floats) -> Floats:
    """The mean over the halos of each box; each has at least one."""
    return np.asarray(np.add.reduceat(values, clouds.offsets[:-1], axis=0) / clouds.counts[:, None])
