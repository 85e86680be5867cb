from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pcdiff.errors import DataError
from pcdiff.flows import RealNVP

CASES = [(2, 0), (5, 0), (3, 2)]


def random_flow(features: int, context: int, **settings: int) -> RealNVP:
    """Weights far from the small ones that a net starts with, and data of another scale than 1."""
    torch.manual_seed(0)
    flow = RealNVP(features, context, **{"layers": 4, "hidden": 32, **settings}).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        flow.mean.copy_(torch.linspace(-2, 3, features))
        flow.std.copy_(torch.linspace(0.3, 4, features))
    return flow


def noise_and_context(n: int, features: int, context: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return noise, torch.randn(n, context, generator=generator, dtype=torch.float64) if context else None


def log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


@pytest.mark.parametrize(("features", "context"), CASES)
def test_log_det_is_that_of_the_jacobian(features: int, context: int) -> None:
    flow = random_flow(features, context)
    noise, c = noise_and_context(16, features, context)
    x = flow.sample(noise, c)
    log_det = flow.encode(x, c)[1]
    for i in range(len(x)):
        one = None if c is None else c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: flow.encode(v[None], one)[0][0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("features", "context"), CASES)
def test_the_map_is_inverted_and_the_density_follows_from_it(features: int, context: int) -> None:
    flow = random_flow(features, context)
    noise, c = noise_and_context(1000, features, context)
    x = flow.sample(noise, c)
    z, log_det = flow.encode(x, c)
    torch.testing.assert_close(z, noise, rtol=0, atol=1e-9)
    # zuko writes the constant log(2 pi) / 2 of its normal in float32.
    torch.testing.assert_close(flow.log_prob(x, c), log_normal(noise) + log_det, rtol=0, atol=1e-6)


def test_a_coupling_is_affine_in_one_half_given_the_other_and_the_halves_swap() -> None:
    """x_A = z_A; x_B = z_B exp(s(z_A)) + t(z_A): a straight line in z_B of slope exp(s), with sum s = log|det J|."""
    flow = random_flow(4, 0, layers=1)
    flow.mean.zero_()
    flow.std.fill_(1)
    z = noise_and_context(100, 4, 0)[0]
    step = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    x, up, down = flow.sample(z), flow.sample(z + step), flow.sample(z - step)
    torch.testing.assert_close(x[:, ::2], z[:, ::2], rtol=0, atol=0)
    torch.testing.assert_close(up + down, 2 * x, rtol=0, atol=1e-12)
    slope = (up - x)[:, 1::2]
    assert bool((slope > 0).all())
    torch.testing.assert_close(-flow.encode(x)[1], slope.log().sum(dim=1), rtol=0, atol=1e-12)
    # The first coupling of two is followed by one that leaves the odd coordinates, as the first has set them.
    two = random_flow(4, 0, layers=2)
    z_even = z.clone()
    z_even[:, ::2] += 1
    assert bool((two.sample(z)[:, 1::2] != two.sample(z_even)[:, 1::2]).any(dim=1).all())
    first, second = two.flow.transform.transform.transforms
    torch.testing.assert_close(first.mask, ~second.mask)


@pytest.mark.parametrize("context", [0, 2])
def test_the_gradient_reaches_every_parameter(context: int) -> None:
    flow = random_flow(3, context)
    noise, c = noise_and_context(64, 3, context)
    flow.log_prob(noise, c).mean().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_samples_follow_the_density() -> None:
    """With x ~ p, the mean of 1 / p(x) over the samples in a box is the area of the box, whatever p."""
    flow = random_flow(2, 0)
    with torch.no_grad():
        x = flow.sample(noise_and_context(200_000, 2, 0)[0])
        low, high = x.quantile(0.3, dim=0), x.quantile(0.7, dim=0)
        inside = ((x > low) & (x < high)).all(dim=1)
        terms = torch.where(inside, torch.exp(-flow.log_prob(x)), 0.0)
    error = float(terms.std() / math.sqrt(len(x)))
    assert abs(float(terms.mean()) - float((high - low).prod())) < 4 * error
    assert error < 0.05 * float((high - low).prod())


def test_a_fit_to_a_correlated_gaussian_reaches_its_entropy() -> None:
    """The mean of -log p over fresh data is the entropy H + KL(data, p), with a standard error of sqrt(D / 2n)."""
    n, rng = 20_000, np.random.default_rng(0)
    scale = np.diag([300.0, 0.02])
    cov = scale @ np.array([[1.0, 0.8], [0.8, 1.0]]) @ scale
    entropy = 0.5 * math.log(np.linalg.det(2 * math.pi * math.e * cov))
    flow = RealNVP(2, layers=4, hidden=32)
    flow.fit(rng.multivariate_normal([1000.0, -3.0], cov, n), seed=0, steps=400, batch=512)
    fresh = torch.from_numpy(rng.multivariate_normal([1000.0, -3.0], cov, n)).float()
    with torch.no_grad():
        surprise = -float(flow.log_prob(fresh).double().mean())
    # Without the correlation it would be 0.51 more.
    assert abs(surprise - entropy) < 4 * math.sqrt(2 / (2 * n))
    # The divergence itself has a smaller error, since log p and its estimate fluctuate together.
    truth = torch.distributions.MultivariateNormal(torch.tensor([1000.0, -3.0]).double(), torch.from_numpy(cov))
    assert surprise + float(truth.log_prob(fresh.double()).mean()) < 0.01


def test_a_fit_learns_how_the_density_depends_on_the_context() -> None:
    """x ~ N(mu_c, sigma_c^2): the means and deviations of samples of either kind, to 4 standard errors."""
    n, rng = 8000, np.random.default_rng(1)
    kind = rng.integers(0, 2, n)
    x = np.array([[-1.0, 2.0], [3.0, 0.0]])[kind] + np.array([[0.5, 1.0], [1.0, 0.3]])[kind] * rng.normal(size=(n, 2))
    flow = RealNVP(2, 2, layers=4, hidden=32)
    flow.fit(x, np.eye(2)[kind], seed=0, steps=500, batch=512)
    noise = torch.from_numpy(rng.normal(size=(n, 2))).float()
    for k in (0, 1):
        with torch.no_grad():
            drawn = flow.sample(noise, torch.eye(2)[k].expand(n, 2)).double().numpy()
        true = x[kind == k]
        spread = true.std(axis=0)
        error = 4 * spread * math.sqrt(2 / len(true))
        assert (np.abs(drawn.mean(axis=0) - true.mean(axis=0)) < error).all()
        assert (np.abs(drawn.std(axis=0) - spread) < error).all()


def test_the_same_seed_gives_the_same_fit() -> None:
    x = np.random.default_rng(2).normal(size=(300, 2))
    flows = []
    for _ in range(2):
        torch.manual_seed(3)
        flows.append(RealNVP(2, layers=2, hidden=8))
        flows[-1].fit(x, seed=4, steps=5, batch=50)
    for a, b in zip(flows[0].state_dict().values(), flows[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 values, found 1"):
        RealNVP(1)
    flow, x = RealNVP(2), np.random.default_rng(5).normal(size=(10, 2))
    with pytest.raises(DataError, match=r"x has shape \(10, 3\); expected finite values of shape \(10, 2\)"):
        flow.fit(np.zeros((10, 3)), seed=0)
    with pytest.raises(DataError, match="x has values that are not finite"):
        flow.fit(np.where(x > 0, np.nan, x), seed=0)
    with pytest.raises(DataError, match="column 1 of x is constant"):
        flow.fit(x * [1, 0], seed=0)
    with pytest.raises(DataError, match=r"context has shape \(10, 1\)"):
        flow.fit(x, np.zeros((10, 1)), seed=0)
