"""Read JetClass: simulated jets of ten kinds in ROOT files (H. Qu, C. Li, S. Qian, arXiv:2202.03772; Zenodo 6619768).

Particles come as (px, py, pz, energy) in GeV, in the order of the file. ``part_deta`` is relative to the jet axis with its
sign flipped for jets of negative eta; it is read only on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.rootfile import Tree, chunks, fits_if, lists, numbers, open_root, open_tree, regroup, same_sizes
from pcdiff.schema import Feature, Schema, jet_schema

__all__ = ["FORMAT", "JETCLASS_TYPES"]

# The order of the labels in the published training code, so that numbers agree with those of its predictions.
JETCLASS_TYPES = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")

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


def _points(extra: Sequence[str]) -> dict[str, str]:
    return {name: f"part_{name}" for name in (*_POINTS, *_names("extra", extra))}


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
        extra: further particle columns, without ``part_``: ``("charge", "d0val", "isPhoton")``.
        extra_jets: further jet columns, without ``jet_``: ``("sdmass", "tau1")``.
    """
    points, jets = _points(extra), _jets(extra_jets)
    schema = jet_schema(tuple(points), (*jets, "type"), axis="all", types=JETCLASS_TYPES, extra=_MEANING)
    with open_root(path) as file:
        tree = open_tree(path, file, "tree")
        found = chunks(tree, [*points.values(), *jets.values(), *_labels()], step_size)
        yield from regroup((_piece(tree, points, jets, schema, chunk) for chunk in found), step_size)


def _piece(
    tree: Tree, points: Mapping[str, str], jets: Mapping[str, str], schema: Schema, chunk: Mapping[str, ak.Array]
) -> PointClouds:
    jagged = {name: lists(tree, branch, chunk[branch]) for name, branch in points.items()}
    offsets = same_sizes(tree, {points[name]: bounds for name, (_, bounds) in jagged.items()})
    features: dict[str, Any] = {name: numbers(tree, branch, chunk[branch]) for name, branch in jets.items()}
    labels = np.stack([numbers(tree, label, chunk[label]) != 0 for label in _labels()], axis=1)
    wrong = labels.sum(axis=1) != 1
    if wrong.any():
        raise DataError(
            f"{tree.path}: a jet has {int(labels[np.argmax(wrong)].sum())} of the ten label_* set; expected exactly one"
        )
    features["type"] = labels.argmax(axis=1)
    columns = {name: values for name, (values, _) in jagged.items()}
    return PointClouds.from_flat(columns, offsets, features, schema, {"sources": [str(tree.path)]})


def _describe(path: Path, *, extra: Sequence[str] = (), extra_jets: Sequence[str] = ()) -> Description:
    with open_root(path) as file:
        tree = open_tree(path, file, "tree")
        features = {branch: name for name, branch in (*_points(extra).items(), *_jets(extra_jets).items())}
        features |= dict.fromkeys(_labels(), "type")
        tree.require(features)
        columns = tuple(Column(branch, features.get(branch, ""), kind) for branch, kind in tree.branches.items())
        notes = ("further columns: extra=['charge', ...] for part_*, extra_jets=['sdmass', ...] for jet_*",)
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
