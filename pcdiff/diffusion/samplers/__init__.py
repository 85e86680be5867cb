"""Samplers: plain functions ``sampler(denoiser, noise, grid, mask, cond, ...)`` over an explicit time grid."""

from __future__ import annotations

from pcdiff.diffusion.samplers.ddim import Callback, ddim

SAMPLERS = {"ddim": ddim}

__all__ = ["SAMPLERS", "Callback", "ddim"]
