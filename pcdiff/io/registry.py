"""One registry for all file formats, behind :func:`read`, :func:`iterate`, :func:`write` and :func:`inspect`.

A format is a module with a constant ``FORMAT``. It is imported when a file of its kind is met, so reading HDF5 does not
import uproot. To add one, write the module and name it in the tables below.
"""

from __future__ import annotations

import importlib
import inspect as python_inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.files import atomic_file, expand, require_space
from pcdiff.schema import Kind

__all__ = ["Column", "Description", "Format", "formats", "inspect", "iterate", "read", "write"]

_MODULES = {
    "jetnet": "pcdiff.io.jetnet",
    "toptagging": "pcdiff.io.toptagging",
    "energyflow": "pcdiff.io.energyflow",
    "parquet": "pcdiff.io.parquet",
    "root": "pcdiff.io.root",
    "rntuple": "pcdiff.io.rntuple",
    "nanoaod": "pcdiff.io.nanoaod",
    "jetclass": "pcdiff.io.jetclass",
    "root-mapping": "pcdiff.io.root_mapping",
    "flat": "pcdiff.io.flat",
    "halotools": "pcdiff.io.halotools",
    "rockstar": "pcdiff.io.rockstar",
    "quijote": "pcdiff.io.quijote",
    "fof-subhalo": "pcdiff.io.fof_subhalo",
    "abacus": "pcdiff.io.abacus",
}

_HDF5 = ("jetnet", "flat", "toptagging", "halotools", "fof-subhalo")

# For each suffix the formats to try, the most particular first; the first that holds the kind of clouds is the one written by default.
_BY_SUFFIX = {
    ".hdf5": _HDF5,
    ".h5": _HDF5,
    ".npz": ("energyflow",),
    ".parquet": ("parquet",),
    ".root": ("root", "rntuple", "nanoaod", "jetclass", "root-mapping"),
    ".list": ("rockstar",),
    ".txt": ("rockstar",),
    ".asdf": ("abacus",),
}

# Files whose names end in a number instead of a suffix, and folders that are one data set.
_BY_NAME = {re.compile(r"group_tab_\d+\.\d+"): ("quijote",)}
_FOLDERS = {"halo_info": ("abacus",)}

# Clouds that inspect looks at, and the jet pT in GeV beyond which a unit must be wrong.
_LOOKED_AT = 1000
_HIGHEST_PT = 1e5


@dataclass(frozen=True)
class Column:
    """How one column of a file is understood: its name there, the feature it becomes ("" if unused), and its type."""

    source: str
    feature: str = ""
    type: str = ""


