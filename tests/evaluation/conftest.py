"""Toy jets of known distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.schema import jet_schema

# Runs in an environment of its own, with the package jetnet.
collect_ignore = ["jetnet_reference.py"]


@pytest.fixture(scope="session")
def toy_jets():
    """A function (n, seed, scale, provenance) -> n jets of 5 to 15 constituents in JetNet columns, with charge and class."""

    def make(n: int, seed: int, scale: float = 1.0, provenance: dict | None = None) -> PointClouds:
        rng = np.random.default_rng(seed)
        counts = rng.integers(5, 16, n)
        total = counts.sum()
        width = np.repeat(rng.gamma(4.0, 0.02, n), counts)
        points = {
            "etarel": rng.normal(0, width),
            "phirel": rng.normal(0, width),
            "ptrel": scale * rng.exponential(1.0, total) / np.repeat(counts, counts),
        }
        labels = np.random.default_rng([seed, 1])
        points["charge"] = labels.integers(-1, 2, total)
        points["particle_class"] = labels.choice(5, total, p=[0.4, 0.2, 0.2, 0.1, 0.1])
        features = {"pt": rng.normal(1000, 100, n), "eta": rng.uniform(-2, 2, n)}
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return PointClouds.from_flat(points, offsets, features, jet_schema(list(points), list(features)), provenance)

    return make
