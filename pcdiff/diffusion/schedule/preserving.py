"""Variance-preserving schedules: cosine, linear, the chain of DDPM, and one that is learned."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.diffusion.schedule.base import LOG_SNR_MAX, LOG_SNR_MIN, VPSchedule

__all__ = ["BetaSchedule", "CosineSchedule", "DDPMSchedule", "LearnedSchedule", "LinearSchedule"]


class CosineSchedule(VPSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), without its offset.
    """

    def __init__(self) -> None:
        self._ends()

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(torch.tan(math.pi / 2 * t))

    def d_log_snr(self, t: Tensor) -> Tensor:
        return -2 * math.pi / torch.sin(math.pi * t)

    def time(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))


class BetaSchedule(VPSchedule):
    """alpha^2 = exp(-decay(t)) with decay' = beta(t) > 0: the variance-preserving diffusion of rate beta."""

    @abstractmethod
    def decay(self, t: Tensor) -> Tensor:
        """The integral of beta from 0 to t."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """The rate of noise."""

    @abstractmethod
    def time_of_decay(self, decay: Tensor) -> Tensor:
        """The inverse of :meth:`decay`."""

    def log_snr(self, t: Tensor) -> Tensor:
        # alpha^2 / sigma^2 = exp(-decay) / (1 - exp(-decay)), in the form that keeps its digits at small t
        return -torch.log(torch.expm1(self.decay(t)))

    def d_log_snr(self, t: Tensor) -> Tensor:
        return self.beta(t) / torch.expm1(-self.decay(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of_decay(F.softplus(-log_snr))


class LinearSchedule(BetaSchedule):
    """beta linear in t from 0.1 to 20 over [0, 1].

    Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), equation 33:
    log alpha^2 = -(beta_min t + (beta_max - beta_min) t^2 / 2).
    """

    beta_min = 0.1
    beta_max = 20.0

    def __init__(self) -> None:
        self._ends()
        self.t_max = 1.0

    def decay(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def time_of_decay(self, decay: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        # the root of the quadratic in the form that does not cancel
        return 2 * decay / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * decay))


class DDPMSchedule(BetaSchedule):
    """The chain of Denoising Diffusion Probabilistic Models (arXiv 2006.11239): alpha_k^2 = prod_{i <= k} (1 - beta_i).

    Step k of T stands at t = k / T, and t_min is the first step. Between two steps the rate of noise is constant, so this is
    the linear schedule in continuous time as the chain discretises it; on the grid that is even in t with T - 1 steps ancestral
    sampling is that of the paper.

    Args:
        betas: beta_1 to beta_T, shape (T,), each between 0 and 1.
    """

    def __init__(self, betas: Tensor) -> None:
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be at least two numbers between 0 and 1")
        rates = -torch.log1p(-betas.double())
        self._decay = torch.cat([torch.zeros(1, dtype=torch.float64), rates.cumsum(0)])
        self._rates = rates * len(betas)
        self.t_min, self.t_max = 1 / len(betas), 1.0

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DDPMSchedule:
        """The paper's own: ``steps`` betas, evenly from ``first`` to ``last``."""
        return cls(torch.linspace(first, last, steps, dtype=torch.float64))

    def _before(self, t: Tensor) -> Tensor:
        """The number of the step before t."""
        steps = len(self._rates)
        return (t.double() * steps).ceil().long().clamp(1, steps) - 1

    def decay(self, t: Tensor) -> Tensor:
        k = self._before(t)
        table, rates = self._decay.to(t.device), self._rates.to(t.device)
        return (table[k] + rates[k] * (t.double() - k.double() / len(rates))).to(t.dtype)

    def beta(self, t: Tensor) -> Tensor:
        return self._rates.to(t.device)[self._before(t)].to(t.dtype)

    def time_of_decay(self, decay: Tensor) -> Tensor:
        table, rates = self._decay.to(decay.device), self._rates.to(decay.device)
        k = (torch.searchsorted(table, decay.double().contiguous()) - 1).clamp(0, len(rates) - 1)
        return (k.double() / len(rates) + (decay.double() - table[k]) / rates[k]).to(decay.dtype)


class LearnedSchedule(nn.Module, VPSchedule):
    """A variance-preserving schedule whose log-SNR is a learned monotone function of t in [0, 1].

    Variational Diffusion Models (arXiv 2107.00630), appendix H: the log-SNR falls from 12 to -9 along

        g(t) = t + mean_k a_k sigmoid(b_k (t - c_k)),        a_k, b_k > 0,

    rescaled to those ends. The mean of the variational bound does not depend on what lies between the ends, but its variance
    over t does, and that is what the schedule is trained to lower (see :mod:`pcdiff.training`). Untrained it is even in log-SNR.
    """

    def __init__(self, units: int = 32) -> None:
        super().__init__()
        self.t_min, self.t_max = 0.0, 1.0
        # softplus(-6) = 0.0025: close to the straight line, and not so far that no gradient comes through.
        self.height = nn.Parameter(torch.full((units,), -6.0))
        self.slope = nn.Parameter(torch.full((units,), 10.0))
        self.centre = nn.Parameter(torch.linspace(0, 1, units))

    def _monotone(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g and its derivative."""
        height = F.softplus(self.height.to(t)) / len(self.height)
        slope, centre = F.softplus(self.slope.to(t)), self.centre.to(t)
        step = torch.sigmoid(slope * (t[..., None] - centre))
        return t + (height * step).sum(-1), 1 + (height * slope * step * (1 - step)).sum(-1)

    def _scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g at the start, and log-SNR per unit of g."""
        ends, _ = self._monotone(torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device))
        return ends[0], (LOG_SNR_MIN - LOG_SNR_MAX) / (ends[1] - ends[0])

    def log_snr(self, t: Tensor) -> Tensor:
        start, scale = self._scale(t)
        return LOG_SNR_MAX + scale * (self._monotone(t)[0] - start)

    def d_log_snr(self, t: Tensor) -> Tensor:
        return self._scale(t)[1] * self._monotone(t)[1]

    @torch.no_grad()
    def time(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        # Bisection: 60 halvings are below the spacing of float64.
        for _ in range(60):
            middle = (low + high) / 2
            above = self.log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2
