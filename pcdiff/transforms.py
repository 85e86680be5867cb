"""From physical units to standardised arrays and back: fitted on training data, stored with the generator.

Point features are standardised over all valid points, as they are or in their logarithm, and have a channel each; categories have
code words of several channels (:mod:`pcdiff.encodings`). Cloud features and the number of points are standardised over clouds. The
conditions that a denoiser sees are, in this order: the standardised number of points, the standardised cloud features, and the type
as one-hot when there is more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.encodings import (
    Categories,
    Combinations,
    Encoding,
    Function,
    NormalScore,
    Periodic,
    Scale,
    encoding_of,
    fit_encoding,
)
from pcdiff.errors import DataError
from pcdiff.kinematics import wrap
from pcdiff.mapped import in_pieces
from pcdiff.schema import POSITION, Feature, Schema, halo_schema, jet_schema
from pcdiff.seeds import Purpose, stream
from pcdiff.torus import AXES, Torus

__all__ = ["Encoded", "Transform", "cloud_columns", "point_columns"]

Floats = npt.NDArray[np.float32]

# Points that scales are fitted to: their means are known to a thousandth of a standard deviation.
_FITTED_POINTS = 1 << 21
# The part of the halos that may be lighter than the lightest of few training data.
_LIGHTER = 0.01


def point_columns(clouds: PointClouds, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Point features by name, flat: as stored, or derived (see :class:`~pcdiff.clouds.PointClouds`).

    Raises:
        DataError: a feature is neither stored nor derived.
    """
    missing = [name for name in names if name not in clouds.schema.point_names and clouds.schema.kind == "jets"]
    derived: dict[str, npt.NDArray[Any]] = {}
    for source, available in ((clouds.relative, ("etarel", "phirel", "ptrel")), (clouds.momenta, _MOMENTUM)):
        wanted = [name for name in missing if name in available]
        if wanted:
            flat = ak.flatten(source())
            derived.update({name: ak.to_numpy(getattr(flat, name)) for name in wanted})
    return {name: derived[name] if name in derived else clouds.column(name) for name in names}


_MOMENTUM = ("pt", "eta", "phi", "mass")


