"""Schedules that do not preserve the variance: sub-variance-preserving, variance-exploding, EDM's, and straight lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcdiff.diffusion.schedule.base import LOG_SNR_MAX, LOG_SNR_MIN, Schedule
from pcdiff.diffusion.schedule.preserving import LinearSchedule

__all__ = ["EDMSchedule", "RectifiedSchedule", "SqrtRectifiedSchedule", "SubVPSchedule", "VESchedule"]


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

    sigma_min = math.exp(-LOG_SNR_MAX / 2)
    sigma_max = math.exp(-LOG_SNR_MIN / 2)

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
