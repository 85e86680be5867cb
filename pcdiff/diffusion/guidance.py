r"""Conditions and posteriors as denoisers that wrap a denoiser, so that every sampler runs on them.

A wrapper changes the prediction, never the sampler. With L(x0) a likelihood of what was observed, the score of the posterior is

    score(x_t) + grad log p(obs | x_t),        x0 <- x0 + (sigma^2 / alpha) grad log p(obs | x_t),

and what the methods differ in is their p(obs | x_t) = int L(x0) p(x0 | x_t) dx0:

- diffusion posterior sampling, DPS (arXiv 2209.14687): the mean for the distribution, L(E[x0 | x_t]);
- moment matching (arXiv 2310.06721, 2405.13712): a normal p(x0 | x_t) of the right variance, which by Tweedie's second formula is
  V = (sigma^2 / alpha) dE[x0 | x_t] / dx_t. For an observation y = A(x0) + noise of variance S,

      grad log p(y | x_t) = J^T A^T (S + A V A^T)^{-1} (y - A(E[x0 | x_t])),        J = dE[x0 | x_t] / dx_t,

  which is exact when prior and observation are linear and normal.

Hard constraints c(x0) = 0 (a total pT, a mass) are met by projecting the prediction, and known points or features by putting them
in its place. For in-painting that is consistent beyond the prediction, :func:`repaint` goes back and forth in noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcdiff.diffusion.denoiser import DenoiserLike, Prediction
from pcdiff.diffusion.heads import Head, torus_head
from pcdiff.diffusion.samplers.base import Callback, Draw, Levels, at_step
from pcdiff.diffusion.samplers.exponential import follow
from pcdiff.diffusion.schedule import Level

__all__ = ["ClassifierFree", "Constrained", "InPainted", "MomentMatching", "Posterior", "Truncated", "repaint"]


class _Wrapper:
    """A denoiser around a denoiser, under the same schedule."""

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule


class ClassifierFree(_Wrapper):
    """Classifier-Free Diffusion Guidance (arXiv 2207.12598): F = F_without + scale (F_with - F_without).

    The denoiser must have been trained with hidden conditions. A hidden condition is zero, its mean; the number of points, which
    the mask shows anyway, stays.

    Args:
        denoiser: the model.
        scale: 1 is the model with its conditions, 0 without, above 1 stresses them.
        kept: how many leading conditions are never hidden.
    """

    def __init__(self, denoiser: DenoiserLike, scale: float, *, kept: int = 1) -> None:
        super().__init__(denoiser)
        self.scale = scale
        self.kept = kept

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        hidden = torch.cat([cond[:, : self.kept], torch.zeros_like(cond[:, self.kept :])], dim=1)
        # Both in one pass: the net is as fast on twice the batch as twice on one.
        twice = torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([mask, mask])
        both = self.denoiser(*twice, torch.cat([cond, hidden]))
        # Not by chunk, which a trace holds to the number of clouds that it saw.
        with_it, without = both.output.reshape(2, *x_t.shape).unbind()
        # The level of a cloud does not depend on its conditions.
        level = Level(*(getattr(both.level, field.name)[: x_t.shape[0]] for field in fields(Level)))
        return Prediction(x_t, without + self.scale * (with_it - without), level)


class InPainted(_Wrapper):
    """Known points or features put in the place of the predicted ones.

    On the ODE the known entries then run straight from their noise to their values, and the others see them at the right noise
    level on the way. The result holds the known values to the noise of the last time; exactly with a final denoising step.

    Args:
        denoiser: the model.
        known: clean values, shape (B, N, F), in the denoiser's units.
        where: true where they are known, shape (B, N, F), bool.
    """

    def __init__(self, denoiser: DenoiserLike, known: Tensor, where: Tensor) -> None:
        super().__init__(denoiser)
        self.known = known
        self.where = where

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        prediction = self.denoiser(x_t, t, mask, cond)
        x0 = torch.where(self.where & mask[..., None], self.known, prediction.x0)
        return Prediction.of("x0", x0, x_t, prediction.level)


class Truncated(_Wrapper):
    """Entries whose clean values lie within given bounds: the prediction becomes its mean within them.

    Of a normal p(x0 | x_t) around the prediction with standard deviation s it is the mean of the truncated normal distribution; of a
    position, of the images of the box within the bounds of each. s is sigma / r, that of standard normal data, and of a position sigma / alpha, that of
    points that are spread evenly: for such data this is the exact denoiser of the data within the bounds.

    Args:
        denoiser: the model.
        low, high: bounds, shape (B, N, F), infinite where there are none; of positions within one box, [0, period].
        heads: those of the model, which say which entries are positions.
    """

    def __init__(self, denoiser: DenoiserLike, low: Tensor, high: Tensor, heads: Sequence[Head] = ()) -> None:
        super().__init__(denoiser)
        self.low = low
        self.high = high
        self.head = torus_head(heads)

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        prediction = self.denoiser(x_t, t, mask, cond)
        level, x0 = prediction.level, prediction.x0
        bounded = self.low.isfinite() | self.high.isfinite()
        spread = (level.sigma / level.r).expand_as(x0)
        found = _truncated_mean(x0, spread, self.low, self.high)[0]
        if self.head is not None:
            channels = self.head.channels
            places = _wrapped_mean(
                x0[..., channels],
                (level.sigma / level.alpha).expand_as(x0[..., channels]),
                self.low[..., channels],
                self.high[..., channels],
                self.head.period,
            )
            found = found.index_copy(-1, channels, places)
        kept = torch.where(bounded & mask[..., None], found, x0)
        return Prediction.of("epsilon", (x_t - level.alpha * kept) / level.sigma, x_t, level)


def _truncated_mean(mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a normal distribution within bounds, and the log of its probability there; in double precision."""
    m, s = mean.double(), std.double()
    a, b = (low.double() - m) / s, (high.double() - m) / s
    # Mirrored where that brings both bounds into the tail in which differences of probabilities are exact.
    flip = a > 0
    below, above = torch.where(flip, -b, a), torch.where(flip, -a, b)
    top, bottom = torch.special.log_ndtr(above), torch.special.log_ndtr(below)
    log_z = top + torch.log1p(-torch.exp((bottom - top).clamp(max=-1e-12)))
    ends = [torch.exp(-end.square() / 2 - log_z) / math.sqrt(2 * math.pi) for end in (a, b)]
    found = m + s * (ends[0] - ends[1])
    return torch.minimum(torch.maximum(found, low.double()), high.double()).to(mean.dtype), log_z


