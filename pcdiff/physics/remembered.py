"""Results that are kept as long as the clouds they are of, since several observables come out of one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds

__all__ = ["remembered"]

Floats = npt.NDArray[np.float64]


def remembered(function: Callable[[PointClouds], Floats]) -> Callable[[PointClouds], Floats]:
    """A function whose result is kept, read-only, as long as its clouds."""
    results: WeakKeyDictionary[PointClouds, Floats] = WeakKeyDictionary()

    @functools.wraps(function)
    def lookup(clouds: PointClouds) -> Floats:
        if clouds not in results:
            found = function(clouds)
            found.flags.writeable = False
            results[clouds] = found
        return results[clouds]

    return lookup
