"""How a net's output for some channels is read, where it is not one of the usual predictions of a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcdiff.diffusion.schedule import Level

__all__ = ["Head", "TorusHead", "placed", "torus_head"]

# Images of the box on either side that a wrapped normal distribution of 0.9 of its size reaches, to 1e-9.
_IMAGES = 6


class Head(nn.Module, ABC):
    """Reads the output for its channels.

    Attributes:
        channels: which ones among those of a point, shape (C,).
        parametrisation: what it makes of the output, a key of :data:`pcdiff.diffusion.PARAMETRISATIONS`.
    """

    channels: Tensor
    parametrisation: str

    @abstractmethod
    def forward(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:
        """The prediction for these channels, shape (B, N, C), from theirs of the noisy clouds and of the net's output, likewise."""

    def noise(self, eps: Tensor, level: Level) -> Tensor:  # noqa: ARG002
        """What the noise of these channels, shape (B, N, C), is known to be from the clean and the noisy cloud: what predictions are compared with."""
        return eps


class TorusHead(Head):
    """Positions in a periodic box, whose noise the net puts out as it is.

    The preconditioned output would depend on where the origin is: on a torus there is no Gaussian to start from. At an output of 0, where an
    untrained net starts, it is the exact denoiser of points that are spread evenly and independently.

    Where the noise is as large as the box, the same noisy position is reached by noise around it in any number of turns. Of these the mean

        sum_k (eps + k P alpha / sigma) w_k,        w_k ~ exp(-(eps + k P alpha / sigma)^2 / 2),

    is what can be known of the noise: -sigma times the score of the wrapped normal distribution. A prediction that is compared with it
    has the same optimum, less variance, and a variational bound that is tight.

    Args:
        channels: of x, y and z.
        period: of these channels (:class:`pcdiff.torus.Torus`).
    """

    parametrisation = "epsilon"

    def __init__(self, channels: Tensor, period: float) -> None:
        super().__init__()
        self.register_buffer("channels", channels, persistent=False)
        self.period = period

    def forward(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:  # noqa: ARG002
        """The output."""
        return output.to(x_t.dtype)

    def noise(self, eps: Tensor, level: Level) -> Tensor:
        """The mean over all images."""
        turn = self.period * level.alpha / level.sigma
        nearest = eps - turn * torch.round(eps / turn)
        images = nearest[..., None] + turn[..., None] * torch.arange(-_IMAGES, _IMAGES + 1, device=eps.device)
        mean: Tensor = (images * torch.softmax(-images.square() / 2, dim=-1)).sum(dim=-1)
        return mean


def torus_head(heads: Sequence[Head]) -> TorusHead | None:
    """The one of positions; None without any."""
    return next((head for head in heads if isinstance(head, TorusHead)), None)


def placed(x: Tensor, heads: Sequence[Head], alpha: float) -> Tensor:
    """What a sampler ends with, positions divided by the alpha of its last time.

    For numbers of order one that alpha is 1; but a position may be several turns of the box from the origin.
    """
    head = torus_head(heads)
    return x if head is None else x.index_copy(-1, head.channels, x[..., head.channels] / alpha)
