r"""Times to train at.

The loss of :mod:`pcdiff.diffusion.losses` is an integral over t. Its times are drawn

- ``uniform``: independently and evenly over [t_min, t_max];
- ``low-discrepancy``: evenly, as one comb with a random shift, (u + i / count) mod 1, which lowers the variance of the batch's
  mean (Variational Diffusion Models, arXiv 2107.00630, appendix I.1);
- ``logit-normal``: such that -log_snr is normal, N(-2.4, 2.4^2), within the ends of the schedule. In sigma / alpha that is the log-normal
  of Elucidating the Design Space (arXiv 2206.00364: mean -1.2, standard deviation 1.2), in the t of a rectified schedule the
  logit-normal of Scaling Rectified Flow Transformers (arXiv 2403.03206). These times are a choice of what to train on, and nothing is
  divided out;
- ``log-snr``: evenly in log-SNR, with that density divided out again. With the weight ``likelihood`` each unit of log-SNR then counts alike in
  the error of the noise, however fast a schedule passes it.
- ``importance``: in proportion to the weight of the loss on the net's own error, with that density divided out again:

      E_uniform[w |F - F*|^2]  =  E_p[(w / p) |F - F*|^2],        p ~ w.

  The mean is that of uniform times; its variance is lower, because |F - F*|^2 is of order one at each t. For the weight
  ``likelihood`` this is the importance sampling of Maximum Likelihood Training of Score-Based Diffusion Models (arXiv 2101.09258).

All but ``uniform`` use the comb.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pcdiff.diffusion.schedule import Schedule
from pcdiff.diffusion.weights import WEIGHTS

__all__ = ["TimeKind", "comb", "draw_times"]

TimeKind = Literal["uniform", "low-discrepancy", "logit-normal", "importance", "log-snr"]

_LOG_SNR_MEAN = 2.4
_LOG_SNR_STD = 2.4
# Cells in which the importance density is constant.
_CELLS = 512


def comb(count: int, generator: torch.Generator) -> Tensor:
    """Numbers between 0 and 1, evenly spread with a random shift; shape (count,), float32."""
    return (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1


def draw_times(
    schedule: Schedule, count: int, kind: TimeKind, generator: torch.Generator, *, weight: str = "epsilon"
) -> tuple[Tensor, Tensor]:
    """Times for a batch.

    Args:
        schedule: of the noise.
        count: how many.
        kind: see the head of this module.
        generator: of random numbers, on the CPU.
        weight: that of the loss, which ``importance`` draws in proportion to.

    Returns:
        The times and the factors that make a mean over them one over uniform times; both of shape (count,), float32.
    """
    unit = torch.rand(count, generator=generator) if kind == "uniform" else comb(count, generator)
    one = torch.ones(count)
    if kind == "logit-normal":
        return _logit_normal(schedule, unit), one
    if kind == "importance":
        return _importance(schedule, unit, weight)
    if kind == "log-snr":
        return _even(schedule, unit)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * unit, one


def _logit_normal(schedule: Schedule, unit: Tensor) -> Tensor:
    high, low = torch.special.ndtr(
        (torch.tensor(schedule.log_snr_ends, dtype=torch.float64) - _LOG_SNR_MEAN) / _LOG_SNR_STD
    )
    log_snr = _LOG_SNR_MEAN + _LOG_SNR_STD * torch.special.ndtri(high + (low - high) * unit.double())
    return schedule.time(log_snr).clamp(schedule.t_min, schedule.t_max).float()


@torch.no_grad()
def _even(schedule: Schedule, unit: Tensor) -> tuple[Tensor, Tensor]:
    high, low = schedule.log_snr_ends
    t = schedule.time(high + (low - high) * unit.double()).clamp(schedule.t_min, schedule.t_max)
    # dt / dunit over the length of the range of t
    slope = (low - high) / schedule.level(t).d_log_snr.flatten() / (schedule.t_max - schedule.t_min)
    return t.float(), slope.float()


@torch.no_grad()
def _importance(schedule: Schedule, unit: Tensor, weight: str) -> tuple[Tensor, Tensor]:
    # Cells even in log-SNR, in which weights are smooth though in t some diverge at the end.
    high, low = schedule.log_snr_ends
    t = schedule.time(torch.linspace(high, low, _CELLS + 1, dtype=torch.float64)).clamp(schedule.t_min, schedule.t_max)
    widths = t.diff()
    middle = schedule.time(torch.linspace(high, low, 2 * _CELLS + 1, dtype=torch.float64)[1::2])
    mass = WEIGHTS[weight](schedule.level(middle)).flatten() * widths
    share = mass / mass.sum()
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)])
    cell = (torch.searchsorted(edges, unit.double(), right=True) - 1).clamp(0, _CELLS - 1)
    inside = ((unit.double() - edges[cell]) / share[cell].clamp(min=math.ulp(1))).clamp(0, 1)
    factor = widths[cell] / (schedule.t_max - schedule.t_min) / share[cell]
    return (t[cell] + inside * widths[cell]).float(), factor.float()
