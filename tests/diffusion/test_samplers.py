from __future__ import annotations

import numpy as np
import pytest
import torch

from pcdiff.config import EpicConfig, SamplingConfig
from pcdiff.diffusion import (
    GRIDS,
    SAMPLERS,
    CosineSchedule,
    Denoiser,
    LinearSchedule,
    Prediction,
    Schedule,
    ddim,
    log_snr_grid,
)
from pcdiff.nets import build_net

from .conftest import mixture

SCHEDULES = [CosineSchedule(), LinearSchedule()]


def plain(clouds: int, seed: int) -> dict[str, torch.Tensor]:
    """Clouds of one point with one coordinate."""
    return {
        "noise": torch.randn(clouds, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        "mask": torch.ones(clouds, 1, dtype=torch.bool),
        "cond": torch.zeros(clouds, 0, dtype=torch.float64),
    }


@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_grids_fall_from_noise_to_data(kind: str, schedule: Schedule) -> None:
    grid = GRIDS[kind](schedule, 17)
    assert grid.shape == (18,)
    assert grid.dtype == torch.float64
    assert bool((grid.diff() < 0).all())
    assert float(grid[0]) == pytest.approx(schedule.t_max, rel=1e-9)
    assert float(grid[-1]) == pytest.approx(schedule.t_min, rel=1e-6)


def test_log_snr_grid_is_even_in_log_snr() -> None:
    schedule = LinearSchedule()
    steps = schedule.log_snr(log_snr_grid(schedule, 20)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-6, atol=1e-8)


def test_config_offers_what_there_is() -> None:
    assert set(SamplingConfig.model_json_schema()["properties"]["grid"]["enum"]) == set(GRIDS)
    assert SamplingConfig.model_json_schema()["properties"]["sampler"]["const"] in SAMPLERS


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_order_of_convergence(order: int, schedule: Schedule) -> None:
    """On a mixture with the exact denoiser the endpoint error falls as steps^-order (64 to 512 steps, float64)."""
    denoiser = mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6], schedule)
    batch = plain(400, seed=5)
    reference = ddim(denoiser, grid=log_snr_grid(schedule, 8192), order=2, **batch)
    steps = np.array([64, 128, 256, 512])
    errors = []
    for count in steps:
        x = ddim(denoiser, grid=log_snr_grid(schedule, int(count)), order=order, **batch)
        errors.append(float((x - reference).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope >= order - 0.25


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gaussian_endpoint_in_closed_form(schedule: Schedule) -> None:
    """For data N(m, s^2) the flow keeps (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2) constant."""
    mean, std = 0.7, 0.5
    batch = plain(50, seed=6)
    grid = log_snr_grid(schedule, 2000)
    x = ddim(mixture([mean], [std], [1.0], schedule), grid=grid, **batch)
    a, s = schedule.alpha(grid[[0, -1]]), schedule.sigma(grid[[0, -1]])
    scale = (a**2 * std**2 + s**2).sqrt()
    expected = a[1] * mean + scale[1] * (batch["noise"] - a[0] * mean) / scale[0]
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_order_two_is_better_already_at_twenty_evaluations(schedule: Schedule) -> None:
    denoiser = mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6], schedule)
    batch = plain(400, seed=7)
    reference = ddim(denoiser, grid=log_snr_grid(schedule, 4096), **batch)

    def median(order: int) -> float:
        x = ddim(denoiser, grid=log_snr_grid(schedule, 20), order=order, **batch)
        return float((x - reference).abs().median())

    assert median(1) > 3 * median(2)


def test_samples_have_the_mixture_moments(two_gaussians: Denoiser) -> None:
    """Mean and variance of 20,000 samples of sum_k w_k N(m_k, s_k^2) within five standard errors."""
    batch = plain(20_000, seed=8)
    x = ddim(two_gaussians, grid=log_snr_grid(two_gaussians.schedule, 200), **batch).flatten()
    mean = 0.4 * -1.0 + 0.6 * 1.2
    variance = 0.4 * (0.3**2 + 1.0) + 0.6 * (0.4**2 + 1.44) - mean**2
    fourth = float((x - mean).pow(4).mean())
    assert abs(float(x.mean()) - mean) < 5 * (variance / len(x)) ** 0.5 + 5e-3
    assert abs(float(x.var()) - variance) < 5 * ((fourth - variance**2) / len(x)) ** 0.5 + 5e-3


@pytest.mark.parametrize("order", [1, 2])
def test_padding_order_and_batch_change_nothing(order: int) -> None:
    torch.manual_seed(0)
    net = build_net(EpicConfig(hidden=16, layers=2), 3, 1, ["etarel", "phirel", "ptrel"]).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    denoiser = Denoiser(net, CosineSchedule())
    rng = torch.Generator().manual_seed(9)
    mask = torch.arange(6) < torch.tensor([6, 2, 1])[:, None]
    noise = torch.randn(3, 6, 3, generator=rng, dtype=torch.float64)
    cond = torch.randn(3, 1, generator=rng, dtype=torch.float64)
    grid = log_snr_grid(denoiser.schedule, 8)
    with torch.no_grad():
        x = ddim(denoiser, noise, grid, mask, cond, order=order)
        assert bool((x[~mask] == 0).all())
        wider = torch.cat([noise, torch.full((3, 4, 3), 9.0, dtype=torch.float64)], 1)
        more = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
        torch.testing.assert_close(ddim(denoiser, wider, grid, more, cond, order=order)[:, :6], x)
        turn = torch.tensor([3, 0, 5, 1, 4, 2])
        torch.testing.assert_close(ddim(denoiser, noise[:, turn], grid, mask[:, turn], cond, order=order), x[:, turn])
        alone = ddim(denoiser, noise[1:2, :2], grid, mask[1:2, :2], cond[1:2], order=order)
        torch.testing.assert_close(alone, x[1:2, :2])


def test_callback_sees_each_evaluation(two_gaussians: Denoiser) -> None:
    seen: list[tuple[int, float]] = []

    def look(step: int, t: torch.Tensor, x: torch.Tensor, prediction: Prediction) -> None:
        assert x.shape == prediction.x0.shape
        seen.append((step, float(t)))

    grid = log_snr_grid(two_gaussians.schedule, 5)
    ddim(two_gaussians, grid=grid, callback=look, **plain(2, seed=1))
    assert seen == [(i, float(grid[i])) for i in range(5)]


@pytest.mark.parametrize("grid", [[0.5], [0.1, 0.9], [0.9, 0.5, 0.5]])
def test_a_grid_that_does_not_fall_is_refused(two_gaussians: Denoiser, grid: list[float]) -> None:
    with pytest.raises(ValueError, match="strictly falling"):
        ddim(two_gaussians, grid=torch.tensor(grid, dtype=torch.float64), **plain(2, seed=1))
