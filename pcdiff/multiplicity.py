r"""How many points a cloud has, and its features: p(number of points, cloud features | type).

The flow draws them jointly. Each marginal is first mapped to a standard normal through its own quantiles, u = F(x), z = Phi^-1(u):
a number of points, being discrete, is de-quantised within its step of F, so that sharp edges and pile-ups (a cut at 800
GeV, all jets of more than 30 constituents kept at 30) are met exactly and the flow has only the dependence to learn. The
flow is a neural spline flow (arXiv 1906.04032) from zuko, conditioned on the type.

A model maps standard normals to values, so the same noise gives the same clouds whatever the batching.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor, nn

from pcdiff.config import MultiplicityConfig
from pcdiff.seeds import Purpose, stream

__all__ = ["Draw", "EmpiricalMultiplicity", "FlowMultiplicity", "Multiplicity", "build_multiplicity"]

# Knots of a stored quantile function.
_KNOTS = 1025
# Most rows of a type in the empirical model: more add megabytes to the generator and nothing that can be seen.
_ROWS = 20_000
# Uniforms are kept this far from 0 and 1, where the normal quantile is infinite.
_EDGE = 1e-6

Draw = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Number of points (n,) and cloud features (n, K) in physical units."""


def _quiet() -> None:
    """No progress to show."""


class Multiplicity(nn.Module, ABC):
    """A model of (number of points, K cloud features | type); its tensors are stored with the generator.

    ``draw`` takes ``normals`` of shape (n, 1 + K) and type positions (n,).
    """

    features: int

    @abstractmethod
    def fit(
        self,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[Any],
        types: npt.NDArray[np.int64],
        seed: int,
        progress: Callable[[], None] = _quiet,
    ) -> None:
        """Learn from clouds: ``counts`` (n,), ``features`` (n, K), ``types`` (n,); ``progress`` is called at each step."""

    @abstractmethod
    def draw(self, normals: npt.NDArray[Any], types: npt.NDArray[np.int64]) -> Draw:
        """Values for standard normal noise."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take stored tensors; tables are as long as the data they were fitted to, so their shapes come from the file."""
        for name, buffer in list(self.named_buffers()):
            if name in tensors and tensors[name].ndim == buffer.ndim:
                owner, _, attribute = name.rpartition(".")
                setattr(self.get_submodule(owner), attribute, tensors[name].clone())
        self.load_state_dict(dict(tensors))


def build_multiplicity(config: MultiplicityConfig, features: int, types: int) -> Multiplicity:
    """The model that a config names, for K ``features`` and that many ``types``."""
    if config.kind == "flow":
        return FlowMultiplicity(config, features, types)
    return EmpiricalMultiplicity(features)


class _Marginal(nn.Module):
    """The map between one continuous column and standard normals, through its quantiles."""

    knots: Tensor
    whole: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(_KNOTS, dtype=torch.float64))
        # Whether all values were whole numbers: then those between them are none.
        self.register_buffer("whole", torch.zeros((), dtype=torch.bool))

    def fit(self, values: npt.NDArray[Any]) -> None:
        self.whole.fill_(bool(np.all(values == np.rint(values))))
        self.knots.copy_(torch.from_numpy(np.quantile(values.astype(np.float64), np.linspace(0, 1, _KNOTS))))

    def forward(self, values: npt.NDArray[Any], unit: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        knots = self.knots.numpy()
        levels = np.linspace(0, 1, _KNOTS)
        # Where the quantile function is flat (repeated values), any level of the flat part will do: draw one.
        low = np.interp(values, knots, levels)
        left = levels[np.searchsorted(knots, values, side="left").clip(0, _KNOTS - 1)]
        right = levels[(np.searchsorted(knots, values, side="right") - 1).clip(0, _KNOTS - 1)]
        spread = np.where(right > left, left + (right - left) * unit, low)
        return np.asarray(special.ndtri(np.clip(spread, _EDGE, 1 - _EDGE)))

    def inverse(self, normals: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        values = np.interp(special.ndtr(normals), np.linspace(0, 1, _KNOTS), self.knots.numpy())
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
    """A neural spline flow over normal scores of (number of points, cloud features), conditioned on the type."""

    def __init__(self, config: MultiplicityConfig, features: int, types: int) -> None:
        super().__init__()
        from zuko.flows import NSF

        self.config = config
        self.features = features
        self.types = types
        self.counts = _Counts()
        self.marginals: list[_Marginal] = []
        for k in range(features):
            self.marginals.append(_Marginal())
            self.add_module(f"marginal_{k}", self.marginals[k])
        self.flow = NSF(
            features=1 + features,
            context=types if types > 1 else 0,
            transforms=config.layers,
            hidden_features=(config.hidden, config.hidden),
        )

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
        progress: Callable[[], None] = _quiet,
    ) -> None:
        self.counts.fit(counts)
        for k, marginal in enumerate(self.marginals):
            marginal.fit(features[:, k])
        rng = np.random.default_rng(stream(seed, Purpose.MULTIPLICITY))
        optimiser = torch.optim.Adam(self.flow.parameters(), lr=self.config.lr)
        steps, batch = self.config.steps, min(1024, len(counts))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        )
        for _ in range(steps):
            index = rng.integers(0, len(counts), batch)
            z = torch.from_numpy(self._normals(counts[index], features[index], rng)).float()
            loss = -self.flow(self._context(types[index])).log_prob(z).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            progress()

    def _normals(
        self, counts: npt.NDArray[np.int64], features: npt.NDArray[Any], rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        columns = [self.counts.forward(counts, rng.random(len(counts)))]
        columns += [
            marginal.forward(features[:, k], rng.random(len(counts))) for k, marginal in enumerate(self.marginals)
        ]
        return np.stack(columns, axis=1)

    @torch.no_grad()
    def draw(self, normals: npt.NDArray[Any], types: npt.NDArray[np.int64]) -> Draw:
        noise = torch.from_numpy(np.asarray(normals, np.float32))
        z = self.flow(self._context(types)).transform.inv(noise).numpy().astype(np.float64)
        features = [marginal.inverse(z[:, 1 + k]) for k, marginal in enumerate(self.marginals)]
        counts = np.maximum(self.counts.inverse(z[:, 0]), 1)
        return counts, np.stack(features, axis=1) if features else np.zeros((len(counts), 0))


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
        progress: Callable[[], None] = _quiet,
    ) -> None:
        rng = np.random.default_rng(stream(seed, Purpose.MULTIPLICITY))
        # Of each type by itself, so that a rare one keeps its rows.
        order = np.concatenate([rng.permutation(np.flatnonzero(types == kind))[:_ROWS] for kind in np.unique(types)])
        self.rows = torch.from_numpy(np.column_stack([counts[order], features[order]]).astype(np.float64))
        self.row_types = torch.from_numpy(types[order])
        progress()

    def draw(self, normals: npt.NDArray[Any], types: npt.NDArray[np.int64]) -> Draw:
        sorted_types = self.row_types.numpy()
        first = np.searchsorted(sorted_types, types, side="left")
        last = np.searchsorted(sorted_types, types, side="right")
        unit = special.ndtr(normals[:, 0])
        index = np.minimum(first + (unit * (last - first)).astype(np.int64), last - 1)
        rows = self.rows.numpy()[index]
        return rows[:, 0].astype(np.int64), rows[:, 1:]
