r"""The probability-flow ODE by general-purpose methods.

    dx/dt = velocity(x, t) = alpha' E[x0 | x] + sigma' E[eps | x]

(arXiv 2011.13456). In y = x / alpha and s = sigma / alpha, the noise of Elucidating the Design Space (arXiv 2206.00364), it is

    dy/ds = E[eps | x].

Euler's method steps in t: x' = x + (t' - t) velocity (in s it would be DDIM). Heun's method steps in s, with the trapezoid of the slopes at
both ends; EDM's stochastic sampler first raises the noise of each step from s to s (1 + gamma) by fresh noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

from pcdiff.diffusion.denoiser import DenoiserLike
from pcdiff.diffusion.samplers.base import Callback, Draw, Levels, predict

__all__ = ["edm_churn", "euler", "heun", "rk45"]


def euler(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method in t, of order 1; one evaluation a step. Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`."""
    levels = Levels.of(denoiser, grid)
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        prediction = predict(denoiser, x, levels.t[i], mask, cond, callback, i)
        x = x + float(levels.t[i + 1] - levels.t[i]) * prediction.velocity
    return x


def heun(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method in sigma / alpha, of order 2 (arXiv 2206.00364, algorithm 1); two evaluations a step.

    Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`.
    """
    return _heun(denoiser, noise, grid, mask, cond, lambda s, x, t: (s, x, t), callback)


def edm_churn(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    churn: float = 40.0,
    inflation: float = 1.003,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """EDM's stochastic sampler (arXiv 2206.00364, algorithm 2); two evaluations a step.

    Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`, and

    Args:
        churn: the paper's S_churn: each step of N first raises the noise by the factor 1 + min(churn / N, sqrt(2) - 1).
        inflation: the paper's S_noise: standard deviation of the fresh noise.
    """
    factor = 1 + min(churn / Levels.of(denoiser, grid).steps, math.sqrt(2) - 1)
    schedule = denoiser.schedule
    largest = math.exp(-_number(schedule.log_snr, torch.tensor(schedule.t_max, dtype=torch.float64)) / 2)

    def raise_noise(s: float, x: Tensor, t: Tensor) -> tuple[float, Tensor, Tensor]:
        higher = min(s * factor, largest)
        # At t_max rounding alone would draw noise.
        if higher <= s * (1 + 1e-9):
            return s, x, t
        fresh = math.sqrt(higher**2 - s**2) * inflation * draw() * mask[..., None]
        there = schedule.time(torch.tensor(-2 * math.log(higher), dtype=torch.float64))
        before, after = (_number(schedule.alpha, time) for time in (t, there))
        return higher, after * (x / before + fresh), there

    return _heun(denoiser, noise, grid, mask, cond, raise_noise, callback)


def _heun(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    prepare: Callable[[float, Tensor, Tensor], tuple[float, Tensor, Tensor]],
    callback: Callback | None,
) -> Tensor:
    """Heun's method, each step from where ``prepare`` puts its s, x and t."""
    levels = Levels.of(denoiser, grid)
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        s, x, t = prepare(levels.sigma[i] / levels.alpha[i], x, levels.t[i])
        prediction = predict(denoiser, x, t, mask, cond, callback, i)
        y = x / _number(denoiser.schedule.alpha, t)
        slope = _slope(prediction.x0, y, s)
        alpha, s_next = levels.alpha[i + 1], levels.sigma[i + 1] / levels.alpha[i + 1]
        y_next = y + (s_next - s) * slope
        end = predict(denoiser, alpha * y_next, levels.t[i + 1], mask, cond)
        x = alpha * (y + (s_next - s) / 2 * (slope + _slope(end.x0, y_next, s_next)))
    return x


def _number(function: Callable[[Tensor], Tensor], t: Tensor) -> float:
    """What a schedule says of one time; of a learned one without its gradient."""
    with torch.no_grad():
        return float(function(t))


def _slope(x0: Tensor, y: Tensor, s: float) -> Tensor:
    """dy/ds, the expected noise; from x0, which also a Poisson flow predicts at the schedule's own sigma."""
    return (y - x0) / s


def rk45(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    tolerance: float = 1e-5,
    callback: Callback | None = None,
) -> Tensor:
    """The adaptive Runge-Kutta method of Dormand and Prince, order 5(4), by torchdiffeq; as many evaluations as it needs.

    Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`, but that all of the grid but its two ends only sets where the
    callback looks. All clouds of a batch share one step size, so a cloud depends on the others to within the tolerance.

    Args:
        tolerance: relative and absolute, of a step.
    """
    levels, schedule = Levels.of(denoiser, grid), denoiser.schedule

    def slope(lam: Tensor, x: Tensor) -> Tensor:
        t = schedule.time(2 * lam)
        return predict(denoiser, x, t, mask, cond).velocity * 2 / _number(schedule.d_log_snr, t)

    start = levels.start(noise, mask)
    # In log(alpha / sigma), for the method looks beyond the last time, where t may not be defined.
    lam = torch.tensor(levels.lam, dtype=torch.float64, device=start.device)
    xs: Tensor = odeint(
        slope, start, lam if callback is not None else lam[[0, -1]], rtol=tolerance, atol=tolerance, method="dopri5"
    )
    if callback is not None:
        for i in range(levels.steps):
            predict(denoiser, xs[i], levels.t[i], mask, cond, callback, i)
    return xs[-1]
