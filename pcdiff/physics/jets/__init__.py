"""Jet observables as plain functions of :class:`~pcdiff.clouds.PointClouds`.

All are computed from the constituents that were kept, in float64, so that they mean the same for every file format. Momenta
are in GeV, angles in radians. What describes the shape of a jet is computed from the constituents relative to it (etarel,
phirel, ptrel), massless, so that it does not depend on the jet's momentum and exists for files without one.
"""

from __future__ import annotations

from pcdiff.physics.jets.kinematic import (
    eta,
    etarel,
    mass,
    multiplicity,
    phirel,
    pt,
    ptrel,
    relative_mass,
    require_units,
    total_ptrel,
)
from pcdiff.physics.observable import Observable, Profile

__all__ = [
    "OBSERVABLES",
    "PLANES",
    "PROFILES",
    "eta",
    "etarel",
    "mass",
    "multiplicity",
    "phirel",
    "pt",
    "ptrel",
    "relative_mass",
    "require_units",
    "total_ptrel",
]

OBSERVABLES = (
    Observable("relative_mass", "relative jet mass", "cloud", relative_mass, r"relative jet mass $m/p_\mathrm{T}$"),
    Observable("mass", "mass of the kept constituents", "cloud", mass, "mass of the kept constituents $m$", unit="GeV"),
    Observable(
        "pt",
        "pT of the summed kept constituents",
        "cloud",
        pt,
        r"$p_\mathrm{T}$ of the summed kept constituents",
        unit="GeV",
        log_y=True,
    ),
    Observable(
        "eta",
        "pseudorapidity of the summed kept constituents",
        "cloud",
        eta,
        r"$\eta$ of the summed kept constituents",
    ),
    Observable(
        "multiplicity", "multiplicity", "cloud", multiplicity, "number of constituents $n$", integer=True, log_y=True
    ),
    Observable("total_ptrel", "sum of ptrel", "cloud", total_ptrel, r"sum of $p_\mathrm{T}^\mathrm{rel}$", log_y=True),
    Observable("etarel", "constituent etarel", "point", etarel, r"constituent $\eta^\mathrm{rel}$", log_y=True),
    Observable(
        "phirel", "constituent phirel", "point", phirel, r"constituent $\phi^\mathrm{rel}$", unit="rad", log_y=True
    ),
    Observable(
        "ptrel", "constituent ptrel", "point", ptrel, r"constituent $p_\mathrm{T}^\mathrm{rel}$", log_x=True, log_y=True
    ),
)

PROFILES: tuple[Profile, ...] = ()

PLANES: tuple[tuple[Observable, Observable], ...] = ()
