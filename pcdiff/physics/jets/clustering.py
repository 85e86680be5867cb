"""Many jets clustered again with FastJet: Cacciari, Salam, Soyez, "FastJet user manual", arXiv 1111.6097."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.physics.jets.constituents import pieces, relative

__all__ = ["massless", "reclustered"]

# What one piece holds: FastJet takes about 0.5 kB for each constituent.
_CONSTITUENTS = 150_000
# The largest that FastJet takes: every jet stays one jet.
_RADIUS = 1000.0


def massless(clouds: PointClouds) -> ak.Array:
    """The constituents relative to their jets as massless four-momenta in units of the jet's pT, axis along x."""
    found = relative(clouds)
    return ak.zip(
        {"pt": found.ptrel, "eta": found.etarel, "phi": found.phirel, "mass": ak.zeros_like(found.ptrel)},
        with_name="Momentum4D",
    )


def reclustered(momenta: ak.Array) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
    """Cluster each jet again by Cambridge/Aachen, which joins the closest constituents first, with summed four-momenta.

    Constituents without pT, which have no direction, are left out, and so are jets that have no others.

    Args:
        momenta: lists of :mod:`vector` momenta.

    Yields:
        The numbers of some of the jets, and the FastJet cluster sequence of these.
    """
    import fastjet

    # The program prints a greeting on standard output otherwise; this is where the Python package keeps the switch.
    fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, _RADIUS)
    kept = momenta[momenta.pt > 0]
    counts = ak.to_numpy(ak.num(kept, axis=1))
    occupied = np.flatnonzero(counts)
    for piece in pieces(counts[occupied], _CONSTITUENTS):
        # Packed, because FastJet reads the columns from their first entry on, whatever the offsets say.
        yield occupied[piece], fastjet.ClusterSequence(ak.to_packed(kept[occupied[piece]]), definition)
