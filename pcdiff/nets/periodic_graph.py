r"""Message passing of numbers and vectors in a periodic box, on torch-geometric.

Each point holds F numbers s and V vectors v. It hears of its nearest neighbours, nearest images being meant, as in PaiNN (Schütt, Unke,
Gastegger, "Equivariant message passing for the prediction of tensorial properties and molecular spectra", arXiv 2102.03150): with r_ij
the step to a neighbour,

    s_i += sum_j g_ij s-part,        v_i += sum_j (g_ij v-part v_j + g_ij r-part r_ij / |r_ij|),        g_ij = phi(s_j) W(|r_ij|).

Neighbours are few, and noise of the size of the box moves all points at once. So points hear of the longest waves of the box, too,
as in Ewald message passing (Kosmala et al., arXiv 2303.04791): numbers u_j and vectors w_j of all points make up

    S_k = sum_j (u_j + i k w_j / |k|) e^{-i k x_j},        W_k = sum_j (w_j - k (k w_j) / k^2) e^{-i k x_j},
    s_i += Re sum_k a_|k| S_k e^{i k x_i},                 v_i += Re sum_k (i k / |k| b_|k| S_k + c_|k| W_k) e^{i k x_i},

k = 0 among them, where S is the sum of the numbers and W that of the vectors. Flows of halos have no curl, but a sum over halos, which are
not evenly spread, has waves across k as well.

All of it is made of steps between points, so a translation changes nothing. Rotations and reflections that take the box to itself, the 48
symmetries of the cube, turn the vectors along and change nothing else: the waves of one length are taken together. So the net has these symmetries
to rounding, and none of them needs to be learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from pcdiff.config import PeriodicGraphConfig
from pcdiff.nets.base import zero_linear
from pcdiff.nets.neighbours import periodic_edges
from pcdiff.nets.periodic import InBox, PeriodicNet, Updates
from pcdiff.torus import Torus

__all__ = ["PeriodicGraphNet"]

# The functions of a distance: bumps even in its logarithm, between these ends in units of the denoiser.
_BUMPS, _NEAREST, _FARTHEST = 20, 0.1, 50.0
# Points that hear of their neighbours together, on a CPU.
_TARGETS = 128


class PeriodicGraphNet(PeriodicNet):
    """A stack of equivariant layers; see the head of this module.

    Args:
        config: width, number of layers, neighbours, waves.
        torus: which channels are what.
        conditions: number of conditions a cloud C, possibly 0.
    """

    centres: Tensor

    def __init__(self, config: PeriodicGraphConfig, torus: Torus, conditions: int) -> None:
        super().__init__(torus, conditions, config.hidden)
        hidden = config.hidden
        self.neighbours = config.neighbours
        self.register_buffer(
            "centres", torch.linspace(math.log(_NEAREST), math.log(_FARTHEST), _BUMPS), persistent=False
        )
        self.entry = nn.Linear(max(1, len(torus.scalars)), hidden)
        self.vector_entry = nn.Linear(max(1, len(torus.vectors)), config.vectors, bias=False)
        self.waves = _Waves(config.waves, torus.period) if config.waves else None
        self.layers = nn.ModuleList(
            _Layer(
                hidden,
                config.vectors,
                config.neighbours,
                self.context_size,
                0 if self.waves is None else self.waves.shells,
            )
            for _ in range(config.layers)
        )
        self.norm = _Norm(hidden, config.vectors)
        self.scalar_exit = zero_linear(hidden, len(torus.scalars)) if torus.scalars else None
        self.vector_exit = nn.Linear(config.vectors, 1 + len(torus.vectors), bias=False)
        nn.init.zeros_(self.vector_exit.weight)

    def _points(self, points: InBox) -> Updates:
        mask, period = points.mask, self.torus.period
        edges = periodic_edges(points.position, mask, self.neighbours, period)
        place = points.position[mask]
        step = place[edges[0]] - place[edges[1]]
        step = step - period * torch.round(step / period)
        # The slope at two points in one place stays bounded.
        distance = (step.square().sum(dim=1, keepdim=True) + _NEAREST**2 / 4).sqrt()
        width = float(self.centres[1] - self.centres[0])
        basis = torch.exp(-0.5 * ((distance.log() - self.centres) / width).square())
        direction = step / distance
        cloud = mask.nonzero()[:, 0]
        phases = None if self.waves is None else self.waves(points.position, mask)
        scalars = points.scalars if self.torus.scalars else points.position.new_ones(*mask.shape, 1)
        s = self.entry(scalars[mask])
        if self.torus.vectors:
            v = self.vector_entry(points.vectors[mask].transpose(1, 2))
        else:
            v = s.new_zeros(len(s), 3, self.vector_entry.out_features)
        parts = _in_parts(edges, basis, direction, len(place))
        for layer in self.layers:
            s, v = layer(s, v, parts, points.context, cloud, mask, phases)
        s, v = self.norm(s, v)
        vectors = s.new_zeros(*mask.shape, 1 + len(self.torus.vectors), 3)
        vectors[mask] = self.vector_exit(v).transpose(1, 2)
        numbers = s.new_zeros(*mask.shape, len(self.torus.scalars))
        if self.scalar_exit is not None:
            numbers[mask] = self.scalar_exit(s)
        return Updates(vectors, numbers)


class _Waves(nn.Module):
    """The plane waves of the box with at most so many wavelengths in it, one of each pair of opposite ones; the first is constant."""

    whole: Tensor
    directions: Tensor
    shell: Tensor

    def __init__(self, largest: int, period: float) -> None:
        super().__init__()
        line = np.arange(-largest, largest + 1)
        whole = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        squared = (whole**2).sum(axis=1)
        # Not lexicographically negative: of k and -k one.
        half = np.array([tuple(row) >= (0, 0, 0) for row in whole.tolist()])
        whole, squared = whole[half & (squared <= largest**2)], squared[half & (squared <= largest**2)]
        lengths, shell = np.unique(squared, return_inverse=True)
        self.shells = len(lengths)
        self.period = period
        self.register_buffer("whole", torch.from_numpy(whole).float(), persistent=False)
        self.register_buffer(
            "directions",
            torch.from_numpy(whole / np.sqrt(np.maximum(squared, 1))[:, None]).float(),
            persistent=False,
        )
        self.register_buffer("shell", torch.from_numpy(shell), persistent=False)

    def forward(self, position: Tensor, mask: Tensor) -> _Phases:
        # Whole numbers first: the period of a rounded wave vector would not be that of the box.
        angles = 2 * math.pi * (position / self.period @ self.whole.to(position.dtype).T)
        valid = mask[..., None]
        size = mask.sum(dim=1).clamp(min=1).to(position.dtype)[:, None, None]
        return _Phases(angles.cos() * valid, angles.sin() * valid, size, self.directions.to(position.dtype), self.shell)


@dataclass(frozen=True)
class _Phases:
    """Cosine and sine (B, N, M) of the waves at each point, zero at padding, and what belongs to them."""

    cos: Tensor
    sin: Tensor
    size: Tensor
    directions: Tensor
    shell: Tensor


class _Norm(nn.Module):
    """Numbers of mean 0 and variance 1, vectors of a mean square of at most 1."""

    def __init__(self, hidden: int, vectors: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.scale = nn.Parameter(torch.ones(vectors))

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        length = v.square().sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        return self.norm(s), v * (length + 1).rsqrt() * self.scale


class _Layer(nn.Module):
    """What a point hears from its neighbours and in the waves of the box, and what it makes of it by itself."""

    def __init__(self, hidden: int, vectors: int, neighbours: int, context_size: int, shells: int) -> None:
        super().__init__()
        self.sizes = [hidden, vectors, vectors]
        self.norm = _Norm(hidden, vectors)
        self.context = nn.Linear(context_size, 2 * hidden)
        self.message = _Message(hidden, vectors, neighbours)
        self.far = _Far(hidden, vectors, context_size, shells) if shells else None
        self.update_norm = _Norm(hidden, vectors)
        self.mix = nn.Linear(vectors, 2 * vectors, bias=False)
        self.update_1 = nn.Linear(hidden + 2 * vectors, hidden)
        self.update_2 = nn.Linear(hidden, hidden + vectors)

    def forward(
        self,
        s: Tensor,
        v: Tensor,
        parts: Sequence[_Edges],
        context: Tensor,
        cloud: Tensor,
        mask: Tensor,
        phases: _Phases | None,
    ) -> tuple[Tensor, Tensor]:
        """Numbers s (P, F) and vectors v (P, 3, V) of all points to the next ones."""
        shift_1, shift_2 = self.context(context)[cloud].chunk(2, dim=1)
        normed, turned = self.norm(s, v)
        heard, pulled = self.message(normed + shift_1, turned, parts)
        s, v = s + heard, v + pulled
        if self.far is not None and phases is not None:
            heard, pulled = self.far(normed, turned, context, mask, phases)
            s, v = s + heard, v + pulled
        normed, turned = self.update_norm(s, v)
        left, right = self.mix(turned).chunk(2, dim=2)
        # What of vectors does not turn with the box: their lengths and products.
        length = (right.square().sum(dim=1) + 1e-6).sqrt()
        known = torch.cat([normed, length, (left * right).sum(dim=1)], dim=1)
        number, vector = torch.split(self.update_2(F.silu(self.update_1(known) + shift_2)), self.sizes[:2], dim=1)
        return s + number, v + vector[:, None, :] * left


@dataclass(frozen=True)
class _Edges:
    """The edges to some consecutive points: their ends (2, E), the target counted from the first of these points; functions of their lengths
    (E, bumps); their directions (E, 3)."""

    ends: Tensor
    basis: Tensor
    direction: Tensor
    targets: int


def _in_parts(edges: Tensor, basis: Tensor, direction: Tensor, points: int) -> list[_Edges]:
    """All edges, which are in the order of their targets; on a CPU so few at a time that what flows along them stays in its cache."""
    at_a_time = _TARGETS if edges.device.type == "cpu" else max(1, points)
    first = torch.arange(0, points, at_a_time, device=edges.device)
    bounds = [*torch.searchsorted(edges[1].contiguous(), first).tolist(), edges.shape[1]]
    return [
        _Edges(
            torch.stack([edges[0, start:stop], edges[1, start:stop] - part * at_a_time]),
            basis[start:stop],
            direction[start:stop],
            min(at_a_time, points - part * at_a_time),
        )
        for part, (start, stop) in enumerate(pairwise(bounds))
    ]


class _Message(MessagePassing):  # type: ignore[misc]
    """The sum over neighbours of PaiNN (arXiv 2102.03150), divided by the root of their number."""

    def __init__(self, hidden: int, vectors: int, neighbours: int) -> None:
        super().__init__(aggr="sum")
        self.neighbours = neighbours
        self.sizes = [hidden, vectors, vectors]
        self.gate_1 = nn.Linear(hidden, hidden)
        self.gate_2 = nn.Linear(hidden, sum(self.sizes))
        self.filter = nn.Linear(_BUMPS, sum(self.sizes), bias=False)

    def forward(self, s: Tensor, v: Tensor, parts: Sequence[_Edges]) -> tuple[Tensor, Tensor]:
        """s (P, F), v (P, 3, V)."""
        points, hidden = s.shape
        gate = self.gate_2(F.silu(self.gate_1(s)))
        found = torch.cat(
            [
                self.propagate(
                    part.ends,
                    gate=gate,
                    vectors=v.flatten(1),
                    filters=self.filter(part.basis),
                    direction=part.direction,
                    size=(points, part.targets),
                )
                for part in parts
            ]
        )
        edges = sum(part.ends.shape[1] for part in parts)
        found = found * (points / max(1, edges)) ** 0.5
        numbers, vectors = torch.split(found, [hidden, found.shape[1] - hidden], dim=1)
        return numbers, vectors.view(points, 3, -1)

    def message(self, gate_j: Tensor, vectors_j: Tensor, filters: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """What flows along each edge, shapes (E, F) and (E, 3 V)."""
        # Split and not sliced, whose derivatives fill whole tensors with zeros.
        number, along, step = torch.split(gate_j * filters, self.sizes, dim=1)
        v = vectors_j.view(len(filters), 3, -1)
        pulled = torch.addcmul(along[:, None, :] * v, step[:, None, :], direction[:, :, None])
        return number, pulled.flatten(1)

    def aggregate(self, inputs: tuple[Tensor, Tensor], index: Tensor, dim_size: int) -> Tensor:
        """The sum over the edges to each target, shape (targets, F + 3 V)."""
        if len(index) == dim_size * self.neighbours:
            # Targets in order, each with as many neighbours as any can have: faster than sums by index.
            found = [part.view(dim_size, self.neighbours, part.shape[1]).sum(dim=1) for part in inputs]
        else:
            found = [part.new_zeros(dim_size, part.shape[1]).index_add_(0, index, part) for part in inputs]
        return torch.cat(found, dim=1)


class _Far(nn.Module):
    """What points hear in the waves of the box; see the head of this module."""

    def __init__(self, hidden: int, vectors: int, context_size: int, shells: int) -> None:
        super().__init__()
        size = vectors
        self.size, self.shells = size, shells
        self.numbers = nn.Linear(hidden, size)
        self.vectors = nn.Linear(vectors, size, bias=False)
        # How much each length of wave counts, for the numbers and the vectors that come back.
        self.weights = nn.Linear(context_size, 3 * shells * size)
        self.merge = nn.Linear(size, hidden, bias=False)
        self.vector_merge = nn.Linear(size, vectors, bias=False)

    def forward(self, s: Tensor, v: Tensor, context: Tensor, mask: Tensor, phases: _Phases) -> tuple[Tensor, Tensor]:
        """s (P, F), v (P, 3, V) of all points, context (B, context_size), mask (B, N)."""
        cos, sin, k = phases.cos, phases.sin, phases.directions
        own = torch.cat([self.numbers(s)[:, None, :], self.vectors(v)], dim=1)
        shown = own.new_zeros(*mask.shape, 4 * self.size)
        shown[mask] = own.flatten(1)
        # The transforms of the numbers and of the three components of the vectors, shape (B, M, 4, size).
        parted = (len(mask), cos.shape[2], 4, self.size)
        even, odd = ((waves.mT @ shown).view(parted) / phases.size[..., None].sqrt() for waves in (cos, sin))
        along_even, along_odd = ((part[:, :, 1:] * k[None, :, :, None]).sum(dim=2) for part in (even, odd))
        across_even, across_odd = (
            part[:, :, 1:] - k[None, :, :, None] * along[:, :, None, :]
            for part, along in ((even, along_even), (odd, along_odd))
        )
        # Of u + i k w: e^{-i k x} has the imaginary part -sin.
        real, imaginary = even[:, :, 0] + along_odd, along_even - odd[:, :, 0]
        weights = self.weights(context).view(len(mask), 3, self.shells, self.size)[:, :, phases.shell]
        scale = cos.shape[2] ** -0.5
        parts = [scale * weights[:, i] * part for i in (0, 1) for part in (real, imaginary)]
        number = cos @ parts[0] - sin @ parts[1]
        across = scale * weights[:, 2, :, None]
        pulls = [
            (across * part - k[None, :, :, None] * along[:, :, None, :]).flatten(2)
            for part, along in ((across_odd, parts[2]), (across_even, parts[3]))
        ]
        pulled = (sin @ pulls[0] + cos @ pulls[1]).view(*mask.shape, 3, self.size)
        return self.merge(number[mask]), self.vector_merge(pulled[mask])