def cloud_columns(clouds: PointClouds, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Cloud features by name: as stored, or from the sum of the four-momenta of the points."""
    missing = [name for name in names if name not in clouds.schema.cloud_names and name in _MOMENTUM]
    derived: dict[str, npt.NDArray[Any]] = {}
    if missing and clouds.schema.kind == "jets":
        totals = [ak.sum(piece.momenta(), axis=1) for piece in in_pieces(clouds)]
        derived = {name: np.concatenate([ak.to_numpy(getattr(t, name)) for t in totals]) for name in missing}
    return {name: derived[name] if name in derived else clouds.feature(name) for name in names}


@dataclass(frozen=True)
class Encoded:
    """Clouds as the denoiser sees them.

    Attributes:
        points: shape (P, F), float32, of the F channels.
        offsets: shape (n + 1,).
        cond: shape (n, C), float32.
    """

    points: Floats
    offsets: npt.NDArray[np.int64]
    cond: Floats

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Transform:
    """The invertible map between :class:`~pcdiff.clouds.PointClouds` and :class:`Encoded`.

    Attributes:
        points: encodings of the point features that are generated.
        clouds: scales of the cloud features that condition.
        count: scale of the number of points.
        types: names of the types that the training data hold, in the order of the one-hot; empty without types.
        schema: what the generated columns mean.
        combinations: of the categories of a point; None without categorical features.
        constants: cloud columns of halo catalogues that are the same in all of the training data, the box size among them.
    """

    points: tuple[Encoding, ...]
    clouds: tuple[Scale, ...]
    count: Scale
    types: tuple[str, ...]
    schema: Schema
    combinations: Combinations | None = None
    constants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        clouds: PointClouds,
        points: Mapping[str, Function],
        features: Mapping[str, Literal["standard", "log"]],
        *,
        use_type: bool = True,
    ) -> Transform:
        """Fit to training data.

        Scales and quantiles are those of a random part of the clouds where all together have more than 2,097,152 points; categories and types
        are those of all.

        Args:
            clouds: the training data.
            points: for each point feature to generate, how it is encoded.
            features: for each cloud feature to condition on, how it is standardised.
            use_type: condition on the cloud feature ``type`` where there is one.
        """
        turning = sorted({"phi", "px", "py"} & set(points))
        if clouds.schema.kind == "jets" and turning and "phi" not in features:
            raise DataError(
                f"the point feature {turning[0]!r} turns with the jet, so the jet's azimuth must be known too: add phi to "
                "features.clouds, or generate etarel, phirel and ptrel"
            )
        chosen = _chosen(clouds)
        # Categories are stored as they are, so theirs are all of them, and no copies.
        whole = [name for name, function in points.items() if function == "categorical"]
        columns = point_columns(clouds[chosen], [name for name in points if name not in whole])
        columns |= point_columns(clouds, whole)
        rows = cloud_columns(clouds, list(features))
        types: tuple[str, ...] = ()
        if use_type and "type" in clouds.schema.cloud_names:
            names = clouds.schema.cloud("type").categories
            present = np.unique(clouds.feature("type"))
            if present.min() < 0 or present.max() >= len(names):
                raise DataError(f"cloud feature 'type' has values {present.tolist()}, expected 0 to {len(names) - 1}")
            types = tuple(names[int(i)] for i in present)
        constants = _constants(clouds, points, list(features)) if clouds.schema.kind == "halos" else {}
        schema = _generated_schema(clouds.schema, list(points), [*constants, *features], types)
        signed = {name for reflection in schema.reflections for name in reflection.points}
        signed_rows = {name for reflection in schema.reflections for name in reflection.clouds}
        for name, function in points.items():
            if function == "periodic" and not (clouds.schema.kind == "halos" and name in POSITION):
                raise DataError(f"point feature {name!r} is no position in a periodic box, so it cannot be periodic")
        # One scale for all components of a vector, which must stay one whatever the axes are called.
        together = {name: [columns[part] for part in vector] for vector in schema.vectors for name in vector}
        encodings = tuple(
            fit_encoding(
                name,
                function,
                np.concatenate(together.get(name, [columns[name]])),
                signed=name in signed,
                size=constants.get("box_size"),
            )
            for name, function in points.items()
        )
        return cls(
            points=encodings,
            clouds=tuple(
                Scale.fit(name, function, rows[name][chosen], signed=name in signed_rows)
                for name, function in features.items()
            ),
            count=Scale.fit("number of points", "standard", clouds.counts[chosen]),
            types=types,
            schema=schema,
            combinations=Combinations.fit(encodings, columns),
            constants=constants,
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """The point feature of each of the F channels: a number has one, categories have several."""
        return tuple(encoding.name for encoding in self.points for _ in range(encoding.width))

    @property
    def torus(self) -> Torus | None:
        """What is periodic, and what are vectors; None for clouds that are in no periodic box."""
        periods = [encoding.period for encoding in self.points if isinstance(encoding, Periodic)]
        if not periods:
            return None
        triples = [
            (self.channels.index(x), self.channels.index(y), self.channels.index(z)) for x, y, z in self.schema.vectors
        ]
        of_vectors = {channel for triple in triples for channel in triple}
        scalars = tuple(i for i in range(len(self.channels)) if i not in of_vectors)
        # Positions are the first of the schema's vectors.
        return Torus(triples[0], tuple(triples[1:]), scalars, periods[0])

    @property
    def conditions(self) -> int:
        """C, the width of the conditions."""
        return 1 + len(self.clouds) + (len(self.types) if len(self.types) > 1 else 0)

    def type_index(self, clouds: PointClouds) -> npt.NDArray[np.int64]:
        """For each cloud the position of its type in :attr:`types`; zeros without types. Shape (n,)."""
        if not self.types:
            return np.zeros(len(clouds), np.int64)
        names = clouds.schema.cloud("type").categories
        table = np.full(len(names), -1, np.int64)
        for position, name in enumerate(self.types):
            if name in names:
                table[names.index(name)] = position
        found = table[clouds.feature("type").astype(np.int64)]
        if np.any(found < 0):
            unknown = {names[int(i)] for i in np.unique(clouds.feature("type")[found < 0])}
            raise DataError(
                f"types {', '.join(sorted(unknown))} were not in the training data ({', '.join(self.types)})"
            )
        return found

    def encode(self, clouds: PointClouds) -> Encoded:
        """Standardise clouds.

        Raises:
            DataError: a column is missing or in another unit than that of the training data; a halo catalogue of another box size, redshift or
                whatever else all training data have in common and the catalogue states; or more than a few halos lighter than all of the training data.
        """
        columns = self._columns(clouds)
        self._require_alike(clouds, columns)
        rows = cloud_columns(clouds, [scale.name for scale in self.clouds])
        return Encoded(
            points=np.column_stack([encoding.forward(columns[encoding.name]) for encoding in self.points]),
            offsets=clouds.offsets,
            cond=self.encode_conditions(clouds.counts, rows, self.type_index(clouds)),
        )

    def _require_alike(self, clouds: PointClouds, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Refuse catalogues that the training data are no examples of, which would be encoded as others than they are."""
        for name in clouds.schema.point_names:
            if name in self.schema.point_names:
                found, expected = (schema.point(name).unit for schema in (clouds.schema, self.schema))
                if found != expected:
                    raise DataError(
                        f"point feature {name!r} is in {found!r}, expected {expected!r} as in the training data"
                    )
        for name, value in self.constants.items():
            if name in clouds.schema.cloud_names:
                values = clouds.feature(name)
                other = np.flatnonzero(~np.isclose(values, value, rtol=1e-5, atol=1e-6))
                if len(other):
                    unit = self.schema.cloud(name).unit
                    raise DataError(
                        f"{name} of cloud {other[0]} is {values[other[0]]:g}{unit and ' '}{unit}; the generator knows only {value:g}, "
                        "which all of its training data have"
                    )
        for encoding in self.points:
            if isinstance(encoding, NormalScore) and encoding.name == "log10_mass":
                lighter = int(np.sum(columns["log10_mass"] < encoding.knots[0]))
                if lighter > 1 + _LIGHTER * clouds.num_points:
                    raise DataError(
                        f"{lighter} of {clouds.num_points} halos are lighter than log10_mass = {encoding.knots[0]:.3f}, where the training "
                        "data of the generator begin: leave them out, for example with points_where"
                    )

    def log_slopes(self, clouds: PointClouds) -> npt.NDArray[np.float64]:
        """log of what a density of standardised points is multiplied by to be one of points in physical units; shape (n,).

        Raises:
            DataError: a point feature is categorical.
        """
        columns = self._columns(clouds)
        flat = np.sum([encoding.log_slope(columns[encoding.name]) for encoding in self.points], axis=0)
        return np.add.reduceat(flat, clouds.offsets[:-1])

    def _columns(self, clouds: PointClouds) -> dict[str, npt.NDArray[Any]]:
        """The point features that are encoded; those that are categorical must stand for the same names."""
        columns = point_columns(clouds, [encoding.name for encoding in self.points])
        for encoding in self.points:
            if isinstance(encoding, Categories):
                found, expected = (s.point(encoding.name).categories for s in (clouds.schema, self.schema))
                if found != expected:
                    raise DataError(
                        f"the numbers of point feature {encoding.name!r} stand for {', '.join(found) or 'no names'}, "
                        f"expected {', '.join(expected) or 'no names'} as in the training data"
                    )
        return columns

    def encode_conditions(
        self, counts: npt.NDArray[Any], features: Mapping[str, npt.NDArray[Any]], types: npt.NDArray[np.int64]
    ) -> Floats:
        """Conditions (n, C) from the number of points, cloud features in physical units, and type positions, all (n,)."""
        columns = [self.count.forward(counts), *(scale.forward(features[scale.name]) for scale in self.clouds)]
        cond: Floats = np.stack(columns, axis=1)
        if len(self.types) > 1:
            cond = np.concatenate([cond, np.eye(len(self.types), dtype=np.float32)[types]], axis=1)
        return cond

    def decode(
        self,
        points: Floats,
        offsets: npt.NDArray[np.int64],
        features: Mapping[str, npt.NDArray[Any]],
        types: npt.NDArray[np.int64],
        provenance: Mapping[str, Any] | None = None,
    ) -> PointClouds:
        """Point clouds in physical units.

        Args:
            points: shape (P, F), encoded.
            offsets: shape (n + 1,).
            features: cloud features in physical units, each (n,).
            types: positions in :attr:`types`, shape (n,).
        """
        ends = np.cumsum([encoding.width for encoding in self.points])
        parts = np.split(points, ends[:-1], axis=1)
        named = list(zip(self.points, parts, strict=True))
        columns: dict[str, npt.NDArray[Any]] = {
            encoding.name: encoding.inverse(part[:, 0])
            for encoding, part in named
            if not isinstance(encoding, Categories)
        }
        if self.combinations is not None:
            together = np.concatenate([part for encoding, part in named if isinstance(encoding, Categories)], axis=1)
            columns |= self.combinations.inverse(self.points, together)
        if self.schema.kind == "jets" and "phi" in columns:
            columns["phi"] = wrap(columns["phi"].astype(np.float64)).astype(np.float32)
        rows: dict[str, npt.NDArray[Any]] = {name: np.asarray(values, np.float32) for name, values in features.items()}
        rows |= {name: np.full(len(offsets) - 1, value, np.float32) for name, value in self.constants.items()}
        if self.types:
            names = self.schema.cloud("type").categories
            rows["type"] = np.array([names.index(name) for name in self.types], np.int32)[types]
        return PointClouds.from_flat(columns, offsets, rows, self.schema, provenance)

    def reflections(self) -> list[tuple[Floats, Floats]]:
        """For each symmetry the signs that flip encoded points (F,) and conditions (C,).

        Symmetries that touch no generated feature are left out.
        """
        out = []
        for reflection in self.schema.reflections:
            signs = np.ones(len(self.channels), np.float32)
            cond = np.ones(self.conditions, np.float32)
            for i, name in enumerate(self.channels):
                if name in reflection.points:
                    signs[i] = -1
            for i, scale in enumerate(self.clouds):
                if scale.name in reflection.clouds:
                    cond[1 + i] = -1
            if (signs < 0).any():
                out.append((signs, cond))
        return out

    def turns(self) -> list[npt.NDArray[np.int64]]:
        """For each order of the axes where the channels (F,) of a point are found in it; none where axes are not alike."""
        torus = self.torus
        if torus is None:
            return []
        out = []
        for order in AXES:
            index = np.arange(len(self.channels))
            for vector in (torus.positions, *torus.vectors):
                index[list(vector)] = np.array(vector)[list(order)]
            out.append(index)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "points": [vars(encoding) for encoding in self.points],
            "clouds": [vars(scale) for scale in self.clouds],
            "count": vars(self.count),
            "types": list(self.types),
            "schema": self.schema.to_dict(),
            "combinations": None if self.combinations is None else vars(self.combinations),
            "constants": dict(self.constants),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transform:
        """Inverse of :meth:`to_dict`."""
        return cls(
            points=tuple(encoding_of(item) for item in data["points"]),
            clouds=tuple(Scale(**item) for item in data["clouds"]),
            count=Scale(**data["count"]),
            types=tuple(data["types"]),
            schema=Schema.from_dict(data["schema"]),
            # Before format version 3 there were no categories.
            combinations=Combinations.from_dict(data["combinations"]) if data.get("combinations") else None,
            # Before format version 4 there were no halos.
            constants=dict(data.get("constants", {})),
        )


def _chosen(clouds: PointClouds) -> npt.NDArray[np.int64] | slice:
    """The clouds that scales are fitted to."""
    size = _FITTED_POINTS * len(clouds) // max(1, clouds.num_points)
    if size >= len(clouds):
        return slice(None)
    rng = np.random.default_rng(stream(0, Purpose.PART))
    return np.sort(rng.choice(len(clouds), max(1, size), replace=False, shuffle=False))


def _constants(clouds: PointClouds, points: Mapping[str, Function], features: Sequence[str]) -> dict[str, float]:
    """Cloud columns of catalogues that are the same for all and condition nothing; what is said of positions is checked."""
    for name in POSITION:
        if points.get(name) != "periodic":
            found = f"{name!r} as {points[name]}" if name in points else f"no {name!r}"
            raise DataError(
                f"halo catalogues lie in a periodic box: found {found} among the point features, expected {name}: periodic"
            )
    sizes = np.unique(clouds.feature("box_size"))
    if len(sizes) > 1:
        raise DataError(
            f"the boxes of the catalogues have sizes from {sizes[0]:g} to {sizes[-1]:g} {clouds.schema.cloud('box_size').unit}; "
            "expected one size"
        )
    rows = {name: clouds.feature(name) for name in clouds.schema.cloud_names if name not in (*features, "weight")}
    return {name: float(values[0]) for name, values in rows.items() if np.all(values == values[0])}


def _generated_schema(source: Schema, points: list[str], features: list[str], types: tuple[str, ...]) -> Schema:
    """The schema of generated clouds: the chosen columns, the type, and for jets an azimuth."""
    if source.kind == "vectors":
        return source.select(tuple(points), (*features, *(["type"] if types else [])))
    if source.kind == "halos":
        stored = {feature.name: feature for feature in (*source.points, *source.clouds)}
        return halo_schema(points, [*features, *(["type"] if types else [])], extra=stored)
    known = {feature.name: feature for feature in source.points if feature.name in points}
    names = [*features, *(["phi"] if "phi" not in features else []), *(["type"] if types else [])]
    schema = jet_schema(points, names, axis=source.axis, types=source.cloud("type").categories if types else ())
    kept = tuple(known.get(feature.name, feature) for feature in schema.points)
    clouds = tuple(_stored(source, feature) for feature in schema.clouds)
    return Schema("jets", kept, clouds, schema.reflections, axis=schema.axis)


def _stored(source: Schema, feature: Feature) -> Feature:
    """The feature as the source describes it, or as it is by default."""
    return next((stored for stored in source.clouds if stored.name == feature.name), feature)
