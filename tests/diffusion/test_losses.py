from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcdiff.config import EpicConfig
from pcdiff.diffusion import (
    WEIGHTS,
    CosineSchedule,
    Denoiser,
    EDMSchedule,
    LinearSchedule,
    Potential,
    RectifiedSchedule,
    Schedule,
    action_loss,
    ddim,
    denoising_loss,
    draw_times,
    pair_loss,
    probe,
    score_matching_loss,
)
from pcdiff.nets import build_net

from .conftest import mixture
from .exact import SCHEDULES, named, seeded


def trained_like(seed: int = 0, schedule: Schedule | None = None, *, dimension: float | None = None) -> Denoiser:
    """A net whose last layer is not zero."""
    torch.manual_seed(seed)
    net = build_net(EpicConfig(hidden=16, layers=2), 3, 2, ["etarel", "phirel", "ptrel"]).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Denoiser(net, schedule or CosineSchedule(), dimension=dimension)


def clouds(seed: int = 1) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None]
    x0 = torch.randn(4, 7, 3, generator=rng, dtype=torch.float64) * mask[..., None]
    return {
        "x0": x0,
        "mask": mask,
        "cond": torch.randn(4, 2, generator=rng, dtype=torch.float64),
        "t": torch.rand(4, generator=rng, dtype=torch.float64) * 0.9 + 0.05,
        "noise": torch.randn(4, 7, 3, generator=rng, dtype=torch.float64),
    }


def test_weights_differ_by_alpha_squared() -> None:
    denoiser, batch = trained_like(), clouds()
    epsilon = denoising_loss(denoiser, **batch, weight="epsilon")
    velocity = denoising_loss(denoiser, **batch, weight="velocity")
    torch.testing.assert_close(epsilon, velocity * denoiser.schedule.alpha(batch["t"]) ** 2)


def test_epsilon_weight_is_the_error_of_the_noise() -> None:
    denoiser, batch = trained_like(), clouds()
    a, s = denoiser.schedule.alpha(batch["t"])[:, None, None], denoiser.schedule.sigma(batch["t"])[:, None, None]
    valid = batch["mask"][..., None]
    noise = batch["noise"] * valid
    eps = denoiser(a * batch["x0"] + s * noise, batch["t"], batch["mask"], batch["cond"]).eps * valid
    direct = ((eps - noise) ** 2).sum((1, 2)) / (batch["mask"].sum(1) * 3)
    torch.testing.assert_close(denoising_loss(denoiser, **batch, weight="epsilon"), direct)


