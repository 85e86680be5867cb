"""Each schedule against autograd, against its inverse, and against the formula of its paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pcdiff.config import ScheduleConfig
from pcdiff.diffusion import (
    CosineSchedule,
    DDPMSchedule,
    EDMSchedule,
    LearnedSchedule,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    SqrtRectifiedSchedule,
    SubVPSchedule,
    VESchedule,
    VPSchedule,
    build_schedule,
)

from .exact import SCHEDULES as CLOSED
from .exact import named, seeded


def learned(seed: int) -> LearnedSchedule:
    """As training could leave it: heights, slopes and centres far from where they start."""
    schedule = LearnedSchedule(8)
    for parameter, mean in ((schedule.height, 1.0), (schedule.slope, 15.0), (schedule.centre, 0.5)):
        torch.nn.init.normal_(parameter.data, mean, 0.3 * (1 + mean), generator=seeded(seed))
    return schedule


SCHEDULES: list[Schedule] = [*CLOSED, DDPMSchedule.linear(), LearnedSchedule(), learned(0), learned(1), learned(2)]
NAMES = [f"{i}-{name}" for i, name in enumerate(named(SCHEDULES))]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
preserving = pytest.mark.parametrize(
    "schedule", [s for s in SCHEDULES if isinstance(s, VPSchedule)], ids=lambda s: type(s).__name__
)


def times(schedule: Schedule) -> Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, 1001, dtype=torch.float64)


def inside(schedule: Schedule) -> Tensor:
    """Times even in log-SNR, on no knot of the chain, as leaves of autograd."""
    high, low = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).tolist()
    return schedule.time(torch.linspace(high, low, 403, dtype=torch.float64)[1:-1]).requires_grad_()


def slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    value = function(t)
    if not value.requires_grad:
        return torch.zeros_like(t)
    return torch.autograd.grad(value.sum(), t)[0]


@preserving
def test_variance_is_preserved(schedule: Schedule) -> None:
    t = times(schedule)
    total = (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).detach()
    torch.testing.assert_close(total, torch.ones_like(t), rtol=0, atol=1e-14)


@every
def test_log_snr_is_that_of_alpha_and_sigma(schedule: Schedule) -> None:
    t = times(schedule)
    ratio = 2 * torch.log(schedule.alpha(t) / schedule.sigma(t))
    torch.testing.assert_close(schedule.log_snr(t), ratio, rtol=1e-10, atol=1e-10)


@every
def test_log_snr_falls_and_its_inverse_returns(schedule: Schedule) -> None:
    t = times(schedule)
    log_snr = schedule.log_snr(t).detach()
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(schedule.time(log_snr), t, rtol=1e-9, atol=1e-12)


@every
def test_log_snr_of_the_inverse_is_the_identity(schedule: Schedule) -> None:
    high, low = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).tolist()
    log_snr = torch.linspace(high, low, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)).detach(), log_snr, rtol=1e-9, atol=1e-9)


@every
def test_derivatives_are_those_of_autograd(schedule: Schedule) -> None:
    t = inside(schedule)
    for function, derivative in (
        (schedule.alpha, schedule.d_alpha),
        (schedule.sigma, schedule.d_sigma),
        (schedule.log_snr, schedule.d_log_snr),
    ):
        expected = slope(function, t)
        scale = float(expected.abs().max().clamp(min=1e-9))
        torch.testing.assert_close(derivative(t).detach(), expected, rtol=1e-9, atol=1e-11 * scale)
    assert bool((schedule.d_log_snr(t) < 0).all())


@every
def test_level_is_what_the_single_functions_say(schedule: Schedule) -> None:
    t = times(schedule)
    level = schedule.level(t)
    for value, function in (
        (level.alpha, schedule.alpha),
        (level.sigma, schedule.sigma),
        (level.d_alpha, schedule.d_alpha),
        (level.d_sigma, schedule.d_sigma),
        (level.log_snr, schedule.log_snr),
        (level.d_log_snr, schedule.d_log_snr),
    ):
        assert value.shape == (1001, 1, 1)
        torch.testing.assert_close(value.flatten(), function(t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(level.r**2, level.alpha**2 + level.sigma**2)


@every
def test_noise_of_the_process_gives_back_the_variance(schedule: Schedule) -> None:
    """dx = f x dt + g dw from x0 has the variance sigma^2: g^2 = d(sigma^2)/dt - 2 f sigma^2 > 0 with f = alpha' / alpha."""
    t = inside(schedule)
    level = schedule.level(t)
    g2 = level.g2.flatten().detach()
    with torch.no_grad():
        f = schedule.d_alpha(t) / schedule.alpha(t)
        shrink = 2 * f * schedule.sigma(t) ** 2
    growth = slope(lambda time: schedule.sigma(time) ** 2, t)
    torch.testing.assert_close(g2, growth - shrink, rtol=1e-8, atol=1e-10 * float(g2.max()))
    assert bool((g2 > 0).all())


