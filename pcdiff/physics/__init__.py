"""Observables as plain functions of point clouds, and one registry of them for metrics, figures and tables."""

from __future__ import annotations

import numpy as np

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import jets, vectors
from pcdiff.physics.observable import Measured, Observable

__all__ = ["Measured", "Observable", "measure", "observables", "planes"]

_BY_KIND = {"jets": jets.OBSERVABLES, "vectors": vectors.OBSERVABLES}
_PLANES = {"vectors": vectors.PLANES}


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


def planes(kind: str) -> tuple[tuple[Observable, Observable], ...]:
    """Pairs of observables of one kind of clouds, one value a point each, that are looked at together; possibly none."""
    return _PLANES.get(kind, ())


def measure(clouds: PointClouds, where: str = "point clouds") -> Measured:
    """Compute each observable that the stored columns determine.

    Args:
        where: what an error message starts with: the file, for example.

    Raises:
        DataError: no clouds, values that are not physical, units other than those of the observables, or an observable
            that is not finite.
    """
    if len(clouds) == 0:
        raise DataError(f"{where}: has no clouds; expected at least one")
    clouds.validate(where)
    known = observables(clouds.schema.kind)
    if clouds.schema.kind == "jets":
        jets.require_units(clouds, where)
    measured = Measured(clouds.schema.kind, clouds.counts, {}, provenance=dict(clouds.provenance))
    for observable in known.values():
        try:
            # What is not finite is refused below, with a better message than numpy's.
            with np.errstate(divide="ignore", invalid="ignore"):
                values = observable.function(clouds)
        except DataError as error:
            measured.missing[observable.name] = str(error)
            continue
        if not np.isfinite(values).all():
            raise DataError(
                f"{where}: the {observable.title} is not finite in {int((~np.isfinite(values)).sum())} of "
                f"{len(values)} values; expected finite numbers"
            )
        measured.values[observable.name] = values
    return measured
