"""Diffusion, each module with its mathematics at its head.

- :mod:`~pcdiff.diffusion.schedule`, :mod:`~pcdiff.diffusion.poisson`: noise, Gaussian or of Poisson flows
- :mod:`~pcdiff.diffusion.denoiser`: what a net says of a noisy cloud, in any parametrisation
- :mod:`~pcdiff.diffusion.categories`, :mod:`~pcdiff.diffusion.heads`: what it says of categories, and of positions in a periodic box
- :mod:`~pcdiff.diffusion.weights`, :mod:`~pcdiff.diffusion.times`, :mod:`~pcdiff.diffusion.losses`,
  :mod:`~pcdiff.diffusion.objectives`: what is minimised
- :mod:`~pcdiff.diffusion.grids`, :mod:`~pcdiff.diffusion.samplers`, :mod:`~pcdiff.diffusion.fitted`: from noise to clouds
- :mod:`~pcdiff.diffusion.divergence`, :mod:`~pcdiff.diffusion.likelihood`: densities
- :mod:`~pcdiff.diffusion.guidance`: conditions, posteriors, constraints
- :mod:`~pcdiff.diffusion.bank`, :mod:`~pcdiff.diffusion.yukawa`: without training
"""

from __future__ import annotations

from pcdiff.diffusion.bank import BankDenoiser, posterior_mean
from pcdiff.diffusion.categories import CategoryHead
from pcdiff.diffusion.denoiser import PARAMETRISATIONS, Denoiser, DenoiserLike, Potential, Prediction
from pcdiff.diffusion.divergence import divergence, probe
from pcdiff.diffusion.fitted import fit_grids
from pcdiff.diffusion.grids import GRIDS, karras_grid, log_snr_grid, quadratic_grid, uniform_grid
from pcdiff.diffusion.guidance import (
    ClassifierFree,
    Constrained,
    InPainted,
    MomentMatching,
    Posterior,
    Truncated,
    repaint,
)
from pcdiff.diffusion.heads import Head, TorusHead
from pcdiff.diffusion.likelihood import Bound, Likelihood, log_factorial, log_likelihood, variational_bound
from pcdiff.diffusion.losses import denoising_loss, noised, pair_loss, trajectory_loss
from pcdiff.diffusion.objectives import action_loss, score_matching_loss
from pcdiff.diffusion.poisson import student_scale
from pcdiff.diffusion.samplers import (
    SAMPLERS,
    ancestral,
    ddim,
    drawer,
    edm_churn,
    euler,
    euler_maruyama,
    heun,
    ito,
    langevin,
    predictor_corrector,
    restart,
    rk45,
    sample,
    sde_dpm,
    unipc,
)
from pcdiff.diffusion.schedule import (
    BetaSchedule,
    CosineSchedule,
    DDPMSchedule,
    EDMSchedule,
    LearnedSchedule,
    Level,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    SqrtRectifiedSchedule,
    SubVPSchedule,
    VESchedule,
    VPSchedule,
    build_schedule,
)
from pcdiff.diffusion.times import comb, draw_times
from pcdiff.diffusion.weights import WEIGHTS
from pcdiff.diffusion.yukawa import sample_yukawa

__all__ = [
    "GRIDS",
    "PARAMETRISATIONS",
    "SAMPLERS",
    "WEIGHTS",
    "BankDenoiser",
    "BetaSchedule",
    "Bound",
    "CategoryHead",
    "ClassifierFree",
    "Constrained",
    "CosineSchedule",
    "DDPMSchedule",
    "Denoiser",
    "DenoiserLike",
    "EDMSchedule",
    "Head",
    "InPainted",
    "LearnedSchedule",
    "Level",
    "Likelihood",
    "LinearSchedule",
    "MomentMatching",
    "Posterior",
    "Potential",
    "Prediction",
    "RectifiedSchedule",
    "Schedule",
    "SqrtRectifiedSchedule",
    "SubVPSchedule",
    "TorusHead",
    "Truncated",
    "VESchedule",
    "VPSchedule",
    "action_loss",
    "ancestral",
    "build_schedule",
    "comb",
    "ddim",
    "denoising_loss",
    "divergence",
    "draw_times",
    "drawer",
    "edm_churn",
    "euler",
    "euler_maruyama",
    "fit_grids",
    "heun",
    "ito",
    "karras_grid",
    "langevin",
    "log_factorial",
    "log_likelihood",
    "log_snr_grid",
    "noised",
    "pair_loss",
    "posterior_mean",
    "predictor_corrector",
    "probe",
    "quadratic_grid",
    "repaint",
    "restart",
    "rk45",
    "sample",
    "sample_yukawa",
    "score_matching_loss",
    "sde_dpm",
    "student_scale",
    "trajectory_loss",
    "uniform_grid",
    "unipc",
    "variational_bound",
]