def _wrapped_mean(mean: Tensor, std: Tensor, low: Tensor, high: Tensor, period: float) -> Tensor:
    """The same of positions: over the images of the bounds around the mean."""
    turn = torch.floor(mean / period)
    parts = [_truncated_mean(mean, std, low + (turn + k) * period, high + (turn + k) * period) for k in range(-4, 5)]
    values, logs = (torch.stack(each, dim=-1) for each in zip(*parts, strict=True))
    return (values * torch.softmax(logs, dim=-1).to(values.dtype)).sum(dim=-1)


class Posterior(_Wrapper):
    """Diffusion posterior sampling (arXiv 2209.14687) with any differentiable log-likelihood.

    Each cloud is drawn by the gradient of its own log-likelihood, so the strength does not depend on the batch.

    Args:
        denoiser: the prior.
        log_likelihood: from clean clouds (B, N, F) and their mask to log L, shape (B,).
        strength: factor of the gradient.
    """

    def __init__(
        self, denoiser: DenoiserLike, log_likelihood: Callable[[Tensor, Tensor], Tensor], *, strength: float = 1.0
    ) -> None:
        super().__init__(denoiser)
        self.log_likelihood = log_likelihood
        self.strength = strength

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            at = x_t.detach().requires_grad_()
            prediction = self.denoiser(at, t, mask, cond)
            (pull,) = torch.autograd.grad(self.log_likelihood(prediction.x0, mask).sum(), at)
        level = prediction.level
        # x0 is zero at padding, but not its gradient in x_t.
        x0 = prediction.x0.detach() + self.strength * level.sigma**2 / level.alpha * pull * mask[..., None]
        return Prediction.of("x0", x0, x_t, level)


class MomentMatching(_Wrapper):
    """The posterior for an observation with normal noise, with the variance of x0 given x_t (arXiv 2405.13712).

    Args:
        denoiser: the prior.
        observe: from clean clouds (B, N, F) and their mask to observables, shape (B, M); differentiable, and linear for an
            exact result. The cost grows with M.
        value: what was observed, shape (B, M).
        std: standard deviation of the observation, shape (M,) or (B, M).
    """

    def __init__(
        self, denoiser: DenoiserLike, observe: Callable[[Tensor, Tensor], Tensor], value: Tensor, std: Tensor
    ) -> None:
        super().__init__(denoiser)
        self.observe = observe
        self.value = value
        self.std = std

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            at = x_t.detach().requires_grad_()
            prediction = self.denoiser(at, t, mask, cond)
            level, x0 = prediction.level, prediction.x0
            # The observables of the prediction, and their gradients in x_t, rows of A J, shape (B, M, N, F).
            rows_t = _rows(self.observe(x0, mask), at) * mask[:, None, :, None]
        x0 = x0.detach()
        value, rows_0 = _linearised(self.observe, x0, mask)
        ahead = level.sigma**2 / level.alpha
        spread = ahead * torch.einsum("bmnf,bknf->bmk", rows_t, rows_0)
        # Symmetric for the exact denoiser; a net's Jacobian is so only nearly.
        covariance = (spread + spread.mT) / 2 + torch.diag_embed(self.std.expand_as(value) ** 2)
        pull = torch.einsum("bm,bmnf->bnf", torch.linalg.solve(covariance, self.value - value), rows_t)
        return Prediction.of("x0", x0 + ahead * pull, x_t, level)


