"""Neighbours in a periodic box, against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcdiff.nets import neighbours
from pcdiff.nets.neighbours import periodic_edges

PERIOD = 12.5

# What is used on a CPU, and on other devices.
WAYS = {"by tree": neighbours._by_tree, "by distance": neighbours._by_distance}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_neighbours_are_the_nearest_images(way: str, count: int) -> None:
    """Against all pairs."""
    generator = torch.Generator().manual_seed(4)
    place = PERIOD * torch.rand(1, count, 3, generator=generator, dtype=torch.float64)
    edges = WAYS[way](place, torch.ones(1, count, dtype=torch.bool), 6, PERIOD)
    step = place[0][:, None] - place[0][None]
    step = step - PERIOD * torch.round(step / PERIOD)
    distance = step.norm(dim=2).fill_diagonal_(torch.inf)
    for target in range(count):
        found = sorted(edges[0][edges[1] == target].tolist())
        expected = sorted(distance[target].argsort()[: min(6, count - 1)].tolist())
        assert found == expected


@pytest.mark.parametrize("way", WAYS)
def test_points_in_one_place_are_neighbours_and_no_point_is_its_own(way: str) -> None:
    place = torch.zeros(1, 4, 3, dtype=torch.float64)
    edges = WAYS[way](place, torch.ones(1, 4, dtype=torch.bool), 8, PERIOD)
    assert (edges[0] != edges[1]).all()
    assert np.array_equal(np.bincount(edges[1].numpy()), [3, 3, 3, 3])


def test_all_devices_find_the_same_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """In clouds of several sizes, one of them empty, few of which are looked at together."""
    monkeypatch.setattr(neighbours, "_PAIRS", 2 * 30**2)
    generator = torch.Generator().manual_seed(5)
    place = PERIOD * torch.rand(5, 30, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(30) < torch.tensor([30, 0, 3, 17, 29])[:, None]
    expected = periodic_edges(place, mask, 7, PERIOD)
    assert torch.equal(WAYS["by distance"](place, mask, 7, PERIOD), expected)
