"""A denoiser whose score is known in closed form: points drawn independently from a Gaussian mixture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pcdiff.diffusion import CosineSchedule, Denoiser, Schedule


class MixtureNet(nn.Module):
    """The raw output F of the exact denoiser of ``sum_k w_k N(mean_k, std_k^2)`` in each coordinate of each point."""

    def __init__(self, means: list[float], stds: list[float], weights: list[float]) -> None:
        super().__init__()
        self.means, self.stds, self.weights = (torch.tensor(v, dtype=torch.float64) for v in (means, stds, weights))

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        alpha = torch.sigmoid(log_snr).sqrt()[:, None, None, None]
        sigma = torch.sigmoid(-log_snr).sqrt()[:, None, None, None]
        means, stds, y = self.means.to(x.dtype), self.stds.to(x.dtype), x[..., None]
        variance = alpha**2 * stds**2 + sigma**2
        log_p = -((y - alpha * means) ** 2) / (2 * variance) - variance.log() / 2 + self.weights.to(x.dtype).log()
        posterior = means + alpha * stds**2 / variance * (y - alpha * means)
        x0 = (torch.softmax(log_p, -1) * posterior).sum(-1)
        alpha, sigma = alpha[..., 0], sigma[..., 0]
        return ((alpha * (x - alpha * x0) / sigma) - sigma * x0) * mask[..., None]


def mixture(means: list[float], stds: list[float], weights: list[float], schedule: Schedule | None = None) -> Denoiser:
    return Denoiser(MixtureNet(means, stds, weights), schedule or CosineSchedule())


@pytest.fixture
def two_gaussians() -> Denoiser:
    return mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6])
