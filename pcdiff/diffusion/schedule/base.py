"""What every schedule has; see :mod:`pcdiff.diffusion.schedule` for the notation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LOG_SNR_MAX", "LOG_SNR_MIN", "Level", "Schedule", "VPSchedule"]

# The log-SNR next to the data and next to noise.
LOG_SNR_MAX = 12.0
LOG_SNR_MIN = -9.0


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

    @property
    def log_snr_ends(self) -> tuple[float, float]:
        """The log-SNR at t_min and at t_max."""
        with torch.no_grad():
            high, low = self.log_snr(torch.tensor([self.t_min, self.t_max], dtype=torch.float64)).tolist()
        return high, low

    def level(self, t: Tensor) -> Level:
        """The noise level at times (B,), in tensors of shape (B, 1, 1)."""
        t = t[:, None, None]
        return Level(self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t))

    def _ends(self) -> None:
        """Set the times where the log-SNR reaches its bounds."""
        bounds = self.time(torch.tensor([LOG_SNR_MAX, LOG_SNR_MIN], dtype=torch.float64))
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
