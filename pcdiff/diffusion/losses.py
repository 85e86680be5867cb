r"""The denoising objective, of which most others are weights.

    ``L = E_t,x0,eps [ w(t) |F(x_t, t) - F*|^2 ],        F* = (alpha eps - sigma x0) / r``

(Denoising Diffusion Probabilistic Models, arXiv 2006.11239.) With the weight ``epsilon`` it is the error of the noise, with ``flow-matching`` that
of the velocity, with ``likelihood`` the variational bound, and so on: see :mod:`pcdiff.diffusion.weights`. Its minimum is the expected x0
given x_t, that is the score of p(x_t), by the identity of denoising score matching (Vincent 2011; arXiv 1907.05600).

The square is averaged over the valid entries of each cloud by itself, so a large cloud counts as much as a small one.
"""

from __future__ import annotations

from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser, DenoiserLike, Prediction
from pcdiff.diffusion.poisson import student_scale
from pcdiff.diffusion.schedule import Level
from pcdiff.diffusion.weights import WEIGHTS

__all__ = ["denoising_loss", "noised", "pair_loss", "per_cloud"]


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
    return per_cloud(WEIGHTS[weight](level) * (prediction.output - target).square(), mask)


def pair_loss(denoiser: DenoiserLike, noise: Tensor, solution: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
    """The squared error of one-step generation, of each cloud, shape (B,).

    From the noise z at t_max the denoiser's x0 is taken as the generated cloud, so that ``ddim`` with a single step is the
    one-step sampler; it is trained on the ends of trajectories that another denoiser's ODE has solved.

    Flow Straight and Fast (arXiv 2209.03003); Diffusion-Model-Assisted Supervised Learning (arXiv 2310.14458).

    Args:
        denoiser: what is trained.
        noise: standard normal, shape (B, N, F): where the trajectories began.
        solution: where they ended, shape (B, N, F).
        mask: shape (B, N).
        cond: shape (B, C).
    """
    t = noise.new_full((len(noise),), denoiser.schedule.t_max)
    start = denoiser.schedule.level(t).r * noise * mask[..., None]
    return per_cloud((denoiser(start, t, mask, cond).x0 - solution).square(), mask)
