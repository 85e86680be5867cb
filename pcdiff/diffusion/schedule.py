r"""Noise schedules.

A cloud x0 is noised to

    x_t = alpha(t) x0 + sigma(t) eps,        eps ~ N(0, 1),        t in [t_min, t_max],

with t_min next to the data and t_max next to pure noise. A prime is the derivative in t. The logarithm of the
signal-to-noise ratio,

    log_snr(t) = log(alpha^2 / sigma^2),

falls strictly with t, so it names a noise level as well as t does; it has an inverse, ``time(log_snr)``. The forward process is
the stochastic differential equation

    dx = f x dt + g dw,        f = alpha' / alpha,        g^2 = 2 sigma sigma' - 2 f sigma^2 = -sigma^2 log_snr',

whatever the schedule (Score-Based Generative Modeling through Stochastic Differential Equations, arXiv 2011.13456; Variational
Diffusion Models, arXiv 2107.00630).

In a variance-preserving schedule alpha^2 + sigma^2 = 1, so that alpha and sigma follow from the log-SNR alone:

    alpha^2 = sigmoid(log_snr),        sigma^2 = sigmoid(-log_snr),
    alpha' = alpha sigma^2 log_snr' / 2,        sigma' = -sigma alpha^2 log_snr' / 2.

All schedules end where the log-SNR is 12 and -9 (sigma / alpha from 0.0025, far below any structure in standardised features, to
90, where nothing of x0 is left), unless their own time ends there first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import ScheduleConfig

__all__ = [
    "BetaSchedule",
    "CosineSchedule",
    "DDPMSchedule",
    "EDMSchedule",
    "LearnedSchedule",
    "Level",
    "LinearSchedule",
    "RectifiedSchedule",
    "Schedule",
    "SqrtRectifiedSchedule",
    "SubVPSchedule",
    "VESchedule",
    "VPSchedule",
    "build_schedule",
]

_LOG_SNR_MAX = 12.0
_LOG_SNR_MIN = -9.0


@dataclass(frozen=True)
class Level:
    """What a schedule says of one time, or of one a cloud: tensors that multiply (B, N, F), or scalars.

    Attributes:
        alpha, sigma: weights of data and noise.
        d_alpha, d_sigma: their derivatives in t.
    """

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def r(self) -> Tensor:
        """Standard deviation of x_t for data of unit variance, sqrt(alpha^2 + sigma^2)."""
        return (self.alpha**2 + self.sigma**2).sqrt()

    @property
    def log_snr(self) -> Tensor:
        return 2 * torch.log(self.alpha / self.sigma)

    @property
    def d_log_snr(self) -> Tensor:
        return 2 * (self.d_alpha / self.alpha - self.d_sigma / self.sigma)

    @property
    def g2(self) -> Tensor:
        """g^2 of the forward process."""
        return -(self.sigma**2) * self.d_log_snr


class Schedule(ABC):
    """A noise schedule; see the head of this module for the notation. Times may have any shape.

    Attributes:
        t_min: the time next to the data.
        t_max: the time next to noise.
    """

    t_min: float
    t_max: float

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Derivative of alpha in t."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Derivative of sigma in t."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2)."""
        return 2 * torch.log(self.alpha(t) / self.sigma(t))

    def d_log_snr(self, t: Tensor) -> Tensor:
        """Derivative of the log-SNR in t, negative."""
        return 2 * (self.d_alpha(t) / self.alpha(t) - self.d_sigma(t) / self.sigma(t))

    def level(self, t: Tensor) -> Level:
        """The noise level at times (B,), in tensors of shape (B, 1, 1)."""
        t = t[:, None, None]
        return Level(self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t))

    def _ends(self) -> None:
        """Set the times where the log-SNR reaches its bounds."""
        bounds = self.time(torch.tensor([_LOG_SNR_MAX, _LOG_SNR_MIN], dtype=torch.float64))
        self.t_min, self.t_max = bounds.tolist()


