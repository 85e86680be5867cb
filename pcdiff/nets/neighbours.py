"""Edges from each point's nearest neighbours, in flat space and in a periodic box."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pcdiff.kinematics import into_box

__all__ = ["neighbour_edges", "periodic_edges"]

# Pairs of points whose distances are in memory together: a gigabyte or two, on a device other than the CPU.
_PAIRS = 1 << 26


def neighbour_edges(position: Tensor, mask: Tensor, neighbours: int) -> Tensor:
    """Edges from each point's nearest neighbours in its own cloud to the point.

    A cloud with fewer than ``neighbours + 1`` points is fully connected; a point never neighbours itself or padding.

    Args:
        position: coordinates, shape (B, N, D).
        mask: true where there is a point, shape (B, N), bool.
        neighbours: most neighbours of a point.

    Returns:
        Shape (2, E), int64: source and target, numbered over the valid points of all clouds in order.
    """
    # Which points are neighbours has no derivative, and cdist no forward-mode one.
    position = position.detach()
    distance = torch.cdist(position, position, compute_mode="donot_use_mm_for_euclid_dist")
    return _nearest(distance, mask, neighbours)


def periodic_edges(position: Tensor, mask: Tensor, neighbours: int, period: float) -> Tensor:
    """Edges from each point's nearest neighbours in its own cloud, in whichever image of the box they are nearest, to the point.

    Found by a tree on the CPU (scipy), in a time that is almost linear in the number of points. On another device by all distances within
    a cloud, where that is faster, unless a cloud is so large that they would not fit into its memory.

    Args:
        position: in [0, period), shape (B, N, 3).
        mask: true where there is a point, shape (B, N), bool.
        neighbours: most neighbours of a point; a cloud of fewer other points is fully connected.
        period: side of the box.

    Returns:
        Shape (2, E), int64: source and target, numbered over the valid points of all clouds in order; targets do not fall.
    """
    if position.device.type == "cpu" or mask.shape[1] ** 2 > _PAIRS:
        return _by_tree(position, mask, neighbours, period)
    return _by_distance(position, mask, neighbours, period)


def _by_distance(position: Tensor, mask: Tensor, neighbours: int, period: float) -> Tensor:
    """As :func:`periodic_edges`, by the distances of all pairs of a cloud."""
    position = position.detach()
    most = max(1, _PAIRS // mask.shape[1] ** 2)
    edges, first = [], torch.zeros((), dtype=torch.int64, device=mask.device)
    for places, valid in zip(torch.split(position, most), torch.split(mask, most), strict=True):
        squared = places.new_zeros(*valid.shape, valid.shape[1])
        for along in places.unbind(dim=2):
            step = along[:, :, None] - along[:, None, :]
            step = step - period * torch.round(step / period)
            squared += step.square()
        edges.append(first + _nearest(squared, valid, neighbours))
        first = first + valid.sum()
    return torch.cat(edges, dim=1)


def _nearest(distance: Tensor, mask: Tensor, neighbours: int) -> Tensor:
    """The edges of the smallest distances (B, N, N), or of the smallest values of a rising function of them."""
    size = mask.shape[1]
    itself = torch.eye(size, dtype=torch.bool, device=mask.device)
    distance = distance.masked_fill(~(mask[:, :, None] & mask[:, None, :]) | itself, torch.inf)
    nearest = distance.topk(min(neighbours, size), dim=2, largest=False)
    number = (mask.flatten().cumsum(0) - 1).view_as(mask)
    source = number.gather(1, nearest.indices.flatten(1)).view_as(nearest.indices)
    target = number[:, :, None].expand_as(source)
    real = nearest.values.isfinite()
    return torch.stack([source[real], target[real]])


def _by_tree(position: Tensor, mask: Tensor, neighbours: int, period: float) -> Tensor:
    """As :func:`periodic_edges`, by a tree for each cloud."""
    places, valid = position.detach().cpu().double().numpy(), mask.cpu().numpy()
    edges: list[npt.NDArray[np.int64]] = []
    first, before, nearest = 0, None, np.zeros((0, 0), np.int64)
    for cloud, real in zip(places, valid, strict=True):
        here = into_box(cloud[real], period)
        count = len(here)
        if count > 1:
            # One cloud under many conditions, as in inference, is searched once.
            if before is None or not np.array_equal(here, before):
                nearest = cKDTree(here, boxsize=period).query(here, k=min(neighbours + 1, count))[1]
            before = here
            target = np.arange(count)
            # The point itself is the nearest, but where several are in one place.
            itself = nearest == target[:, None]
            itself[~itself.any(axis=1), -1] = True
            source = nearest[~itself].reshape(count, -1)
            edges.append(first + np.stack([source.ravel(), np.repeat(target, source.shape[1])]))
        first += count
    found = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), np.int64)
    return torch.from_numpy(found).to(position.device)
