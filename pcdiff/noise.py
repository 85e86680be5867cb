"""The noise of sampling: that of cloud i depends only on (seed, i), whatever else is asked for.

Clouds are numbered from 0 in a request. Those of a block share one random stream, from which all are filled at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.seeds import Purpose, stream

__all__ = ["BLOCK", "cloud_noise", "point_noise"]

# Clouds that share one random stream, and that pass through the sampler together at most.
BLOCK = 1024


def _noise(seed: int, purpose: Purpose, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(stream(seed, purpose, block)))


def cloud_noise(
    seed: int, start: int, size: int, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Uniforms (size, 2) and normals (size, width) of the clouds from ``start``, a multiple of the block, on."""
    uniform, normal = [], []
    for block in range(start // BLOCK, -(-(start + size) // BLOCK)):
        rng = _noise(seed, Purpose.CLOUDS, block)
        uniform.append(rng.random((BLOCK, 2)))
        normal.append(rng.standard_normal((BLOCK, width)))
    return np.concatenate(uniform)[:size], np.concatenate(normal)[:size]


def point_noise(seed: int, start: int, size: int, points: int, width: int) -> npt.NDArray[np.float32]:
    """Normals (size, points, width). A stream is filled point by point, so asking for more points changes none of the first."""
    blocks = [
        _noise(seed, Purpose.POINTS, block).standard_normal((points, BLOCK, width), np.float32).transpose(1, 0, 2)
        for block in range(start // BLOCK, -(-(start + size) // BLOCK))
    ]
    noise: npt.NDArray[np.float32] = np.concatenate(blocks)[:size]
    return noise
