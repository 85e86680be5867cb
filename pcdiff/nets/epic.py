"""Equivariant point cloud (EPiC) layers: points talk through one small vector a cloud, at a cost linear in their number.

Buhmann, Kasieczka, Thaler, "EPiC-GAN: Equivariant Point Cloud Generation for Particle Jets", arXiv 2301.08128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import EpicConfig
from pcdiff.nets.base import PointNet

__all__ = ["EpicLayer", "EpicNet"]


class EpicNet(PointNet):
    """A stack of EPiC layers (arXiv 2301.08128), each conditioned on noise level and conditions.

    Args:
        config: width, number of layers, width of the vector that the points of a cloud share.
        features: number of point features F.
        conditions: number of conditions a cloud C, possibly 0.
    """

    def __init__(self, config: EpicConfig, features: int, conditions: int) -> None:
        super().__init__(features, conditions, config.hidden)
        self.start = nn.Linear(self.context_size, config.global_size)
        self.layers = nn.ModuleList(
            EpicLayer(config.hidden, config.global_size, self.context_size) for _ in range(config.layers)
        )

    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        size = mask.sum(dim=1, keepdim=True).clamp(min=1).to(x.dtype)
        # Pooling as a matrix product with these weights spares the layers any masking of their own.
        mean = (mask / size)[:, None, :]
        g = self.start(context)
        h = F.silu(h)
        for layer in self.layers:
            h, g = layer(h, g, mean, size, context)
        return h


class EpicLayer(nn.Module):
    """One EPiC layer: the global vector g learns from the pooled points, then each point h from itself and g.

    In the paper's words phi_g and phi_l are two-layer perceptrons with residual connections. A linear map of the
    concatenation [h, g] is computed as W_h h + W_g g, the second term once a cloud instead of once a point.
    """

    def __init__(self, hidden: int, global_size: int, context_size: int) -> None:
        super().__init__()
        self.global_1 = nn.Linear(2 * hidden + global_size + context_size, hidden)
        self.global_2 = nn.Linear(hidden, global_size)
        self.shift = nn.Linear(global_size + context_size, hidden)
        self.local_1 = nn.Linear(hidden, hidden, bias=False)
        self.local_2 = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, g: Tensor, mean: Tensor, size: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, N, hidden), g (B, global_size), pooling weights (B, 1, N), sizes (B, 1), context to the next h and g."""
        pooled = (mean @ h).squeeze(1)
        # The sum over n points divided by sqrt(n): it knows the size, and stays of order one for jets and large clouds.
        pooled = torch.cat([pooled, pooled * size.sqrt(), g, context], dim=1)
        g = F.silu(g + self.global_2(F.silu(self.global_1(pooled))))
        shift = self.shift(torch.cat([g, context], dim=1))[:, None, :]
        update = F.silu(self.local_1(h) + shift)
        return F.silu(h + self.local_2(update)), g
