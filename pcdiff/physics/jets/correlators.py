"""Correlations of momentum between the constituents of a jet, at the distances between them.

With z_i = ptrel_i / sum_j ptrel_j and R_ij the distance in rapidity and azimuth, the energy correlation functions at
beta = 1 are

    e2 = sum_{i<j} z_i z_j R_ij,    e3 = sum_{i<j<k} z_i z_j z_k R_ij R_jk R_ki.

Larkoski, Salam, Thaler, "Energy Correlation Functions for Jet Substructure", arXiv 1305.0007. They are infrared and
collinear safe, and their ratios are so in jets whose denominator is not 0.
"""

from __future__ import annotations

import awkward as ak
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from pcdiff.clouds import PointClouds
from pcdiff.kinematics import wrap
from pcdiff.physics.histogram import filled
from pcdiff.physics.jets.clustering import massless, reclustered
from pcdiff.physics.jets.constituents import fractions, numbers, owners, pieces, ratio, relative
from pcdiff.physics.remembered import remembered

__all__ = ["CORRELATOR_EDGES", "c2", "d2", "energy_energy_correlator"]

Floats = npt.NDArray[np.float64]

# Ten bins a decade, from the distance at which hadrons of a jet of 1 TeV are free to the width of a wide jet.
CORRELATOR_EDGES = np.logspace(-3.0, 0.3, 34)

_PAIRS = 1_000_000


def c2(clouds: PointClouds) -> Floats:
    """C2 = e3 / e2^2 at beta = 1 of each jet, shape (n,); 0 for fewer than three constituents. arXiv 1305.0007."""
    e2, e3 = _correlations(clouds).T
    return ratio(e3, e2, 2)


def d2(clouds: PointClouds) -> Floats:
    """D2 = e3 / e2^3 at beta = 1 of each jet, shape (n,); 0 for fewer than three constituents.

    Larkoski, Moult, Neill, "Power Counting to Better Jet Observables", arXiv 1409.6298.
    """
    e2, e3 = _correlations(clouds).T
    return ratio(e3, e2, 3)


def energy_energy_correlator(clouds: PointClouds) -> csr_array:
    """How much momentum stands at a distance R_L from other momentum, shape (n, 33), in bins of equal ratio of R_L.

    A pair of constituents at distance R_L = R_ij adds 2 z_i z_j: once in either order, so that the bins of a jet add up
    to 1 - sum_i z_i^2 where no pair lies outside. Komiske, Moult, Thaler, Zhu, "Analyzing N-Point Energy Correlators
    inside Jets with CMS Open Data", arXiv 2201.07800. Infrared and collinear safe.
    """
    found = relative(clouds)
    constituents = ak.zip({"eta": found.etarel, "phi": found.phirel, "z": fractions(clouds)})
    counts = clouds.counts
    rows = [_correlator(constituents[piece]) for piece in pieces(counts * (counts - 1) // 2, _PAIRS)]
    return csr_array(vstack([*rows, csr_array((0, len(CORRELATOR_EDGES) - 1))], format="csr"))


def _correlator(constituents: ak.Array) -> csr_array:
    first, second = ak.unzip(ak.combinations(constituents, 2, axis=1))
    distance = np.hypot(numbers(first.eta - second.eta), wrap(numbers(first.phi - second.phi)))
    weight = numbers(2 * first.z * second.z)
    return filled(owners(first), len(constituents), [distance], [CORRELATOR_EDGES], weight)


@remembered
def _correlations(clouds: PointClouds) -> Floats:
    """e2 and e3 of each jet, shape (n, 2), with FastJet contrib."""
    found = np.zeros((len(clouds), 2))
    for jets, sequence in reclustered(massless(clouds)):
        for column, points in enumerate((2, 3)):
            found[jets, column] = sequence.exclusive_jets_energy_correlator(
                njets=1, beta=1, npoint=points, func="generic", normalized=True
            )
    return found
