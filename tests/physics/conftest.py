from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.schema import jet_schema

Constituent = tuple[float, float, float]
FEATURES = {"pt": 1000.0, "eta": 0.4, "phi": 1.0}


@pytest.fixture
def build() -> Callable[[Sequence[Sequence[Constituent]]], PointClouds]:
    """Jets from lists of (etarel, phirel, ptrel), around an axis at pT 1 TeV, eta 0.4 and phi 1."""

    def build(jets: Sequence[Sequence[Constituent]]) -> PointClouds:
        flat = np.array([constituent for jet in jets for constituent in jet], np.float64).reshape(-1, 3)
        names = ("etarel", "phirel", "ptrel")
        features = {name: np.full(len(jets), value) for name, value in FEATURES.items()}
        offsets = offsets_of([len(jet) for jet in jets])
        return PointClouds.from_flat(
            dict(zip(names, flat.T, strict=True)), offsets, features, jet_schema(names, list(features))
        )

    return build


@pytest.fixture
def random_jets() -> list[np.ndarray]:
    """40 jets of 12 constituents in general position, each (12, 3): etarel, phirel, ptrel."""
    rng = np.random.default_rng(3)
    momenta = rng.dirichlet(np.ones(12), 40)
    return list(np.dstack([rng.normal(0, 0.12, (40, 12)), rng.normal(0, 0.12, (40, 12)), momenta]))


@pytest.fixture(scope="session")
def gluons() -> PointClouds:
    """200 of the embedded gluon jets."""
    return pcdiff.read(Path(__file__).parents[2] / "datasets" / "jets" / "gluon30_test.hdf5")[:200]
