"""Which channels of a point are a position in a periodic box, and which are vectors along its axes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

__all__ = ["AXES", "Torus"]

AXES: tuple[tuple[int, int, int], ...] = tuple((x, y, z) for x, y, z in permutations(range(3)))
"""The six orders of three axes; with the signs of each axis they are the 48 symmetries of the cube."""


@dataclass(frozen=True)
class Torus:
    """Clouds in a periodic box, as the denoiser sees them.

    A position x0 has period P, and so has x_t / alpha = x0 + (sigma / alpha) eps. Samplers and losses take both from all of space, of which the
    box is one cell: x_t and x_t + alpha P k stand for the same point for each whole k. A net that sees x_t / alpha modulo P alone makes
    the process one on the torus, with the wrapped normal distribution as its noise:

        -E[eps | x_t mod alpha P] / sigma

    is the score of the wrapped density, because the images of a point are summed over by the mean. At the largest noise the wrapped
    normal distribution is uniform to 2e-7 (:class:`pcdiff.encodings.Periodic`).

    Attributes:
        positions: the channels of x, y and z.
        vectors: those of further vectors.
        scalars: all other channels.
        period: P in the units of the denoiser.
    """

    positions: tuple[int, int, int]
    vectors: tuple[tuple[int, int, int], ...]
    scalars: tuple[int, ...]
    period: float
