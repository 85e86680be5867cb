r"""Likelihoods, in nats, of clouds in the denoiser's units.

**Exact.** Along the probability-flow ODE dx/dt = v(x, t) the density changes by d log p / dt = -div v, so that

    log p(x0) = log p_T(x_T) + int_{t_min}^{t_max} div v(x_t, t) dt + n F log alpha(t_min),

with the ODE solved from x = alpha x0 at t_min to x_T, and p_T = N(0, r^2) as samplers start (Score-Based Generative Modeling through SDEs, arXiv
2011.13456; FFJORD, arXiv 1810.01367). It is the density of what the ODE generates. The last term is the scale of x at t_min; the noise there, sigma / alpha = 0.0025,
is far below the structure of standardised data. The divergence is exact, or estimated with several probes, each kept along the whole path; then the scatter
of the probes gives the error.

**Bound.** The variational bound of the reverse diffusion (Variational Diffusion Models, arXiv 2107.00630) has three terms,

    -log p(x0) <= reconstruction + prior + diffusion,

    reconstruction = -E log N(x0; x_tmin / alpha, (sigma / alpha)^2) = n F / 2 log(2 pi e sigma^2 / alpha^2)     at t_min
    prior          = KL( N(alpha x0, sigma^2) | N(0, r^2) )                                                       at t_max
    diffusion      = 1/2 int (-log_snr') E |eps - eps_hat|^2 dt                                                  in continuous time,
                     1/2 sum_i (e^{log_snr(s_i) - log_snr(t_i)} - 1) E |eps - eps_hat|^2                          on a grid t_i > s_i.

On a grid it is the bound of DDPM (arXiv 2006.11239), larger, and it falls to the first as steps are added.

**Periodic boxes.** Positions on a torus of period P (:class:`pcdiff.torus.Torus`) start from an even spread over alpha P in x_T, whose log p_T is
-log(alpha P) an entry, and the prior term of the bound vanishes: noise of the size of the box leaves nothing to tell a position by.

**Sets.** A cloud of n unordered points has the density n! p(x_1 ... x_n | n) p(n), whatever the order they are listed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from pcdiff.diffusion.denoiser import Denoiser, DenoiserLike, Prediction
from pcdiff.diffusion.divergence import DivergenceKind, divergence, probe
from pcdiff.diffusion.grids import log_snr_grid
from pcdiff.diffusion.heads import torus_head
from pcdiff.diffusion.losses import noised
from pcdiff.diffusion.samplers.base import predict

__all__ = ["Bound", "Likelihood", "log_factorial", "log_likelihood", "squared_error", "variational_bound"]


@dataclass(frozen=True)
class Likelihood:
    """log p(x0) of each cloud, points in the order given, for its number of points.

    Attributes:
        log_p: nats, shape (B,).
        error: standard error from the scatter of the probes, shape (B,); zero with the exact divergence.
    """

    log_p: Tensor
    error: Tensor


@dataclass(frozen=True)
class Bound:
    """The terms of the variational bound on -log p(x0) of each cloud, in nats, shape (B,).

    Attributes:
        reconstruction, prior, diffusion: see the head of this module.
        error: standard error of the diffusion term from the scatter of its draws, shape (B,).
    """

    reconstruction: Tensor
    prior: Tensor
    diffusion: Tensor
    error: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, shape (B,)."""
        return self.reconstruction + self.prior + self.diffusion


def log_factorial(counts: Tensor) -> Tensor:
    """log n!, what the density of a set of n points has over that of the points in a given order."""
    return torch.lgamma(counts.double() + 1)


