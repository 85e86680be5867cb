r"""DDIM and its multistep form: exponential integrators of the probability-flow ODE.

With m(x_t, t) = E[x0 | x_t] and lambda = log(alpha / sigma) = log_snr / 2, the ODE is linear apart from m, and from lambda to
lambda' = lambda + h it is solved exactly by

    x' = (sigma' / sigma) x + sigma' int_lambda^lambda' e^l m(x_l, l) dl.

Order 1 holds m constant over the step, which is DDIM (arXiv 2010.02502):

    x' = (sigma' / sigma) x - alpha' (e^-h - 1) D,        D = m.

Order 2 extrapolates m linearly from the step before, of length h_before, which is DPM-Solver++(2M) (arXiv 2211.01095):

    D = m + (m - m_before) / (2 r),        r = h_before / h.

Both cost one evaluation of the net a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser, Prediction

__all__ = ["Callback", "ddim"]

Callback = Callable[[int, Tensor, Tensor, Prediction], None]
"""Called as ``callback(step, t, x_t, prediction)`` after each evaluation, for looking on."""


def ddim(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int = 2,
    callback: Callback | None = None,
) -> Tensor:
    """Clouds from noise along the probability-flow ODE.

    Args:
        denoiser: the model.
        noise: standard normal, shape (B, N, F); entries where the mask is false are ignored.
        grid: strictly falling times, shape (steps + 1,), float64.
        mask: shape (B, N).
        cond: shape (B, C).
        order: 1 (DDIM) or 2 (DPM-Solver++(2M); its first step is of order 1, having none before it).
        callback: sees every intermediate.

    Returns:
        Clouds at the last time of the grid, shape (B, N, F), zero where the mask is false.
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}; expected 1 or 2")
    if grid.ndim != 1 or len(grid) < 2 or bool((grid.diff() >= 0).any()):
        raise ValueError("the time grid must hold at least two strictly falling times")
    alpha, sigma = denoiser.schedule.alpha(grid), denoiser.schedule.sigma(grid)
    lam = torch.log(alpha / sigma)
    h = lam.diff()
    # The prior at the first time has variance alpha^2 + sigma^2 for unit-variance data, not sigma^2.
    x = noise * mask[..., None] * float((alpha[0] ** 2 + sigma[0] ** 2).sqrt())
    before: Tensor | None = None
    for i in range(len(grid) - 1):
        t = grid[i].to(x.dtype).to(x.device).expand(len(x))
        prediction = denoiser(x, t, mask, cond)
        if callback is not None:
            callback(i, grid[i], x, prediction)
        m = d = prediction.x0
        if order == 2 and before is not None:
            d = m + (m - before) * float(h[i] / (2 * h[i - 1]))
        x = float(sigma[i + 1] / sigma[i]) * x - float(alpha[i + 1] * torch.expm1(-h[i])) * d
        before = m
    return x
