r"""The score without training: expectations over a bank of clean clouds.

If the data were the K clouds y_k of a bank, each equally likely, the expected clean cloud given a noisy one would be exact,

    E[x0 | x_t] = sum_k w_k y_k,        w = softmax_k log q(x_t | y_k),

with q the kernel of the noise; the score follows from it as from any prediction. This one estimate is the Monte-Carlo score of
Diffusion-Model-Assisted Supervised Learning of Generative Models for Density Estimation (Liu et al., arXiv 2310.14458), the stable target of
Stable Target Field for Reduced Variance Score Estimation (arXiv 2302.00670), the field of a Poisson flow over a batch of charges (arXiv 2209.11178)
and, where the data are few or drawn from a known density, the truth that samplers are tested with.

Kernels, with d^2 = |x_t - alpha y_k|^2 over the N entries of a cloud:

    Gaussian   -d^2 / (2 sigma^2)
    Student    -(N + D) / 2 log(d^2 + sigma^2 D)          Poisson flows, see :mod:`pcdiff.diffusion.poisson`
    Yukawa     see :mod:`pcdiff.diffusion.yukawa`

Clouds are compared entry by entry, so the order of points counts: sort them before (by pT, say), or keep to clouds of one point. A noisy cloud
is only compared with clouds of its own number of points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pcdiff.diffusion.denoiser import Prediction
from pcdiff.diffusion.schedule import Schedule

__all__ = ["BankDenoiser", "LogKernel", "gaussian_kernel", "posterior_mean", "student_kernel"]

LogKernel = Callable[[Tensor, Tensor], Tensor]
"""From squared distances (B, K) and numbers of entries (B, 1) to the log of the kernel (B, K), up to a constant a cloud."""


def gaussian_kernel(sigma: Tensor) -> LogKernel:
    """The kernel of Gaussian noise of standard deviations ``sigma``, shape (B,)."""
    return lambda distance2, entries: -distance2 / (2 * sigma[:, None] ** 2)  # noqa: ARG005


def student_kernel(sigma: Tensor, dimension: float) -> LogKernel:
    """The kernel of Student noise of D degrees of freedom and scales ``sigma``, shape (B,)."""

    def log_kernel(distance2: Tensor, entries: Tensor) -> Tensor:
        # divided by sigma^2 D, so that D = 1e8 loses no digits
        return -(entries + dimension) / 2 * torch.log1p(distance2 / (sigma[:, None] ** 2 * dimension))

    return log_kernel


def posterior_mean(
    x_t: Tensor, alpha: Tensor, mask: Tensor, bank: Tensor, bank_mask: Tensor, log_kernel: LogKernel
) -> Tensor:
    """E[x0 | x_t] over a bank.

    Args:
        x_t: noisy clouds, shape (B, N, F), zero where the mask is false.
        alpha: weight of the data, shape (B,).
        mask: shape (B, N).
        bank: clean clouds, shape (K, N, F), zero where their mask is false.
        bank_mask: shape (K, N).
        log_kernel: of the noise.

    Returns:
        Shape (B, N, F).

    Raises:
        ValueError: the bank has no cloud with as many points as a noisy one.
    """
    sizes, bank_sizes = mask.sum(1), bank_mask.sum(1)
    same = sizes[:, None] == bank_sizes[None, :]
    if not bool(same.any(1).all()):
        lacking = sorted(set(sizes[~same.any(1)].tolist()))
        raise ValueError(f"the bank has no cloud of {lacking[0]} points")
    flat, flat_bank = x_t.flatten(1), bank.flatten(1)
    # |x / alpha - y| alpha, as a norm of differences: a matrix product cancels where a cloud is near one of the bank
    scaled = torch.cdist(flat / alpha[:, None], flat_bank, compute_mode="donot_use_mm_for_euclid_dist")
    distance2 = (alpha[:, None] * scaled).square()
    log_w = log_kernel(distance2, (sizes * x_t.shape[2])[:, None].to(x_t.dtype))
    weights = torch.softmax(log_w.masked_fill(~same, -torch.inf), dim=1)
    return (weights @ flat_bank).view_as(x_t)


class BankDenoiser(nn.Module):
    """A denoiser that was never trained: :func:`posterior_mean` over a bank, under a schedule.

    It obeys the contract of :class:`pcdiff.diffusion.denoiser.Denoiser`; conditions are ignored.

    Args:
        bank: clean clouds, shape (K, N, F), unit variance, zero where their mask is false.
        bank_mask: shape (K, N).
        schedule: of the noise.
        dimension: the D of a Poisson flow; Gaussian noise when absent.
    """

    bank: Tensor
    bank_mask: Tensor

    def __init__(self, bank: Tensor, bank_mask: Tensor, schedule: Schedule, *, dimension: float | None = None) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.register_buffer("bank_mask", bank_mask)
        self.schedule = schedule
        self.dimension = dimension

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:  # noqa: ARG002
        """As :meth:`pcdiff.diffusion.denoiser.Denoiser.forward`; clouds have at most the bank's number of points N."""
        if x_t.shape[1] > self.bank.shape[1]:
            raise ValueError(
                f"clouds are padded to {x_t.shape[1]} points, those of the bank to {self.bank.shape[1]} only"
            )
        level = self.schedule.level(t)
        alpha, sigma = level.alpha.flatten(), level.sigma.flatten()
        kernel = gaussian_kernel(sigma) if self.dimension is None else student_kernel(sigma, self.dimension)
        # Narrower than the bank: without the clouds that do not fit, which cut short would look like smaller ones.
        width = x_t.shape[1]
        fits = self.bank_mask.sum(1) <= width
        x0 = posterior_mean(x_t, alpha, mask, self.bank[fits, :width], self.bank_mask[fits, :width], kernel)
        return Prediction.of("x0", x0, x_t, level)
