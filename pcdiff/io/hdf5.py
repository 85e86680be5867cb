"""HDF5 with care: plain datasets inside the file itself, of a size that the file can hold; failed writes end cleanly."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.errors import DataError, PcdiffError, suggest

__all__ = ["COMPRESSION", "append", "created", "dataset", "exists", "numbers", "opened", "rows", "text"]

# Deflate, the strongest filter in common use, shrinks a constant by a factor of 1,030; physics by less than 100.
_MOST_COMPRESSED = 1000

COMPRESSION: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
"""How pcdiff stores datasets: small, and with checksums that damage does not pass."""

_CHUNK_ROWS, _CHUNK_BYTES = 1 << 14, 1 << 20

# Bytes of the checksum at the end of a chunk.
_FLETCHER32 = 4

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Raises:
        DataError: the file is not HDF5, is cut short, or cannot be read; or what is done with it meets damage.
    """
    try:
        file = h5py.File(path, "r")
    except _DAMAGE as error:
        raise DataError(f"{path}: cannot be opened ({_reason(error)}); expected a whole HDF5 file") from error
    with file:
        try:
            yield file
        except PcdiffError:
            raise
        # Any look at names, types or links may meet damage.
        except _DAMAGE as error:
            raise DataError(f"{path}: cannot be read ({_reason(error)}); the file is damaged") from error


def exists(file: h5py.File, name: str) -> bool:
    """Whether there is an object of that name; looks at names only, never at what they point to."""
    group = file
    *folders, last = name.split("/")
    for folder in folders:
        if not _is_hard(group, folder):
            return False
        group = group[folder]
        if not isinstance(group, h5py.Group):
            return False
    return bool(group.id.links.exists(last.encode()))


def dataset(
    file: h5py.File, name: str, *, ndim: int, kinds: str = "f", shape: tuple[int, ...] = (), axes: str = ""
) -> h5py.Dataset:
    """A dataset that is safe to read.

    Args:
        file: from :func:`opened`.
        name: path inside the file, for example ``"table/table"``.
        ndim: number of dimensions it must have.
        kinds: the numpy kinds its values may have, for example ``"f"`` for floating point and ``"V"`` for compound.
        shape: its last axes must have these lengths.
        axes: what its dimensions stand for, for the error message: ``"clouds, points, features"``.

    Raises:
        DataError: missing (the message suggests the nearest name); reached by a soft or external link; stored in other
            files (external or virtual); of another type or shape; or declared larger than a file of this size can hold.
    """
    group: Any = file
    parts = name.split("/")
    for depth, part in enumerate(parts):
        here = "/".join(parts[: depth + 1])
        if not isinstance(group, h5py.Group):
            raise DataError(
                f"{file.filename}: {'/'.join(parts[:depth])!r} is not a group, expected it to hold {part!r}"
            )
        if not group.id.links.exists(part.encode()):
            inside = f"in {group.name!r} " if depth else ""
            raise DataError(f"{file.filename}: no dataset {here!r} {inside}in the file; {suggest(part, group.keys())}")
        if not _is_hard(group, part):
            raise DataError(f"{file.filename}: {here!r} is a soft or external link; expected data in the file itself")
        try:
            group = group[part]
        except _DAMAGE as error:
            raise DataError(f"{file.filename}: {here!r} cannot be opened ({_reason(error)})") from error
    if not isinstance(group, h5py.Dataset):
        raise DataError(f"{file.filename}: {name!r} is a group, expected a dataset")
    _check_storage(file, name, group, kinds)
    _check_shape(file, name, group, ndim, shape, axes)
    return group


def _is_hard(group: h5py.Group, name: str) -> bool:
    links = group.id.links
    return bool(links.exists(name.encode())) and links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD


def _check_storage(file: h5py.File, name: str, found: h5py.Dataset, kinds: str) -> None:
    where = f"{file.filename}: dataset {name!r}"
    try:
        dtype, virtual, external = found.dtype, found.is_virtual, found.external
    except _DAMAGE as error:
        raise DataError(f"{where} has a type that cannot be read ({_reason(error)})") from error
    if virtual or external:
        raise DataError(f"{where} is stored in other files; expected data in the file itself")
    if dtype.hasobject or dtype.kind not in kinds:
        named = {"f": "floating point", "i": "integers", "u": "integers", "S": "text", "V": "a compound type"}
        wanted = " or ".join(dict.fromkeys(named[kind] for kind in kinds))
        raise DataError(f"{where} holds {dtype}, expected {wanted}")


def _check_shape(file: h5py.File, name: str, found: h5py.Dataset, ndim: int, shape: tuple[int, ...], axes: str) -> None:
    where = f"{file.filename}: dataset {name!r}"
    if found.shape is None or len(found.shape) != ndim:
        wanted = f"{ndim} dimension{'' if ndim == 1 else 's'}" + (f" ({axes})" if axes else "")
        raise DataError(f"{where} has shape {found.shape}, expected {wanted}")
    if shape and found.shape[-len(shape) :] != shape:
        wanted = ", ".join([*["n"] * (ndim - len(shape)), *map(str, shape)])
        raise DataError(f"{where} has shape {found.shape}, expected ({wanted})")
    dtype = found.dtype
    size = Path(file.filename).stat().st_size
    declared = max(math.prod(found.shape), math.prod(found.chunks or (0,))) * dtype.itemsize
    if declared > _MOST_COMPRESSED * size:
        raise DataError(
            f"{where} declares {declared / 1e6:.1f} MB in a file of {size / 1e6:.3f} MB; "
            f"expected at most {_MOST_COMPRESSED} times the file: is it damaged?"
        )
    _require_filters(where, found)
    _check_chunks(where, found)


