"""The number of points and the cloud features as rows of the training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from pcdiff.multiplicity.base import KNOTS, ROWS, Draw, Multiplicity, quiet
from pcdiff.seeds import Purpose, stream

__all__ = ["EmpiricalMultiplicity"]


class EmpiricalMultiplicity(Multiplicity):
    """Draws whole rows (number of points, cloud features) from those of the training clouds of the same type."""

    rows: Tensor
    row_types: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("rows", torch.zeros(1, 1 + features, dtype=torch.float64))
        self.register_buffer("row_types", torch.zeros(1, dtype=torch.int64))

    def fit(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        seed: int,
        progress: Callable[[], None] = quiet,
    ) -> None:
        self.keep(counts, features, types, np.random.default_rng(stream(seed, Purpose.MULTIPLICITY)))
        progress()

    def keep(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        """Take rows to draw from."""
        # Of each type by itself, so that a rare one keeps its rows.
        order = np.concatenate([rng.permutation(np.flatnonzero(types == kind))[:ROWS] for kind in np.unique(types)])
        self.rows = torch.from_numpy(np.column_stack([counts[order], features[order]]).astype(np.float64))
        self.row_types = torch.from_numpy(types[order])

    def row(self, unit: npt.NDArray[np.float64], types: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """A row of each type for uniform numbers, shape (n, 1 + K)."""
        row_types = self.row_types.numpy()
        first = np.searchsorted(row_types, types, side="left")
        last = np.searchsorted(row_types, types, side="right")
        found: npt.NDArray[np.float64] = self.rows.numpy()[
            np.minimum(first + (unit * (last - first)).astype(np.int64), last - 1)
        ]
        return found

    def draw(
        self,
        normals: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        given: Mapping[int, float] | None = None,  # noqa: ARG002
    ) -> Draw:
        rows = self.row(special.ndtr(normals[:, 0]), types)
        return rows[:, 0].astype(np.int64), rows[:, 1:]

    def quantiles(self, column: int) -> npt.NDArray[np.float64]:
        values = self.rows.numpy()[:, column]
        found: npt.NDArray[np.float64] = np.quantile(values, np.linspace(0, 1, KNOTS))
        return np.rint(found) if np.all(values == np.rint(values)) else found

    def log_count(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],  # noqa: ARG002
        types: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """Of the marginal p(number of points | type), the fraction of the type's rows: the features are not used."""
        rows, row_types = self.rows.numpy()[:, 0].astype(np.int64), self.row_types.numpy()
        out = np.full(len(counts), -np.inf)
        for kind in np.unique(types):
            repeats = np.bincount(rows[row_types == kind], minlength=int(counts.max()) + 1)
            with np.errstate(divide="ignore"):
                out[types == kind] = np.log(repeats[counts[types == kind]] / max(1, repeats.sum()))
        return out
