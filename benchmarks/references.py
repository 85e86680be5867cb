"""What generators are compared with: the two usual nets of this field, in plain PyTorch, every jet padded to the largest.

Written after the papers, to know what one gets by doing what they say. Neither is trained: speed does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Velocity = Callable[[Tensor, Tensor], Tensor]


class AttentionReference(nn.Module):
    """Like PC-JeDi (arXiv 2303.05376): ``nn.TransformerEncoder``, thus padded ``nn.MultiheadAttention``, conditions beside each point.

    Width, layers, heads and feed-forward are those of :class:`pcdiff.nets.transformer.TransformerNet` by default.
    """

    def __init__(self, features: int, conditions: int, hidden: int = 128, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.entry = nn.Linear(features + 1 + conditions, hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.exit = nn.Linear(hidden, features)

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """Shapes as for :class:`pcdiff.nets.base.PointNet`."""
        beside = torch.cat([log_snr[:, None], cond], dim=1)[:, None].expand(-1, x.shape[1], -1)
        h = self.layers(self.entry(torch.cat([x, beside], dim=2)), src_key_padding_mask=~mask)
        y: Tensor = self.exit(h)
        return y


class EpicReference(nn.Module):
    """Like EPiC-FM (arXiv 2310.00049): six masked EPiC layers of width 128 with a vector of 10 numbers a jet, leaky ReLU, a velocity.

    Without the weight normalisation of the published models, which only costs time. The time enters as sines and cosines beside
    each point and each jet.
    """

    def __init__(self, features: int, hidden: int = 128, shared: int = 10, layers: int = 6, waves: int = 6) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(waves))
        self.entry = nn.Linear(features + 2 * waves, hidden)
        self.start = nn.Sequential(
            nn.Linear(2 * hidden + 2 * waves, hidden), nn.LeakyReLU(), nn.Linear(hidden, shared), nn.LeakyReLU()
        )
        self.layers = nn.ModuleList(EpicReferenceLayer(hidden, shared, 2 * waves) for _ in range(layers))
        self.exit = nn.Linear(hidden, features)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        """Points (B, N, F), times (B,), mask (B, N) to velocities (B, N, F), zero where the mask is false."""
        angles = t[:, None] * self.waves
        time = torch.cat([angles.sin(), angles.cos()], dim=1)
        real = mask[..., None].to(x.dtype)
        h = F.leaky_relu(self.entry(torch.cat([x, beside(time, x)], dim=2)))
        g = self.start(torch.cat([*pooled(h, real), time], dim=1))
        for layer in self.layers:
            h, g = layer(h, g, time, real)
        y: Tensor = self.exit(h) * real
        return y


class EpicReferenceLayer(nn.Module):
    """The points of a jet talk through the vector g that it has once: g learns from their mean and sum, each point from g."""

    def __init__(self, hidden: int, shared: int, time: int) -> None:
        super().__init__()
        self.jet_1 = nn.Linear(2 * hidden + shared + time, hidden)
        self.jet_2 = nn.Linear(hidden, shared)
        self.point_1 = nn.Linear(hidden + shared + time, hidden)
        self.point_2 = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, g: Tensor, time: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, N, hidden), g (B, shared), time (B, T), real (B, N, 1) to the next h and g."""
        update = F.leaky_relu(self.jet_1(torch.cat([*pooled(h, real), g, time], dim=1)))
        g = F.leaky_relu(g + self.jet_2(update))
        update = F.leaky_relu(self.point_1(torch.cat([h, beside(torch.cat([g, time], dim=1), h)], dim=2)))
        return F.leaky_relu(h + self.point_2(update)), g


def pooled(h: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the real points of each jet, and their sum times 0.01, (B, hidden) each."""
    total = (h * real).sum(dim=1)
    return total / real.sum(dim=1).clamp(min=1), 0.01 * total


def beside(values: Tensor, points: Tensor) -> Tensor:
    """What a jet has once, (B, K), once a point: (B, N, K)."""
    return values[:, None].expand(-1, points.shape[1], -1)


def midpoint(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """The midpoint method for dx/dt = velocity(x, t) from t = 0 to 1, of order 2; two evaluations a step.

    Args:
        velocity: called with x and times of shape (B,).
        x: shape (B, ...).
    """
    h = 1 / steps
    for i in range(steps):
        t = torch.full((len(x),), i * h, dtype=x.dtype)
        x = x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)
    return x
