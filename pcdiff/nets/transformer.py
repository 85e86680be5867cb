"""Attention between all points of a cloud, conditioned through the layer norms.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, without positions, so that points stay unordered;
Peebles, Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748, for adaLN-zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import TransformerConfig
from pcdiff.nets.base import PointNet, zero_linear

__all__ = ["Block", "TransformerNet", "modulate"]


class TransformerNet(PointNet):
    """Pre-norm transformer blocks with adaLN-zero conditioning on noise level and conditions.

    PyTorch's fused attention on a CPU has neither forward-mode nor double-backward derivatives: take those under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        config: width, number of layers, attention heads.
        features: number of point features F.
        conditions: number of conditions a cloud C, possibly 0.
    """

    def __init__(self, config: TransformerConfig, features: int, conditions: int) -> None:
        super().__init__(features, conditions, config.hidden)
        self.layers = nn.ModuleList(Block(config.hidden, config.heads, self.context_size) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden, elementwise_affine=False)
        self.modulation = zero_linear(self.context_size, 2 * config.hidden)

    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:  # noqa: ARG002
        # A softmax over no keys at all is NaN: clouds without points attend to their padding.
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            h = layer(h, keys, context)
        shift, scale = self.modulation(context)[:, None, :].chunk(2, dim=-1)
        return modulate(self.norm(h), shift, scale)


class Block(nn.Module):
    """One block with adaLN-zero (arXiv 2212.09748, section 3.2): h + gate * attention(norm(h)), then h + gate * mlp(norm(h)).

    Shift and scale of both norms, and both gates, come from the context; all are zero at first, so a new block is the
    identity.
    """

    def __init__(self, hidden: int, heads: int, context_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zero_linear(context_size, 6 * hidden)
        self.norm_1 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))

    def forward(self, h: Tensor, keys: Tensor, context: Tensor, turn: Tensor | None = None) -> Tensor:
        """h (B, N, hidden), keys to attend to (B, 1, 1, N), context (B, context_size) to the next h.

        Args:
            turn: cosine and sine of an angle for each pair of entries of a head, shape (2, B, heads, N, pairs), by which points are told apart.
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(context)[:, None, :].chunk(6, dim=-1)
        h = h + gate_1 * self._attention(modulate(self.norm_1(h), shift_1, scale_1), keys, turn)
        result: Tensor = h + gate_2 * self.mlp(modulate(self.norm_2(h), shift_2, scale_2))
        return result

    def _attention(self, h: Tensor, keys: Tensor, turn: Tensor | None) -> Tensor:
        # (B, N, 3 * hidden) -> three of (B, heads, N, hidden / heads).
        query, key, value = self.query_key_value(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        if turn is not None:
            query, key, value = (_turned(part, *turn) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        if turn is not None:
            mixed = _turned(mixed, turn[0], -turn[1])
        merged: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))
        return merged


def _turned(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of entries of a head turned by its angle: h (B, heads, N, 2 pairs), cosine and sine (B, heads, N, pairs)."""
    a, b = h.view(*cos.shape, 2).unbind(-1)
    cos, sin = cos.to(h.dtype), sin.to(h.dtype)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """What a context makes of normed points."""
    return h * (1 + scale) + shift
