r"""Attention in a periodic box: features turn with their position, so only steps between points are seen.

The rotary embedding (RoFormer, arXiv 2104.09864) on a torus: pairs of entries of queries, keys and values are turned by the
angle 2 pi n x / P with whole vectors n, and what attention gives to a point is turned back by its own angle. So a pair of points enters with
2 pi n (x_j - x_i) / P, which is periodic and knows no origin. The numbers of wavelengths n are spread evenly in the logarithm of their length.

To translations the net is exactly equivariant. The 48 symmetries of the cube it must learn: train with features.reflect.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from pcdiff.config import PeriodicTransformerConfig
from pcdiff.nets.base import zero_linear
from pcdiff.nets.periodic import InBox, PeriodicNet, Updates
from pcdiff.nets.transformer import Block, modulate
from pcdiff.torus import Torus

__all__ = ["PeriodicTransformerNet"]


class PeriodicTransformerNet(PeriodicNet):
    """Pre-norm transformer blocks with adaLN-zero conditioning and a periodic rotary embedding.

    Args:
        config: width, number of layers, attention heads, waves.
        torus: which channels are what.
        conditions: number of conditions a cloud C, possibly 0.
    """

    waves: Tensor

    def __init__(self, config: PeriodicTransformerConfig, torus: Torus, conditions: int) -> None:
        super().__init__(torus, conditions, config.hidden)
        hidden = config.hidden
        waves = _whole_vectors(config.heads, hidden // config.heads // 2, config.waves)
        self.register_buffer("waves", waves, persistent=False)
        inputs, outputs = 3 * len(torus.vectors) + len(torus.scalars), 3 + 3 * len(torus.vectors) + len(torus.scalars)
        self.entry = nn.Linear(max(1, inputs), hidden)
        self.layers = nn.ModuleList(Block(hidden, config.heads, self.context_size) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.modulation = zero_linear(self.context_size, 2 * hidden)
        self.exit = zero_linear(hidden, outputs)

    def _points(self, points: InBox) -> Updates:
        mask = points.mask
        known = torch.cat([points.vectors.flatten(2), points.scalars], dim=-1)
        if not known.shape[-1]:
            known = mask[..., None].to(points.position.dtype)
        h = self.entry(known)
        # (B, heads, N, pairs)
        turns = torch.einsum("bnc,hpc->bhnp", points.position / self.torus.period, self.waves.to(h.dtype))
        angles = 2 * math.pi * turns
        turn = torch.stack([angles.cos(), angles.sin()])
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            h = layer(h, keys, points.context, turn)
        shift, scale = self.modulation(points.context)[:, None, :].chunk(2, dim=-1)
        found = self.exit(modulate(self.norm(h), shift, scale))
        split = 3 + 3 * len(self.torus.vectors)
        return Updates(found[..., :split].unflatten(-1, (-1, 3)), found[..., split:])


def _whole_vectors(heads: int, pairs: int, largest: int) -> Tensor:
    """Numbers of wavelengths along the axes, shape (heads, pairs, 3): for each head lengths even in their logarithm up to the largest, in
    directions that are spread over the sphere."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((heads, pairs, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    length = np.geomspace(1, largest, pairs)[None, :, None]
    whole = np.rint(length * direction)
    # Rounding may leave none: then the axis that is nearest.
    none = ~whole.any(axis=-1)
    axis = np.abs(direction).argmax(axis=-1)
    whole[none] = np.eye(3)[axis[none]]
    return torch.from_numpy(whole).float()
