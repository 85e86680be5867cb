r"""Poisson flows: PFGM++ in the language of noise.

Points of N dimensions (here the N = n F entries of a cloud of n points) are taken as charges in N + D dimensions; their field
at a distance z from the plane of the data transports a heavy-tailed prior to the data (PFGM++: Unlocking the Potential of
Physics-Inspired Generative Models, arXiv 2302.04265; D = 1 is the Poisson flow of arXiv 2209.11178). With z = sigma sqrt(D) the
perturbation kernel of PFGM++,

    p(x | x0) ~ (|x - x0|^2 + sigma^2 D)^{-(N + D) / 2},

is a multivariate Student t of D degrees of freedom and scale sigma. So the whole family is diffusion with another noise,

    x_t = alpha x0 + sigma n,        n = z sqrt(D / chi^2_D),        z ~ N(0, 1),

one chi^2 a cloud, whatever N is; D -> infinity gives back Gaussian noise. The flow is dx/dt = alpha' x0 + sigma' E[n | x],
as for Gaussian noise, so each ODE sampler that works with the expected x0 is a sampler of Poisson flows.

Student noise has tails in which x_t / r is not of order one. But given its length |n|, the noise of a cloud has a known scale: the
D / chi^2 behind it is (D + |n|^2) / (D + N) (one over the mean of chi^2 / D). Of |n|^2 only |x_t|^2 is seen; for data of unit variance
|x_t|^2 / r^2 is |n|^2 where noise prevails and N, what |n|^2 is about, where data do. The cloud is therefore preconditioned at the level

    sigma_eff^2 = sigma^2 (D + |x_t|^2 / r^2) / (D + N),

which is sigma for D -> infinity, follows |x_t| where a cloud stands far out, and vanishes with sigma, so that x0 becomes x_t next to the data.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from pcdiff.diffusion.schedule import Level

__all__ = ["effective_level", "student_scale"]


def student_scale(unit: Tensor, dimension: float) -> Tensor:
    """sqrt(D / chi^2_D) by its quantiles: what standard normal noise is multiplied by to become Student noise.

    Args:
        unit: uniforms in [0, 1), any shape; one a cloud.
        dimension: D > 0.

    Returns:
        Of the same shape and dtype.
    """
    # gammaincinv(D / 2, u) is half a chi^2; it is zero at u = 0.
    level = np.clip(unit.double().cpu().numpy(), 1e-12, 1.0)
    half = special.gammaincinv(dimension / 2, level)
    return torch.from_numpy(np.asarray(np.sqrt(dimension / 2 / half))).to(unit)


def effective_level(level: Level, x_t: Tensor, mask: Tensor, dimension: float) -> Level:
    """The Gaussian level at which a cloud with Student noise stands.

    Its alpha is that of ``level``; its sigma follows the length of x_t (see the head of this module); the derivative of sigma is
    scaled alike, so that sigma' / sigma, which the flow needs, is unchanged.

    Args:
        level: of the schedule, shapes (B, 1, 1).
        x_t: noisy clouds, shape (B, N, F), zero where the mask is false.
        mask: shape (B, N).
        dimension: D > 0.
    """
    if not dimension > 0 or math.isinf(dimension):
        raise ValueError(f"dimension is {dimension}; expected a finite number above 0")
    entries = mask.sum(1)[:, None, None].to(x_t.dtype) * x_t.shape[2]
    length2 = x_t.square().sum((1, 2), keepdim=True)
    # Numerator and denominator divided by D: at D = 1e8 the sums would lose the digits of the other term.
    stretch = ((1 + length2 / (level.r**2 * dimension)) / (1 + entries / dimension)).sqrt()
    return Level(level.alpha, level.sigma * stretch, level.d_alpha, level.d_sigma * stretch)
