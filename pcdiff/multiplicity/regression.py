r"""The number of points as a regression: for clouds whose features are a design, such as the universes of a hypercube.

With x the standardised cloud features,

    log n = m(x) + s(x) z,        z ~ N(0, 1),        m and log s polynomials,

fitted by maximum likelihood; the degree of m is that of least error on parts of the data that were left out. Where a flow must learn
p(number of points, features) from a thousand rows, a regression has some ten numbers to find. The features themselves are drawn as rows of
the training data.

The model can be asked for the number of points of given features, exactly: p(n | x) is the probability of the cell of n,

    p(n | x) = Phi((log(n + 1/2) - m) / s) - Phi((log(n - 1/2) - m) / s),        from n = 1, whose cell begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from pcdiff.multiplicity.base import Draw, quiet
from pcdiff.multiplicity.empirical import EmpiricalMultiplicity
from pcdiff.seeds import Purpose, stream

__all__ = ["RegressionMultiplicity"]

Floats = npt.NDArray[np.float64]

_MOST_DEGREE, _SCALE_DEGREE, _FOLDS = 5, 2, 5
_ITERATIONS = 200


class RegressionMultiplicity(EmpiricalMultiplicity):
    """See the head of this module; features are those of an empirical model.

    Args:
        features: number K of cloud features.
        types: number of types, each of which has a regression of its own.
    """

    conditional = True

    centre: Tensor
    width: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, types: int) -> None:
        super().__init__(features)
        self.register_buffer("centre", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("width", torch.ones(features, dtype=torch.float64))
        # Coefficients of the monomials of m and log s, which are numbered by degree.
        self.register_buffer("mean", torch.zeros(types, 1, dtype=torch.float64))
        self.register_buffer("scale", torch.zeros(types, 1, dtype=torch.float64))

    def fit(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        seed: int,
        progress: Callable[[], None] = quiet,
    ) -> None:
        rng = np.random.default_rng(stream(seed, Purpose.MULTIPLICITY))
        self.keep(counts, features, types, rng)
        values = features.astype(np.float64)
        self.centre = torch.from_numpy(values.mean(axis=0))
        self.width = torch.from_numpy(np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0))
        x, y = self._standardised(values), np.log(counts)
        degree = max(_best_degree(x[types == kind], y[types == kind], rng) for kind in np.unique(types))
        terms = [_monomials(x[:1], d).shape[1] for d in (degree, _SCALE_DEGREE)]
        mean, scale = (np.zeros((len(self.mean), size)) for size in terms)
        for kind in np.unique(types):
            mean[kind], scale[kind] = _fitted(x[types == kind], y[types == kind], degree)
            progress()
        self.mean, self.scale = torch.from_numpy(mean), torch.from_numpy(scale)

    def _standardised(self, features: npt.NDArray[Any]) -> Floats:
        found: Floats = (np.asarray(features, np.float64) - self.centre.numpy()) / self.width.numpy()
        return found

    def _law(self, features: npt.NDArray[Any], types: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """m and s of each cloud, shape (n,)."""
        x = self._standardised(features)
        mean, scale = (
            np.einsum("np,np->n", _monomials(x, _degree(self.features, table.shape[1])), table.numpy()[types])
            for table in (self.mean, self.scale)
        )
        return mean, np.exp(scale)

    def draw(
        self, normals: npt.NDArray[Any], types: npt.NDArray[np.int64], given: Mapping[int, float] | None = None
    ) -> Draw:
        # The first normal is the scatter of n; the next one chooses the row.
        unit = special.ndtr(normals[:, 1]) if self.features else np.zeros(len(normals))
        features = self.row(unit, types)[:, 1:]
        for column, value in (given or {}).items():
            features[:, column] = value
        mean, scale = self._law(features, types)
        counts = np.rint(np.exp(mean + scale * normals[:, 0])).astype(np.int64)
        return np.maximum(counts, 1), features

    def log_count(
        self, counts: npt.NDArray[np.int64], features: npt.NDArray[Any], types: npt.NDArray[np.int64]
    ) -> Floats:
        """See :meth:`pcdiff.multiplicity.Multiplicity.log_count`; of every number from 1."""
        mean, scale = self._law(features, types)
        with np.errstate(divide="ignore"):
            high, low = ((np.log(np.where(counts + h > 0.5, counts + h, 0.0)) - mean) / scale for h in (0.5, -0.5))
        # In the tail in which the difference of two logarithms is exact.
        flip = low > 0
        a, b = np.where(flip, -high, low), np.where(flip, -low, high)
        top, bottom = special.log_ndtr(b), special.log_ndtr(a)
        found: Floats = top + np.log1p(-np.exp(bottom - top))
        return found


def _powers(features: int, degree: int) -> list[tuple[int, ...]]:
    """The factors of each monomial, by degree."""
    return [term for d in range(degree + 1) for term in combinations_with_replacement(range(features), d)]


def _degree(features: int, terms: int) -> int:
    """The degree that has so many monomials."""
    return next(degree for degree in range(terms) if len(_powers(features, degree)) >= terms) if features else 0


def _monomials(x: Floats, degree: int) -> Floats:
    """Shape (n, terms)."""
    return np.stack([x[:, list(term)].prod(axis=1) for term in _powers(x.shape[1], degree)], axis=1)


def _fitted(x: Floats, y: Floats, degree: int) -> tuple[Floats, Floats]:
    """The coefficients of greatest likelihood, of m and of log s."""
    terms, scale_terms = (torch.from_numpy(_monomials(x, d)) for d in (degree, _SCALE_DEGREE))
    target = torch.from_numpy(y)
    start, *_ = np.linalg.lstsq(terms.numpy(), y, rcond=None)
    spread = float(np.std(y - terms.numpy() @ start)) or 1e-3
    mean = torch.from_numpy(start).requires_grad_()
    scale = torch.zeros(scale_terms.shape[1], dtype=torch.float64)
    scale[0] = np.log(max(spread, 1e-3))
    scale.requires_grad_()
    optimiser = torch.optim.LBFGS([mean, scale], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        # Below a thousandth of n there is no scatter that whole numbers would show.
        log_s = (scale_terms @ scale).clamp(min=np.log(1e-3))
        value: Tensor = (log_s + ((target - terms @ mean) / log_s.exp()).square() / 2).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return mean.detach().numpy(), scale.detach().numpy()


def _best_degree(x: Floats, y: Floats, rng: np.random.Generator) -> int:
    """The degree whose least-squares fit has the least error on parts that were left out."""
    part = rng.integers(0, _FOLDS, len(y))
    errors = {}
    for degree in range(_MOST_DEGREE + 1):
        terms = _monomials(x, degree)
        if terms.shape[1] > len(y) / 4:
            break
        left = [
            y[part == k] - terms[part == k] @ np.linalg.lstsq(terms[part != k], y[part != k], rcond=None)[0]
            for k in range(_FOLDS)
        ]
        errors[degree] = float(np.mean(np.concatenate(left) ** 2))
    return min(errors, key=errors.__getitem__)
