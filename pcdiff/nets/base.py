"""What the nets share: the contract, the embedding of noise level and conditions, masks at entry and exit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Embedding", "PointNet", "zero_linear"]

_FREQUENCIES = 16


class Embedding(nn.Module):
    """One vector a cloud from its noise level and its conditions.

    The log-SNR enters by Fourier features (arXiv 2006.10739, "Fourier Features Let Networks Learn High Frequency Functions")
    of tanh(log_snr / 8), whose frequencies are spread geometrically between 0.5 and 16: the fastest resolves steps of
    about one unit of log-SNR in the middle of the range, and the value stays bounded for any log-SNR.
    """

    frequencies: Tensor

    def __init__(self, conditions: int, size: int) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log2(0.5), math.log2(16), _FREQUENCIES, base=2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + conditions, 2 * size), nn.SiLU(), nn.Linear(2 * size, size), nn.SiLU()
        )

    def forward(self, log_snr: Tensor, cond: Tensor) -> Tensor:
        """Shapes (B,) and (B, C) to (B, size)."""
        angles = torch.tanh(log_snr / 8)[:, None] * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos(), cond], dim=1))
        return embedded


class PointNet(nn.Module, ABC):
    """A permutation-equivariant net on padded clouds; subclasses say what happens between entry and exit.

    The last layer starts at zero, so an untrained net returns zeros.

    Args:
        features: number of point features F.
        conditions: number of conditions a cloud C, possibly 0.
        hidden: width of the point features inside the net.
    """

    def __init__(self, features: int, conditions: int, hidden: int) -> None:
        super().__init__()
        self.context_size = max(hidden // 2, 1)
        self.embedding = Embedding(conditions, self.context_size)
        self.entry = nn.Linear(features, hidden)
        self.exit = nn.Linear(hidden, features)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """Evaluate the net.

        Padding more, or permuting the points, changes nothing beyond rounding; what stands in padded entries of ``x``
        is never used.

        Args:
            x: points of unit variance, shape (B, N, F).
            log_snr: log of the signal-to-noise ratio, log(alpha^2 / sigma^2), shape (B,), about -10 to 12.
            mask: true where there is a point, shape (B, N), bool.
            cond: conditions, shape (B, C), C possibly 0.

        Returns:
            Shape (B, N, F), exactly zero where the mask is false.
        """
        padding = ~mask[..., None]
        x = x.masked_fill(padding, 0)
        # Under autocast the middle of the net is computed with fewer digits. What goes in and out must not be: at a high
        # log-SNR the noise stands in the third digit of x.
        device = x.device.type
        lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            h, context = self.entry(x), self.embedding(log_snr, cond)
        if lower is not None:
            h = h.to(lower)
        h = self._points(x, h, mask, context)
        with torch.autocast(device, enabled=False):
            y: Tensor = self.exit(h.to(x.dtype))
        return y.masked_fill(padding, 0)

    @abstractmethod
    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """From x (B, N, F), its linear image h (B, N, hidden) and the context (B, context_size) to (B, N, hidden).

        Padded entries of the result may hold anything finite.
        """


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
