"""Read any TTree or RNTuple with jagged branches, told by a mapping which branch is which column.

An entry may be one cloud (points: a list of numbers an entry; clouds: one number an entry), or an event with many clouds
(points: a list of lists; clouds: a list of numbers), whose clouds then follow one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError, suggest
from pcdiff.io.registry import Column, Description, Format
from pcdiff.io.rootfile import Tree, chunks, fits_if, lists, numbers, open_root, open_tree, regroup, same_sizes, trees
from pcdiff.schema import Schema, jet_schema

__all__ = ["FORMAT"]

Source: TypeAlias = str | Mapping[str, Any]

_EXAMPLE = 'points={"pt": "part_pt", "eta": "part_eta", "phi": "part_phi"}, clouds={"pt": "jet_pt"}'


@dataclass(frozen=True)
class _Branch:
    """Where a column comes from, and the factor to its unit."""

    name: str
    scale: float | None = None

    def scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if self.scale is None else values * self.scale


def _parse(option: str, mapping: Any) -> dict[str, _Branch]:
    """The option ``points`` or ``clouds``, checked."""
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise DataError(f"the option {option} is {mapping!r}; expected a mapping from columns to branches")
    parsed = {}
    for column, source in mapping.items():
        if isinstance(source, str):
            parsed[column] = _Branch(source)
            continue
        if not isinstance(source, Mapping) or "branch" not in source:
            raise DataError(f"{option}.{column} is {source!r}; expected a branch or {{'branch': ..., 'scale': ...}}")
        for key in source:
            if key not in ("branch", "scale"):
                raise DataError(f"{option}.{column} has an unknown key {key!r}: {suggest(key, ('branch', 'scale'))}")
        scale = source.get("scale")
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float))):
            raise DataError(f"{option}.{column}.scale is {scale!r}; expected a number")
        parsed[column] = _Branch(str(source["branch"]), None if scale is None else float(scale))
    return parsed


def _choose(path: Path, file: Any, name: str | None) -> Tree:
    """The named tree, or the only one."""
    if name is not None:
        return open_tree(path, file, name)
    found = trees(path, file)
    if len(found) != 1:
        listed = ", ".join(f"{tree.name!r} ({tree.entries} entries)" for tree in found.values())
        raise DataError(
            f"{path}: " + (f"has several trees, choose one with tree=...: {listed}" if found else "has no tree")
        )
    return next(iter(found.values()))


def _iterate(
    path: Path,
    step_size: int,
    *,
    tree: str | None = None,
    points: Mapping[str, Source] | None = None,
    clouds: Mapping[str, Source] | None = None,
    axis: Literal["all", "kept", ""] = "",
    types: Sequence[str] = (),
) -> Iterator[PointClouds]:
    """Pieces of ``step_size`` clouds.

    Args:
        tree: name of the TTree or RNTuple; the only one of the file by default.
        points: for each point column its branch, or ``{"branch": "pt", "scale": 0.001}`` to convert a unit (MeV to GeV).
        clouds: the same for the columns of the clouds.
        axis: which points define the jet's columns, see :class:`pcdiff.schema.Schema`.
        types: the names that the numbers of the cloud column ``type`` stand for.
    """
    of_points, of_clouds = _parse("points", points), _parse("clouds", clouds)
    with open_root(path) as file:
        chosen = _choose(path, file, tree)
        if not of_points:
            raise DataError(
                f"{path}: say which branches of tree {chosen.name!r} are the points, for example {_EXAMPLE}; "
                f"it has: {', '.join(list(chosen.branches)[:12])}{', ...' if len(chosen.branches) > 12 else ''}"
            )
        schema = jet_schema(tuple(of_points), tuple(of_clouds), axis=axis, types=tuple(types))
        names = [branch.name for branch in (*of_points.values(), *of_clouds.values())]
        found = (_piece(chosen, of_points, of_clouds, schema, chunk) for chunk in chunks(chosen, names, step_size))
        yield from regroup(found, step_size)


def _piece(
    tree: Tree,
    points: Mapping[str, _Branch],
    clouds: Mapping[str, _Branch],
    schema: Schema,
    chunk: Mapping[str, ak.Array],
) -> PointClouds:
    """The clouds of some entries."""
    events = chunk[next(iter(points.values())).name].ndim == 3
    starts: dict[str, npt.NDArray[np.int64]] = {}

    def within_events(name: str) -> ak.Array:
        """A branch with one level less: its clouds one after the other."""
        array = chunk[name]
        if not events:
            return array
        if array.ndim < 2:
            raise DataError(
                f"{tree.path}: branch {name!r} of tree {tree.name!r} has one {array.type.content} an event; "
                "expected one for each cloud in it, as the point branches have many clouds an event"
            )
        starts[name] = offsets_of(ak.to_numpy(ak.num(array, axis=1)))
        return ak.flatten(array, axis=1)

    jagged = {branch.name: lists(tree, branch.name, within_events(branch.name)) for branch in points.values()}
    rows = {branch.name: numbers(tree, branch.name, within_events(branch.name)) for branch in clouds.values()}
    if events:
        same_sizes(tree, starts)
    offsets = same_sizes(tree, {name: bounds for name, (_, bounds) in jagged.items()})
    return PointClouds.from_flat(
        {column: branch.scaled(jagged[branch.name][0]) for column, branch in points.items()},
        offsets,
        {column: branch.scaled(rows[branch.name]) for column, branch in clouds.items()},
        schema,
        {"sources": [str(tree.path)], "tree": tree.name},
    )


def _describe(
    path: Path,
    *,
    tree: str | None = None,
    points: Mapping[str, Source] | None = None,
    clouds: Mapping[str, Source] | None = None,
    axis: Literal["all", "kept", ""] = "",
    types: Sequence[str] = (),
) -> Description:
    """All trees and branches; with a mapping, which column each becomes. The options as for reading."""
    of_points, of_clouds = _parse("points", points), _parse("clouds", clouds)
    features = {branch.name: column for column, branch in (*of_points.items(), *of_clouds.items())}
    schema = jet_schema(tuple(of_points), tuple(of_clouds), axis=axis, types=tuple(types)) if of_points else None
    with open_root(path) as file:
        if features:
            chosen = _choose(path, file, tree)
            chosen.require(features)
            found = {chosen.name: chosen}
        else:
            found = trees(path, file)
        several = len(found) > 1
        columns = tuple(
            Column(f"{name}/{branch}" if several else branch, features.get(branch, ""), kind)
            for name, one in found.items()
            for branch, kind in one.branches.items()
        )
        notes = [f"tree {name!r}: {one.entries} entries, {len(one.branches)} branches" for name, one in found.items()]
        if not features:
            notes.append(f"to read it, map its branches to columns, for example {_EXAMPLE}")
        if schema and schema.axis:
            notes.append(f"the jet's columns come from {schema.axis} constituents")
        if schema and types:
            notes.append("types: " + ", ".join(f"{i} is {name}" for i, name in enumerate(types)))
        return Description(path, "root-mapping", sum(one.entries for one in found.values()), columns, {}, tuple(notes))


FORMAT = Format(
    name="root-mapping",
    description="any TTree or RNTuple with jagged branches, through a mapping from columns to branches",
    fits=fits_if(lambda _path, _file, classes: bool(classes)),
    iterate=_iterate,
    describe=_describe,
)
