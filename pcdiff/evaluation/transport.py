"""The energy mover's distance of jets, coverage and minimum matching distance.

The least work that turns one jet P into another, Q, where moving a momentum fraction z over a distance theta costs z theta / R and
making or destroying z costs z:

    EMD(P, Q) = min over f of sum_ij f_ij theta_ij / R + |sum_i z_i - sum_j z_j|,
    f_ij >= 0,  sum_j f_ij <= z_i,  sum_i f_ij <= z_j,  sum_ij f_ij = min(sum_i z_i, sum_j z_j)

Komiske, Metodiev, Thaler, "Metric Space of Collider Events", arXiv 1902.02346. Here z is ptrel, theta the distance in the plane of
etarel and phirel, R = 1, and jets are not normalised to equal sums: as the JetNet library computes coverage and minimum matching
distance (``cov_mmd``). R = 1 makes it a metric as long as no two constituents are further apart than 2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import Measured
from pcdiff.physics.jets.constituents import columns

__all__ = [
    "chance_batches",
    "coverage_and_mmd",
    "energy_movers_distances",
    "jets_in_plane",
    "matched_batches",
    "pairwise",
    "particles",
]

Floats = npt.NDArray[np.float64]


def jets_in_plane(measured: Measured) -> PointClouds | None:
    """The jets that were measured, where etarel, phirel and ptrel of their constituents are known."""
    return measured.clouds if {"etarel", "phirel", "ptrel"} <= set(measured.values) else None


def energy_movers_distances(first: PointClouds, second: PointClouds) -> Floats:
    """Exact EMD of each jet of one set from each of another, shape (n, m), in units of the jets' pT.

    Raises:
        DataError: a negative ptrel, a jet without constituents, or columns that do not determine relative coordinates.
    """
    return pairwise(particles(first), particles(second))


def particles(clouds: PointClouds) -> list[Floats]:
    """One array (number of constituents, 3) a jet, with columns ptrel, etarel, phirel.

    Raises:
        DataError: as :func:`energy_movers_distances`.
    """
    found = columns(clouds, "ptrel", "etarel", "phirel")
    if (found[0] < 0).any():
        jet = int(np.searchsorted(clouds.offsets, int(np.argmax(found[0] < 0)), side="right") - 1)
        raise DataError(
            f"ptrel: {int((found[0] < 0).sum())} values are negative, the first in jet {jet}; expected none, since an "
            "energy mover's distance moves positive momenta"
        )
    if (clouds.counts == 0).any():
        raise DataError(f"jet {int(np.argmin(clouds.counts))} has no constituents; expected at least one")
    return np.split(np.stack(found, axis=1), clouds.offsets[1:-1])


def pairwise(first: list[Floats], second: list[Floats]) -> Floats:
    """:func:`energy_movers_distances` of what :func:`particles` returns."""
    # Computed in C++ by the library wasserstein; on one thread, since callers share the machine.
    from energyflow.emd import emds

    distances: Floats = np.asarray(emds(first, second, n_jobs=1))
    return distances.reshape(len(first), len(second))


def coverage_and_mmd(
    real: PointClouds, generated: PointClouds, *, size: int = 100, batches: int = 10, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Coverage and minimum matching distance: means over batches, and the standard errors of these means.

    See :func:`matched_batches`, which gives the value of each batch.
    """
    coverage, mmd = matched_batches(real, generated, size=size, batches=batches, seed=seed)
    return _mean(coverage), _mean(mmd)


def matched_batches(
    real: PointClouds,
    generated: PointClouds,
    *,
    size: int = 100,
    batches: int = 10,
    seed: int = 0,
    real_weights: Floats | None = None,
    generated_weights: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Coverage and minimum matching distance of batches, each of shape (batches,).

    A batch holds ``size`` jets of either set, drawn with replacement. Coverage is the share of its real jets that are the nearest one
    of some generated jet; it falls where the generator misses a kind of jets. The minimum matching distance (MMD) is the mean
    EMD of a real jet from the nearest generated one. Both depend strongly on ``size``: compare values of the same size only.
    Achlioptas et al., "Learning Representations and Generative Models for 3D Point Clouds", arXiv 1707.02392; for jets Kansal et
    al., "Particle Cloud Generation with Message Passing Generative Adversarial Networks", arXiv 2106.11535.

    Args:
        size: jets of either set in a batch.
        seed: same seed, same numbers.
        real_weights: shape (n,), how much each jet counts: jets are drawn in proportion.
        generated_weights: shape (m,).

    Raises:
        DataError: fewer than two batches, no jets, or as :func:`energy_movers_distances`.
    """
    if batches < 2 or size < 1 or not len(real) or not len(generated):
        raise DataError(
            f"found {batches} batches of {size} from {len(real)} real and {len(generated)} generated jets; "
            "expected at least 2 batches of at least one, and jets in both sets"
        )
    rng = np.random.default_rng(seed)
    real_chances, generated_chances = (
        None if weights is None else weights / weights.sum() for weights in (real_weights, generated_weights)
    )
    coverage, mmd = np.empty(batches), np.empty(batches)
    for batch in range(batches):
        # In the order in which the JetNet library draws.
        one = real[rng.choice(len(real), size=size, p=real_chances)]
        two = generated[rng.choice(len(generated), size=size, p=generated_chances)]
        coverage[batch], mmd[batch] = _matched(one, two)
    return coverage, mmd


def chance_batches(
    truth: PointClouds,
    sizes: tuple[int, int],
    *,
    size: int = 100,
    batches: int = 10,
    seed: int = 0,
    weights: Floats | None = None,
) -> tuple[Floats, Floats]:
    """What :func:`matched_batches` gives between two sets of true jets of these sizes, each of shape (batches,).

    Both sides of a batch are of the one truth, without a jet in common; on either side a jet stands twice as often as drawing with
    replacement from so many jets makes it.

    Args:
        truth: at least twice ``size`` jets.
        sizes: number of jets of the two sets.
        size: jets of either side in a batch.
        seed: same seed, same numbers.
        weights: shape (n,), how much each jet counts: jets are drawn in proportion.
    """
    if len(truth) < 2 * size:
        raise DataError(f"found {len(truth)} true jets; two samples of {size} of them need at least {2 * size}")
    rng = np.random.default_rng(seed)
    chances = None if weights is None else weights / weights.sum()
    coverage, mmd = np.empty(batches), np.empty(batches)
    for batch in range(batches):
        repeats = [np.unique(rng.integers(number, size=size), return_inverse=True)[1] for number in sizes]
        distinct = [int(repeat.max()) + 1 for repeat in repeats]
        drawn = rng.choice(len(truth), size=sum(distinct), replace=False, p=chances)
        one, two = drawn[: distinct[0]][repeats[0]], drawn[distinct[0] :][repeats[1]]
        coverage[batch], mmd[batch] = _matched(truth[one], truth[two])
    return coverage, mmd


def _matched(real: PointClouds, generated: PointClouds) -> tuple[float, float]:
    """Coverage and minimum matching distance of one batch."""
    distances = energy_movers_distances(generated, real)
    return len(np.unique(distances.argmin(axis=1))) / len(real), float(distances.min(axis=0).mean())


def _mean(values: Floats) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