@every
def test_single_precision_keeps_the_level(schedule: Schedule) -> None:
    """Training and sampling of nets are in float32: alpha, sigma and their slopes to 1e-4 of their value, log-SNR to 1e-3."""
    t = times(schedule)
    with torch.no_grad():
        narrow = schedule.level(t.float())
        wide = schedule.level(t.float().double())
    torch.testing.assert_close(narrow.log_snr.double(), wide.log_snr, rtol=0, atol=1e-3)
    for name in ("alpha", "sigma", "d_alpha", "d_sigma"):
        torch.testing.assert_close(getattr(narrow, name).double(), getattr(wide, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule()])
def test_ends_reach_data_and_noise(schedule: Schedule) -> None:
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    assert float(schedule.sigma(ends)[0]) == pytest.approx(math.exp(-6), rel=1e-2)
    assert float(schedule.alpha(ends)[1]) < 0.012


@every
def test_ends_are_where_the_log_snr_is_12_and_minus_9_or_the_time_stops(schedule: Schedule) -> None:
    """The chain of DDPM begins at its first beta, 1e-4; it, linear and sub-VP end at t = 1, where exp(-B) = exp(-10.05)."""
    high, low = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).tolist()
    assert high == pytest.approx(math.log(1 / 1e-4 - 1) if isinstance(schedule, DDPMSchedule) else 12, abs=1e-6)
    if isinstance(schedule, DDPMSchedule):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        kept = float((1 - betas).prod())
        assert low == pytest.approx(math.log(kept / (1 - kept)), abs=1e-9)
    elif isinstance(schedule, LinearSchedule):
        assert low == pytest.approx(-math.log(math.expm1(10.05)), abs=1e-9)
    elif isinstance(schedule, SubVPSchedule):
        assert low == pytest.approx(-10.05 - 2 * math.log(-math.expm1(-10.05)), abs=1e-9)
    else:
        assert low == pytest.approx(-9, abs=1e-6)


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


def test_sub_vp_has_the_square_of_the_noise_of_vp() -> None:
    """Equation 35 of arXiv 2011.13456 beside its equation 33: the same alpha, and sigma = 1 - exp(-B) = sigma_VP^2."""
    schedule, linear = SubVPSchedule(), LinearSchedule()
    t = times(schedule)
    decay = 0.1 * t + 19.9 / 2 * t**2
    torch.testing.assert_close(schedule.alpha(t), torch.exp(-decay / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.sigma(t), 1 - torch.exp(-decay), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.sigma(t), linear.sigma(t) ** 2, rtol=1e-9, atol=1e-12)


def test_variance_exploding_noise_is_geometric() -> None:
    schedule = VESchedule()
    t = times(schedule)
    low, high = math.exp(-6), math.exp(4.5)
    torch.testing.assert_close(schedule.sigma(t), low * (high / low) ** t, rtol=1e-12, atol=0)
    assert bool((schedule.alpha(t) == 1).all())


def test_time_of_edm_is_the_noise() -> None:
    schedule = EDMSchedule()
    t = times(schedule)
    assert torch.equal(schedule.sigma(t), t)
    assert bool((schedule.alpha(t) == 1).all())
    torch.testing.assert_close(schedule.level(t).g2.flatten(), 2 * t)


def test_rectified_paths_are_straight_lines() -> None:
    schedule = RectifiedSchedule()
    t = times(schedule)
    torch.testing.assert_close(schedule.alpha(t) + schedule.sigma(t), torch.ones_like(t))
    assert torch.equal(schedule.sigma(t), t)


def test_square_root_of_rectified_noise_is_the_root_of_the_time() -> None:
    schedule = SqrtRectifiedSchedule()
    t = times(schedule)
    torch.testing.assert_close(schedule.sigma(t) ** 2, t)
    torch.testing.assert_close(schedule.alpha(t), 1 - t)


def test_ddpm_stands_at_its_chain_at_each_step() -> None:
    """alpha_k^2 = prod_{i <= k} (1 - beta_i) at t = k / T, for betas of any order."""
    betas = torch.rand(50, generator=seeded(0), dtype=torch.float64) * 0.3 + 0.01
    schedule = DDPMSchedule(betas)
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    torch.testing.assert_close(schedule.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-11, atol=0)
    assert (schedule.t_min, schedule.t_max) == (1 / 50, 1.0)


def test_ddpm_noises_at_a_constant_rate_within_a_step() -> None:
    """log alpha^2 is linear between the steps, with the slope T log(1 - beta_k)."""
    betas = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)
    t = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    log_alpha2 = 2 * DDPMSchedule(betas).alpha(t).log()
    expected = math.log(0.9) + (3 * t - 1) * math.log(0.7)
    torch.testing.assert_close(log_alpha2, expected, rtol=1e-12, atol=0)


