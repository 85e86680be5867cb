"""The number of points as a regression: a law that is known comes back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pcdiff.config import MultiplicityConfig
from pcdiff.multiplicity import RegressionMultiplicity, build_multiplicity


def law(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of log n."""
    mean = 5 + 0.8 * x[:, 0] - 0.5 * x[:, 1] + 0.2 * x[:, 0] * x[:, 1] - 0.1 * x[:, 0] ** 3
    return mean, np.exp(-2.5 + 0.2 * x[:, 0])


def made(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.5, 1.5, (rows, 2))
    mean, scale = law(x)
    counts = np.maximum(np.rint(np.exp(mean + scale * rng.standard_normal(rows))), 1).astype(np.int64)
    return counts, x, np.zeros(rows, np.int64)


@pytest.fixture(scope="module")
def model() -> RegressionMultiplicity:
    found = build_multiplicity(MultiplicityConfig(kind="regression"), 2, 1)
    assert isinstance(found, RegressionMultiplicity)
    found.fit(*made(3000), seed=0)
    return found


def test_the_law_is_found(model: RegressionMultiplicity) -> None:
    _, x, types = made(500, seed=1)
    mean, scale = model._law(x, types)
    true_mean, true_scale = law(x)
    # 10 numbers from 3,000 draws: a twentieth of the spread.
    assert np.sqrt(np.mean(((mean - true_mean) / true_scale) ** 2)) < 0.1
    np.testing.assert_allclose(scale, true_scale, rtol=0.1)


def test_probabilities_of_all_numbers_sum_to_one(model: RegressionMultiplicity) -> None:
    numbers = np.arange(1, 3000)
    features = np.tile([[0.3, -0.4]], (len(numbers), 1))
    p = np.exp(model.log_count(numbers, features, np.zeros(len(numbers), np.int64)))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    # Far in the tail, where differences of probabilities would be 0.
    far = model.log_count(np.array([1, 100_000]), features[:2], np.zeros(2, np.int64))
    assert np.isfinite(far).all()


def test_draws_follow_the_probabilities(model: RegressionMultiplicity) -> None:
    rng = np.random.default_rng(2)
    given = {0: 0.3, 1: -0.4}
    counts, features = model.draw(rng.standard_normal((20_000, 3)), np.zeros(20_000, np.int64), given)
    np.testing.assert_array_equal(features, np.tile([[0.3, -0.4]], (20_000, 1)))
    numbers = np.arange(1, counts.max() + 1)
    p = np.exp(model.log_count(numbers, np.tile([[0.3, -0.4]], (len(numbers), 1)), np.zeros(len(numbers), np.int64)))
    kept = p * 20_000 > 10
    seen = np.bincount(counts, minlength=len(numbers) + 1)[1:][kept]
    chi2 = (((seen - p[kept] * 20_000) ** 2) / (p[kept] * 20_000)).sum()
    assert stats.chi2.sf(chi2, kept.sum()) > 1e-3


def test_features_are_rows_of_the_training_data(model: RegressionMultiplicity) -> None:
    _, x, _ = made(3000)
    counts, features = model.draw(np.random.default_rng(3).standard_normal((2000, 3)), np.zeros(2000, np.int64))
    known = {tuple(row) for row in x.tolist()}
    assert all(tuple(row) in known for row in features.tolist())
    assert counts.min() >= 1
    assert stats.kstest(features[:, 0], x[:, 0]).pvalue > 1e-3


def test_stored_tensors_give_the_same_model(model: RegressionMultiplicity) -> None:
    other = build_multiplicity(MultiplicityConfig(kind="regression"), 2, 1)
    other.load(model.state_dict())
    counts, x, types = made(50, seed=4)
    np.testing.assert_array_equal(other.log_count(counts, x, types), model.log_count(counts, x, types))


def test_types_have_laws_of_their_own() -> None:
    counts, x, _ = made(2000)
    both = np.concatenate([counts, 3 * counts]), np.concatenate([x, x]), np.repeat([0, 1], 2000)
    model = RegressionMultiplicity(2, 2)
    model.fit(*both, seed=0)
    mean = [model._law(x[:100], np.full(100, kind))[0] for kind in (0, 1)]
    np.testing.assert_allclose(mean[1] - mean[0], np.log(3), atol=0.02)
