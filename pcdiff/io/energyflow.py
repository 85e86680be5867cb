"""EnergyFlow npz: quark and gluon jets.

Two layouts:

- *padded*, that of the files of the EnergyFlow package (Komiske, Metodiev, Thaler, "Pythia8 Quark and Gluon Jets for Energy
  Flow", Zenodo 3164691; "Energy Flow Networks: Deep Sets for Particle Jets", arXiv:1810.05165): ``X`` (n, M, 4) holds pt (GeV),
  rapidity, phi and the PDG number, zero where there is no constituent; ``y`` (n,) is 1 for a quark and 0 for a gluon.
- *flat four-momenta*: ``p4`` (P, 4) holds px, py, pz, E (GeV) of all constituents, jet after jet; ``counts`` (n,) their number
  in each jet; ``label`` (n,) as ``y``.

Arrays are streamed from the archive and never unpickled.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import jet_schema

__all__ = ["FORMAT"]

_PADDED = ("pt", "rapidity", "phi", "pdgId")
_FLAT = ("px", "py", "pz", "energy")
_TYPES = ("g", "q")

_DAMAGE = (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True)
class _Array:
    """One array of the archive, positioned at its first row."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: IO[bytes]
    path: Path

    def take(self, rows: int) -> npt.NDArray[Any]:
        """The next rows."""
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        try:
            data = self.stream.read(size)
        except _DAMAGE as error:
            raise DataError(
                f"{self.path}: array {self.name!r} cannot be read ({error}); the file is damaged"
            ) from error
        if len(data) != size:
            raise DataError(f"{self.path}: array {self.name!r} is cut short, expected {self.shape[0]} rows")
        return np.frombuffer(data, self.dtype).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be opened ({error}); expected a whole npz file") from error
    with archive:
        yield archive


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _array(archive: zipfile.ZipFile, path: Path, name: str, *, kinds: str, shape: tuple[int | None, ...]) -> _Array:
    """One array by name.

    Args:
        kinds: the numpy kinds that its values may have.
        shape: what its shape must be, None where any length will do.
    """
    if name not in _names(archive):
        raise DataError(f"{path}: no array {name!r}; {suggest(name, _names(archive))}")
    try:
        stream = archive.open(f"{name}.npy")
        npy: Any = np.lib.format
        header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        found, fortran, dtype = header(stream)
    except _DAMAGE as error:
        raise DataError(f"{path}: array {name!r} cannot be read ({' '.join(str(error).split())})") from error
    if dtype.hasobject or dtype.kind not in kinds:
        raise DataError(f"{path}: array {name!r} holds {dtype}, expected numbers of kind {' or '.join(kinds)}")
    if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
        wanted = ", ".join("n" if length is None else str(length) for length in shape)
        raise DataError(f"{path}: array {name!r} has shape {found}, expected ({wanted})")
    if fortran and len(found) > 1:
        raise DataError(
            f"{path}: array {name!r} is stored column by column, expected row by row (np.ascontiguousarray)"
        )
    if math.prod(found) * dtype.itemsize > archive.getinfo(f"{name}.npy").file_size:
        raise DataError(f"{path}: array {name!r} declares shape {found}, more than it holds; expected all of its rows")
    return _Array(name, found, dtype, stream, path)


def _is_flat(archive: zipfile.ZipFile) -> bool:
    return "p4" in _names(archive)


def _fits(path: Path) -> bool:
    try:
        with _opened(path) as archive:
            return {"X", "y"} <= set(_names(archive)) or {"p4", "counts", "label"} <= set(_names(archive))
    except DataError:
        return False


def _iterate(path: Path, step_size: int, *, types: tuple[str, ...] = _TYPES) -> Iterator[PointClouds]:
    """Pieces of a file.

    Args:
        types: the names that the labels 0, 1, ... stand for.
    """
    with _opened(path) as archive:
        yield from (_flat_pieces if _is_flat(archive) else _padded_pieces)(archive, path, step_size, tuple(types))


