r"""Exponential integrators: DDIM, DPM-Solver++, UniPC, and their stochastic forms, from one formula.

With m(x_t, t) = E[x0 | x_t] and lambda = log(alpha / sigma) = log_snr / 2, the reverse process of strength tau,

    dx = [f x - (1 + tau^2) / 2 g^2 score] dt + tau g dw,

has the same marginals for each tau >= 0; tau = 0 is the probability-flow ODE, tau = 1 the reverse diffusion. It is linear apart from m,
and with c = 1 + tau^2 a step from lambda to lambda' = lambda + h is solved exactly by

    x' = (sigma' / sigma) e^{-tau^2 h} x + alpha' c int_lambda^lambda' e^{c (l - lambda')} m(l) dl + sigma' sqrt(1 - e^{-2 tau^2 h}) z

(SA-Solver, arXiv 2309.05704). What remains is to know m along the step: through the values at p times passes one polynomial of degree
p - 1, with Lagrange's basis L_j, so that the integral becomes sum_j w_j m_j,

    w_j = c int_lambda^lambda' e^{c (l - lambda')} L_j(l) dl,

of order p. Known methods are cases of it:

    tau  times                           order   name
    0    the present one                 1       DDIM (arXiv 2010.02502)
    0    and one or two before           2, 3    DPM-Solver++ 2M and 3M (arXiv 2211.01095), DEIS (arXiv 2204.13902)
    0    first predict so, then correct  p + 1   UniPC (arXiv 2302.04867): the value at the step's end is one more node, and is
         with the end as one more node           that of the next step, so that it costs no evaluation
    1    the present one                 1       ancestral sampling, DDPM (arXiv 2006.11239)
    1    and one or two before                   SDE-DPM-Solver++ 2M and 3M

DDIM's eta, of which the share eta^2 (1 - e^{-2h}) of sigma'^2 is fresh noise, is the tau of each step with 1 - e^{-2 tau^2 h} equal to
that share. From two values DPM-Solver++ 2M predicts with h (1 - e^{-h}) / 2 for the integral of the linear term, UniPC likewise: the same to
its order, and at 10 to 20 steps of three mixtures its error was 0.6 to 0.75 times that of the exact integral, so it is taken here. All other
integrals are exact.

A polynomial must not be stretched: on a step more than twice as long as the one before it (in lambda) the order is 1. This is
the rule that ends samplers of high order safely on grids whose last jump is large.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from torch import Tensor

from pcdiff.diffusion.denoiser import DenoiserLike
from pcdiff.diffusion.samplers.base import Callback, Draw, Levels, predict

__all__ = ["STRETCH", "ancestral", "ddim", "follow", "integral_weights", "predictor_weights", "sde_dpm", "unipc"]

# The longest step, in units of the one before, over which values before it are extrapolated: twice as long, whatever the rounding.
STRETCH = 2.0 + 1e-6


def integral_weights(nodes: list[float], begin: float, end: float, c: float = 1.0) -> list[float]:
    """w_j with c int_begin^end e^{c (l - end)} m(l) dl = sum_j w_j m(nodes_j) for each polynomial m of degree below their number.

    >>> [round(w, 6) for w in integral_weights([0.0], 0.0, 1.0)]
    [0.632121]
    """
    # In s = (l - end) / (end - begin), between -1 and 0, the moments int e^{hs} s^k are confluent hypergeometric functions.
    h = c * (end - begin)
    k = np.arange(len(nodes))
    moments = h * (-1.0) ** k / (k + 1) * special.hyp1f1(k + 1, k + 2, -h)
    places = (np.asarray(nodes) - end) / (end - begin)
    found: list[float] = np.linalg.solve(np.vander(places, increasing=True).T, moments).tolist()
    return found


def predictor_weights(nodes: list[float], end: float, c: float = 1.0) -> list[float]:
    """The weights of a step from the first of the nodes: those of the integral, but DPM-Solver++ 2M's own where there are two."""
    begin = nodes[0]
    if len(nodes) != 2:
        return integral_weights(nodes, begin, end, c)
    h = end - begin
    whole, slope = -math.expm1(-c * h), h / (2 * (begin - nodes[1]))
    return [whole * (1 + slope), -whole * slope]


