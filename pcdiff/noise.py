"""The noise of sampling: that of cloud i depends only on (seed, i), whatever else is asked for.

Clouds are numbered from 0 in a request. Those of a block share one random stream, from which all are filled at once. Noise that
stochastic samplers draw along the way comes from a stream of its own for each cloud, because it is not known before how much.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pcdiff.seeds import Purpose, stream

__all__ = ["BLOCK", "StepNoise", "attempt_noise", "cloud_noise", "point_noise", "student_uniforms"]

# Clouds that share one random stream.
BLOCK = 1024


def _noise(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(stream(seed, purpose, *index)))


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


def attempt_noise(
    seed: int, start: int, width: int
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Uniforms (n,) and normals (n, width) of further draws for the block of clouds that begins at ``start``, without end, in growing batches."""
    rng = _noise(seed, Purpose.ATTEMPTS, start // BLOCK)
    size = BLOCK // 2
    while True:
        yield rng.random(size), rng.standard_normal((size, width))
        size = min(2 * size, 8 * BLOCK)


def point_noise(seed: int, start: int, size: int, points: int, width: int) -> npt.NDArray[np.float32]:
    """Normals (size, points, width). A stream is filled point by point, so asking for more points changes none of the first."""
    blocks = [
        _noise(seed, Purpose.POINTS, block).standard_normal((points, BLOCK, width), np.float32).transpose(1, 0, 2)
        for block in range(start // BLOCK, -(-(start + size) // BLOCK))
    ]
    noise: npt.NDArray[np.float32] = np.concatenate(blocks)[:size]
    return noise


def student_uniforms(seed: int, start: int, size: int) -> npt.NDArray[np.float64]:
    """Uniforms (size,) of the clouds from ``start``, a multiple of the block, on; for the length of a Poisson flow's noise."""
    blocks = range(start // BLOCK, -(-(start + size) // BLOCK))
    uniform: npt.NDArray[np.float64] = np.concatenate(
        [_noise(seed, Purpose.STUDENT, block).random(BLOCK) for block in blocks]
    )
    return uniform[:size]


class StepNoise:
    """Fresh normals at each call for clouds that pass through a sampler together.

    Args:
        seed: the user's seed.
        clouds: their numbers in the request, shape (B,).
        counts: their numbers of points, shape (B,).
        width: F.
    """

    def __init__(self, seed: int, clouds: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], width: int) -> None:
        self._seed = seed
        self._clouds = clouds
        self._counts = counts
        self._width = width

    @cached_property
    def _streams(self) -> list[np.random.Generator]:
        # Made at the first call, which samplers of the ODE never make.
        return [_noise(self._seed, Purpose.STEPS, int(cloud)) for cloud in self._clouds]

    def __call__(self) -> npt.NDArray[np.float32]:
        """Shape (B, N, F), N the largest of the counts, zero beyond each cloud's own."""
        out = np.zeros((len(self._counts), int(self._counts.max()), self._width), np.float32)
        for row, rng, count in zip(out, self._streams, self._counts, strict=True):
            row[:count] = rng.standard_normal((count, self._width), np.float32)
        return out