def _padded_pieces(
    archive: zipfile.ZipFile, path: Path, step_size: int, types: tuple[str, ...]
) -> Iterator[PointClouds]:
    points = _array(archive, path, "X", kinds="f", shape=(None, None, 4))
    labels = _array(archive, path, "y", kinds="iufb", shape=(points.shape[0],))
    schema = jet_schema(_PADDED, ("type",), types=types)
    for start in range(0, points.shape[0], step_size):
        rows = min(step_size, points.shape[0] - start)
        padded = points.take(rows)
        # Not pt > 0: a pt that is negative or NaN is a fault to report, not padding.
        real = padded[..., 0] != 0
        flat = padded[real]
        columns = {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(_PADDED)}
        columns["pdgId"] = _whole(columns["pdgId"], path, "X[..., 3]")
        yield PointClouds.from_flat(
            columns,
            np.concatenate([np.zeros(1, np.int64), np.cumsum(real.sum(axis=1, dtype=np.int64))]),
            {"type": _whole(labels.take(rows), path, "y")},
            schema,
            {"sources": [str(path)]},
        )


def _flat_pieces(archive: zipfile.ZipFile, path: Path, step_size: int, types: tuple[str, ...]) -> Iterator[PointClouds]:
    points = _array(archive, path, "p4", kinds="f", shape=(None, 4))
    sizes = _array(archive, path, "counts", kinds="iu", shape=(None,))
    labels = _array(archive, path, "label", kinds="iufb", shape=sizes.shape)
    counts = sizes.take(sizes.shape[0]).astype(np.int64)
    if np.any(counts < 0) or counts.sum() != points.shape[0]:
        raise DataError(
            f"{path}: array 'counts' adds up to {counts.sum()}, expected {points.shape[0]}: the rows of 'p4'"
        )
    schema = jet_schema(_FLAT, ("type",), types=types)
    for start in range(0, len(counts), step_size):
        part = counts[start : start + step_size]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(part)])
        flat = points.take(int(offsets[-1]))
        columns = {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(_FLAT)}
        label = _whole(labels.take(len(part)), path, "label")
        yield PointClouds.from_flat(columns, offsets, {"type": label}, schema, {"sources": [str(path)]})


def _whole(values: npt.NDArray[Any], path: Path, source: str) -> npt.NDArray[np.int32]:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int32)
    if np.any(whole != values):
        raise DataError(f"{path}: {source} holds {values[whole != values][0]}, expected whole numbers")
    return whole


def _describe(path: Path, *, types: tuple[str, ...] = _TYPES) -> Description:
    """What is inside; the option as for reading."""
    with _opened(path) as archive:
        if _is_flat(archive):
            points = _array(archive, path, "p4", kinds="f", shape=(None, 4))
            labels = _array(archive, path, "label", kinds="iufb", shape=(None,))
            columns = [Column(f"p4[:, {i}]", name, str(points.dtype)) for i, name in enumerate(_FLAT)]
            notes = ["flat four-momenta, jet after jet"]
            used = {"p4", "label"}
        else:
            points = _array(archive, path, "X", kinds="f", shape=(None, None, 4))
            labels = _array(archive, path, "y", kinds="iufb", shape=(points.shape[0],))
            columns = [Column(f"X[..., {i}]", name, str(points.dtype)) for i, name in enumerate(_PADDED)]
            notes = [f"at most {points.shape[1]} constituents a jet"]
            used = {"X", "y"}
        columns.append(Column(labels.name, "type", str(labels.dtype)))
        columns += [Column(name) for name in _names(archive) if name not in used]
        notes.append("types: " + ", ".join(f"{i} is {name}" for i, name in enumerate(types)))
        return Description(path, "energyflow", labels.shape[0], tuple(columns), {}, tuple(notes))


FORMAT = Format(
    name="energyflow",
    description="EnergyFlow npz of quark and gluon jets, read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
)
