from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pcdiff.config import MultiplicityConfig
from pcdiff.errors import ConfigError
from pcdiff.flows import invert_flow
from pcdiff.multiplicity import EmpiricalMultiplicity, FlowMultiplicity, build_multiplicity

N = 4000


def truth(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts cut off at 30 and correlated with a feature that has a sharp edge; two types with different means."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 2, N)
    edge = 800 + rng.exponential(200, N) * (1 + types)
    counts = np.minimum(rng.poisson(edge / 40 + 4 * types) + 1, 30)
    return counts.astype(np.int64), np.column_stack([edge, rng.normal(size=N)]), types


@pytest.fixture(scope="module", params=["spline", "affine"])
def fitted(request: pytest.FixtureRequest) -> FlowMultiplicity:
    torch.manual_seed(0)
    model = FlowMultiplicity(MultiplicityConfig(layers=2, hidden=32, steps=300, coupling=request.param), 2, 2)
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


@pytest.mark.parametrize("kind", [{"kind": "flow"}, {"kind": "flow", "coupling": "affine"}, {"kind": "empirical"}])
def test_stored_tensors_give_the_same_draws(kind: dict[str, str]) -> None:
    config = MultiplicityConfig.model_validate({**kind, "steps": 2, "hidden": 8, "layers": 1})
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


def test_the_fast_inverse_is_that_of_zuko(fitted: FlowMultiplicity) -> None:
    z = torch.from_numpy(np.random.default_rng(15).standard_normal((500, 3))).float()
    context = torch.eye(2)[torch.arange(500) % 2]
    with torch.no_grad():
        found = invert_flow(fitted.flow, z, context)
        torch.testing.assert_close(found, fitted.flow(context).transform.inv(z), rtol=1e-5, atol=1e-5)
        # Splines leave the bounds of their bins to rounding.
        torch.testing.assert_close(fitted.flow(context).transform(found), z, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("kind", ["flow", "empirical"])
def test_quantiles_are_those_of_the_training_data(kind: str) -> None:
    counts, features, types = truth()
    features[:, 1] = counts + 0.0
    model = build_multiplicity(
        MultiplicityConfig.model_validate({"kind": kind, "steps": 1, "hidden": 8, "layers": 1}), 2, 2
    )
    model.fit(counts, features, types, seed=0)
    levels = np.linspace(0, 1, len(model.quantiles(0)))
    np.testing.assert_allclose(model.quantiles(1), np.quantile(features[:, 0], levels), rtol=1e-12)
    for column in (0, 2):
        found = model.quantiles(column)
        # Between two whole numbers one may take either.
        assert np.abs(found - np.quantile(counts, levels)).max() <= 1
        assert set(found) <= set(counts)
        assert (found[0], found[-1]) == (counts.min(), counts.max())


def test_affine_coupling_needs_a_cloud_feature() -> None:
    with pytest.raises(ConfigError, match=r"multiplicity\.coupling: affine .* expected spline"):
        build_multiplicity(MultiplicityConfig(coupling="affine"), 0, 2)


def all_counts(
    model: FlowMultiplicity | EmpiricalMultiplicity, most: int, features: np.ndarray, types: np.ndarray
) -> np.ndarray:
    """log p(n | features, type) of n = 0 ... most, shape (clouds, most + 1)."""
    return np.stack(
        [model.log_count(np.full(len(types), n), features, types) for n in range(most + 1)],
        axis=1,
    )


@pytest.mark.parametrize(("coupling", "features"), [("spline", 0), ("spline", 1), ("affine", 1)])
def test_log_count_of_the_identity_is_the_stored_table(coupling: str, features: int) -> None:
    counts = np.array([3, 3, 3, 5, 5, 9, 9, 9, 9, 9])
    values = np.random.default_rng(10).normal(size=(10, features))
    config = MultiplicityConfig.model_validate({"coupling": coupling, "steps": 1, "hidden": 8, "layers": 2})
    model = FlowMultiplicity(config, features, 1)
    model.fit(counts, values, np.zeros(10, np.int64), seed=0)
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.zero_()
    table = np.log(np.where(np.isin(np.arange(12), counts), np.bincount(counts, minlength=12), np.nan) / 10)
    found = all_counts(model, 11, values, np.zeros(10, np.int64))
    np.testing.assert_allclose(found, np.tile(np.nan_to_num(table, nan=-np.inf), (10, 1)), atol=1e-5)


def gaussian_copula(counts: np.ndarray, rho: float, sigma: float) -> tuple[FlowMultiplicity, np.ndarray]:
    """One coupling set by hand, z_f = sigma z + rho z_0, of a feature that is its own normal score, up to its stored quantiles."""
    model = FlowMultiplicity(MultiplicityConfig(coupling="affine", layers=1, hidden=2, steps=1), 1, 1)
    normals = stats.norm.ppf(np.linspace(1e-6, 1 - 1e-6, 1025))
    drawn = np.random.default_rng(11).choice(normals, len(counts))
    model.fit(counts, drawn[:, None], np.zeros(len(counts), np.int64), seed=0)
    model.marginals[0].knots.copy_(torch.from_numpy(normals))
    first, _, second, _, last = model.flow.transform.transform.transforms[0].hyper
    bound = math.log(1000)
    with torch.no_grad():
        for layer in (first, second, last):
            layer.bias.zero_()
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        second.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([[rho, -rho], [0.0, 0.0]]))
        # The network's raw number a for s = log(sigma) = a / (1 + |a| / log 1000).
        last.bias[1] = math.log(sigma) / (1 - abs(math.log(sigma)) / bound)
    return model, normals


def test_log_count_of_a_gaussian_copula() -> None:
    """z_0 given z_f is normal, its cells have a closed form."""
    rho, sigma = 0.8, 0.6
    counts = np.random.default_rng(11).poisson(12, 5000) + 1
    model, normals = gaussian_copula(counts, rho, sigma)
    z_f = normals[[20, 300, 512, 800, 1010]]
    edges = stats.norm.ppf(np.concatenate([[0.0], model.counts.cumulative.numpy()]))
    # Of z_0 ~ N(0, 1) and z_f = rho z_0 + sigma z: precision 1 + rho^2 / sigma^2.
    spread = 1 / math.sqrt(1 + rho**2 / sigma**2)
    mean = spread**2 * rho * z_f / sigma**2
    expected = np.diff(stats.norm.cdf((edges - mean[:, None]) / spread), axis=1)
    found = all_counts(model, len(edges) - 2, z_f[:, None], np.zeros(5, np.int64))
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-5)


