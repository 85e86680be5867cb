"""How the momentum of a jet is spread over its constituents and around its axis.

The angularities

    lambda^kappa_beta = sum_i z_i^kappa dR_i^beta,    z_i = ptrel_i / sum_j ptrel_j,    dR_i^2 = etarel_i^2 + phirel_i^2

of Larkoski, Thaler, Waalewijn, "Gaining (Mutual) Information about Quark/Gluon Discrimination", arXiv 1408.3122. The
five of Gras et al., "Systematics of quark/gluon tagging", arXiv 1704.03878, are (kappa, beta) = (0, 0) multiplicity,
(2, 0) pTD^2, (1, 1/2) the Les Houches angularity, (1, 1) width or girth, (1, 2) thrust. Here distances are from the jet
axis (theirs from the winner-take-all axis) and in radians (theirs in units of the jet radius, which files do not
store). kappa = 1 with beta > 0 is infrared and collinear safe.
"""

from __future__ import annotations

import awkward as ak
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.kinematics import wrap
from pcdiff.physics.histogram import filled
from pcdiff.physics.jets.constituents import fractions, numbers, owners, relative

__all__ = [
    "RANK_EDGES",
    "angularity",
    "girth",
    "les_houches_angularity",
    "ptd",
    "rank_spectrum",
    "ranked_ptrel",
    "thrust",
]

Floats = npt.NDArray[np.float64]

RANK_EDGES = np.arange(0.5, 31.0)


def angularity(clouds: PointClouds, kappa: float, beta: float) -> Floats:
    """lambda^kappa_beta of each jet, shape (n,), 0 for a jet without momentum.

    Args:
        kappa: exponent of the momentum fraction, above 0.
        beta: exponent of the distance, from 0.

    Raises:
        DataError: the columns do not determine the relative coordinates; see :meth:`PointClouds.relative`.
    """
    found = relative(clouds)
    distance = np.hypot(numbers(found.etarel), wrap(numbers(found.phirel)))
    terms = numbers(fractions(clouds)) ** kappa * distance**beta
    return np.bincount(owners(found), terms, minlength=len(clouds)).astype(np.float64)


def les_houches_angularity(clouds: PointClouds) -> Floats:
    """lambda^1_1/2 of each jet, shape (n,): between girth and multiplicity in what it weighs."""
    return angularity(clouds, 1.0, 0.5)


def girth(clouds: PointClouds) -> Floats:
    """lambda^1_1 of each jet, shape (n,), also called width: the pT-weighted mean distance from the axis.

    Gallicchio and Schwartz, "Quark and Gluon Tagging at the LHC", arXiv 1106.3076, who divide by the pT of the jet
    instead of the summed pT of the constituents.
    """
    return angularity(clouds, 1.0, 1.0)


def thrust(clouds: PointClouds) -> Floats:
    """lambda^1_2 of each jet, shape (n,): close to (m / pT)^2 for narrow jets."""
    return angularity(clouds, 1.0, 2.0)


def ptd(clouds: PointClouds) -> Floats:
    """pTD = sqrt(sum_i z_i^2) of each jet, shape (n,): 1 for one constituent, 1 / sqrt(N) for N equal ones.

    Collinear unsafe.
    """
    return np.sqrt(angularity(clouds, 2.0, 0.0))


def ranked_ptrel(clouds: PointClouds, rank: int) -> Floats:
    """ptrel of the constituent of each jet with the rank-th largest one, shape (n,); 0 in jets of fewer constituents.

    Collinear unsafe.

    Args:
        rank: from 1.
    """
    ranked = ak.sort(relative(clouds).ptrel, axis=1, ascending=False)
    return numbers(ak.fill_none(ak.pad_none(ranked, rank, axis=1)[:, rank - 1], 0.0))


def rank_spectrum(clouds: PointClouds) -> csr_array:
    """ptrel of the 30 leading constituents of each jet by falling ptrel, shape (n, 30): bin k holds that of rank k + 1.

    Collinear unsafe.
    """
    ranked = ak.sort(relative(clouds).ptrel, axis=1, ascending=False)
    rank = ak.local_index(ranked, axis=1) + 1
    return filled(owners(ranked), len(clouds), [numbers(rank)], [RANK_EDGES], numbers(ranked))
