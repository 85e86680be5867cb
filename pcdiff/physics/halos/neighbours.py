"""How halos stand around places of the box: nearest neighbours and counts in spheres.

The places are a grid of 16^3. It is anchored to the catalogue, at the phases of its longest waves along the axes, so that a catalogue moved or
mirrored in its box has the same values to rounding; where in a cell of the grid the halos lie is left to chance all the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.kinematics import into_box
from pcdiff.physics.halos.boxes import box_sizes, per_box, positions
from pcdiff.physics.remembered import remembered

__all__ = ["COUNT_EDGES", "NEIGHBOURS", "RADIUS_EDGES", "counts_in_spheres", "nearest_neighbour_distribution"]

Floats = npt.NDArray[np.float64]

NEIGHBOURS = (1, 2, 4, 8)
"""Which nearest halos the distances are of."""

# In Mpc/h, of equal ratio.
RADIUS_EDGES = np.geomspace(2.0, 60.0, 25)
COUNT_EDGES = {15: np.arange(-0.5, 61.0), 25: np.arange(-0.5, 201.0, 4.0)}
"""Radius of a sphere in Mpc/h -> edges of bins in the number of halos in it."""
_GRID = 16


def nearest_neighbour_distribution(clouds: PointClouds, k: int) -> csr_array:
    """Share of places whose k-th nearest halo is nearer than r, for r in the middle of each bin in ln r, shape (n, 24).

    Banerjee and Abel, "Nearest neighbour distributions: new statistical measures for cosmological clustering", arXiv 2007.13342. It
    sums up correlations of all orders.

    Args:
        k: one of :data:`NEIGHBOURS`.
    """
    return csr_array(_distributions(clouds)[:, NEIGHBOURS.index(k)])


def counts_in_spheres(clouds: PointClouds, radius: int) -> csr_array:
    """Share of places with so many halos nearer than the radius, shape (n, b); more than the last bin holds are counted in it.

    Args:
        radius: in Mpc/h, one of :data:`COUNT_EDGES`.

    Raises:
        DataError: a sphere that does not fit into a box.
    """
    smallest = float(box_sizes(clouds).min())
    if smallest < 2 * radius:
        raise DataError(f"a box of {smallest:g} Mpc/h, expected at least {2 * radius}")
    edges = COUNT_EDGES[radius]
    found = np.zeros((len(clouds), len(edges) - 1))
    for row, (size, (x,)) in zip(found, per_box(clouds, positions(clouds)), strict=True):
        counts = cKDTree(x, boxsize=size).query_ball_point(_places(x, size), radius, return_length=True)
        bins = np.searchsorted(edges, np.minimum(counts, edges[-1] - 0.5)) - 1
        row[:] = np.bincount(bins, minlength=len(row)) / len(counts)
    return csr_array(found)


@remembered
def _distributions(clouds: PointClouds) -> Floats:
    """Of each number of the neighbour, shape (n, 4, 24)."""
    radii = np.sqrt(RADIUS_EDGES[:-1] * RADIUS_EDGES[1:])
    found = np.zeros((len(clouds), len(NEIGHBOURS), len(radii)))
    for row, (size, (x,)) in zip(found, per_box(clouds, positions(clouds)), strict=True):
        # A neighbour that a box of few halos does not have is infinitely far.
        distances, _ = cKDTree(x, boxsize=size).query(_places(x, size), NEIGHBOURS)
        for share, each in zip(row, np.sort(distances, axis=0).T, strict=True):
            share[:] = np.searchsorted(each, radii) / len(each)
    return found


def _places(x: Floats, size: float) -> Floats:
    """The grid of a box, shape (4096, 3)."""
    # The argument of the sum of unit numbers turns with the box; of halos in balance it is that of rounding, as good as any.
    anchor = np.angle(np.exp(2j * np.pi / size * x).sum(axis=0)) * size / (2 * np.pi)
    steps = np.arange(_GRID) * size / _GRID
    grid = np.meshgrid(*into_box(anchor[:, None] + steps, size), indexing="ij")
    return np.asarray(np.stack(grid, axis=-1).reshape(-1, 3))
