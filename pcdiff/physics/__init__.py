"""Observables as plain functions of point clouds, and one registry of them for metrics, figures and tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import halos, jets, vectors
from pcdiff.physics.observable import Measured, Observable, Profile, noun

__all__ = ["Measured", "Observable", "Profile", "measure", "noun", "observables", "planes", "profiles", "titles"]

_BY_KIND = {"jets": jets.OBSERVABLES, "halos": halos.OBSERVABLES, "vectors": vectors.OBSERVABLES}
_PROFILES = {"jets": jets.PROFILES, "halos": halos.PROFILES}
_PLANES = {"vectors": vectors.PLANES}
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


def measure(clouds: PointClouds, where: str = "point clouds", workers: int = 1) -> Measured:
    """Compute each observable and profile that the stored columns determine, and of jets the energy-flow polynomials.

    What is about columns that only some files store, such as the class of constituents, is neither there nor missing without them.
    A cloud column ``weight`` says how much each cloud counts.

    Args:
        where: what an error message starts with: the file, for example.
        workers: number of processes for the energy-flow polynomials, which take longest.

    Raises:
        DataError: no clouds, values that are not physical, units other than those of the observables, an observable
            that is not finite, or weights that are not finite, negative or all zero.
        PcdiffError: a worker process was killed.
    """
    if len(clouds) == 0:
        raise DataError(f"{where}: has no clouds; expected at least one")
    clouds.validate(where)
    kind = clouds.schema.kind
    known = observables(kind)
    if kind in _REQUIRED:
        _REQUIRED[kind](clouds, where)
    weights = _weights(clouds, where)
    values: dict[str, npt.NDArray[np.float64]] = {}
    contents: dict[str, csr_array] = {}
    totals: dict[str, npt.NDArray[np.float64]] = {}
    missing: dict[str, str] = {}
    stored = set(clouds.schema.point_names)
    for observable in known.values():
        if not stored.issuperset(observable.columns):
            continue
        try:
            # What is not finite is refused below, with a better message than numpy's.
            with np.errstate(divide="ignore", invalid="ignore"):
                found = observable.function(clouds)
        except DataError as error:
            missing[observable.name] = str(error)
            continue
        if not np.isfinite(found).all():
            raise DataError(
                f"{where}: the {observable.title} is not finite in {int((~np.isfinite(found)).sum())} of "
                f"{len(found)} values; expected finite numbers"
            )
        values[observable.name] = found
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
    return Measured(
        kind=kind,
        counts=clouds.counts,
        values=values,
        profiles=contents,
        missing=missing,
        provenance=dict(clouds.provenance),
        weights=weights,
        # They need the same columns as the relative mass.
        polynomials=jets.flow_polynomials(clouds, workers=workers) if "relative_mass" in values else None,
        clouds=clouds,
        totals=totals,
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
