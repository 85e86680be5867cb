"""The layout of pcdiff's own ROOT files, the same for a TTree and an RNTuple.

One entry is one cloud. Names follow CMS NanoAOD: ``Jet_pt``, ``nConstituent``, ``Constituent_etarel``. The columns of the
clouds in memory are stored as they are and called canonical: only these are read back. Beside them stand, for users of
plain ROOT, the constituents' ``Constituent_pt/eta/phi/mass`` where they are not stored but follow from what is. An object
``pcdiff``, a string, holds JSON: schema, provenance, the user's metadata, and the unit of each branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io.registry import Column, Description
from pcdiff.io.rootfile import (
    Tree,
    chunks,
    fits_if,
    lists,
    numbers,
    open_root,
    open_tree,
    regroup,
    root_errors,
    same_sizes,
)
from pcdiff.io.stored import Checksums, Stored
from pcdiff.schema import Schema

__all__ = ["Layout", "describe", "fits", "iterate", "write"]

_ABOUT = "pcdiff"

# For each kind of cloud: the tree, the prefix of the clouds' branches, that of the points' branches.
_NAMES = {
    "jets": ("Jets", "Jet", "Constituent"),
    "halos": ("Halos", "Box", "Halo"),
    "vectors": ("Vectors", "Vector", "Point"),
}

_MOMENTUM_UNITS = {"pt": "GeV", "eta": "", "phi": "rad", "mass": "GeV"}

# Clouds in a TTree basket or an RNTuple cluster, the units in which a reader unpacks: few enough that reading some clouds
# is quick, and many enough that reading all is.
_CLUSTER = 20_000


@dataclass(frozen=True)
class Layout:
    """Which branches hold the columns of a schema."""

    schema: Schema

    @property
    def tree(self) -> str:
        """Name of the tree."""
        return _NAMES[self.schema.kind][0]

    @property
    def prefix(self) -> str:
        """What the names of the points' branches start with; their counter is this after an ``n``."""
        return _NAMES[self.schema.kind][2]

    @property
    def clouds(self) -> dict[str, str]:
        """The branch of each cloud column."""
        return {name: f"{_NAMES[self.schema.kind][1]}_{name}" for name in self.schema.cloud_names}

    @property
    def points(self) -> dict[str, str]:
        """The branch of each point column."""
        return {name: f"{self.prefix}_{name}" for name in self.schema.point_names}

    @property
    def derived(self) -> dict[str, str]:
        """The branch of each component of the constituents' momentum that is not stored and follows from what is.

        Without the jet's phi, momenta relative to the jet leave the constituents' phi open: then it has no branch.
        """
        have, jet = set(self.schema.point_names), set(self.schema.cloud_names)
        absolute = {"px", "py", "pz", "energy"} <= have or ({"pt", "phi"} <= have and bool({"eta", "rapidity"} & have))
        relative = {"etarel", "phirel", "ptrel"} <= have and {"pt", "eta"} <= jet
        if self.schema.kind != "jets" or not (absolute or relative):
            return {}
        names = [name for name in _MOMENTUM_UNITS if name not in have and (name != "phi" or absolute or "phi" in jet)]
        return {name: f"{self.prefix}_{name}" for name in names}

    def point_columns(self, piece: PointClouds) -> dict[str, npt.NDArray[Any]]:
        """Stored and derived point columns by their name, each of shape (P,)."""
        columns = {name: np.ascontiguousarray(piece.column(name)) for name in self.schema.point_names}
        if self.derived:
            momenta = piece.momenta()
            columns |= {name: ak.to_numpy(ak.flatten(momenta[name])).astype(np.float32) for name in self.derived}
        return columns

    def canonical(self, piece: PointClouds) -> dict[str, npt.NDArray[Any]]:
        """The canonical columns by their branch, for checksums."""
        columns = {branch: piece.column(name) for name, branch in self.points.items()}
        columns |= {branch: piece.feature(name) for name, branch in self.clouds.items()}
        return columns | {f"n{self.prefix}": piece.counts}

    def about(self, clouds: int, stored: Stored, checksums: Checksums) -> str:
        """The JSON text that goes into the file, with its own checksum at the end."""
        units = {self.clouds[feature.name]: feature.unit for feature in self.schema.clouds}
        units |= {self.points[feature.name]: feature.unit for feature in self.schema.points}
        units |= {branch: _MOMENTUM_UNITS[name] for name, branch in self.derived.items()}
        return stored.dumps(
            {
                "software": f"pcdiff {pcdiff.__version__}",
                "tree": self.tree,
                "entries": clouds,
                "units": units,
                "derived": list(self.derived.values()),
                **checksums.to_dict(),
            }
        )


