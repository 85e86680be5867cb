"""Independent random streams: one for each purpose and index under a user's seed."""

from __future__ import annotations

import operator
from enum import IntEnum

import numpy as np

from pcdiff.errors import DataError

__all__ = ["Purpose", "stream"]


class Purpose(IntEnum):
    """What a stream is for; the numbers are part of what a seed means, so they never change."""

    WEIGHTS = 0
    ORDER = 1
    STEP = 2
    VALIDATION = 3
    MULTIPLICITY = 4
    CLOUDS = 5
    POINTS = 6
    STEPS = 7
    TOY = 8
    STUDENT = 9
    GRID = 10
    PROBES = 11
    PAIRS = 12
    ATTEMPTS = 13
    HALOS = 14
    COSMOLOGY = 15
    PART = 16


def stream(seed: int, purpose: Purpose, *index: int) -> np.random.SeedSequence:
    """The seed of one stream.

    Args:
        seed: the user's seed, any whole number from 0.
        purpose: what the stream is for.
        index: which one: the epoch, the step, the block.

    Raises:
        DataError: the seed is negative.

    >>> same = stream(7, Purpose.STEP, 3).generate_state(2)
    >>> bool((stream(7, Purpose.STEP, 3).generate_state(2) == same).all())
    True
    """
    if operator.index(seed) < 0:
        raise DataError(f"seed is {seed}; expected a whole number from 0")
    # A spawn key, and not more words of entropy: those of a seed beyond 2^32 would run into the index.
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *index))


def word(seed: int, purpose: Purpose, *index: int) -> int:
    """One number below 2^64 for what takes no seed sequences, such as torch; arguments as for :func:`stream`.

    >>> word(7, Purpose.STEP, 3) == word(7, Purpose.STEP, 4)
    False
    """
    return int(stream(seed, purpose, *index).generate_state(1, np.uint64)[0])
