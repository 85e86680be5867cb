"""Time grids: strictly falling times from noise to data that a sampler steps along.

A grid is an explicit tensor, and a sampler takes the tensor: whoever has better times gives those. A grid that was optimised for one
trained denoiser comes from :mod:`pcdiff.diffusion.fitted`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcdiff.diffusion.schedule import Schedule

__all__ = ["GRIDS", "karras_grid", "log_snr_grid", "quadratic_grid", "uniform_grid"]

_RHO = 7.0


def uniform_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in t; shape (steps + 1,), float64, from t_max to t_min."""
    return torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)


def quadratic_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in sqrt(t): finer towards the data."""
    roots = torch.linspace(schedule.t_max**0.5, schedule.t_min**0.5, steps + 1, dtype=torch.float64)
    return _pinned(schedule, roots**2)


def log_snr_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in log-SNR, the variable in which exponential integrators step (DPM-Solver, arXiv 2206.00927)."""
    high, low = schedule.log_snr_ends
    return _times(schedule, torch.linspace(low, high, steps + 1, dtype=torch.float64))


def karras_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in (sigma / alpha)^(1/7): finer towards the data (arXiv 2206.00364, equation 5, rho = 7)."""
    noise = torch.exp(-torch.tensor(schedule.log_snr_ends, dtype=torch.float64) / 2) ** (1 / _RHO)
    even = torch.linspace(float(noise[1]), float(noise[0]), steps + 1, dtype=torch.float64)
    return _times(schedule, -2 * _RHO * torch.log(even))


def _times(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """Times of rising log-SNR."""
    return _pinned(schedule, schedule.time(log_snr))


def _pinned(schedule: Schedule, times: Tensor) -> Tensor:
    """The same times with ends that are exactly those of the schedule, which rounding could leave outside."""
    times[0], times[-1] = schedule.t_max, schedule.t_min
    return times


GRIDS: dict[str, Callable[[Schedule, int], Tensor]] = {
    "log-snr": log_snr_grid,
    "uniform": uniform_grid,
    "quadratic": quadratic_grid,
    "karras": karras_grid,
}
