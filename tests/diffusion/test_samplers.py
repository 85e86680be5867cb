"""Samplers of the ODE, what all samplers share, and the identities between them; see test_stochastic for distributions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from pcdiff.config import SAMPLER_FACTS, EpicConfig, SamplingConfig
from pcdiff.diffusion import (
    GRIDS,
    SAMPLERS,
    CosineSchedule,
    DDPMSchedule,
    Denoiser,
    LearnedSchedule,
    LinearSchedule,
    Prediction,
    RectifiedSchedule,
    Schedule,
    ancestral,
    ddim,
    drawer,
    edm_churn,
    euler,
    euler_maruyama,
    heun,
    ito,
    log_snr_grid,
    posterior_mean,
    predictor_corrector,
    restart,
    rk45,
    sample,
    sde_dpm,
    uniform_grid,
    unipc,
)
from pcdiff.diffusion.bank import gaussian_kernel
from pcdiff.diffusion.samplers import Levels
from pcdiff.diffusion.samplers.exponential import STRETCH, follow, integral_weights
from pcdiff.nets import build_net

from .conftest import mixture
from .exact import SCHEDULES, all_points, at, correlated, named, normal, seeded

VP_SCHEDULES: list[Schedule] = [CosineSchedule(), LinearSchedule()]


def plain(clouds: int, seed: int) -> dict[str, Tensor]:
    """Clouds of one point with one coordinate."""
    return all_points(normal(clouds, 1, 1, seed=seed))


def usual(schedule: Schedule) -> Denoiser:
    """The exact denoiser of the mixture that most tests use."""
    return mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6], schedule)


@cache
def reference(schedule: Schedule, steps: int) -> Tensor:
    """Where the ODE takes ``plain(400, seed=5)``: UniPC of order 3."""
    return unipc(usual(schedule), grid=log_snr_grid(schedule, steps), order=3, **plain(400, seed=5))


# Config


def test_config_offers_what_there_is() -> None:
    fields = SamplingConfig.model_fields
    assert list(get_args(fields["sampler"].annotation)) == list(SAMPLERS) == list(SAMPLER_FACTS)
    assert list(get_args(fields["grid"].annotation)) == [*GRIDS, "fitted"]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_config_knows_the_orders_options_and_defaults_of_each_sampler(name: str) -> None:
    sampler, facts = SAMPLERS[name], SAMPLER_FACTS[name]
    parameters = inspect.signature(sampler.function).parameters
    assert list(parameters)[:5] == ["denoiser", "noise", "grid", "mask", "cond"]
    own = {key: value for key, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}
    assert own.pop("callback").default is None
    assert ("draw" in own) == sampler.stochastic
    assert ("order" in own) == sampler.has_order == bool(facts.orders)
    own.pop("draw", None)
    if sampler.has_order:
        assert own.pop("order").default == facts.orders[0]
        assert sorted(facts.orders) == [1, 2, 3]
    assert {key: value.default for key, value in own.items()} == facts.options
    assert all(isinstance(default, float) for default in facts.options.values())


# Order


METHODS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], int]] = {
    "ddim-1": (ddim, {"order": 1}, 1),
    "ddim-2": (ddim, {"order": 2}, 2),
    "ddim-3": (ddim, {"order": 3}, 3),
    "unipc-1": (unipc, {"order": 1}, 2),
    "unipc-2": (unipc, {"order": 2}, 3),
    "unipc-3": (unipc, {"order": 3}, 4),
    "euler": (euler, {}, 1),
    "heun": (heun, {}, 2),
}

# On one schedule all methods; the exponential integrators and Heun's method are the same on each other one (see
# `test_exponential_integrators_know_only_the_log_snr`), but their code is run on it all the same.
ORDERS = [
    (schedule, method)
    for schedule in SCHEDULES
    for method in (METHODS if isinstance(schedule, CosineSchedule) else ("ddim-2", "ddim-3", "unipc-2", "euler"))
]


@pytest.mark.parametrize(("schedule", "method"), ORDERS, ids=[f"{named([s])[0]}-{m}" for s, m in ORDERS])
def test_order_of_convergence(schedule: Schedule, method: str) -> None:
    """On a mixture with the exact denoiser the endpoint error falls as steps^-order (64 to 512 steps, float64).

    UniPC's corrector gives it one order more than its predictor: measured slopes 1.95, 2.96, 3.84; ddim 0.93, 2.00, 3.03; heun 2.00;
    euler 0.90 to 1.00.
    """
    sampler, options, order = METHODS[method]
    truth = reference(schedule, 4096 if isinstance(schedule, CosineSchedule) else 1024)
    steps = np.array([64, 128, 256, 512])
    errors = []
    for count in steps:
        x = sampler(usual(schedule), grid=log_snr_grid(schedule, int(count)), **options, **plain(400, seed=5))
        errors.append(float((x - truth).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope >= order - 0.25


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_rk45_agrees_with_the_fine_solution_to_its_tolerance(schedule: Schedule) -> None:
    truth = reference(schedule, 4096 if isinstance(schedule, CosineSchedule) else 1024)
    x = rk45(usual(schedule), grid=log_snr_grid(schedule, 1), tolerance=1e-8, **plain(400, seed=5))
    torch.testing.assert_close(x, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
@pytest.mark.parametrize("method", ["ddim-1", "ddim-2", "ddim-3", "unipc-2", "unipc-3", "heun"])
def test_exponential_integrators_know_only_the_log_snr(schedule: Schedule, method: str) -> None:
    """From the same x / r through the same log-SNRs all schedules come to the same x / r, for the net sees nothing else."""
    sampler, options, _ = METHODS[method]
    log_snr = torch.linspace(-8.9, 11.9, 13, dtype=torch.float64)
    batch = plain(50, seed=11)
    found = []
    for one in (CosineSchedule(), schedule):
        grid = one.time(log_snr)
        end = one.level(grid[-1:])
        found.append(sampler(usual(one), grid=grid, **options, **batch) / end.r)
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_gaussian_endpoint_in_closed_form(schedule: Schedule) -> None:
    """For data N(m, s^2) the flow keeps (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2) constant."""
    mean, std = 0.7, 0.5
    batch = plain(50, seed=6)
    grid = log_snr_grid(schedule, 2000)
    x = ddim(mixture([mean], [std], [1.0], schedule), grid=grid, **batch)
    a, s = schedule.alpha(grid[[0, -1]]), schedule.sigma(grid[[0, -1]])
    scale = (a**2 * std**2 + s**2).sqrt()
    start = (a[0] ** 2 + s[0] ** 2).sqrt() * batch["noise"]
    expected = a[1] * mean + scale[1] * (start - a[0] * mean) / scale[0]
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("schedule", VP_SCHEDULES)
def test_order_two_is_better_already_at_twenty_evaluations(schedule: Schedule) -> None:
    denoiser = usual(schedule)
    batch = plain(400, seed=7)
    truth = ddim(denoiser, grid=log_snr_grid(schedule, 4096), **batch)

    def median(order: int) -> float:
        x = ddim(denoiser, grid=log_snr_grid(schedule, 20), order=order, **batch)
        return float((x - truth).abs().median())

    assert median(1) > 3 * median(2)


class Kernels:
    """The exact denoiser of equal isotropic kernels about the clouds of a bank."""

    def __init__(self, bank: Tensor, width: float, schedule: Schedule) -> None:
        self.bank, self.width, self.schedule = bank, width, schedule

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        level = self.schedule.level(t)
        variance = level.alpha**2 * self.width**2 + level.sigma**2
        whole = torch.ones(self.bank.shape[:2], dtype=torch.bool)
        kernel = gaussian_kernel(variance.sqrt().flatten())
        nearby = posterior_mean(x, level.alpha.flatten(), mask, self.bank, whole, kernel)
        x0 = nearby + level.alpha * self.width**2 / variance * (x - level.alpha * nearby)
        return Prediction.of("x0", x0, x, level)


def eight_gaussians(schedule: Schedule) -> Denoiser:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = torch.stack([angle.cos(), angle.sin()], 1) * 1.4
    return correlated(
        means, 0.01 * torch.eye(2, dtype=torch.float64).repeat(8, 1, 1), torch.full((8,), 1 / 8).double(), schedule
    )


@pytest.mark.parametrize(
    ("make", "shape", "gain"),
    [
        (lambda: eight_gaussians(CosineSchedule()), (1, 2), 5),
        (lambda: eight_gaussians(LinearSchedule()), (1, 2), 5),
        (lambda: Kernels(normal(256, 25, 3, seed=3), 0.3, LinearSchedule()), (25, 3), 5),
        (lambda: Kernels(normal(256, 25, 3, seed=3), 0.3, CosineSchedule()), (25, 3), 3),
    ],
    ids=["eight-Cosine", "eight-Linear", "kernels-Linear", "kernels-Cosine"],
)
def test_median_error_at_twenty_evaluations(
    make: Callable[[], Denoiser | Kernels], shape: tuple[int, int], gain: float
) -> None:
    """UniPC of order 2 on the default grid against DDIM on a uniform one, 20 evaluations each, median over 200 clouds.

    Root-mean-square error of a cloud, DDIM uniform / ddim order 2 log-SNR / unipc order 2 log-SNR:
    eight Gaussians of width 0.1, cosine .0147 / .0087 / .0015 and linear .0274 / .0098 / .0016 (1000 clouds);
    256 random kernels of width 0.3 in 75 dimensions, linear .0615 / .0088 / .0089 and cosine .0359 / .0078 / .0104. On the
    cosine schedule uniform times are already good for DDIM, so in 75 dimensions the gain is 4.6 there and not 5.
    """
    denoiser = make()
    batch = all_points(normal(200, *shape, seed=4))
    schedule = denoiser.schedule
    truth = unipc(denoiser, grid=log_snr_grid(schedule, 512), order=3, **batch)

    def median(x: Tensor) -> float:
        return float((x - truth).square().mean((1, 2)).median().sqrt())

    first = median(ddim(denoiser, grid=uniform_grid(schedule, 20), order=1, **batch))
    second = median(ddim(denoiser, grid=log_snr_grid(schedule, 20), order=2, **batch))
    corrected = median(unipc(denoiser, grid=log_snr_grid(schedule, 20), order=2, **batch))
    assert first > gain * min(second, corrected)
    assert first > second


# Steps by hand


@pytest.mark.parametrize("c", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("h", [1e-3, 0.2, 2.5, 11.0])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_integral_weights_are_exact_for_polynomials(count: int, h: float, c: float) -> None:
    """Against quadrature for each power below the number of nodes; they sum to 1 - e^{-ch}."""
    begin = 0.7
    nodes = [begin - k * h * gap for k, gap in zip(range(count), (1.0, 1.0, 0.8, 0.9), strict=False)]
    weights = integral_weights(nodes, begin, begin + h, c)
    assert sum(weights) == pytest.approx(-math.expm1(-c * h), rel=1e-10)
    for power in range(count):
        # in units of the step, so that no power is lost in the others
        truth, _ = integrate.quad(
            lambda u: c * h * math.exp(-c * h * (1 - u)) * u**power,  # noqa: B023
            0,
            1,
            epsabs=1e-13,
            epsrel=1e-12,
        )
        found = sum(w * ((node - begin) / h) ** power for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx(truth, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("schedule", VP_SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_the_formula_of_its_paper(schedule: Schedule, eta: float) -> None:
    """Equations 12 and 16 of arXiv 2010.02502, with its alpha the square of ours, over the same noise."""
    denoiser = usual(schedule)
    batch = plain(40, seed=12)
    z = normal(6, 40, 1, 1, seed=13)
    grid = log_snr_grid(schedule, 6)
    alphas = schedule.alpha(grid) ** 2
    x = batch["noise"]
    for i in range(6):
        now, then = alphas[i], alphas[i + 1]
        prediction = at(denoiser, x, float(grid[i]))
        sigma = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).sqrt()
        x = then.sqrt() * prediction.x0 + (1 - then - sigma**2).sqrt() * prediction.eps + sigma * z[i]
    noise = iter(z)
    found = ddim(denoiser, grid=grid, order=1, eta=eta, draw=lambda: next(noise), **batch)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_on_any_schedule(schedule: Schedule, eta: float) -> None:
    """x' = a' m + s' sqrt(1 - eta^2 tau) e + s' eta sqrt(tau) z with tau = 1 - (a s' / (a' s))^2."""
    denoiser = usual(schedule)
    batch, z = plain(40, seed=14), normal(40, 1, 1, seed=15)
    grid = schedule.time(torch.tensor([-1.0, 0.7], dtype=torch.float64))
    (a, a_next), (s, s_next) = schedule.alpha(grid), schedule.sigma(grid)
    start = batch["noise"] * (a**2 + s**2).sqrt()
    prediction = at(denoiser, start, float(grid[0]))
    tau = 1 - (a * s_next / (a_next * s)) ** 2
    expected = a_next * prediction.x0 + s_next * ((1 - eta**2 * tau).sqrt() * prediction.eps + eta * tau.sqrt() * z)
    found = ddim(denoiser, grid=grid, order=1, eta=eta, draw=lambda: z, **batch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_ancestral_sampling_is_the_posterior_of_ddpm() -> None:
    """Equation 7 of arXiv 2006.11239, step by step down the whole chain at t = k / T, from its betas."""
    steps = 40
    betas = torch.linspace(1e-3, 0.3, steps, dtype=torch.float64)
    schedule = DDPMSchedule(betas)
    denoiser = usual(schedule)
    batch, z = plain(30, seed=16), normal(steps, 30, 1, 1, seed=17)
    bar = torch.cumprod(1 - betas, 0)
    x = batch["noise"]
    for k in range(steps, 1, -1):
        now, before, beta = bar[k - 1], bar[k - 2], betas[k - 1]
        x0 = at(denoiser, x, k / steps).x0
        mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - now)
        x = mean + ((1 - before) / (1 - now) * beta).sqrt() * z[k - 1]
    noise = iter(z.flip(0))
    grid = uniform_grid(schedule, steps - 1)
    torch.testing.assert_close(grid, torch.arange(steps, 0, -1, dtype=torch.float64) / steps)
    found = ancestral(denoiser, grid=grid, draw=lambda: next(noise), **batch)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_single_step_of_unipc_is_ddim(order: int) -> None:
    schedule = CosineSchedule()
    batch, grid = plain(20, seed=18), log_snr_grid(schedule, 1)
    torch.testing.assert_close(
        unipc(usual(schedule), grid=grid, order=order, **batch), ddim(usual(schedule), grid=grid, order=1, **batch)
    )


def test_unipc_corrects_a_step_with_the_value_at_its_end() -> None:
    """Two steps of order 1: the first again with m linear between both ends, the second from there with the value already there."""
    schedule = LinearSchedule()
    denoiser = usual(schedule)
    batch = plain(20, seed=19)
    grid = schedule.time(torch.tensor([-1.0, 0.4, 1.1], dtype=torch.float64))
    a, s = schedule.alpha(grid), schedule.sigma(grid)
    h = 0.7
    start = batch["noise"]
    m0 = at(denoiser, start, float(grid[0])).x0
    predicted = s[1] / s[0] * start + a[1] * -math.expm1(-h) * m0
    m1 = at(denoiser, predicted, float(grid[1])).x0
    # int_0^h e^{l - h} l / h dl
    share = 1 - -math.expm1(-h) / h
    corrected = s[1] / s[0] * start + a[1] * ((-math.expm1(-h) - share) * m0 + share * m1)
    expected = s[2] / s[1] * corrected + a[2] * -math.expm1(-0.35) * m1
    torch.testing.assert_close(unipc(denoiser, grid=grid, order=1, **batch), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_order_two_is_dpm_solver_2m(schedule: Schedule, eta: float) -> None:
    """D = m + (m - m_before) h / (2 h_before): algorithm 2 of arXiv 2211.01095, and its SDE in the same way, on the same noise.

    x' = (s' / s) x - a' (e^{-h} - 1) D
    x' = (s' / s) e^{-h} x + a' (1 - e^{-2h}) D + s' sqrt(1 - e^{-2h}) z
    """
    denoiser = usual(schedule)
    batch, z = plain(50, seed=20), normal(9, 50, 1, 1, seed=120)
    # steps of different lengths, none more than twice as long as the one before it
    log_snr = torch.tensor([-8, -7, -5.5, -4.5, -2.5, -1.5, 0, 2, 5, 7], dtype=torch.float64)
    grid = schedule.time(log_snr)
    a, s, lam = schedule.alpha(grid), schedule.sigma(grid), log_snr / 2
    x, before = batch["noise"] * torch.hypot(a[0], s[0]), None
    for i in range(9):
        m, h = at(denoiser, x, float(grid[i])).x0, lam[i + 1] - lam[i]
        d = m if before is None else m + (m - before) * h / (2 * (lam[i] - lam[i - 1]))
        if eta:
            fresh = -torch.expm1(-2 * h)
            x = s[i + 1] / s[i] * torch.exp(-h) * x + a[i + 1] * fresh * d + s[i + 1] * fresh.sqrt() * z[i]
        else:
            x = s[i + 1] / s[i] * x - a[i + 1] * torch.expm1(-h) * d
        before = m
    noise = iter(z)
    found = ddim(denoiser, grid=grid, order=2, eta=eta, draw=lambda: next(noise), **batch)
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", [2, 3])
def test_a_long_step_is_not_extrapolated(order: int) -> None:
    """A step more than twice as long as the one before it is of order 1; one a little shorter is not."""
    schedule = CosineSchedule()
    denoiser = usual(schedule)
    batch = plain(20, seed=21)

    def end(last: float) -> tuple[Tensor, Tensor]:
        lam = torch.tensor([-1.0, -0.8, -0.6, -0.6 + last], dtype=torch.float64)
        grid = schedule.time(2 * lam)
        seen: list[tuple[Tensor, Tensor]] = []
        x = ddim(denoiser, grid=grid, order=order, callback=lambda i, t, x, p: seen.append((x, p.x0)), **batch)
        before, m = seen[-1]
        a, s = schedule.alpha(grid), schedule.sigma(grid)
        return x, s[3] / s[2] * before - a[3] * math.expm1(-last) * m

    long, first_order = end(0.2 * STRETCH * 1.01)
    torch.testing.assert_close(long, first_order)
    short, first_order = end(0.2 * STRETCH * 0.99)
    assert float((short - first_order).abs().max()) > 1e-3


@pytest.mark.parametrize("schedule", VP_SCHEDULES)
@pytest.mark.parametrize("sampler", [ddim, unipc])
def test_high_orders_are_safe_on_a_uniform_grid(schedule: Schedule, sampler: Callable[..., Tensor]) -> None:
    """Twenty even times end in a jump of log-SNR of 7, over which order 3 would blow up (errors 0.35 to 1.0 are known)."""
    denoiser = eight_gaussians(schedule)
    batch = all_points(normal(200, 1, 2, seed=22))
    truth = unipc(denoiser, grid=log_snr_grid(schedule, 512), order=3, **batch)
    x = sampler(denoiser, grid=uniform_grid(schedule, 20), order=3, **batch)
    assert float((x - truth).square().mean().sqrt()) < 0.1


# Identities


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_samplers_that_are_the_same(schedule: Schedule) -> None:
    """With the same noise, to rounding."""
    denoiser = usual(schedule)
    batch, grid = plain(60, seed=23), log_snr_grid(schedule, 25)

    def run(sampler: Callable[..., Tensor], stochastic: bool = True, **options: Any) -> Tensor:
        if stochastic:
            options["draw"] = drawer(batch["noise"], seeded(24))
        return sampler(denoiser, grid=grid, **batch, **options)

    def same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)

    same(run(ito, eta=0.0), run(ddim, order=1))
    same(run(euler_maruyama, eta=0.0), run(euler, stochastic=False))
    same(run(edm_churn, churn=0.0), run(heun, stochastic=False))
    same(run(sde_dpm, order=1), run(ancestral))
    same(run(predictor_corrector, corrections=0.0), run(ancestral))
    for order in (1, 2, 3):
        same(run(sde_dpm, order=order), run(ddim, order=order, eta=1.0))
    same(run(restart, order=1, repeats=0.0), run(ddim, order=1))
    # not a part of the grid: nothing to go back to
    same(run(restart, order=3, log_snr_low=3.0, log_snr_high=3.0), run(ddim, order=3))


def test_euler_on_straight_lines_is_ddim() -> None:
    schedule = RectifiedSchedule()
    batch, grid = plain(60, seed=25), log_snr_grid(schedule, 25)
    torch.testing.assert_close(
        euler(usual(schedule), grid=grid, **batch), ddim(usual(schedule), grid=grid, order=1, **batch)
    )


def test_ito_is_the_exponential_integrator_of_the_noise_and_not_of_the_data() -> None:
    """It holds sigma score constant in sigma / alpha, which at eta = 1 is not what ancestral sampling holds; they meet at small steps."""
    schedule = CosineSchedule()
    denoiser = usual(schedule)
    batch = plain(60, seed=26)

    def apart(count: int) -> float:
        z = normal(60, 1, 1, seed=27)
        log_snr = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)[:2]
        grid = schedule.time(log_snr)
        one, other = (sampler(denoiser, grid=grid, draw=lambda: z, **batch) for sampler in (ito, ancestral))
        return float((one - other).abs().max())

    assert 0 < apart(20) < apart(10) / 1.9


@pytest.mark.parametrize("order", [1, 2, 3])
def test_restart_without_repeats_is_ddim_but_for_the_memory_at_the_split(order: int) -> None:
    schedule = CosineSchedule()
    denoiser = usual(schedule)
    batch = plain(60, seed=28)
    # the log-SNR is 3 at step 12 of 21
    grid = log_snr_grid(schedule, 21)
    middle = ddim(denoiser, grid=grid[:13], order=order, **batch)
    expected = follow(denoiser, middle, Levels.of(denoiser, grid[12:]), batch["mask"], batch["cond"], order=order)
    found = restart(denoiser, grid=grid, order=order, repeats=0.0, draw=drawer(batch["noise"], seeded(1)), **batch)
    torch.testing.assert_close(found, expected)
    # Each run starts over at order 1, an error of h^2 once: at most that of a step.
    whole = ddim(denoiser, grid=grid, order=order, **batch)
    assert float((found - whole).abs().median()) < 0.05


def test_restart_goes_back_by_the_forward_process() -> None:
    """One repeat by hand: the forward kernel from one level to the other, and down again."""
    schedule = LinearSchedule()
    denoiser = usual(schedule)
    batch, z = plain(40, seed=29), normal(40, 1, 1, seed=30)
    grid = log_snr_grid(schedule, 22)
    log_snr = schedule.log_snr(grid)
    high, low = int((log_snr - 0.0).abs().argmin()), int((log_snr - 3.0).abs().argmin())
    a, s = schedule.alpha(grid), schedule.sigma(grid)
    rest = (batch["mask"], batch["cond"])
    x = ddim(denoiser, grid=grid[: low + 1], **batch)
    # beta integrated between the two times: x_high = e^{-B/2} x + sqrt(1 - e^{-B}) z
    keep = torch.exp(schedule.decay(grid[low]) - schedule.decay(grid[high]))
    x = keep.sqrt() * x + (1 - keep).sqrt() * z
    x = follow(denoiser, x, Levels.of(denoiser, grid[high : low + 1]), *rest, order=2)
    expected = follow(denoiser, x, Levels.of(denoiser, grid[low:]), *rest, order=2)
    found = restart(denoiser, grid=grid, repeats=1.0, draw=lambda: z, **batch)
    torch.testing.assert_close(found, expected)
    assert float(a[high] / s[high]) < float(a[low] / s[low])


@pytest.mark.parametrize("schedule", VP_SCHEDULES)
def test_ddim_of_the_untrained_net_is_a_product_of_cosines(schedule: Schedule) -> None:
    """With F = 0 and alpha = cos a, sigma = sin a, a step from a to a' is x' = cos(a - a') x."""

    def nothing(x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        return torch.zeros_like(x)

    denoiser = Denoiser(nothing, schedule)  # type: ignore[arg-type]
    batch, grid = plain(10, seed=31), log_snr_grid(schedule, 15)
    angle = torch.atan2(schedule.sigma(grid), schedule.alpha(grid))
    x = ddim(denoiser, grid=grid, order=1, **batch)
    torch.testing.assert_close(x, batch["noise"] * angle.diff().cos().prod())


# What all samplers share


def epic() -> Denoiser:
    torch.manual_seed(0)
    net = build_net(EpicConfig(hidden=16, layers=2), 3, 1, ["etarel", "phirel", "ptrel"]).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(net, CosineSchedule())


# Langevin steps of the default size only shake a net that is no score; fewer of them are as good a test.
CHEAP: dict[str, dict[str, float]] = {"langevin": {"corrections": 2.0}, "rk45": {"tolerance": 1e-7}}
EVERY: list[tuple[str, int | None, dict[str, float]]] = [
    (name, order, CHEAP.get(name, {}))
    for name, sampler in SAMPLERS.items()
    for order in ((1, 2, 3) if sampler.has_order else (None,))
]
EVERY += [("ddim", order, {"eta": 0.7}) for order in (1, 2, 3)]


@pytest.mark.parametrize(("name", "order", "options"), EVERY)
def test_padding_order_and_batch_change_nothing(name: str, order: int | None, options: dict[str, float]) -> None:
    """To rounding, whatever stands at padding and whatever is drawn for it; rk45, whose clouds share a step, to its tolerance."""
    denoiser = epic()
    rng = seeded(9)
    mask = torch.arange(6) < torch.tensor([6, 2, 1])[:, None]
    noise = torch.randn(3, 6, 3, generator=rng, dtype=torch.float64)
    cond = torch.randn(3, 1, generator=rng, dtype=torch.float64)
    grid = log_snr_grid(denoiser.schedule, 8)

    def run(change: Callable[[Tensor], Tensor], mask: Tensor, cond: Tensor) -> Tensor:
        """Each noise is that of the whole batch, changed."""
        draw = drawer(noise, seeded(10))
        return sample(
            name, denoiser, change(noise), grid, mask, cond, order=order, draw=lambda: change(draw()), **options
        )

    def wider(z: Tensor) -> Tensor:
        return torch.cat([z, torch.full((3, 4, 3), 9.0, dtype=torch.float64)], 1)

    near = {"rtol": 1e-4, "atol": 1e-4} if name == "rk45" else {}
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        x = run(lambda z: z, mask, cond)
        assert bool(x.isfinite().all())
        assert bool((x[~mask] == 0).all())
        more = run(wider, torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1), cond)
        assert bool((more[:, 6:] == 0).all())
        torch.testing.assert_close(more[:, :6], x, **near)
        torch.testing.assert_close(run(lambda z: z[:, turn], mask[:, turn], cond), x[:, turn], **near)
        alone = run(lambda z: z[1:2, :2], mask[1:2, :2], cond[1:2])
        torch.testing.assert_close(alone, x[1:2, :2], **near)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_cloud_does_not_depend_on_its_batch_in_single_precision(name: str) -> None:
    """To 1e-4, in 20 steps; the initial noise is of order one."""
    denoiser = epic().float()
    mask = torch.arange(6) < torch.tensor([6, 4, 3, 1])[:, None]
    noise = normal(4, 6, 3, seed=32).float()
    cond = normal(4, 1, seed=33).float()
    grid = log_snr_grid(denoiser.schedule, 20)
    own = [normal(500, 6, 3, seed=34 + cloud).float() for cloud in range(4)]

    def run(clouds: list[int]) -> Tensor:
        count = iter(range(500))

        def draw() -> Tensor:
            k = next(count)
            return torch.stack([own[cloud][k] for cloud in clouds])

        where = torch.tensor(clouds)
        options = {"tolerance": 1e-6} if name == "rk45" else {}
        return sample(name, denoiser, noise[where], grid, mask[where], cond[where], draw=draw, **options)

    with torch.no_grad():
        whole = run([0, 1, 2, 3])
        assert whole.dtype == torch.float32
        for clouds in ([0], [3, 1], [2, 0, 3]):
            torch.testing.assert_close(run(clouds), whole[torch.tensor(clouds)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_callback_sees_each_step(name: str) -> None:
    """In their order, with the time of the clouds and what was said of them."""
    denoiser = usual(CosineSchedule())
    batch = plain(3, seed=35)
    grid = log_snr_grid(denoiser.schedule, 7)
    seen: list[int] = []

    def look(step: int, t: Tensor, x: Tensor, prediction: Prediction) -> None:
        assert x.shape == prediction.x0.shape == batch["noise"].shape
        torch.testing.assert_close(at(denoiser, x, float(t)).x0, prediction.x0)
        seen.append(step)

    draw = drawer(batch["noise"], seeded(2))
    sampler = SAMPLERS[name]
    noise = {"draw": draw} if sampler.stochastic else {}
    looked = sampler.function(denoiser, grid=grid, callback=look, **batch, **noise)
    assert seen == list(range(7))
    noise = {"draw": drawer(batch["noise"], seeded(2))} if sampler.stochastic else {}
    torch.testing.assert_close(sampler.function(denoiser, grid=grid, **batch, **noise), looked, rtol=1e-3, atol=1e-3)


def test_callback_sees_each_evaluation(two_gaussians: Denoiser) -> None:
    seen: list[tuple[int, float]] = []

    def look(step: int, t: torch.Tensor, x: torch.Tensor, prediction: Prediction) -> None:
        assert x.shape == prediction.x0.shape
        seen.append((step, float(t)))

    grid = log_snr_grid(two_gaussians.schedule, 5)
    ddim(two_gaussians, grid=grid, callback=look, **plain(2, seed=1))
    assert seen == [(i, float(grid[i])) for i in range(5)]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_evaluations_of_each_sampler(name: str) -> None:
    """One for each of 12 steps, but where the sampler says otherwise."""
    counted = 0

    class Counted:
        schedule = CosineSchedule()

        def __call__(self, x: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
            nonlocal counted
            counted += 1
            return usual(self.schedule)(x, t, mask, cond)

    batch = plain(2, seed=36)
    grid = log_snr_grid(CosineSchedule(), 12)
    sample(name, Counted(), grid=grid, draw=drawer(batch["noise"], seeded(3)), **batch)
    log_snr = CosineSchedule().log_snr(grid)
    between = int((log_snr - 3.0).abs().argmin() - (log_snr - 0.0).abs().argmin())
    expected = {"heun": 24, "edm-churn": 24, "predictor-corrector": 24, "langevin": 120, "restart": 12 + 2 * between}
    if name == "rk45":
        assert counted > 12
    else:
        assert counted == expected.get(name, 12)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("grid", [[0.5], [0.1, 0.9], [0.9, 0.5, 0.5]])
def test_a_grid_that_does_not_fall_is_refused(two_gaussians: Denoiser, grid: list[float], name: str) -> None:
    batch = plain(2, seed=1)
    with pytest.raises(ValueError, match="strictly falling"):
        sample(
            name,
            two_gaussians,
            grid=torch.tensor(grid, dtype=torch.float64),
            draw=drawer(batch["noise"], seeded(1)),
            **batch,
        )


def test_what_no_sampler_can_do_is_refused(two_gaussians: Denoiser) -> None:
    grid, batch = log_snr_grid(two_gaussians.schedule, 4), plain(2, seed=1)
    for order in (0, 4):
        with pytest.raises(ValueError, match="expected 1, 2 or 3"):
            ddim(two_gaussians, grid=grid, order=order, **batch)
    with pytest.raises(ValueError, match="fresh noise"):
        ddim(two_gaussians, grid=grid, eta=0.5, **batch)
    for eta in (-0.1, 1.5):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            ddim(two_gaussians, grid=grid, eta=eta, draw=drawer(batch["noise"], seeded(1)), **batch)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_by_its_name(two_gaussians: Denoiser, name: str) -> None:
    """Order and noise go to those that take them; ``denoise`` ends with the expected x0 at the last time."""
    grid, batch = log_snr_grid(two_gaussians.schedule, 6), plain(5, seed=37)
    sampler = SAMPLERS[name]
    chosen: dict[str, Any] = {"order": 1} if sampler.has_order else {}

    def run(**options: Any) -> Tensor:
        fresh = drawer(batch["noise"], seeded(4))
        order = {"order": 1} if sampler.has_order else {}
        return sample(name, two_gaussians, grid=grid, draw=fresh, **batch, **order, **options)

    if not sampler.has_order:
        with pytest.raises(ValueError, match=f"order is 1; the sampler {name} has none"):
            run(order=1)
    if sampler.stochastic:
        chosen["draw"] = drawer(batch["noise"], seeded(4))
    x = sampler.function(two_gaussians, grid=grid, **batch, **chosen)
    torch.testing.assert_close(run(), x, rtol=0, atol=0)
    torch.testing.assert_close(run(denoise=True), at(two_gaussians, x, float(grid[-1])).x0, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers_run_on_a_learned_schedule(name: str) -> None:
    """Its parameters may want gradients; untrained it is even in log-SNR, and its ends are the cosine schedule's."""
    denoiser = usual(LearnedSchedule())
    batch = plain(20, seed=38)
    grid = log_snr_grid(denoiser.schedule, 30)
    x = sample(name, denoiser, grid=grid, draw=drawer(batch["noise"], seeded(5)), **batch).detach()
    assert bool(x.isfinite().all())
    if not SAMPLERS[name].stochastic and name != "euler":
        truth = unipc(usual(CosineSchedule()), grid=log_snr_grid(CosineSchedule(), 512), order=3, **batch)
        assert float((x - truth).abs().median()) < 0.05


def test_samples_have_the_mixture_moments(two_gaussians: Denoiser) -> None:
    """Mean and variance of 20,000 samples of sum_k w_k N(m_k, s_k^2) within five standard errors."""
    batch = plain(20_000, seed=8)
    x = ddim(two_gaussians, grid=log_snr_grid(two_gaussians.schedule, 200), **batch).flatten()
    mean = 0.4 * -1.0 + 0.6 * 1.2
    variance = 0.4 * (0.3**2 + 1.0) + 0.6 * (0.4**2 + 1.44) - mean**2
    fourth = float((x - mean).pow(4).mean())
    assert abs(float(x.mean()) - mean) < 5 * (variance / len(x)) ** 0.5 + 5e-3
    assert abs(float(x.var()) - variance) < 5 * ((fourth - variance**2) / len(x)) ** 0.5 + 5e-3
