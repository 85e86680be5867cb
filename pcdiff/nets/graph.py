"""Message passing between each point and its nearest neighbours, on torch-geometric.

Wang et al., "Dynamic Graph CNN for Learning on Point Clouds" (EdgeConv), arXiv 1801.07829. Points stand flat, without padding,
and the graph is built anew from the noisy points at each call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from pcdiff.config import GraphConfig
from pcdiff.nets.base import PointNet
from pcdiff.nets.neighbours import neighbour_edges

__all__ = ["GraphNet"]


class GraphNet(PointNet):
    """A stack of EdgeConv layers (arXiv 1801.07829), each conditioned on noise level and conditions.

    Args:
        config: width, number of layers, number of neighbours.
        features: number of point features F.
        conditions: number of conditions a cloud C, possibly 0.
        coordinates: which of the F point features the distance is measured in.
    """

    def __init__(self, config: GraphConfig, features: int, conditions: int, coordinates: Sequence[int]) -> None:
        super().__init__(features, conditions, config.hidden)
        self.neighbours = config.neighbours
        self.coordinates = list(coordinates)
        self.layers = nn.ModuleList(
            _EdgeLayer(config.hidden, len(self.coordinates) + 1, self.context_size) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden)

    def _points(self, x: Tensor, h: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        position = x[..., self.coordinates]
        edges = neighbour_edges(position, mask, self.neighbours)
        flat_position = position[mask]
        step = flat_position[edges[0]] - flat_position[edges[1]]
        # Bounded slope where two points coincide, unlike the square root alone.
        distance = (step.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()
        geometry = torch.cat([step, distance], dim=1)
        cloud = mask.nonzero()[:, 0]
        flat_h = h[mask]
        for layer in self.layers:
            flat_h = layer(flat_h, edges, geometry, context, cloud)
        points: Tensor = self.norm(flat_h)
        return points.new_zeros(h.shape).masked_scatter(mask[..., None], points)


class _EdgeLayer(MessagePassing):  # type: ignore[misc]
    """h_i + mlp([h_i, mean_j message(h_i, h_j - h_i, x_j - x_i, |x_j - x_i|, context)]) over the neighbours j of i.

    The message is a one-layer perceptron. Its linear map of [h_i, h_j - h_i] is the same family as W h_i + V h_j, computed
    once a point instead of once an edge. A point without neighbours gets the message 0.
    """

    def __init__(self, hidden: int, geometry_size: int, context_size: int) -> None:
        super().__init__(aggr="mean")
        self.norm = nn.LayerNorm(hidden)
        self.ends = nn.Linear(hidden, 2 * hidden, bias=False)
        self.geometry = nn.Linear(geometry_size, hidden, bias=False)
        self.context = nn.Linear(context_size, 2 * hidden)
        self.update_1 = nn.Linear(2 * hidden, hidden, bias=False)
        self.update_2 = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, edges: Tensor, geometry: Tensor, context: Tensor, cloud: Tensor) -> Tensor:
        """h (P, hidden) of all points, edges (2, E), geometry (E, D), context (B, context_size), cloud of each point (P,)."""
        normed = self.norm(h)
        message_shift, update_shift = self.context(context)[cloud].chunk(2, dim=1)
        target, source = self.ends(normed).chunk(2, dim=1)
        received = self.propagate(
            edges, target=target + message_shift, source=source, edge=self.geometry(geometry), size=(len(h), len(h))
        )
        update = F.silu(self.update_1(torch.cat([normed, received], dim=1)) + update_shift)
        result: Tensor = h + self.update_2(update)
        return result

    def message(self, target_i: Tensor, source_j: Tensor, edge: Tensor) -> Tensor:
        """What flows along each edge, shape (E, hidden)."""
        return F.silu(target_i + source_j + edge)
