"""Four-momenta and jet-relative coordinates from whichever columns are stored; flat arrays, float64."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import vector

from pcdiff.errors import DataError

__all__ = ["momenta", "relative", "wrap"]

Columns = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]

_POINT_NAMES = ("pt", "eta", "rapidity", "phi", "px", "py", "pz", "energy", "etarel", "phirel", "ptrel")
_JET_NAMES = ("pt", "eta", "phi")


def momenta(points: Columns, jets: Columns, counts: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """pt, eta, phi and mass of each constituent, shape (P,), in GeV and rad.

    Args:
        points: stored columns of the constituents, each (P,).
        jets: stored columns of the jets, each (n,).
        counts: number of constituents of each jet, (n,), adding up to P.

    Raises:
        DataError: the columns do not determine a momentum.
    """

    def of_jet(name: str) -> Floats:
        return np.repeat(np.asarray(jets[name], np.float64), counts)

    have = {name: np.asarray(values, np.float64) for name, values in points.items()}
    zeros = np.zeros(int(counts.sum()))
    if {"pt", "phi"} <= have.keys() and ("eta" in have or "rapidity" in have):
        pt, mass = have["pt"], have.get("mass", zeros)
        if "eta" in have:
            eta = have["eta"]
        else:
            transverse = np.sqrt(pt**2 + mass**2)
            eta = np.arcsinh(transverse * np.sinh(have["rapidity"]) / np.where(pt > 0, pt, 1.0))
        return {"pt": pt, "eta": eta, "phi": have["phi"], "mass": mass}
    if {"px", "py", "pz", "energy"} <= have.keys():
        p: Any = vector.array({"px": have["px"], "py": have["py"], "pz": have["pz"], "E": have["energy"]})
        return {"pt": p.pt, "eta": p.eta, "phi": p.phi, "mass": p.mass}
    if {"etarel", "phirel", "ptrel"} <= have.keys() and {"pt", "eta"} <= jets.keys():
        return {
            "pt": have["ptrel"] * of_jet("pt"),
            "eta": have["etarel"] + of_jet("eta"),
            "phi": wrap(have["phirel"] + (of_jet("phi") if "phi" in jets else 0.0)),
            "mass": zeros,
        }
    raise DataError(
        f"no four-momenta in point features {', '.join(points)} with cloud features {', '.join(jets)}: "
        "expected (pt, eta, phi), (px, py, pz, energy), or (etarel, phirel, ptrel) with the jet's pt and eta"
        + _near_misses("points", points, _POINT_NAMES)
        + _near_misses("clouds", jets, _JET_NAMES)
    )


def _near_misses(level: str, names: Iterable[str], standard: Iterable[str]) -> str:
    """The end of an error message: which names look like a standard one that is missing, or ``""``."""
    have = set(names)
    missing = [name for name in standard if name not in have]
    near = {name: difflib.get_close_matches(name.lower(), missing, n=1) for name in names if name not in standard}
    return "".join(
        f"; {level}: {name!r} is no such name, did you mean {near[0]!r}?" for name, near in near.items() if near
    )


def relative(constituents: Columns, jets: Columns, counts: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """etarel, phirel and ptrel of each constituent, shape (P,).

    Args:
        constituents: pt, eta and phi of the constituents, each (P,).
        jets: pt, eta and phi of the jets, each (n,).
        counts: number of constituents of each jet, (n,).
    """
    jet = {name: np.repeat(np.asarray(jets[name], np.float64), counts) for name in ("pt", "eta", "phi")}
    return {
        "etarel": constituents["eta"] - jet["eta"],
        "phirel": wrap(constituents["phi"] - jet["phi"]),
        "ptrel": constituents["pt"] / jet["pt"],
    }


def into_box(values: npt.NDArray[Any], size: Any, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """Positions modulo the side of a periodic box, at least 0 and less than it, in the precision of ``dtype``.

    Rounding takes what is just below the side, and tiny negative numbers, to the side itself, which is 0.

    >>> into_box(np.array([-1e-30, 7.0, 4.0]), 5.0).tolist()
    [0.0, 2.0, 4.0]
    """
    found = np.mod(values, size).astype(dtype)
    return np.where(found >= size, np.zeros((), dtype), found)


def wrap(angle: Floats) -> Floats:
    """An angle in [-pi, pi); one already inside is returned as it is, to the last bit.

    >>> wrap(np.array([3.5, -1.0])).round(4).tolist()
    [-2.7832, -1.0]
    """
    inside = (angle >= -np.pi) & (angle < np.pi)
    return np.where(inside, angle, (angle + np.pi) % (2 * np.pi) - np.pi)
