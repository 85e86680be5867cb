from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pcdiff.config import MultiplicityConfig
from pcdiff.multiplicity import EmpiricalMultiplicity, FlowMultiplicity, build_multiplicity

N = 4000


def truth(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts cut off at 30 and correlated with a feature that has a sharp edge; two types with different means."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 2, N)
    edge = 800 + rng.exponential(200, N) * (1 + types)
    counts = np.minimum(rng.poisson(edge / 40 + 4 * types) + 1, 30)
    return counts.astype(np.int64), np.column_stack([edge, rng.normal(size=N)]), types


@pytest.fixture(scope="module")
def fitted() -> FlowMultiplicity:
    torch.manual_seed(0)
    model = FlowMultiplicity(MultiplicityConfig(layers=2, hidden=32, steps=300), 2, 2)
    model.fit(*truth(), seed=0)
    return model


def test_flow_recovers_marginals_edges_and_dependence(fitted: FlowMultiplicity) -> None:
    """Against fresh truth, per type: Kolmogorov distances, the pile-up at 30, the edge, and the rank correlation."""
    counts, features, types = truth(seed=1)
    drawn, values = fitted.draw(np.random.default_rng(2).standard_normal((N, 3)), types)
    assert drawn.min() >= 1
    assert drawn.max() == 30
    assert values[:, 0].min() >= 800
    for kind in (0, 1):
        real, made = types == kind, types == kind
        # The largest distance of two samples of 2,000 each is below 0.06 at the 0.1 % level; the flow may add as much.
        assert stats.ks_2samp(features[real, 0], values[made, 0]).statistic < 0.12
        assert stats.ks_2samp(counts[real], drawn[made]).statistic < 0.12
        assert abs(np.mean(counts[real] == 30) - np.mean(drawn[made] == 30)) < 0.1
        expected = stats.spearmanr(counts[real], features[real, 0]).statistic
        assert abs(stats.spearmanr(drawn[made], values[made, 0]).statistic - expected) < 0.1


def test_the_same_noise_gives_the_same_clouds_in_any_batch(fitted: FlowMultiplicity) -> None:
    noise, types = np.random.default_rng(3).standard_normal((100, 3)), np.arange(100) % 2
    counts, values = fitted.draw(noise, types)
    for part in (slice(0, 7), slice(50, 51)):
        again, more = fitted.draw(noise[part], types[part])
        np.testing.assert_array_equal(again, counts[part])
        np.testing.assert_allclose(more, values[part], rtol=1e-4)


@pytest.mark.parametrize("kind", ["flow", "empirical"])
def test_stored_tensors_give_the_same_draws(kind: str) -> None:
    config = MultiplicityConfig.model_validate({"kind": kind, "steps": 2, "hidden": 8, "layers": 1})
    model = build_multiplicity(config, 2, 2)
    model.fit(*truth(), seed=0)
    other = build_multiplicity(config, 2, 2)
    other.load(model.state_dict())
    noise, types = np.random.default_rng(4).standard_normal((50, 3)), np.arange(50) % 2
    for a, b in zip(model.draw(noise, types), other.draw(noise, types), strict=True):
        np.testing.assert_array_equal(a, b)


def test_empirical_draws_whole_rows_of_the_right_type() -> None:
    counts, features, types = truth()
    model = EmpiricalMultiplicity(2)
    model.fit(counts, features, types, seed=0)
    wanted = np.arange(1000) % 2
    drawn, values = model.draw(np.random.default_rng(5).standard_normal((1000, 3)), wanted)
    rows = {(int(c), float(f), int(t)) for c, f, t in zip(counts, features[:, 0], types, strict=True)}
    assert {(int(c), float(f), int(t)) for c, f, t in zip(drawn, values[:, 0], wanted, strict=True)} <= rows


def test_all_clouds_of_one_size() -> None:
    model = build_multiplicity(MultiplicityConfig(steps=2, hidden=8, layers=1), 0, 1)
    model.fit(np.full(50, 7), np.zeros((50, 0)), np.zeros(50, np.int64), seed=0)
    counts, values = model.draw(np.random.default_rng(6).standard_normal((20, 1)), np.zeros(20, np.int64))
    assert (counts == 7).all()
    assert values.shape == (20, 0)


def test_a_rare_type_keeps_its_rows() -> None:
    n = 60_000
    types = np.zeros(n, np.int64)
    types[-2:] = 1
    model = EmpiricalMultiplicity(0)
    model.fit(np.where(types == 1, 9, 5), np.zeros((n, 0)), types, seed=0)
    counts, _ = model.draw(np.random.default_rng(7).standard_normal((100, 1)), np.ones(100, np.int64))
    assert (counts == 9).all()


def test_whole_numbers_stay_whole(fitted: FlowMultiplicity) -> None:
    counts = np.random.default_rng(8).integers(5, 60, 500)
    model = FlowMultiplicity(MultiplicityConfig(steps=2, hidden=8, layers=1), 1, 1)
    model.fit(counts, counts[:, None].astype(float), np.zeros(500, np.int64), seed=0)
    _, values = model.draw(np.random.default_rng(9).standard_normal((200, 2)), np.zeros(200, np.int64))
    np.testing.assert_array_equal(values, np.rint(values))
