"""What stochastic samplers distribute clouds by: exactly for Gaussian data, and statistically for a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pcdiff.diffusion import (
    SAMPLERS,
    CosineSchedule,
    Denoiser,
    EDMSchedule,
    LinearSchedule,
    Schedule,
    VESchedule,
    drawer,
    langevin,
    log_snr_grid,
    sample,
)

from .conftest import mixture
from .exact import COVARIANCES, MEANS, WEIGHTS, all_points, correlated, moments, named, normal, pulls, seeded


def spread(name: str, schedule: Schedule, steps: int, std: float, **options: Any) -> float:
    """Variance of what a sampler makes of noise, in units of what it should be, for data N(0, std^2); exact, without chance.

    The denoiser is linear, so the result is a weighted sum of the initial noise and of each fresh one. Cloud 0 gets a one as the former,
    cloud k a one as the k-th fresh noise, and nothing else: the variance is the sum of the squares of their ends.
    """
    denoiser = mixture([0.0], [std], [1.0], schedule)
    grid = log_snr_grid(schedule, steps)
    calls = 0

    def count() -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(1, 1, 1, dtype=torch.float64)

    order = options.pop("order", None)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    sample(name, denoiser, grid=grid, order=order, draw=count, **all_points(one), **options)
    units = iter(torch.eye(calls + 1, dtype=torch.float64)[:, 1:].T[..., None, None])
    start = torch.zeros(calls + 1, 1, 1, dtype=torch.float64)
    start[0] = 1
    x = sample(name, denoiser, grid=grid, order=order, draw=lambda: next(units), **all_points(start), **options)
    end = schedule.level(grid[-1:])
    return float(x.square().sum() / (end.alpha**2 * std**2 + end.sigma**2))


# Sampler, options, and the order in which the error of its variance falls with the steps; None where terms of both signs cancel.
VARIANCES: list[tuple[str, dict[str, Any], float | None]] = [
    ("ddim", {"order": 1}, 1),
    ("ddim", {"order": 2}, 2),
    ("ddim", {"order": 3}, 3),
    ("ddim", {"order": 1, "eta": 0.5}, 1),
    ("ddim", {"order": 2, "eta": 0.5}, 2),
    ("ddim", {"order": 2, "eta": 1.0}, 2),
    ("unipc", {"order": 2}, 3),
    ("ancestral", {}, 1),
    ("sde-dpm", {"order": 2}, 2),
    ("sde-dpm", {"order": 3}, 2),
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("edm-churn", {"inflation": 1.0}, 2),
    ("edm-churn", {"inflation": 1.0, "churn": 10.0}, 2),
    ("euler-maruyama", {}, 1),
    ("euler-maruyama", {"eta": 0.5}, 1),
    ("ito", {}, 1),
    ("ito", {"eta": 0.5}, None),
    ("predictor-corrector", {}, 1),
    ("predictor-corrector", {"corrections": 2.0}, 1),
    ("langevin", {"step": 0.5}, 1),
    # Each descent starts over at order 1, an error of second order once.
    ("restart", {"order": 1}, 1),
    ("restart", {"order": 2}, 2),
    ("restart", {"order": 3}, 2),
]


@pytest.mark.parametrize("std", [0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "options", "order"),
    VARIANCES,
    ids=["-".join([n, *(f"{k}{v}" for k, v in o.items())]) for n, o, _ in VARIANCES],
)
def test_variance_of_gaussian_data_exactly(name: str, options: dict[str, Any], order: float | None, std: float) -> None:
    """With the steps the variance tends to that of the data, in the sampler's order less 0.25; at std 1 the net is F = 0.

    Measured errors at 320 steps, std 0.3: ancestral -3.2e-2, ddim 1 -1.6e-2, Euler-Maruyama 1.4e-2, predictor-corrector -1.3e-2, edm-churn
    2e-3, SDE-DPM 2 4e-4, ito 2e-4, ddim 2 1.4e-4; Langevin 2.8e-2 at 160 levels.
    """
    schedule = CosineSchedule()
    # The ODE keeps what the start has too much, r^2 for alpha^2 std^2 + sigma^2; fresh noise makes it forgotten.
    t = torch.tensor([schedule.t_max], dtype=torch.float64)
    a2, s2 = float(schedule.alpha(t)) ** 2, float(schedule.sigma(t)) ** 2
    noisy = SAMPLERS[name].stochastic and (name != "ddim" or "eta" in options)
    limit = 1.0 if noisy else (a2 + s2) / (a2 * std**2 + s2)
    steps = (40, 80, 160) if name == "langevin" else (80, 160, 320)
    errors = [abs(spread(name, schedule, count, std, **options) - limit) for count in steps]
    assert errors[-1] < 0.04
    if order is None:
        assert errors[-1] < 5e-3
    elif errors[-1] > 1e-9:
        assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] > order - 0.25


OF_TIME = [entry for entry in VARIANCES if entry[0] in ("edm-churn", "euler-maruyama", "langevin", "restart")]


@pytest.mark.parametrize("schedule", [LinearSchedule(), VESchedule(), EDMSchedule()], ids=lambda s: named([s])[0])
@pytest.mark.parametrize(
    ("name", "options", "order"),
    OF_TIME,
    ids=["-".join([n, *(f"{k}{v}" for k, v in o.items())]) for n, o, _ in OF_TIME],
)
def test_variance_of_gaussian_data_on_other_schedules(
    name: str, options: dict[str, Any], order: float, schedule: Schedule
) -> None:
    """Of those samplers that look up times or rescale clouds; the others know only the log-SNR."""
    coarse, fine = (abs(spread(name, schedule, count, 0.5, **options) - 1) for count in (60, 120))
    assert fine < 0.15
    assert fine < coarse / 1.6


# Sampler, steps, clouds, options. Those of first order need many steps: the bias of ancestral sampling at 400 is 2 standard errors of
# 20,000 clouds (measured with 100,000), that of annealed Langevin dynamics at 200 levels of ten steps of 0.1 is 6.
MOMENTS: list[tuple[str, int, int, dict[str, Any]]] = [
    ("ddim", 100, 20_000, {"order": 2, "eta": 0.5}),
    ("ddim", 200, 20_000, {"order": 2, "eta": 1.0}),
    ("ancestral", 1000, 5_000, {}),
    ("sde-dpm", 1000, 5_000, {"order": 1}),
    ("sde-dpm", 200, 20_000, {"order": 2}),
    ("sde-dpm", 200, 20_000, {"order": 3}),
    ("euler-maruyama", 300, 20_000, {}),
    ("ito", 200, 20_000, {}),
    ("edm-churn", 150, 20_000, {}),
    ("predictor-corrector", 200, 20_000, {"snr": 0.3}),
    ("langevin", 200, 5_000, {"step": 1.0}),
    ("restart", 100, 20_000, {}),
]


@pytest.mark.parametrize(
    ("name", "steps", "clouds", "options"),
    MOMENTS,
    ids=["-".join([n, *(f"{k}{v}" for k, v in o.items())]) for n, _, _, o in MOMENTS],
)
def test_samples_of_a_correlated_mixture(name: str, steps: int, clouds: int, options: dict[str, Any]) -> None:
    """Mean and covariance of a two-dimensional mixture, five numbers, within 4 standard errors of 5,000 or 20,000 clouds.

    The steps are such that the bias, measured with 100,000 clouds, is below one standard error. Seeds: 200 for the first noise and
    201 for the rest, in all cases, fixed before anything was run.
    """
    schedule = CosineSchedule()
    denoiser = correlated(MEANS, COVARIANCES, WEIGHTS, schedule)
    noise = normal(clouds, 1, 2, seed=200)
    grid = log_snr_grid(schedule, steps)
    x = sample(name, denoiser, grid=grid, draw=drawer(noise, seeded(201)), **all_points(noise), **options)[:, 0]
    mean, covariance = moments(MEANS, COVARIANCES, WEIGHTS)
    end = schedule.level(grid[-1:])
    alpha, sigma = float(end.alpha), float(end.sigma)
    found = pulls(x, alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2))
    assert float(found.abs().max()) < 4, found.tolist()


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.stochastic and n != "langevin"])
def test_weights_of_well_separated_components(name: str) -> None:
    """The share of clouds in each of two components 8 widths apart, 0.3 and 0.7, within 4 standard errors of 4,000 clouds.

    Which component a cloud falls into is decided at high noise; a wrong strength of noise or drift there shows here. Langevin
    dynamics, which is known not to find such shares (arXiv 1907.05600, section 3.2), is left out. Seeds 202 and 203.
    """
    denoiser: Denoiser = mixture([-1.2, 0.6], [0.2, 0.2], [0.3, 0.7])
    noise = normal(4_000, 1, 1, seed=202)
    grid = log_snr_grid(denoiser.schedule, 150)
    options: dict[str, Any] = {"eta": 1.0} if name == "ddim" else {}
    x = sample(name, denoiser, grid=grid, draw=drawer(noise, seeded(203)), **all_points(noise), **options).flatten()
    share = float((x < -0.3).double().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(x))


def test_langevin_dynamics_leaves_a_distribution_as_it_is() -> None:
    """At one level, x <- x + e / 2 score + sqrt(e) z keeps N(0, v) up to a variance of v / (1 - e / 4v); here e = step sigma^2.

    In closed form: with a = 1 - e / 2v, v' = a^2 v + e. The level is that of the data, v = alpha^2 + sigma^2 = 1.
    """
    schedule = CosineSchedule()
    grid = schedule.time(torch.tensor([-0.5, -0.5 + 1e-9], dtype=torch.float64))
    denoiser = mixture([0.0], [1.0], [1.0], schedule)
    sigma2 = float(schedule.sigma(grid[1])) ** 2
    e = 0.4 * sigma2
    v = 1.0
    for _ in range(7):
        v = (1 - e / 2) ** 2 * v + e
    units = iter(torch.eye(8, dtype=torch.float64)[:, 1:].T[..., None, None])
    start = torch.zeros(8, 1, 1, dtype=torch.float64)
    start[0] = 1
    x = langevin(denoiser, grid=grid, corrections=7.0, step=0.4, draw=lambda: next(units), **all_points(start))
    assert float(x.square().sum()) == pytest.approx(v, rel=1e-6)
    assert 1 < v < 1 / (1 - e / 4)


def test_no_noise_is_drawn_where_none_is_used() -> None:
    """The ODE forms of ddim and restart draw nothing, so that their clouds cost no random numbers."""
    denoiser = mixture([0.0], [1.0], [1.0])
    batch = all_points(normal(3, 1, 1, seed=204))
    grid = log_snr_grid(denoiser.schedule, 10)

    def refuse() -> Tensor:
        raise AssertionError

    runs: list[Callable[[], Tensor]] = [
        lambda: sample("ddim", denoiser, grid=grid, draw=refuse, **batch),
        lambda: sample("restart", denoiser, grid=grid, draw=refuse, **batch, repeats=0.0),
        lambda: sample("edm-churn", denoiser, grid=grid, draw=refuse, **batch, churn=0.0),
    ]
    for run in runs:
        assert bool(run().isfinite().all())
