r"""Toy distributions in the plane, on which a sampler or a loss shows in a minute what it does.

A toy is a map from two uniform numbers u on [0, 1) and two standard normal numbers z, all independent, to one point (x, y). Its
scale is of order one. Those that are Gaussian mixtures,

    p(x) = sum_k w_k N(x; m_k, C_k),

are stated as data in :data:`MIXTURES`, so their score is known in closed form at every noise level. The others are curves with
a little Gaussian noise, whose moments are stated with their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.schema import vector_schema
from pcdiff.seeds import Purpose, stream

__all__ = ["CURVE_NOISE", "MIXTURES", "TOYS", "Mixture", "spiral", "swiss_roll", "toy"]

Floats = npt.NDArray[np.float64]

CURVE_NOISE = 0.05
"""Standard deviation of the Gaussian noise that is added to each coordinate of a curve."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians in the plane.

    Attributes:
        weights: w_k, positive, of sum 1; shape (K,).
        means: m_k; shape (K, 2).
        covariances: C_k; shape (K, 2, 2).
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, float], ...]
    covariances: tuple[tuple[tuple[float, float], tuple[float, float]], ...]

    def __call__(self, u: Floats, z: Floats) -> Floats:
        """Points (n, 2): component k is chosen by the first number of u, and x = m_k + L_k z with L_k L_k^T = C_k.

        Args:
            u: uniform on [0, 1), shape (n, 2).
            z: standard normal, shape (n, 2).
        """
        component = np.searchsorted(np.cumsum(self.weights)[:-1], u[:, 0], side="right")
        factors = np.linalg.cholesky(np.array(self.covariances))
        points: Floats = np.array(self.means)[component] + np.einsum("nij,nj->ni", factors[component], z)
        return points


def _isotropic(std: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The covariance of a Gaussian of this standard deviation in every direction."""
    return ((std**2, 0.0), (0.0, std**2))


def _ring(modes: int, std: float) -> Mixture:
    """Equal round Gaussians on a circle of the radius that gives the mixture the unit matrix as its covariance.

    For three modes or more the covariance is (radius^2 / 2 + std^2) times the unit matrix.
    """
    radius = math.sqrt(2 * (1 - std**2))
    angles = [2 * math.pi * k / modes for k in range(modes)]
    return Mixture(
        weights=(1 / modes,) * modes,
        means=tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles),
        covariances=(_isotropic(std),) * modes,
    )


MIXTURES: Mapping[str, Mixture] = {
    # Mean 0, unit variances, correlation 0.8.
    "gaussian": Mixture((1.0,), ((0.0, 0.0),), (((1.0, 0.8), (0.8, 1.0)),)),
    # Of unequal weight, so that modes of the wrong weight show; mean 0, unit variances, correlation 0.96.
    "two-gaussians": Mixture((0.4, 0.6), ((-1.2, -1.2), (0.8, 0.8)), (_isotropic(0.2),) * 2),
    # Mean 0, unit variances, no correlation.
    "eight-gaussians": _ring(8, 0.15),
}
"""The toys that are Gaussian mixtures, by name."""


def spiral(u: Floats, z: Floats) -> Floats:
    r"""Two arms of an Archimedean spiral of one and a half turns, each the other turned by half a turn.

    With r = 2 sqrt(u_1), whose density is r / 2 on [0, 2), a sign s = -1 or 1 from u_2, and k = 3 pi / 2,

        (x, y) = s r (cos k r, sin k r) + 0.05 z.

    The mean is 0, and beside the variance 0.05^2 of the noise

        E x^2 = 1 + 1 / (3 pi^2),    E y^2 = 1 - 1 / (3 pi^2),    E x y = 1 / (9 pi^3) - 2 / (3 pi).

    Args:
        u: uniform on [0, 1), shape (n, 2).
        z: standard normal, shape (n, 2).
    """
    r = 2 * np.sqrt(u[:, 0])
    sign = np.where(u[:, 1] < 0.5, -1.0, 1.0)
    angle = 1.5 * np.pi * r
    curve = (sign * r)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points: Floats = curve + CURVE_NOISE * z
    return points


def swiss_roll(u: Floats, z: Floats) -> Floats:
    r"""The cross-section of the Swiss roll: one and a half turns of an Archimedean spiral that begins away from the centre.

    With t = 3 pi / 2 (1 + 2 u_1), as scikit-learn's ``make_swiss_roll`` has it (Marsland, "Machine Learning: An Algorithmic
    Perspective", 2nd edition, 2014, chapter 6), and shrunk to order one,

        (x, y) = t (cos t, sin t) / 7 + 0.05 z.

    The means are E x = 2 / 7 and E y = 2 / (21 pi), and beside the variance 0.05^2 of the noise

        49 E x^2 = 39 pi^2 / 8 - 1 / 4,    49 E y^2 = 39 pi^2 / 8 + 1 / 4,    49 E x y = 3 pi / 2.

    Args:
        u: uniform on [0, 1), shape (n, 2).
        z: standard normal, shape (n, 2).
    """
    t = 1.5 * np.pi * (1 + 2 * u[:, 0])
    curve = t[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1) / 7
    points: Floats = curve + CURVE_NOISE * z
    return points


TOYS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "gaussian": MIXTURES["gaussian"],
    "two-gaussians": MIXTURES["two-gaussians"],
    "spiral": spiral,
    "swiss-roll": swiss_roll,
    "eight-gaussians": MIXTURES["eight-gaussians"],
}
"""Each toy by name: ``toy(u, z)`` maps uniform and standard normal numbers, both (n, 2), to points (n, 2)."""


def toy(name: str, n: int, seed: int = 0) -> PointClouds:
    """Draw points of a toy distribution, as clouds of one point with the features x and y, float32.

    The first points are the same however many are asked for: uniform and normal numbers have a stream each, which is
    filled point by point. One seed gives all toys the same such numbers.

    Args:
        name: a key of :data:`TOYS`.
        n: number of points.
        seed: other seeds give independent points.

    Raises:
        DataError: there is no such toy, or n or the seed is out of range.

    >>> toy("spiral", 3, seed=1)
    <PointClouds vectors: 3 clouds, 3 points; points (x, y), clouds ()>
    """
    if name not in TOYS:
        raise DataError(f"make toy: no shape {name!r}: {suggest(name, TOYS)}")
    for key, value, least in (("n", n, 1), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"make toy: {key} is {value}; expected a whole number from {least}")
    u = np.random.default_rng(stream(seed, Purpose.TOY, 0)).random((n, 2))
    z = np.random.default_rng(stream(seed, Purpose.TOY, 1)).standard_normal((n, 2))
    x, y = TOYS[name](u, z).astype(np.float32).T
    return PointClouds.from_flat(
        {"x": np.ascontiguousarray(x), "y": np.ascontiguousarray(y)},
        np.arange(n + 1),
        {},
        vector_schema(("x", "y")),
        {"recipe": "pcdiff.data.toy", "shape": name, "count": n, "seed": seed},
    )
