"""What the columns of a set of point clouds mean: names, units, categories and symmetries.

A schema is plain data. Readers build one from a file, transforms and generators carry it along, and writers
state its units again, so that a number never travels without its meaning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from pcdiff.errors import DataError, suggest

__all__ = [
    "JET_TYPES",
    "PARTICLE_CLASSES",
    "POSITION",
    "VELOCITY",
    "Feature",
    "Kind",
    "Reflection",
    "Schema",
    "halo_schema",
    "jet_schema",
    "standard_cloud_feature",
    "vector_schema",
]

Kind = Literal["jets", "halos", "vectors"]

# The order is that of the JetNet library, which prepends this number to its jet features.
JET_TYPES = ("g", "q", "t", "w", "z")

# The order of JetClass, which has a flag for each (isChargedHadron, ...).
PARTICLE_CLASSES = ("charged hadron", "neutral hadron", "photon", "electron", "muon")


@dataclass(frozen=True)
class Feature:
    """One column.

    Attributes:
        name: the field's standard term, for example ``etarel``.
        unit: ``"GeV"``, ``"Mpc/h"``, ... or ``""`` for a pure number.
        description: one line for people.
        categories: for an integer column that stands for names, the name of 0, of 1, ...
    """

    name: str
    unit: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reflection:
    """A symmetry of the physics: flipping the sign of all these columns together changes nothing.

    Columns that a data set lacks are passed over.
    """

    points: tuple[str, ...]
    clouds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """The meaning of all columns of a :class:`~pcdiff.clouds.PointClouds`.

    Attributes:
        kind: what a cloud is, which decides which observables apply: ``"jets"``, whose points are constituents;
            ``"halos"``, a catalogue in a periodic box; or ``"vectors"``, plain vectors of numbers, each a cloud of one
            point.
        points: the columns of each point.
        clouds: the columns of each cloud.
        reflections: sign flips that leave the distribution unchanged.
        vectors: triples of point columns that are the components of a vector along the same three axes, of which none is special: to
            rename the axes changes nothing.
        axis: which points define the jet axis and the stored jet columns: ``"all"`` constituents of the jet
            before any were dropped, or the ``"kept"`` ones. ``""`` where the file does not say.
    """

    kind: Kind
    points: tuple[Feature, ...]
    clouds: tuple[Feature, ...] = ()
    reflections: tuple[Reflection, ...] = ()
    vectors: tuple[tuple[str, str, str], ...] = ()
    axis: Literal["all", "kept", ""] = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(f"schema: kind is {self.kind!r}, expected {', '.join(map(repr, get_args(Kind)))}")
        if self.axis not in ("all", "kept", ""):
            raise DataError(f"schema: axis is {self.axis!r}, expected 'all', 'kept' or ''")
        for level, features in (("point", self.points), ("cloud", self.clouds)):
            names = [feature.name for feature in features]
            # Names become branches, datasets and paths in files, where these characters part one name from the next.
            odd = [name for name in names if not name or set("/. ") & set(name)]
            if odd:
                raise DataError(
                    f"schema: {odd[0]!r} cannot name a {level} feature; expected a name without '/', '.' or ' '"
                )
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise DataError(f"schema: the {level} feature {repeated[0]!r} is given twice")
        if not self.points:
            raise DataError("schema: at least one point feature is needed, found none")

    @property
    def point_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.points)

    @property
    def cloud_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.clouds)

    def point(self, name: str) -> Feature:
        """The point feature of that name; :class:`DataError` names the nearest one when absent."""
        return _find(self.points, name, "point")

    def cloud(self, name: str) -> Feature:
        """The cloud feature of that name; :class:`DataError` names the nearest one when absent."""
        return _find(self.clouds, name, "cloud")

    def select(self, points: tuple[str, ...] | None = None, clouds: tuple[str, ...] | None = None) -> Schema:
        """The same schema with only these columns, in this order."""
        return replace(
            self,
            points=self.points if points is None else tuple(self.point(name) for name in points),
            clouds=self.clouds if clouds is None else tuple(self.cloud(name) for name in clouds),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :meth:`from_dict` gives the same schema back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Schema:
        """Inverse of :meth:`to_dict`."""
        try:
            return cls(
                kind=data["kind"],
                points=tuple(_feature(item) for item in data["points"]),
                clouds=tuple(_feature(item) for item in data["clouds"]),
                reflections=tuple(
                    Reflection(tuple(item["points"]), tuple(item["clouds"])) for item in data["reflections"]
                ),
                # Files of the time before there were halos have none.
                vectors=tuple((x, y, z) for x, y, z in data.get("vectors", ())),
                axis=data["axis"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"schema: not a stored pcdiff schema ({error})") from error


def _feature(item: dict[str, Any]) -> Feature:
    return Feature(item["name"], item["unit"], item["description"], tuple(item["categories"]))


def _find(features: tuple[Feature, ...], name: str, level: str) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    raise DataError(f"no {level} feature {name!r}: {suggest(name, [feature.name for feature in features])}")


_JET_POINTS = {
    "etarel": Feature("etarel", "", "pseudorapidity relative to the jet axis"),
    "phirel": Feature("phirel", "rad", "azimuth relative to the jet axis"),
    "ptrel": Feature("ptrel", "", "transverse momentum as a fraction of the jet's"),
    "pt": Feature("pt", "GeV", "transverse momentum"),
    "eta": Feature("eta", "", "pseudorapidity"),
    "rapidity": Feature("rapidity", "", "rapidity"),
    "phi": Feature("phi", "rad", "azimuth"),
    "mass": Feature("mass", "GeV", "mass"),
    "px": Feature("px", "GeV", "momentum along x"),
    "py": Feature("py", "GeV", "momentum along y"),
    "pz": Feature("pz", "GeV", "momentum along z (the beam)"),
    "energy": Feature("energy", "GeV", "energy"),
    "pdgId": Feature("pdgId", "", "Particle Data Group number of the particle"),
    "charge": Feature("charge", "e", "electric charge"),
    "particle_class": Feature("particle_class", "", "class of the particle", PARTICLE_CLASSES),
}

_JET_CLOUDS = {
    "pt": Feature("pt", "GeV", "jet transverse momentum"),
    "eta": Feature("eta", "", "jet pseudorapidity"),
    "phi": Feature("phi", "rad", "jet azimuth"),
    "mass": Feature("mass", "GeV", "jet mass"),
    "energy": Feature("energy", "GeV", "jet energy"),
    "num_constituents": Feature("num_constituents", "", "number of constituents as stored in the file"),
    "type": Feature("type", "", "what started the jet", JET_TYPES),
    "weight": Feature("weight", "", "how much the jet counts beside others"),
}

# A mirror image of a collision is as likely as the collision, about the transverse plane and about a plane that
# holds the beam. Signed columns of a jet flip together with those of its constituents.
_JET_REFLECTIONS = (
    Reflection(("etarel", "eta", "rapidity", "pz"), ("eta", "rapidity", "pz")),
    Reflection(("phirel", "phi", "py"), ("phi", "py")),
)


def jet_schema(
    points: tuple[str, ...] | list[str],
    clouds: tuple[str, ...] | list[str],
    *,
    axis: Literal["all", "kept", ""] = "",
    types: tuple[str, ...] = JET_TYPES,
    extra: dict[str, Feature] | None = None,
) -> Schema:
    """A jet schema from column names; standard names get their unit and description.

    Args:
        points: names of the constituent columns.
        clouds: names of the jet columns.
        axis: see :class:`Schema`.
        types: the names that the numbers of the jet column ``type`` stand for.
        extra: features under names that are not standard, or that replace the standard meaning.

    >>> jet_schema(["etarel", "phirel", "ptrel"], ["pt", "mass"]).cloud("mass").unit
    'GeV'
    """
    extra = extra or {}

    def feature(name: str, standard: dict[str, Feature]) -> Feature:
        if name == "type" and standard is _JET_CLOUDS and name not in extra:
            return replace(standard[name], categories=tuple(types))
        return extra.get(name) or standard.get(name) or Feature(name)

    return Schema(
        kind="jets",
        points=tuple(feature(name, _JET_POINTS) for name in points),
        clouds=tuple(feature(name, _JET_CLOUDS) for name in clouds),
        reflections=_JET_REFLECTIONS,
        axis=axis,
    )


def standard_cloud_feature(kind: str, name: str) -> Feature:
    """A cloud feature with the unit and description that a standard name of this kind of clouds has; others have none.

    >>> standard_cloud_feature("halos", "box_size").unit
    'Mpc/h'
    """
    known = {"jets": _JET_CLOUDS, "halos": _HALO_CLOUDS}.get(kind, {})
    return known.get(name) or Feature(name)


def vector_schema(names: tuple[str, ...] | list[str]) -> Schema:
    """A schema of plain vectors from the names of their components, which are pure numbers without a known symmetry.

    >>> vector_schema(["x", "y"]).point_names
    ('x', 'y')
    """
    return Schema(kind="vectors", points=tuple(Feature(name) for name in names))


POSITION = ("x", "y", "z")
"""The point columns of a halo that are a position in the periodic box."""

VELOCITY = ("vx", "vy", "vz")
"""The point columns of a halo that are its peculiar velocity."""

_HALO_POINTS = {
    **{name: Feature(name, "Mpc/h", f"comoving position along {name}") for name in POSITION},
    **{name: Feature(name, "km/s", f"peculiar velocity along {name[1]}") for name in VELOCITY},
    "log10_mass": Feature("log10_mass", "", "log10 of the mass in Msun/h"),
}

_HALO_CLOUDS = {
    "box_size": Feature("box_size", "Mpc/h", "side of the periodic box"),
    "redshift": Feature("redshift", "", "redshift"),
    "omega_m": Feature("omega_m", "", "density of matter today in units of the critical density"),
    "sigma_8": Feature("sigma_8", "", "linear root-mean-square fluctuation today in spheres of 8 Mpc/h"),
    "weight": Feature("weight", "", "how much the box counts beside others"),
}


def halo_schema(
    points: tuple[str, ...] | list[str], clouds: tuple[str, ...] | list[str], *, extra: dict[str, Feature] | None = None
) -> Schema:
    """A schema of halo catalogues from column names; standard names get their unit and description.

    Args:
        points: names of the columns of a halo; positions first, x, y and z.
        clouds: names of the columns of a catalogue, the box size among them.
        extra: features under names that are not standard.

    Raises:
        DataError: a position or the box size is missing.

    >>> halo_schema(["x", "y", "z", "log10_mass"], ["box_size", "omega_m"]).point("x").unit
    'Mpc/h'
    """
    for name, given, level in (*((name, points, "point") for name in POSITION), ("box_size", clouds, "cloud")):
        if name not in given:
            raise DataError(f"halo catalogue: no {level} column {name!r} among {', '.join(given)}")
    extra = extra or {}
    return Schema(
        kind="halos",
        points=tuple(extra.get(name) or _HALO_POINTS.get(name) or Feature(name) for name in points),
        clouds=tuple(extra.get(name) or _HALO_CLOUDS.get(name) or Feature(name) for name in clouds),
        # A box has no preferred axis, nor a preferred direction along one.
        reflections=tuple(Reflection((axis, f"v{axis}")) for axis in POSITION),
        vectors=(POSITION, VELOCITY) if set(VELOCITY) <= set(points) else (POSITION,),
    )
