"""pcdiff's own HDF5: any kind of clouds as flat columns, in pieces of any size.

Layout:

- ``points/NAME`` (P,): each point column, the points of all clouds one after the other.
- ``clouds/NAME`` (n,): each cloud column.
- ``offsets`` (n + 1,): cloud i holds the points ``offsets[i]`` to ``offsets[i + 1]``.
- ``about``: schema with units, provenance, metadata and checksums of the columns as JSON.

Datasets are chunked and compressed, each chunk with a checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import hdf5
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.stored import Checksums, Stored, columns_of, verified

__all__ = ["FORMAT"]

_OFFSETS, _ABOUT = "offsets", "about"


@dataclass(frozen=True)
class _Layout:
    """An open file: its datasets, of sizes that agree."""

    stored: Stored
    offsets: h5py.Dataset
    points: Mapping[str, h5py.Dataset]
    clouds: Mapping[str, h5py.Dataset]

    @property
    def num_clouds(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_points(self) -> int:
        return len(next(iter(self.points.values())))


def _fits(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return hdf5.exists(file, _OFFSETS) and hdf5.exists(file, _ABOUT)
    except DataError:
        return False


def _layout(file: h5py.File, path: Path) -> _Layout:
    stored = Stored.loads(hdf5.dataset(file, _ABOUT, ndim=0, kinds="S")[()], path)
    offsets = hdf5.dataset(file, _OFFSETS, ndim=1, kinds="i", axes="clouds and one more")
    if len(offsets) == 0:
        raise DataError(f"{path}: dataset {_OFFSETS!r} is empty, expected one row more than there are clouds")

    def columns(level: str, names: tuple[str, ...]) -> dict[str, h5py.Dataset]:
        return {name: hdf5.dataset(file, f"{level}/{name}", ndim=1, kinds="biuf") for name in names}

    found = _Layout(
        stored, offsets, columns("points", stored.schema.point_names), columns("clouds", stored.schema.cloud_names)
    )
    for level, group, rows in (("points", found.points, found.num_points), ("clouds", found.clouds, found.num_clouds)):
        for name, column in group.items():
            if len(column) != rows:
                raise DataError(f"{path}: dataset '{level}/{name}' has {len(column)} rows, expected {rows}")
    return found


def _iterate(path: Path, step_size: int) -> Iterator[PointClouds]:
    """Pieces of a file."""
    with hdf5.opened(path) as file:
        layout = _layout(file, path)
        yield from verified(_pieces(layout, path, step_size), layout.stored, path)


def _pieces(layout: _Layout, path: Path, step_size: int) -> Iterator[PointClouds]:
    before = 0
    for start in range(0, layout.num_clouds, step_size):
        stop = min(start + step_size, layout.num_clouds)
        bounds = hdf5.rows(layout.offsets, start, stop + 1).astype(np.int64)
        _check_bounds(bounds, before, layout, stop == layout.num_clouds, path)
        before = int(bounds[-1])
        yield PointClouds.from_flat(
            {name: hdf5.rows(column, int(bounds[0]), before) for name, column in layout.points.items()},
            bounds - bounds[0],
            {name: hdf5.rows(column, start, stop) for name, column in layout.clouds.items()},
            layout.stored.schema,
            layout.stored.provenance,
        )


def _check_bounds(bounds: npt.NDArray[np.int64], before: int, layout: _Layout, last: bool, path: Path) -> None:
    """Whether the offsets of a piece go on where those before it ended, rise, and end where the points do."""
    falling = bool(np.any(np.diff(bounds) < 0))
    end = layout.num_points
    if bounds[0] != before or falling or bounds[-1] > end or (last and bounds[-1] != end):
        raise DataError(
            f"{path}: dataset {_OFFSETS!r} goes from {bounds[0]} to {bounds[-1]}{' and falls' if falling else ''}; "
            f"expected numbers that rise from {before} to {end if last else f'at most {end}'}"
        )


def _describe(path: Path) -> Description:
    """What is inside."""
    with hdf5.opened(path) as file:
        layout = _layout(file, path)
        columns = tuple(
            Column(f"{level}/{name}", name, str(column.dtype))
            for level, group in (("points", layout.points), ("clouds", layout.clouds))
            for name, column in group.items()
        )
        notes = (f"{layout.num_points:,} points ({layout.stored.schema.kind})",)
        return Description(path, "flat", layout.num_clouds, columns, layout.stored.about, notes)


def _write(pieces: Iterator[PointClouds], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write clouds of any kind."""
    with hdf5.created(path) as file:
        points = 0
        checksums = Checksums()
        for number, piece in enumerate(pieces):
            if number == 0:
                stored = Stored.of(piece, metadata)
                hdf5.append(file, _OFFSETS, np.zeros(1, np.int64))
            hdf5.append(file, _OFFSETS, piece.offsets[1:] + points)
            points += piece.num_points
            for name in piece.schema.point_names:
                hdf5.append(file, f"points/{name}", piece.column(name))
            for name in piece.schema.cloud_names:
                hdf5.append(file, f"clouds/{name}", piece.feature(name))
            checksums.add(columns_of(piece))
        # A dataset, because HDF5 attributes end at 64 kB.
        file.create_dataset(_ABOUT, data=np.bytes_(stored.dumps(checksums.to_dict()).encode("ascii")))


FORMAT = Format(
    name="flat",
    description="pcdiff's HDF5: flat columns of any kind of clouds, read and written",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("jets", "halos", "vectors"),
    write=_write,
)
