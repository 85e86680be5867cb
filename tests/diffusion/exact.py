"""Denoisers in closed form whose entries are correlated, for samplers, likelihoods and posteriors to be measured with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pcdiff.diffusion import (
    CosineSchedule,
    Denoiser,
    DenoiserLike,
    EDMSchedule,
    LinearSchedule,
    Prediction,
    RectifiedSchedule,
    Schedule,
    SqrtRectifiedSchedule,
    SubVPSchedule,
    VESchedule,
)

SCHEDULES: list[Schedule] = [
    CosineSchedule(),
    LinearSchedule(),
    EDMSchedule(),
    RectifiedSchedule(),
    SubVPSchedule(),
    VESchedule(),
    SqrtRectifiedSchedule(),
]


# A mixture of two components in two dimensions, for :func:`correlated`.
MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.6]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[0.30, 0.18], [0.18, 0.20]], [[0.25, -0.15], [-0.15, 0.40]]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.4, 0.6], dtype=torch.float64)


def named(schedules: list[Schedule]) -> list[str]:
    """Names for pytest."""
    return [type(schedule).__name__.removesuffix("Schedule") for schedule in schedules]


class CorrelatedNet(nn.Module):
    """F of the exact denoiser of vectors drawn from ``sum_k w_k N(means_k, covariances_k)``.

    Args:
        means: shape (K, D).
        covariances: shape (K, D, D).
        weights: shape (K,).
        whole: the vector is the whole cloud, D = N F, instead of each point by itself, D = F.
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor, *, whole: bool = False) -> None:
        super().__init__()
        self.means, self.covariances, self.weights, self.whole = means, covariances, weights, whole
        self.values, self.vectors = torch.linalg.eigh(covariances)

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        y = x.flatten(1)[:, None] if self.whole else x
        shape = (-1, 1, 1, 1)
        alpha, sigma = torch.sigmoid(log_snr).sqrt().view(shape), torch.sigmoid(-log_snr).sqrt().view(shape)
        # in the principal axes of each component, shape (B, N, K, D)
        z = torch.einsum("bnd,kde->bnke", y, self.vectors) - alpha * torch.einsum(
            "kd,kde->ke", self.means, self.vectors
        )
        variance = alpha**2 * self.values + sigma**2
        log_p = -(z**2 / variance + variance.log()).sum(-1) / 2 + self.weights.log()
        pulled = torch.einsum("bnke,kde->bnkd", alpha * self.values / variance * z, self.vectors) + self.means
        x0 = (torch.softmax(log_p, -1)[..., None] * pulled).sum(-2)
        alpha, sigma = alpha[..., 0], sigma[..., 0]
        return (alpha * (y - alpha * x0) / sigma - sigma * x0).view(x.shape) * mask[..., None]


def correlated(
    means: Tensor, covariances: Tensor, weights: Tensor, schedule: Schedule | None = None, *, whole: bool = False
) -> Denoiser:
    return Denoiser(CorrelatedNet(means, covariances, weights, whole=whole), schedule or CosineSchedule())


def gaussian(covariance: Tensor, schedule: Schedule | None = None, *, whole: bool = False) -> Denoiser:
    """N(0, covariance)."""
    return correlated(
        covariance.new_zeros(1, len(covariance)), covariance[None], covariance.new_ones(1), schedule, whole=whole
    )


def moments(means: Tensor, covariances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of a mixture."""
    mean = weights @ means
    away = means - mean
    return mean, torch.einsum("k,kij->ij", weights, covariances + away[:, :, None] * away[:, None, :])


def random_covariance(size: int, generator: torch.Generator) -> Tensor:
    """A random covariance of unit variances whose correlations are of order one."""
    a = torch.randn(size, size, generator=generator, dtype=torch.float64)
    full = a @ a.T + 0.3 * size * torch.eye(size, dtype=torch.float64)
    scale = full.diagonal().rsqrt()
    return full * scale[:, None] * scale


def pulls(samples: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """How many standard errors the mean and each entry of the covariance of samples (n, D) are from what they should be.

    The standard errors are those of averages: of the entries, and of their products about the true mean.
    """
    n, size = samples.shape
    i, j = torch.triu_indices(size, size)
    away = samples - mean
    products = away[:, i] * away[:, j]
    first = away.mean(0) / (covariance.diagonal() / n).sqrt()
    second = (products.mean(0) - covariance[i, j]) / (products.std(0) / math.sqrt(n))
    return torch.cat([first, second])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def all_points(noise: Tensor) -> dict[str, Tensor]:
    """The arguments of a sampler for clouds without padding and without conditions."""
    return {
        "noise": noise,
        "mask": torch.ones(noise.shape[:2], dtype=torch.bool),
        "cond": noise.new_zeros(len(noise), 0),
    }


def at(denoiser: DenoiserLike, x_t: Tensor, t: float) -> Prediction:
    """The prediction for clouds without padding that all stand at one time."""
    batch = all_points(x_t)
    return denoiser(x_t, x_t.new_full((len(x_t),), t), batch["mask"], batch["cond"])
