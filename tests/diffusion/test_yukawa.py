"""The Yukawa flow: its kernel against Bessel functions and its equation, its samples against the charges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from pcdiff.diffusion import BankDenoiser, EDMSchedule, posterior_mean, sample_yukawa
from pcdiff.diffusion.bank import student_kernel
from pcdiff.diffusion.yukawa import _logs, yukawa_kernel

from .exact import at, normal, seeded


@pytest.mark.parametrize("mass", [1e-3, 0.7, 30.0])
@pytest.mark.parametrize("entries", [1, 2, 3, 4, 7])
def test_kernels_are_modified_bessel_functions(entries: int, mass: float) -> None:
    """log R^-nu K_nu(m R) and log R^-(nu + 1) K_{nu + 1}(m R) with nu = (N - 1) / 2, by scipy's kve, to 1e-10."""
    t = 0.3
    distance2 = torch.logspace(-4, 4, 60, dtype=torch.float64)[None]
    radius = np.sqrt(distance2.numpy() + t**2)
    nu = (entries - 1) / 2
    lower, upper = _logs(distance2, t, mass, entries)
    for made, order in ((lower, nu), (upper, nu + 1)):
        expected = np.log(special.kve(order, mass * radius)) - mass * radius - order * np.log(radius)
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(yukawa_kernel(t, mass, entries)(distance2, torch.tensor([[entries]])), upper)


