r"""A time grid fitted to a trained denoiser.

One fine solution of the probability-flow ODE gives x and m = E[x0 | x_t] at K times for a few hundred clouds. What a step of an exponential
integrator from time j to k would miss, had it begun on that trajectory, follows without another evaluation of the net,

    e(i, j, k) = x_k - (sigma_k / sigma_j) x_j - alpha_k (w_j m_j + w_i m_i),

with the weights of :mod:`pcdiff.diffusion.samplers.exponential` and i the step before. The grid of N steps is the way through the fine times whose
sum of root-mean-square errors is least, in units of r, the size of x; dynamic programming over pairs of times finds it.

The idea of placing times by the trajectories of the model at hand is that of Align Your Steps (arXiv 2404.14507) and of On the Trajectory Regularity of
ODE-based Diffusion Sampling (arXiv 2405.11326); the cost here is that of the integrator itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import DenoiserLike, Prediction
from pcdiff.diffusion.grids import log_snr_grid
from pcdiff.diffusion.samplers.base import Levels
from pcdiff.diffusion.samplers.exponential import STRETCH, predictor_weights, unipc

__all__ = ["fit_grids"]

Floats = npt.NDArray[np.float64]


@torch.no_grad()
def fit_grids(
    denoiser: DenoiserLike, noise: Tensor, mask: Tensor, cond: Tensor, steps: tuple[int, ...], *, fine: int = 96
) -> dict[int, Tensor]:
    """Grids for :func:`~pcdiff.diffusion.samplers.ddim` of order 2, one for each number of steps.

    Args:
        denoiser: the trained model.
        noise: standard normal, shape (B, N, F); a few hundred clouds suffice.
        mask: shape (B, N).
        cond: shape (B, C).
        steps: numbers of steps, each less than ``fine``.
        fine: number of steps of the fine solution, whose times the grids are chosen from.

    Returns:
        Strictly falling times by number of steps, shape (steps + 1,), float64.
    """
    if not all(1 <= count < fine for count in steps):
        raise ValueError(f"numbers of steps are {steps}; expected whole numbers from 1 to {fine - 1}")
    grid = log_snr_grid(denoiser.schedule, fine)
    states: list[Tensor] = []
    values: list[Tensor] = []

    def look(_: int, __: Tensor, x: Tensor, prediction: Prediction) -> None:
        states.append(x)
        values.append(prediction.x0)

    last = unipc(denoiser, noise, grid, mask, cond, order=3, callback=look)
    vectors = torch.stack([*states, last, *values])[:, mask].flatten(1).double()
    gram = (vectors @ vectors.T / vectors.shape[1]).cpu().numpy()
    errors = _step_errors(gram, Levels.of(denoiser, grid))
    return {count: grid[torch.from_numpy(_shortest(errors, count))] for count in steps}


def _step_errors(gram: Floats, levels: Levels) -> Floats:
    """The error of the step from j to k after one from i, entry [i, j, k]; entry [j, j, k] is that of order 1, without i."""
    fine = levels.steps
    lam = np.asarray(levels.lam)
    errors = np.full((fine, fine, fine + 1), np.inf)
    for j in range(fine):
        for k in range(j + 1, fine + 1):
            r = np.hypot(levels.alpha[k], levels.sigma[k])
            before = [i for i in range(j) if lam[k] - lam[j] <= STRETCH * (lam[j] - lam[i])]
            # x_k - (sigma_k / sigma_j) x_j - alpha_k sum w m, as coefficients of the vectors of the Gram matrix
            rows = np.zeros((1 + len(before), len(gram)))
            rows[:, k], rows[:, j] = 1, -levels.sigma[k] / levels.sigma[j]
            (rows[0, fine + 1 + j],) = (-levels.alpha[k] * w for w in predictor_weights([lam[j]], lam[k]))
            for row, i in zip(rows[1:], before, strict=True):
                w_j, w_i = predictor_weights([lam[j], lam[i]], lam[k])
                row[fine + 1 + j], row[fine + 1 + i] = -levels.alpha[k] * w_j, -levels.alpha[k] * w_i
            size = np.sqrt(np.maximum(np.einsum("ra,ab,rb->r", rows, gram, rows, optimize=True), 0)) / r
            errors[:j, j, k] = size[0]
            errors[before, j, k] = size[1:]
            errors[j, j, k] = size[0]
    return errors


def _shortest(errors: Floats, count: int) -> npt.NDArray[np.int64]:
    """The fine times, from the first to the last, whose steps have the least sum of errors."""
    fine = errors.shape[0]
    # cost[j, k]: the best way whose last step is from j to k; the first step has none before it.
    cost = np.full((fine, fine + 1), np.inf)
    cost[0] = errors[0, 0]
    came: list[npt.NDArray[np.int64]] = []
    for _ in range(count - 1):
        ways = cost[:, :fine, None] + np.where(np.eye(fine, dtype=bool)[:, :, None], np.inf, errors)
        came.append(ways.argmin(0))
        cost = ways.min(0)
    k, j = fine, int(cost[:, fine].argmin())
    path = [k, j]
    for choice in reversed(came):
        j, k = int(choice[j, k]), j
        path.append(j)
    return np.asarray(path[::-1], np.int64)