class Constrained(_Wrapper):
    """Predictions that meet a hard constraint c(x0) = 0: the nearest clean cloud that does, by Gauss and Newton.

    x0 <- x0 - C^T (C C^T)^{-1} c(x0), C = dc/dx0; one step is exact for a linear constraint, and few are enough for one
    that is nearly so: write the log of a sum of exponentials rather than the sum. End with a final denoising step, so that what comes out
    is such a prediction.

    Args:
        denoiser: the model.
        constraint: from clean clouds (B, N, F) and their mask to what must vanish, shape (B, M); differentiable.
        iterations: steps of the projection.
    """

    def __init__(
        self, denoiser: DenoiserLike, constraint: Callable[[Tensor, Tensor], Tensor], *, iterations: int = 4
    ) -> None:
        super().__init__(denoiser)
        self.constraint = constraint
        self.iterations = iterations

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        prediction = self.denoiser(x_t, t, mask, cond)
        x0 = prediction.x0.detach()
        for _ in range(self.iterations):
            value, rows = _linearised(self.constraint, x0, mask)
            gram = torch.einsum("bmnf,bknf->bmk", rows, rows)
            x0 = x0 - torch.einsum("bm,bmnf->bnf", torch.linalg.solve(gram, value), rows)
        return Prediction.of("x0", x0, x_t, prediction.level)


def _rows(values: Tensor, at: Tensor) -> Tensor:
    """Gradients of each of the values (B, M) in ``at`` (B, N, F): shape (B, M, N, F)."""
    grads = [torch.autograd.grad(v.sum(), at, retain_graph=True)[0] for v in values.unbind(1)]
    return torch.stack(grads, dim=1)


def _linearised(function: Callable[[Tensor, Tensor], Tensor], x0: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, M) and their gradients (B, M, N, F), which are zero at padding."""
    with torch.enable_grad():
        at = x0.detach().requires_grad_()
        values = function(at, mask)
        return values.detach(), _rows(values, at) * mask[:, None, :, None]


def repaint(
    denoiser: DenoiserLike,
    noise: Tensor,
    grid: Tensor,
    mask: Tensor,
    cond: Tensor,
    *,
    known: Tensor,
    where: Tensor,
    repeats: int | Sequence[int] = 10,
    draw: Draw,
    callback: Callback | None = None,
) -> Tensor:
    """In-painting by RePaint (arXiv 2201.09865): each step is taken several times, with the noise put back in between.

    A step takes the unknown entries down by ancestral sampling and sets the known ones to alpha known + sigma z; going back to where
    the step began lets the two agree. Evaluations a step: ``repeats``.

    Args:
        denoiser: the model.
        noise: standard normal, shape (B, N, F).
        grid: strictly falling times, shape (steps + 1,), float64.
        mask: shape (B, N).
        cond: shape (B, C).
        known: clean values, shape (B, N, F).
        where: true where they are known, shape (B, N, F), bool.
        repeats: how often each step is taken, or one number for each step.
        draw: fresh noise.
        callback: sees the first taking of each step.

    Returns:
        Clouds at the last time, shape (B, N, F), with the known values exactly, zero where the mask is false.
    """
    levels = Levels.of(denoiser, grid)
    valid = mask[..., None]
    often = [repeats] * levels.steps if isinstance(repeats, int) else repeats
    x = levels.start(noise, mask)
    for i in range(levels.steps):
        pair = Levels.of(denoiser, levels.t[i : i + 2])
        scale = levels.alpha[i] / levels.alpha[i + 1]
        back = (levels.sigma[i] ** 2 - (scale * levels.sigma[i + 1]) ** 2) ** 0.5
        for k in range(often[i]):
            shown = at_step(callback, i) if k == 0 else None
            lower = follow(denoiser, x, pair, mask, cond, order=1, eta=1.0, draw=draw, callback=shown)
            seen = levels.alpha[i + 1] * known + levels.sigma[i + 1] * draw()
            lower = torch.where(where, seen, lower) * valid
            x = lower if k + 1 == often[i] else scale * lower + back * draw() * valid
    return torch.where(where, known, x) * valid
