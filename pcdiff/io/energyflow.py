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
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, suggest
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import jet_schema

__all__ = ["FORMAT"]

_PADDED = ("pt", "rapidity", "phi", "pdgId")
_FLAT = ("px", "py", "pz", "energy")
_TYPES = ("g", "q")

# What damaged bytes surface as: in the archive (RuntimeError where they claim encryption or an unknown compression), in
# its compressed members, and in the header of an array, which numpy reads as Python's own words.
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, RuntimeError, zlib.error, ValueError, tokenize.TokenError)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what damaged bytes surface as into one line that says where they are."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{where} cannot be read ({' '.join(str(error).split())}); the file is damaged") from error


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
        with _reading(f"{self.path}: array {self.name!r}"):
            data = self.stream.read(size)
        if len(data) != size:
            raise DataError(f"{self.path}: array {self.name!r} is cut short, expected {self.shape[0]} rows")
        return np.frombuffer(data, self.dtype).reshape(shape)


@dataclass(frozen=True)
class _Archive:
    """An open npz file; ``streams`` closes its arrays."""

    path: Path
    file: zipfile.ZipFile
    streams: ExitStack

    @property
    def names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self.file.namelist() if name.endswith(".npy")]

    @property
    def is_flat(self) -> bool:
        return "p4" in self.names

    def array(self, name: str, *, kinds: str, shape: tuple[int | None, ...]) -> _Array:
        """One array by name.

        Args:
            kinds: the numpy kinds that its values may have.
            shape: what its shape must be, None where any length will do.

        Raises:
            DataError: missing, of another type or shape, damaged, or declared larger than what the file holds.
        """
        if name not in self.names:
            raise DataError(f"{self.path}: no array {name!r}; {suggest(name, self.names)}")
        where = f"{self.path}: array {name!r}"
        npy: Any = np.lib.format
        with _reading(where):
            stream = self.streams.enter_context(self.file.open(f"{name}.npy"))
            header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
            found, fortran, dtype = header(stream)
        if dtype.hasobject or dtype.kind not in kinds:
            raise DataError(f"{where} holds {dtype}, expected numbers of kind {' or '.join(kinds)}")
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            wanted = ", ".join("n" if length is None else str(length) for length in shape)
            raise DataError(f"{where} has shape {found}, expected ({wanted})")
        if fortran and len(found) > 1:
            raise DataError(f"{where} is stored column by column, expected row by row (np.ascontiguousarray)")
        if math.prod(found) * dtype.itemsize > self.file.getinfo(f"{name}.npy").file_size:
            raise DataError(f"{where} declares shape {found}, more than it holds; expected all of its rows")
        return _Array(name, found, dtype, stream, self.path)


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(zipfile.ZipFile(path))
        except _DAMAGE as error:
            raise DataError(f"{path}: cannot be opened ({error}); expected a whole npz file") from error
        yield _Archive(path, file, stack)


def _fits(path: Path) -> bool:
    try:
        with _opened(path) as archive:
            return {"X", "y"} <= set(archive.names) or {"p4", "counts", "label"} <= set(archive.names)
    except DataError:
        return False


def _iterate(path: Path, step_size: int, *, types: tuple[str, ...] = _TYPES) -> Iterator[PointClouds]:
    """Pieces of a file.

    Args:
        types: the names that the labels 0, 1, ... stand for.
    """
    with _opened(path) as archive:
        yield from (_flat_pieces if archive.is_flat else _padded_pieces)(archive, step_size, tuple(types))


def _padded_pieces(archive: _Archive, step_size: int, types: tuple[str, ...]) -> Iterator[PointClouds]:
    points = archive.array("X", kinds="f", shape=(None, None, 4))
    labels = archive.array("y", kinds="iufb", shape=(points.shape[0],))
    schema = jet_schema(_PADDED, ("type",), types=types)
    for start in range(0, points.shape[0], step_size):
        rows = min(step_size, points.shape[0] - start)
        padded = points.take(rows)
        # Not pt > 0: a pt that is negative or NaN is a fault to report, not padding.
        real = padded[..., 0] != 0
        flat = padded[real]
        columns = {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(_PADDED)}
        columns["pdgId"] = _whole(columns["pdgId"], archive.path, "X[..., 3]")
        yield PointClouds.from_flat(
            columns,
            offsets_of(real.sum(axis=1, dtype=np.int64)),
            {"type": _labels(labels, rows, types)},
            schema,
            {"sources": [str(archive.path)]},
        )


