"""A bounded number of clouds out of data of any size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError

__all__ = ["part"]


def part(pieces: Iterable[PointClouds], most: int, seed: np.random.SeedSequence) -> PointClouds:
    """All clouds, or a random part of them in their order where there are more than ``most``; how many there were is then in the provenance.

    Each cloud draws a number, and those of the smallest ones stay: any set of ``most`` clouds is as likely as any other, and it does not depend on how
    the clouds come in pieces. At most about twice as many are held in memory, and a piece.

    Args:
        pieces: one after the other, of one schema.
        most: how many clouds at most, at least 1.
        seed: same seed, same part.

    Raises:
        DataError: there are no clouds, or ``most`` is out of range.

    >>> from pcdiff.schema import jet_schema
    >>> clouds = PointClouds.from_flat({"pt": [1.0, 2.0, 3.0]}, [0, 1, 2, 3], {}, jet_schema(["pt"], []))
    >>> some = part(clouds.split(2), 2, np.random.SeedSequence(0))
    >>> len(some), some.provenance["part"]
    (2, {'clouds': 2, 'of': 3})
    """
    if most < 1:
        raise DataError(f"expected at least 1 cloud to take, found {most}")
    rng = np.random.default_rng(seed)
    total, limit = 0, np.inf
    kept: list[PointClouds] = []
    drawn: list[npt.NDArray[np.float64]] = []
    for piece in pieces:
        numbers = rng.random(len(piece))
        inside = numbers < limit
        kept.append(piece if inside.all() else piece[inside])
        drawn.append(numbers[inside])
        total += len(piece)
        if sum(map(len, kept)) > 2 * most:
            clouds, lowest = _lowest(kept, drawn, most)
            kept, drawn, limit = [clouds], [lowest], lowest.max()
    if total == 0:
        raise DataError("there are no clouds")
    clouds, _ = _lowest(kept, drawn, most)
    if total > most:
        clouds.provenance = clouds.provenance | {"part": {"clouds": most, "of": total}}
    return clouds


def _lowest(
    kept: list[PointClouds], drawn: list[npt.NDArray[np.float64]], most: int
) -> tuple[PointClouds, npt.NDArray[np.float64]]:
    """The clouds with the smallest numbers, and these."""
    clouds, numbers = PointClouds.concatenate(kept), np.concatenate(drawn)
    if len(clouds) <= most:
        return clouds, numbers
    index = np.sort(np.argpartition(numbers, most - 1)[:most])
    return clouds[index], numbers[index]
