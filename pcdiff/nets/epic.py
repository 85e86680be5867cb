"""Equivariant point cloud (EPiC) layers: points talk through one small vector a cloud, at a cost linear in their number.

Buhmann, Kasieczka, Thaler, "EPiC-GAN: Equivariant Point Cloud Generation for Particle Jets", arXiv 2301.08128.

With attention heads, points also see each other directly, which resolves what a pooled vector cannot: pairs of near constituents. The
heads have queries of their own and share keys and values, as in Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", arXiv
1911.02150; the values are the points themselves, or a few numbers made of each. So each step is one matrix product a cloud, without a copy. All
pairs of points are seen: for some thousands of points heads cost many times what the rest does, in time and memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import EpicConfig
from pcdiff.nets.base import PointNet

__all__ = ["EpicLayer", "EpicNet"]

# Width of queries and keys.
_KEY_SIZE = 32
# Beside it no logit counts, and a cloud without points still has a softmax.
_ABSENT = -1e4


class EpicNet(PointNet):
    """A stack of EPiC layers (arXiv 2301.08128), each conditioned on noise level and conditions.

    Args:
        config: width, number of layers, width of the vector that the points of a cloud share, attention heads.
        features: number of point features F.
        conditions: number of conditions a cloud C, possibly 0.
    """

    def __init__(self, config: EpicConfig, features: int, conditions: int) -> None:
        super().__init__(features, conditions, config.hidden)
        self.heads = config.heads
        self.start = nn.Linear(self.context_size, config.global_size)
        self.layers = nn.ModuleList(
            EpicLayer(
                config.hidden,
                config.global_size,
                self.context_size,
                config.heads if config.attending is None or layer in config.attending else 0,
                config.value_size,
            )
            for layer in range(config.layers)
        )

    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        size = mask.sum(dim=1, keepdim=True).clamp(min=1).to(x.dtype)
        # Pooling as a matrix product with these weights spares the layers any masking of their own.
        mean = (mask / size)[:, None, :].to(h.dtype)
        absent = torch.zeros_like(x[:, None, :, 0]).masked_fill(~mask[:, None, :], _ABSENT) if self.heads else None
        g = self.start(context)
        h = F.silu(h)
        for layer in self.layers:
            h, g = layer(h, g, mean, size, context, absent)
        return h


class EpicLayer(nn.Module):
    """One EPiC layer: the global vector g learns from the pooled points, then each point h from itself and g.

    In the paper's words phi_g and phi_l are two-layer perceptrons with residual connections. A linear map of the
    concatenation [h, g] is computed as W_h h + W_g g, the second term once a cloud instead of once a point. Attention adds a
    term to it: W_a of the means of the points under the weights of each head.
    """

    def __init__(
        self, hidden: int, global_size: int, context_size: int, heads: int = 0, value_size: int | None = None
    ) -> None:
        super().__init__()
        self.global_1 = nn.Linear(2 * hidden + global_size + context_size, hidden)
        self.global_2 = nn.Linear(hidden, global_size)
        self.shift = nn.Linear(global_size + context_size, hidden)
        self.local_1 = nn.Linear(hidden, hidden, bias=False)
        self.local_2 = nn.Linear(hidden, hidden)
        self.attention = _Attention(hidden, heads, value_size) if heads else None

    def forward(
        self, h: Tensor, g: Tensor, mean: Tensor, size: Tensor, context: Tensor, absent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            h: points, shape (B, N, hidden).
            g: global vectors, shape (B, global_size).
            mean: pooling weights, shape (B, 1, N).
            size: numbers of points, shape (B, 1).
            context: shape (B, context_size).
            absent: what is added to the logits of attention, shape (B, 1, N): very negative where there is no point. Layers
                without heads need none.

        Returns:
            The next h and g.
        """
        pooled = (mean @ h).squeeze(1)
        # The sum over n points divided by sqrt(n): it knows the size, and stays of order one for jets and large clouds.
        pooled = torch.cat([pooled, pooled * size.sqrt().to(h.dtype), g, context], dim=1)
        g = F.silu(g + self.global_2(F.silu(self.global_1(pooled))))
        shift = self.shift(torch.cat([g, context], dim=1))[:, None, :]
        # In place where the derivatives allow it: on a CPU these layers wait for memory as long as they multiply.
        update = self.local_1(h).add_(shift)
        if self.attention is not None and absent is not None:
            update.add_(self.attention(h, absent))
        return _silu(self.local_2(_silu(update)).add_(h)), g


class _Attention(nn.Module):
    """For each point the linear map of what its heads see: means of the values of all points of its cloud under softmax weights."""

    def __init__(self, hidden: int, heads: int, value_size: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.value = None if value_size is None else nn.Linear(hidden, value_size, bias=False)
        self.query = nn.Linear(hidden, heads * _KEY_SIZE)
        self.sharpness = nn.Parameter(torch.ones(heads))
        self.key = nn.Linear(hidden, _KEY_SIZE, bias=False)
        self.merge = nn.Linear(heads * (value_size or hidden), hidden, bias=False)

    def forward(self, h: Tensor, absent: Tensor) -> Tensor:
        """h (B, N, hidden) and what is added to the logits (B, 1, N) to (B, N, hidden)."""
        clouds, points, _ = h.shape
        # Heads stand beside their points, (B, N * heads, ...), so that reshaping moves nothing.
        query = _unit(self.query(h).view(clouds, points, self.heads, _KEY_SIZE)) * self.sharpness[:, None].to(h.dtype)
        key = _unit(self.key(h)) * _KEY_SIZE**0.5
        logits = query.view(clouds, points * self.heads, _KEY_SIZE) @ key.transpose(1, 2)
        # In full precision, which is also several times faster: a softmax in bfloat16 is not vectorised on a CPU.
        weights = torch.softmax(logits.to(absent.dtype) + absent, dim=-1).to(h.dtype)
        values = h if self.value is None else self.value(h)
        merged: Tensor = self.merge((weights @ values).view(clouds, points, self.merge.in_features))
        return merged


def _silu(x: Tensor) -> Tensor:
    """Of a tensor that nothing else reads, in place unless its derivative is asked for."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length one, so that logits stay bounded whatever the optimiser does (arXiv 2302.05442, "Scaling Vision
    Transformers to 22 Billion Parameters", section 2)."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()