def _flat_pieces(archive: _Archive, step_size: int, types: tuple[str, ...]) -> Iterator[PointClouds]:
    points = archive.array("p4", kinds="f", shape=(None, 4))
    sizes = archive.array("counts", kinds="iu", shape=(None,))
    labels = archive.array("label", kinds="iufb", shape=sizes.shape)
    counts = sizes.take(sizes.shape[0]).astype(np.int64)
    if np.any(counts < 0) or counts.sum() != points.shape[0]:
        raise DataError(
            f"{archive.path}: array 'counts' adds up to {counts.sum()}, expected {points.shape[0]}: the rows of 'p4'"
        )
    schema = jet_schema(_FLAT, ("type",), types=types)
    for start in range(0, len(counts), step_size):
        part = counts[start : start + step_size]
        offsets = offsets_of(part)
        flat = points.take(int(offsets[-1]))
        columns = {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(_FLAT)}
        label = _labels(labels, len(part), types)
        yield PointClouds.from_flat(columns, offsets, {"type": label}, schema, {"sources": [str(archive.path)]})


def _labels(array: _Array, rows: int, types: tuple[str, ...]) -> npt.NDArray[np.int32]:
    """The next labels.

    Raises:
        DataError: one is no whole number, or stands for none of the types.
    """
    labels = _whole(array.take(rows), array.path, array.name)
    unknown = labels[(labels < 0) | (labels >= len(types))]
    if unknown.size:
        raise DataError(f"{array.path}: array {array.name!r} holds {unknown[0]}, {_expected(types)}")
    return labels


def _expected(types: tuple[str, ...]) -> str:
    return (
        f"expected 0 to {len(types) - 1} for {', '.join(types)}; name all types in their order with the option types "
        "(command line: --option types=[a,b,c])"
    )


def _whole(values: npt.NDArray[Any], path: Path, source: str) -> npt.NDArray[np.int32]:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int32)
    if np.any(whole != values):
        raise DataError(f"{path}: {source} holds {values[whole != values][0]}, expected whole numbers")
    return whole


def _describe(path: Path, *, types: tuple[str, ...] = _TYPES) -> Description:
    """What is inside; the option as for reading."""
    with _opened(path) as archive:
        if archive.is_flat:
            points = archive.array("p4", kinds="f", shape=(None, 4))
            labels = archive.array("label", kinds="iufb", shape=(None,))
            columns = [Column(f"p4[:, {i}]", name, str(points.dtype)) for i, name in enumerate(_FLAT)]
            notes = ["flat four-momenta, jet after jet"]
            used = {"p4", "label"}
        else:
            points = archive.array("X", kinds="f", shape=(None, None, 4))
            labels = archive.array("y", kinds="iufb", shape=(points.shape[0],))
            columns = [Column(f"X[..., {i}]", name, str(points.dtype)) for i, name in enumerate(_PADDED)]
            notes = [f"at most {points.shape[1]} constituents a jet"]
            used = {"X", "y"}
        columns.append(Column(labels.name, "type", str(labels.dtype)))
        columns += [Column(name) for name in archive.names if name not in used]
        notes.append("types: " + ", ".join(f"{i} is {name}" for i, name in enumerate(types)))
        found = _whole(labels.take(labels.shape[0]), path, labels.name)
        if found.size and (found.min() < 0 or found.max() >= len(types)):
            notes.append(f"{labels.name} holds {found.min()} to {found.max()}, {_expected(tuple(types))}")
        return Description(path, "energyflow", labels.shape[0], tuple(columns), {}, tuple(notes))


FORMAT = Format(
    name="energyflow",
    description="EnergyFlow npz of quark and gluon jets, read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
)
