"""Halo catalogues of known clustering: clusters of halos, normally distributed about centres that are uniform in the box.

Of M clusters of m halos each, N = M m in a periodic box of volume V = L^3, with normal spread s along each axis, two halos of a cluster have
the separation density (4 pi s^2)^(-3/2) exp(-r^2 / 4 s^2), and halos of different clusters a uniform one. As N is fixed,

    1 + xi(r) = ((M - 1) m + V (m - 1) (4 pi s^2)^(-3/2) exp(-r^2 / 4 s^2)) / (N - 1)
    P(k)      = V (m - 1) / (N - 1) exp(-k^2 s^2)

(Thomas, Biometrika 36 (1949) 18; Neyman and Scott, ApJ 116 (1952) 144.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.schema import POSITION, VELOCITY, halo_schema


@dataclass(frozen=True)
class Thomas:
    clusters: int = 40
    members: int = 8
    spread: float = 3.0
    size: float = 125.0

    @property
    def halos(self) -> int:
        return self.clusters * self.members

    def draw(self, boxes: int, seed: int) -> PointClouds:
        """Velocities are normal with 200 km/s, masses exponential in log10 from 10^13.33."""
        rng = np.random.default_rng(seed)
        centres = rng.uniform(0, self.size, (boxes, self.clusters, 1, 3))
        offsets = rng.normal(0, self.spread, (boxes, self.clusters, self.members, 3))
        points = np.mod(centres + offsets, self.size).reshape(-1, 3)
        columns = dict(zip(POSITION, points.T, strict=True))
        columns |= dict(zip(VELOCITY, rng.normal(0, 200, points.shape).T, strict=True))
        columns["log10_mass"] = 13.33 + rng.exponential(0.35, len(points))
        return catalogues(columns, np.full(boxes, self.halos), self.size)

    def correlation(self, r):
        near = (4 * np.pi * self.spread**2) ** -1.5 * np.exp(-(r**2) / (4 * self.spread**2))
        same = self.size**3 * (self.members - 1) * near
        return ((self.clusters - 1) * self.members + same) / (self.halos - 1) - 1

    def power(self, k):
        return self.size**3 * (self.members - 1) / (self.halos - 1) * np.exp(-((k * self.spread) ** 2))


def catalogues(columns, counts, size=125.0, redshift=0.0, omega_m=0.3) -> PointClouds:
    """Boxes of one size and universe from flat columns."""
    boxes = len(counts)
    features = {
        "box_size": np.full(boxes, size),
        "redshift": np.full(boxes, redshift),
        "omega_m": np.full(boxes, omega_m),
        "sigma_8": np.full(boxes, 0.8),
    }
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PointClouds.from_flat(columns, offsets, features, halo_schema(list(columns), list(features)))
