r"""The denoiser: a net and a schedule, read as any of the usual predictions.

With r^2 = alpha^2 + sigma^2 and data of unit variance, the net sees x_t / r, whose variance is 1 at each t, and its
preconditioned output F gives

    x0 = (alpha x_t / r - sigma F) / r,        eps = (sigma x_t / r + alpha F) / r,

so that alpha x0 + sigma eps = x_t always, and the F to learn is (alpha eps - sigma x0) / r. In a variance-preserving
schedule r = 1 and F is the v prediction of Progressive Distillation (arXiv 2202.00512); in a variance-exploding one it is, up to
its sign, the preconditioning of Elucidating the Design Space (arXiv 2206.00364) with unit data variance. F starts at zero: the
untrained net is the exact denoiser of Gaussian data. x0 is never formed by dividing by alpha, nor eps by dividing by sigma.

Every usual prediction is a combination of the two unknowns,

    p = a x0 + b eps,        with (a, b) one row of

    preconditioned  (-sigma / r, alpha / r)        epsilon   (0, 1)             x0        (1, 0)
    v               (-sigma, alpha)                score     (0, -1 / sigma)    velocity  (alpha', sigma')

and, because alpha x0 + sigma eps = x_t is known, each determines the others. With d = alpha b - sigma a,

    p = ((alpha a + sigma b) x_t / r + d F) / r,        F = (r^2 p - (alpha a + sigma b) x_t) / (r d).

A net may be trained to put out any of them; its prediction is read as F first, and as all others from there. Channels of categories and of
positions in a periodic box are apart: what a net says of them is read by heads of their own (:mod:`pcdiff.diffusion.categories`,
:mod:`pcdiff.diffusion.heads`), whatever the parametrisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcdiff.diffusion.heads import Head
from pcdiff.diffusion.poisson import effective_level
from pcdiff.diffusion.schedule import Level, Schedule

__all__ = ["PARAMETRISATIONS", "Denoiser", "DenoiserLike", "Potential", "Prediction"]

PARAMETRISATIONS: dict[str, Callable[[Level], tuple[Tensor, Tensor]]] = {
    "preconditioned": lambda level: (-level.sigma / level.r, level.alpha / level.r),
    "epsilon": lambda level: (torch.zeros_like(level.sigma), torch.ones_like(level.sigma)),
    "x0": lambda level: (torch.ones_like(level.sigma), torch.zeros_like(level.sigma)),
    "v": lambda level: (-level.sigma, level.alpha),
    "score": lambda level: (torch.zeros_like(level.sigma), -1 / level.sigma),
    "velocity": lambda level: (level.d_alpha, level.d_sigma),
}
"""The weights (a, b) of x0 and eps in each prediction; see the head of this module."""


@dataclass(frozen=True)
class Prediction:
    """What the denoiser says about x_t, in each parametrisation; all of shape (B, N, F).

    Attributes:
        x_t: the noisy clouds.
        output: the preconditioned output F.
        level: the noise level, shapes (B, 1, 1).
    """

    x_t: Tensor
    output: Tensor
    level: Level

    @classmethod
    def of(cls, parametrisation: str, value: Tensor, x_t: Tensor, level: Level) -> Prediction:
        """From a prediction in any parametrisation: a key of :data:`PARAMETRISATIONS`."""
        if parametrisation == "preconditioned":
            return cls(x_t, value, level)
        a, b = PARAMETRISATIONS[parametrisation](level)
        known = (level.alpha * a + level.sigma * b) * x_t
        d = level.alpha * b - level.sigma * a
        return cls(x_t, (level.r**2 * value - known) / (level.r * d), level)

    def read(self, parametrisation: str) -> Tensor:
        """The prediction in any parametrisation: a key of :data:`PARAMETRISATIONS`."""
        level = self.level
        a, b = PARAMETRISATIONS[parametrisation](level)
        d = level.alpha * b - level.sigma * a
        return (level.alpha * a + level.sigma * b) / level.r**2 * self.x_t + d / level.r * self.output

    @property
    def x0(self) -> Tensor:
        """The expected clean cloud, E[x0 | x_t]."""
        level = self.level
        return level.alpha / level.r**2 * self.x_t - level.sigma / level.r * self.output

    @property
    def eps(self) -> Tensor:
        """The expected noise, E[eps | x_t]."""
        level = self.level
        return level.sigma / level.r**2 * self.x_t + level.alpha / level.r * self.output

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0 (arXiv 2202.00512)."""
        return self.level.r * self.output

    @property
    def score(self) -> Tensor:
        """The gradient of log p(x_t) in x_t, -eps / sigma."""
        return -self.eps / self.level.sigma

    @property
    def velocity(self) -> Tensor:
        """alpha' x0 + sigma' eps: dx/dt of the probability-flow ODE (arXiv 2011.13456, 2210.02747)."""
        return self.read("velocity")


