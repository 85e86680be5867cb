"""Batches of similar-sized clouds under a budget of points, in an order that (seed, epoch) decide.

Padding is waste: a batch costs (number of clouds) x (largest cloud). Each epoch is shuffled, cut into chunks of many
batches, sorted by size within a chunk, cut into batches under the budget, and the batches are shuffled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcdiff.errors import DataError
from pcdiff.seeds import Purpose, stream
from pcdiff.transforms import Encoded

__all__ = ["CloudBatch", "Drawn", "Loader", "batch_of"]

# Batches that a chunk holds: enough for batches of even size, few enough that an epoch stays well mixed.
_BATCHES_IN_CHUNK = 32


@dataclass(frozen=True)
class CloudBatch:
    """Tensors of B clouds padded to N points.

    Attributes:
        x: shape (B, N, F), float32, zero where the mask is false.
        mask: shape (B, N), bool.
        cond: shape (B, C), float32.
    """

    x: Tensor
    mask: Tensor
    cond: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> CloudBatch:
        """Some of the clouds."""
        return CloudBatch(self.x[rows], self.mask[rows], self.cond[rows])

    def to(self, device: torch.device) -> CloudBatch:
        """The same batch on a device."""
        return CloudBatch(self.x.to(device), self.mask.to(device), self.cond.to(device))


@dataclass(frozen=True)
class Drawn:
    """A batch, and what was drawn for its clouds. What is drawn for a cloud depends on the batch that it is in, its loss does not.

    Attributes:
        batch: the clouds.
        numbers: by name, of each cloud: shape (B, ...).
    """

    batch: CloudBatch
    numbers: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: slice) -> Drawn:
        """Some of the clouds, with what was drawn for them."""
        return Drawn(self.batch[rows], {name: value[rows] for name, value in self.numbers.items()})

    def to(self, device: torch.device) -> Drawn:
        """The same on a device."""
        return Drawn(self.batch.to(device), {name: value.to(device) for name, value in self.numbers.items()})


def batch_of(encoded: Encoded, index: npt.NDArray[np.int64]) -> CloudBatch:
    """The clouds at ``index``, padded to the largest of them."""
    starts = encoded.offsets[index]
    counts = encoded.offsets[index + 1] - starts
    size = int(counts.max(initial=1))
    mask = np.arange(size) < counts[:, None]
    rows = np.where(mask, starts[:, None] + np.arange(size), 0)
    x = encoded.points[rows] * mask[..., None]
    return CloudBatch(torch.from_numpy(x), torch.from_numpy(mask), torch.from_numpy(encoded.cond[index]))


class Loader:
    """Batches of encoded clouds, which are in memory or mapped from a disk.

    Args:
        encoded: the clouds.
        points_per_batch: most points in a batch, padding included.
        seed: together with the epoch decides the order.

    Raises:
        DataError: there are no clouds, or the largest cloud does not fit into the budget.
    """

    def __init__(self, encoded: Encoded, points_per_batch: int, seed: int) -> None:
        counts = encoded.counts
        if len(counts) == 0:
            raise DataError("there are no clouds to make batches of")
        if counts.max() > points_per_batch:
            raise DataError(
                f"the largest cloud has {counts.max()} points, more than training.points_per_batch = {points_per_batch}"
            )
        self.encoded = encoded
        self.points_per_batch = points_per_batch
        self.seed = seed
        # Mean number of clouds in a batch: the scale of the batch's loss, so that each cloud of an epoch counts alike though
        # batches of small clouds hold more of them.
        self.mean_batch = len(counts) / len(self.order(0))

    def order(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """The clouds of each batch of an epoch; each cloud is in exactly one."""
        rng = np.random.default_rng(stream(self.seed, Purpose.ORDER, epoch))
        counts = self.encoded.counts
        shuffled = rng.permutation(len(counts))
        chunk = max(1, int(_BATCHES_IN_CHUNK * self.points_per_batch / counts.mean()))
        batches: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(shuffled), chunk):
            part = shuffled[start : start + chunk]
            part = part[np.argsort(counts[part], kind="stable")]
            batches += _cut(part, counts[part], self.points_per_batch)
        return [batches[i] for i in rng.permutation(len(batches))]

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[CloudBatch]:
        """The batches of an epoch, from the one numbered ``start`` on, or each so many."""
        for index in self.order(epoch)[start::step]:
            yield batch_of(self.encoded, index)


def _cut(index: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], budget: int) -> list[npt.NDArray[np.int64]]:
    """Consecutive runs of sizes in rising order whose padded size stays within the budget."""
    out = []
    end = len(index)
    while end > 0:
        # From the largest down: the last cloud of a run sets its padding.
        start = max(0, end - budget // int(counts[end - 1]))
        out.append(index[start:end])
        end = start
    return out
