"""Constituents as all observables of a jet's shape take them, and how to go through many jets in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds

__all__ = ["columns", "fractions", "numbers", "owners", "pieces", "ratio", "relative"]

Floats = npt.NDArray[np.float64]

# Angles and momentum fractions are of order one: what is smaller than this is the rounding of a zero.
_ROUNDING = 1e-12


def relative(clouds: PointClouds) -> ak.Array:
    """The constituents relative to their jets, records (etarel, phirel, ptrel) of float64.

    Raises:
        DataError: the columns do not determine them; see :meth:`PointClouds.relative`.
    """
    return ak.values_astype(clouds.relative(), np.float64)


def columns(clouds: PointClouds, *names: str) -> list[Floats]:
    """Some of etarel, phirel and ptrel of all constituents, flat, each of shape (P,)."""
    found = relative(clouds)
    return [numbers(found[name]) for name in names]


def fractions(clouds: PointClouds) -> ak.Array:
    """z_i = ptrel_i / sum_j ptrel_j of each constituent of each jet; all zero in a jet without momentum."""
    momenta = relative(clouds).ptrel
    total = ak.sum(momenta, axis=1)
    return momenta / ak.where(total > 0, total, 1.0)


def numbers(array: ak.Array) -> Floats:
    """The numbers of an array, of depth 1, or of depth 2 and then flat."""
    return np.asarray(ak.to_numpy(ak.flatten(array, axis=1) if array.ndim > 1 else array), np.float64)


def owners(array: ak.Array) -> npt.NDArray[np.int64]:
    """The number of the list that each item of an array of lists belongs to."""
    return np.repeat(np.arange(len(array)), ak.to_numpy(ak.num(array, axis=1)))


def ratio(numerator: Floats, denominator: Floats, power: int = 1) -> Floats:
    """numerator / denominator^power; 0 where the denominator is 0 up to rounding, as in jets of few constituents."""
    known = denominator > _ROUNDING
    return np.where(known, numerator / np.where(known, denominator, 1.0) ** power, 0.0)


def pieces(sizes: npt.NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Consecutive ranges of lists that hold, but for the last list of each, at most ``limit`` items together.

    Args:
        sizes: number of items of each list, shape (n,).

    >>> list(pieces(np.array([2, 2, 3, 1]), 4))
    [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None)]
    """
    starts = np.flatnonzero(np.diff(np.cumsum(sizes) // limit)) + 1
    bounds = [0, *starts.tolist(), len(sizes)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start:
            yield slice(start, stop)