class DenoiserLike(Protocol):
    """What samplers and likelihoods need: a denoiser, or anything that wraps one."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        """As :meth:`Denoiser.forward`."""


class Denoiser(nn.Module):
    """A net ``net(x, log_snr, mask, cond)`` under a schedule.

    Args:
        net: sees x_t / r and the log-SNR.
        schedule: of the noise.
        parametrisation: what the net puts out, a key of :data:`PARAMETRISATIONS`.
        dimension: the D of a Poisson flow (see :mod:`pcdiff.diffusion.poisson`); Gaussian noise when absent.
        heads: read the output for channels that are not numbers on a line, each some of them.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        *,
        parametrisation: str = "preconditioned",
        dimension: float | None = None,
        heads: Sequence[Head] = (),
    ) -> None:
        super().__init__()
        self.net = net
        self.schedule = schedule
        self.parametrisation = parametrisation
        self.dimension = dimension
        self.heads = tuple(heads)
        # So that their tables move with the weights.
        self._heads = nn.ModuleList(heads)

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        """Predict from noisy clouds.

        Args:
            x_t: shape (B, N, F), zero where the mask is false.
            t: times, shape (B,).
            mask: shape (B, N), true where a point is real.
            cond: conditions, shape (B, C).
        """
        level = self.schedule.level(t)
        if self.dimension is not None:
            level = effective_level(level, x_t, mask, self.dimension)
        return self.prediction(self.net(x_t / level.r, level.log_snr.flatten(), mask, cond), x_t, mask, level)

    def prediction(self, output: Tensor, x_t: Tensor, mask: Tensor, level: Level) -> Prediction:
        """The prediction that an output of the net stands for.

        Args:
            output: in the parametrisation of the denoiser, shape (B, N, F).
            x_t, mask: as for :meth:`forward`.
            level: of each cloud, shape (B, 1, 1).
        """
        prediction = Prediction.of(self.parametrisation, output, x_t, level)
        for head in self.heads:
            channels = head.channels
            noisy = x_t[..., channels]
            part = Prediction.of(head.parametrisation, head(noisy, output[..., channels], level), noisy, level)
            read = prediction.output.index_copy(-1, channels, part.output * mask[..., None])
            prediction = Prediction(x_t, read, level)
        return prediction

    def known_noise(self, eps: Tensor, level: Level) -> Tensor:
        """What of the noise (B, N, F) can be known from the clean and the noisy cloud, which predictions are compared with."""
        for head in self.heads:
            eps = eps.index_copy(-1, head.channels, head.noise(eps[..., head.channels], level))
        return eps

    def output_scale(self, level: Level, channels: int) -> Tensor:
        """What squared errors of F times this are those of what the net, or a head of some channels, puts out; shape (B, 1, channels).

        Of a prediction a x0 + b eps, whose error is (d / r) that of F with d = alpha b - sigma a, it is (d / r)^2.
        """
        scale = self._scale(self.parametrisation, level).expand(-1, -1, channels)
        for head in self.heads:
            part = self._scale(head.parametrisation, level).expand(-1, -1, len(head.channels))
            scale = scale.index_copy(-1, head.channels, part)
        return scale

    @staticmethod
    def _scale(parametrisation: str, level: Level) -> Tensor:
        a, b = PARAMETRISATIONS[parametrisation](level)
        return ((level.alpha * b - level.sigma * a) / level.r) ** 2

    def with_net(self, net: nn.Module) -> Denoiser:
        """The same reading of another net's output."""
        return Denoiser(
            net, self.schedule, parametrisation=self.parametrisation, dimension=self.dimension, heads=self.heads
        )


class Potential(nn.Module):
    """A net whose output is the gradient of a scalar: F(y) = grad phi(y), phi = sum of the entries of ``net(y)``.

    The score of such a denoiser is exactly a gradient field, and Action Matching needs its phi. Permuting the points changes
    no sum, so phi is invariant and F equivariant.

    Args:
        net: keeps the contract of :class:`pcdiff.nets.base.PointNet`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def phi(self, y: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """The potential of each cloud, shape (B,)."""
        total: Tensor = self.net(y, log_snr, mask, cond).sum((1, 2))
        return total

    def forward(self, y: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """grad phi, shape (B, N, F); differentiable again where gradients are being recorded.

        Not under ``torch.inference_mode``, which records none at all.
        """
        create = torch.is_grad_enabled()
        # PyTorch's fused attention on a CPU has no second derivatives, which training takes.
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            at = y if y.requires_grad else y.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.phi(at, log_snr, mask, cond).sum(), at, create_graph=create)
        return gradient
