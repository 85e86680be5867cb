from __future__ import annotations

import pytest
import torch

from pcdiff.diffusion import GRIDS, DDPMSchedule, LearnedSchedule, Schedule, karras_grid, log_snr_grid

from .exact import SCHEDULES, named

ALL = [*SCHEDULES, DDPMSchedule.linear(1000), LearnedSchedule()]


@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_grids_fall_from_noise_to_data(kind: str, schedule: Schedule) -> None:
    grid = GRIDS[kind](schedule, 17)
    assert grid.shape == (18,)
    assert grid.dtype == torch.float64
    assert bool((grid.diff() < 0).all())
    assert float(grid[0]) == pytest.approx(schedule.t_max, rel=1e-9)
    assert float(grid[-1]) == pytest.approx(schedule.t_min, rel=1e-6)


@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
@pytest.mark.parametrize("steps", [1, 2000])
def test_grids_fall_at_any_number_of_steps(kind: str, schedule: Schedule, steps: int) -> None:
    grid = GRIDS[kind](schedule, steps)
    assert grid.shape == (steps + 1,)
    assert bool((grid.diff() < 0).all())
    assert bool((grid >= schedule.t_min).all())
    assert bool((grid <= schedule.t_max).all())


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_log_snr_grid_is_even_in_log_snr(schedule: Schedule) -> None:
    steps = schedule.log_snr(log_snr_grid(schedule, 20)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_karras_grid_is_even_in_the_seventh_root_of_the_noise(schedule: Schedule) -> None:
    grid = karras_grid(schedule, 20)
    steps = (schedule.sigma(grid) / schedule.alpha(grid)).detach().pow(1 / 7).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-6, atol=1e-8)
    assert float(steps[0]) < 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_uniform_and_quadratic_grids_are_even_in_the_time_and_in_its_root(schedule: Schedule) -> None:
    for grid, even in (
        (GRIDS["uniform"](schedule, 20), lambda t: t),
        (GRIDS["quadratic"](schedule, 20), torch.sqrt),
    ):
        steps = even(grid).diff()
        torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-9, atol=1e-12)


def test_karras_grid_of_edm_is_that_of_the_paper() -> None:
    """Equation 5 of arXiv 2206.00364 with rho = 7."""
    schedule = next(s for s in SCHEDULES if type(s).__name__ == "EDMSchedule")
    n = 18
    low, high = schedule.t_min, schedule.t_max
    expected = [(high ** (1 / 7) + i / n * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n + 1)]
    torch.testing.assert_close(karras_grid(schedule, n), torch.tensor(expected, dtype=torch.float64))
