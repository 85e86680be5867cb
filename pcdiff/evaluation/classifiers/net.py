"""A permutation-invariant net on the points of clouds.

EPiC layers (Buhmann, Kasieczka, Thaler, "EPiC-GAN: Equivariant Point Cloud Generation for Particle Jets", arXiv 2301.08128), as in
the discriminator of that paper: layers that let the points of a cloud talk, their sums and means, and a perceptron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import awkward as ak
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError
from pcdiff.loader import batch_of
from pcdiff.nets.epic import EpicLayer
from pcdiff.transforms import Encoded

__all__ = ["PointSets", "SetClassifier", "TrainedNet"]

Floats = npt.NDArray[np.float64]

_HIDDEN = 48
_GLOBAL = 16
_LAYERS = 2
_BATCH = 256
_STEPS = 1500
_EPOCHS = 10
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
# Clouds in a batch of evaluation.
_BLOCK = 2048
# Features end here, in standard deviations, so that an absurd point cannot upset the training.
_RANGE = 10.0
# What softer constituents count as, so that one without momentum has a logarithm.
_SOFTEST = 1e-6
_JET_COLUMNS = ("pt", "eta")


@dataclass(frozen=True)
class PointSets:
    """What the net sees of n clouds with P points.

    Attributes:
        points: shape (P, F), float32.
        offsets: shape (n + 1,).
        clouds: shape (n, C), float32: log of the number of points, columns of the clouds, and of jets the sum of ptrel, whose sharp
            peak pooled features would take long to resolve.
        columns: names of the columns of the clouds among these.
    """

    points: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    clouds: npt.NDArray[np.float32]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, truth: PointClouds, sample: PointClouds) -> tuple[PointSets, PointSets]:
        """From two sets of clouds.

        Of jets, etarel, phirel, log ptrel and ptrel of each constituent, and the jet's pt and eta where both sets store them:
        a generator that makes the right constituents for the wrong jets is wrong. Of other clouds, the columns of each point.

        Raises:
            DataError: the sets have different columns.
        """
        kinds = {truth.schema.kind, sample.schema.kind}
        if len(kinds) > 1:
            raise DataError(f"cannot compare clouds of different kinds: {', '.join(sorted(kinds))}")
        shared = set(truth.schema.cloud_names) & set(sample.schema.cloud_names)
        columns = tuple(name for name in _JET_COLUMNS if name in shared and truth.schema.kind == "jets")
        if truth.schema.kind != "jets" and truth.schema.point_names != sample.schema.point_names:
            raise DataError(
                f"the points have columns {', '.join(sample.schema.point_names)} in the sample, "
                f"expected {', '.join(truth.schema.point_names)} as in the truth"
            )
        return cls._with(columns, truth), cls._with(columns, sample)

    @classmethod
    def _with(cls, columns: tuple[str, ...], clouds: PointClouds) -> PointSets:
        points = _features(clouds)
        rows = [np.log(np.maximum(clouds.counts, 1)), *(clouds.feature(name) for name in columns)]
        if clouds.schema.kind == "jets":
            # ptrel is the last feature.
            rows.append(np.bincount(clouds.owners, points[:, -1], len(clouds)))
        return cls(points, clouds.offsets, np.stack(rows, axis=1).astype(np.float32), columns)

    def like(self, clouds: PointClouds) -> PointSets:
        """The same of other clouds.

        Raises:
            DataError: a column of the clouds is missing.
        """
        found = self._with(self.columns, clouds)
        if found.points.shape[1] != self.points.shape[1]:
            raise DataError(
                f"points have {found.points.shape[1]} features; the classifier was trained with {self.points.shape[1]}"
            )
        return found

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __add__(self, other: PointSets) -> PointSets:
        """The clouds of one after those of the other."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        points = np.concatenate([self.points, other.points])
        return PointSets(points, offsets, np.concatenate([self.clouds, other.clouds]), self.columns)

    def __getitem__(self, index: npt.NDArray[np.int64]) -> PointSets:
        """Some of the clouds."""
        counts = np.diff(self.offsets)[index]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], counts)
        return PointSets(self.points[rows], offsets, self.clouds[index], self.columns)


