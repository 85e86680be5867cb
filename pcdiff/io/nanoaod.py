"""Read jets with their particle-flow candidates from CMS NanoAOD.

Two layouts hold candidates: NanoAOD version 15 (``FatJetPFCand_jetIdx`` and ``FatJetPFCand_pfCandIdx`` point into
``PFCand_*``) and PFNano (``FatJetPFCands_jetIdx`` and ``FatJetPFCands_pFCandsIdx`` into ``PFCands_*``). Plain NanoAOD before
version 15 has no candidates.

One cloud is one jet that has candidates; jets whose candidates are not stored are left out. Constituents are ordered by
falling pT. The jet's columns are calibrated, so they need not agree with the sum of the constituents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, suggest
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.rootfile import Tree, chunks, fits_if, lists, open_root, open_tree, regroup, same_sizes
from pcdiff.schema import Schema, jet_schema

__all__ = ["FORMAT"]

# What follows the name of the jets, the index into the candidates, and the name of the candidates.
_LAYOUTS = (("PFCand", "pfCandIdx", "PFCand"), ("PFCands", "pFCandsIdx", "PFCands"))
_JETS = ("FatJet", "Jet")

_JET_COLUMNS = ("pt", "eta", "phi", "mass")
_MOMENTUM = ("pt", "eta", "phi", "mass")
_OPTIONAL = ("pdgId", "charge")

# NanoAOD's index of something that is not stored.
_NONE = -1


@dataclass(frozen=True)
class _Branches:
    """The branches that hold jets, candidates, and which belongs to which."""

    jets: dict[str, str]
    candidates: dict[str, str]
    jet_index: str
    candidate_index: str

    @property
    def schema(self) -> Schema:
        return jet_schema(tuple(self.candidates), tuple(self.jets))

    @property
    def all(self) -> list[str]:
        return [self.jet_index, self.candidate_index, *self.jets.values(), *self.candidates.values()]


def _with_candidates(tree: Tree) -> list[str]:
    """Names of the jets that have candidates in this file."""
    return [name for name in _JETS if any(f"{name}{suffix}_jetIdx" in tree.branches for suffix, *_ in _LAYOUTS)]


def _branches(tree: Tree, jets: str) -> _Branches:
    for suffix, index, candidates in _LAYOUTS:
        link = f"{jets}{suffix}"
        if f"{link}_jetIdx" in tree.branches:
            columns = {name: f"{candidates}_{name}" for name in _MOMENTUM}
            columns |= {name: f"{candidates}_{name}" for name in _OPTIONAL if f"{candidates}_{name}" in tree.branches}
            rows = {name: f"{jets}_{name}" for name in _JET_COLUMNS}
            found = _Branches(rows, columns, f"{link}_jetIdx", f"{link}_{index}")
            tree.require(found.all)
            return found
    known = _with_candidates(tree)
    advice = (
        f"jets={jets!r}: {suggest(jets, known)}" if known else "it is plain NanoAOD, which stores jets without them"
    )
    raise DataError(f"{tree.path}: tree {tree.name!r} has no candidates for {advice}")


def _iterate(path: Path, step_size: int, *, jets: str = "FatJet") -> Iterator[PointClouds]:
    """Pieces of ``step_size`` jets.

    Args:
        jets: the collection, ``"FatJet"`` (anti-kT with R = 0.8) or ``"Jet"`` (R = 0.4).
    """
    with open_root(path) as file:
        tree = open_tree(path, file, "Events")
        branches = _branches(tree, jets)
        provenance = {"sources": [str(path)], "jets": jets}
        found = (_piece(tree, branches, chunk, provenance) for chunk in chunks(tree, branches.all, step_size))
        yield from regroup(found, step_size)


def _piece(
    tree: Tree, branches: _Branches, chunk: Mapping[str, ak.Array], provenance: Mapping[str, Any]
) -> PointClouds:
    """The jets with candidates of some events."""
    flat: dict[str, npt.NDArray[Any]] = {}
    bounds: dict[str, npt.NDArray[np.int64]] = {}
    for name, array in chunk.items():
        flat[name], bounds[name] = lists(tree, name, array)
    jet_starts = same_sizes(tree, {name: bounds[name] for name in branches.jets.values()})
    candidate_starts = same_sizes(tree, {name: bounds[name] for name in branches.candidates.values()})
    links = same_sizes(tree, {name: bounds[name] for name in (branches.jet_index, branches.candidate_index)})

    # Candidates of jets that were not stored point to the jet _NONE.
    known = flat[branches.jet_index] != _NONE
    jet = _global(tree, branches.jet_index, flat[branches.jet_index], links, jet_starts, known)
    rows = _global(tree, branches.candidate_index, flat[branches.candidate_index], links, candidate_starts, known)

    rows = rows[np.lexsort((-flat[branches.candidates["pt"]][rows], jet))]
    counts = np.bincount(jet, minlength=int(jet_starts[-1]))
    kept = counts > 0
    return PointClouds.from_flat(
        {name: flat[branch][rows] for name, branch in branches.candidates.items()},
        offsets_of(counts[kept]),
        {name: flat[branch][kept] for name, branch in branches.jets.items()},
        branches.schema,
        provenance,
    )


def _global(
    tree: Tree,
    name: str,
    index: npt.NDArray[Any],
    links: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Indices within an event as indices into the flat columns of all events, for the links that are known.

    Args:
        index: shape (L,), the index within its event of each link.
        links: shape (E + 1,), the offsets of the links of each event.
        starts: shape (E + 1,), the offsets of the things pointed to.
        known: shape (L,).
    """
    event = np.repeat(np.arange(len(links) - 1), np.diff(links))[known]
    local = index[known].astype(np.int64)
    sizes = np.diff(starts)[event]
    outside = (local < 0) | (local >= sizes)
    if outside.any():
        at = int(np.argmax(outside))
        raise DataError(
            f"{tree.path}: branch {name!r} of tree {tree.name!r} is {local[at]} in an event where it points to one of "
            f"{sizes[at]}; expected an index from 0 on that is less"
        )
    return np.asarray(local + starts[event])


