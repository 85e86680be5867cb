"""Poisson flows: the law of their noise, the level at which it is preconditioned, and their Gaussian limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pcdiff.config import EpicConfig
from pcdiff.diffusion import (
    WEIGHTS,
    BankDenoiser,
    Denoiser,
    EDMSchedule,
    Schedule,
    denoising_loss,
    log_snr_grid,
    student_scale,
    unipc,
)
from pcdiff.diffusion.poisson import effective_level
from pcdiff.nets import build_net

from .exact import SCHEDULES, all_points, named, normal, pulls, seeded

SIZES = torch.tensor([1, 3, 10])
MASK = torch.arange(10) < SIZES[:, None]


@pytest.mark.parametrize("dimension", [6.0, 20.0, 1000.0])
def test_scale_has_the_moments_of_the_root_of_d_over_chi_squared(dimension: float) -> None:
    """E[D / chi^2] = D / (D - 2) and E[D^2 / chi^4] = D^2 / ((D - 2)(D - 4)), by 1,000,000 even quantiles, to 1 %."""
    unit = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    square = student_scale(unit, dimension) ** 2
    assert float(square.mean()) == pytest.approx(dimension / (dimension - 2), rel=1e-3)
    expected = dimension**2 / ((dimension - 2) * (dimension - 4))
    assert float((square**2).mean()) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("dimension", [0.5, 1.0, 8.0, 128.0])
def test_scale_is_a_quantile_of_chi_squared(dimension: float) -> None:
    unit = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    expected = np.sqrt(dimension / stats.chi2.ppf(unit.numpy(), dimension))
    np.testing.assert_allclose(student_scale(unit, dimension).numpy(), expected, rtol=1e-8)


def test_scale_of_one_dimension_makes_cauchy_noise() -> None:
    """|z| sqrt(1 / chi^2_1) is the length of a Cauchy variable: Kolmogorov-Smirnov over 20,000 at p > 1e-3."""
    generator = seeded(0)
    z = torch.randn(20_000, generator=generator, dtype=torch.float64)
    unit = torch.rand(20_000, generator=generator, dtype=torch.float64)
    assert stats.kstest((z * student_scale(unit, 1.0)).numpy(), "cauchy").pvalue > 1e-3


def test_scale_is_finite_at_the_end_of_the_uniform() -> None:
    made = student_scale(torch.tensor([0.0, 1 - 2.0**-24]), 1.0)
    assert bool(torch.isfinite(made).all())
    assert made.dtype == torch.float32


@pytest.mark.parametrize("dimension", [1.0, 8.0])
def test_noise_has_the_student_kernel_of_pfgm_in_each_size_of_cloud(dimension: float) -> None:
    """p ~ (|n|^2 + D)^{-(N + D) / 2}: then |n|^2 / (|n|^2 + D) is Beta(N / 2, D / 2), with N = 2 n for clouds of n = 1, 3, 10 points.

    Kolmogorov-Smirnov over 20,000 clouds of each size at p > 1e-3.
    """
    generator = seeded(1)
    for size in SIZES.tolist():
        z = torch.randn(20_000, size * 2, generator=generator, dtype=torch.float64)
        n = z * student_scale(torch.rand(20_000, generator=generator, dtype=torch.float64), dimension)[:, None]
        length2 = n.square().sum(1)
        assert stats.kstest((length2 / (length2 + dimension)).numpy(), "beta", args=(size, dimension / 2)).pvalue > 1e-3


def test_the_loss_draws_that_noise() -> None:
    """The net of a Poisson flow sees (x0 + sigma n) / r_eff with n the normal noise times the scale of the cloud's uniform."""
    seen = {}

    class Spy(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            seen["x"], seen["log_snr"] = x, log_snr
            return torch.zeros_like(x)

    x0, noise = normal(3, 10, 2, seed=2) * MASK[..., None], normal(3, 10, 2, seed=3)
    t, unit = torch.tensor([0.1, 1.0, 5.0]).double(), torch.tensor([0.01, 0.5, 0.9]).double()
    schedule = EDMSchedule()
    denoiser = Denoiser(Spy(), schedule, dimension=4.0)
    loss = denoising_loss(denoiser, x0, MASK, x0.new_zeros(3, 0), t=t, noise=noise, weight="velocity", unit=unit)
    n = noise * student_scale(unit, 4.0)[:, None, None]
    x_t = (x0 + t[:, None, None] * n) * MASK[..., None]
    level = effective_level(schedule.level(t), x_t, MASK, 4.0)
    torch.testing.assert_close(seen["x"], x_t / level.r)
    torch.testing.assert_close(seen["log_snr"], -2 * level.sigma.log().flatten())
    # x0 + sigma n = x0 + sigma_eff eps, and F* = (eps - sigma_eff x0) / r_eff
    eps = t[:, None, None] * n / level.sigma
    direct = ((eps - level.sigma * x0) / level.r).square() * MASK[..., None]
    torch.testing.assert_close(loss, direct.sum((1, 2)) / (2 * SIZES))


def trained_like(schedule: Schedule, dimension: float | None) -> Denoiser:
    net = build_net(EpicConfig(hidden=16, layers=2), 2, 0, ["a", "b"]).double()
    generator = seeded(4)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return Denoiser(net, schedule, dimension=dimension)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_many_dimensions_give_back_gaussian_noise(schedule: Schedule) -> None:
    """At D = 1e8 the scale is 1 within its own spread of 1 / sqrt(2 D), and level and losses are the Gaussian ones to 1e-5 relative
    but for that spread, to which unit = 0.5 does not contribute.
    """
    t = schedule.time(torch.tensor([5.0, 0.0, -6.0]).double())
    x0, noise = normal(3, 10, 2, seed=5) * MASK[..., None], normal(3, 10, 2, seed=6)
    unit = torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(student_scale(unit, 1e8), torch.ones_like(unit), rtol=0, atol=1e-7)
    tails = student_scale(torch.tensor([1e-3, 0.999]).double(), 1e8) - 1
    assert float(tails.abs().max()) < 4 / math.sqrt(2e8)
    plain = schedule.level(t)
    made = effective_level(plain, (plain.alpha * x0 + plain.sigma * noise) * MASK[..., None], MASK, 1e8)
    for name in ("alpha", "sigma", "d_alpha", "d_sigma"):
        torch.testing.assert_close(getattr(made, name), getattr(plain, name), rtol=1e-5, atol=0)
    arguments = {"t": t, "noise": noise}
    cond = x0.new_zeros(3, 0)
    for weight in WEIGHTS:
        student = denoising_loss(trained_like(schedule, 1e8), x0, MASK, cond, **arguments, weight=weight, unit=unit)
        normal_loss = denoising_loss(trained_like(schedule, None), x0, MASK, cond, **arguments, weight=weight)
        torch.testing.assert_close(student, normal_loss, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dimension", [1.0, 8.0, 64.0])
def test_effective_level_follows_the_noise_where_it_prevails_and_the_schedule_where_data_do(dimension: float) -> None:
    """Far out sigma_eff^2 is sigma^2 (D + |n|^2) / (D + N), the scale of the noise given its length; next to the data it is of the size of
    sigma, so that x0 becomes x_t there. In between the net sees clouds of order one, however long the tail.
    """
    schedule = EDMSchedule()
    n = normal(3, 10, 2, seed=7) * MASK[..., None]
    n = n * student_scale(torch.tensor([1e-3, 0.2, 0.9]).double(), dimension)[:, None, None]
    x0 = normal(3, 10, 2, seed=8) * MASK[..., None]
    entries = 2.0 * SIZES[:, None, None]
    far = schedule.level(torch.full((3,), 80.0, dtype=torch.float64))
    made = effective_level(far, x0 + far.sigma * n, MASK, dimension).sigma / far.sigma
    expected = ((dimension + n.square().sum((1, 2), keepdim=True)) / (dimension + entries)).sqrt()
    torch.testing.assert_close(made, expected, rtol=0.05, atol=0)
    near = schedule.level(torch.full((3,), 0.003, dtype=torch.float64))
    made = effective_level(near, x0, MASK, dimension).sigma / near.sigma
    expected = ((dimension + x0.square().sum((1, 2), keepdim=True)) / (dimension + entries)).sqrt()
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_effective_level_leaves_the_flow_to_the_expected_cloud(schedule: Schedule) -> None:
    """dx/dt = alpha' x0 + (sigma' / sigma)(x - alpha x0), at the sigma of the schedule, whatever the effective one."""
    t = schedule.time(torch.tensor([5.0, 0.0, -6.0]).double())
    x_t = 3 * normal(3, 10, 2, seed=9) * MASK[..., None]
    with torch.no_grad():
        made = trained_like(schedule, 8.0)(x_t, t, MASK, x_t.new_zeros(3, 0))
    level = schedule.level(t)
    direct = level.d_alpha * made.x0 + level.d_sigma / level.sigma * (x_t - level.alpha * made.x0)
    torch.testing.assert_close(made.velocity, direct)


@pytest.mark.parametrize("dimension", [0.0, -1.0, math.inf, math.nan])
def test_dimensions_that_are_none_are_refused(dimension: float) -> None:
    level = EDMSchedule().level(torch.ones(3))
    with pytest.raises(ValueError, match="dimension"):
        effective_level(level, torch.zeros(3, 10, 2), MASK, dimension)


@pytest.mark.parametrize("dimension", [1.0, 8.0])
def test_flow_of_a_bank_carries_student_noise_to_the_bank(dimension: float) -> None:
    """UniPC in 60 steps even in log-SNR, 4,000 clouds of one point: mean and covariance of the 300 points of the bank within 4
    standard errors, and the share of each of its two modes. At t_max = 90 the bank's mean and spread shift the noise by 1 / 90 of
    its scale, well below the standard errors of 1 / 60.
    """
    generator = seeded(10)
    bank = torch.randn(300, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 0.5])
    bank = bank + torch.where(torch.arange(300)[:, None] < 100, -1.2, 0.6)
    schedule = EDMSchedule()
    denoiser = BankDenoiser(bank[:, None], torch.ones(300, 1, dtype=torch.bool), schedule, dimension=dimension)
    z = torch.randn(4000, 1, 2, generator=generator, dtype=torch.float64)
    noise = z * student_scale(torch.rand(4000, generator=generator, dtype=torch.float64), dimension)[:, None, None]
    made = unipc(denoiser, grid=log_snr_grid(schedule, 60), **all_points(noise))[:, 0]
    pull = pulls(made, bank.mean(0), torch.cov(bank.T, correction=0))
    assert float(pull.abs().max()) < 4
    share = float((bank.sum(1) < -0.6).double().mean())
    assert float((made.sum(1) < -0.6).double().mean()) == pytest.approx(share, abs=4 * math.sqrt(0.25 / 4000))


def test_a_trained_poisson_flow_makes_modes_as_narrow_as_the_data() -> None:
    """The preconditioning must leave x0 = x_t next to the data whatever the ratio N / D; otherwise the error of the net is in each end.

    Clouds of ten points from modes of width 0.1 at -0.95 and 0.95, D = 8, an EPiC net of width 32, 400 steps; UniPC in 30 steps to
    500 clouds. Widths within 0.04 of 0.1 (with a sigma_eff that does not vanish with sigma they are 0.01), shares within 0.05.
    """
    torch.manual_seed(11)
    generator = seeded(12)
    schedule = EDMSchedule()
    denoiser = Denoiser(build_net(EpicConfig(hidden=32, layers=2), 1, 0, ["x"]), schedule, dimension=8.0)
    steps, size, points = 400, 256, 10
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mask, cond = torch.ones(size, points, dtype=torch.bool), torch.zeros(size, 0)
    for _ in range(steps):
        side = torch.where(torch.rand(size, points, 1, generator=generator) < 0.4, -0.95, 0.95)
        x0 = side + 0.1 * torch.randn(size, points, 1, generator=generator)
        t = torch.exp(-1.2 + 1.2 * torch.randn(size, generator=generator)).clamp(schedule.t_min, schedule.t_max)
        noise, unit = torch.randn(size, points, 1, generator=generator), torch.rand(size, generator=generator)
        loss = denoising_loss(denoiser, x0, mask, cond, t=t, noise=noise, weight="velocity", unit=unit).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    z, unit = torch.randn(500, points, 1, generator=generator), torch.rand(500, generator=generator)
    with torch.no_grad():
        noise = z * student_scale(unit, 8.0)[:, None, None]
        made = unipc(denoiser, grid=log_snr_grid(schedule, 30), **all_points(noise)).flatten()
    low, high = made[made < 0], made[made >= 0]
    assert len(low) / len(made) == pytest.approx(0.4, abs=0.05)
    assert float(low.std()) == pytest.approx(0.1, abs=0.04)
    assert float(high.std()) == pytest.approx(0.1, abs=0.04)
