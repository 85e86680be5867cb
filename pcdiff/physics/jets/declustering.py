"""Jets taken apart again, in the reverse order of a Cambridge/Aachen clustering, with FastJet contrib."""

from __future__ import annotations

import awkward as ak
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.physics.histogram import filled
from pcdiff.physics.jets.clustering import massless, reclustered
from pcdiff.physics.jets.constituents import numbers, owners

__all__ = ["LUND_EDGES", "lund_emissions", "lund_plane", "soft_drop_mass"]

Floats = npt.NDArray[np.float64]

_Z_CUT = 0.1

LUND_EDGES = (np.linspace(0.0, 8.0, 33), np.linspace(-12.0, 0.0, 49))


def soft_drop_mass(clouds: PointClouds) -> Floats:
    """Mass of each jet after soft drop with z_cut = 0.1 and beta = 0, in GeV, shape (n,).

    The jet is taken apart, following the branch of larger pT, until a splitting has min(pT1, pT2) / (pT1 + pT2) >
    z_cut; what fell off before is dropped. A jet without such a splitting is left with one constituent. Larkoski,
    Marzani, Soyez, Thaler, "Soft Drop", arXiv 1402.2657; at beta = 0 the modified mass-drop tagger of Dasgupta,
    Fregoso, Marzani, Salam, arXiv 1307.0007. Infrared and collinear safe.

    Raises:
        DataError: the columns do not determine momenta; see :meth:`PointClouds.momenta`.
    """
    found = np.zeros(len(clouds))
    for jets, sequence in reclustered(clouds.momenta()):
        groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=_Z_CUT)
        # Negative where rounding made a massless sum space-like.
        found[jets] = np.maximum(ak.to_numpy(groomed.msoftdrop), 0.0)
    return found


def lund_emissions(clouds: PointClouds) -> ak.Array:
    """The primary emissions of each jet in the order in which they come off: n lists of records (delta, kt).

    Following the branch of larger pT, each splitting emits its softer branch at the distance delta = dR of the two in
    rapidity and azimuth, with kt = ptrel delta, ptrel that of the softer branch. Dreyer, Salam, Soyez, "The Lund Jet
    Plane", arXiv 1807.04758, whose kt is this one times the pT of the jet.

    Raises:
        DataError: the columns do not determine the relative coordinates; see :meth:`PointClouds.relative`.
    """
    counts = np.zeros(len(clouds), np.int64)
    found: dict[str, list[Floats]] = {"delta": [], "kt": []}
    for jets, sequence in reclustered(massless(clouds)):
        splittings = sequence.exclusive_jets_lund_declusterings(1)[:, 0]
        counts[jets] = ak.to_numpy(ak.num(splittings, axis=1))
        found["delta"].append(numbers(splittings.Delta))
        found["kt"].append(numbers(splittings.kt))
    columns = {name: np.concatenate([*parts, np.zeros(0)]) for name, parts in found.items()}
    return ak.unflatten(ak.zip(columns), counts)


def lund_plane(clouds: PointClouds) -> csr_array:
    """Number of primary emissions of each jet, see :func:`lund_emissions`, in 32 * 48 bins of ln(1/delta) and ln kt.

    Shape (n, 1536), ln kt running fastest: ln(1/delta) from 0 to 8 and ln kt from -12 to 0 in steps of 1/4.

    Infrared and collinear safe: emissions that are soft or collinear enough lie outside.
    """
    emissions = lund_emissions(clouds)
    delta, kt = numbers(emissions.delta), numbers(emissions.kt)
    with np.errstate(divide="ignore"):
        variables = [-np.log(delta), np.log(kt)]
    return filled(owners(emissions), len(clouds), variables, LUND_EDGES, np.ones(len(delta)))