def test_linear_schedule_is_the_limit_of_ddpm() -> None:
    """T betas from 0.1 / T to 20 / T differ from beta(t) = 0.1 + 19.9 t by a term that falls as 1 / T."""
    t = torch.linspace(0.05, 1, 300, dtype=torch.float64)
    expected = LinearSchedule().decay(t)
    off = [float((DDPMSchedule.linear(n, 0.1 / n, 20 / n).decay(t) - expected).abs().max()) for n in (1000, 2000, 4000)]
    assert off[0] < 0.15
    assert off[0] / off[1] == pytest.approx(2, rel=0.02)
    assert off[1] / off[2] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 0.0], [0.1, 1.0], [[0.1, 0.2]]])
def test_chains_that_are_none_are_refused(betas: list[Any]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        DDPMSchedule(torch.tensor(betas))


def test_an_untrained_learned_schedule_is_even_in_log_snr() -> None:
    """The heights of softplus(-6) = 0.0025 bend a line of length 21 by at most 0.0025 times 21."""
    schedule = LearnedSchedule()
    t = times(schedule)
    assert float((schedule.log_snr(t).detach() - (12 - 21 * t)).abs().max()) < 0.0025 * 21


def test_ends_of_a_learned_schedule_do_not_move() -> None:
    """They are those of the bound, which a schedule that could move them would lower without limit."""
    schedule = learned(3)
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([12.0, -9.0], dtype=torch.float64))
    for parameter in schedule.parameters():
        (gradient,) = torch.autograd.grad(ends.sum(), parameter, retain_graph=True)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


def test_each_parameter_of_a_learned_schedule_can_learn() -> None:
    schedule = LearnedSchedule()
    schedule.log_snr(torch.tensor([0.31, 0.77])).sum().backward()
    for parameter in schedule.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any())


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("cosine", CosineSchedule),
        ("linear", LinearSchedule),
        ("ddpm", DDPMSchedule),
        ("sub-vp", SubVPSchedule),
        ("ve", VESchedule),
        ("edm", EDMSchedule),
        ("rectified", RectifiedSchedule),
        ("rectified-sqrt", SqrtRectifiedSchedule),
        ("learned", LearnedSchedule),
    ],
)
def test_config_names_the_schedule(kind: str, cls: type[Schedule]) -> None:
    assert type(build_schedule(ScheduleConfig.model_validate({"kind": kind}))) is cls


def test_config_gives_the_chain() -> None:
    config = {"kind": "ddpm", "steps": 40, "beta_first": 0.01, "beta_last": 0.3}
    betas = torch.linspace(0.01, 0.3, 40, dtype=torch.float64)
    alpha2 = build_schedule(ScheduleConfig.model_validate(config)).alpha(torch.tensor([0.5, 1.0]).double()) ** 2
    torch.testing.assert_close(alpha2, (1 - betas).cumprod(0)[[19, 39]])


@pytest.mark.parametrize("key", ["steps", "beta_first", "beta_last"])
@pytest.mark.parametrize("kind", ["cosine", "linear", "sub-vp", "ve", "edm", "rectified", "rectified-sqrt", "learned"])
def test_the_chain_of_other_kinds_is_refused(kind: str, key: str) -> None:
    value = 10 if key == "steps" else 0.005
    with pytest.raises(ValidationError, match="ddpm only"):
        ScheduleConfig.model_validate({"kind": kind, key: value})