def test_padding_and_order_of_points_change_nothing() -> None:
    denoiser, batch = trained_like(), clouds()
    expected = denoising_loss(denoiser, **batch)
    more = {key: torch.cat([batch[key], torch.ones(4, 5, 3, dtype=torch.float64)], 1) for key in ("x0", "noise")}
    more["x0"][:, 7:] = 0
    mask = torch.cat([batch["mask"], torch.zeros(4, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(denoising_loss(denoiser, **{**batch, **more, "mask": mask}), expected)
    order = torch.tensor([4, 6, 0, 2, 1, 5, 3])
    permuted = {key: batch[key][:, order] for key in ("x0", "noise", "mask")}
    torch.testing.assert_close(denoising_loss(denoiser, **{**batch, **permuted}), expected)


def test_a_cloud_does_not_depend_on_its_batch() -> None:
    denoiser, batch = trained_like(), clouds()
    together = denoising_loss(denoiser, **batch)
    alone = torch.cat([denoising_loss(denoiser, **{k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)])
    torch.testing.assert_close(alone, together)


def test_loss_of_the_exact_denoiser_is_the_posterior_variance() -> None:
    """For x0 ~ N(0, 1) the least epsilon loss is Var(eps | x_t) = alpha^2; the untrained net attains it."""
    schedule = CosineSchedule()
    denoiser = Denoiser(build_net(EpicConfig(hidden=4, layers=1), 1, 0, ["x"]), schedule)
    n = 200_000
    rng = torch.Generator().manual_seed(2)
    t = torch.full((n,), 0.4)
    with torch.no_grad():
        loss = denoising_loss(
            denoiser,
            torch.randn(n, 1, 1, generator=rng),
            torch.ones(n, 1, dtype=torch.bool),
            torch.zeros(n, 0),
            t=t,
            noise=torch.randn(n, 1, 1, generator=rng),
        )
    expected = float(schedule.alpha(t[:1])) ** 2
    # each loss is expected times a chi-squared of one degree, of standard deviation sqrt(2)
    assert abs(float(loss.mean()) - expected) < 5 * expected * (2 / n) ** 0.5


def test_low_discrepancy_times_fill_each_stratum_once() -> None:
    schedule = LinearSchedule()
    t, _ = draw_times(schedule, 64, "low-discrepancy", torch.Generator().manual_seed(3))
    unit = (t.double() - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert bool(((unit >= -1e-7) & (unit <= 1)).all())
    gaps = unit.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((63,), 1 / 64, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_uniform_times_are_uniform() -> None:
    schedule = CosineSchedule()
    n = 100_000
    t = draw_times(schedule, n, "uniform", torch.Generator().manual_seed(4))[0].double()
    unit = (t - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert abs(float(unit.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5


Objective = Callable[[dict[str, Tensor]], Tensor]


def objectives() -> dict[str, Objective]:
    """Each objective of each cloud, as a function of a batch with all that any of them needs."""

    def some(batch: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
        return {name: batch[name] for name in ("mask", "cond", *names)}

    found: dict[str, Objective] = {}
    for weight in WEIGHTS:
        found[weight] = lambda b, w=weight: denoising_loss(trained_like(), **some(b, "x0", "t", "noise"), weight=w)
    for dimension in (1.0, 64.0):
        poisson = trained_like(schedule=EDMSchedule(), dimension=dimension)
        found[f"poisson-{dimension:.0f}"] = lambda b, d=poisson: denoising_loss(
            d, **some(b, "x0", "t", "noise", "unit"), weight="velocity"
        )
    found["implicit"] = lambda b: score_matching_loss(trained_like(), **some(b, "x0", "t", "noise"))
    found["sliced"] = lambda b: score_matching_loss(trained_like(), **some(b, "x0", "t", "noise", "vectors"))
    for schedule in (CosineSchedule(), RectifiedSchedule()):
        net = Denoiser(Potential(trained_like().net), schedule)
        found[f"action-{type(schedule).__name__}"] = lambda b, d=net: action_loss(d, **some(b, "x0", "unit", "noise"))
    found["pairs"] = lambda b: pair_loss(trained_like(), solution=b["x0"], **some(b, "noise"))
    return found


OBJECTIVES = objectives()
each = pytest.mark.parametrize("name", list(OBJECTIVES))


def everything(seed: int = 1) -> dict[str, Tensor]:
    """A batch with the uniforms and the projections of the objectives that draw them."""
    batch = clouds(seed)
    unit = torch.tensor([0.2, 0.9, 0.5, 0.03], dtype=torch.float64)
    return {**batch, "unit": unit, "vectors": probe(batch["x0"], batch["mask"], "rademacher", seeded(seed))}


@each
def test_padding_changes_no_objective(name: str) -> None:
    """Five more columns in which the noise is not zero."""
    batch = everything()
    more = {
        key: torch.cat([batch[key], torch.ones(4, 5, 3, dtype=torch.float64)], 1) for key in ("x0", "noise", "vectors")
    }
    more["x0"][:, 7:] = 0
    more["vectors"][:, 7:] = 0
    more["mask"] = torch.cat([batch["mask"], torch.zeros(4, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(OBJECTIVES[name]({**batch, **more}), OBJECTIVES[name](batch), rtol=1e-9, atol=1e-10)


@each
def test_order_of_points_changes_no_objective(name: str) -> None:
    batch = everything()
    order = torch.tensor([4, 6, 0, 2, 1, 5, 3])
    moved = {key: batch[key][:, order] for key in ("x0", "noise", "vectors", "mask")}
    torch.testing.assert_close(OBJECTIVES[name]({**batch, **moved}), OBJECTIVES[name](batch), rtol=1e-9, atol=1e-10)


@each
def test_no_objective_of_a_cloud_depends_on_its_batch(name: str) -> None:
    batch = everything()
    alone = torch.cat([OBJECTIVES[name]({k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)])
    torch.testing.assert_close(alone, OBJECTIVES[name](batch), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("weight", list(WEIGHTS))
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_expected_loss_of_a_gaussian_is_the_weight_times_the_variance_of_f(schedule: Schedule, weight: str) -> None:
    """For x0 ~ N(0, 1) the exact F is 0 and F* = (alpha eps - sigma x0) / r is N(0, 1): the mean loss is the weight.

    At the middle of the log-SNR, 40,000 clouds of one entry, within 5 standard errors, sqrt(2 / n) times the weight.
    """
    n = 40_000
    denoiser = mixture([0.0], [1.0], [1.0], schedule)
    t = schedule.time(torch.full((n,), 1.5, dtype=torch.float64))
    one, noise = torch.randn(2, n, 1, 1, generator=seeded(5), dtype=torch.float64)
    loss = denoising_loss(
        denoiser, one, torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 0), t=t, noise=noise, weight=weight
    )
    expected = float(WEIGHTS[weight](schedule.level(t[:1])))
    assert abs(float(loss.mean()) / expected - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_loss_of_the_exact_denoiser_is_the_least(schedule: Schedule, two_gaussians: Denoiser) -> None:
    """E loss(F* exact + h) - E loss(exact) = E |h|^2, the cross term being zero: for three shifts h(y), 40,000 clouds, 5 standard errors."""
    n = 40_000
    exact = Denoiser(two_gaussians.net, schedule)

    class Shifted(torch.nn.Module):
        def __init__(self, shift: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            made: Tensor = two_gaussians.net(x, log_snr, mask, cond)
            return made + self.shift(x)

    generator = seeded(6)
    low = torch.rand(n, generator=generator, dtype=torch.float64) < 0.4
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    x0 = torch.where(low, -1.0 + 0.3 * normal, 1.2 + 0.4 * normal)[:, None, None]
    noise = torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
    t = schedule.time(torch.full((n,), 0.5, dtype=torch.float64))
    mask, cond = torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 0)
    least = denoising_loss(exact, x0, mask, cond, t=t, noise=noise, weight="velocity")
    level = schedule.level(t)
    y = (level.alpha * x0 + level.sigma * noise) / level.r
    for shift in (torch.ones_like, lambda y: 0.5 * y, lambda y: torch.sin(3 * y)):
        loss = denoising_loss(Denoiser(Shifted(shift), schedule), x0, mask, cond, t=t, noise=noise, weight="velocity")
        cross = loss - least - shift(y).square().flatten()
        assert abs(float(cross.mean())) < 5 * float(cross.std()) / n**0.5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_pair_loss_is_that_of_ddim_in_one_step(schedule: Schedule) -> None:
    """The loss is the squared distance from the solution to where one step of DDIM from t_max to t_min ends, in units of r there."""
    denoiser, batch = trained_like(schedule=schedule), clouds()
    mask, cond, noise, solution = batch["mask"], batch["cond"], batch["noise"], batch["x0"]
    with torch.no_grad():
        loss = pair_loss(denoiser, noise, solution, mask, cond)
        ends = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
        made = ddim(denoiser, noise, ends, mask, cond, order=1)
        r = schedule.level(ends[1:]).r
    direct = ((made - solution) / r).square().sum((1, 2)) / (mask.sum(1) * 3)
    torch.testing.assert_close(loss, direct, rtol=1e-7, atol=1e-9)


def test_a_poisson_flow_without_its_uniform_is_refused() -> None:
    with pytest.raises(ValueError, match="one uniform a cloud"):
        denoising_loss(trained_like(schedule=EDMSchedule(), dimension=8.0), **clouds())


def test_a_large_cloud_counts_as_much_as_a_small_one() -> None:
    """The square is averaged over the entries of a cloud: that of a cloud of equal points does not depend on their number."""
    denoiser = mixture([0.0], [1.0], [1.0])
    losses = []
    for n in (1, 9):
        ones = torch.ones(1, n, 1, dtype=torch.float64)
        t = torch.tensor([0.5], dtype=torch.float64)
        mask = torch.ones(1, n, dtype=torch.bool)
        losses.append(denoising_loss(denoiser, 0.7 * ones, mask, torch.zeros(1, 0), t=t, noise=-0.2 * ones))
    torch.testing.assert_close(losses[0], losses[1])