def _check_chunks(where: str, found: h5py.Dataset) -> None:
    """Refuse chunks that are shorter than their checksum: libhdf5 (2.0.0) takes its length off and reads far beyond them."""
    if found.chunks is None or not found.fletcher32:
        return
    sizes: list[int] = []
    try:
        found.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    except _DAMAGE as error:
        raise DataError(
            f"{where} has an index of chunks that cannot be read ({_reason(error)}); the file is damaged"
        ) from error
    if sizes and min(sizes) < _FLETCHER32:
        raise DataError(
            f"{where} has a chunk of {min(sizes)} bytes, expected at least its checksum; the file is damaged"
        )


def _require_filters(where: str, found: h5py.Dataset) -> None:
    created_with = found.id.get_create_plist()
    for i in range(created_with.get_nfilters()):
        code, _, _, label = created_with.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            # PyTables compresses with filters that this package registers when it is imported.
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            raise DataError(
                f"{where} is compressed with {label.decode(errors='replace') or code}, which is not installed: "
                "pip install hdf5plugin"
            )


def rows(found: h5py.Dataset, start: int, stop: int, field: str = "") -> npt.NDArray[Any]:
    """Rows ``start`` to ``stop`` of a dataset, or of one field of a compound one.

    Raises:
        DataError: the stored bytes are damaged (a checksum or a filter fails).
    """
    try:
        return np.asarray(found.fields(field)[start:stop] if field else found[start:stop])
    except _DAMAGE as error:
        raise DataError(
            f"{found.file.filename}: dataset {found.name.lstrip('/')!r} cannot be read ({_reason(error)}); "
            "the file is damaged"
        ) from error


def numbers(file: h5py.File, name: str, key: str) -> npt.NDArray[np.float64]:
    """An attribute that holds one or several numbers, also where they are stored as text: shape (k,).

    Args:
        file: from :func:`opened`.
        name: the group that has the attribute; "" for the file itself.
        key: name of the attribute.

    Raises:
        DataError: there is no such group or attribute (the message suggests the nearest name), or it holds no numbers.
    """
    found = _attribute(file, name, key)
    try:
        values = np.asarray(found).astype(np.float64).reshape(-1)
        if values.size == 0:
            raise ValueError("empty")
        return values
    except (TypeError, ValueError) as error:
        raise DataError(f"{file.filename}: attribute {key!r}{_of(name)} holds {found!r}, expected a number") from error


def text(file: h5py.File, name: str, key: str) -> str:
    """An attribute that holds text; otherwise as :func:`numbers`."""
    found = _attribute(file, name, key)
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def _attribute(file: h5py.File, name: str, key: str) -> Any:
    holder: Any = file
    if name and (not exists(file, name) or not isinstance(holder := file[name], h5py.Group)):
        raise DataError(f"{file.filename}: no group {name!r} in the file; {suggest(name, file.keys())}")
    try:
        if key not in holder.attrs:
            raise DataError(f"{file.filename}: no attribute {key!r}{_of(name)}; {suggest(key, holder.attrs.keys())}")
        return holder.attrs[key]
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.filename}: attribute {key!r}{_of(name)} cannot be read ({_reason(error)})") from error


def _of(group: str) -> str:
    return f" of {group!r}" if group else ""


def append(file: h5py.File, name: str, values: npt.NDArray[Any]) -> None:
    """Add rows to a dataset, which the first makes; a later row that is longer widens it."""
    if name not in file:
        row = values.itemsize * int(np.prod(values.shape[1:]))
        most = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, row)))
        # A power of two, as are the pieces of a generator: then no chunk is compressed a second time for its other half.
        rows = 1 << (most.bit_length() - 1)
        file.create_dataset(
            name,
            data=values,
            maxshape=(None,) * values.ndim,
            chunks=(rows, *(max(1, length) for length in values.shape[1:])),
            **COMPRESSION,
        )
        return
    found = file[name]
    old = len(found)
    wide = values.shape[1:] if values.ndim < 3 else (max(found.shape[1], values.shape[1]), values.shape[2])
    found.resize((old + len(values), *wide))
    found[(slice(old, None), *(slice(length) for length in values.shape[1:]))] = values


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file; the operating system's own error when the disk is full."""
    with _Output(path) as output:
        try:
            with h5py.File(output, "w") as file:
                yield file
        finally:
            if output.error is not None:
                raise output.error


class _Output(io.RawIOBase):
    """A file that keeps its first failure to write to itself and from then on writes into nothing.

    HDF5 crashes the process when it cannot flush what it holds while a file is closed, so it must not see the failure.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)

    def truncate(self, size: int | None = None) -> int:
        return self._stream.truncate(size)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while self.error is None and done < len(view):
                done += self._stream.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _reason(error: BaseException) -> str:
    """What HDF5 says inside its brackets, in one line."""
    text = " ".join(str(error).split())
    return text[text.find("(") + 1 : -1] if text.endswith(")") and "(" in text else text or type(error).__name__
