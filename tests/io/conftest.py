"""Jets to write and files to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import halo_schema, jet_schema


@pytest.fixture
def jets() -> PointClouds:
    """120 jets of 1 to 12 constituents with columns beyond those of any one format, of several types."""
    rng = np.random.default_rng(2)
    size = 120
    counts = rng.integers(1, 13, size)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    points = {
        "pdgId": rng.choice([-211, 22, 211, 130], total).astype(np.int32),
        "etarel": rng.normal(0, 0.1, total).astype(np.float32),
        "phirel": rng.normal(0, 0.1, total).astype(np.float32),
        "ptrel": rng.uniform(0.001, 0.2, total).astype(np.float32),
        "charge": rng.integers(-1, 2, total).astype(np.int8),
        "depth": rng.normal(size=total),
        "particle_class": rng.integers(0, 5, total).astype(np.int32),
    }
    features = {
        "type": rng.integers(0, 5, size).astype(np.int32),
        "pt": rng.uniform(800, 1200, size).astype(np.float32),
        "eta": rng.normal(size=size).astype(np.float32),
        "phi": rng.uniform(-np.pi, np.pi, size),
        "mass": rng.uniform(10, 200, size).astype(np.float32),
        "num_constituents": (counts + 3).astype(np.int64),
    }
    schema = jet_schema(tuple(points), tuple(features), axis="kept")
    return PointClouds.from_flat(points, offsets, features, schema, {"recipe": "ü", "seeds": [1, 2]})


@pytest.fixture
def halos() -> PointClouds:
    """40 boxes of two sizes, of 1 to 60 halos, with positions at the near side and as near to the far side as numbers go."""
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 61, 40)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    box = rng.choice([25.0, 125.0], 40).astype(np.float32)
    sides = np.repeat(box, counts)
    points = {}
    for name in ("x", "y", "z"):
        inside = (rng.uniform(size=total) * sides).astype(np.float32)
        points[name] = np.minimum(inside, np.nextafter(sides, np.float32(0)))
        points[name][0] = 0
        points[name][-1] = np.nextafter(sides[-1], np.float32(0))
    for name in ("vx", "vy", "vz"):
        points[name] = rng.normal(0, 250, total).astype(np.float32)
    points["log10_mass"] = rng.uniform(12.5, 15, total).astype(np.float32)
    features = {
        "box_size": box,
        "redshift": rng.choice([0.0, 0.5], 40).astype(np.float32),
        "omega_m": rng.uniform(0.1, 0.5, 40).astype(np.float32),
        "sigma_8": rng.uniform(0.6, 1, 40).astype(np.float32),
    }
    return PointClouds.from_flat(
        points, offsets, features, halo_schema(tuple(points), tuple(features)), {"recipe": "uniform", "seed": 5}
    )


@pytest.fixture
def refused() -> Callable[..., None]:
    """Assert that a call is refused in one line that names the file and every given key."""

    def check(call: Callable[[], object], path: Path | str, *keys: str) -> None:
        with pytest.raises(DataError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        for key in (str(path), *keys):
            assert key in message

    return check
