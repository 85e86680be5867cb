"""What the constituents of a jet are: how many of each class, how they share its momentum, and the charge of the jet.

Files that do not store the columns ``particle_class`` and ``charge`` have none of these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics.histogram import filled
from pcdiff.physics.jets.constituents import fractions, numbers
from pcdiff.schema import PARTICLE_CLASSES

__all__ = ["CLASS_EDGES", "class_composition", "class_multiplicity", "jet_charge"]

Floats = npt.NDArray[np.float64]

CLASS_EDGES = np.arange(len(PARTICLE_CLASSES) + 1) - 0.5


def class_multiplicity(clouds: PointClouds, name: str) -> Floats:
    """Number of constituents of each jet that are of a class, shape (n,).

    Args:
        name: one of :data:`pcdiff.schema.PARTICLE_CLASSES`.

    Raises:
        DataError: the jets have no ``particle_class``, or it has other names.
    """
    chosen = _classes(clouds) == PARTICLE_CLASSES.index(name)
    return np.bincount(clouds.owners, chosen, minlength=len(clouds)).astype(np.float64)


def class_composition(clouds: PointClouds) -> csr_array:
    """The momentum fraction that the constituents of each class carry, shape (n, 5): of each jet they sum to 1.

    Raises:
        DataError: the jets have no ``particle_class``, or it has other names; the columns do not determine the relative
            coordinates, see :meth:`PointClouds.relative`.
    """
    return filled(clouds.owners, len(clouds), [_classes(clouds)], [CLASS_EDGES], numbers(fractions(clouds)))


def jet_charge(clouds: PointClouds, kappa: float = 0.5) -> Floats:
    """Q_kappa = sum_i z_i^kappa Q_i in units of e, shape (n,): the charge of each jet, weighted by momentum.

    Krohn, Schwartz, Lin, Waalewijn, "Jet Charge at the LHC", arXiv 1209.2421, who divide by the pT of the jet instead of the summed
    pT of the constituents, and of Field and Feynman, Nucl. Phys. B 136 (1978) 1. Collinear unsafe.

    Args:
        kappa: above 0; a smaller one gives more weight to soft constituents.

    Raises:
        DataError: the jets have no ``charge``; the columns do not determine the relative coordinates.
    """
    terms = numbers(fractions(clouds)) ** kappa * clouds.column("charge")
    return np.bincount(clouds.owners, terms, minlength=len(clouds)).astype(np.float64)


def _classes(clouds: PointClouds) -> npt.NDArray[np.int64]:
    """The class of each constituent by its place among the standard names, shape (P,)."""
    names = clouds.schema.point("particle_class").categories
    if not names or not set(names) <= set(PARTICLE_CLASSES):
        raise DataError(
            f"particle_class stands for {', '.join(names) or 'no names'}; expected some of {', '.join(PARTICLE_CLASSES)}"
        )
    place = np.array([PARTICLE_CLASSES.index(name) for name in names])
    return place[clouds.column("particle_class").astype(np.int64)]
