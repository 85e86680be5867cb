"""The top-tagging reference data: HDF5 files that pandas wrote, read without pandas or PyTables.

Layout (Kasieczka, Plehn, Thompson, Russel, "Top Quark Tagging Reference Dataset", Zenodo 2603256; described in Butter et al.,
"The Machine Learning Landscape of Top Taggers", arXiv:1902.09914): a table of float columns E_0, PX_0, PY_0, PZ_0, ...,
E_199, ..., PZ_199 in GeV (zero where there is no constituent), the true top's four-momentum, and the integer columns ttv and
is_signal_new (1 for a jet from a top quark, 0 for QCD), which is the last.

pandas stores this as a compound data set ``table/table`` (format "table") or as ``table/block0_values`` with the names of its
columns in ``table/block0_items`` (format "fixed"). PyTables pickles further attributes; they are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.io import hdf5
from pcdiff.io.registry import Column, Description, Format
from pcdiff.schema import Feature, jet_schema

__all__ = ["FORMAT"]

_CONSTITUENTS = 200
_COMPONENTS = ("E", "PX", "PY", "PZ")
_NAMES = tuple(f"{component}_{i}" for i in range(_CONSTITUENTS) for component in _COMPONENTS)
_FEATURES = dict(zip(_COMPONENTS, ("energy", "px", "py", "pz"), strict=True))
_LABEL = "is_signal_new"

_SCHEMA = jet_schema(
    ("px", "py", "pz", "energy"),
    ("is_signal",),
    extra={"is_signal": Feature("is_signal", "", "what started the jet", ("QCD", "top"))},
)


@dataclass(frozen=True)
class _Block:
    """Columns of one type: a 2-D data set, or a field of a compound one; ``picked`` are those that are read."""

    values: h5py.Dataset
    field: str
    width: int
    dtype: np.dtype[Any]
    picked: slice | list[int]

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        return hdf5.rows(self.values, start, stop, self.field)[:, self.picked]

    @property
    def source(self) -> str:
        name = str(self.values.name).lstrip("/")
        return f"{name}.{self.field}" if self.field else name


def _fits(path: Path) -> bool:
    try:
        with hdf5.opened(path) as file:
            return hdf5.exists(file, "table/table") or hdf5.exists(file, "table/block0_items")
    except DataError:
        return False


def _blocks(file: h5py.File, path: Path, key: str) -> tuple[_Block, _Block]:
    """Where the momenta and the label are."""
    if hdf5.exists(file, f"{key}/block0_items"):
        return _fixed_blocks(file, path, key)
    return _table_blocks(file, path, key)


def _table_blocks(file: h5py.File, path: Path, key: str) -> tuple[_Block, _Block]:
    table = hdf5.dataset(file, f"{key}/table", ndim=1, kinds="V")
    fields = {name: table.dtype[name] for name in table.dtype.names or ()}

    def block(kind: str, least: int, picked: slice) -> _Block:
        for name, dtype in fields.items():
            if name.startswith("values_block_") and dtype.base.kind == kind:
                if len(dtype.shape) != 1 or dtype.shape[0] < least:
                    raise DataError(
                        f"{path}: field {name!r} of {key}/table has shape {dtype.shape}, expected at least ({least},)"
                    )
                return _Block(table, name, dtype.shape[0], dtype.base, picked)
        wanted = "values_block_0" if kind == "f" else "values_block_1"
        raise DataError(f"{path}: no field {wanted!r} of kind {kind!r} in {key}/table: {suggest(wanted, fields)}")

    # The names of the columns are pickled here, so their order is taken from the description of the data.
    return block("f", len(_NAMES), slice(0, len(_NAMES))), block("i", 1, slice(-1, None))


def _fixed_blocks(file: h5py.File, path: Path, key: str) -> tuple[_Block, _Block]:
    blocks: dict[str, tuple[h5py.Dataset, int]] = {}
    number = 0
    while hdf5.exists(file, f"{key}/block{number}_items"):
        items = hdf5.dataset(file, f"{key}/block{number}_items", ndim=1, kinds="S")
        values = hdf5.dataset(file, f"{key}/block{number}_values", ndim=2, kinds="fiu", shape=items.shape)
        for position, item in enumerate(hdf5.rows(items, 0, len(items))):
            blocks[item.decode(errors="replace")] = (values, position)
        number += 1

    def block(names: tuple[str, ...]) -> _Block:
        for name in names:
            if name not in blocks:
                raise DataError(f"{path}: no column {name!r} in {key!r}; {suggest(name, blocks)}")
        values = blocks[names[0]][0]
        if any(blocks[name][0] != values for name in names):
            raise DataError(f"{path}: columns {names[0]} to {names[-1]} of {key!r} are of several types, expected one")
        return _Block(values, "", values.shape[1], values.dtype, [blocks[name][1] for name in names])

    return block(_NAMES), block((_LABEL,))


def _iterate(path: Path, step_size: int, *, key: str = "table") -> Iterator[PointClouds]:
    """Pieces of a file.

    Args:
        key: the name that pandas knows the table by.
    """
    with hdf5.opened(path) as file:
        momenta, label = _blocks(file, path, key)
        size = _size(momenta, label, path)
        for start in range(0, size, step_size):
            stop = min(start + step_size, size)
            rows = momenta.rows(start, stop).reshape(stop - start, _CONSTITUENTS, len(_COMPONENTS))
            points = np.roll(rows, -1, axis=2)
            signal = label.rows(start, stop)[:, 0]
            # Not energy > 0: an energy that is negative or NaN is a fault to report, not padding.
            yield PointClouds.from_padded(
                points, points[..., 3] != 0, {"is_signal": _whole(signal, path)}, _SCHEMA, {"sources": [str(path)]}
            )


def _size(momenta: _Block, label: _Block, path: Path) -> int:
    if len(momenta.values) != len(label.values):
        raise DataError(
            f"{path}: {label.source} has {len(label.values)} rows, expected {len(momenta.values)} as {momenta.source}"
        )
    return len(momenta.values)


def _whole(label: npt.NDArray[Any], path: Path) -> npt.NDArray[np.int32]:
    whole = label.astype(np.int32)
    if np.any(whole != label):
        raise DataError(f"{path}: column {_LABEL!r} holds {label[whole != label][0]}, expected 0 or 1")
    return whole


def _describe(path: Path, *, key: str = "table") -> Description:
    """What is inside; the option as for reading."""
    with hdf5.opened(path) as file:
        momenta, label = _blocks(file, path, key)
        columns = [
            Column(f"{momenta.source}: {component}_0 to {component}_{_CONSTITUENTS - 1}", feature, str(momenta.dtype))
            for component, feature in _FEATURES.items()
        ]
        columns.append(Column(f"{label.source}: {_LABEL}", "is_signal", str(label.dtype)))
        if momenta.width > len(_NAMES):
            columns.append(Column(f"{momenta.source}: {momenta.width - len(_NAMES)} more", "", str(momenta.dtype)))
        if label.width > 1:
            columns.append(Column(f"{label.source}: {label.width - 1} more", "", str(label.dtype)))
        notes = (f"at most {_CONSTITUENTS} constituents a jet",)
        return Description(path, "toptagging", _size(momenta, label, path), tuple(columns), {}, notes)


FORMAT = Format(
    name="toptagging",
    description="Top-tagging reference HDF5 as pandas wrote it, read only",
    fits=_fits,
    iterate=_iterate,
    describe=_describe,
)
