r"""The denoiser: a net and a schedule, read as any of the usual predictions.

With r^2 = alpha^2 + sigma^2 and data of unit variance, the net sees x_t / r, whose variance is 1 at each t, and its raw
output F gives

    x0 = (alpha x_t / r - sigma F) / r,        eps = (sigma x_t / r + alpha F) / r,

so that alpha x0 + sigma eps = x_t always, and the F to learn is (alpha eps - sigma x0) / r. In a variance-preserving
schedule r = 1 and F is the v prediction of Progressive Distillation (arXiv 2202.00512); in a variance-exploding one it is the
preconditioning of Elucidating the Design Space (arXiv 2206.00364) with unit data variance. F starts at zero: the untrained
net is the exact denoiser of Gaussian data. x0 is never formed by dividing by alpha, nor eps by dividing by sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pcdiff.diffusion.schedule import Schedule

__all__ = ["Denoiser", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What the denoiser says about x_t, in each parametrisation; all of shape (B, N, F).

    Attributes:
        x_t: the noisy clouds.
        output: the net's raw output F.
        alpha: shape (B, 1, 1).
        sigma: shape (B, 1, 1).
    """

    x_t: Tensor
    output: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def x0(self) -> Tensor:
        """The expected clean cloud, E[x0 | x_t]."""
        r2 = self.alpha**2 + self.sigma**2
        return self.alpha / r2 * self.x_t - self.sigma / r2.sqrt() * self.output

    @property
    def eps(self) -> Tensor:
        """The expected noise, E[eps | x_t]."""
        r2 = self.alpha**2 + self.sigma**2
        return self.sigma / r2 * self.x_t + self.alpha / r2.sqrt() * self.output

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0 (arXiv 2202.00512)."""
        return (self.alpha**2 + self.sigma**2).sqrt() * self.output

    @property
    def score(self) -> Tensor:
        """The gradient of log p(x_t) in x_t, -eps / sigma."""
        return -self.eps / self.sigma


class Denoiser(nn.Module):
    """A net ``net(x, log_snr, mask, cond)`` under a schedule."""

    def __init__(self, net: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.net = net
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        """Predict from noisy clouds.

        Args:
            x_t: shape (B, N, F), zero where the mask is false.
            t: times, shape (B,).
            mask: shape (B, N), true where a point is real.
            cond: conditions, shape (B, C).
        """
        alpha = self.schedule.alpha(t)[:, None, None]
        sigma = self.schedule.sigma(t)[:, None, None]
        r = (alpha**2 + sigma**2).sqrt()
        output = self.net(x_t / r, self.schedule.log_snr(t), mask, cond)
        return Prediction(x_t, output, alpha, sigma)
