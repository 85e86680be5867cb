"""Attention between all points of a cloud, conditioned through the layer norms.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, without positions, so that points stay unordered;
Peebles, Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748, for adaLN-zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import TransformerConfig
from pcdiff.nets.base import PointNet

__all__ = ["TransformerNet"]


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
        self.layers = nn.ModuleList(
            _Block(config.hidden, config.heads, self.context_size) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden, elementwise_affine=False)
        self.modulation = _zero_linear(self.context_size, 2 * config.hidden)

    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:  # noqa: ARG002
        # A softmax over no keys at all is NaN: clouds without points attend to their padding.
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            h = layer(h, keys, context)
        shift, scale = self.modulation(context)[:, None, :].chunk(2, dim=-1)
        return _modulate(self.norm(h), shift, scale)


class _Block(nn.Module):
    """One block with adaLN-zero (arXiv 2212.09748, section 3.2): h + gate * attention(norm(h)), then h + gate * mlp(norm(h)).

    Shift and scale of both norms, and both gates, come from the context; all are zero at first, so a new block is the
    identity.
    """

    def __init__(self, hidden: int, heads: int, context_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = _zero_linear(context_size, 6 * hidden)
        self.norm_1 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))

    def forward(self, h: Tensor, keys: Tensor, context: Tensor) -> Tensor:
        """h (B, N, hidden), keys to attend to (B, 1, 1, N), context (B, context_size) to the next h."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(context)[:, None, :].chunk(6, dim=-1)
        h = h + gate_1 * self._attention(_modulate(self.norm_1(h), shift_1, scale_1), keys)
        result: Tensor = h + gate_2 * self.mlp(_modulate(self.norm_2(h), shift_2, scale_2))
        return result

    def _attention(self, h: Tensor, keys: Tensor) -> Tensor:
        # (B, N, 3 * hidden) -> three of (B, heads, N, hidden / heads).
        query, key, value = self.query_key_value(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        merged: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))
        return merged


def _modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return h * (1 + scale) + shift


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
