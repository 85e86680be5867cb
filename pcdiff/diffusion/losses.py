r"""The denoising objective.

    ``L = E_t,x0,eps [ w(t) |eps - eps_hat(x_t, t)|^2 ]``

(Denoising Diffusion Probabilistic Models, arXiv 2006.11239.) In the preconditioned form of :mod:`pcdiff.diffusion.denoiser` the error of the noise
is that of the net's output F times alpha / r, so with weight ``epsilon`` (w = 1) the loss is ``(alpha / r)^2 |F - F*|^2`` and with weight
``velocity`` (w = (r / alpha)^2) it is ``|F - F*|^2``, both finite at each t.

The square is averaged over the valid entries of each cloud by itself, so a large cloud counts as much as a small one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser, Prediction
from pcdiff.diffusion.schedule import Schedule

__all__ = ["denoising_loss", "draw_times"]


def draw_times(
    schedule: Schedule, count: int, kind: Literal["uniform", "low-discrepancy"], generator: torch.Generator
) -> Tensor:
    """Times for a batch, uniform over [t_min, t_max]; shape (count,), float32.

    ``low-discrepancy`` shifts an even comb by one random number: (u + i / count) mod 1, which lowers the variance of the batch's mean
    (Variational Diffusion Models, arXiv 2107.00630, appendix I.1).
    """
    if kind == "uniform":
        unit = torch.rand(count, generator=generator)
    else:
        unit = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    return schedule.t_min + (schedule.t_max - schedule.t_min) * unit


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    t: Tensor,
    noise: Tensor,
    weight: Literal["epsilon", "velocity"] = "epsilon",
) -> Tensor:
    """The loss of each cloud, shape (B,).

    Args:
        denoiser: what is trained.
        x0: clean clouds, shape (B, N, F), unit variance, zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        t: times, shape (B,).
        noise: standard normal, shape (B, N, F).
        weight: see the head of this module.
    """
    valid = mask[..., None]
    noise = noise * valid
    alpha = denoiser.schedule.alpha(t)[:, None, None]
    sigma = denoiser.schedule.sigma(t)[:, None, None]
    r = (alpha**2 + sigma**2).sqrt()
    prediction: Prediction = denoiser(alpha * x0 + sigma * noise, t, mask, cond)
    error = prediction.output - (alpha * noise - sigma * x0) / r
    if weight == "epsilon":
        error = error * (alpha / r)
    entries = mask.sum(1) * x0.shape[2]
    return (error.square() * valid).sum((1, 2)) / entries
