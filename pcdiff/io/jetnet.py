"""JetNet HDF5: jets as padded arrays.

Layout (JetNet, Zenodo 6975118 and 6975117; Kansal et al., "Particle Cloud Generation with Message Passing Generative
Adversarial Networks", arXiv:2106.11535):

- ``particle_features`` (n, N, 4): etarel, phirel, ptrel and a mask that is 1 where a constituent is real, N = 30 or 150.
  Files of generated jets often lack the mask; then a constituent is real where any of its features is not zero.
- ``jet_features`` (n, 4): pt (GeV), eta, mass (GeV) and the number of constituents. There is no azimuth.

The type of the jets is that of the file: the attribute ``type`` or the name (``g.hdf5``, ``t150.hdf5``).

Files that pcdiff writes hold a group ``pcdiff`` besides, which other readers pass over: ``about`` (schema, provenance,
metadata and checksums of the columns as JSON) and, as flat arrays ``points/NAME`` and ``clouds/NAME``, the columns for which JetNet has no place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, suggest
from pcdiff.io import hdf5
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.stored import Checksums, Stored, columns_of, verified
from pcdiff.schema import JET_TYPES, Schema, jet_schema

__all__ = ["FORMAT"]

_PARTICLES, _JETS = "particle_features", "jet_features"
_POINTS = ("etarel", "phirel", "ptrel")
_CLOUDS = ("pt", "eta", "mass", "num_constituents")
_ABOUT = "pcdiff/about"


@dataclass(frozen=True)
class _Layout:
    """An open file: its datasets and the meaning of its columns.

    Attributes:
        points: the point columns that are stored apart from ``particles``.
        clouds: the cloud columns that are stored apart from ``jets``.
        type: the number that fills the column ``type``, None where the file stores that column or says nothing.
    """

    particles: h5py.Dataset
    jets: h5py.Dataset
    schema: Schema
    points: Mapping[str, h5py.Dataset]
    clouds: Mapping[str, h5py.Dataset]
    type: int | None
    stored: Stored | None

    @property
    def has_mask(self) -> bool:
        return bool(self.particles.shape[2] == 4)


def _fits(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return hdf5.exists(file, _PARTICLES) and hdf5.exists(file, _JETS)
    except DataError:
        return False


def _layout(file: h5py.File, path: Path, type: str | None) -> _Layout:
    particles = hdf5.dataset(file, _PARTICLES, ndim=3, axes="clouds, points, features")
    if particles.shape[2] not in (3, 4):
        raise DataError(f"{path}: dataset {_PARTICLES!r} has shape {particles.shape}, expected (n, N, 4) or (n, N, 3)")
    jets = hdf5.dataset(file, _JETS, ndim=2, shape=(4,), axes="clouds, features")
    if len(jets) != len(particles):
        raise DataError(f"{path}: dataset {_JETS!r} has {len(jets)} rows, expected {len(particles)} as {_PARTICLES!r}")
    if hdf5.exists(file, _ABOUT):
        return _own_layout(file, path, particles, jets, type)
    number = _type_number(type, "the option type", path) if type else _type_of_file(file, path)
    clouds = (*_CLOUDS, "type") if number is not None else _CLOUDS
    return _Layout(particles, jets, jet_schema(_POINTS, clouds, axis="all"), {}, {}, number, None)


def _own_layout(file: h5py.File, path: Path, particles: h5py.Dataset, jets: h5py.Dataset, type: str | None) -> _Layout:
    stored = Stored.loads(hdf5.dataset(file, _ABOUT, ndim=0, kinds="S")[()], path)
    if type:
        raise DataError(f"{path}: the option type is for files that do not state their columns; this one does")

    def apart(level: str, names: tuple[str, ...], standard: tuple[str, ...]) -> dict[str, h5py.Dataset]:
        return {
            name: hdf5.dataset(file, f"pcdiff/{level}/{name}", ndim=1, kinds="biuf")
            for name in names
            if name not in standard or hdf5.exists(file, f"pcdiff/{level}/{name}")
        }

    points = apart("points", stored.schema.point_names, _POINTS)
    clouds = apart("clouds", stored.schema.cloud_names, _CLOUDS)
    return _Layout(particles, jets, stored.schema, points, clouds, None, stored)


def _type_number(name: str, where: str, path: Path) -> int:
    if name not in JET_TYPES:
        raise DataError(
            f"{path}: {where} is {name!r}, expected one of {', '.join(JET_TYPES)}: {suggest(name, JET_TYPES)}"
        )
    return JET_TYPES.index(name)


def _type_of_file(file: h5py.File, path: Path) -> int | None:
    if "type" in file.attrs:
        value = file.attrs["type"]
        return _type_number(value.decode() if isinstance(value, bytes) else str(value), "the attribute type", path)
    named = re.fullmatch(rf"([{''.join(JET_TYPES)}])\d*", path.stem)
    return JET_TYPES.index(named.group(1)) if named else None


def _iterate(path: Path, step_size: int, *, type: str | None = None) -> Iterator[PointClouds]:
    """Pieces of a file.

    Args:
        type: the jets' type, one of ``g``, ``q``, ``t``, ``w``, ``z``, in place of what the file says.
    """
    with hdf5.opened(path) as file:
        layout = _layout(file, path, type)
        yield from verified(_pieces(layout, step_size, path), layout.stored, path)


def _pieces(layout: _Layout, step_size: int, path: Path) -> Iterator[PointClouds]:
    first_point = 0
    for start in range(0, len(layout.jets), step_size):
        piece = _piece(layout, slice(start, min(start + step_size, len(layout.jets))), first_point, path)
        yield piece
        first_point += piece.num_points


def _piece(layout: _Layout, jets: slice, first_point: int, path: Path) -> PointClouds:
    """The clouds of some rows; ``first_point`` is the number of points in the rows before."""
    particles = hdf5.rows(layout.particles, jets.start, jets.stop)
    real = particles[..., 3] > 0.5 if layout.has_mask else np.any(particles != 0, axis=2)
    offsets = offsets_of(real.sum(axis=1, dtype=np.int64))
    flat = particles[real]
    points = {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(_POINTS)}
    for name, column in layout.points.items():
        points[name] = hdf5.rows(column, first_point, first_point + int(offsets[-1]))
    stored = hdf5.rows(layout.jets, jets.start, jets.stop)
    clouds = {name: np.ascontiguousarray(stored[:, i]) for i, name in enumerate(_CLOUDS)}
    for name, column in layout.clouds.items():
        clouds[name] = hdf5.rows(column, jets.start, jets.stop)
    if layout.type is not None:
        clouds["type"] = np.full(len(stored), layout.type, np.int32)
    return PointClouds.from_flat(
        {name: points[name] for name in layout.schema.point_names},
        offsets,
        {name: clouds[name] for name in layout.schema.cloud_names},
        layout.schema,
        layout.stored.provenance if layout.stored else {"sources": [str(path)]},
    )


def _describe(path: Path, *, type: str | None = None) -> Description:
    """What is inside; the option as for reading."""
    with hdf5.opened(path) as file:
        layout = _layout(file, path, type)
        names = {*layout.schema.point_names, *layout.schema.cloud_names}
        columns = [
            Column(
                f"{_PARTICLES}[..., {i}]",
                name if name in layout.schema.point_names and name not in layout.points else "",
                str(layout.particles.dtype),
            )
            for i, name in enumerate(_POINTS)
        ]
        if layout.has_mask:
            columns.append(Column(f"{_PARTICLES}[..., 3]", "", str(layout.particles.dtype)))
        columns += [
            Column(
                f"{_JETS}[:, {i}]",
                name if name in layout.schema.cloud_names and name not in layout.clouds else "",
                str(layout.jets.dtype),
            )
            for i, name in enumerate(_CLOUDS)
        ]
        for apart in (layout.points, layout.clouds):
            columns += [Column(found.name.lstrip("/"), name, str(found.dtype)) for name, found in apart.items()]
        notes = [f"at most {layout.particles.shape[1]} constituents a jet"]
        if not layout.has_mask:
            notes.append("no mask column: a constituent is real where any of its features is not zero")
        if layout.type is not None:
            notes.append(f"all jets are of type {JET_TYPES[layout.type]}")
        elif "type" not in names:
            notes.append("neither an attribute nor the file name gives the type of the jets; the option type does")
        metadata = layout.stored.about if layout.stored else {}
        return Description(path, "jetnet", len(layout.jets), tuple(columns), metadata, tuple(notes))


def _write(pieces: Iterator[PointClouds], path: Path, metadata: Mapping[str, Any], *, size: int | None = None) -> None:
    """Write jets; constituents stay in the order they have.

    Args:
        size: N, the number of constituents that a row has room for; by default that of the largest jet.

    Raises:
        DataError: a jet has more than ``size`` constituents, or the columns do not give what JetNet stores.
    """
    with hdf5.created(path) as file:
        checksums = Checksums()
        for number, piece in enumerate(pieces):
            largest = int(piece.counts.max(initial=0))
            if size is not None and largest > size:
                raise DataError(f"{path}: a jet has {largest} constituents, expected at most size={size}")
            particles = _particle_array(piece, path, largest if size is None else size)
            jets = _jet_array(piece, path)
            if number == 0:
                stored = Stored.of(piece, metadata)
            hdf5.append(file, _PARTICLES, particles)
            hdf5.append(file, _JETS, jets)
            for name in piece.schema.point_names:
                if not _has_place(piece.column(name), name, particles, _relative_names(piece)):
                    hdf5.append(file, f"pcdiff/points/{name}", piece.column(name))
            for name in piece.schema.cloud_names:
                if not _has_place(piece.feature(name), name, jets, _CLOUDS):
                    hdf5.append(file, f"pcdiff/clouds/{name}", piece.feature(name))
            checksums.add(columns_of(piece))
        # A dataset, because HDF5 attributes end at 64 kB.
        file.create_dataset(_ABOUT, data=np.bytes_(stored.dumps(checksums.to_dict()).encode("ascii")))


def _has_place(column: npt.NDArray[Any], name: str, standard: npt.NDArray[Any], names: tuple[str, ...]) -> bool:
    """Whether a column is in a standard dataset to the last bit."""
    return name in names and column.dtype == standard.dtype


def _relative_names(piece: PointClouds) -> tuple[str, ...]:
    """The relative coordinates if all are stored; otherwise all are derived, for they share one axis."""
    return _POINTS if set(_POINTS) <= set(piece.schema.point_names) else ()


def _common_dtype(columns: list[npt.NDArray[Any]]) -> np.dtype[Any]:
    common = np.result_type(*columns) if columns else np.dtype(np.float32)
    return common if common in (np.float32, np.float64) else np.dtype(np.float32)


def _particle_array(piece: PointClouds, path: Path, size: int) -> npt.NDArray[Any]:
    """Shape (n, size, 4): etarel, phirel, ptrel, mask."""
    try:
        relative = piece.relative()
    except DataError as error:
        raise DataError(f"{path}: JetNet stores etarel, phirel, ptrel; {error}") from error
    dtype = _common_dtype([piece.column(name) for name in _relative_names(piece)])
    out = np.zeros((len(piece), size, 4), dtype)
    real = np.arange(size) < piece.counts[:, None]
    for i, name in enumerate(_POINTS):
        out[real, i] = ak.to_numpy(ak.flatten(relative[name], axis=1))
    out[..., 3] = real
    return out


def _jet_array(piece: PointClouds, path: Path) -> npt.NDArray[Any]:
    """Shape (n, 4): pt, eta, mass, number of constituents."""
    have = piece.schema.cloud_names
    columns: dict[str, npt.NDArray[Any]] = {name: piece.feature(name) for name in _CLOUDS if name in have}
    missing = [name for name in _CLOUDS[:3] if name not in have]
    if missing:
        try:
            jet = ak.sum(piece.momenta(), axis=1)
        except DataError as error:
            raise DataError(f"{path}: JetNet stores the jets' {', '.join(missing)}; {error}") from error
        columns |= {name: ak.to_numpy(getattr(jet, name)) for name in missing}
    columns.setdefault("num_constituents", piece.counts)
    out = np.empty((len(piece), 4), _common_dtype([piece.feature(name) for name in _CLOUDS[:3] if name in have]))
    for i, name in enumerate(_CLOUDS):
        out[:, i] = columns[name]
    return out


FORMAT = Format(
    name="jetnet",
    description="JetNet HDF5: padded constituents relative to the jet axis, read and written",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    write=_write,
)
