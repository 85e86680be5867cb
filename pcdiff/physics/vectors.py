"""Observables of plain vectors in the plane, all pure numbers, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.physics.observable import Observable

__all__ = ["OBSERVABLES", "PLANES", "radius", "x", "y"]


def x(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """The first coordinate of each point, shape (P,)."""
    return clouds.column("x").astype(np.float64)


def y(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """The second coordinate of each point, shape (P,)."""
    return clouds.column("y").astype(np.float64)


def radius(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Distance of each point from the origin, sqrt(x^2 + y^2), shape (P,)."""
    return np.hypot(x(clouds), y(clouds))


OBSERVABLES = (
    Observable("x", "coordinate x", "point", x, "$x$"),
    Observable("y", "coordinate y", "point", y, "$y$"),
    Observable("radius", "radius", "point", radius, r"radius $\sqrt{x^2 + y^2}$"),
)

PLANES = ((OBSERVABLES[0], OBSERVABLES[1]),)
