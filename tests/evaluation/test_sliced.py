"""Sliced Wasserstein distance against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gamma

from pcdiff.evaluation.metric import Resamples
from pcdiff.evaluation.sliced import sliced_wasserstein, sliced_wasserstein_metric
from pcdiff.physics import Measured


def of(x, y, **chosen):
    here = np.repeat([1.0, 0.0], [len(x), len(y)])[None]
    return sliced_wasserstein(np.concatenate([x, y]), here, 1 - here, **chosen)[0]


@pytest.mark.parametrize("dimension", [1, 2, 5, 30])
def test_a_shifted_copy_is_at_the_mean_projection_of_the_shift(dimension):
    """The mean of |u_1| over unit vectors in d dimensions is Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    x = np.random.default_rng(0).normal(size=(40, dimension))
    shift = np.zeros(dimension)
    shift[0] = 3.0
    mean = gamma(dimension / 2) / (np.sqrt(np.pi) * gamma((dimension + 1) / 2))
    # |u_1| spreads by at most its mean; 5 standard errors of 2,000 directions.
    assert of(x, x + shift, directions=2000) == pytest.approx(3 * mean, rel=5 / np.sqrt(2000))


def test_it_scales_with_the_features_and_sees_what_marginals_do_not():
    rng = np.random.default_rng(1)
    z, noise = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 2))
    independent, correlated = noise, np.concatenate([z, z], axis=1)
    assert of(5 * independent, 5 * correlated) == pytest.approx(5 * of(independent, correlated))
    assert of(independent, correlated) > 5 * of(independent, rng.normal(size=(4000, 2)))


def test_the_metric_is_at_its_floor_for_truth_and_above_for_another_correlation():
    rng = np.random.default_rng(2)

    def drawn(n, mix):
        z = rng.normal(size=(n, 3))
        z[:, 1] = np.sqrt(1 - mix**2) * z[:, 1] + mix * z[:, 0]
        return Measured("jets", np.ones(n, np.int64), {}, polynomials=np.exp(z))

    truth, good, bad = drawn(3000, 0.5), drawn(2000, 0.5), drawn(2000, -0.5)
    pulls = [
        sliced_wasserstein_metric(truth, sample, Resamples.draw(truth, sample, 20, 0), seed=0)[0].pull
        for sample in (good, bad)
    ]
    assert abs(pulls[0]) < 3
    assert pulls[1] > 5


def test_without_polynomials_there_is_no_metric():
    bare = Measured("vectors", np.ones(5, np.int64), {})
    assert sliced_wasserstein_metric(bare, bare, Resamples.draw(bare, bare, 2, 0), seed=0) == []
