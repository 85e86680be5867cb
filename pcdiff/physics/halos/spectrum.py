"""The power spectrum of halos, by exact sums over their positions.

With the waves of a periodic box, k = 2 pi n / L for whole n,

    P(k) = V / (N (N - 1)) * (|sum_j exp(-i k . x_j)|^2 - N)

whose N takes off the shot noise, the pairs of each halo with itself: 0 in the mean for halos without correlation, for any N. The sums are
products of matrices of phases along the axes, so there is no mesh, and with it neither a window to divide out nor aliases.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from pcdiff.clouds import PointClouds
from pcdiff.physics.halos.boxes import box_sizes, per_box, positions

__all__ = ["WAVE_NUMBER_EDGES", "halo_pairs", "power_spectrum"]

Floats = npt.NDArray[np.float64]

# Ten bins a decade, from waves longer than any box at hand, in h/Mpc.
WAVE_NUMBER_EDGES = np.logspace(-3.0, 0.0, 31)
_BINS = len(WAVE_NUMBER_EDGES) - 1
# Waves along a side of the box, at most: k to 1 h/Mpc in a box of 125 Mpc/h.
_MOST = 20
# Halos whose phases are held at once.
_BLOCK = 2048


def power_spectrum(clouds: PointClouds) -> csr_array:
    """V (|sum_j exp(-i k . x_j)|^2 - N) of each box, mean over the waves of a bin, shape (n, 30), in (Mpc/h)^3.

    Over :func:`halo_pairs` it is the power spectrum P(k) without shot noise. The waves are those from the fundamental one, 2 pi / L,
    to 20 times that. Peebles, "The Large-Scale Structure of the Universe", 1980, section 41.
    """
    found = np.zeros((len(clouds), _BINS))
    # The threads of a product of matrices decide in which order it adds: with one, this process adds as its workers do.
    with threadpool_limits(1, user_api="blas"):
        for row, (size, (x,)) in zip(found, per_box(clouds, positions(clouds)), strict=True):
            power, numbers = _power(2 * np.pi / size * x)
            bins, inside = _bins(numbers, size)
            waves = np.bincount(bins[inside], minlength=_BINS)
            total = np.bincount(bins[inside], power[inside], minlength=_BINS)
            np.divide(size**3 * total, waves, out=row, where=waves > 0)
    return csr_array(found)


def halo_pairs(clouds: PointClouds) -> Floats:
    """N (N - 1) of each box in the bins that hold waves of it, 0 in the others, shape (n, 30)."""
    pairs = (clouds.counts * (clouds.counts - 1)).astype(np.float64)
    found = np.zeros((len(clouds), _BINS))
    for size in np.unique(box_sizes(clouds)):
        bins, inside = _bins(_waves()[1], float(size))
        held = np.bincount(bins[inside], minlength=_BINS) > 0
        found[box_sizes(clouds) == size] = held
    return found * pairs[:, None]


def _waves() -> tuple[npt.NDArray[np.int64], Floats]:
    """The waves (n_x, n_y) of one of each pair k and -k but for n_x = 0, shape (w, 2), and |n| of each with each n_z, (w, 41).

    A wave that does not count has the number 0.
    """
    along = np.arange(-_MOST, _MOST + 1)
    across = np.stack(np.meshgrid(np.arange(_MOST + 1), along, indexing="ij"), axis=-1).reshape(-1, 2)
    across = across[(across**2).sum(axis=1) <= _MOST**2]
    # Of n_x = 0 both k and -k would be there: one of them is enough, as both have the same power.
    squared = (across**2).sum(axis=1)[:, None] + along**2
    half = (across[:, :1] > 0) | (across[:, 1:] > 0) | ((across[:, 1:] == 0) & (along > 0))
    return across, np.sqrt(np.where(half & (squared <= _MOST**2), squared, 0))


def _bins(numbers: Floats, size: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The bin of each wave, and which waves are in one, both flat."""
    k = 2 * np.pi / size * numbers.ravel()
    bins = (np.searchsorted(WAVE_NUMBER_EDGES, k, side="right") - 1).astype(np.int64)
    return bins, (k > 0) & (bins >= 0) & (bins < _BINS)


def _power(angles: Floats) -> tuple[Floats, Floats]:
    """|sum_j exp(-i n . angle_j)|^2 - N of each wave, and its |n|, both flat.

    Args:
        angles: shape (N, 3).
    """
    across, numbers = _waves()
    along = np.arange(-_MOST, _MOST + 1)
    total = np.zeros(numbers.shape, np.complex128)
    for start in range(0, len(angles), _BLOCK):
        x, y, z = (np.exp(-1j * along[:, None] * angle) for angle in angles[start : start + _BLOCK].T)
        total += (x[across[:, 0] + _MOST] * y[across[:, 1] + _MOST]) @ z.T
    power = np.asarray(np.abs(total) ** 2 - len(angles), np.float64)
    return power.ravel(), numbers.ravel()
