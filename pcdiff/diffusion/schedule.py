r"""Noise schedules.

A cloud x0 is noised to

    x_t = alpha(t) x0 + sigma(t) eps,        eps ~ N(0, 1),        t in [t_min, t_max],

with t_min next to the data and t_max next to pure noise. The logarithm of the signal-to-noise ratio,

    log_snr(t) = log(alpha^2 / sigma^2),

falls strictly with t, so it names a noise level as well as t does; it has an inverse. In a variance-preserving
schedule alpha^2 + sigma^2 = 1, so that alpha and sigma follow from the log-SNR alone:

    alpha^2 = sigmoid(log_snr),        sigma^2 = sigmoid(-log_snr).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pcdiff.config import ScheduleConfig

__all__ = ["CosineSchedule", "LinearSchedule", "Schedule", "build_schedule"]

# sigma from 0.0025, far below any structure in standardised features, to alpha = 0.011, where nothing of x0 is left.
_LOG_SNR_MAX = 12.0
_LOG_SNR_MIN = -9.0


class Schedule(ABC):
    """A noise schedule; see the head of this module for the notation.

    Attributes:
        t_min: the time next to the data.
        t_max: the time next to noise.
    """

    t_min: float
    t_max: float

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at the times t, any shape."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`."""

    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data at the times t, any shape."""
        return torch.sigmoid(self.log_snr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at the times t, any shape."""
        return torch.sigmoid(-self.log_snr(t)).sqrt()


class CosineSchedule(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), without its offset: the times end where the log-SNR
    is 12 and -9 instead.
    """

    def __init__(self) -> None:
        self.t_min = 2 / math.pi * math.atan(math.exp(-_LOG_SNR_MAX / 2))
        self.t_max = 2 / math.pi * math.atan(math.exp(-_LOG_SNR_MIN / 2))

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(torch.tan(math.pi / 2 * t))

    def time(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))


class LinearSchedule(Schedule):
    """d log(alpha^2) / dt = -beta(t), beta linear in t from 0.1 to 20.

    Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), equation 33:
    log alpha^2 = -(beta_min t + (beta_max - beta_min) t^2 / 2).
    """

    beta_min = 0.1
    beta_max = 20.0

    def __init__(self) -> None:
        self.t_max = 1.0
        self.t_min = float(self.time(torch.tensor(_LOG_SNR_MAX, dtype=torch.float64)))

    def log_snr(self, t: Tensor) -> Tensor:
        decay = self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2
        # alpha^2 / sigma^2 = exp(-decay) / (1 - exp(-decay)), in the form that keeps its digits at small t
        return -torch.log(torch.expm1(decay))

    def time(self, log_snr: Tensor) -> Tensor:
        decay = torch.nn.functional.softplus(-log_snr)
        slope = self.beta_max - self.beta_min
        # the root of the quadratic in the form that does not cancel
        return 2 * decay / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * decay))


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule that a config names."""
    return {"cosine": CosineSchedule, "linear": LinearSchedule}[config.kind]()
