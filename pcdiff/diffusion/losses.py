r"""The denoising objective, of which most others are weights.

    ``L = E_t,x0,eps [ w(t) |F(x_t, t) - F*|^2 ],        F* = (alpha eps - sigma x0) / r``

(Denoising Diffusion Probabilistic Models, arXiv 2006.11239.) With the weight ``epsilon`` it is the error of the noise, with ``flow-matching`` that
of the velocity, with ``likelihood`` the variational bound, and so on: see :mod:`pcdiff.diffusion.weights`. Its minimum is the expected x0
given x_t, that is the score of p(x_t), by the identity of denoising score matching (Vincent 2011; arXiv 1907.05600).

The square is averaged over the valid entries of each cloud by itself, so a large cloud counts as much as a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser, DenoiserLike, Prediction
from pcdiff.diffusion.poisson import student_scale
from pcdiff.diffusion.samplers.base import Levels
from pcdiff.diffusion.samplers.exponential import follow
from pcdiff.diffusion.schedule import Level
from pcdiff.diffusion.weights import WEIGHTS

__all__ = ["denoising_loss", "noised", "pair_loss", "passing", "per_cloud", "trajectory_loss"]


def per_cloud(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the valid entries of each cloud: shapes (B, N, F) and (B, N) to (B,)."""
    return (values * mask[..., None]).sum((1, 2)) / (mask.sum(1) * values.shape[2])


def noised(denoiser: DenoiserLike, x0: Tensor, mask: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = alpha x0 + sigma noise, zero where the mask is false; shape (B, N, F)."""
    return _mixed(denoiser.schedule.level(t), x0, mask, noise)


def _mixed(level: Level, x0: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    return (level.alpha * x0 + level.sigma * noise) * mask[..., None]


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    t: Tensor,
    noise: Tensor,
    weight: str = "epsilon",
    unit: Tensor | None = None,
) -> Tensor:
    """The loss of each cloud, shape (B,).

    Args:
        denoiser: what is trained.
        x0: clean clouds, shape (B, N, F), unit variance, zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        t: times, shape (B,).
        noise: standard normal, shape (B, N, F).
        weight: a key of :data:`pcdiff.diffusion.weights.WEIGHTS`.
        unit: a uniform a cloud, shape (B,), from which a Poisson flow makes its noise of the normal one; needed there only.
    """
    if denoiser.dimension is not None:
        if unit is None:
            raise ValueError("a Poisson flow draws one uniform a cloud: give unit")
        noise = noise * student_scale(unit, denoiser.dimension)[:, None, None]
    given = denoiser.schedule.level(t)
    x_t = _mixed(given, x0, mask, noise)
    prediction: Prediction = denoiser(x_t, t, mask, cond)
    # That of the schedule, but for a Poisson flow, whose sigma follows the length of the noise.
    level = prediction.level
    eps = noise * (given.sigma / level.sigma)
    target = (level.alpha * eps - level.sigma * x0) / level.r
    if denoiser.heads:
        # What eps is short of changes F by r / alpha as much.
        target = target + level.r / level.alpha * (denoiser.known_noise(eps, level) - eps)
    error = (prediction.output - target).square()
    if weight == "output":
        error = error * denoiser.output_scale(level, error.shape[2])
    return per_cloud(WEIGHTS[weight](level) * error, mask)


def pair_loss(denoiser: DenoiserLike, noise: Tensor, solution: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
    """The squared error of one-step generation, of each cloud, shape (B,): :func:`trajectory_loss` with a single step.

    From the noise z at t_max one step of DDIM goes to t_min; it is trained on the ends of trajectories that another denoiser's ODE has
    solved.

    Flow Straight and Fast (arXiv 2209.03003); Knowledge Distillation in Iterative Generative Models (arXiv 2101.02388);
    Diffusion-Model-Assisted Supervised Learning (arXiv 2310.14458).

    Args:
        denoiser: what is trained.
        noise: standard normal, shape (B, N, F): where the trajectories began.
        solution: where they ended, shape (B, N, F).
        mask: shape (B, N).
        cond: shape (B, C).
    """
    schedule = denoiser.schedule
    grid = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
    start = Levels.of(denoiser, grid).start(noise, mask)
    return trajectory_loss(denoiser, [start, solution], grid, mask, cond)


def trajectory_loss(
    denoiser: DenoiserLike, states: Sequence[Tensor], grid: Tensor, mask: Tensor, cond: Tensor
) -> Tensor:
    """How far a few steps of DDIM pass from a trajectory of another denoiser's ODE, of each cloud, shape (B,): that of :func:`passing`."""
    return passing(denoiser, states, grid, mask, cond)[0]


def passing(
    denoiser: DenoiserLike, states: Sequence[Tensor], grid: Tensor, mask: Tensor, cond: Tensor
) -> tuple[Tensor, Tensor]:
    r"""A few steps of DDIM beside a trajectory of another denoiser's ODE.

    With r = sqrt(alpha^2 + sigma^2) a step of order 1 is linear in the preconditioned output F,

        x' = (alpha alpha' + sigma sigma') x / r^2 - (sigma alpha' - alpha sigma') F / r,

    in a variance-preserving schedule a rotation by the angle between the two levels, so one F lands exactly on the trajectory's next state
    and the net learns it by regression. The loss is the mean over the steps of |x' - x(t')|^2 / r'^2.

    Each step begins where the step before it landed, as in sampling, and gradients flow through all of them.

    Args:
        denoiser: what is trained.
        states: the trajectory at the times of the grid, each of shape (B, N, F), zero where the mask is false.
        grid: strictly falling times, shape (steps + 1,), float64.
        mask: shape (B, N).
        cond: shape (B, C).

    Returns:
        The loss of each cloud, shape (B,), and where the last step landed, shape (B, N, F).
    """
    x = states[0]
    total = x.new_zeros(len(x))
    for k, target in enumerate(states[1:]):
        levels = Levels.of(denoiser, grid[k : k + 2])
        x = follow(denoiser, x, levels, mask, cond, order=1)
        r = math.hypot(levels.alpha[-1], levels.sigma[-1])
        total = total + per_cloud(((x - target) / r).square(), mask)
    return total / (len(states) - 1), x
