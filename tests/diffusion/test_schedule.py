from __future__ import annotations

import math

import pytest
import torch

from pcdiff.config import ScheduleConfig
from pcdiff.diffusion import CosineSchedule, LinearSchedule, Schedule, build_schedule

SCHEDULES = [CosineSchedule(), LinearSchedule()]


def times(schedule: Schedule) -> torch.Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, 1001, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_variance_is_preserved(schedule: Schedule) -> None:
    t = times(schedule)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_is_that_of_alpha_and_sigma(schedule: Schedule) -> None:
    t = times(schedule)
    ratio = 2 * torch.log(schedule.alpha(t) / schedule.sigma(t))
    torch.testing.assert_close(schedule.log_snr(t), ratio, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_falls_and_its_inverse_returns(schedule: Schedule) -> None:
    t = times(schedule)
    log_snr = schedule.log_snr(t)
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(schedule.time(log_snr), t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_reach_data_and_noise(schedule: Schedule) -> None:
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    assert float(schedule.sigma(ends)[0]) == pytest.approx(math.exp(-6), rel=1e-2)
    assert float(schedule.alpha(ends)[1]) < 0.012


def test_cosine_is_a_quarter_turn() -> None:
    schedule = CosineSchedule()
    t = times(schedule)
    torch.testing.assert_close(schedule.alpha(t), torch.cos(math.pi / 2 * t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.sigma(t), torch.sin(math.pi / 2 * t), rtol=1e-9, atol=1e-12)


def test_linear_decays_at_the_rate_beta() -> None:
    schedule = LinearSchedule()
    t = times(schedule).requires_grad_()
    (rate,) = torch.autograd.grad((2 * torch.log(schedule.alpha(t))).sum(), t)
    torch.testing.assert_close(rate, -(0.1 + 19.9 * t.detach()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kind", "cls"), [("cosine", CosineSchedule), ("linear", LinearSchedule)])
def test_config_names_the_schedule(kind: str, cls: type[Schedule]) -> None:
    assert isinstance(build_schedule(ScheduleConfig.model_validate({"kind": kind})), cls)
