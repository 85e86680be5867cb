"""Energy-flow polynomials: Komiske, Metodiev, Thaler, "Energy flow polynomials", arXiv 1712.07124.

    EFP_G = sum_{i_1} ... sum_{i_N} ptrel_{i_1} ... ptrel_{i_N} prod_{edges (k, l) of G} R_{i_k i_l}

for a multigraph G of N vertices, with R_ij the distance in etarel and phirel: a linear basis of the infrared and
collinear safe observables. Momenta are not divided by their sum. This is what the JetNet library computes (Kansal et
al., arXiv 2106.11535), with the EnergyFlow package.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.physics.jets.constituents import columns

__all__ = ["flow_polynomial_graphs", "flow_polynomials", "prime_columns"]

Floats = npt.NDArray[np.float64]

# Jets that EnergyFlow has in memory together.
_BLOCK = 2_000


def flow_polynomials(clouds: PointClouds, degree: int = 4) -> Floats:
    """All energy-flow polynomials of at most so many edges of each jet, shape (n, p), p = 36 for degree 4.

    Args:
        degree: largest number of edges, up to 10.

    Raises:
        DataError: the columns do not determine the relative coordinates (see :meth:`PointClouds.relative`), or ``degree``
            is out of range.
    """
    if not 0 <= degree <= 10:
        raise DataError(f"flow polynomials: degree is {degree}; expected one from 0 to 10")
    points = np.stack(columns(clouds, "ptrel", "etarel", "phirel"), axis=1)
    bounds = clouds.offsets[np.append(np.arange(0, len(clouds), _BLOCK), len(clouds))]
    blocks = [points[start:stop] for start, stop in itertools.pairwise(bounds)]
    counts = [clouds.counts[start : start + _BLOCK] for start in range(0, len(clouds), _BLOCK)]
    none = np.zeros((0, len(_polynomials(degree).specs)))
    return np.concatenate([none, *map(_values, blocks, counts, [degree] * len(blocks))])


def prime_columns(vertices: int = 4, edges: int = 4, degree: int = 4) -> npt.NDArray[np.int64]:
    """The columns of :func:`flow_polynomials` whose graphs are connected and have so many vertices and edges.

    The default is the five behind W1EFP of the JetNet library.

    >>> flow_polynomial_graphs()[prime_columns()[-1]]
    '0-1 0-2 1-3 2-3'
    """
    chosen = _polynomials(degree).sel(("n==", vertices), ("d==", edges), ("p==", 1))
    return np.flatnonzero(chosen)


def flow_polynomial_graphs(degree: int = 4) -> tuple[str, ...]:
    """The edges of the graph of each column of :func:`flow_polynomials`; none for that of one vertex, the sum of ptrel.

    >>> flow_polynomial_graphs(2)
    ('', '0-1', '0-1 0-1', '0-1 0-2', '0-1 2-3')
    """
    return tuple(" ".join(f"{a}-{b}" for a, b in graph) for graph in _polynomials(degree).graphs())


@functools.lru_cache
def _polynomials(degree: int) -> Any:
    try:
        import energyflow
    except ImportError as error:
        raise PcdiffError(
            "energy-flow polynomials need the package 'energyflow', which is not installed: it has no wheels for Python 3.13 and later, "
            "use 3.11 or 3.12"
        ) from error
    return energyflow.EFPSet(("d<=", degree), measure="hadr", beta=1, normed=None, coords="ptyphim")


def _values(points: Floats, counts: npt.NDArray[np.int64], degree: int) -> Floats:
    """Of one block of jets: (m, p) from the flat ptrel, etarel and phirel of their constituents."""
    events = np.split(points, np.cumsum(counts)[:-1])
    # EnergyFlow drops the axis of jets when there is one.
    return np.reshape(_polynomials(degree).batch_compute(events, n_jobs=1), (len(counts), -1))