def _describe(path: Path, *, jets: str = "FatJet") -> Description:
    with open_root(path) as file:
        tree = open_tree(path, file, "Events")
        branches = _branches(tree, jets)
        # Jets and candidates have columns of the same names.
        features = {branch: name for names in (branches.jets, branches.candidates) for name, branch in names.items()}
        columns = tuple(Column(branch, features.get(branch, ""), tree.branches[branch]) for branch in branches.all)
        clouds, total = 0, 0
        for piece, count in _sizes(tree, branches):
            clouds, total = clouds + piece, total + count
        notes = [f"{clouds} of {total} {jets} have candidates; the others are left out"]
        notes += [f"read with jets={name!r}: candidates of {name}" for name in _with_candidates(tree) if name != jets]
        return Description(path, "nanoaod", clouds, columns, {}, tuple(notes))


def _sizes(tree: Tree, branches: _Branches) -> Iterator[tuple[int, int]]:
    """For chunks of events the number of jets with candidates, and of all jets."""
    pt = branches.jets["pt"]
    for chunk in chunks(tree, [branches.jet_index, pt], tree.entries):
        index, links = lists(tree, branches.jet_index, chunk[branches.jet_index])
        _, starts = lists(tree, pt, chunk[pt])
        yield len(np.unique(_global(tree, branches.jet_index, index, links, starts, index != _NONE))), int(starts[-1])


def _fits(path: Path, file: Any, classes: Mapping[str, str]) -> bool:
    return "Events" in classes and bool(_with_candidates(open_tree(path, file, "Events")))


FORMAT = Format(
    name="nanoaod",
    description="CMS NanoAOD (version 15, or PFNano): jets with their particle-flow candidates",
    fits=fits_if(_fits),
    iterate=_iterate,
    describe=_describe,
)
