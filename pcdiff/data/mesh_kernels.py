"""Particles to mesh and back, compiled by numba: cloud in cell (Hockney and Eastwood, "Computer Simulation Using Particles", 1981)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["assign", "interpolate"]

Singles = npt.NDArray[np.float32]


@numba.njit(inline="always")
def _cell(position: Any, cells: int) -> Any:
    """The cell below a position in units of cells, the one above across the border, and the weight of the one above."""
    below = int(np.floor(position))
    above = position - below
    below %= cells
    return below, (below + 1) % cells, above


@numba.njit(cache=True, fastmath=True)
def assign(x: Singles, scale: float, density: Singles) -> None:
    """Overwrite a mesh (m, m, m) with the number of particles in each cell, each shared among the eight next to it.

    Args:
        x: positions, shape (P, 3).
        scale: cells in a unit of length.
        density: is overwritten.
    """
    cells = density.shape[0]
    density[:] = 0
    for i in range(x.shape[0]):
        a, b, u = _cell(x[i, 0] * scale, cells)
        c, d, v = _cell(x[i, 1] * scale, cells)
        e, f, w = _cell(x[i, 2] * scale, cells)
        density[a, c, e] += (1 - u) * (1 - v) * (1 - w)
        density[a, c, f] += (1 - u) * (1 - v) * w
        density[a, d, e] += (1 - u) * v * (1 - w)
        density[a, d, f] += (1 - u) * v * w
        density[b, c, e] += u * (1 - v) * (1 - w)
        density[b, c, f] += u * (1 - v) * w
        density[b, d, e] += u * v * (1 - w)
        density[b, d, f] += u * v * w


@numba.njit(cache=True, fastmath=True)
def interpolate(x: Singles, scale: float, force: Singles, factor: float, p: Singles) -> None:
    """Add to each particle what a field on the mesh is at its place.

    Args:
        x: positions, shape (P, 3).
        scale: cells in a unit of length.
        force: the field, shape (3, m, m, m).
        factor: is multiplied with it.
        p: is added to, shape (P, 3).
    """
    cells = force.shape[1]
    for i in range(x.shape[0]):
        a, b, u = _cell(x[i, 0] * scale, cells)
        c, d, v = _cell(x[i, 1] * scale, cells)
        e, f, w = _cell(x[i, 2] * scale, cells)
        for axis in range(3):
            field = force[axis]
            low = (1 - v) * ((1 - w) * field[a, c, e] + w * field[a, c, f]) + v * (
                (1 - w) * field[a, d, e] + w * field[a, d, f]
            )
            high = (1 - v) * ((1 - w) * field[b, c, e] + w * field[b, c, f]) + v * (
                (1 - w) * field[b, d, e] + w * field[b, d, f]
            )
            p[i, axis] += factor * ((1 - u) * low + u * high)
