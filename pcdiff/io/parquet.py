"""Parquet: one row a cloud.

A file that pcdiff writes has the column ``points``, a list of records, and one plain column for each cloud feature; schema,
provenance, metadata and checksums are in the file's key-value metadata under ``pcdiff``. ``awkward.from_parquet``, polars and pyarrow read
it as it is. Any other file is read through a mapping from feature names to columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, one_line, suggest
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.stored import Checksums, Stored, columns_of, verified
from pcdiff.schema import Schema, jet_schema

__all__ = ["FORMAT"]

_POINTS = "points"
_KEY = b"pcdiff"
_ROW_GROUP = 1 << 16


@dataclass(frozen=True)
class _Layout:
    """Where each feature is: ``column`` or ``column.field`` of a list of records."""

    schema: Schema
    points: Mapping[str, str]
    clouds: Mapping[str, str]
    provenance: Mapping[str, Any]
    stored: Stored | None = None


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    # pyarrow decodes the names of columns as it opens a file.
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be opened ({one_line(error)}); expected a whole Parquet file") from error
    with file:
        yield file


def _fits(path: Path) -> bool:
    try:
        with _opened(path):
            return True
    except DataError:
        return False


def _layout(
    file: pq.ParquetFile, path: Path, points: Mapping[str, str] | None, clouds: Mapping[str, str] | None
) -> _Layout:
    text = _about(file)
    if points is not None:
        schema = jet_schema(tuple(points), tuple(clouds or {}))
        layout = _Layout(schema, points, clouds or {}, {"sources": [str(path)]})
    elif text is None:
        found = ", ".join(_leaves(file.schema_arrow))
        raise DataError(
            f"{path}: was not written by pcdiff, so it needs the option points, for example points={{'pt': 'column'}}; "
            f"its columns are {found}"
        )
    else:
        stored = Stored.loads(text, path)
        layout = _Layout(
            stored.schema,
            {name: f"{_POINTS}.{name}" for name in stored.schema.point_names},
            {name: name for name in stored.schema.cloud_names},
            stored.provenance,
            stored,
        )
    leaves = _leaves(file.schema_arrow)
    for column in (*layout.points.values(), *layout.clouds.values()):
        if column not in leaves:
            raise DataError(f"{path}: no column {column!r}; {suggest(column, leaves)}")
    return layout


def _about(file: pq.ParquetFile) -> bytes | None:
    """What pcdiff stored; None where it did not write the file."""
    found: bytes | None = (file.metadata.metadata or {}).get(_KEY)
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _leaves(schema: pa.Schema) -> dict[str, str]:
    """Columns that can be mapped and their types: ``name``, or ``name.field`` in a list of records."""
    leaves: dict[str, str] = {}
    for field in schema:
        if _is_list(field.type) and pa.types.is_struct(field.type.value_type):
            inner = field.type.value_type
            leaves |= {f"{field.name}.{inner[i].name}": f"list of {inner[i].type}" for i in range(inner.num_fields)}
        elif _is_list(field.type):
            leaves[field.name] = f"list of {field.type.value_type}"
        else:
            leaves[field.name] = str(field.type)
    return leaves


def _iterate(
    path: Path, step_size: int, *, points: Mapping[str, str] | None = None, clouds: Mapping[str, str] | None = None
) -> Iterator[PointClouds]:
    """Pieces of a file.

    Args:
        points: for a file that pcdiff did not write: the list column (or ``column.field`` of a list of records) of each
            point feature.
        clouds: the same for the cloud features, which are plain columns.
    """
    with _opened(path) as file:
        layout = _layout(file, path, points, clouds)
        yield from verified(_pieces(file, layout, path, step_size), layout.stored, path)


def _pieces(file: pq.ParquetFile, layout: _Layout, path: Path, step_size: int) -> Iterator[PointClouds]:
    used = {_top(column, file.schema_arrow) for column in (*layout.points.values(), *layout.clouds.values())}
    batches = file.iter_batches(batch_size=step_size, columns=sorted(used))
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)}); the file is damaged") from error
        if batch is None:
            return
        if batch.num_rows:
            yield _piece(batch, layout, path)


def _top(column: str, schema: pa.Schema) -> str:
    """The column of the file that holds ``column.field``; names of whole columns may contain dots."""
    return column if column in schema.names else column.rpartition(".")[0]


def _piece(batch: pa.RecordBatch, layout: _Layout, path: Path) -> PointClouds:
    lists = {name: _list_column(batch, column, path) for name, column in layout.points.items()}
    offsets = next(iter(lists.values()))[0]
    for name, (own, _) in lists.items():
        if not np.array_equal(own, offsets):
            raise DataError(f"{path}: the lists of {layout.points[name]!r} have other lengths than those before them")
    return PointClouds.from_flat(
        {name: _numbers(values, layout.points[name], path) for name, (_, values) in lists.items()},
        offsets,
        {name: _numbers(batch.column(column), column, path) for name, column in layout.clouds.items()},
        layout.schema,
        layout.provenance,
    )


def _list_column(batch: pa.RecordBatch, column: str, path: Path) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Offsets from 0 and the flat values of one list column, or of one field of a list of records."""
    top = _top(column, batch.schema)
    field = column[len(top) + 1 :]
    lists = batch.column(top)
    if not _is_list(lists.type):
        raise DataError(f"{path}: column {column!r} holds {lists.type}, expected lists of numbers")
    if lists.null_count:
        raise DataError(f"{path}: column {column!r} has {lists.null_count} missing lists; expected none")
    if pa.types.is_fixed_size_list(lists.type):
        offsets = np.arange(len(lists) + 1, dtype=np.int64) * lists.type.list_size
    else:
        offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.flatten()
    return offsets - offsets[0], values.field(field) if field else values