def _features(clouds: PointClouds) -> npt.NDArray[np.float32]:
    """What the net sees of each point, shape (P, F)."""
    if clouds.schema.kind == "jets":
        flat = ak.flatten(clouds.relative())
        etarel, phirel, ptrel = (ak.to_numpy(flat[name]) for name in ("etarel", "phirel", "ptrel"))
        columns = [etarel, phirel, np.log(np.maximum(ptrel, _SOFTEST)), ptrel]
    else:
        columns = [clouds.column(name) for name in clouds.schema.point_names]
    features: npt.NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return features


class SetClassifier(nn.Module):
    """From a cloud to the log-odds of its being true.

    Permuting the points, or padding more, changes nothing beyond rounding.

    Args:
        features: number of point features F.
        conditions: number of columns of a cloud C, at least 1.
    """

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        self.entry = nn.Linear(features, _HIDDEN)
        self.start = nn.Linear(conditions, _GLOBAL)
        self.layers = nn.ModuleList(EpicLayer(_HIDDEN, _GLOBAL, conditions) for _ in range(_LAYERS))
        self.head = nn.Sequential(
            nn.Linear(2 * _HIDDEN + _GLOBAL + conditions, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, 1)
        )

    def forward(self, x: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """Points (B, N, F), which of them are real (B, N), and columns of the clouds (B, C) to log-odds (B,)."""
        size = mask.sum(dim=1, keepdim=True).clamp(min=1).to(x.dtype)
        mean = (mask / size)[:, None, :]
        g = self.start(cond)
        h = F.silu(self.entry(x.masked_fill(~mask[..., None], 0)))
        for layer in self.layers:
            h, g = layer(h, g, mean, size, cond)
        pooled = (mean @ h).squeeze(1)
        odds: Tensor = self.head(torch.cat([pooled, pooled * size.sqrt(), g, cond], dim=1))
        return odds.squeeze(1)


@dataclass(frozen=True)
class TrainedNet:
    """A trained classifier, and the mean and standard deviation of the features of points and clouds that it standardises by."""

    net: SetClassifier
    points: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    clouds: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

    @classmethod
    def fit(cls, sets: PointSets, is_true: npt.NDArray[np.bool_], weights: Floats, seed: int) -> TrainedNet:
        """Minimise the weighted cross entropy by AdamW, the learning rate falling as a cosine.

        The number of steps is fixed, but for small sets, which would be learnt by heart.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = SetClassifier(sets.points.shape[1], sets.clouds.shape[1])
        self = cls(net, _scale(sets.points), _scale(sets.clouds))
        encoded = self._standardised(sets)
        rng = np.random.default_rng(seed)
        target = torch.from_numpy(is_true.astype(np.float32))
        importance = torch.from_numpy((weights / weights.mean()).astype(np.float32))
        batch = min(_BATCH, len(sets))
        steps = min(_STEPS, _EPOCHS * len(sets) // batch)
        optimiser = torch.optim.AdamW(net.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        order = np.concatenate([rng.permutation(len(sets)) for _ in range(1 + steps * batch // len(sets))])
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            clouds = batch_of(encoded, index)
            odds = net(clouds.x, clouds.mask, clouds.cond)
            loss = F.binary_cross_entropy_with_logits(odds, target[index], importance[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        return self

    def log_odds(self, sets: PointSets) -> Floats:
        """Of being true, not calibrated, shape (n,)."""
        encoded = self._standardised(sets)
        # Clouds of like sizes share a block, which spares padding.
        order = np.argsort(encoded.counts, kind="stable")
        result = np.empty(len(sets))
        with torch.no_grad():
            for start in range(0, len(sets), _BLOCK):
                index = order[start : start + _BLOCK]
                clouds = batch_of(encoded, index)
                result[index] = self.net(clouds.x, clouds.mask, clouds.cond).numpy()
        return result

    def _standardised(self, sets: PointSets) -> Encoded:
        points, clouds = (
            np.clip((values - mean) / std, -_RANGE, _RANGE)
            for values, (mean, std) in ((sets.points, self.points), (sets.clouds, self.clouds))
        )
        return Encoded(points, sets.offsets, clouds)


def _scale(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each column, 1 for a constant one."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32)
