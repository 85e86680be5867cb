"""How the distributions of single observables differ: Wasserstein distance, triangular discriminator and chi-squared.

For the contents f and g of the bins of two samples,

    W1          = integral of |F(x) - G(x)| dx over the distribution functions, without bins
    triangular  = 1/2 sum_b (f_b - g_b)^2 / (f_b + g_b), f and g summing to 1: from 0 to 1
    chi-squared = mean_b (f_b - g_b)^2 / (var f_b + var g_b)
    deviation   = root of mean_b (f_b - g_b)^2 / var_1 f_b, with the variance of the content of a single true cloud

W1: Ramdas, Garcia, Cuturi, "On Wasserstein Two Sample Testing and Related Families of Nonparametric Tests", arXiv 1509.02237.
Triangular discriminator: Topsoe, "Some inequalities for information divergence and related measures of discrimination", IEEE
Transactions on Information Theory 46 (2000); "separation" in other software. Where a cloud has several entries the bins are correlated, so
chi-squared does not follow its textbook distribution: errors and floors of all four come from resampling whole clouds. A chi-squared with
the full covariance of the bins would need many more clouds than bins to invert it (Hartlap, Simon, Schneider, arXiv astro-ph/0608064), which
catalogues of halos seldom are. Where contents may be negative, as those of a correlation function, there is no triangular discriminator; the
deviation says in its place by how much sets differ, whatever their size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from pcdiff.errors import DataError
from pcdiff.evaluation.binning import Binned, bins, comparable
from pcdiff.evaluation.metric import Group, Metric, Resamples, estimate
from pcdiff.physics import Measured, Observable, observables, profiles

__all__ = ["marginal_metrics", "wasserstein", "weighted_wasserstein"]

Floats = npt.NDArray[np.float64]

_W1P = ("etarel", "phirel", "ptrel")
# A sample is called too small when a shift of this fraction of the truth's standard deviation could be chance.
_TELLABLE = 0.1


def wasserstein(real: Floats | Sequence[float], generated: Floats | Sequence[float]) -> float:
    """Wasserstein-1 distance of two samples of one number, in the unit of that number.

    ``W1 = integral of |F_real(x) - F_generated(x)| dx`` over the empirical distribution functions F (Ramdas et al., "On
    Wasserstein Two Sample Testing and Related Families of Nonparametric Tests", arXiv 1509.02237). On relative jet
    masses this is W1M, on each constituent feature W1P, of Kansal et al., "Particle Cloud Generation with Message
    Passing Generative Adversarial Networks", arXiv 2106.11535.

    Args:
        real: shape (n,), finite.
        generated: shape (m,), finite; the sizes may differ.

    >>> wasserstein([0.0, 1.0, 3.0], [5.0, 6.0, 8.0])
    5.0
    """
    return float(wasserstein_distance(real, generated))


def weighted_wasserstein(values: Floats, owners: npt.NDArray[np.int64], first: Floats, second: Floats) -> Floats:
    """W1 of pairs of samples that weigh the same values, shape (draws,).

    Sorting once for all draws makes this an order of magnitude quicker than as many calls of scipy.

    Args:
        values: shape (v,).
        owners: shape (v,), the cloud of each value.
        first: shape (draws, clouds), how much each cloud counts in the first sample.
        second: the same for the second sample.
    """
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order])
    owners = owners[order]
    result = np.empty(len(first))
    for draw, (one, two) in enumerate(zip(first, second, strict=True)):
        a, b = one[owners], two[owners]
        total_a, total_b = a.sum(), b.sum()
        # In whole numbers the distance of equal samples is exactly zero.
        excess = np.cumsum(a * total_b - b * total_a)
        result[draw] = np.abs(excess[:-1]) @ gaps / (total_a * total_b)
    return result


def marginal_metrics(
    truth: Measured, sample: Measured, resamples: Resamples, *, reference: Measured | None = None
) -> list[Metric]:
    """W1, triangular discriminator and chi-squared of each observable that the sets have, W1P, and the distances of profiles.

    Args:
        truth: observables of the true clouds.
        sample: observables of the generated clouds.
        resamples: of these two.
        reference: observables of further true clouds, independent of ``truth``, at least as many as the sample has: the floor of
            W1 is then measured, the mean distance from the truth to pieces of the reference of the sample's size.

    Raises:
        DataError: a reference that is smaller than the sample.
    """
    if reference is not None and len(reference) < len(sample):
        raise DataError(
            f"the reference has {len(reference)} clouds, expected at least as many as the sample's {len(sample)}"
        )
    sets = [truth, sample] if reference is None else [truth, sample, reference]
    sizes = (len(truth), len(sample))
    metrics: list[Metric] = []
    parts: dict[str, _Distances] = {}
    for name, observable in observables(truth.kind).items():
        if not all(name in measured.values for measured in sets):
            continue
        found = _distances(observable, truth, sample, reference, resamples)
        relative_mass = name == "relative_mass"
        title = "W1M, relative jet mass" if relative_mass else f"W1, {observable.title}"
        group: Group = "published" if relative_mass else "observable"
        metrics.append(found.metric(f"w1_{name}", title, group, name, observable.unit, sizes))
        edges = bins(observable, truth.values[name])
        metrics += _binned_metrics(
            name,
            observable.title,
            Binned.of_observable(observable, truth, edges),
            Binned.of_observable(observable, sample, edges),
            resamples,
        )
        if name in _W1P:
            parts[name] = found
    if len(parts) == len(_W1P):
        mean = _Distances.mean(list(parts.values()))
        metrics.append(mean.metric("w1p", "W1P, mean of etarel, phirel, ptrel", "published", "", "", sizes))
    for name, profile in profiles(truth.kind).items():
        if name in truth.profiles and name in sample.profiles:
            real, generated = Binned.of_profile(name, truth), Binned.of_profile(name, sample)
            metrics += _binned_metrics(
                name, profile.title, real, generated, resamples, distribution=profile.distribution
            )
    return metrics


@dataclass(frozen=True)
class _Distances:
    """W1 of the samples as they are, of resamples of both (draws,), of pairs of true resamples; the floor; what can be told."""

    value: float
    resampled: Floats
    null: Floats
    floor: float
    tellable: float

    @classmethod
    def mean(cls, parts: Sequence[_Distances]) -> _Distances:
        """That of several observables, draw by draw."""
        return cls(
            value=float(np.mean([part.value for part in parts])),
            resampled=np.mean([part.resampled for part in parts], axis=0),
            null=np.mean([part.null for part in parts], axis=0),
            floor=float(np.mean([part.floor for part in parts])),
            tellable=float(np.mean([part.tellable for part in parts])),
        )

    def metric(self, name: str, title: str, group: Group, about: str, unit: str, sizes: tuple[int, int]) -> Metric:
        return estimate(
            name,
            title,
            group=group,
            about=about,
            unit=unit,
            sizes=sizes,
            value=self.value,
            resampled=self.resampled,
            null=self.null,
            floor=self.floor,
            tellable=self.tellable,
        )


def _distances(
    observable: Observable, truth: Measured, sample: Measured, reference: Measured | None, resamples: Resamples
) -> _Distances:
    real, generated = truth.values[observable.name], sample.values[observable.name]
    owners = truth.owners(observable)
    pooled = np.concatenate([real, generated])
    pooled_owners = np.concatenate([owners, sample.owners(observable) + len(truth)])
    value, *resampled = weighted_wasserstein(pooled, pooled_owners, *resamples.pooled())
    null = weighted_wasserstein(real, owners, resamples.null_truth, resamples.null_sample)
    floor = float(null.mean()) if reference is None else _measured_floor(observable, truth, reference, len(sample))
    return _Distances(float(value), np.array(resampled), null, floor, _TELLABLE * float(np.std(real)))


def _measured_floor(observable: Observable, truth: Measured, reference: Measured, size: int) -> float:
    """Mean distance from the truth to disjoint pieces of ``size`` clouds of the reference."""
    owners = reference.owners(observable)
    bounds = np.searchsorted(owners, np.arange(0, len(reference) + 1, size))
    values, real = reference.values[observable.name], truth.values[observable.name]
    pieces = [values[start:stop] for start, stop in itertools.pairwise(bounds)]
    return float(np.mean([wasserstein(real, piece) for piece in pieces]))


def _binned_metrics(
    name: str, title: str, truth: Binned, sample: Binned, resamples: Resamples, *, distribution: bool = True
) -> Iterator[Metric]:
    """Triangular discriminator, or of what is no distribution the deviation, and chi-squared of one observable or profile."""
    kept = comparable(truth, sample)
    if kept.sum() < 2:
        return
    pairs = {
        "value": (truth.mean[None], sample.mean[None]),
        "resampled": (truth.means(resamples.truth), sample.means(resamples.sample)),
        "null": (truth.means(resamples.null_truth), truth.means(resamples.null_sample)),
    }
    sizes = (len(truth.weights), len(sample.weights))
    if distribution:
        found = {key: _triangular(*pair) for key, pair in pairs.items()}
        yield _binned(f"triangular_{name}", f"triangular discriminator, {title}", name, sizes, found)
    else:
        of_one = truth.variance[kept] * truth.weights.sum() ** 2 / (truth.weights**2).sum()
        found = {
            key: np.sqrt(_chi_squared(one[:, kept], other[:, kept], of_one)) for key, (one, other) in pairs.items()
        }
        yield _binned(f"deviation_{name}", f"deviation in spreads of one cloud, {title}", name, sizes, found)

    # Two samples of the truth: the second one as much smaller or larger as the sample tells.
    ratio = resamples.null_truth.sum(axis=1).mean() / resamples.null_sample.sum(axis=1).mean()
    variance = truth.variance + sample.variance
    variances = {"value": variance, "resampled": variance, "null": truth.variance * (1 + ratio)}
    found = {
        key: _chi_squared(one[:, kept], other[:, kept], variances[key][kept]) for key, (one, other) in pairs.items()
    }
    yield _binned(f"chi2_{name}", f"chi-squared per bin, {title}", name, sizes, found)


def _binned(name: str, title: str, about: str, sizes: tuple[int, int], found: dict[str, Floats]) -> Metric:
    return estimate(
        name,
        title,
        group="observable",
        about=about,
        sizes=sizes,
        value=float(found["value"][0]),
        resampled=found["resampled"],
        null=found["null"],
    )


def _triangular(f: Floats, g: Floats) -> Floats:
    """Of contents (draws, b): shape (draws,)."""
    f, g = (side / side.sum(axis=1, keepdims=True) for side in (f, g))
    total = f + g
    terms = np.divide((f - g) ** 2, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(0.5 * terms.sum(axis=1))


def _chi_squared(f: Floats, g: Floats, variance: Floats) -> Floats:
    """Of contents (draws, b) whose difference has this variance (b,): shape (draws,)."""
    positive = variance > 0
    return np.asarray(((f - g)[:, positive] ** 2 / variance[positive]).mean(axis=1))
