"""Times to train at: their laws, and what their factors divide out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pcdiff.diffusion import (
    WEIGHTS,
    CosineSchedule,
    DDPMSchedule,
    EDMSchedule,
    LearnedSchedule,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    draw_times,
)
from pcdiff.diffusion.times import TimeKind, comb

from .exact import SCHEDULES as CLOSED
from .exact import named, seeded

SCHEDULES: list[Schedule] = [*CLOSED, DDPMSchedule.linear(), LearnedSchedule()]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
KINDS: list[TimeKind] = ["uniform", "low-discrepancy", "logit-normal", "importance", "log-snr"]


def test_comb_has_one_tooth_in_each_stratum() -> None:
    teeth = comb(64, seeded(0)).double()
    assert sorted((teeth * 64).floor().long().tolist()) == list(range(64))
    torch.testing.assert_close(teeth.sort().values.diff(), torch.full((63,), 1 / 64).double(), rtol=0, atol=1e-6)


def test_shift_of_the_comb_is_uniform() -> None:
    """Over 2,000 combs the place of the first tooth within its stratum passes a Kolmogorov-Smirnov test at p > 1e-3."""
    generator = seeded(1)
    shifts = [float(comb(4, generator).min()) * 4 for _ in range(2000)]
    assert stats.kstest(shifts, "uniform").pvalue > 1e-3


@every
def test_low_discrepancy_times_fill_each_stratum_once(schedule: Schedule) -> None:
    t, factor = draw_times(schedule, 64, "low-discrepancy", seeded(2))
    unit = (t.double() - schedule.t_min) / (schedule.t_max - schedule.t_min)
    torch.testing.assert_close(unit.sort().values.diff(), torch.full((63,), 1 / 64).double(), rtol=1e-3, atol=1e-6)
    assert bool((factor == 1).all())


@pytest.mark.parametrize("kind", KINDS)
@every
def test_times_lie_between_the_ends(schedule: Schedule, kind: TimeKind) -> None:
    t, factor = draw_times(schedule, 1000, kind, seeded(3), weight="likelihood")
    assert t.shape == factor.shape == (1000,)
    assert t.dtype == factor.dtype == torch.float32
    rounding = 1e-7 * schedule.t_max
    assert schedule.t_min - rounding <= float(t.min())
    assert float(t.max()) <= schedule.t_max + rounding
    assert bool((factor > 0).all())


@every
def test_logit_normal_times_have_a_normal_log_snr(schedule: Schedule) -> None:
    """Of log(sigma / alpha) mean -1.2 and standard deviation 1.2, truncated to the ends: the quantiles, at 4,096 even ones, to 0.002.

    The comb leaves no statistical error but its shift, at most one tooth: where the density of the normal is at least 0.05 (quantiles
    2 % to 98 %) a tooth is 1 / 4096 / 0.05 * 1.2 = 0.006 wide at most, and on the mean half of that.
    """
    count = 4096
    t, factor = draw_times(schedule, count, "logit-normal", seeded(4))
    assert bool((factor == 1).all())
    with torch.no_grad():
        made = (-schedule.log_snr(t.double()) / 2).sort().values.numpy()
        ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        low, high = (-schedule.log_snr(ends) / 2).tolist()
    law = stats.truncnorm((low + 1.2) / 1.2, (high + 1.2) / 1.2, loc=-1.2, scale=1.2)
    expected = law.ppf((np.arange(count) + 0.5) / count)
    middle = slice(count // 50, -count // 50)
    assert np.abs(made - expected)[middle].max() < 0.006
    assert made.mean() == pytest.approx(law.mean(), abs=0.002)
    assert made.std() == pytest.approx(law.std(), abs=0.002)


def test_logit_normal_times_of_edm_are_log_normal_and_of_straight_lines_logit_normal() -> None:
    """log t of EDM and log(t / (1 - t)) of rectified times are N(-1.2, 1.2^2); truncation at -6 and 4.5 cuts 3e-5 off.

    One time from each of 3,000 combs of a single tooth are independent draws: Kolmogorov-Smirnov at p > 1e-3.
    """
    generator = seeded(5)
    single = [float(draw_times(EDMSchedule(), 1, "logit-normal", generator)[0]) for _ in range(3000)]
    assert stats.kstest(np.log(single), "norm", args=(-1.2, 1.2)).pvalue > 1e-3
    single = [float(draw_times(RectifiedSchedule(), 1, "logit-normal", generator)[0]) for _ in range(3000)]
    assert stats.kstest(np.log(single) - np.log1p(-np.array(single)), "norm", args=(-1.2, 1.2)).pvalue > 1e-3


SMOOTH: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    "one": lambda schedule, t: torch.ones_like(t),
    "time": lambda schedule, t: (t - schedule.t_min) / (schedule.t_max - schedule.t_min),
    "error": lambda schedule, t: 1 + torch.tanh(schedule.log_snr(t) / 4) ** 2,
}


@pytest.mark.parametrize("weight", list(WEIGHTS))
@every
def test_importance_times_leave_the_weighted_mean(schedule: Schedule, weight: str) -> None:
    """E_p[factor w f] over a comb of 8,192 times is E_uniform[w f], by a quadrature of 100,000 cells, to a thousandth of E[w].

    The error of a comb is at most the variation of what is averaged over the number of teeth, and factor w is about E[w] everywhere.
    """
    with torch.no_grad():
        if isinstance(schedule, LearnedSchedule):  # whose time is about even in log-SNR already, and slow to invert
            edges = torch.linspace(schedule.t_min, schedule.t_max, 100_001, dtype=torch.float64)
        else:
            high, low = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).tolist()
            edges = schedule.time(torch.linspace(high, low, 100_001, dtype=torch.float64))
        middle = (edges[1:] + edges[:-1]) / 2
        measure = WEIGHTS[weight](schedule.level(middle)).flatten() * edges.diff() / (schedule.t_max - schedule.t_min)
        t, factor = (value.double() for value in draw_times(schedule, 8192, "importance", seeded(6), weight=weight))
        drawn = WEIGHTS[weight](schedule.level(t)).flatten() * factor / 8192
        for function in SMOOTH.values():
            expected, made = measure @ function(schedule, middle), drawn @ function(schedule, t)
            assert abs(float(made - expected)) < 1e-3 * float(measure.sum())


@every
def test_factors_of_importance_times_undo_the_weight_of_the_bound(schedule: Schedule) -> None:
    """p ~ w, so that w / p is constant but for the change of w within a cell, 21 / 512 of log-SNR: by the factor exp(1.5 * 21 / 512)
    at most, for w falls no faster than sigma^-3 (EDM). The rate of the chain of DDPM jumps by a fifth after its first step besides.
    """
    t, factor = draw_times(schedule, 4096, "importance", seeded(7), weight="likelihood")
    with torch.no_grad():
        product = factor.double() * WEIGHTS["likelihood"](schedule.level(t.double())).flatten()
    jump = 1.2 if isinstance(schedule, DDPMSchedule) else 1.0
    assert float(product.max() / product.min()) < jump * math.exp(1.5 * 21 / 512)


def test_importance_times_of_the_bound_are_even_in_the_noise_that_is_left() -> None:
    """For a variance-preserving schedule w = -log_snr' / 2 alpha^2 is sigma' / sigma, so that p is even in log sigma."""
    schedule = CosineSchedule()
    t, _ = draw_times(schedule, 4096, "importance", seeded(8), weight="likelihood")
    made = schedule.sigma(t.double()).log().sort().values
    ends = schedule.sigma(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).log()
    even = ends[0] + (ends[1] - ends[0]) * (torch.arange(4096) + 0.5) / 4096
    assert float((made - even).abs().max()) < 0.01


def test_importance_lowers_the_variance_of_the_bound() -> None:
    """The error of F being one at all t, single draws of w / p have a hundredth of the variance of w at uniform times."""
    schedule = LinearSchedule()
    variance = {}
    for kind in KINDS[::3]:
        t, factor = draw_times(schedule, 20_000, kind, seeded(9), weight="likelihood")
        variance[kind] = float((WEIGHTS["likelihood"](schedule.level(t.double())).flatten() * factor).var())
    assert variance["importance"] < 0.01 * variance["uniform"]


def test_uniform_times_are_uniform_and_independent() -> None:
    """100,000 times: the mean within 5 standard errors, and neighbours uncorrelated within 5."""
    schedule = CosineSchedule()
    n = 100_000
    t, factor = draw_times(schedule, n, "uniform", seeded(10))
    unit = (t.double() - schedule.t_min) / (schedule.t_max - schedule.t_min) - 0.5
    assert abs(float(unit.mean())) < 5 * math.sqrt(1 / 12 / n)
    assert abs(float((unit[1:] * unit[:-1]).mean())) < 5 / 12 / math.sqrt(n)
    assert bool((factor == 1).all())


@every
def test_even_log_snr_times_and_their_factors(schedule: Schedule) -> None:
    """Even between the ends of the log-SNR; the mean of factor g(t) is that of g over uniform times, here of 1 and of t."""
    n = 20_000
    t, factor = draw_times(schedule, n, "log-snr", seeded(20))
    log_snr = schedule.log_snr(t.double()).detach()
    ends = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)).detach()
    unit = ((log_snr - ends[0]) / (ends[1] - ends[0])).sort().values
    torch.testing.assert_close(unit, (torch.arange(n) + 0.5).double() / n, rtol=0, atol=2e-3)
    middle = (schedule.t_min + schedule.t_max) / 2
    assert float(factor.double().mean()) == pytest.approx(1, rel=5e-3)
    assert float((factor.double() * t.double()).mean()) == pytest.approx(middle, rel=5e-3)