@pytest.mark.parametrize("mass", [0.3, 2.0])
@pytest.mark.parametrize("entries", [1, 2, 3])
def test_field_solves_the_screened_poisson_equation(entries: int, mass: float) -> None:
    """(d^2/dt^2 + laplace - m^2) phi = 0 away from the charge, by central differences of second order at two steps, whose errors fall by 4."""

    def phi(place: Tensor) -> Tensor:
        """At places (M, N + 1), t the last."""
        return torch.stack([torch.exp(_logs(p[:-1].square().sum(), float(p[-1]), mass, entries)[0]) for p in place])

    place = normal(5, entries + 1, seed=0) + torch.tensor(1.0).double()
    place[:, -1] = place[:, -1].abs() + 0.5
    residues = []
    for h in (2e-2, 1e-2):
        total = -(mass**2) * phi(place)
        for axis in range(entries + 1):
            step = torch.zeros(entries + 1, dtype=torch.float64)
            step[axis] = h
            total = total + (phi(place + step) + phi(place - step) - 2 * phi(place)) / h**2
        residues.append(total / phi(place))
    assert float(residues[1].abs().max()) < 2e-3
    torch.testing.assert_close(residues[0] / residues[1], torch.full((5,), 4.0).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_kernel_is_the_falling_of_the_field(entries: int) -> None:
    """-d phi / dt = m t R^-(nu + 1) K_{nu + 1}(m R), by central differences."""
    mass, t, h = 0.8, 1.1, 1e-4
    distance2 = torch.linspace(0, 5, 11, dtype=torch.float64)[None]
    fall = (
        torch.exp(_logs(distance2, t - h, mass, entries)[0]) - torch.exp(_logs(distance2, t + h, mass, entries)[0])
    ) / (2 * h)
    expected = mass * t * torch.exp(yukawa_kernel(t, mass, entries)(distance2, torch.tensor([[entries]])))
    torch.testing.assert_close(fall, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_without_mass_the_kernel_is_that_of_the_poisson_flow(entries: int) -> None:
    """m -> 0: R^-(nu + 1) K_{nu + 1}(m R) ~ R^-(N + 1), the Student kernel of D = 1 at sigma = t; expected clouds to 1e-4 at m = 1e-3."""
    bank, x = normal(50, 1, entries, seed=1), normal(20, 1, entries, seed=2)
    known, mask = torch.ones(50, 1, dtype=torch.bool), torch.ones(20, 1, dtype=torch.bool)
    for t in (0.1, 1.0, 10.0):
        alpha = torch.ones(20, dtype=torch.float64)
        made = posterior_mean(x, alpha, mask, bank, known, yukawa_kernel(t, 1e-3, entries))
        sigma = torch.full((20,), t, dtype=torch.float64)
        torch.testing.assert_close(
            made, posterior_mean(x, alpha, mask, bank, known, student_kernel(sigma, 1.0)), rtol=0, atol=1e-4
        )
        flow = at(BankDenoiser(bank, known, EDMSchedule(), dimension=1.0), x, t).x0
        torch.testing.assert_close(made, flow, rtol=0, atol=1e-4)


def test_without_mass_no_charge_dies() -> None:
    """The weights are equal but for what the spread of the charges changes in the plane t_max = 40, of second order in spread / t_max."""
    off = []
    for t_max in (40.0, 400.0):
        _, weights = sample_yukawa(normal(50, 2, seed=3), 200, mass=1e-7, t_max=t_max, generator=seeded(4))
        off.append(float((200 * weights - 1).abs().max()))
    assert off[0] < 3e-3
    assert off[1] < off[0] / 30


@pytest.mark.parametrize("mass", [0.1, 1.0])
@pytest.mark.parametrize("entries", [1, 2, 3])
def test_all_lines_of_one_charge_end_there_with_one_weight(entries: int, mass: float) -> None:
    """What dies on the way is what the distant plane lacks: of one charge all weights are equal, to 1 % but for the far tails, where
    the error of the Runge-Kutta method is multiplied by m R.
    """
    bank = torch.full((1, entries), 0.7, dtype=torch.float64)
    ends, weights = sample_yukawa(bank, 400, mass=mass, generator=seeded(5))
    # Lines at an angle of 45 degrees are 0.003 away at the last plane; so are seven of ten or more within a few times that.
    assert float((ends - 0.7).abs().median()) < 0.01
    off = (weights * 400).log().abs()
    assert float(off.quantile(0.95)) < 0.01
    assert float(1 / (weights**2).sum()) > 0.99 * 400


def two_gaussians(entries: int) -> Tensor:
    generator = seeded(6)
    bank = 0.35 * torch.randn(60, entries, generator=generator, dtype=torch.float64)
    return bank + torch.where(torch.arange(60)[:, None] < 20, -1.1, 0.6)


@pytest.mark.parametrize(("entries", "mass"), [(1, 0.5), (2, 0.05), (2, 0.5), (2, 1.0), (3, 0.5)])
def test_weighted_ends_have_mean_and_covariance_of_the_charges(entries: int, mass: float) -> None:
    """1,500 lines to a bank of two Gaussians, 60 charges: each moment within 4 standard errors of a weighted mean,
    sqrt(sum w^2 (f - E f)^2), and more than a third of the lines count.
    """
    bank = two_gaussians(entries)
    ends, weights = sample_yukawa(bank, 1500, mass=mass, generator=seeded(7))
    assert float(weights.sum()) == pytest.approx(1)
    assert float(1 / (weights**2).sum()) > 500
    mean = bank.mean(0)
    away, known = ends - mean, bank - mean
    i, j = torch.triu_indices(entries, entries)
    for made, expected in ((away, known), (away[:, i] * away[:, j], known[:, i] * known[:, j])):
        off = weights @ made - expected.mean(0)
        error = (weights[:, None] ** 2 * (made - expected.mean(0)) ** 2).sum(0).sqrt()
        assert float((off / error).abs().max()) < 4
    share = float((bank.mean(1) < -0.25).double().mean())
    lower = (ends.mean(1) < -0.25).double()
    error = float((weights**2 * (lower - share) ** 2).sum().sqrt())
    assert float(weights @ lower) == pytest.approx(share, abs=4 * error)


def test_weights_matter_where_the_screening_is_strong() -> None:
    """At m = 2, of 2,000 lines, the unweighted ends miss the share of the smaller mode by more than 4 standard errors, the weighted ones do not."""
    bank = two_gaussians(2)
    ends, weights = sample_yukawa(bank, 2000, mass=2.0, generator=seeded(8))
    lower = (ends.mean(1) < -0.25).double()
    share = float((bank.mean(1) < -0.25).double().mean())
    error = float((weights**2 * (lower - share) ** 2).sum().sqrt())
    assert abs(float(weights @ lower) - share) < 4 * error
    assert abs(float(lower.mean()) - share) > 4 * math.sqrt(share * (1 - share) / 2000)


def test_more_steps_change_nothing() -> None:
    """The Runge-Kutta error of 80 steps at m = 0.5: weights of the same lines agree with 160 steps to 1 % on average."""
    bank = two_gaussians(2)
    first = sample_yukawa(bank, 300, mass=0.5, steps=80, generator=seeded(9))[1]
    second = sample_yukawa(bank, 300, mass=0.5, steps=160, generator=seeded(9))[1]
    assert float((first / second).log().abs().mean()) < 0.01
