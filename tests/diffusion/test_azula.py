"""Samplers against those of azula, an independent implementation, given the same denoiser, times and noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcdiff.diffusion import (
    CosineSchedule,
    Denoiser,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    SubVPSchedule,
    VESchedule,
    ancestral,
    ddim,
    heun,
    ito,
    uniform_grid,
)
from pcdiff.diffusion.samplers.exponential import integral_weights

from .exact import COVARIANCES, MEANS, WEIGHTS, all_points, at, correlated, named, normal

pytest.importorskip("azula")

import azula.denoise
import azula.noise
import azula.sample

SCHEDULES = [CosineSchedule(), LinearSchedule(), RectifiedSchedule(), SubVPSchedule(), VESchedule()]


class OurSchedule(azula.noise.Schedule):
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(t), self.schedule.sigma(t)


class OurDenoiser(azula.denoise.Denoiser):
    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = OurSchedule(denoiser.schedule)

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> azula.denoise.Posterior:
        return azula.denoise.DiracPosterior(mean=at(self.denoiser, x_t, float(t)).x0)


def theirs(kind: type[azula.sample.Sampler], denoiser: Denoiser, steps: int, noise: Tensor, **options: Any) -> Tensor:
    """From our start: azula steps evenly in t, so does :func:`uniform_grid`."""
    schedule = denoiser.schedule
    sampler = kind(
        OurDenoiser(denoiser),
        start=schedule.t_max,
        stop=schedule.t_min,
        steps=steps,
        silent=True,
        dtype=torch.float64,
        **options,
    )
    torch.testing.assert_close(sampler.timesteps, uniform_grid(schedule, steps))
    torch.manual_seed(300)
    x: Tensor = sampler(noise * schedule.level(sampler.timesteps[:1]).r)
    return x


def same_noise(like: Tensor) -> Any:
    torch.manual_seed(300)
    return lambda: torch.randn_like(like)


@pytest.fixture
def noise() -> Tensor:
    return normal(200, 1, 2, seed=301)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_ddim_and_heun(schedule: Schedule, noise: Tensor) -> None:
    denoiser = correlated(MEANS, COVARIANCES, WEIGHTS, schedule)
    grid = uniform_grid(schedule, 30)
    for ours, kind in (
        (ddim(denoiser, grid=grid, order=1, **all_points(noise)), azula.sample.DDIMSampler),
        (heun(denoiser, grid=grid, **all_points(noise)), azula.sample.HeunSampler),
    ):
        torch.testing.assert_close(ours, theirs(kind, denoiser, 30, noise), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_stochastic_samplers(schedule: Schedule, noise: Tensor) -> None:
    """DDPM, DDIM (whose eta is our eta^2) and Ito's form, on the same noise."""
    denoiser = correlated(MEANS, COVARIANCES, WEIGHTS, schedule)
    batch = {"grid": uniform_grid(schedule, 30), **all_points(noise)}
    for ours, kind, options in (
        (ancestral(denoiser, draw=same_noise(noise), **batch), azula.sample.DDPMSampler, {}),
        (ddim(denoiser, order=1, eta=0.6, draw=same_noise(noise), **batch), azula.sample.DDIMSampler, {"eta": 0.36}),
        (ito(denoiser, eta=0.7, draw=same_noise(noise), **batch), azula.sample.ItoSampler, {"eta": 0.7}),
    ):
        torch.testing.assert_close(ours, theirs(kind, denoiser, 30, noise, **options), rtol=1e-8, atol=1e-8)


def test_third_order_multistep(noise: Tensor) -> None:
    """On the variance-exploding schedule, where times even in t are even in log-SNR and no step is long.

    The second step, which has but two values to go by, is by DPM-Solver++ 2M here and by the exact integral there; at its noise of 70
    hardly anything of it is left at the end.
    """
    denoiser = correlated(MEANS, COVARIANCES, WEIGHTS, VESchedule())
    ours = ddim(denoiser, grid=uniform_grid(denoiser.schedule, 40), order=3, **all_points(noise))
    found = theirs(azula.sample.xEABSampler, denoiser, 40, noise, order=3)
    torch.testing.assert_close(ours, found, rtol=0, atol=2e-6)


@pytest.mark.parametrize("order", [2, 3])
def test_weights_of_exponential_integrators(order: int) -> None:
    """The integrals of Lagrange polynomials are those of azula, which multiplies by sigma' what we multiply by alpha'."""
    u = torch.tensor([3.0, 2.4, 2.1, 1.3, 0.2], dtype=torch.float64)
    lam = (-u).tolist()
    for step in range(order - 1, 4):
        coefficients = azula.sample.xEABSampler._exponential_adams_bashforth(u, i=step, n=order)
        nodes = lam[step::-1][:order]
        weights = torch.tensor(integral_weights(nodes, lam[step], lam[step + 1]), dtype=torch.float64)
        found = -torch.exp(u[step + 1]) * coefficients.flip(0)
        torch.testing.assert_close(weights, found, rtol=1e-9, atol=1e-12)


def test_second_order_multistep(noise: Tensor) -> None:
    """Of the same order and apart by their third-order terms: the exact integral against that of DPM-Solver++ 2M."""
    denoiser = correlated(MEANS, COVARIANCES, WEIGHTS, VESchedule())

    def apart(steps: int) -> float:
        ours = ddim(denoiser, grid=uniform_grid(denoiser.schedule, steps), order=2, **all_points(noise))
        return float((ours - theirs(azula.sample.xEABSampler, denoiser, steps, noise, order=2)).abs().median())

    coarse, fine = apart(100), apart(200)
    assert fine < 5e-4
    assert coarse / fine > 2**1.75
