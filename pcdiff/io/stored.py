"""What pcdiff stores in its files beside the columns, as JSON: the schema, the provenance, the user's metadata, and checksums.

Each format has checksums of its own for stored bytes, but for parts of them only. Those here are of the columns as they come back, so they notice
damage wherever it is: in a type, a length, a name, or the place where a file says that bytes are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import Schema

__all__ = ["Checksums", "Stored", "columns_of", "verified"]

_VERSION = 1
_CHECKSUM = "checksum"


class Checksums:
    """The type and the CRC-32 of each column, taken piece by piece."""

    def __init__(self) -> None:
        self._types: dict[str, str] = {}
        self._values: dict[str, int] = {}

    def add(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """The next rows of each column."""
        for name, values in columns.items():
            ordered = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            self._types[name] = str(ordered.dtype.descr if ordered.dtype.names else ordered.dtype.str)
            self._values[name] = zlib.crc32(ordered.view(np.uint8).data, self._values.get(name, 0))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: ``checksums`` and ``types`` by column."""
        return {"checksums": dict(self._values), "types": dict(self._types)}

    def verify(self, expected: Mapping[str, Any], path: Path, of: str = "") -> None:
        """Compare with what :meth:`to_dict` gave when the file was written; files of the time before that hold nothing to compare with.

        Args:
            expected: may hold more than that.
            path, of: the file, and what in it the columns are of, for the error message.

        Raises:
            DataError: a column is another than the one that was written.
        """
        values, types = expected.get("checksums"), expected.get("types")
        if values is None:
            return
        for name in dict.fromkeys((*values, *self._values)):
            # Of no rows at all the checksum is 0.
            if self._values.get(name, 0) != values.get(name):
                raise DataError(f"{path}: {name!r}{of} is damaged: its checksum differs")
            # ROOT files of the time before types were noted have checksums alone.
            if types is not None and name in self._types and self._types[name] != types.get(name):
                raise DataError(
                    f"{path}: {name!r}{of} is damaged: it is of type {self._types[name]}, expected {types.get(name)}"
                )


def columns_of(piece: PointClouds) -> dict[str, npt.NDArray[Any]]:
    """All columns of clouds for :class:`Checksums`, and their sizes."""
    columns = {f"points/{name}": piece.column(name) for name in piece.schema.point_names}
    columns |= {f"clouds/{name}": piece.feature(name) for name in piece.schema.cloud_names}
    return columns | {"counts": piece.counts}


def verified(pieces: Iterable[PointClouds], stored: Stored | None, path: Path) -> Iterator[PointClouds]:
    """The same pieces; once all are taken, they are held against the checksums that a file of ours holds.

    Args:
        stored: None for a file that pcdiff did not write.

    Raises:
        DataError: a column is damaged.
    """
    checksums = Checksums()
    for piece in pieces:
        if stored is not None:
            checksums.add(columns_of(piece))
        yield piece
    if stored is not None:
        checksums.verify(stored.further, path)


@dataclass(frozen=True)
class Stored:
    """The text that makes a file of ours read back exactly.

    Attributes:
        schema: the meaning of the columns.
        provenance: plain data for JSON: where the clouds came from.
        metadata: plain data for JSON: what the user added when writing.
        further: plain data for JSON: what the format stores besides, such as checksums.
    """

    schema: Schema
    provenance: Mapping[str, Any]
    metadata: Mapping[str, Any]
    further: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, first: PointClouds, metadata: Mapping[str, Any]) -> Stored:
        """For a file whose first piece is ``first``."""
        return cls(first.schema, first.provenance, metadata)

    @property
    def about(self) -> dict[str, Any]:
        """Provenance and metadata together, for people."""
        return {**self.provenance, **self.metadata}

    def dumps(self, further: Mapping[str, Any]) -> str:
        """ASCII JSON, the same text for the same content, with its own checksum at the end.

        Args:
            further: see the attribute.

        Raises:
            DataError: provenance or metadata are not plain data.
        """
        content = {
            "pcdiff": _VERSION,
            "schema": self.schema.to_dict(),
            "provenance": dict(self.provenance),
            "metadata": dict(self.metadata),
            **further,
        }
        try:
            # Keys that are no text become text, so the checksum is that of what is read back.
            plain = json.loads(json.dumps(content, allow_nan=False))
            return json.dumps({**plain, _CHECKSUM: _checksum(plain)})
        except (TypeError, ValueError) as error:
            raise DataError(f"metadata: cannot be stored as JSON ({error}); expected plain data") from error

    @classmethod
    def loads(cls, text: str | bytes, path: Path) -> Stored:
        """Inverse of :meth:`dumps`; ``path`` is for the error message.

        Raises:
            DataError: not such a text, damaged, or one of a newer pcdiff.
        """
        try:
            content = json.loads(text)
            version = content.pop("pcdiff")
            if not isinstance(version, int) or version > _VERSION:
                raise DataError(
                    f"{path}: its pcdiff metadata have version {version!r}; expected at most {_VERSION}: "
                    "it was written by a newer pcdiff"
                )
            # JetNet, HDF5 and Parquet files of the time before had none.
            checksum = content.pop(_CHECKSUM, None)
            if checksum is not None and checksum != _checksum({"pcdiff": version, **content}):
                raise DataError(f"{path}: its pcdiff metadata are damaged: their checksum differs")
            schema, provenance, metadata = (content.pop(key) for key in ("schema", "provenance", "metadata"))
            return cls(Schema.from_dict(schema), dict(provenance), dict(metadata), content)
        except DataError as error:
            if str(path) in str(error):
                raise
            raise DataError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: its pcdiff metadata cannot be understood ({error!r})") from error


def _checksum(content: Mapping[str, Any]) -> int:
    """CRC-32 of plain data."""
    return zlib.crc32(json.dumps(content).encode())
