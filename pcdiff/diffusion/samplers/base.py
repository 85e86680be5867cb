"""What the samplers share: the levels of a grid, the start, and fresh noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import DenoiserLike, Prediction
from pcdiff.diffusion.schedule import Level

__all__ = ["Callback", "Draw", "Levels", "at_step", "drawer", "predict"]

Callback = Callable[[int, Tensor, Tensor, Prediction], None]
"""Called as ``callback(step, t, x_t, prediction)`` after the evaluation at the start of each step, for looking on."""

Draw = Callable[[], Tensor]
"""Gives fresh standard normal noise of shape (B, N, F) at each call."""


def drawer(like: Tensor, generator: torch.Generator) -> Draw:
    """Fresh noise of the shape, dtype and device of a tensor, from a generator on the CPU."""

    def draw() -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    return draw


def predict(
    denoiser: DenoiserLike,
    x: Tensor,
    t: Tensor,
    mask: Tensor,
    cond: Tensor,
    callback: Callback | None = None,
    step: int = 0,
) -> Prediction:
    """The prediction for clouds that all stand at one time, shown to the callback of a step."""
    prediction = denoiser(x, t.to(x.dtype).to(x.device).expand(x.shape[0]), mask, cond)
    if callback is not None:
        callback(step, t, x, prediction)
    return prediction


def at_step(callback: Callback | None, first: int) -> Callback | None:
    """The callback of a part of a grid that begins at step ``first``, where there is one."""
    if callback is None:
        return None
    return lambda i, t, x, prediction: callback(first + i, t, x, prediction)


@dataclass(frozen=True)
class Levels:
    """The noise levels along a grid, as Python numbers in double precision.

    Attributes:
        t: the grid, shape (steps + 1,).
        alpha, sigma: at each time.
        lam: log(alpha / sigma), half the log-SNR, strictly rising.
    """

    t: Tensor
    alpha: list[float]
    sigma: list[float]
    lam: list[float]

    @classmethod
    def of(cls, denoiser: DenoiserLike, grid: Tensor | Levels) -> Levels:
        """Of a grid of strictly falling times; levels stay as they are.

        Raises:
            ValueError: it does not fall, or has no step.
        """
        if isinstance(grid, Levels):
            return grid
        if grid.ndim != 1 or len(grid) < 2 or bool((grid.diff() >= 0).any()):
            raise ValueError("the time grid must hold at least two strictly falling times")
        with torch.no_grad():
            alpha, sigma = denoiser.schedule.alpha(grid).double(), denoiser.schedule.sigma(grid).double()
        return cls(grid, alpha.tolist(), sigma.tolist(), torch.log(alpha / sigma).tolist())

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    def start(self, noise: Tensor, mask: Tensor) -> Tensor:
        """Clouds at the first time: there data of unit variance have variance alpha^2 + sigma^2, not sigma^2."""
        return noise * mask[..., None] * math.hypot(self.alpha[0], self.sigma[0])

    def at(self, denoiser: DenoiserLike, step: int) -> Level:
        """The level with its derivatives, as scalars in double precision."""
        t, schedule = self.t[step].double(), denoiser.schedule
        with torch.no_grad():
            return Level(schedule.alpha(t), schedule.sigma(t), schedule.d_alpha(t), schedule.d_sigma(t))