def _order_at(step: int, order: int, lam: list[float]) -> int:
    """The order of the predictor of a step: values before the start there are none, and a long step is not extrapolated."""
    if step == 0 or lam[step + 1] - lam[step] > STRETCH * (lam[step] - lam[step - 1]):
        return 1
    return min(order, step + 1)


def follow(
    denoiser: DenoiserLike,
    x: Tensor,
    levels: Levels,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int,
    eta: float = 0.0,
    correct: bool = False,
    draw: Draw | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Clouds x at the first of the levels taken to the last; see the head of this module.

    Raises:
        ValueError: order or eta is not possible, or noise is asked for and nothing draws it.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}; expected 1, 2 or 3")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; expected 0 to 1")
    if eta and draw is None:
        raise ValueError("fresh noise is needed with eta > 0: give draw")
    alpha, sigma, lam = levels.alpha, levels.sigma, levels.lam
    values: list[Tensor] = []  # m at the present time and before, the newest first
    x_before = x
    for i in range(levels.steps):
        prediction = predict(denoiser, x, levels.t[i], mask, cond, callback, i)
        values = [prediction.x0, *values[: order - 1 + correct]]
        if correct and i > 0:
            nodes = _order_at(i - 1, order, lam) + 1
            w = integral_weights(lam[i::-1][:nodes], lam[i - 1], lam[i])
            x = sigma[i] / sigma[i - 1] * x_before + alpha[i] * _combine(w, values)
        x_before = x
        h = lam[i + 1] - lam[i]
        # e^{-tau^2 h}, from the share of the noise that is fresh
        keep = math.sqrt(1 + eta**2 * math.expm1(-2 * h))
        c = 1 - math.log(keep) / h
        w = predictor_weights(lam[i::-1][: _order_at(i, order, lam)], lam[i + 1], c)
        x = sigma[i + 1] / sigma[i] * keep * x + alpha[i + 1] * _combine(w, values)
        if eta and draw is not None:
            x = x + sigma[i + 1] * eta * math.sqrt(-math.expm1(-2 * h)) * draw() * mask[..., None]
    return x


def _combine(weights: list[float], values: list[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for w, m in zip(weights[1:], values[1:], strict=False):
        total = total + w * m
    return total


def ddim(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor | Levels,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int = 2,
    eta: float = 0.0,
    draw: Draw | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (order 1) and its multistep forms (DPM-Solver++ 2M and 3M); one evaluation a step.

    Args:
        denoiser: the model.
        noise: standard normal, shape (B, N, F); entries where the mask is false are ignored.
        grid: strictly falling times, shape (steps + 1,), float64; or their levels, where they are known already.
        mask: shape (B, N).
        cond: shape (B, C).
        order: 1, 2 or 3; the first steps are of lower order, having none before them.
        eta: 0 for the ODE, 1 for the reverse diffusion.
        draw: fresh noise, needed for eta > 0.
        callback: sees every intermediate.

    Returns:
        Clouds at the last time of the grid, shape (B, N, F), zero where the mask is false.
    """
    levels = Levels.of(denoiser, grid)
    start = levels.start(noise, mask)
    return follow(denoiser, start, levels, mask, cond, order=order, eta=eta, draw=draw, callback=callback)


def unipc(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor | Levels,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int = 2,
    callback: Callback | None = None,
) -> Tensor:
    """UniPC: each step of :func:`ddim` is corrected once its end was evaluated; one evaluation a step.

    UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models (arXiv 2302.04867). Arguments as for
    :func:`ddim`.
    """
    levels = Levels.of(denoiser, grid)
    start = levels.start(noise, mask)
    return follow(denoiser, start, levels, mask, cond, order=order, correct=True, callback=callback)


def ancestral(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling of DDPM: x' from the posterior q(x' | x, x0) with x0 as predicted; one evaluation a step.

    Denoising Diffusion Probabilistic Models (arXiv 2006.11239), with the variance of the posterior. Arguments as for :func:`ddim`.
    """
    return ddim(denoiser, noise, grid, mask, cond, order=1, eta=1.0, draw=draw, callback=callback)


def sde_dpm(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int = 2,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++ (2M at order 2): the reverse diffusion with m extrapolated; one evaluation a step.

    DPM-Solver++ (arXiv 2211.01095), section 5. Arguments as for :func:`ddim`.
    """
    return ddim(denoiser, noise, grid, mask, cond, order=order, eta=1.0, draw=draw, callback=callback)
