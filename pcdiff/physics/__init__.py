"""Observables as plain functions of point clouds, and one registry of them for metrics, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.executors import done
from pcdiff.physics import halos, jets, vectors
from pcdiff.physics.observable import Measured, Observable, Profile, noun

__all__ = ["Measured", "Observable", "Profile", "measure", "noun", "observables", "planes", "profiles", "titles"]

_BY_KIND = {"jets": jets.OBSERVABLES, "halos": halos.OBSERVABLES, "vectors": vectors.OBSERVABLES}
_PROFILES = {"jets": jets.PROFILES, "halos": halos.PROFILES}
_PLANES = {"vectors": vectors.PLANES}
# Points of a block of clouds, and blocks below which a pool is not asked: a process takes as long to start as for one or two of them.
_BLOCK, _FEWEST_BLOCKS = 60_000, 4
# What refuses other units than those of the observables.
_REQUIRED = {"jets": jets.require_units, "halos": halos.require_units}


def observables(kind: str) -> dict[str, Observable]:
    """All observables of one kind of clouds, by name, in the order in which tables show them.

    Raises:
        DataError: there are none for this kind.

    >>> observables("jets")["mass"].unit
    'GeV'
    """
    if kind not in _BY_KIND:
        raise DataError(f"no observables are known for {kind!r}; there are some for: {', '.join(_BY_KIND)}")
    return {observable.name: observable for observable in _BY_KIND[kind]}


def profiles(kind: str) -> dict[str, Profile]:
    """All profiles of one kind of clouds, by name, in the order in which tables show them; possibly none."""
    return {profile.name: profile for profile in _PROFILES.get(kind, ())}


def titles(kind: str) -> dict[str, str]:
    """In plain words, the observables and then the profiles of one kind of clouds, by name."""
    found = {name: observable.title for name, observable in observables(kind).items()}
    return found | {name: profile.title for name, profile in profiles(kind).items()}


def planes(kind: str) -> tuple[tuple[Observable, Observable], ...]:
    """Pairs of observables of one kind of clouds, one value a point each, that are looked at together; possibly none."""
    return _PLANES.get(kind, ())


def measure(clouds: PointClouds, where: str = "point clouds", pool: Executor | None = None) -> Measured:
    """Compute each observable and profile that the stored columns determine, and of jets the energy-flow polynomials.

    What is about columns that only some files store, such as the class of constituents, is neither there nor missing without them.
    A cloud column ``weight`` says how much each cloud counts.

    Args:
        where: what an error message starts with: the file, for example.
        pool: what computes blocks of some 60,000 points each; this process does without, and where there are only a few blocks.

    Raises:
        DataError: no clouds, values that are not physical, units other than those of the observables, an observable
            that is not finite, or weights that are not finite, negative or all zero.
        PcdiffError: a worker was killed.
    """
    if len(clouds) == 0:
        raise DataError(f"{where}: has no clouds; expected at least one")
    clouds.validate(where)
    kind = clouds.schema.kind
    known = observables(kind)
    if kind in _REQUIRED:
        _REQUIRED[kind](clouds, where)
    weights = _weights(clouds, where)
    blocks = [] if pool is None else _blocks(clouds)
    found = (
        _of_columns(clouds)
        if pool is None or len(blocks) < _FEWEST_BLOCKS
        else _joined(done(pool, _of_columns, blocks))
    )
    for name, values in found.values.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"{where}: the {known[name].title} is not finite in {int((~np.isfinite(values)).sum())} of "
                f"{len(values)} values; expected finite numbers"
            )
    return replace(found, provenance=dict(clouds.provenance), weights=weights, clouds=clouds)


def _blocks(clouds: PointClouds) -> list[PointClouds]:
    """The clouds in order, about as many points in each block."""
    cuts = np.searchsorted(clouds.offsets, np.arange(_BLOCK, clouds.offsets[-1], _BLOCK))
    return [clouds[start:stop] for start, stop in pairwise(np.unique([0, *cuts, len(clouds)]).tolist())]


def _of_columns(clouds: PointClouds) -> Measured:
    """What the columns of clouds determine, finite or not, without what else is known about the clouds."""
    kind = clouds.schema.kind
    values: dict[str, npt.NDArray[np.float64]] = {}
    contents: dict[str, csr_array] = {}
    totals: dict[str, npt.NDArray[np.float64]] = {}
    missing: dict[str, str] = {}
    stored = set(clouds.schema.point_names)
    for observable in observables(kind).values():
        if not stored.issuperset(observable.columns):
            continue
        try:
            # What is not finite is refused later, with a better message than numpy's.
            with np.errstate(divide="ignore", invalid="ignore"):
                values[observable.name] = observable.function(clouds)
        except DataError as error:
            missing[observable.name] = str(error)
    for profile in profiles(kind).values():
        if not stored.issuperset(profile.columns):
            continue
        try:
            contents[profile.name] = profile.function(clouds)
        except DataError as error:
            missing[profile.name] = str(error)
            continue
        if profile.totals is not None:
            totals[profile.name] = profile.totals(clouds)
    # They need the same columns as the relative mass.
    polynomials = jets.flow_polynomials(clouds) if "relative_mass" in values else None
    return Measured(kind, clouds.counts, values, contents, missing, polynomials=polynomials, totals=totals)


def _joined(parts: Sequence[Measured]) -> Measured:
    """Of all blocks; what one of them lacks is missing."""
    missing = {name: why for part in parts for name, why in part.missing.items()}
    polynomials = [part.polynomials for part in parts if part.polynomials is not None]

    def all_of(name: str) -> dict[str, npt.NDArray[np.float64]]:
        found = [getattr(part, name) for part in parts]
        return {key: np.concatenate([one[key] for one in found]) for key in found[0] if key not in missing}

    return Measured(
        parts[0].kind,
        np.concatenate([part.counts for part in parts]),
        all_of("values"),
        {
            name: vstack([part.profiles[name] for part in parts], format="csr")
            for name in parts[0].profiles
            if name not in missing
        },
        missing,
        polynomials=np.concatenate(polynomials) if len(polynomials) == len(parts) else None,
        totals=all_of("totals"),
    )


def _weights(clouds: PointClouds, where: str) -> npt.NDArray[np.float64] | None:
    """The cloud column ``weight``, divided by its mean; None without one."""
    if "weight" not in clouds.schema.cloud_names:
        return None
    weights = clouds.feature("weight").astype(np.float64)
    if weights.min() < 0:
        at = int(np.argmin(weights))
        raise DataError(f"{where}: the weight of cloud {at} is {weights[at]:g}; expected weights that are not negative")
    if not weights.any():
        raise DataError(f"{where}: the weights of all {len(weights)} clouds are 0; expected one that is not")
    return np.asarray(weights / weights.mean())
