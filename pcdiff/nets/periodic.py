"""What nets for points in a periodic box share: they see positions only relative to each other, modulo the box."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcdiff.nets.base import Embedding
from pcdiff.torus import Torus

__all__ = ["InBox", "PeriodicNet", "Updates"]


@dataclass(frozen=True)
class InBox:
    """Noisy points in a periodic box.

    Attributes:
        position: in [0, period), in the units of the denoiser, shape (B, N, 3).
        vectors: shape (B, N, V, 3), zero where the mask is false.
        scalars: shape (B, N, S), likewise.
        mask: shape (B, N), bool.
        log_sigma: log of the standard deviation of the noise of positions, shape (B,).
        context: of noise level and conditions, shape (B, context_size).
    """

    position: Tensor
    vectors: Tensor
    scalars: Tensor
    mask: Tensor
    log_sigma: Tensor
    context: Tensor


@dataclass(frozen=True)
class Updates:
    """What a net says of the points: of positions and vectors shape (B, N, 1 + V, 3), of scalars shape (B, N, S)."""

    vectors: Tensor
    scalars: Tensor


class PeriodicNet(nn.Module, ABC):
    """A permutation-equivariant net on padded clouds in a periodic box, which no translation of all points changes.

    Args:
        torus: which channels are what.
        conditions: number of conditions a cloud C, possibly 0.
        hidden: width of the point features inside the net.
    """

    def __init__(self, torus: Torus, conditions: int, hidden: int) -> None:
        super().__init__()
        self.torus = torus
        self.context_size = max(hidden // 2, 1)
        self.embedding = Embedding(conditions, self.context_size)
        self.vector_channels = [channel for vector in torus.vectors for channel in vector]
        # Where each channel of a point stands among those of positions, vectors and scalars.
        order = [*torus.positions, *self.vector_channels, *torus.scalars]
        self.places = [order.index(channel) for channel in range(len(order))]

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """Evaluate the net; arguments and result as for :meth:`pcdiff.nets.base.PointNet.forward`.

        Of the positions ``x`` holds x_t / r, as of all channels. Divided by alpha / r, which the log-SNR tells, they are periodic.
        """
        padding = ~mask[..., None]
        x = x.masked_fill(padding, 0)
        scale = log_snr.sigmoid().sqrt()[:, None, None]
        position = x[..., list(self.torus.positions)] / scale
        position = position - self.torus.period * torch.floor(position / self.torus.period)
        points = InBox(
            position=position,
            vectors=x[..., self.vector_channels].view(*mask.shape, len(self.torus.vectors), 3),
            scalars=x[..., list(self.torus.scalars)],
            mask=mask,
            log_sigma=-log_snr / 2,
            context=self.embedding(log_snr, cond),
        )
        found = self._points(points)
        joined = torch.cat([found.vectors.flatten(2), found.scalars], dim=-1)[..., self.places]
        return joined.to(x.dtype).masked_fill(padding, 0)

    @abstractmethod
    def _points(self, points: InBox) -> Updates:
        """What stands in padded entries of the result may be anything finite."""
