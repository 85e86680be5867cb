from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from pcdiff.diffusion import (
    CosineSchedule,
    Denoiser,
    LearnedSchedule,
    LinearSchedule,
    Prediction,
    Schedule,
    ddim,
    fit_grids,
    log_snr_grid,
    unipc,
)
from pcdiff.diffusion.fitted import Floats, _shortest, _step_errors
from pcdiff.diffusion.samplers import Levels

from .conftest import mixture
from .exact import COVARIANCES, MEANS, WEIGHTS, all_points, correlated, named, normal


def one_dimension(schedule: Schedule) -> Denoiser:
    return mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6], schedule)


def two_dimensions(schedule: Schedule) -> Denoiser:
    return correlated(MEANS, COVARIANCES, WEIGHTS, schedule)


CASES = [
    (two_dimensions(CosineSchedule()), 2),
    (two_dimensions(LinearSchedule()), 2),
    (one_dimension(CosineSchedule()), 1),
]


@pytest.mark.parametrize(("denoiser", "width"), CASES, ids=["2D-Cosine", "2D-Linear", "1D-Cosine"])
def test_fitted_grids_are_better_than_even_ones(denoiser: Denoiser, width: int) -> None:
    """Endpoint error of order 2 on noise that the grid was not fitted to, root mean square over 1,000 clouds, even / fitted:

    5 steps .137 / .121, .154 / .101, .207 / .165; 10 steps .060 / .021, .066 / .017, .091 / .052; 20 steps .018 / .0087, .019 / .0076,
    .026 / .0055: by 1.1 to 1.5, 1.8 to 3.8 and 2.1 to 4.7 times.
    """
    batch = all_points(normal(256, 1, width, seed=400))
    grids = fit_grids(denoiser, batch["noise"], batch["mask"], batch["cond"], (5, 10, 20), fine=48)
    fresh = all_points(normal(1000, 1, width, seed=401))
    truth = unipc(denoiser, grid=log_snr_grid(denoiser.schedule, 1024), order=3, **fresh)

    def error(grid: Tensor) -> float:
        return float((ddim(denoiser, grid=grid, order=2, **fresh) - truth).square().mean().sqrt())

    for steps, gain in ((5, 1.1), (10, 1.5), (20, 2.0)):
        grid = grids[steps]
        assert grid.shape == (steps + 1,)
        assert grid.dtype == torch.float64
        assert bool((grid.diff() < 0).all())
        assert (float(grid[0]), float(grid[-1])) == (denoiser.schedule.t_max, denoiser.schedule.t_min)
        even, fitted = error(log_snr_grid(denoiser.schedule, steps)), error(grid)
        assert fitted < even / gain


def trajectory(denoiser: Denoiser, width: int, fine: int) -> tuple[list[Tensor], list[Tensor], Floats, Levels]:
    """Clouds, predictions and step errors along a fine solution."""
    grid = log_snr_grid(denoiser.schedule, fine)
    states: list[Tensor] = []
    values: list[Tensor] = []

    def look(step: int, t: Tensor, x: Tensor, prediction: Prediction) -> None:
        states.append(x)
        values.append(prediction.x0)

    batch = all_points(normal(40, 1, width, seed=402))
    states.append(unipc(denoiser, grid=grid, order=3, callback=look, **batch))
    vectors = torch.stack([*states, *values]).flatten(1)
    levels = Levels.of(denoiser, grid)
    return states, values, _step_errors((vectors @ vectors.T / vectors.shape[1]).numpy(), levels), levels