class VPSchedule(Schedule):
    """A variance-preserving schedule, given by its log-SNR."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def d_log_snr(self, t: Tensor) -> Tensor: ...

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.log_snr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t) * self.sigma(t) ** 2 * self.d_log_snr(t) / 2

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.sigma(t) * self.alpha(t) ** 2 * self.d_log_snr(t) / 2

    def level(self, t: Tensor) -> Level:
        # The same values as above, from one evaluation of the log-SNR.
        log_snr, slope = self.log_snr(t)[:, None, None], self.d_log_snr(t)[:, None, None] / 2
        alpha2, sigma2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        alpha, sigma = alpha2.sqrt(), sigma2.sqrt()
        return Level(alpha, sigma, alpha * sigma2 * slope, -sigma * alpha2 * slope)


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


class SubVPSchedule(Schedule):
    """alpha = exp(-B / 2), sigma = 1 - exp(-B), with B the decay of :class:`LinearSchedule`.

    The sub-variance-preserving diffusion of arXiv 2011.13456, equation 35: alpha^2 + sigma^2 < 1 in between.
    """

    def __init__(self) -> None:
        self._linear = LinearSchedule()
        self._ends()
        self.t_max = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._linear.decay(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._linear.decay(t))

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self._linear.beta(t) / 2 * self.alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self._linear.beta(t) * torch.exp(-self._linear.decay(t))

    def time(self, log_snr: Tensor) -> Tensor:
        # With q = exp(-B), SNR = q / (1 - q)^2; 1 - q is the root below that does not cancel.
        noise = 2 / (1 + torch.sqrt(1 + 4 * torch.exp(log_snr)))
        return self._linear.time_of_decay(-torch.log1p(-noise))


class VESchedule(Schedule):
    """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t: the variance-exploding diffusion of arXiv 2011.13456, equation 30."""

    sigma_min = math.exp(-_LOG_SNR_MAX / 2)
    sigma_max = math.exp(-_LOG_SNR_MIN / 2)

    def __init__(self) -> None:
        self.t_min, self.t_max = 0.0, 1.0
        self._rate = math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2 - math.log(self.sigma_min)) / self._rate


class EDMSchedule(Schedule):
    """alpha = 1, sigma = t: the time is the noise itself.

    Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).
    """

    def __init__(self) -> None:
        self._ends()

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2)


class RectifiedSchedule(Schedule):
    """alpha = 1 - t, sigma = t: straight lines between data and noise.

    Flow Matching for Generative Modeling (arXiv 2210.02747); Flow Straight and Fast (arXiv 2209.03003).
    """

    def __init__(self) -> None:
        self._ends()

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class SqrtRectifiedSchedule(Schedule):
    """alpha = 1 - t, sigma = sqrt(t), as the training-free score of arXiv 2310.14458 takes it."""

    def __init__(self) -> None:
        self._ends()

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        # (1 - t)^2 = SNR t; the smaller root in the form that does not cancel
        snr = torch.exp(log_snr)
        return 2 / (2 + snr + torch.sqrt(snr**2 + 4 * snr))


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
        return ends[0], (_LOG_SNR_MIN - _LOG_SNR_MAX) / (ends[1] - ends[0])

    def log_snr(self, t: Tensor) -> Tensor:
        start, scale = self._scale(t)
        return _LOG_SNR_MAX + scale * (self._monotone(t)[0] - start)

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


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule that a config names."""
    if config.kind == "ddpm":
        return DDPMSchedule.linear(config.steps, config.beta_first, config.beta_last)
    kinds: dict[str, Callable[[], Schedule]] = {
        "cosine": CosineSchedule,
        "linear": LinearSchedule,
        "sub-vp": SubVPSchedule,
        "ve": VESchedule,
        "edm": EDMSchedule,
        "rectified": RectifiedSchedule,
        "rectified-sqrt": SqrtRectifiedSchedule,
        "learned": LearnedSchedule,
    }
    return kinds[config.kind]()
