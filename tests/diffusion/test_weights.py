"""Each named weight against the direct definition of its loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcdiff.diffusion import (
    WEIGHTS,
    DDPMSchedule,
    LearnedSchedule,
    Prediction,
    RectifiedSchedule,
    Schedule,
    VPSchedule,
)

from .exact import SCHEDULES as CLOSED
from .exact import named, normal

SCHEDULES: list[Schedule] = [*CLOSED, DDPMSchedule.linear(), LearnedSchedule()]


class Case:
    """Clouds at 40 times of a schedule, what a net says of them, and the log-SNR by autograd."""

    def __init__(self, schedule: Schedule) -> None:
        t = torch.linspace(schedule.t_min, schedule.t_max, 42, dtype=torch.float64)[1:-1].requires_grad_()
        log_snr = schedule.log_snr(t)
        self.slope = torch.autograd.grad(log_snr.sum(), t)[0][:, None, None]
        t = t.detach()
        with torch.no_grad():
            self.level = schedule.level(t)
            self.alpha, self.sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
        self.snr = (self.alpha / self.sigma) ** 2
        self.x0, self.eps = normal(40, 3, 2, seed=0), normal(40, 3, 2, seed=1)
        self.made = Prediction(self.alpha * self.x0 + self.sigma * self.eps, normal(40, 3, 2, seed=2), self.level)
        self.target = (self.alpha * self.eps - self.sigma * self.x0) / self.level.r
        self.velocity = self.level.d_alpha * self.x0 + self.level.d_sigma * self.eps

    @property
    def eps_error(self) -> Tensor:
        return (self.eps - self.made.eps).square()


DIRECT: dict[str, Callable[[Case], Tensor]] = {
    "epsilon": lambda c: c.eps_error,
    "velocity": lambda c: (c.target - c.made.output).square(),
    "x0": lambda c: (c.x0 - c.made.x0).square(),
    "flow-matching": lambda c: (c.velocity - c.made.velocity).square(),
    "likelihood": lambda c: -c.slope / 2 * c.eps_error,
    "min-snr": lambda c: torch.minimum(c.snr, torch.tensor(5.0)) / c.snr * c.eps_error,
    "sigmoid": lambda c: torch.sigmoid(2 - c.snr.log()) * -c.slope / 2 * c.eps_error,
    "output": lambda c: -c.slope / 2 * (c.target - c.made.output).square(),
}


def test_each_weight_has_its_direct_definition_here() -> None:
    assert DIRECT.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weight_times_the_error_of_f_is_the_loss_itself(name: str, schedule: Schedule) -> None:
    case = Case(schedule)
    made = WEIGHTS[name](case.level) * (case.target - case.made.output).square()
    torch.testing.assert_close(made, DIRECT[name](case), rtol=1e-7, atol=1e-10)


def test_flow_matching_on_straight_lines_regresses_eps_less_x0() -> None:
    """|(eps - x0) - velocity|^2 (arXiv 2210.02747)."""
    case = Case(RectifiedSchedule())
    made = WEIGHTS["flow-matching"](case.level) * (case.target - case.made.output).square()
    torch.testing.assert_close(made, ((case.eps - case.x0) - case.made.velocity).square())


@pytest.mark.parametrize(
    "schedule", [s for s in SCHEDULES if isinstance(s, VPSchedule)], ids=lambda s: type(s).__name__
)
def test_velocity_is_the_error_of_v_where_the_variance_is_preserved(schedule: Schedule) -> None:
    case = Case(schedule)
    v = case.alpha * case.eps - case.sigma * case.x0
    torch.testing.assert_close(
        WEIGHTS["velocity"](case.level) * (case.target - case.made.output) ** 2, (v - case.made.v) ** 2
    )


def test_velocity_is_the_weight_of_edm() -> None:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the error of x0 (arXiv 2206.00364) at sigma_data = 1."""
    case = Case(next(s for s in CLOSED if type(s).__name__ == "EDMSchedule"))
    lam = (case.sigma**2 + 1) / case.sigma**2
    made = WEIGHTS["velocity"](case.level) * (case.target - case.made.output).square()
    torch.testing.assert_close(made, lam * (case.x0 - case.made.x0).square())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_are_positive_and_finite_from_end_to_end(name: str, schedule: Schedule) -> None:
    t = torch.linspace(schedule.t_min, schedule.t_max, 1001)
    with torch.no_grad():
        weight = WEIGHTS[name](schedule.level(t))
    assert weight.shape == (1001, 1, 1)
    assert bool(torch.isfinite(weight).all())
    assert bool((weight > 0).all())