@torch.no_grad()
def log_likelihood(
    denoiser: DenoiserLike,
    x0: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    steps: int = 100,
    kind: DivergenceKind = "exact",
    probes: int = 8,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """The exact log-likelihood through the probability-flow ODE.

    The ODE is solved by Kutta's method of order 4 (torchdiffeq) in even steps of log-SNR, so a cloud does not depend on its batch.

    Args:
        denoiser: the model, with Gaussian noise.
        x0: clean clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        steps: Runge-Kutta steps, of four evaluations each.
        kind: the divergence exactly, at a cost that grows with n F, or by random probes of signs or normals.
        probes: how many; at least 2. Not used with the exact divergence.
        generator: of the probes, on the CPU; needed for them.
    """
    if kind == "exact":
        log_p = _solve(denoiser, x0, mask, cond, steps, None)
        return Likelihood(log_p, torch.zeros_like(log_p))
    if generator is None or probes < 2:
        raise ValueError("an estimated divergence needs a generator and at least 2 probes")
    draws = [_solve(denoiser, x0, mask, cond, steps, probe(x0, mask, kind, generator)) for _ in range(probes)]
    stacked = torch.stack(draws)
    return Likelihood(stacked.mean(0), stacked.std(0) / math.sqrt(probes))


@dataclass(frozen=True)
class _Places:
    """Positions in a periodic box: how many entries of each cloud they are, shape (B,), and their period."""

    entries: Tensor
    period: float


def _split(denoiser: DenoiserLike, x0: Tensor, mask: Tensor) -> tuple[Tensor, _Places | None]:
    """1 where an entry is a number on a line, 0 where it is a position or padding, shape (B, N, F); and what is known of positions."""
    numbers = mask[..., None].to(x0.dtype).expand(x0.shape)
    head = torus_head(denoiser.heads) if isinstance(denoiser, Denoiser) else None
    if head is None:
        return numbers, None
    kept = torch.ones(x0.shape[-1], dtype=x0.dtype, device=x0.device).index_fill(0, head.channels, 0)
    return numbers * kept, _Places(mask.sum(1) * len(head.channels), head.period)


def _solve(
    denoiser: DenoiserLike, x0: Tensor, mask: Tensor, cond: Tensor, steps: int, vectors: Tensor | None
) -> Tensor:
    schedule = denoiser.schedule

    def slopes(log_snr: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        # In log-SNR, where the flow is smooth even if the rate of noise jumps from step to step.
        t = schedule.time(log_snr)
        rate = 1 / schedule.d_log_snr(t)
        return divergence(lambda x: predict(denoiser, x, t, mask, cond).velocity * rate, state[0], mask, vectors)

    grid = log_snr_grid(schedule, steps).flip(0)
    alpha, last = float(schedule.alpha(grid[0])), schedule.level(grid[-1:])
    start = (alpha * x0 * mask[..., None], x0.new_zeros(len(x0)))
    x, change = odeint(slopes, start, schedule.log_snr(grid).to(x0.device), method="rk4")
    entries = (mask.sum(1) * x0.shape[2]).to(x0.dtype)
    r2 = float(last.r) ** 2
    numbers, places = _split(denoiser, x0, mask)
    log_prior = -(x[-1].square() * numbers).sum((1, 2)) / (2 * r2) - numbers.sum((1, 2)) / 2 * math.log(
        2 * math.pi * r2
    )
    if places is not None:
        log_prior = log_prior - places.entries * math.log(float(last.alpha) * places.period)
    log_p: Tensor = log_prior + change[-1] + entries * math.log(alpha)
    return log_p


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 64,
    grid: Tensor | None = None,
) -> Bound:
    """The variational bound of each cloud.

    Args:
        denoiser: the model, with Gaussian noise.
        x0: clean clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        cond: shape (B, C).
        generator: of times and noise, on the CPU.
        draws: in continuous time, how many times are drawn for a cloud, spread evenly over log-SNR; at least 2.
        grid: strictly falling times of a discrete chain: the bound of that chain, each of its steps evaluated once.
    """
    schedule = denoiser.schedule
    t_min, t_max = (x0.new_full((len(x0),), end) for end in (schedule.t_min, schedule.t_max))
    if grid is not None:
        t_min, t_max = (x0.new_full((len(x0),), float(grid[end])) for end in (-1, 0))
    entries = (mask.sum(1) * x0.shape[2]).to(x0.dtype)
    first, last = schedule.level(t_min), schedule.level(t_max)
    reconstruction = entries / 2 * (math.log(2 * math.pi * math.e) - first.log_snr.flatten())
    signal, spread = (last.alpha / last.r) ** 2, (last.sigma / last.r) ** 2
    kl = (signal * x0.square() + spread - 1 - spread.log()) * _split(denoiser, x0, mask)[0]
    prior = kl.sum((1, 2)) / 2
    if grid is None:
        terms = _continuous(denoiser, x0, mask, cond, draws, generator)
        return Bound(reconstruction, prior, terms.mean(0), terms.std(0) / math.sqrt(draws))
    terms = _chain(denoiser, x0, mask, cond, grid, generator)
    # The steps of a chain are different terms of a sum; the square of one draw bounds its variance.
    return Bound(reconstruction, prior, terms.sum(0), terms.square().sum(0).sqrt())


def squared_error(denoiser: Denoiser, x0: Tensor, mask: Tensor, cond: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """|eps - eps_hat|^2 of each cloud, shape (B,), for noise (B, N, F) that is zero at padding, at times (B,)."""
    x_t = noised(denoiser, x0, mask, t, noise)
    prediction: Prediction = denoiser(x_t, t, mask, cond)
    known = denoiser.known_noise(noise, prediction.level) * mask[..., None]
    return (prediction.eps - known).square().sum((1, 2))


def _drawn_error(
    denoiser: Denoiser, x0: Tensor, mask: Tensor, cond: Tensor, t: Tensor, generator: torch.Generator
) -> Tensor:
    """The squared error for one draw of the noise, shape (B,)."""
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device) * mask[..., None]
    return squared_error(denoiser, x0, mask, cond, t, noise)


def _continuous(
    denoiser: Denoiser, x0: Tensor, mask: Tensor, cond: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """The diffusion term at each draw, shape (draws, B)."""
    schedule = denoiser.schedule
    high, low = schedule.log_snr_ends
    shift = torch.rand(len(x0), generator=generator, dtype=x0.dtype)
    terms = []
    for k in range(draws):
        unit = (shift + k / draws) % 1
        t = schedule.time(high + (low - high) * unit).clamp(schedule.t_min, schedule.t_max).to(x0.device)
        # int (-log_snr') dt is int d(log_snr): the weight is the same at each log-SNR.
        terms.append((high - low) / 2 * _drawn_error(denoiser, x0, mask, cond, t, generator))
    return torch.stack(terms)


def _chain(
    denoiser: Denoiser, x0: Tensor, mask: Tensor, cond: Tensor, grid: Tensor, generator: torch.Generator
) -> Tensor:
    """The term of each step of a chain, shape (steps, B)."""
    log_snr = denoiser.schedule.log_snr(grid.double())
    weights = torch.expm1(log_snr.diff()) / 2
    return torch.stack(
        [
            float(weight) * _drawn_error(denoiser, x0, mask, cond, x0.new_full((len(x0),), float(t)), generator)
            for weight, t in zip(weights, grid, strict=False)
        ]
    )