def test_log_count_is_normalised_and_resolves_the_density(fitted: FlowMultiplicity) -> None:
    """Over all n the probabilities sum to one; each is the ratio of integrals that a much finer rule finds."""
    features, types = truth(seed=12)[1][:8], np.arange(8) % 2
    log_p = all_counts(fitted, 35, features, types)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-6)
    assert np.isneginf(log_p[:, [0, 31, 35]]).all()
    edges = stats.norm.ppf(np.concatenate([[0.0], fitted.counts.cumulative.numpy()])).clip(-8, 8)
    for i in range(8):
        scores = [m.forward(features[i : i + 1, k], np.array([0.5]))[0] for k, m in enumerate(fitted.marginals)]
        z_0 = np.union1d(np.linspace(-8, 8, 30_001), edges)
        z = torch.from_numpy(np.column_stack([z_0, np.tile(scores, (len(z_0), 1))])).float()
        with torch.no_grad():
            context = torch.eye(2)[types[i]].expand(len(z), 2)
            p = fitted.flow(context).log_prob(z).double().exp().numpy()
        cumulative = integrate.cumulative_trapezoid(p, z_0, initial=0)
        expected = np.diff(np.interp(edges, z_0, cumulative)) / cumulative[-1]
        np.testing.assert_allclose(np.exp(log_p[i, : len(expected)]), expected, atol=1e-4)


@pytest.mark.parametrize("n", [18, 30])
def test_log_count_is_the_probability_of_what_is_drawn(fitted: FlowMultiplicity, n: int) -> None:
    """Over drawn clouds, the mean of p(n | features) is the fraction with n points, in either half of a feature."""
    types = np.arange(600) % 2
    drawn, values = fitted.draw(np.random.default_rng(13).standard_normal((600, 3)), types)
    p = np.exp(fitted.log_count(np.full(600, n), values, types))
    low = values[:, 0] < np.median(values[:, 0])
    for part in (low, ~low):
        # Each term has mean zero and variance p (1 - p), if p is right.
        error = math.sqrt(float((p * (1 - p))[part].mean()) / part.sum())
        assert abs(float(((drawn == n) - p)[part].mean())) < 4 * error


def test_log_count_of_the_empirical_model_is_the_fraction_of_its_rows() -> None:
    counts, types = np.array([2, 2, 2, 7, 7, 4, 4, 4, 4, 9]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    model = EmpiricalMultiplicity(1)
    model.fit(counts, np.zeros((10, 1)), types, seed=0)
    found = np.exp(all_counts(model, 12, np.zeros((2, 1)), np.array([0, 1])))
    expected = np.zeros((2, 13))
    expected[0, [2, 7]] = 0.6, 0.4
    expected[1, [4, 9]] = 0.8, 0.2
    np.testing.assert_allclose(found, expected, rtol=1e-12)
