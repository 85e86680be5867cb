"""Jet images: de Oliveira et al., "Jet-Images -- Deep Learning Edition", arXiv 1511.05190."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds
from pcdiff.kinematics import wrap
from pcdiff.physics.histogram import filled
from pcdiff.physics.jets.constituents import numbers, owners, relative

__all__ = ["IMAGE_EDGES", "jet_images", "sparse_images"]

_EDGE = np.linspace(-0.8, 0.8, 33)
IMAGE_EDGES = (_EDGE, _EDGE)


def sparse_images(clouds: PointClouds) -> csr_array:
    """Sum of ptrel of each jet in 32 by 32 pixels of 0.05 in etarel and phirel, shape (n, 1024); phirel runs fastest.

    Centred on the jet axis, neither rotated nor reflected nor scaled. Constituents beyond 0.8 in either direction are
    left out. Infrared and collinear safe, but for a constituent at the edge of a pixel.

    Raises:
        DataError: the columns do not determine the relative coordinates; see :meth:`PointClouds.relative`.
    """
    found = relative(clouds)
    position = [numbers(found.etarel), wrap(numbers(found.phirel))]
    return filled(owners(found), len(clouds), position, IMAGE_EDGES, numbers(found.ptrel))


def jet_images(clouds: PointClouds) -> npt.NDArray[np.float64]:
    """The images of :func:`sparse_images` as a dense array (n, 32, 32), 8 kB a jet: axis 1 is etarel, axis 2 phirel."""
    images: npt.NDArray[np.float64] = (
        sparse_images(clouds).toarray().reshape(-1, *(len(edges) - 1 for edges in IMAGE_EDGES))
    )
    return images