@dataclass(frozen=True)
class Description:
    """What :func:`inspect` finds: the reader that fits, the number of clouds, the columns, and what the file says of its origin."""

    path: Path
    format: str
    clouds: int
    columns: tuple[Column, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: its name in the registry.
        description: one line for people.
        fits: whether a file looks like this format; looks at names and shapes only and never raises for a foreign file.
        iterate: ``iterate(path, step_size, **options)`` yields pieces of at most ``step_size`` clouds.
        describe: ``describe(path, **options)`` says what is inside.
        write: ``write(pieces, path, metadata, **options)``, or None for a format that is only read. There is at least one
            piece; all have the same schema and types, and checked values.
        kinds: the kinds of clouds that it holds.
        finish: ``finish(path, target)`` is called once the file at ``path`` is written and before it gets its name ``target``,
            for a format whose files say where they lie.
    """

    name: str
    description: str
    fits: Callable[[Path], bool]
    iterate: Callable[..., Iterator[PointClouds]]
    describe: Callable[..., Description]
    write: Callable[..., None] | None = None
    kinds: tuple[Kind, ...] = ("jets",)
    finish: Callable[[Path, Path], None] | None = None


def formats() -> dict[str, Format]:
    """All formats by name."""
    return {name: _format(name) for name in _MODULES}


def _format(name: str) -> Format:
    if name not in _MODULES:
        raise DataError(f"no file format {name!r}: {suggest(name, _MODULES)}")
    found: Format = importlib.import_module(_MODULES[name]).FORMAT
    return found


def _format_of(path: Path, name: str | None) -> Format:
    """The named format, or the first of the suffix that fits the content."""
    if name is not None:
        return _format(name)
    candidates = _candidates(path)
    for candidate in map(_format, candidates):
        if candidate.fits(path):
            return candidate
    # None fits: the first reader's own error says best what is wrong with the file.
    return _format(candidates[0])


def _candidates(path: Path) -> tuple[str, ...]:
    """The formats that a file, or a folder, of this name may have."""
    if path.is_dir():
        return _FOLDERS[path.name]
    for pattern, names in _BY_NAME.items():
        if pattern.fullmatch(path.name):
            return names
    found = _BY_SUFFIX.get(path.suffix.lower())
    if found is None:
        raise DataError(
            f"{path}: no reader for files that end in {path.suffix!r}; expected {', '.join(_BY_SUFFIX)}, or name a format"
        )
    return found


def _check_options(function: Callable[..., Any], path: Path, name: str, options: Mapping[str, Any]) -> None:
    known = {
        parameter.name: parameter
        for parameter in python_inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for option in options:
        if option not in known:
            raise DataError(f"{path}: the format {name!r} has no option {option!r}: {suggest(option, known)}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise DataError(f"{path}: the format {name!r} needs the option {option!r}")


def iterate(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    step_size: int = 100_000,
    format: str | None = None,
    drop_empty: bool = False,
    **options: Any,
) -> Iterator[PointClouds]:
    """Read files piece by piece, in constant memory.

    Args:
        paths: a file, a glob, or several of either.
        step_size: the most clouds in a piece.
        format: name of the format; by default the one that fits the file (see :func:`inspect`).
        drop_empty: leave out clouds that have no points instead of refusing them.
        options: those of the format, for example ``jets="FatJet"`` for NanoAOD.

    Yields:
        :class:`PointClouds` of one schema, values checked.

    Raises:
        DataError: a file is missing, broken or of another layout, or holds values that are not physical.
    """
    if step_size < 1:
        raise DataError(f"step_size is {step_size}; expected at least 1")
    schema = None
    for path in expand(paths, folders=_FOLDERS):
        found = _format_of(path, format)
        _check_options(found.iterate, path, found.name, options)
        for piece in _pieces(found, path, step_size, options):
            kept = piece[piece.counts > 0] if drop_empty and not piece.counts.all() else piece
            if schema is None:
                schema = kept.schema
            elif kept.schema != schema:
                raise DataError(
                    f"{path}: has columns {kept.schema.point_names} and {kept.schema.cloud_names}, "
                    f"the files before it {schema.point_names} and {schema.cloud_names}; read them apart"
                )
            yield kept.validate(str(path))


def _pieces(found: Format, path: Path, step_size: int, options: Mapping[str, Any]) -> Iterator[PointClouds]:
    with _naming(path):
        yield from found.iterate(path, step_size, **options)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every error name the file."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def read(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    format: str | None = None,
    drop_empty: bool = False,
    **options: Any,
) -> PointClouds:
    """Read files into memory; arguments as for :func:`iterate`."""
    pieces = list(iterate(paths, format=format, drop_empty=drop_empty, **options))
    if not pieces:
        raise DataError(f"{', '.join(map(str, expand(paths, folders=_FOLDERS)))}: there are no clouds in it")
    return PointClouds.concatenate(pieces)


def write(
    clouds: PointClouds | Iterable[PointClouds],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write point clouds; the file appears whole or not at all.

    Args:
        clouds: one set, or pieces one after the other (written as they come, in constant memory).
        path: the suffix decides the format unless ``format`` names one.
        metadata: plain data for JSON that is stored in the file beside schema and provenance.

    Raises:
        DataError: there are no clouds, the format cannot be written or cannot hold these columns, pieces differ in their
            columns, or the disk is full.
    """
    target = Path(path)
    writers = _writers(target, format)
    pieces = [clouds] if isinstance(clouds, PointClouds) else clouds
    foreign: list[DataError] = []
    with atomic_file(target) as temporary:
        try:
            kind, checked = _first_kind(_checked(_noting(pieces, foreign), target))
            found = _for_kind(writers, kind)
            assert found.write is not None
            _check_options(found.write, target, found.name, options)
            found.write(checked, temporary, dict(metadata or {}), **options)
            if found.finish is not None:
                found.finish(temporary, target)
        except DataError as error:
            if error in foreign:
                raise
            message = str(error).replace(str(temporary), str(target))
            raise DataError(message if str(target) in message else f"{target}: {message}") from error
    return target


def _writers(target: Path, name: str | None) -> list[Format]:
    """The named format, or those of the suffix, that can be written; at least one."""
    names = (name,) if name is not None else _BY_SUFFIX.get(target.suffix.lower(), ())
    found = [known for known in map(_format, names) if known.write is not None]
    if found:
        return found
    if names:
        writers = [known.name for known in formats().values() if known.write is not None]
        raise DataError(f"{target}: the format {names[0]!r} is only read; pcdiff writes {', '.join(writers)}")
    written = [
        suffix for suffix, names in _BY_SUFFIX.items() if any(_format(known).write is not None for known in names)
    ]
    raise DataError(f"{target}: no writer for files that end in {target.suffix!r}; expected {', '.join(written)}")


def _first_kind(pieces: Iterator[PointClouds]) -> tuple[Kind, Iterator[PointClouds]]:
    """The kind of the first piece, and all pieces."""
    ahead = [next(pieces)]

    def all_pieces() -> Iterator[PointClouds]:
        # The first is let go once it was taken.
        yield ahead.pop()
        yield from pieces

    return ahead[0].schema.kind, all_pieces()


def _for_kind(writers: list[Format], kind: Kind) -> Format:
    """The first that holds clouds of this kind."""
    for found in writers:
        if kind in found.kinds:
            return found
    able = [known.name for known in formats().values() if known.write is not None and kind in known.kinds]
    held = [known for known in get_args(Kind) if any(known in found.kinds for found in writers)]
    raise DataError(
        f"the format {writers[0].name!r} holds {' and '.join(held)}, found {kind}; formats that hold them: {', '.join(able)}"
    )


def _noting(pieces: Iterable[PointClouds], errors: list[DataError]) -> Iterator[PointClouds]:
    """The same pieces; an error of whoever makes them is noted, for it is not about the file that is written."""
    try:
        yield from pieces
    except DataError as error:
        errors.append(error)
        raise


def _checked(pieces: Iterable[PointClouds], target: Path) -> Iterator[PointClouds]:
    """Pieces that can go into one file: at least one, valid values, the same schema and types, and room on the disk."""
    columns = None
    for piece in pieces:
        points, features = piece.schema.point_names, piece.schema.cloud_names
        types = [*(piece.column(name).dtype for name in points), *(piece.feature(name).dtype for name in features)]
        if columns is None:
            columns = (piece.schema, types)
        elif columns != (piece.schema, types):
            raise DataError(
                f"{target}: pieces differ: found columns {points} and {features} of types {', '.join(map(str, types))}, "
                f"expected {columns[0].point_names} and {columns[0].cloud_names} of types "
                f"{', '.join(map(str, columns[1]))} and the same meaning"
            )
        require_space(target, piece.nbytes)
        yield piece.validate(str(target))
    if columns is None:
        raise DataError(f"{target}: nothing to write, found no point clouds")


def inspect(path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> Description:
    """What is inside a file, which reader fits, and how its columns are understood."""
    file, *others = expand(path, folders=_FOLDERS)
    if others:
        raise DataError(f"{path}: matches {1 + len(others)} files, expected one")
    found = _format_of(file, format)
    _check_options(found.describe, file, found.name, options)
    with _naming(file):
        described = found.describe(file, **options)
    return replace(described, notes=(*described.notes, *_doubts(found, file, options)))


def _doubts(found: Format, path: Path, options: Mapping[str, Any]) -> tuple[str, ...]:
    """A note where the first clouds have a pT that no collider reaches."""
    if "jets" not in found.kinds:
        return ()
    try:
        first = next(found.iterate(path, _LOOKED_AT, **options), None)
    except DataError:
        # What cannot be read is refused when it is read; until then it is only described.
        return ()
    if first is None or first.schema.kind != "jets" or "pt" not in first.schema.cloud_names:
        return ()
    median = float(np.median(first.feature("pt")))
    if median <= _HIGHEST_PT or first.schema.cloud("pt").unit != "GeV":
        return ()
    return (f"the median jet pT is {median:,.0f} GeV: that looks like MeV; map with scale: 0.001",)
