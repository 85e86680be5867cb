r"""The number of points and the cloud features as a flow: p(number of points, cloud features | type).

Both are drawn jointly. Each marginal is first mapped to a standard normal through its own quantiles, u = F(x), z = Phi^-1(u):
a number of points, being discrete, is de-quantised within its step of F, so that sharp edges and pile-ups (a cut at 800
GeV, all jets of more than 30 constituents kept at 30) are met exactly and the flow has only the dependence to learn. The
flow is a neural spline flow (arXiv 1906.04032) from zuko or RealNVP (arXiv 1605.08803), conditioned on the type.

A model maps standard normals to values, so the same noise gives the same clouds whatever the batching.

The likelihood of a cloud needs p(number of points n | features f, type). With z_0 the normal score of the number of
points, z_f those of the features, C(n) the fraction of clouds with at most n points, and p the flow's density for the
type,

    p(n | f) = int_cell(n) p(z_0, z_f) dz_0 / int p(z_0, z_f) dz_0,        cell(n) = (Phi^-1(C(n-1)), Phi^-1(C(n))),

where the Jacobian of f -> z_f cancels. Both integrals use one Gauss-Legendre rule on panels that end at every cell's
edge, so that the p(n | f) of all n sum to one. A number of points that the training data did not have has an empty
cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor, nn

from pcdiff.config import MultiplicityConfig
from pcdiff.errors import ConfigError
from pcdiff.flows import RealNVP, fit_flow, invert_flow
from pcdiff.multiplicity.base import KNOTS, Draw, Multiplicity, quiet
from pcdiff.seeds import Purpose, stream

__all__ = ["FlowMultiplicity"]

# Uniforms are kept this far from 0 and 1, where the normal quantile is infinite.
_EDGE = 1e-6
# The integrals over the normal score of the number of points: between these bounds, beyond which lies 2e-9 of a normal,
# in panels of at most this width and with this many nodes each. The density has kinks, those of its networks and
# splines, which the rule must resolve: in fitted splines p(n | f) was right to 1e-4, at some milliseconds a cloud.
_BOUND, _PANEL, _NODES = 6.0, 1 / 16, 6
# Densities that are computed at a time: their hidden layers stay in the cache.
_CHUNK = 1 << 14


class _Marginal(nn.Module):
    """The map between one continuous column and standard normals, through its quantiles."""

    knots: Tensor
    whole: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(KNOTS, dtype=torch.float64))
        # Whether all values were whole numbers: then those between them are none.
        self.register_buffer("whole", torch.zeros((), dtype=torch.bool))

    def fit(self, values: npt.NDArray[Any]) -> None:
        self.whole.fill_(bool(np.all(values == np.rint(values))))
        self.knots.copy_(torch.from_numpy(np.quantile(values.astype(np.float64), np.linspace(0, 1, KNOTS))))

    def forward(self, values: npt.NDArray[Any], unit: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        knots = self.knots.numpy()
        levels = np.linspace(0, 1, KNOTS)
        # Where the quantile function is flat (repeated values), any level of the flat part will do: draw one.
        low = np.interp(values, knots, levels)
        left = levels[np.searchsorted(knots, values, side="left").clip(0, KNOTS - 1)]
        right = levels[(np.searchsorted(knots, values, side="right") - 1).clip(0, KNOTS - 1)]
        spread = np.where(right > left, left + (right - left) * unit, low)
        return np.asarray(special.ndtri(np.clip(spread, _EDGE, 1 - _EDGE)))

    def inverse(self, normals: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        values = np.interp(special.ndtr(normals), np.linspace(0, 1, KNOTS), self.knots.numpy())
        return np.rint(values) if self.whole else values


class _Counts(nn.Module):
    """The map between the number of points and standard normals, de-quantised within the steps of its distribution."""

    cumulative: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Entry k is the fraction of clouds with at most k points; stored whole, whatever its length.
        self.register_buffer("cumulative", torch.ones(1, dtype=torch.float64))

    def fit(self, counts: npt.NDArray[np.int64]) -> None:
        self.cumulative = torch.from_numpy(np.cumsum(np.bincount(counts)) / len(counts))
        self.cumulative[-1] = 1.0

    def forward(self, counts: npt.NDArray[np.int64], unit: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        steps = np.concatenate([[0.0], self.cumulative.numpy()])
        level = steps[counts] + unit * (steps[counts + 1] - steps[counts])
        return np.asarray(special.ndtri(np.clip(level, _EDGE, 1 - _EDGE)))

    def inverse(self, normals: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        level: npt.NDArray[np.float64] = np.asarray(special.ndtr(normals))
        found = np.searchsorted(self.cumulative.numpy(), level, side="right")
        return np.minimum(found, len(self.cumulative) - 1).astype(np.int64)


class FlowMultiplicity(Multiplicity):
    """A flow over normal scores of (number of points, cloud features), conditioned on the type.

    Raises:
        ConfigError: affine coupling is asked for, and there are no cloud features to couple the number of points with.
    """

    def __init__(self, config: MultiplicityConfig, features: int, types: int) -> None:
        super().__init__()
        from zuko.flows import NSF

        if config.coupling == "affine" and features == 0:
            raise ConfigError(
                "multiplicity.coupling: affine couples the number of points with cloud features, and there are none; "
                "expected spline"
            )
        self.config = config
        self.features = features
        self.types = types
        self.counts = _Counts()
        self.marginals: list[_Marginal] = []
        for k in range(features):
            self.marginals.append(_Marginal())
            self.add_module(f"marginal_{k}", self.marginals[k])
        context = types if types > 1 else 0
        if config.coupling == "affine":
            # Normal scores have unit scale by themselves.
            self.flow = RealNVP(1 + features, context, layers=config.layers, hidden=config.hidden).flow
        else:
            hidden = (config.hidden, config.hidden)
            self.flow = NSF(1 + features, context, transforms=config.layers, hidden_features=hidden)

    def _context(self, types: npt.NDArray[np.int64]) -> Tensor | None:
        if self.types < 2:
            return None
        return torch.nn.functional.one_hot(torch.from_numpy(types), self.types).float()

    def fit(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        seed: int,
        progress: Callable[[], None] = quiet,
    ) -> None:
        self.counts.fit(counts)
        for k, marginal in enumerate(self.marginals):
            marginal.fit(features[:, k])
        rng = np.random.default_rng(stream(seed, Purpose.MULTIPLICITY))
        batch = min(1024, len(counts))

        def draw_batch() -> tuple[Tensor, Tensor | None]:
            index = rng.integers(0, len(counts), batch)
            z = torch.from_numpy(self._normals(counts[index], features[index], rng)).float()
            return z, self._context(types[index])

        fit_flow(self.flow, draw_batch, self.config.steps, self.config.lr, progress)

    def _normals(
        self, counts: npt.NDArray[np.int64], features: npt.NDArray[Any], rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        columns = [self.counts.forward(counts, rng.random(len(counts)))]
        columns += [
            marginal.forward(features[:, k], rng.random(len(counts))) for k, marginal in enumerate(self.marginals)
        ]
        return np.stack(columns, axis=1)

    @torch.inference_mode()
    def draw(
        self,
        normals: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        given: Mapping[int, float] | None = None,  # noqa: ARG002
    ) -> Draw:
        noise = torch.from_numpy(np.asarray(normals, np.float32))
        z = invert_flow(self.flow, noise, self._context(types)).numpy().astype(np.float64)
        features = [marginal.inverse(z[:, 1 + k]) for k, marginal in enumerate(self.marginals)]
        counts = np.maximum(self.counts.inverse(z[:, 0]), 1)
        return counts, np.stack(features, axis=1) if features else np.zeros((len(counts), 0))

    def quantiles(self, column: int) -> npt.NDArray[np.float64]:
        scores = special.ndtri(np.linspace(0, 1, KNOTS))
        found = self.marginals[column - 1].inverse(scores) if column else self.counts.inverse(scores)
        return found.astype(np.float64)

    @torch.no_grad()
    def log_count(
        self, counts: npt.NDArray[np.int64], features: npt.NDArray[Any], types: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """See :meth:`Multiplicity.log_count`; features beyond those of the training data count as the last of them.

        A repeated value, whose normal scores fill an interval, is taken at its middle.
        """
        nodes, weights = self._rule()
        at = torch.from_numpy(np.maximum(self.counts.inverse(nodes), 1))
        z_0, log_w = torch.from_numpy(nodes).float(), torch.from_numpy(weights).log()
        middle = np.full(len(counts), 0.5)
        columns = [marginal.forward(features[:, k], middle) for k, marginal in enumerate(self.marginals)]
        z_f = torch.from_numpy(np.reshape(columns, (self.features, len(counts))).T).float()
        context, wanted = self._context(types), torch.from_numpy(counts)
        out = np.empty(len(counts))
        size = max(1, _CHUNK // len(nodes))
        for first in range(0, len(counts), size):
            rows = slice(first, first + size)
            shape = (len(z_f[rows]), len(nodes), -1)
            z = torch.cat([z_0[:, None].expand(shape), z_f[rows, None].expand(shape)], dim=-1)
            density = self.flow(None if context is None else context[rows, None].expand(shape))
            log_p = density.log_prob(z).double() + log_w
            inside = log_p.masked_fill(at != wanted[rows, None], -torch.inf)
            out[rows] = (inside.logsumexp(dim=1) - log_p.logsumexp(dim=1)).numpy()
        return out

    def _rule(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Nodes and weights, shape (m,), of the integrals over z_0: no panel crosses a cell's edge."""
        even = np.linspace(-_BOUND, _BOUND, round(2 * _BOUND / _PANEL) + 1)
        cells = special.ndtri(self.counts.cumulative.numpy()).clip(-_BOUND, _BOUND)
        edges = np.union1d(even, cells)
        middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        x, w = special.roots_legendre(_NODES)
        return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()