def write(
    pieces: Iterator[PointClouds],
    path: Path,
    metadata: Mapping[str, Any],
    arrays: Callable[[Layout, PointClouds], dict[str, Any]],
    create: Callable[[Any, str, dict[str, Any]], Any],
) -> None:
    """Write pieces one after the other, in constant memory.

    With LZ4, whose checksum lets any reader notice damaged bytes as that of zlib does, at a twentieth of the time and an
    eighth more of the space. What does not shrink is stored bare even so, hence our own checksums.

    Args:
        pieces: of one schema, values checked.
        path: the file to make.
        metadata: plain data for JSON.
        arrays: ``arrays(layout, piece)`` gives the arrays by branch.
        create: ``create(file, name, types)`` makes the empty tree.
    """
    layout: Layout | None = None
    checksums = Checksums()
    total = 0
    with uproot.recreate(path, compression=uproot.LZ4(1)) as file:
        for piece in regroup(pieces, _CLUSTER):
            if layout is None:
                layout, stored = Layout(piece.schema), Stored.of(piece, metadata)
                _check_columns(layout, piece)
            found = arrays(layout, piece)
            if total == 0:
                types = {n: a.type.content if isinstance(a, ak.Array) else a.dtype for n, a in found.items()}
                tree = create(file, layout.tree, types)
            tree.extend(found)
            checksums.add(layout.canonical(piece))
            total += len(piece)
        if layout is None:
            raise DataError(f"{path}: nothing to write, there are no clouds")
        file[_ABOUT] = layout.about(total, stored, checksums)


def _check_columns(layout: Layout, piece: PointClouds) -> None:
    """Refuse names and types that a branch cannot have."""
    columns = {layout.points[name]: piece.column(name) for name in layout.schema.point_names}
    columns |= {layout.clouds[name]: piece.feature(name) for name in layout.schema.cloud_names}
    for branch, values in columns.items():
        if not re.fullmatch(r"\w+", branch, re.ASCII):
            raise DataError(f"{branch!r} cannot be the name of a branch; expected letters, digits and underscores")
        if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
            raise DataError(f"{branch} has type {values.dtype}; ROOT files hold float32 and float64")


def fits(classname: str) -> Callable[[Path], bool]:
    """Whether a file was written by pcdiff with a tree of this class."""

    def test(path: Path, file: Any, classes: Mapping[str, str]) -> bool:
        written = classname in {classes.get(tree) for tree, *_ in _NAMES.values()}
        with root_errors(path):
            return written and _ABOUT in file.keys(cycle=False)

    return fits_if(test)


def _open(path: Path, file: Any) -> tuple[Tree, Stored]:
    """The tree and what is stored about it, checked against each other."""
    with root_errors(path):
        names = file.keys(cycle=False)
        if _ABOUT not in names:
            raise DataError(
                f"{path}: has no object {_ABOUT!r}, so pcdiff did not write it (it holds {', '.join(names) or 'nothing'}); "
                "read it with format='root-mapping'"
            )
        text = str(file[_ABOUT])
    stored = Stored.loads(text, path)
    tree = open_tree(path, file, Layout(stored.schema).tree)
    if tree.entries != stored.further.get("entries"):
        raise DataError(
            f"{path}: tree {tree.name!r} has {tree.entries} entries, expected {stored.further.get('entries')} as {_ABOUT!r} says"
        )
    return tree, stored


def iterate(path: Path, step_size: int) -> Iterator[PointClouds]:
    """Pieces of ``step_size`` clouds, with columns, types and values as they were written.

    Damage that leaves the file readable is noticed by checksums, at the latest after the last piece.
    """
    with open_root(path) as file:
        yield from regroup(_pieces(*_open(path, file), step_size), step_size)


def _pieces(tree: Tree, stored: Stored, step_size: int) -> Iterator[PointClouds]:
    layout = Layout(stored.schema)
    checksums = Checksums()
    for chunk in chunks(tree, [*layout.points.values(), *layout.clouds.values()], step_size):
        piece = _piece(tree, layout, chunk, stored.provenance)
        checksums.add(layout.canonical(piece))
        yield piece
    checksums.verify(stored.further, tree.path, f" of tree {tree.name!r}")


def _piece(tree: Tree, layout: Layout, chunk: Mapping[str, ak.Array], provenance: Mapping[str, Any]) -> PointClouds:
    jagged = {name: lists(tree, branch, chunk[branch]) for name, branch in layout.points.items()}
    offsets = same_sizes(tree, {layout.points[name]: bounds for name, (_, bounds) in jagged.items()})
    columns = {name: values for name, (values, _) in jagged.items()}
    features = {name: numbers(tree, branch, chunk[branch]) for name, branch in layout.clouds.items()}
    return PointClouds.from_flat(columns, offsets, features, layout.schema, provenance)


def describe(path: Path, name: str) -> Description:
    """What a file written by pcdiff holds; ``name`` is that of the format."""
    with open_root(path) as file:
        tree, stored = _open(path, file)
        layout = Layout(stored.schema)
        features = {branch: feature for feature, branch in (layout.clouds | layout.points).items()}
        columns = tuple(Column(branch, features.get(branch, ""), kind) for branch, kind in tree.branches.items())
        derived = stored.further.get("derived", ())
        notes = (f"derived when the file was written: {', '.join(derived)}",) if derived else ()
        return Description(path, name, tree.entries, columns, stored.about, notes)
