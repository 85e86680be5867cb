"""Read JetClass: simulated jets of ten kinds in ROOT files (H. Qu, C. Li, S. Qian, arXiv:2202.03772; Zenodo 6619768).

Particles come as (px, py, pz, energy) in GeV, in the order of the file. ``part_deta`` is relative to the jet axis with its
sign flipped for jets of negative eta; it is read only on request, as is ``particle_class``, which five flags (``part_isPhoton``, ...) say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.rootfile import Tree, chunks, fits_if, lists, numbers, open_root, open_tree, regroup, same_sizes
from pcdiff.schema import PARTICLE_CLASSES, Feature, Schema, jet_schema

__all__ = ["FORMAT", "JETCLASS_TYPES"]

# The order of the labels in the published training code, so that numbers agree with those of its predictions.
JETCLASS_TYPES = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")

_CLASS = "particle_class"
_FLAGS = tuple(f"part_is{name.title().replace(' ', '')}" for name in PARTICLE_CLASSES)

_POINTS = ("px", "py", "pz", "energy")
_JETS = ("pt", "eta", "phi", "energy")

_MEANING = {
    "d0val": Feature("d0val", "mm", "transverse impact parameter"),
    "d0err": Feature("d0err", "mm", "uncertainty of the transverse impact parameter"),
    "dzval": Feature("dzval", "mm", "longitudinal impact parameter"),
    "dzerr": Feature("dzerr", "mm", "uncertainty of the longitudinal impact parameter"),
    "deta": Feature("deta", "", "pseudorapidity relative to the jet axis, sign flipped for jets of negative eta"),
    "dphi": Feature("dphi", "rad", "azimuth relative to the jet axis"),
    "sdmass": Feature("sdmass", "GeV", "soft-drop jet mass"),
    "nparticles": Feature("nparticles", "", "number of particles as stored in the file"),
}


def _points(extra: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The branches of each particle column: one, or the flags that say the class."""
    names = (*_POINTS, *_names("extra", extra))
    return {name: _FLAGS if name == _CLASS else (f"part_{name}",) for name in names}


def _jets(extra: Sequence[str]) -> dict[str, str]:
    return {name: f"jet_{name}" for name in (*_JETS, *_names("extra_jets", extra))}


def _names(option: str, value: Sequence[str]) -> Sequence[str]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise DataError(f"the option {option} is {value!r}; expected a list of names such as ['charge', 'd0val']")
    return value


def _labels() -> list[str]:
    return [f"label_{name}" for name in JETCLASS_TYPES]


def _iterate(
    path: Path, step_size: int, *, extra: Sequence[str] = (), extra_jets: Sequence[str] = ()
) -> Iterator[PointClouds]:
    """Pieces of ``step_size`` jets.

    Args:
        extra: further particle columns, without ``part_``: ``("charge", "d0val", "isPhoton")``; or ``particle_class``.
        extra_jets: further jet columns, without ``jet_``: ``("sdmass", "tau1")``.
    """
    points, jets = _points(extra), _jets(extra_jets)
    schema = jet_schema(tuple(points), (*jets, "type"), axis="all", types=JETCLASS_TYPES, extra=_MEANING)
    with open_root(path) as file:
        tree = open_tree(path, file, "tree")
        branches = dict.fromkeys(branch for several in points.values() for branch in several)
        found = chunks(tree, [*branches, *jets.values(), *_labels()], step_size)
        yield from regroup((_piece(tree, points, jets, schema, chunk) for chunk in found), step_size)


def _piece(
    tree: Tree,
    points: Mapping[str, tuple[str, ...]],
    jets: Mapping[str, str],
    schema: Schema,
    chunk: Mapping[str, ak.Array],
) -> PointClouds:
    jagged = {branch: lists(tree, branch, chunk[branch]) for several in points.values() for branch in several}
    offsets = same_sizes(tree, {branch: bounds for branch, (_, bounds) in jagged.items()})
    features: dict[str, Any] = {name: numbers(tree, branch, chunk[branch]) for name, branch in jets.items()}
    features["type"] = _chosen(
        tree, [numbers(tree, label, chunk[label]) for label in _labels()], "a jet has {} of the ten label_* set"
    )
    columns = {name: jagged[branches[0]][0] for name, branches in points.items()}
    if _CLASS in points:
        flags = [jagged[flag][0] for flag in _FLAGS]
        columns[_CLASS] = _chosen(tree, flags, f"a particle has {{}} of {', '.join(_FLAGS)} set").astype(np.int32)
    return PointClouds.from_flat(columns, offsets, features, schema, {"sources": [str(tree.path)]})


def _chosen(tree: Tree, flags: Sequence[npt.NDArray[Any]], wrong: str) -> npt.NDArray[np.int64]:
    """Which of the flags, an array (n,) each, is set: shape (n,).

    Args:
        wrong: what is said of one for which none or several are; ``{}`` stands for their number.
    """
    there = np.stack([flag != 0 for flag in flags], axis=1)
    count = there.sum(axis=1)
    if np.any(count != 1):
        raise DataError(f"{tree.path}: {wrong.format(count[np.argmax(count != 1)])}; expected exactly one")
    chosen: npt.NDArray[np.int64] = there.argmax(axis=1)
    return chosen


def _describe(path: Path, *, extra: Sequence[str] = (), extra_jets: Sequence[str] = ()) -> Description:
    with open_root(path) as file:
        tree = open_tree(path, file, "tree")
        features = {branch: name for name, branch in _jets(extra_jets).items()}
        features |= {branch: name for name, branches in _points(extra).items() for branch in branches}
        features |= dict.fromkeys(_labels(), "type")
        tree.require(features)
        columns = tuple(Column(branch, features.get(branch, ""), kind) for branch, kind in tree.branches.items())
        notes = (
            "further columns: extra=['charge', 'particle_class', ...] for part_*, extra_jets=['sdmass', ...] for jet_*",
        )
        return Description(path, "jetclass", tree.entries, columns, {}, notes)


def _fits(path: Path, file: Any, classes: Mapping[str, str]) -> bool:
    return "tree" in classes and {"part_px", "label_QCD"} <= set(open_tree(path, file, "tree").branches)


FORMAT = Format(
    name="jetclass",
    description="JetClass: particles of jets of ten kinds",
    fits=fits_if(_fits),
    iterate=_iterate,
    describe=_describe,
)