class Told:
    """A denoiser that says what it was told to, one after the other."""

    def __init__(self, schedule: Schedule, values: list[Tensor]) -> None:
        self.schedule = schedule
        self.values = iter(values)

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        return Prediction.of("x0", next(self.values), x, self.schedule.level(t))


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule()], ids=lambda s: named([s])[0])
def test_predicted_step_errors_are_those_of_real_steps(schedule: Schedule) -> None:
    """A step of order 2 from fine time j to k after i, taken by the sampler itself, misses the fine solution by errors[i, j, k] r."""
    denoiser = two_dimensions(schedule)
    states, values, errors, levels = trajectory(denoiser, 2, 20)
    alpha, sigma, lam = levels.alpha, levels.sigma, levels.lam
    seen = set()
    for i, j, k in [(0, 3, 6), (2, 3, 4), (5, 8, 13), (4, 5, 12), (10, 14, 20), (0, 1, 20), (7, 15, 16), (3, 5, 9)]:
        # from where the first step, i to j, comes to x_j exactly
        keep = 1 - np.exp(lam[i] - lam[j])
        before = (states[j] - alpha[j] * keep * values[i]) * sigma[i] / sigma[j]
        noise = before / np.hypot(alpha[i], sigma[i])
        told = Told(schedule, [values[i], values[j]])
        x = ddim(told, grid=levels.t[[i, j, k]], order=2, **all_points(noise))
        missed = (x - states[k]).square().mean().sqrt() / np.hypot(alpha[k], sigma[k])
        assert errors[i, j, k] == pytest.approx(float(missed), rel=1e-4, abs=1e-7)
        seen.add(k - j > 2 * (j - i))
    assert seen == {False, True}
    # the first step, which has none before it
    noise = states[0] / np.hypot(alpha[0], sigma[0])
    x = ddim(denoiser, grid=levels.t[[0, 7]], order=1, **all_points(noise))
    missed = (x - states[7]).square().mean().sqrt() / np.hypot(alpha[7], sigma[7])
    assert errors[0, 0, 7] == pytest.approx(float(missed), rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_the_way_with_the_least_sum_of_errors_is_found(count: int) -> None:
    """Against all ways through 9 fine times, for errors of a real trajectory and for random ones."""
    fine = 8
    _, _, real, _ = trajectory(two_dimensions(CosineSchedule()), 2, fine)
    i, j, k = np.ogrid[:fine, :fine, : fine + 1]
    random = np.where((i <= j) & (j < k), np.random.default_rng(403).random((fine, fine, fine + 1)), np.inf)
    for errors in (real, random):

        def total(path: tuple[int, ...], errors: Floats = errors) -> float:
            first = errors[0, 0, path[1]]
            return float(first + sum(errors[i, j, k] for i, j, k in zip(path, path[1:], path[2:], strict=False)))

        best = min(total((0, *inner, fine)) for inner in combinations(range(1, fine), count - 1))
        path = tuple(_shortest(errors, count).tolist())
        assert path[0] == 0
        assert path[-1] == fine
        assert len(path) == count + 1
        assert total(path) == pytest.approx(best, rel=1e-12)


def test_padding_does_not_count() -> None:
    """Clouds of mixed sizes give the grid of their points alone, whatever stands at padding."""
    denoiser = one_dimension(CosineSchedule())
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2] * 10)[:, None]
    noise = normal(40, 5, 1, seed=404)
    cond = noise.new_zeros(40, 0)
    padded = fit_grids(denoiser, torch.where(mask[..., None], noise, 50.0), mask, cond, (6,), fine=24)[6]
    points = noise[mask][:, None]
    batch = all_points(points)
    alone = fit_grids(denoiser, points, batch["mask"], batch["cond"], (6,), fine=24)[6]
    torch.testing.assert_close(padded, alone)


def test_a_learned_schedule_has_fitted_grids() -> None:
    denoiser = one_dimension(LearnedSchedule())
    batch = all_points(normal(50, 1, 1, seed=405))
    grid = fit_grids(denoiser, batch["noise"], batch["mask"], batch["cond"], (4,), fine=16)[4]
    assert bool((grid.diff() < 0).all())


@pytest.mark.parametrize("steps", [0, 16, 40])
def test_numbers_of_steps_that_the_fine_solution_does_not_have_are_refused(steps: int) -> None:
    batch = all_points(normal(5, 1, 1, seed=406))
    with pytest.raises(ValueError, match="from 1 to 15"):
        fit_grids(one_dimension(CosineSchedule()), batch["noise"], batch["mask"], batch["cond"], (5, steps), fine=16)
