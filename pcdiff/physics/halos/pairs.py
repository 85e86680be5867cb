"""How halos stand and move relative to each other: correlation functions and the mean pairwise velocity.

With DD pairs of halos at separations of a bin, and RR the number that N halos without correlation would have there in a periodic box of
volume V,

    RR = N (N - 1) / 2 * (volume of the shell) / V,    xi = DD / RR - 1

(the natural estimator, Peebles and Hauser, ApJS 28 (1974) 19, whose RR is exact in a periodic box: no random catalogue is needed). Pairs are
counted once, at the separation of their nearest images, so the estimator holds in bins below half of the box; others stay empty.

A set of boxes has sum DD / sum RR - 1: a box counts in proportion to its pairs. The mean of the boxes' own xi would be as right in one
universe, but where boxes have from 70 to 800 halos, those of few halos, whose xi is a hundred times as noisy, would drown the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from pcdiff.clouds import PointClouds
from pcdiff.physics.halos.boxes import box_sizes, distortion, per_box, positions, velocities
from pcdiff.physics.remembered import remembered
from pcdiff.schema import VELOCITY

__all__ = [
    "SEPARATION_EDGES",
    "expected_pairs",
    "pair_counts",
    "pairwise_velocity",
    "redshift_space_monopole",
    "redshift_space_quadrupole",
    "two_point_correlation",
]

Floats = npt.NDArray[np.float64]

# Ten bins a decade, from where halos touch, in Mpc/h.
SEPARATION_EDGES = np.geomspace(1.0, 40.0, 17)
_BINS = len(SEPARATION_EDGES) - 1
_SQUARED = SEPARATION_EDGES[:-1] * SEPARATION_EDGES[1:]


def expected_pairs(clouds: PointClouds) -> Floats:
    """RR of each box, shape (n, 16): pairs of halos without correlation; 0 in bins that reach beyond half of the box."""
    size = box_sizes(clouds)[:, None]
    shells = 4 / 3 * np.pi * np.diff(SEPARATION_EDGES**3)
    pairs = (clouds.counts * (clouds.counts - 1) / 2)[:, None]
    return np.where(SEPARATION_EDGES[1:] <= size / 2, pairs * shells / size**3, 0.0)


def pair_counts(clouds: PointClouds) -> Floats:
    """DD of each box, shape (n, 16)."""
    return _pairs(clouds)[:, 0]


def two_point_correlation(clouds: PointClouds) -> csr_array:
    """DD - RR of each box, shape (n, 16), which over RR is the two-point correlation function xi(r)."""
    return csr_array(pair_counts(clouds) - expected_pairs(clouds))


def pairwise_velocity(clouds: PointClouds) -> csr_array:
    """sum over pairs of (v_1 - v_2) . (r_1 - r_2) / r of each box in km/s, shape (n, 16).

    Over DD it is the mean pairwise velocity v12(r), negative where halos fall towards each other (Ferreira et al., "Streaming velocities
    as a dynamical estimator of Omega", arXiv astro-ph/9812456).

    Raises:
        DataError: velocities are not stored.
    """
    velocities(clouds)
    return csr_array(_pairs(clouds)[:, 1])


def redshift_space_monopole(clouds: PointClouds) -> csr_array:
    """s^2 (DD - RR) of each box in redshift space, shape (n, 16), which over RR is s^2 xi_0(s) in (Mpc/h)^2.

    The mean over the three axes of the box as line of sight; s^2 is the product of the edges of the bin.

    Raises:
        DataError: velocities, the redshift or omega_m are not stored.
    """
    return csr_array(_SQUARED * (_multipoles(clouds)[:, 0] - expected_pairs(clouds)))


def redshift_space_quadrupole(clouds: PointClouds) -> csr_array:
    """s^2 sum over pairs of 5 L_2(mu) of each box, shape (n, 16), which over RR is s^2 xi_2(s) in (Mpc/h)^2.

    xi_l = (2 l + 1) / 2 * integral of xi(s, mu) L_l(mu) dmu, mu the cosine between the separation and the line of sight (Hamilton,
    "Measuring Omega and the real correlation function from the redshift correlation function", ApJL 385 (1992) L5). As RR does not
    depend on mu the integral is a sum over pairs, without bins in mu. Axes and s^2 as of the monopole.

    Raises:
        DataError: velocities, the redshift or omega_m are not stored.
    """
    return csr_array(_SQUARED * _multipoles(clouds)[:, 1])


@remembered
def _pairs(clouds: PointClouds) -> Floats:
    """Number of pairs and sum of their radial velocities, the latter 0 where velocities are not stored, shape (n, 2, 16)."""
    found = np.zeros((len(clouds), 2, _BINS))
    place = positions(clouds)
    moving = set(VELOCITY) <= set(clouds.schema.point_names)
    motion = velocities(clouds) if moving else np.zeros_like(place)
    for row, (size, (x, v)) in zip(found, per_box(clouds, place, motion), strict=True):
        first, second, apart, distance, bins = _close_pairs(x, size)
        row[0] = np.bincount(bins, minlength=_BINS)
        if moving:
            radial = ((v[first] - v[second]) * apart).sum(axis=1) / distance
            row[1] = np.bincount(bins, radial, minlength=_BINS)
    return found


@remembered
def _multipoles(clouds: PointClouds) -> Floats:
    """Sums over pairs in redshift space of 1 and of 5 L_2(mu), mean over three lines of sight, shape (n, 2, 16)."""
    found = np.zeros((len(clouds), 2, _BINS))
    for axis in range(3):
        for row, (size, (x,)) in zip(found, per_box(clouds, distortion(clouds, axis)), strict=True):
            _, _, apart, distance, bins = _close_pairs(x, size)
            row[0] += np.bincount(bins, minlength=_BINS) / 3
            row[1] += np.bincount(bins, 2.5 * (3 * (apart[:, axis] / distance) ** 2 - 1), minlength=_BINS) / 3
    return found


def _close_pairs(
    x: Floats, size: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats, npt.NDArray[np.int64]]:
    """Both halos of each pair of a box, their separation (p, 3), its length (p,) and the bin it is in; each pair once."""
    last = np.searchsorted(SEPARATION_EDGES, size / 2, side="right") - 1
    if last < 1:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros((0, 3)), np.zeros(0), nothing
    first, second = cKDTree(x, boxsize=size).query_pairs(SEPARATION_EDGES[last], output_type="ndarray").T
    apart = x[first] - x[second]
    apart -= size * np.round(apart / size)
    distance = np.linalg.norm(apart, axis=1)
    bins = np.searchsorted(SEPARATION_EDGES, distance, side="right") - 1
    inside = (bins >= 0) & (bins < last)
    return first[inside], second[inside], apart[inside], distance[inside], bins[inside]
