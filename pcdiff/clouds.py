"""`PointClouds`: ragged physics data in physical units.

A set of n clouds holds an awkward array of points (n lists of records, one record a point), one record of
features a cloud, a :class:`~pcdiff.schema.Schema` that says what the columns mean, and where they came from.
The columns as stored in the file are canonical: they are never recomputed. Four-momenta and coordinates relative
to the jet axis are derived on demand.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import vector

from pcdiff import kinematics
from pcdiff.errors import DataError
from pcdiff.schema import POSITION, Schema, standard_cloud_feature

__all__ = ["PointClouds", "offsets_of", "require_cubes"]

vector.register_awkward()

# Columns that can only be negative through a fault upstream.
_NON_NEGATIVE = ("pt", "ptrel", "energy")


def offsets_of(sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where each cloud begins among the flat points: shape (n + 1,), from 0 to the number of points.

    Args:
        sizes: number of points of each cloud, shape (n,).

    >>> offsets_of([2, 1]).tolist()
    [0, 2, 3]
    """
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


class PointClouds:
    """A set of variable-size point clouds.

    Build one with :meth:`from_flat` or :meth:`from_padded`, or read one with :func:`pcdiff.read`.

    Attributes:
        schema: the meaning of the columns.
        provenance: plain data for JSON: source files, recipe, seeds, versions.
    """

    def __init__(
        self,
        points: ak.Array,
        features: ak.Array | None,
        schema: Schema,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Check that the arrays fit the schema; see :meth:`validate` for a check of the values.

        Raises:
            DataError: columns missing or unknown, or a number of feature rows other than that of clouds.
        """
        if points.ndim != 2 or set(ak.fields(points)) != set(schema.point_names):
            raise DataError(
                f"points: found {points.type}, expected lists of records with {', '.join(schema.point_names)}"
            )
        columns = {name: _flat(points[name]) for name in schema.point_names}
        counts = _flat(ak.num(points, axis=1))
        offsets = offsets_of(counts)
        if schema.clouds and (features is None or set(ak.fields(features)) != set(schema.cloud_names)):
            found = "none" if features is None else ", ".join(ak.fields(features))
            raise DataError(f"features: found {found}, expected {', '.join(schema.cloud_names)}")
        rows = {} if features is None else {name: _flat(features[name]) for name in schema.cloud_names}
        self._build(columns, offsets, rows, schema, provenance)

    def _build(
        self,
        points: Mapping[str, npt.ArrayLike],
        offsets: npt.ArrayLike,
        features: Mapping[str, npt.ArrayLike],
        schema: Schema,
        provenance: Mapping[str, Any] | None,
    ) -> None:
        for found, wanted, level in (
            (points, schema.point_names, "points"),
            (features, schema.cloud_names, "features"),
        ):
            if set(found) != set(wanted):
                raise DataError(f"{level}: found columns {', '.join(found)}; expected {', '.join(wanted)}")
        columns = {name: _numbers(name, points[name]) for name in schema.point_names}
        rows = {name: _numbers(name, features[name]) for name in schema.cloud_names}
        lengths = {name: len(column) for name, column in columns.items()}
        total = next(iter(lengths.values()))
        if any(length != total for length in lengths.values()):
            raise DataError(f"points: columns of different length: {lengths}")
        bounds = np.asarray(offsets)
        if bounds.ndim != 1 or len(bounds) < 1 or bounds.dtype.kind not in "iu":
            raise DataError(f"offsets: found shape {bounds.shape} of {bounds.dtype}, expected whole numbers (n + 1,)")
        bounds = bounds.astype(np.int64, copy=False)
        if bounds[0] != 0 or bounds[-1] != total or np.any(np.diff(bounds) < 0):
            raise DataError(
                f"offsets: must rise from 0 to the number of points {total}; "
                f"they start at {bounds[0]}, end at {bounds[-1]} and fall {int(np.sum(np.diff(bounds) < 0))} times"
            )
        for name, row in rows.items():
            if len(row) != len(bounds) - 1:
                raise DataError(f"features: {name!r} has {len(row)} rows, expected {len(bounds) - 1}: one row a cloud")
        self._columns = columns
        self._offsets = bounds
        self._features = rows
        self.schema = schema
        self.provenance: dict[str, Any] = dict(provenance or {})

    @classmethod
    def from_flat(
        cls,
        points: Mapping[str, npt.ArrayLike],
        offsets: npt.ArrayLike,
        features: Mapping[str, npt.ArrayLike],
        schema: Schema,
        provenance: Mapping[str, Any] | None = None,
    ) -> PointClouds:
        """Clouds from flat columns, without a copy.

        Args:
            points: one array of shape (P,) a column.
            offsets: shape (n + 1,): cloud i holds the points ``offsets[i]`` to ``offsets[i + 1]``.
            features: one array of shape (n,) a column.

        Raises:
            DataError: a column is missing or does not hold numbers, lengths differ, or the offsets do not start at 0,
                fall, or do not end at P.

        >>> from pcdiff.schema import jet_schema
        >>> clouds = PointClouds.from_flat({"pt": [9.0, 5.0, 7.0]}, [0, 2, 3], {}, jet_schema(["pt"], []))
        >>> clouds.points.to_list()
        [[{'pt': 9.0}, {'pt': 5.0}], [{'pt': 7.0}]]
        """
        self = cls.__new__(cls)
        self._build(points, offsets, features, schema, provenance)
        return self

    @classmethod
    def from_padded(
        cls,
        points: npt.NDArray[Any],
        mask: npt.NDArray[np.bool_],
        features: Mapping[str, npt.ArrayLike],
        schema: Schema,
        provenance: Mapping[str, Any] | None = None,
    ) -> PointClouds:
        """Clouds from a padded array.

        Args:
            points: shape (n, N, F), features in schema order.
            mask: shape (n, N), true where a point is real; real points may stand anywhere in a row.
        """
        if points.ndim != 3 or points.shape[2] != len(schema.points) or mask.shape != points.shape[:2]:
            raise DataError(
                f"padded points: found {points.shape} with a mask of {mask.shape}, "
                f"expected (n, N, {len(schema.points)}) with (n, N)"
            )
        valid = points[mask]
        columns = {name: np.ascontiguousarray(valid[:, i]) for i, name in enumerate(schema.point_names)}
        offsets = offsets_of(mask.sum(axis=1, dtype=np.int64))
        return cls.from_flat(columns, offsets, features, schema, provenance)

    @classmethod
    def concatenate(cls, parts: Sequence[PointClouds]) -> PointClouds:
        """One set after another; all must have the same schema. Provenance is that of the first, sources joined."""
        if not parts:
            raise DataError("nothing to concatenate: no point clouds given")
        first = parts[0]
        for part in parts[1:]:
            if part.schema != first.schema:
                raise DataError(
                    "cannot join point clouds of different schema: "
                    f"points {part.schema.point_names} and clouds {part.schema.cloud_names}, "
                    f"expected {first.schema.point_names} and {first.schema.cloud_names}"
                )
        if len(parts) == 1:
            return first
        starts = np.cumsum([0, *(part.num_points for part in parts[:-1])])
        offsets = np.concatenate(
            [np.zeros(1, np.int64), *(part.offsets[1:] + start for part, start in zip(parts, starts, strict=True))]
        )
        columns = {name: np.concatenate([p._columns[name] for p in parts]) for name in first.schema.point_names}
        features = {name: np.concatenate([p._features[name] for p in parts]) for name in first.schema.cloud_names}
        sources = list(dict.fromkeys(s for part in parts for s in part.provenance.get("sources", ())))
        provenance = {**first.provenance, **({"sources": sources} if sources else {})}
        return cls.from_flat(columns, offsets, features, first.schema, provenance)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __repr__(self) -> str:
        return (
            f"<PointClouds {self.schema.kind}: {len(self)} clouds, {self.num_points} points; "
            f"points ({', '.join(self.schema.point_names)}), clouds ({', '.join(self.schema.cloud_names)})>"
        )

    def _repr_html_(self) -> str:
        """The sizes, and the columns with their units, for a notebook."""
        lines = [
            "".join(
                f"<td>{html.escape(cell)}</td>" for cell in (level, feature.name, feature.unit, feature.description)
            )
            for level, features in (("point", self.schema.points), ("cloud", self.schema.clouds))
            for feature in features
        ]
        return (
            f"<p>{len(self):,} clouds ({self.schema.kind}), {self.num_points:,} points</p>"
            "<table><thead><tr><th>level</th><th>column</th><th>unit</th><th>description</th></tr></thead>"
            f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
        )

    def __getitem__(self, where: slice | npt.NDArray[Any] | Sequence[int]) -> PointClouds:
        """Some of the clouds: a slice (no copy of points when its step is 1), a boolean mask or indices."""
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step == 1:
                stop = max(start, stop)
                bounds = self._offsets[start : stop + 1]
                inside = slice(int(bounds[0]), int(bounds[-1]))
                return self.from_flat(
                    {name: column[inside] for name, column in self._columns.items()},
                    bounds - bounds[0],
                    {name: row[start:stop] for name, row in self._features.items()},
                    self.schema,
                    self.provenance,
                )
            where = np.arange(start, stop, step)
        index = np.asarray(where)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise DataError(f"a mask of shape {index.shape} cannot select from {len(self)} clouds")
            index = np.flatnonzero(index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise TypeError("select clouds with a slice, a boolean mask or a list of indices")
        index = index.astype(np.int64)
        if index.size and (index.min() < -len(self) or index.max() >= len(self)):
            raise IndexError(f"cloud index out of range for {len(self)} clouds")
        index = np.where(index < 0, index + len(self), index)
        counts = self.counts[index]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self._offsets[index] - offsets[:-1], counts)
        return self.from_flat(
            {name: column[rows] for name, column in self._columns.items()},
            offsets,
            {name: row[index] for name, row in self._features.items()},
            self.schema,
            self.provenance,
        )

    def split(self, size: int) -> Iterator[PointClouds]:
        """Consecutive pieces of at most ``size`` clouds."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Shape (n + 1,): cloud i holds the flat points ``offsets[i]`` to ``offsets[i + 1]``."""
        return self._offsets

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Shape (n,): number of points of each cloud."""
        return np.diff(self._offsets)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """Shape (P,): the number of the cloud that each flat point belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def num_points(self) -> int:
        """Number of points of all clouds together."""
        return int(self._offsets[-1])

    @property
    def nbytes(self) -> int:
        """Size of all columns in memory, in bytes."""
        columns = (*self._columns.values(), *self._features.values())
        return self._offsets.nbytes + sum(column.nbytes for column in columns)

    @cached_property
    def points(self) -> ak.Array:
        """Awkward array ``n * var * {name: dtype, ...}``; a view, not a copy.

        With a full set of momentum columns its records behave as :mod:`vector` momenta.
        """
        names = self.schema.point_names
        record = ak.contents.RecordArray(
            [ak.contents.NumpyArray(self._columns[name]) for name in names],
            list(names),
            parameters={"__record__": "Momentum4D"} if _is_momentum(names) else None,
        )
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(self._offsets), record))

    @cached_property
    def features(self) -> ak.Array:
        """Awkward array ``n * {name: dtype, ...}``; a view, not a copy."""
        names = self.schema.cloud_names
        return ak.Array(
            ak.contents.RecordArray(
                [ak.contents.NumpyArray(self._features[name]) for name in names],
                list(names),
                length=len(self),
                parameters={"__record__": "Momentum4D"} if _is_momentum(names) else None,
            )
        )

    def column(self, name: str) -> npt.NDArray[Any]:
        """One point column of all clouds, flat: shape (P,)."""
        self.schema.point(name)
        return self._columns[name]

    def feature(self, name: str) -> npt.NDArray[Any]:
        """One cloud column: shape (n,)."""
        self.schema.cloud(name)
        return self._features[name]

    def padded(self, size: int | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Points as a padded array (n, N, F), zero where empty, and the mask (n, N).

        Args:
            size: N; the largest cloud by default. Larger clouds are refused, not cut.
        """
        counts = self.counts
        largest = int(counts.max(initial=0))
        size = largest if size is None else size
        if largest > size:
            raise DataError(f"a cloud of {largest} points does not fit into {size}: take the leading ones first")
        mask = np.arange(size) < counts[:, None]
        stacked = np.stack(list(self._columns.values()), axis=1)
        out = np.zeros((len(self), size, len(self._columns)), stacked.dtype)
        out[mask] = stacked
        return out, mask

    def points_where(self, keep: npt.NDArray[np.bool_]) -> PointClouds:
        """The same clouds with some of their points: ``keep`` has shape (P,), true where a point stays."""
        offsets = offsets_of(np.bincount(self.owners[keep], minlength=len(self)))
        columns = {name: column[keep] for name, column in self._columns.items()}
        return self.from_flat(columns, offsets, self._features, self.schema, self.provenance)

    def with_features(self, features: Mapping[str, npt.ArrayLike]) -> PointClouds:
        """The same clouds with cloud features added, or replaced where there are some of these names.

        Args:
            features: one value for all clouds or one for each, shape (n,), by name; in the unit of the column that is replaced, or in that
                which a standard name has.

        Raises:
            DataError: a column of another length.

        >>> import numpy as np
        >>> from pcdiff.schema import halo_schema
        >>> place = {name: np.array([1.0, 2.0]) for name in "xyz"}
        >>> box = PointClouds.from_flat(place, [0, 2], {"box_size": [10.0]}, halo_schema(list(place), ["box_size"]))
        >>> box.with_features({"omega_m": 0.3}).feature("omega_m")
        array([0.3])
        """
        added = [name for name in features if name not in self.schema.cloud_names]
        clouds = (*self.schema.clouds, *(standard_cloud_feature(self.schema.kind, name) for name in added))
        columns = {
            name: np.full(len(self), value) if np.ndim(value) == 0 else value for name, value in features.items()
        }
        return self.from_flat(
            self._columns, self._offsets, self._features | columns, replace(self.schema, clouds=clouds), self.provenance
        )

    def leading(self, size: int) -> PointClouds:
        """The first ``size`` points of each cloud (files order constituents by falling pT)."""
        return self.points_where(np.arange(self.num_points) - np.repeat(self._offsets[:-1], self.counts) < size)

    def validate(self, where: str = "point clouds") -> PointClouds:
        """Check the values; returns itself.

        Args:
            where: what the error message starts with: the file, for example.

        Raises:
            DataError: a value is not finite, a pT, momentum fraction or energy is negative, a number stands for none of
                its categories, a halo lies outside its box, or a cloud has no points.
        """
        levels = (("point", self._columns, self.schema.points), ("cloud", self._features, self.schema.clouds))
        for level, columns, features in levels:
            for feature in features:
                name, values = feature.name, columns[feature.name]
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    bad = ~np.isfinite(values)
                    raise DataError(
                        f"{where}: {level} feature {name!r} is not finite in {int(bad.sum())} of {len(values)} values, "
                        f"the first in cloud {self._cloud_of(level, int(np.argmax(bad)))}; expected finite numbers"
                    )
                if name in _NON_NEGATIVE and values.dtype.kind in "fi" and np.any(values < 0):
                    at = int(np.argmax(values < 0))
                    raise DataError(
                        f"{where}: {level} feature {name!r} is {values[at]} in cloud {self._cloud_of(level, at)}; "
                        "expected a value that is not negative"
                    )
                if feature.categories:
                    unknown = ~np.isin(values, np.arange(len(feature.categories)))
                    if unknown.any():
                        at = int(np.argmax(unknown))
                        raise DataError(
                            f"{where}: {level} feature {name!r} is {values[at]} in cloud {self._cloud_of(level, at)}; "
                            f"expected 0 to {len(feature.categories) - 1} for {', '.join(feature.categories)}"
                        )
        if self.schema.kind == "halos" and "box_size" in self._features:
            self._require_inside(where)
        empty = self.counts == 0
        if empty.any():
            raise DataError(
                f"{where}: {int(empty.sum())} of {len(self)} clouds have no points, the first is cloud "
                f"{int(np.argmax(empty))}; read with drop_empty=True to leave them out "
                "(command line: --option drop_empty=true)"
            )
        return self

    def _require_inside(self, where: str) -> None:
        """Refuse halos that do not lie in [0, box_size)."""
        box = self._features["box_size"]
        if np.any(box <= 0):
            at = int(np.argmax(box <= 0))
            raise DataError(f"{where}: cloud feature 'box_size' is {box[at]} in cloud {at}; expected a number above 0")
        sides = np.repeat(box, self.counts)
        for name in (name for name in POSITION if name in self._columns):
            values = self._columns[name]
            outside = (values < 0) | (values >= sides)
            if outside.any():
                at = int(np.argmax(outside))
                raise DataError(
                    f"{where}: point feature {name!r} is {values[at]} in cloud {self._cloud_of('point', at)}, and {int(outside.sum())} "
                    f"of {len(values)} values are outside; expected 0 to below the box size {sides[at]} (Mpc/h)"
                )

    def _cloud_of(self, level: str, at: int) -> int:
        return at if level == "cloud" else int(np.searchsorted(self._offsets, at, side="right") - 1)

    def momenta(self) -> ak.Array:
        """Four-momenta of the constituents as :mod:`vector` records (pt, eta, phi, mass), in GeV, float64.

        Taken from the stored columns: (pt, eta or rapidity, phi[, mass]), (px, py, pz, energy), or (ptrel, etarel,
        phirel) with the jet's pt, eta and phi. Without a mass column the constituents are massless. Where the jet's phi is
        not stored, phi is relative to the jet axis; invariant masses do not depend on it.

        Raises:
            DataError: the columns do not determine a momentum; names the files that the clouds were read from.
        """
        return self._momenta

    @cached_property
    def _momenta(self) -> ak.Array:
        try:
            found = kinematics.momenta(self._columns, self._features, self.counts)
        except DataError as error:
            sources = ", ".join(map(str, self.provenance.get("sources", ())))
            raise DataError(f"{error} (clouds read from {sources})" if sources else str(error)) from error
        return self._ragged(found, "Momentum4D")

    def relative(self) -> ak.Array:
        """Constituents relative to their jet: records (etarel, phirel, ptrel).

        The stored columns where there are; else derived from :meth:`momenta` and the stored jet pt, eta and phi, and
        where one of these is not stored, the sum of the constituents.
        """
        return self._relative

    @cached_property
    def _relative(self) -> ak.Array:
        names = ("etarel", "phirel", "ptrel")
        if set(names) <= set(self.schema.point_names):
            return self._ragged({name: self._columns[name] for name in names})
        momenta = self.momenta()
        axis = ak.sum(momenta, axis=1)
        jet = {
            name: self._features[name] if name in self.schema.cloud_names else ak.to_numpy(getattr(axis, name))
            for name in ("pt", "eta", "phi")
        }
        flat = {name: _flat(momenta[name]) for name in ("pt", "eta", "phi")}
        return self._ragged(kinematics.relative(flat, jet, self.counts))

    def _ragged(self, columns: Mapping[str, npt.NDArray[Any]], record: str | None = None) -> ak.Array:
        """Flat columns as records in lists of this set's sizes."""
        content = ak.contents.RecordArray(
            [ak.contents.NumpyArray(np.ascontiguousarray(values)) for values in columns.values()],
            list(columns),
            parameters={"__record__": record} if record else None,
        )
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(self._offsets), content))

    def equals(self, other: PointClouds) -> bool:
        """Whether columns, dtypes, sizes and values agree bit for bit; provenance may differ."""
        return self.schema == other.schema and self.fingerprint() == other.fingerprint()

    def fingerprint(self) -> str:
        """SHA-256 of names, dtypes, sizes and values: the same for the same data, from whichever format it was read."""
        digest = hashlib.sha256()
        for level, columns in (("point", self._columns), ("cloud", self._features)):
            for name, values in columns.items():
                digest.update(f"{level} {name} {values.dtype.str} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).data)
        digest.update(np.ascontiguousarray(self._offsets).data)
        return digest.hexdigest()


def require_cubes(clouds: PointClouds, where: str = "halo catalogue") -> None:
    """Refuse halo catalogues whose sides ``size_x``, ``size_y`` and ``size_z`` are stated and are not the box size.

    Args:
        where: what the error message starts with.

    Raises:
        DataError: there is one.
    """
    for name in (f"size_{axis}" for axis in POSITION):
        if name in clouds.schema.cloud_names:
            other = np.flatnonzero(clouds.feature(name) != clouds.feature("box_size"))
            if len(other):
                found, size = (clouds.feature(column)[other[0]] for column in (name, "box_size"))
                raise DataError(f"{where}: {name} is {found:g} where box_size is {size:g} Mpc/h; expected a cube")


def _flat(array: ak.Array) -> npt.NDArray[Any]:
    """The numbers of an awkward array of depth 1 or 2, flat; missing values are refused."""
    try:
        # axis=1 and not None, which would drop missing values in silence.
        return np.asarray(ak.to_numpy(ak.flatten(array, axis=1) if array.ndim > 1 else array, allow_missing=False))
    except ValueError as error:
        raise DataError(f"a column of type {array.type} has missing values or no numbers; expected numbers") from error


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """One column in the machine's own byte order, so that equal values are equal bytes from whichever file."""
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        raise DataError(f"{name!r}: found shape {column.shape} of {column.dtype}, expected numbers in one dimension")
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _is_momentum(names: Sequence[str]) -> bool:
    have = set(names)
    return {"pt", "eta", "phi", "mass"} <= have or {"px", "py", "pz", "energy"} <= have
