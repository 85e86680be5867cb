"""The neighbour graph against a brute-force search."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from pcdiff.config import GraphConfig
from pcdiff.nets import build_net
from pcdiff.nets.neighbours import neighbour_edges


def test_edges_are_those_of_a_tree_search() -> None:
    sizes, neighbours = (0, 1, 3, 20, 7), 5
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    position = torch.randn(*mask.shape, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = set()
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for cloud, valid, offset in zip(position, mask, offsets[:-1], strict=True):
        points = cloud[valid].numpy()
        if len(points) < 2:
            continue
        # The nearest point is the point itself.
        nearest = cKDTree(points).query(points, k=range(2, min(neighbours, len(points) - 1) + 2))[1]
        expected |= {(offset + j, offset + i) for i, row in enumerate(nearest) for j in row}
    edges = neighbour_edges(position, mask, neighbours)
    assert edges.shape[1] == len(expected) == 0 + 0 + 3 * 2 + 20 * 5 + 7 * 5
    assert {(int(source), int(target)) for source, target in edges.T} == expected


def test_valid_points_need_not_come_first() -> None:
    mask = torch.tensor([[False, True, False, True]])
    edges = neighbour_edges(torch.zeros(1, 4, 2), mask, neighbours=3)
    assert edges.tolist() == [[1, 0], [0, 1]]


def test_distance_is_measured_in_the_named_coordinates() -> None:
    names = ("ptrel", "phirel", "etarel")
    net = build_net(GraphConfig(hidden=8, coordinates=("etarel", "phirel")), len(names), 0, names)
    assert net.coordinates == [2, 1]
