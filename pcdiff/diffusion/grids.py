"""Time grids: strictly falling times from noise to data that a sampler steps along."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcdiff.diffusion.schedule import Schedule

__all__ = ["GRIDS", "log_snr_grid", "quadratic_grid", "uniform_grid"]


def uniform_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in t; shape (steps + 1,), float64, from t_max to t_min."""
    return torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)


def quadratic_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in sqrt(t): finer towards the data."""
    return torch.linspace(schedule.t_max**0.5, schedule.t_min**0.5, steps + 1, dtype=torch.float64) ** 2


def log_snr_grid(schedule: Schedule, steps: int) -> Tensor:
    """Even in log-SNR, the variable in which exponential integrators step (DPM-Solver, arXiv 2206.00927)."""
    ends = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    return schedule.time(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64))


GRIDS: dict[str, Callable[[Schedule, int], Tensor]] = {
    "log-snr": log_snr_grid,
    "uniform": uniform_grid,
    "quadratic": quadratic_grid,
}
