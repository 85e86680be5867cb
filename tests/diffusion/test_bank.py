"""The score without training: expectations over a bank, against direct sums and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pcdiff.diffusion import (
    BankDenoiser,
    CosineSchedule,
    EDMSchedule,
    RectifiedSchedule,
    Schedule,
    SqrtRectifiedSchedule,
    ddim,
    log_snr_grid,
    posterior_mean,
)
from pcdiff.diffusion.bank import gaussian_kernel, student_kernel

from .conftest import mixture
from .exact import SCHEDULES, all_points, at, named, normal, pulls, seeded

every = pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))


def ragged(count: int, seed: int, width: int = 4) -> tuple[Tensor, Tensor]:
    """Clouds of 1 to ``width`` points, as many of each size, and their mask."""
    mask = torch.arange(width) < 1 + torch.arange(count)[:, None] % width
    return normal(count, width, 2, seed=seed) * mask[..., None], mask


@pytest.mark.parametrize("kernel", ["gaussian", "student-1", "student-8", "student-100"])
def test_expectation_is_the_sum_over_the_clouds_of_the_same_size(kernel: str) -> None:
    """By loops over clouds, with the densities of the noise written out."""
    bank, bank_mask = ragged(40, seed=0)
    x_t, mask = ragged(12, seed=1)
    alpha = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    sigma = torch.linspace(2, 0.3, 12, dtype=torch.float64)
    dimension = 0.0 if kernel == "gaussian" else float(kernel.partition("-")[2])
    log_kernel = student_kernel(sigma, dimension) if dimension else gaussian_kernel(sigma)
    made = posterior_mean(x_t, alpha, mask, bank, bank_mask, log_kernel)
    for i in range(12):
        total, norm = torch.zeros(4, 2, dtype=torch.float64), 0.0
        entries = 2 * int(mask[i].sum())
        for cloud, cloud_mask in zip(bank, bank_mask, strict=True):
            if not torch.equal(cloud_mask, mask[i]):
                continue
            distance2 = float(((x_t[i] - alpha[i] * cloud) ** 2).sum())
            s2 = float(sigma[i]) ** 2
            if dimension:
                weight = (1 + distance2 / (s2 * dimension)) ** (-(entries + dimension) / 2)
            else:
                weight = math.exp(-distance2 / (2 * s2))
            total, norm = total + weight * cloud, norm + weight
        torch.testing.assert_close(made[i], total / norm, rtol=1e-10, atol=1e-12)


@every
def test_denoiser_of_a_bank_of_numbers_is_that_of_their_mixture(schedule: Schedule) -> None:
    """The bank as a Gaussian mixture in the limit of no width: components of 1e-6, at sigma / alpha from 0.02 to 90."""
    points = [-1.3, -0.2, 0.4, 1.6]
    bank = torch.tensor(points, dtype=torch.float64)[:, None, None]
    made = BankDenoiser(bank, torch.ones(4, 1, dtype=torch.bool), schedule)
    exact = mixture(points, [1e-6] * 4, [0.25] * 4, schedule)
    u = torch.linspace(math.log(0.02), math.log(80), 30, dtype=torch.float64)
    t = schedule.time(-2 * u).clamp(schedule.t_min, schedule.t_max)
    level = schedule.level(t)
    x_t = level.alpha * bank[torch.arange(30) % 4] + level.sigma * normal(30, 1, 1, seed=2)
    mask, cond = torch.ones(30, 1, dtype=torch.bool), torch.zeros(30, 0)
    a, b = made(x_t, t, mask, cond), exact(x_t, t, mask, cond)
    torch.testing.assert_close(a.x0, b.x0, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(a.eps, b.eps, rtol=1e-5, atol=1e-5)


@every
def test_readings_of_a_bank_agree(schedule: Schedule) -> None:
    """alpha x0 + sigma eps = x_t, with the x0 of the bank, at the middle of the schedule."""
    bank, bank_mask = ragged(40, seed=3)
    x_t, mask = ragged(12, seed=4)
    t = schedule.time(torch.linspace(4, -4, 12, dtype=torch.float64))
    level = schedule.level(t)
    p = BankDenoiser(bank, bank_mask, schedule)(x_t, t, mask, torch.zeros(12, 0))
    kernel = gaussian_kernel(level.sigma.flatten())
    torch.testing.assert_close(p.x0, posterior_mean(x_t, level.alpha.flatten(), mask, bank, bank_mask, kernel))
    torch.testing.assert_close(level.alpha * p.x0 + level.sigma * p.eps, x_t)
    assert bool((p.x0[~mask].abs() < 1e-12).all())


def test_noiseless_clouds_are_their_nearest_in_the_bank() -> None:
    bank, bank_mask = ragged(40, seed=5)
    schedule = CosineSchedule()
    t = torch.full((40,), schedule.t_min, dtype=torch.float64)
    x_t = schedule.level(t).alpha * bank
    made = BankDenoiser(bank, bank_mask, schedule)(x_t, t, bank_mask, torch.zeros(40, 0)).x0
    torch.testing.assert_close(made, bank)


def test_pure_noise_is_expected_at_the_mean_of_its_size() -> None:
    """At sigma / alpha = 90 the weights are even but for |y| / 90: within 0.1 of the mean."""
    bank, bank_mask = ragged(400, seed=6)
    x_t, mask = ragged(4, seed=7)
    made = at(BankDenoiser(bank[bank_mask.all(1)], bank_mask[bank_mask.all(1)], EDMSchedule()), 90 * x_t[3:], 90.0).x0
    torch.testing.assert_close(made[0], bank[bank_mask.all(1)].mean(0), rtol=0, atol=0.1)
    assert bool(mask[3].all())


def test_clouds_are_compared_with_their_own_size_only() -> None:
    """Whatever the clouds of other sizes in the bank are, nothing changes."""
    bank, bank_mask = ragged(40, seed=8)
    x_t, mask = ragged(12, seed=9)
    t = torch.full((12,), 0.5, dtype=torch.float64)
    expected = BankDenoiser(bank, bank_mask, CosineSchedule())(x_t, t, mask, torch.zeros(12, 0)).x0
    moved = torch.where((bank_mask.sum(1) == 2)[:, None, None], 100 * bank, bank)
    made = BankDenoiser(moved, bank_mask, CosineSchedule())(x_t, t, mask, torch.zeros(12, 0)).x0
    others = mask.sum(1) != 2
    torch.testing.assert_close(made[others], expected[others])


def test_padding_of_a_batch_narrower_than_the_bank_changes_nothing() -> None:
    """A batch of clouds of 2 points at most, cut to two columns: larger clouds of the bank, cut alike, are not taken for clouds of 2."""
    bank, bank_mask = ragged(40, seed=10)
    x_t, mask = ragged(12, seed=11)
    small = mask.sum(1) <= 2
    denoiser = BankDenoiser(bank, bank_mask, CosineSchedule())
    t, cond = torch.full((12,), 0.5, dtype=torch.float64)[small], torch.zeros(12, 0)[small]
    expected = denoiser(x_t[small], t, mask[small], cond).x0
    torch.testing.assert_close(denoiser(x_t[small, :2], t, mask[small, :2], cond).x0, expected[:, :2])


def test_a_size_that_the_bank_lacks_is_named() -> None:
    bank, bank_mask = ragged(40, seed=12)
    other = bank_mask.sum(1) != 3
    x_t, mask = ragged(12, seed=13)
    denoiser = BankDenoiser(bank[other], bank_mask[other], CosineSchedule())
    with pytest.raises(ValueError, match="no cloud of 3 points"):
        denoiser(x_t, torch.full((12,), 0.5, dtype=torch.float64), mask, torch.zeros(12, 0))


def test_student_kernel_of_many_dimensions_is_gaussian() -> None:
    """At D = 1e8 the expected clouds agree to 1e-6."""
    bank, bank_mask = ragged(40, seed=14)
    x_t, mask = ragged(12, seed=15)
    t = torch.linspace(0.05, 5, 12, dtype=torch.float64)
    cond = torch.zeros(12, 0)
    made = BankDenoiser(bank, bank_mask, EDMSchedule(), dimension=1e8)(x_t, t, mask, cond).x0
    expected = BankDenoiser(bank, bank_mask, EDMSchedule())(x_t, t, mask, cond).x0
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_single_precision_finds_near_clouds() -> None:
    """Distances are sums of squared differences: in float32 at sigma = 0.003, among clouds 0.01 apart about 1, to 1e-3 of the spacing."""
    bank = (1 + 0.01 * torch.arange(60, dtype=torch.float64))[:, None, None]
    ones = torch.ones(60, 1, dtype=torch.bool)
    x_t = bank + 0.003 * normal(60, 1, 1, seed=16)
    t = torch.full((60,), 0.003, dtype=torch.float64)
    wide = BankDenoiser(bank, ones, EDMSchedule())(x_t, t, ones, torch.zeros(60, 0)).x0
    narrow = BankDenoiser(bank.float(), ones, EDMSchedule())(x_t.float(), t.float(), ones, torch.zeros(60, 0)).x0
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedSchedule(), SqrtRectifiedSchedule()])
def test_training_free_sampling_draws_from_the_bank(schedule: Schedule) -> None:
    """Liu et al. (arXiv 2310.14458): the ODE with the Monte-Carlo score, 4,000 samples, DDIM of order 2 in 40 steps.

    Mean and covariance of the bank of 300 points within 4 standard errors.
    """
    generator = seeded(17)
    bank = torch.randn(300, 2, generator=generator, dtype=torch.float64) * 0.4
    bank = bank + torch.where(torch.arange(300)[:, None] < 120, -1.0, 0.7)
    denoiser = BankDenoiser(bank[:, None], torch.ones(300, 1, dtype=torch.bool), schedule)
    noise = torch.randn(4000, 1, 2, generator=generator, dtype=torch.float64)
    made = ddim(denoiser, grid=log_snr_grid(schedule, 40), **all_points(noise))[:, 0]
    assert float(pulls(made, bank.mean(0), torch.cov(bank.T, correction=0)).abs().max()) < 4
