"""Diffusion: schedule, denoiser, losses, time grids and samplers, with one page of mathematics at the head of each module."""

from __future__ import annotations

from pcdiff.diffusion.denoiser import Denoiser, Prediction
from pcdiff.diffusion.grids import GRIDS, log_snr_grid, quadratic_grid, uniform_grid
from pcdiff.diffusion.losses import denoising_loss, draw_times
from pcdiff.diffusion.samplers import SAMPLERS, ddim
from pcdiff.diffusion.schedule import CosineSchedule, LinearSchedule, Schedule, build_schedule

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "CosineSchedule",
    "Denoiser",
    "LinearSchedule",
    "Prediction",
    "Schedule",
    "build_schedule",
    "ddim",
    "denoising_loss",
    "draw_times",
    "log_snr_grid",
    "quadratic_grid",
    "uniform_grid",
]
