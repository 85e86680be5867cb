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
90, where nothing of x0 is left), but for the ends that belong to a method: the linear, the sub-VP and the DDPM schedule go on to t = 1,
where it is -10, and DDPM begins at its first step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pcdiff.config import ScheduleConfig
from pcdiff.diffusion.schedule.base import LOG_SNR_MAX, Level, Schedule, VPSchedule
from pcdiff.diffusion.schedule.other import (
    EDMSchedule,
    RectifiedSchedule,
    SqrtRectifiedSchedule,
    SubVPSchedule,
    VESchedule,
)
from pcdiff.diffusion.schedule.preserving import (
    BetaSchedule,
    CosineSchedule,
    DDPMSchedule,
    LearnedSchedule,
    LinearSchedule,
)

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
    schedule = kinds[config.kind]()
    if config.log_snr_max < LOG_SNR_MAX:
        schedule.t_min = float(schedule.time(torch.tensor(config.log_snr_max, dtype=torch.float64)))
    return schedule
