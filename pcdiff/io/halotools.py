"""Halotools HDF5, which ``halotools.sim_manager.CachedHaloCatalog(fname=...)`` opens: one catalogue a file.

Layout (Hearin et al., "Forward Modeling of Large-Scale Structure: An open-source approach with Halotools", arXiv:1606.04106;
halotools 0.9, ``sim_manager/halo_table_cache_log_entry.py``): a compound dataset ``data`` with a field for each column,
``halo_id``, ``halo_x``, ``halo_y``, ``halo_z`` (Mpc/h), ``halo_vx``, ... (km/s), ``halo_mvir`` (Msun/h), ``halo_upid`` (-1 for a
halo within no other) and others; attributes ``Lbox`` (Mpc/h), ``particle_mass`` (Msun/h), ``redshift``, ``simname``,
``halo_finder``, ``version_name``, ``fname`` (where the file lies) and ``processing_notes``.

Files that pcdiff writes hold ``pcdiff/about`` besides: provenance, metadata and checksums as JSON. Reading needs h5py only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, require_cubes
from pcdiff.errors import DataError, suggest
from pcdiff.io import hdf5
from pcdiff.io.catalogue import NO_MASS, catalogue, positive
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.stored import Checksums, Stored
from pcdiff.schema import POSITION, VELOCITY

__all__ = ["FORMAT"]

_TABLE, _ABOUT = "data", "pcdiff/about"
_PARENT = "halo_upid"
_MASS = "halo_mvir"
_FEATURES = ("omega_m", "sigma_8")
_READ = ("box_size", "redshift", *_FEATURES)
_STATED = ("simname", "halo_finder", "version_name", "processing_notes")
# How the notes of a file of ours begin.
_WRITTEN = "Written by pcdiff."

# The longest path that Linux takes, so that the name of the file can be put in without making the file longer.
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class _Layout:
    """An open file: its table, and the cloud columns."""

    table: h5py.Dataset
    features: Mapping[str, float]
    velocity: bool
    parent: bool
    stored: Stored | None


def _fits(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return hdf5.exists(file, _TABLE) and "Lbox" in file.attrs
    except (DataError, OSError, RuntimeError):
        return False


def _layout(file: h5py.File, path: Path, mass: str) -> _Layout:
    table = hdf5.dataset(file, _TABLE, ndim=1, kinds="V")
    fields = table.dtype.names or ()
    for name in (*(f"halo_{axis}" for axis in POSITION), mass):
        if name not in fields:
            raise DataError(f"{path}: no column {name!r} in {_TABLE!r}; {suggest(name, fields)}")
        if table.dtype[name].kind not in "iuf" or table.dtype[name].shape:
            raise DataError(f"{path}: column {name!r} of {_TABLE!r} holds {table.dtype[name]}, expected numbers")
    sides = hdf5.numbers(file, "", "Lbox")
    if np.any(sides != sides[0]):
        raise DataError(f"{path}: attribute 'Lbox' is {sides.tolist()}, expected a box with equal sides")
    features = {"box_size": positive(float(sides[0]), "attribute 'Lbox'", path)}
    for name in ("redshift", *_FEATURES):
        if name == "redshift" or name in file.attrs:
            features[name] = float(hdf5.numbers(file, "", name)[0])
    stored = None
    notes = _STATED[-1]
    if hdf5.exists(file, _ABOUT):
        stored = Stored.loads(hdf5.dataset(file, _ABOUT, ndim=0, kinds="S")[()], path)
    elif notes in file.attrs and hdf5.text(file, "", notes).startswith(_WRITTEN):
        raise DataError(
            f"{path}: was written by pcdiff, but its checksums, {_ABOUT!r}, are not there; the file is damaged"
        )
    velocity = all(f"halo_{name}" in fields for name in VELOCITY)
    return _Layout(table, features, velocity, _PARENT in fields, stored)


def _iterate(path: Path, _step_size: int, *, mass: str = _MASS, subhalos: bool = False) -> Iterator[PointClouds]:
    """The catalogue as one cloud.

    Args:
        mass: the column that is the mass, in Msun/h.
        subhalos: whether to keep halos that lie within another, which ``halo_upid`` tells.
    """
    with hdf5.opened(path) as file:
        layout = _layout(file, path, mass)
        rows = len(layout.table)
        # Of a file of ours, whose checksum is that of all columns, all are read; others may have a hundred.
        own = None if layout.stored is None else hdf5.rows(layout.table, 0, rows)
        if own is not None and layout.stored is not None:
            checksums = Checksums()
            checksums.add(_checked(own, layout.features))
            checksums.verify(layout.stored.further, path)

        def column(name: str) -> npt.NDArray[Any]:
            return hdf5.rows(layout.table, 0, rows, name) if own is None else np.asarray(own[name])

        def vector(names: tuple[str, ...]) -> npt.NDArray[Any]:
            return np.stack([column(f"halo_{name}") for name in names], axis=1)

        kept = column(_PARENT) == -1 if layout.parent and not subhalos else slice(None)
        yield catalogue(
            vector(POSITION)[kept],
            vector(VELOCITY)[kept] if layout.velocity else None,
            column(mass)[kept],
            layout.features,
            mass_name=mass,
            provenance=layout.stored.provenance if layout.stored else {"sources": [str(path)]},
        )


def _describe(path: Path, *, mass: str = _MASS, subhalos: bool = False) -> Description:
    """What is inside; the options as for reading."""
    with hdf5.opened(path) as file:
        layout = _layout(file, path, mass)
        meaning = {f"halo_{name}": name for name in POSITION + (VELOCITY if layout.velocity else ())}
        meaning[mass] = "log10_mass"
        columns = [
            Column(f"{_TABLE}.{name}", meaning.get(name, ""), str(layout.table.dtype[name]))
            for name in layout.table.dtype.names or ()
        ]
        sources = {"box_size": "Lbox"}
        columns += [Column(sources.get(name, name), name, "attribute") for name in layout.features]
        metadata: dict[str, Any] = {key: hdf5.text(file, "", key) for key in _STATED if key in file.attrs}
        if "particle_mass" in file.attrs:
            metadata["particle_mass"] = float(hdf5.numbers(file, "", "particle_mass")[0])
        metadata |= dict(layout.stored.about) if layout.stored else {}
        notes = [NO_MASS]
        if not layout.parent:
            notes.append(f"no column {_PARENT!r}: halos within others cannot be told, all are kept")
        elif not subhalos:
            notes.append(f"halos within others ({_PARENT} other than -1) are left out; the option subhalos keeps them")
        return Description(path, "halotools", 1, tuple(columns), metadata, tuple(notes))


def _write(
    pieces: Iterator[PointClouds],
    path: Path,
    metadata: Mapping[str, Any],
    *,
    particle_mass: float = 0.0,
    simname: str = "pcdiff",
    halo_finder: str = "pcdiff",
    version_name: str = "pcdiff",
) -> None:
    """Write one catalogue, none of whose halos lies within another. Cloud columns become attributes.

    Args:
        particle_mass: mass of a particle of the simulation in Msun/h, which halotools multiplies for its cuts; 0, which cuts
            nothing, where it is not known.
        simname: what halotools calls the simulation.
        halo_finder: what halotools calls the halo finder.
        version_name: what halotools calls this version of the catalogue.

    Raises:
        DataError: there are several catalogues, the volume is no cube, the name does not end in ``.hdf5``, or a redshift or a mass is
            missing.
    """
    piece = next(pieces)
    if len(piece) != 1 or next(pieces, None) is not None:
        found = f"{len(piece)}" if len(piece) != 1 else "more than one"
        raise DataError(
            f"{path}: found {found} catalogues, expected one, for halotools has one a file; write each to a file of its own, "
            "or all in the format 'flat'"
        )
    require_cubes(piece, str(path))
    if path.suffix != ".hdf5":
        raise DataError(f"{path}: ends in {path.suffix!r}, expected '.hdf5', the only suffix that halotools opens")
    for name, names in (("redshift", piece.schema.cloud_names), ("log10_mass", piece.schema.point_names)):
        if name not in names:
            raise DataError(
                f"{path}: no column {name!r} among {', '.join(names)}, expected one, for halotools needs it"
            )
    with hdf5.created(path) as file:
        table = _table(piece)
        file.create_dataset(_TABLE, data=table, chunks=(min(max(1, len(table)), 1 << 14),), **hdf5.COMPRESSION)
        features = {name: float(piece.feature(name)[0]) for name in piece.schema.cloud_names}
        for name, value in features.items():
            file.attrs["Lbox" if name == "box_size" else name] = value
        checksums = Checksums()
        checksums.add(_checked(table, {name: features[name] for name in _READ if name in features}))
        about = Stored.of(piece, metadata).dumps(checksums.to_dict())
        file.create_dataset(_ABOUT, data=np.bytes_(about.encode("ascii")))
        known = f"{particle_mass:g} Msun/h" if particle_mass else "not known, and so 0"
        notes = f"{_WRITTEN} Mass of a particle: {known}. halo_mvir is 10^log10_mass; no halo lies within another."
        for key, text in zip(_STATED, (simname, halo_finder, version_name, notes), strict=True):
            file.attrs[key] = np.bytes_(text.encode())
        file.attrs["particle_mass"] = float(particle_mass)
        file.attrs.create("fname", np.bytes_(b""), dtype=f"S{_LONGEST_PATH}")


def _checked(table: npt.NDArray[Any], features: Mapping[str, float]) -> dict[str, npt.NDArray[Any]]:
    """What the checksums of a file are of: its table, and the cloud columns that are read."""
    return {_TABLE: table, **{name: np.array([value]) for name, value in features.items()}}


def _table(piece: PointClouds) -> npt.NDArray[Any]:
    """The rows of a catalogue; masses in double precision, so that their logarithm comes back to the last bit."""
    halos = piece.num_points
    number = np.arange(halos, dtype=np.int64)
    columns: dict[str, npt.NDArray[Any]] = {
        "halo_id": number,
        "halo_hostid": number,
        _PARENT: np.full(halos, -1, np.int64),
    }
    for name in piece.schema.point_names:
        values = piece.column(name)
        if name == "log10_mass":
            columns[_MASS] = 10 ** values.astype(np.float64)
        else:
            columns[f"halo_{name}"] = values
    table = np.empty(halos, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def _finish(path: Path, target: Path) -> None:
    """State where the file will lie, which halotools compares with the name that it is opened by."""
    with h5py.File(path, "r+") as file:
        file.attrs.modify("fname", np.array(os.fsencode(target.absolute()), f"S{_LONGEST_PATH}"))


FORMAT = Format(
    name="halotools",
    description="halotools HDF5, one halo catalogue a file, read and written",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
    kinds=("halos",),
    write=_write,
    finish=_finish,
)
