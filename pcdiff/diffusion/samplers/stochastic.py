r"""Stochastic samplers: the reverse diffusion, Langevin dynamics, and Restart.

The reverse process of strength eta (arXiv 2011.13456; eta = 0 is the probability-flow ODE, eta = 1 the reverse diffusion),

    dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dw,

by two first-order methods. Euler and Maruyama hold everything constant over a step,

    x' = x + (t' - t) [velocity - eta^2 / 2 g^2 score] + eta g sqrt(t - t') z.

Ito's form keeps the linear part exact, with psi = alpha' / alpha and the isometry for the variance of the noise,

    x' = psi x + (1 + eta^2) (psi - sigma' / sigma) sigma^2 score + eta alpha' sqrt(s^2 - s'^2) z,        s = sigma / alpha.

Langevin dynamics leaves p(x_t) at one level as it is,

    x <- x + (e / 2) score + sqrt(e) z,

up to its step e: annealed over falling levels it is a sampler of its own (arXiv 1907.05600), after each step of another sampler a corrector
(arXiv 2011.13456, algorithm 5). Restart (arXiv 2306.14878) goes back: from a level low in noise to one high in noise by fresh noise,

    x_high = (alpha_high / alpha_low) x + sqrt(sigma_high^2 - (alpha_high / alpha_low)^2 sigma_low^2) z,

and down again by the ODE, which contracts the errors that were made before.
"""

from __future__ import annotations

import math

from torch import Tensor

from pcdiff.diffusion.denoiser import DenoiserLike
from pcdiff.diffusion.samplers.base import Callback, Draw, Levels, at_step, predict
from pcdiff.diffusion.samplers.exponential import follow

__all__ = ["euler_maruyama", "ito", "langevin", "predictor_corrector", "restart"]


def euler_maruyama(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    eta: float = 1.0,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """The reverse process by Euler and Maruyama; one evaluation a step, of strong order 1/2.

    Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`; ``eta`` is the strength of the noise.
    """
    levels = Levels.of(denoiser, grid)
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        prediction = predict(denoiser, x, levels.t[i], mask, cond, callback, i)
        step = float(levels.t[i] - levels.t[i + 1])
        g2 = float(levels.at(denoiser, i).g2)
        x = x - step * (prediction.velocity - eta**2 / 2 * g2 * prediction.score)
        x = x + eta * math.sqrt(g2 * step) * draw() * mask[..., None]
    return x


def ito(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    eta: float = 1.0,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """The reverse process with its linear part exact; one evaluation a step.

    Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`; ``eta`` is the strength of the noise.
    """
    levels = Levels.of(denoiser, grid)
    alpha, sigma = levels.alpha, levels.sigma
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        prediction = predict(denoiser, x, levels.t[i], mask, cond, callback, i)
        psi = alpha[i + 1] / alpha[i]
        drift = (1 + eta**2) * (psi - sigma[i + 1] / sigma[i]) * sigma[i] ** 2
        spread = alpha[i + 1] * math.sqrt((sigma[i] / alpha[i]) ** 2 - (sigma[i + 1] / alpha[i + 1]) ** 2)
        x = psi * x + drift * prediction.score + eta * spread * draw() * mask[..., None]
    return x


def predictor_corrector(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    corrections: float = 1.0,
    snr: float = 0.16,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral steps, each followed by Langevin steps at its end (arXiv 2011.13456, algorithm 5).

    The paper's step of x <- x + e' score + sqrt(2 e') z is e' = 2 (snr |z| / |score|)^2, with norms that are means over a batch; here the
    norms are those that noise has, |z| / |score| = sigma, so that a cloud depends on no other and its step not on where it is.
    Evaluations a step: 1 + corrections. Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`, and

    Args:
        corrections: Langevin steps after each ancestral one.
        snr: the paper's r, the signal-to-noise ratio of a Langevin step.
    """
    levels = Levels.of(denoiser, grid)
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        pair = Levels.of(denoiser, levels.t[i : i + 2])
        x = follow(denoiser, x, pair, mask, cond, order=1, eta=1.0, draw=draw, callback=at_step(callback, i))
        size = x.new_tensor(4 * (snr * levels.sigma[i + 1]) ** 2)
        for _ in range(round(corrections)):
            score = predict(denoiser, x, levels.t[i + 1], mask, cond).score
            x = _langevin_step(x, score, draw() * mask[..., None], size)
    return x


def langevin(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    corrections: float = 10.0,
    step: float = 0.1,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """Annealed Langevin dynamics (arXiv 1907.05600): at each level some Langevin steps of e = step sigma^2.

    Between two levels x is scaled by r = sqrt(alpha^2 + sigma^2), the standard deviation of data of unit variance there. Evaluations a step:
    ``corrections``. Arguments as for :func:`~pcdiff.diffusion.samplers.ddim`, and

    Args:
        corrections: Langevin steps at each level.
        step: in units of the variance of the noise.
    """
    levels = Levels.of(denoiser, grid)
    x = levels.start(noise, mask)
    r = [math.hypot(a, s) for a, s in zip(levels.alpha, levels.sigma, strict=True)]
    for i in range(levels.steps):
        x = x * (r[i + 1] / r[i])
        size = x.new_tensor(step * levels.sigma[i + 1] ** 2)
        for k in range(round(corrections)):
            prediction = predict(denoiser, x, levels.t[i + 1], mask, cond, callback if k == 0 else None, i)
            x = _langevin_step(x, prediction.score, draw() * mask[..., None], size)
    return x


def _langevin_step(x: Tensor, score: Tensor, z: Tensor, step: Tensor) -> Tensor:
    return x + step / 2 * score + step.sqrt() * z


def restart(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    order: int = 2,
    repeats: float = 2.0,
    log_snr_low: float = 0.0,
    log_snr_high: float = 3.0,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """Restart (arXiv 2306.14878) over :func:`~pcdiff.diffusion.samplers.ddim`.

    The ODE is followed to the grid's time next to ``log_snr_high``; then, ``repeats`` times, fresh noise takes the clouds back to that next
    to ``log_snr_low``, and the ODE down again; then it goes on to the end. Evaluations: the grid's steps, and those between the two
    times once more for each repeat. Arguments as for ``ddim``, and

    Args:
        repeats: how often to go back.
        log_snr_low: where to go back to, high in noise.
        log_snr_high: from where, low in noise.
    """
    levels = Levels.of(denoiser, grid)
    high, low = (
        min(range(len(grid)), key=lambda i: abs(2 * levels.lam[i] - value)) for value in (log_snr_low, log_snr_high)
    )
    x = levels.start(noise, mask)
    if high >= low:
        return follow(denoiser, x, levels, mask, cond, order=order, callback=callback)
    scale = levels.alpha[high] / levels.alpha[low]
    spread = math.sqrt(levels.sigma[high] ** 2 - (scale * levels.sigma[low]) ** 2)
    between = Levels.of(denoiser, grid[high : low + 1])
    x = follow(denoiser, x, Levels.of(denoiser, grid[: low + 1]), mask, cond, order=order, callback=callback)
    for _ in range(round(repeats)):
        x = follow(denoiser, scale * x + spread * draw() * mask[..., None], between, mask, cond, order=order)
    if low == levels.steps:
        return x
    rest = Levels.of(denoiser, grid[low:])
    return follow(denoiser, x, rest, mask, cond, order=order, callback=at_step(callback, low))
