"""What pcdiff stores in its files beside the columns: the schema, the provenance and the user's metadata, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import Schema

__all__ = ["Stored"]

_VERSION = 1


@dataclass(frozen=True)
class Stored:
    """The text that makes a file of ours read back exactly.

    Attributes:
        schema: the meaning of the columns.
        provenance: plain data for JSON: where the clouds came from.
        metadata: plain data for JSON: what the user added when writing.
    """

    schema: Schema
    provenance: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, first: PointClouds, metadata: Mapping[str, Any]) -> Stored:
        """For a file whose first piece is ``first``."""
        return cls(first.schema, first.provenance, metadata)

    @property
    def about(self) -> dict[str, Any]:
        """Provenance and metadata together, for people."""
        return {**self.provenance, **self.metadata}

    def dumps(self) -> str:
        """ASCII JSON, the same text for the same content.

        Raises:
            DataError: provenance or metadata are not plain data.
        """
        content = {
            "pcdiff": _VERSION,
            "schema": self.schema.to_dict(),
            "provenance": dict(self.provenance),
            "metadata": dict(self.metadata),
        }
        try:
            return json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"metadata: cannot be stored as JSON ({error}); expected plain data") from error

    @classmethod
    def loads(cls, text: str | bytes, path: Path) -> Stored:
        """Inverse of :meth:`dumps`; ``path`` is for the error message.

        Raises:
            DataError: not such a text, or one of a newer pcdiff.
        """
        try:
            content = json.loads(text)
            version = content["pcdiff"]
            if not isinstance(version, int) or version > _VERSION:
                raise DataError(
                    f"{path}: its pcdiff metadata have version {version!r}; expected at most {_VERSION}: "
                    "it was written by a newer pcdiff"
                )
            return cls(Schema.from_dict(content["schema"]), dict(content["provenance"]), dict(content["metadata"]))
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: its pcdiff metadata cannot be understood ({error!r})") from error
