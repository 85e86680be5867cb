"""Masses, momenta, multiplicity and constituents of jets.

All are computed from the constituents that were kept, in float64, so that they mean the same for every file format.
Momenta are in GeV, angles in radians. Columns that a file stores for the whole jet, which may stand for constituents
that were dropped, enter only where the constituents are stored relative to them.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.physics.jets.constituents import numbers, relative
from pcdiff.physics.units import require_standard_units
from pcdiff.schema import jet_schema

__all__ = [
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


def mass(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Invariant mass of each jet's constituents, in GeV, shape (n,).

    ``m^2 = E^2 - |p|^2`` of the summed four-momentum, evaluated so that collinear constituents keep their precision: see
    :func:`_invariant_mass`.

    Raises:
        DataError: the columns do not determine momenta; see :meth:`PointClouds.momenta`.
    """
    momenta = clouds.momenta()
    return _invariant_mass(momenta.pt, momenta.eta, momenta.phi, momenta.mass)


def relative_mass(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Mass of each jet as a fraction of its pT, shape (n,): the mass behind W1M.

    The invariant mass of massless constituents (ptrel, etarel, phirel), as the JetNet library defines it: Kansal et
    al., "Particle Cloud Generation with Message Passing Generative Adversarial Networks", arXiv 2106.11535.

    Raises:
        DataError: the columns do not determine the relative coordinates; see :meth:`PointClouds.relative`.
    """
    found = relative(clouds)
    return _invariant_mass(found.ptrel, found.etarel, found.phirel, ak.zeros_like(found.ptrel))


def pt(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Transverse momentum of the sum of each jet's constituents, in GeV, shape (n,)."""
    return numbers(ak.sum(clouds.momenta(), axis=1).pt)


def eta(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Pseudorapidity of the sum of each jet's constituents, shape (n,)."""
    return numbers(ak.sum(clouds.momenta(), axis=1).eta)


def multiplicity(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Number of constituents kept of each jet, shape (n,)."""
    return clouds.counts.astype(np.float64)


def total_ptrel(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Scalar sum of ptrel over each jet's constituents, shape (n,).

    Below 1 where constituents were dropped; above 1 by the spread of the constituents around the jet axis.
    """
    return numbers(ak.sum(relative(clouds).ptrel, axis=1))


def etarel(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Pseudorapidity of each constituent relative to its jet, shape (P,)."""
    return numbers(relative(clouds).etarel)


def phirel(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Azimuth of each constituent relative to its jet, in radians in [-pi, pi), shape (P,)."""
    return numbers(relative(clouds).phirel)


def ptrel(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """Transverse momentum of each constituent as a fraction of its jet's, shape (P,)."""
    return numbers(relative(clouds).ptrel)


def require_units(clouds: PointClouds, where: str) -> None:
    """Refuse jets whose momenta are not in GeV or whose angles are not in radians.

    Args:
        where: what the error message starts with.

    Raises:
        DataError: a column of a standard name has another unit than the standard one.
    """
    found = clouds.schema
    require_standard_units(found, jet_schema(found.point_names, found.cloud_names), where)


def _invariant_mass(pt: ak.Array, eta: ak.Array, phi: ak.Array, mass: ak.Array) -> npt.NDArray[np.float64]:
    """Mass of the summed four-momentum of each list, shape (n,), without the cancellation in ``E^2 - |p|^2``.

    The frame is rotated about the beam so that the sum points along x, and boosted along the beam so that the
    pT-weighted mean rapidity y is 0. Both leave the mass as it is. There

        m^2 = (E - p_x)(E + p_x) - p_y^2 - p_z^2,
        E - p_x = sum_i [2 m_T,i sinh^2(y_i / 2) + m_i^2 / (m_T,i + p_T,i) + 2 p_T,i sin^2(phi_i / 2)],

    where all terms of E - p_x are positive, p_y is 0 and p_z is of third order in the angles. For massless constituents
    this equals the sum over pairs of 2 p_T,i p_T,j (cosh(y_i - y_j) - cos(phi_i - phi_j)) at a cost linear in their
    number.
    """
    # A negative mass is how vector says that rounding in the stored energy made a momentum space-like.
    mass = np.maximum(mass, 0.0)
    transverse_mass = np.hypot(pt, mass)
    safe: Any = ak.where(transverse_mass > 0, transverse_mass, 1.0)
    rapidity = ak.where(mass > 0, np.arcsinh(pt / safe * np.sinh(eta)), eta)
    total = ak.sum(pt, axis=1)
    y = rapidity - ak.sum(pt * rapidity, axis=1) / ak.where(total > 0, total, 1.0)
    angle = phi - np.arctan2(ak.sum(pt * np.sin(phi), axis=1), ak.sum(pt * np.cos(phi), axis=1))

    spread = 2 * transverse_mass * np.sinh(y / 2) ** 2 + 2 * pt * np.sin(angle / 2) ** 2
    rest = mass * (mass / ak.where(transverse_mass > 0, transverse_mass + pt, 1.0))
    energy_minus_x = numbers(ak.sum(spread + rest, axis=1))
    x = numbers(ak.sum(pt * np.cos(angle), axis=1))
    z = numbers(ak.sum(transverse_mass * np.sinh(y), axis=1))
    # p_y vanishes by the choice of the frame; its computed value would be rounding alone.
    squared = energy_minus_x * (energy_minus_x + 2 * x) - z**2
    result: npt.NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0))
    return result
