"""Sliced Wasserstein distance: all energy-flow polynomials at once, in random directions.

    SW1 = mean over unit vectors u of W1(u . x, u . y)

sees differences of the correlations that no single observable has. Bonneel et al., "Sliced and Radon Wasserstein Barycenters of
Measures", Journal of Mathematical Imaging and Vision 51 (2015); Kolouri et al., "Generalized Sliced Wasserstein Distances", arXiv
1902.00434.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcdiff.evaluation.marginals import weighted_wasserstein
from pcdiff.evaluation.metric import Metric, Resamples, estimate
from pcdiff.physics import Measured

__all__ = ["sliced_wasserstein", "sliced_wasserstein_metric"]

Floats = npt.NDArray[np.float64]

_DIRECTIONS = 50
# The largest number of angles that a polynomial multiplies.
_DEGREE = 4


def sliced_wasserstein(
    features: Floats, first: Floats, second: Floats, *, directions: int = _DIRECTIONS, seed: int = 0
) -> Floats:
    """SW1 of pairs of samples that weigh the same vectors, shape (draws,), in the unit of the features.

    Args:
        features: shape (v, d).
        first: shape (draws, v), how much each vector counts in the first sample.
        second: the same for the second sample.
        directions: number of random unit vectors.
        seed: of the directions.

    A sample and its copy moved by 1 along each of two axes: W1 in direction u is the length of the move's projection on u, the
    mean of which is sqrt(2) times 2 / pi:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> here = np.repeat([1.0, 0.0], 100)[None]
    >>> found = sliced_wasserstein(np.concatenate([x, x + 1]), here, here[:, ::-1], directions=4000)
    >>> bool(abs(found[0] / (np.sqrt(2) * 2 / np.pi) - 1) < 0.03)
    True
    """
    normals = np.random.default_rng(seed).normal(size=(directions, features.shape[1]))
    units = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    owners = np.arange(len(features))
    found: Floats = np.mean([weighted_wasserstein(features @ unit, owners, first, second) for unit in units], axis=0)
    return found


def sliced_wasserstein_metric(truth: Measured, sample: Measured, resamples: Resamples, *, seed: int) -> list[Metric]:
    """The metric on energy-flow polynomials, none without them.

    Each enters as its fourth root, divided by the truth's standard deviation.
    """
    if truth.polynomials is None or sample.polynomials is None:
        return []
    # They spread over decades: roots let the bulk of the jets count and not the few widest ones.
    real, generated = (p ** (1 / _DEGREE) for p in (truth.polynomials, sample.polynomials))
    spread = real.std(axis=0)
    kept = spread > 0
    features = np.concatenate([real, generated])[:, kept] / spread[kept]
    value, *resampled = sliced_wasserstein(features, *resamples.pooled(), seed=seed)
    return [
        estimate(
            "sliced_wasserstein",
            f"sliced W1, {kept.sum()} EFPs",
            group="clouds",
            sizes=(len(truth), len(sample)),
            value=float(value),
            resampled=np.array(resampled),
            null=sliced_wasserstein(features[: len(truth)], resamples.null_truth, resamples.null_sample, seed=seed),
        )
    ]