def _numbers(values: pa.Array, column: str, path: Path) -> npt.NDArray[Any]:
    kind = values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{path}: column {column!r} holds {kind}, expected numbers")
    if values.null_count:
        raise DataError(f"{path}: column {column!r} has {values.null_count} missing values; expected none")
    # A copy, because Arrow's own memory cannot be written to, which torch refuses to share.
    return np.array(values.to_numpy(zero_copy_only=False))


def _describe(
    path: Path, *, points: Mapping[str, str] | None = None, clouds: Mapping[str, str] | None = None
) -> Description:
    """What is inside; the options as for reading, but a foreign file needs none."""
    with _opened(path) as file:
        leaves = _leaves(file.schema_arrow)
        meaning: dict[str, str] = {}
        metadata: Mapping[str, Any] = {}
        notes: tuple[str, ...] = ()
        if points is None and _about(file) is None:
            notes = ("not written by pcdiff: read it with the options points and clouds",)
        else:
            layout = _layout(file, path, points, clouds)
            meaning = {column: name for part in (layout.points, layout.clouds) for name, column in part.items()}
            metadata = {} if layout.stored is None else layout.stored.about
        columns = tuple(Column(source, meaning.get(source, ""), kind) for source, kind in leaves.items())
        return Description(path, "parquet", file.metadata.num_rows, columns, metadata, notes)


def _write(pieces: Iterator[PointClouds], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write clouds, a row each.

    Raises:
        DataError: a cloud feature has the name of the column of points.
    """
    writer: pq.ParquetWriter | None = None
    checksums = Checksums()
    try:
        for piece in pieces:
            table = _table(piece, path)
            if writer is None:
                stored = Stored.of(piece, metadata)
                schema = table.schema
                writer = pq.ParquetWriter(
                    path,
                    schema,
                    compression="zstd",
                    write_page_checksum=True,
                    # Measured values hardly repeat: a dictionary of them is large and soon given up.
                    use_dictionary=False,
                    use_byte_stream_split=_floats(piece),
                )
            writer.write_table(table.cast(schema), row_group_size=_ROW_GROUP)
            checksums.add(columns_of(piece))
        if writer is not None:
            writer.add_key_value_metadata({_KEY: stored.dumps(checksums.to_dict()).encode()})
    finally:
        if writer is not None:
            writer.close()


def _table(piece: PointClouds, path: Path) -> pa.Table:
    if _POINTS in piece.schema.cloud_names:
        raise DataError(
            f"{path}: a cloud feature is named {_POINTS!r}, expected another name: it is that of the points"
        )

    def field(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    columns = {name: pa.array(piece.column(name)) for name in piece.schema.point_names}
    inner = [field(name, column.type) for name, column in columns.items()]
    records = pa.StructArray.from_arrays(list(columns.values()), fields=inner)
    lists = pa.LargeListArray.from_arrays(
        pa.array(piece.offsets), records, type=pa.large_list(field("element", records.type))
    )
    features = {name: pa.array(piece.feature(name)) for name in piece.schema.cloud_names}
    schema = pa.schema([field(_POINTS, lists.type), *(field(name, column.type) for name, column in features.items())])
    return pa.Table.from_arrays([lists, *features.values()], schema=schema)


def _floats(piece: PointClouds) -> list[str]:
    """Columns of floating-point numbers, whose bytes shrink well when they are stored by their place in the number."""
    columns = {f"{_POINTS}.list.element.{name}": piece.column(name) for name in piece.schema.point_names}
    columns |= {name: piece.feature(name) for name in piece.schema.cloud_names}
    return [column for column, values in columns.items() if values.dtype in (np.float32, np.float64)]


FORMAT = Format(
    name="parquet",
    description="Parquet, one row a cloud with its points as a list of records, read and written",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("jets", "halos", "vectors"),
    write=_write,
)
