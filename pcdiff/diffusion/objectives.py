r"""Objectives without a clean target: score matching by its divergence, and Action Matching.

**Implicit score matching** (Hyvarinen 2005) needs no knowledge of the score s of p(x_t), only samples of it: up to a constant,

    E |s_hat - s|^2 = E [ |s_hat|^2 + 2 div s_hat ].

**Sliced** (arXiv 1905.07088): div s_hat = E_v [v^T (ds_hat/dx) v] for random v. Here s_hat = -eps_hat / sigma and all is times sigma^2, so that each level counts as in the
epsilon loss of denoising,

    sigma^2 (|s_hat|^2 + 2 div s_hat) = |eps_hat|^2 - 2 sigma div eps_hat,

whose expectation is that of |eps_hat - E[eps | x_t]|^2 less E |E[eps | x_t]|^2. Both need second derivatives of the net.

**Action Matching** (arXiv 2210.06662) finds the scalar S(x, u) whose gradient moves samples along p_u, from samples at each u alone:

    L = E_u0 S - E_u1 S + int_u0^u1 E [ |grad S|^2 / 2 + dS/du ] du  =  int E |grad S - v|^2 / 2 du + constant.

The time is u = log(sigma / alpha) = -log_snr / 2, in which the flow of a denoiser is

    dx/du = (r' / r)(alpha sigma / d) x + (alpha sigma / r) F,        d = alpha sigma' - sigma alpha',

so with F = grad phi at y = x / r, as :class:`~pcdiff.diffusion.denoiser.Potential` gives it, the action is

    S = (r' / r)(alpha sigma / d) |x|^2 / 2 + alpha sigma phi(x / r),

and what was trained so is an ordinary denoiser. In a variance-preserving schedule alpha sigma is small at both ends, where nothing is to be learned of S; where alpha is 1, as in EDM's, S
grows with the noise and the loss is noisy: take the former.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcdiff.diffusion.denoiser import Denoiser, Potential
from pcdiff.diffusion.divergence import divergence
from pcdiff.diffusion.losses import noised, per_cloud
from pcdiff.diffusion.schedule import Level

__all__ = ["action", "action_loss", "score_matching_loss"]


def score_matching_loss(
    denoiser: Denoiser,
    x0: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    t: Tensor,
    noise: Tensor,
    vectors: Tensor | None = None,
) -> Tensor:
    """Implicit or sliced score matching of the noised clouds, of each cloud, shape (B,).

    Args:
        denoiser: what is trained.
        x0: clean clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        t: times, shape (B,).
        noise: standard normal, shape (B, N, F).
        vectors: random projections, shape (B, N, F), see :func:`pcdiff.diffusion.divergence.probe`; the divergence is exact,
            at a cost that grows with the number of entries, when absent.
    """
    if denoiser.dimension is not None:
        raise ValueError("score matching knows Gaussian noise only, not that of a Poisson flow")
    x_t = noised(denoiser, x0, mask, t, noise)
    sigma = denoiser.schedule.sigma(t)
    eps, div = divergence(lambda x: denoiser(x, t, mask, cond).eps, x_t, mask, vectors, create_graph=True)
    entries = mask.sum(1) * x0.shape[2]
    return per_cloud(eps.square(), mask) - 2 * sigma * div / entries


def action(denoiser: Denoiser, x: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
    """S(x, u) of each cloud, shape (B,).

    Args:
        denoiser: whose net is a :class:`~pcdiff.diffusion.denoiser.Potential`.
        x: clouds at the times t, shape (B, N, F), zero where the mask is false.
        t: shape (B,).
        mask: shape (B, N).
        cond: shape (B, C).
    """
    if not isinstance(denoiser.net, Potential):
        raise TypeError("Action Matching needs a denoiser whose net is a Potential")
    level = denoiser.schedule.level(t)
    phi = denoiser.net.phi(x / level.r, level.log_snr.flatten(), mask, cond)
    return _pull(level).flatten() * x.square().sum((1, 2)) / 2 + (level.alpha * level.sigma).flatten() * phi


def _pull(level: Level) -> Tensor:
    """(r' / r)(alpha sigma / d)."""
    d_log_r = (level.alpha * level.d_alpha + level.sigma * level.d_sigma) / level.r**2
    return d_log_r * level.alpha * level.sigma / (level.alpha * level.d_sigma - level.sigma * level.d_alpha)


def action_loss(denoiser: Denoiser, x0: Tensor, mask: Tensor, cond: Tensor, *, unit: Tensor, noise: Tensor) -> Tensor:
    """Action Matching, of each cloud, shape (B,), in units of an entry.

    Args:
        denoiser: whose net is a :class:`~pcdiff.diffusion.denoiser.Potential`.
        x0: clean clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        unit: where the integral is evaluated, between 0 at the data and 1 at the noise, even in u; shape (B,).
        noise: standard normal, shape (B, N, F).
    """
    schedule = denoiser.schedule
    t_min, t_max = (torch.full_like(unit, t) for t in (schedule.t_min, schedule.t_max))
    high, low = schedule.log_snr(t_min), schedule.log_snr(t_max)
    t = schedule.time(high + (low - high) * unit).clamp(schedule.t_min, schedule.t_max)
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        t = t.detach().requires_grad_()
        # x must not move with t: dS/du is a partial derivative.
        x = noised(denoiser, x0, mask, t.detach(), noise).requires_grad_()
        value = action(denoiser, x, t, mask, cond)
        grad_x, grad_t = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
        per_u = grad_t / (-schedule.d_log_snr(t.detach()) / 2)
        inside = (high - low) / 2 * (grad_x.square().sum((1, 2)) / 2 + per_u)
        ends = [action(denoiser, noised(denoiser, x0, mask, end, noise), end, mask, cond) for end in (t_min, t_max)]
        return (ends[0] - ends[1] + inside) / (mask.sum(1) * x0.shape[2])
