"""Arrays and clouds that lie on a disk and not in memory: written piece by piece, then mapped.

Their files have no name. So nothing half-written is ever seen, and the system takes back their room when the last array over them goes,
however the process ends. What has been read lies in the cache of the system, which gives it up where memory is short.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.schema import Schema

__all__ = ["GrowingArray", "in_pieces", "mapped_clouds"]

# Points that are held in memory at once.
_POINTS = 1 << 19
# Rows that are converted at once where pieces differ in their type of number.
_ROWS = 1 << 19


class GrowingArray:
    """An array on a disk, to which rows are appended.

    Args:
        folder: on the disk that holds it.

    Raises:
        PcdiffError: the folder cannot be written to, or its disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._rows = 0
        self._stream = self._opened()

    def append(self, values: npt.NDArray[Any]) -> None:
        """Rows (n, ...) after those that are there. The type of number is the one that holds those of all pieces."""
        if self._dtype is None:
            self._dtype, self._shape = values.dtype, values.shape[1:]
        common = np.result_type(self._dtype, values.dtype)
        if common != self._dtype:
            self._convert(common)
        try:
            self._stream.write(np.ascontiguousarray(values, self._dtype).data)
        except OSError as error:
            raise self._refused(error) from error
        self._rows += len(values)

    def _convert(self, dtype: np.dtype[Any]) -> None:
        """Write all rows anew as numbers of another type."""
        before = self.mapped()
        self._stream, self._dtype, self._rows = self._opened(), dtype, 0
        for start in range(0, len(before), _ROWS):
            self.append(before[start : start + _ROWS].astype(dtype))

    def _opened(self) -> BinaryIO:
        try:
            stream = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it is closed with the array
        except OSError as error:
            raise self._refused(error) from error
        weakref.finalize(self, stream.close)
        return stream

    def mapped(self) -> npt.NDArray[Any]:
        """All rows so far, read-only."""
        dtype = np.dtype(np.float32) if self._dtype is None else self._dtype
        try:
            # A disk that is full only when the system gets to it says so here, and not by zeros that are read later.
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._refused(error) from error
        shape = (self._rows, *self._shape)
        if 0 in shape:
            return np.zeros(shape, dtype)
        # The map keeps the file.
        pages = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(pages, dtype).reshape(shape)

    def _refused(self, error: OSError) -> PcdiffError:
        return PcdiffError(
            f"{self._folder}: not enough disk, or no right, to keep data there while they are worked on ({error.strerror})"
        )


def mapped_clouds(pieces: Iterable[PointClouds], folder: Path) -> PointClouds:
    """Clouds of one schema, one piece after the other, as :meth:`PointClouds.concatenate` gives them, on a disk.

    Args:
        pieces: at least one.
        folder: on the disk that holds them.

    Raises:
        DataError: there are no pieces.
        PcdiffError: the disk is full.
    """
    schema: Schema | None = None
    provenance: dict[str, Any] = {}
    columns: dict[str, GrowingArray] = {}
    features: dict[str, GrowingArray] = {}
    offsets = GrowingArray(folder)
    points = 0
    sources: dict[str, None] = {}
    for piece in pieces:
        if schema is None:
            schema, provenance = piece.schema, piece.provenance
            columns = {name: GrowingArray(folder) for name in piece.schema.point_names}
            features = {name: GrowingArray(folder) for name in piece.schema.cloud_names}
            offsets.append(np.zeros(1, np.int64))
        for name, column in columns.items():
            column.append(piece.column(name))
        for name, feature in features.items():
            feature.append(piece.feature(name))
        offsets.append(piece.offsets[1:] + points)
        points += piece.num_points
        sources |= dict.fromkeys(piece.provenance.get("sources", ()))
    if schema is None:
        raise DataError("nothing to keep: no point clouds given")
    return PointClouds.from_flat(
        {name: column.mapped() for name, column in columns.items()},
        offsets.mapped(),
        {name: feature.mapped() for name, feature in features.items()},
        schema,
        provenance | ({"sources": list(sources)} if sources else {}),
    )


def in_pieces(clouds: PointClouds) -> Iterator[PointClouds]:
    """The clouds in pieces of so many points as are held in memory at once."""
    return clouds.split(max(1, _POINTS * len(clouds) // max(1, clouds.num_points)))
