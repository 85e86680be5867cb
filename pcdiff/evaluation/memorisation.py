"""Does a generator repeat its training data, or itself?

Memorisation is seen in the distance of a generated jet from the nearest training jet: jets that the generator never saw (a test
set) say how near is near by chance. Duplicates are seen in the distance of a generated jet from the nearest other generated one.

The nearest of many jets in the energy mover's distance is found with few exact distances, by a lower bound. For any function f that
changes no faster than the distance and whose absolute value is nowhere above 1,

    |sum_i z_i f(x_i) - sum_j z_j f(x_j)| <= EMD(P, Q)

(Kantorovich duality: each moved fraction changes the sum by no more than its cost, each one made or destroyed by no more than itself).
Along a direction u, cut [-L, L], L <= 1, into bins and let r_b(x) be how far u.x has come through bin b, less half its width. Then
sum_b s_b r_b for all signs s_b = +-1 is such a function, within +-L, and a constant of up to 1 - L may be added. The best signs give

    sum_b |sum_i z_i r_b(x_i) - sum_j z_j r_b(x_j)| + (1 - L) |sum_i z_i - sum_j z_j| <= EMD(P, Q),

an L1 distance of vectors that each jet has once for all: the Wasserstein distance of the projections, up to the width of the bins. The
bound is the largest over some directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.metric import Metric, estimate
from pcdiff.evaluation.transport import jets_in_plane, pairwise, particles
from pcdiff.physics import Measured
from pcdiff.physics.jets.constituents import columns

__all__ = ["Nearest", "duplicates", "memorisation", "nearest_distances", "projections", "repetition_metrics"]

Floats = npt.NDArray[np.float64]

_DIRECTIONS = 8
_BINS = 32
# Clouds whose bounds from a whole bank are held at once, and candidates measured at once.
_BLOCK = 100
_STEP = 16
_DRAWS = 100
# Jets of either set from which on a quantile of 1 % means something.
_LEAST = 500


@dataclass(frozen=True)
class Nearest:
    """The nearest cloud of a bank for each of n clouds.

    Attributes:
        distance: shape (n,), exact EMD from the nearest one found.
        index: shape (n,), its number in the bank.
        proven: shape (n,), whether bounds show that no cloud of the bank is nearer.
    """

    distance: Floats
    index: npt.NDArray[np.int64]
    proven: npt.NDArray[np.bool_]


def repetition_metrics(truth: Measured, sample: Measured, training: PointClouds | None, *, seed: int) -> list[Metric]:
    """:func:`duplicates`, and :func:`memorisation` of training jets where they are given; nothing for too few jets.

    Args:
        truth: jets that the generator did not learn from.
        training: those that it did learn from.
        seed: same seed, same numbers.
    """
    real, generated = jets_in_plane(truth), jets_in_plane(sample)
    if real is None or generated is None or min(len(truth), len(sample)) < _LEAST:
        return []
    metrics = [duplicates(generated, real, seed=seed)]
    if training is not None:
        metrics += memorisation(generated, training, real, seed=seed)
    return metrics


def memorisation(
    generated: PointClouds,
    training: PointClouds,
    test: PointClouds,
    *,
    clouds: int = 2_000,
    quantile: float = 0.01,
    candidates: int = 64,
    seed: int = 0,
) -> list[Metric]:
    """Whether generated jets are nearer to training jets than test jets are, which the generator never saw.

    Distances are exact energy mover's distances. Two numbers come from them: the share of generated jets that are nearer to
    a training jet than the 1 % of test jets that are nearest to one, and the ratio of the medians. A generator that copied nothing has
    a share of 1 % and a ratio of 1; copies raise the share, and jets unlike any training jet lower it.

    Args:
        clouds: number of generated and of test jets that are looked at, or as many as both have.
        quantile: what share of test jets sets the threshold.
        candidates: see :func:`nearest_distances`.
        seed: which jets are looked at, and the resamples behind the errors.

    Returns:
        ``near_training`` and ``nearest_training_ratio``.

    Raises:
        DataError: as :func:`nearest_distances`, or too few jets for the quantile.
    """
    rng = np.random.default_rng(seed)
    size = min(clouds, len(generated), len(test))
    _require_size(size, quantile)
    ours, theirs = (
        nearest_distances(part[np.sort(rng.permutation(len(part))[:size])], training, candidates=candidates)
        for part in (generated, test)
    )
    share = _share(ours.distance, theirs.distance, quantile)
    # Distances from a bank that stays as it is are independent from jet to jet, so that resampling them is right here.
    draws = [[part[rng.integers(size, size=size)] for part in (ours.distance, theirs.distance)] for _ in range(_DRAWS)]
    null = [[theirs.distance[rng.integers(size, size=size)] for _ in range(2)] for _ in range(_DRAWS)]
    ratios = [np.asarray([_ratio(*pair) for pair in pairs]) for pairs in (draws, null)]
    return [
        _share_metric(
            "near_training",
            f"share of jets nearer to a training jet than {quantile:.0%} of test jets",
            share,
            quantile,
            size,
            jets_per_event=1,
        ),
        estimate(
            "nearest_training_ratio",
            "median EMD from the nearest training jet, generated over test",
            group="clouds",
            sizes=(size, size),
            value=_ratio(ours.distance, theirs.distance),
            resampled=ratios[0],
            null=ratios[1],
            floor=1.0,
            larger_is_worse=False,
        ),
    ]


def duplicates(
    sample: PointClouds, truth: PointClouds, *, clouds: int = 10_000, quantile: float = 0.01, seed: int = 0
) -> Metric:
    """Whether generated jets are nearer to each other than true jets are.

    The share of generated jets whose nearest other one is nearer than the 1 % of as many true jets that are nearest to each
    other; more than 1 % are duplicates, or jets crowded where true ones are not. Distances are Euclidean ones of
    :func:`projections`. Errors are binomial for pairs, since jets that are near are so to each other; a bootstrap would be wrong,
    as resampling with replacement makes duplicates itself.

    Args:
        clouds: number of jets of either set, or as many as both have.
        quantile: what share of true jets sets the threshold.
        seed: which jets are looked at.

    Returns:
        ``duplicates``.

    Raises:
        DataError: columns that do not determine relative coordinates, or too few jets for the quantile.
    """
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    size = min(clouds, len(sample), len(truth))
    _require_size(size, quantile)
    extent = _extent(truth)
    found = []
    for part in (sample, truth):
        vectors = projections(part[np.sort(rng.permutation(len(part))[:size])], extent).reshape(size, -1)
        # Without new points scikit-learn leaves out each jet itself.
        nearest, _ = NearestNeighbors(n_neighbors=1).fit(vectors).kneighbors()
        found.append(nearest[:, 0])
    return _share_metric(
        "duplicates",
        f"share of jets nearer to another one than {quantile:.0%} of true jets",
        _share(found[0], found[1], quantile),
        quantile,
        size,
        jets_per_event=2,
    )


def nearest_distances(clouds: PointClouds, bank: PointClouds, *, candidates: int = 64) -> Nearest:
    """The nearest jet of a bank, in the energy mover's distance, for each jet.

    The jets of the bank are measured in the order of a lower bound of their distance, until the bound of the next one is above the
    smallest distance found or ``candidates`` have been measured. In the latter case a nearer one may exist: ``proven`` is
    false there.

    Args:
        candidates: the largest number of exact distances for each jet.

    Raises:
        DataError: an empty bank, or as :func:`pcdiff.evaluation.transport.energy_movers_distances`.
    """
    if len(bank) == 0 or candidates < 1:
        raise DataError(f"found {len(bank)} jets to compare with and {candidates} candidates; expected at least one")
    extent = _extent(bank)
    vectors, banked = projections(clouds, extent), projections(bank, extent)
    distance, index = np.empty(len(clouds)), np.empty(len(clouds), np.int64)
    proven = np.empty(len(clouds), np.bool_)
    jets, others = particles(clouds), particles(bank)
    for start in range(0, len(clouds), _BLOCK):
        block = vectors[start : start + _BLOCK]
        bounds = np.zeros((len(block), len(bank)))
        for direction in range(_DIRECTIONS):
            np.maximum(bounds, cdist(block[:, direction], banked[:, direction], "cityblock"), out=bounds)
        for i, bound in enumerate(bounds, start):
            distance[i], index[i], proven[i] = _search(jets[i], others, bound, min(candidates, len(bank)))
    return Nearest(distance, index, proven)


def projections(clouds: PointClouds, extent: float) -> Floats:
    """The vectors behind the lower bound, shape (n, directions, bins + 1): the largest L1 distance of two of a direction is below EMD.

    Args:
        extent: L of the module's formula, at most 1: how far from the axis the bins reach.

    Raises:
        DataError: columns that do not determine relative coordinates, or a jet without constituents.
    """
    if (clouds.counts == 0).any():
        raise DataError(f"jet {int(np.argmin(clouds.counts))} has no constituents; it has no neighbours")
    edges = np.linspace(-extent, extent, _BINS + 1)
    angles = np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    found = []
    for part in clouds.split(_BLOCK):
        z, *plane = columns(part, "ptrel", "etarel", "phirel")
        u = np.outer(plane[0], np.cos(angles)) + np.outer(plane[1], np.sin(angles))
        rising = np.clip(u[..., None] - edges[:-1], 0, np.diff(edges)) - np.diff(edges) / 2
        constant = np.full((*u.shape, 1), 1 - extent)
        terms = z[:, None, None] * np.concatenate([rising, constant], axis=2)
        found.append(np.add.reduceat(terms, part.offsets[:-1]))
    return np.concatenate(found)


def _search(jet: Floats, bank: list[Floats], bound: Floats, limit: int) -> tuple[float, int, bool]:
    """The nearest jet of the bank by at most ``limit`` exact distances: distance, number, whether it is proven."""
    near = np.argpartition(bound, limit)[: limit + 1] if limit < len(bank) else np.arange(limit)
    order = near[np.argsort(bound[near])]
    best, index = np.inf, 0
    for start in range(0, limit, _STEP):
        if bound[order[start]] >= best:
            return best, index, True
        tried = order[start : min(start + _STEP, limit)]
        found = pairwise([jet], [bank[i] for i in tried])[0]
        if found.min() < best:
            best, index = float(found.min()), int(tried[found.argmin()])
    return best, index, limit == len(bank) or bool(bound[order[limit]] >= best)


def _extent(clouds: PointClouds) -> float:
    """How far from the axis constituents lie, at most 1."""
    etarel, phirel = columns(clouds, "etarel", "phirel")
    return min(1.0, float(np.hypot(etarel, phirel).max()))


def _share(ours: Floats, theirs: Floats, quantile: float) -> float:
    """The share of ours below a quantile of theirs, which that share of theirs is below."""
    return float(np.mean(ours < np.quantile(theirs, quantile)))


def _ratio(ours: Floats, theirs: Floats) -> float:
    return float(np.median(ours) / np.median(theirs))


def _require_size(size: int, quantile: float) -> None:
    if not 0 < quantile < 1 or size * quantile < 5:
        raise DataError(
            f"{size} jets of either set are too few for a quantile of {quantile:g}: expected at least 5 jets below it"
        )


def _share_metric(name: str, title: str, share: float, quantile: float, size: int, *, jets_per_event: int) -> Metric:
    """A share against the one expected, with errors of a binomial number of events that count so many jets at once."""
    error, floor_error = (float(np.sqrt(jets_per_event * p * (1 - p) / size)) for p in (share, quantile))
    return Metric(
        name=name,
        title=title,
        unit="",
        group="clouds",
        about="",
        value=share,
        error=error,
        resampled=share,
        floor=quantile,
        floor_error=floor_error,
        pull=(share - quantile) / float(np.hypot(error, floor_error)),
        truth_size=size,
        sample_size=size,
        draws=1,
    )
