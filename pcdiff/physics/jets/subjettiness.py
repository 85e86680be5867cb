"""N-subjettiness: Thaler and Van Tilburg, "Identifying Boosted Objects with N-subjettiness", arXiv 1011.2268.

    tau_N = sum_i z_i min_a dR_ia,    z_i = ptrel_i / sum_j ptrel_j

with the distance in rapidity and azimuth from the nearest of N axes. Axes are the N exclusive kT subjets, with summed
four-momenta, and are not moved further, so that tau_N exceeds tau_(N-1) in some jets. The normalisation is that for
R0 = 1: divide by the jet radius to compare with values quoted for one. A jet of at most N constituents has tau_N = 0.

Each tau_N is infrared and collinear safe. The ratios are so in jets whose denominator is not 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.physics.jets.clustering import massless, reclustered
from pcdiff.physics.jets.constituents import ratio
from pcdiff.physics.remembered import remembered

__all__ = ["tau1", "tau2", "tau3", "tau21", "tau32"]

Floats = npt.NDArray[np.float64]


def tau1(clouds: PointClouds) -> Floats:
    """tau_1 of each jet, shape (n,): girth about the axis of the summed constituents."""
    return _taus(clouds)[:, 0].copy()


def tau2(clouds: PointClouds) -> Floats:
    """tau_2 of each jet, shape (n,)."""
    return _taus(clouds)[:, 1].copy()


def tau3(clouds: PointClouds) -> Floats:
    """tau_3 of each jet, shape (n,)."""
    return _taus(clouds)[:, 2].copy()


def tau21(clouds: PointClouds) -> Floats:
    """tau_2 / tau_1 of each jet, shape (n,): small for two prongs; 0 where tau_1 is 0."""
    return ratio(tau2(clouds), tau1(clouds))


def tau32(clouds: PointClouds) -> Floats:
    """tau_3 / tau_2 of each jet, shape (n,): small for three prongs; 0 where tau_2 is 0."""
    return ratio(tau3(clouds), tau2(clouds))


@remembered
def _taus(clouds: PointClouds) -> Floats:
    """tau_1, tau_2 and tau_3 of each jet, shape (n, 3), with FastJet contrib."""
    found = np.zeros((len(clouds), 3))
    for jets, sequence in reclustered(massless(clouds)):
        # It clusters the constituents of each jet anew for its axes.
        found[jets] = sequence.njettiness(
            measure_definition="NormalizedMeasure", axes_definition="KT_Axes", njets=[1, 2, 3], beta=1.0, R0=1.0
        )
    return found
