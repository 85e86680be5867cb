"""Fixed bins that each cloud fills, as a sparse row a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

__all__ = ["filled"]

Floats = npt.NDArray[np.float64]


def filled(
    owners: npt.NDArray[np.int64],
    clouds: int,
    variables: Sequence[npt.NDArray[Any]],
    edges: Sequence[Floats],
    weights: Floats,
) -> csr_array:
    """Contents of all b bins for each cloud, shape (clouds, b); those of the last variable run fastest.

    A bin holds its lower edge and not its upper one. Entries outside the edges are left out.

    Args:
        owners: the number of the cloud that each entry belongs to, shape (e,).
        clouds: number of clouds.
        variables: where each entry falls, one array (e,) a variable.
        edges: bin edges, rising, one array a variable.
        weights: what each entry adds to its bin, shape (e,).

    >>> filled(np.array([0, 0, 1]), 2, [np.array([0.5, 1.5, 7.0])], [np.arange(3.0)], np.ones(3)).toarray().tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    place = np.zeros(len(owners), np.int64)
    inside = np.ones(len(owners), bool)
    for values, of_variable in zip(variables, edges, strict=True):
        count = len(of_variable) - 1
        where = np.searchsorted(of_variable, values, side="right") - 1
        inside &= (where >= 0) & (where < count)
        place = place * count + where
    shape = (clouds, int(np.prod([len(of_variable) - 1 for of_variable in edges])))
    return coo_array((weights[inside], (owners[inside], place[inside])), shape=shape).tocsr()
