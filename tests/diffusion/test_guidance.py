from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcdiff.config import EpicConfig
from pcdiff.diffusion import (
    CosineSchedule,
    Denoiser,
    DenoiserLike,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    ddim,
    drawer,
    heun,
    log_snr_grid,
    sample,
)
from pcdiff.diffusion.guidance import ClassifierFree, Constrained, InPainted, MomentMatching, Posterior, repaint
from pcdiff.nets import build_net

from .conftest import MixtureNet, mixture
from .exact import all_points, at, gaussian, named, normal, pulls, random_covariance, seeded

FOUR: list[Schedule] = [CosineSchedule(), LinearSchedule(), RectifiedSchedule(), VESchedule()]


def levels(schedule: Schedule, t: float) -> tuple[float, float]:
    time = torch.tensor(t, dtype=torch.float64)
    return float(schedule.alpha(time)), float(schedule.sigma(time))


def between(schedule: Schedule) -> list[float]:
    """Three times: of much, some and little noise."""
    times: list[float] = schedule.time(torch.tensor([-4.0, 0.5, 6.0], dtype=torch.float64)).tolist()
    return times


def epic(conditions: int = 2) -> Denoiser:
    torch.manual_seed(0)
    net = build_net(EpicConfig(hidden=16, layers=2), 3, conditions, ["etarel", "phirel", "ptrel"]).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Denoiser(net, CosineSchedule())


def clouds(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, mask and conditions of four clouds of 6, 4, 2 and 3 points."""
    mask = torch.arange(6) < torch.tensor([6, 4, 2, 3])[:, None]
    return normal(4, 6, 3, seed=seed) * mask[..., None], mask, normal(4, 2, seed=seed + 1)


WRAPPERS: dict[str, Callable[[DenoiserLike, slice | Tensor, Tensor], DenoiserLike]] = {
    "classifier-free": lambda d, clouds, turn: ClassifierFree(d, 1.7),
    "in-painted": lambda d, clouds, turn: InPainted(
        d, normal(4, 6, 3, seed=600)[clouds][:, turn], (normal(4, 6, 3, seed=601) > 0)[clouds][:, turn]
    ),
    "posterior": lambda d, clouds, turn: Posterior(
        d, lambda x0, mask: -(x0[..., 0].sum(1) - torch.tensor([5.0, 4, 3, 2])[clouds]).square()
    ),
    "moment-matching": lambda d, clouds, turn: MomentMatching(
        d,
        lambda x0, mask: torch.stack([x0[..., 0].sum(1), x0[..., 1].square().sum(1)], 1),
        normal(4, 2, seed=602)[clouds],
        torch.tensor([0.3, 0.2]).double(),
    ),
    "constrained": lambda d, clouds, turn: Constrained(
        d, lambda x0, mask: x0[..., :2].sum(1) - torch.tensor([[1.0, -2.0]]).double()
    ),
}


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrappers_keep_masks_order_and_batches(name: str) -> None:
    """A cloud's prediction follows its points and does not know its batch, and padding stays zero.

    What is observed is summed over all points of a tensor, for a clean cloud is zero at padding: the gradient there must not come through.
    """
    x, mask, cond = clouds(603)
    wrap, denoiser = WRAPPERS[name], epic()
    everything, same = slice(None), torch.arange(6)
    for t in between(denoiser.schedule):

        def predict(
            wrapped: DenoiserLike, x: Tensor, mask: Tensor, cond: Tensor, t: float = t
        ) -> tuple[Tensor, Tensor]:
            prediction = wrapped(x, x.new_full((len(x),), t), mask, cond)
            return prediction.x0.detach(), prediction.eps.detach()

        x0, eps = predict(wrap(denoiser, everything, same), x, mask, cond)
        assert bool((x0[~mask] == 0).all())
        assert bool((eps[~mask] == 0).all())
        assert bool(x0.isfinite().all())
        turn = torch.tensor([3, 0, 4, 1, 5, 2])
        turned, _ = predict(wrap(denoiser, everything, turn), x[:, turn], mask[:, turn], cond)
        torch.testing.assert_close(turned, x0[:, turn], rtol=1e-7, atol=1e-9)
        one = torch.tensor([1])
        alone, _ = predict(wrap(denoiser, one, same[:4]), x[1:2, :4], mask[1:2, :4], cond[1:2])
        torch.testing.assert_close(alone, x0[1:2, :4], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", list(WRAPPERS))
@pytest.mark.parametrize("sampler", ["ddim", "heun", "ancestral"])
def test_samplers_run_on_wrapped_denoisers(name: str, sampler: str) -> None:
    """Clouds come out finite and zero at padding, also where the caller records no gradients."""
    noise, mask, cond = clouds(605)
    denoiser = WRAPPERS[name](epic(), slice(None), torch.arange(6))
    if name == "posterior":
        denoiser.strength = 0.01  # type: ignore[attr-defined]
    with torch.no_grad():
        x = sample(
            sampler,
            denoiser,
            noise,
            log_snr_grid(denoiser.schedule, 10),
            mask,
            cond,
            draw=drawer(noise, seeded(606)),
            denoise=True,
        )
    assert bool(x.isfinite().all())
    assert bool((x[~mask] == 0).all())


# Classifier-free


class ClassNet(nn.Module):
    """The second condition says which of two normal laws a point is of: -1 or 1, and 0 that it may be either, 0.3 to 0.7."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.both = (
            MixtureNet([-1.0], [0.4], [1.0]),
            MixtureNet([0.8], [0.5], [1.0]),
            MixtureNet([-1.0, 0.8], [0.4, 0.5], [0.3, 0.7]),
        )

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        out: Tensor = sum(
            net(x, log_snr, mask, cond) * (cond[:, 1] == label)[:, None, None]
            for net, label in ((self.one, -1), (self.other, 1), (self.both, 0))
        )
        return out


@pytest.mark.parametrize("schedule", FOUR, ids=named(FOUR))
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_extrapolates_the_noise(schedule: Schedule, scale: float) -> None:
    """eps = eps_without + scale (eps_with - eps_without) in closed form; 1 is the conditional denoiser, 0 the unconditional one."""
    x = normal(60, 1, 1, seed=607)
    labels = torch.tensor([-1.0, 1.0] * 30).double()
    cond = torch.stack([torch.ones(60).double(), labels], 1)
    mask = torch.ones(60, 1, dtype=torch.bool)
    guided = ClassifierFree(Denoiser(ClassNet(), schedule), scale)
    for t in between(schedule):
        alpha, sigma = levels(schedule, t)
        truth = []
        for means, stds, weights in (
            ([-1.0], [0.4], [1.0]),
            ([0.8], [0.5], [1.0]),
            ([-1.0, 0.8], [0.4, 0.5], [0.3, 0.7]),
        ):
            # -sigma d log p(x_t) / dx by automatic differentiation of the density
            leaf = x.clone().requires_grad_()
            parts = [
                math.log(w / math.hypot(alpha * s, sigma))
                - (leaf - alpha * m) ** 2 / (2 * (alpha**2 * s**2 + sigma**2))
                for m, s, w in zip(means, stds, weights, strict=True)
            ]
            (score,) = torch.autograd.grad(torch.logsumexp(torch.stack(parts), 0).sum(), leaf)
            truth.append(-sigma * score)
        with_it = torch.where(labels[:, None, None] < 0, truth[0], truth[1])
        found = guided(x, x.new_full((60,), t), mask, cond).eps
        torch.testing.assert_close(found, truth[2] + scale * (with_it - truth[2]), rtol=1e-8, atol=1e-8)


def test_classifier_free_guidance_hides_all_conditions_but_the_first() -> None:
    """A hidden condition is zero; the number of points stays."""
    x, mask, cond = clouds(608)
    denoiser, t = epic(), torch.full((4,), 0.5, dtype=torch.float64)
    hidden = torch.stack([cond[:, 0], torch.zeros(4).double()], 1)
    torch.testing.assert_close(
        ClassifierFree(denoiser, 0.0)(x, t, mask, cond).output, denoiser(x, t, mask, hidden).output
    )
    torch.testing.assert_close(
        ClassifierFree(denoiser, 0.0, kept=0)(x, t, mask, cond).output,
        denoiser(x, t, mask, torch.zeros_like(cond)).output,
    )
    torch.testing.assert_close(
        ClassifierFree(denoiser, 1.0)(x, t, mask, cond).output, denoiser(x, t, mask, cond).output
    )


# In-painting


def test_known_entries_come_out_exactly() -> None:
    noise, mask, cond = clouds(609)
    known, where = normal(4, 6, 3, seed=610), normal(4, 6, 3, seed=611) > 0
    for sampler in ("ddim", "unipc", "heun", "ancestral"):
        with torch.no_grad():
            x = sample(
                sampler,
                InPainted(epic(), known, where),
                noise,
                log_snr_grid(CosineSchedule(), 8),
                mask,
                cond,
                draw=drawer(noise, seeded(612)),
                denoise=True,
            )
        inside = where & mask[..., None]
        torch.testing.assert_close(x[inside], known[inside], rtol=0, atol=1e-9)
        assert bool((x[~mask] == 0).all())
        assert float((x[~where & mask[..., None]] - known[~where & mask[..., None]]).abs().min()) > 1e-6


@pytest.mark.parametrize("schedule", FOUR, ids=named(FOUR))
def test_known_entries_run_straight_from_their_noise(schedule: Schedule) -> None:
    """x = alpha known + (sigma / sigma_T) (x_T - alpha_T known) at the end, exactly, in any number of steps of the ODE."""
    known, noise = normal(20, 2, 1, seed=613), normal(20, 2, 1, seed=614)
    where = torch.zeros(20, 2, 1, dtype=torch.bool)
    where[:, 0] = True
    denoiser = InPainted(mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6], schedule), known, where)
    grid = log_snr_grid(schedule, 6)
    first, last = levels(schedule, float(grid[0])), levels(schedule, float(grid[-1]))
    start = math.hypot(*first) * noise[:, 0]
    expected = last[0] * known[:, 0] + last[1] / first[1] * (start - first[0] * known[:, 0])
    for x in (ddim(denoiser, grid=grid, **all_points(noise)), heun(denoiser, grid=grid, **all_points(noise))):
        torch.testing.assert_close(x[:, 0], expected, rtol=1e-8, atol=1e-8)


def test_repaint_finds_the_conditional_distribution() -> None:
    """Two coordinates of correlation rho = 0.8, the first known to be 1.2: the other has mean 0.96 and variance 0.36.

    4,000 clouds, 60 steps, seeds 615 and 616. RePaint is approximate; measured mean and variance with 1, 3, 10 and 30 repeats: .577 .440, .784 .345, .914
    .327, .948 .314. That the variance falls short is the ancestral steps' own bias, -12 % at 80 steps (see test_stochastic).
    """
    rho, given = 0.8, 1.2
    denoiser = gaussian(torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64))
    noise = normal(4_000, 1, 2, seed=615)
    known = torch.full_like(noise, given)
    where = torch.tensor([True, False]).expand_as(noise)
    grid = log_snr_grid(denoiser.schedule, 60)
    away = {}
    for repeats in (1, 10):
        x = repaint(
            denoiser,
            grid=grid,
            known=known,
            where=where,
            repeats=repeats,
            draw=drawer(noise, seeded(616)),
            **all_points(noise),
        )
        assert bool((x[..., 0] == given).all())
        other = x[..., 1]
        away[repeats] = abs(float(other.mean()) - rho * given), abs(float(other.var()) - (1 - rho**2))
    assert away[10][0] < 0.05
    assert away[10][1] < 0.05
    assert away[1][0] > 2 * away[10][0]


def test_repaint_keeps_padding_and_known_values() -> None:
    noise, mask, cond = clouds(617)
    known, where = normal(4, 6, 3, seed=618), normal(4, 6, 3, seed=619) > 0
    # what is not known may be anything, also no number
    known = torch.where(where, known, torch.nan)
    seen: list[int] = []
    with torch.no_grad():
        x = repaint(
            epic(),
            noise,
            log_snr_grid(CosineSchedule(), 5),
            mask,
            cond,
            known=known,
            where=where,
            repeats=3,
            draw=drawer(noise, seeded(620)),
            callback=lambda step, t, x, prediction: seen.append(step),
        )
    inside = where & mask[..., None]
    assert bool((x[inside] == known[inside]).all())
    assert bool((x[~mask] == 0).all())
    assert bool(x.isfinite().all())
    assert seen == list(range(5))


def test_repaint_takes_each_step_as_often_as_it_is_told() -> None:
    noise, mask, cond = clouds(621)
    denoiser, times = epic(), []

    def counted(x, t, mask, cond):
        times.append(float(t[0]))
        return denoiser(x, t, mask, cond)

    counted.schedule, counted.heads = denoiser.schedule, denoiser.heads
    grid = log_snr_grid(CosineSchedule(), 4)
    with torch.no_grad():
        repaint(
            counted,
            noise,
            grid,
            mask,
            cond,
            known=noise,
            where=torch.zeros_like(noise, dtype=torch.bool),
            repeats=[3, 1, 2, 1],
            draw=drawer(noise, seeded(622)),
        )
    assert times == [float(grid[step]) for step in (0, 0, 0, 1, 2, 2, 3)]


# Posterior sampling


@pytest.mark.parametrize("schedule", FOUR, ids=named(FOUR))
def test_diffusion_posterior_sampling_in_closed_form(schedule: Schedule) -> None:
    """Prior N(0, 1), y = x0 + s z: the score gains d/dx_t of -(y - alpha x_t / r^2)^2 / 2 s^2, times the strength."""
    y, s, strength = 0.9, 0.4, 0.7
    denoiser = Posterior(
        mixture([0.0], [1.0], [1.0], schedule),
        lambda x0, mask: -((y - x0) ** 2 / (2 * s**2)).sum((1, 2)),
        strength=strength,
    )
    x = normal(50, 1, 1, seed=621)
    for t in between(schedule):
        alpha, sigma = levels(schedule, t)
        r2 = alpha**2 + sigma**2
        expected = -x / r2 + strength * alpha / r2 * (y - alpha * x / r2) / s**2
        torch.testing.assert_close(at(denoiser, x, t).score, expected, rtol=1e-8, atol=1e-8)


def test_the_strength_of_posterior_sampling_does_not_depend_on_the_batch() -> None:
    """The same cloud alone and among 50: to 1e-10, also where the likelihood is a norm over the cloud."""
    x, mask = normal(50, 4, 3, seed=622), torch.arange(4) < torch.tensor([4, 2] * 25)[:, None]
    x = x * mask[..., None]
    cond = normal(50, 2, seed=623)
    t = torch.full((50,), 0.4, dtype=torch.float64)
    denoiser = Posterior(epic(), lambda x0, mask: -(x0.square().sum((1, 2)) - 3).abs().sqrt())
    whole = denoiser(x, t, mask, cond).x0
    for cloud in (0, 1, 37):
        one = slice(cloud, cloud + 1)
        alone = denoiser(x[one], t[one], mask[one], cond[one]).x0
        torch.testing.assert_close(alone, whole[one], rtol=0, atol=1e-10)


# Moment matching


class Linear:
    """Prior N(0, C) of clouds of three points and two features; two observables, linear, that mix the points."""

    def __init__(self, schedule: Schedule) -> None:
        self.prior = random_covariance(6, seeded(624))
        self.a = normal(2, 6, seed=625)
        self.std = torch.tensor([0.5, 0.8], dtype=torch.float64)
        self.y = torch.tensor([0.6, -0.9], dtype=torch.float64)
        gain = self.prior @ self.a.T @ torch.linalg.inv(self.a @ self.prior @ self.a.T + torch.diag(self.std**2))
        self.mean = gain @ self.y
        self.covariance = self.prior - gain @ self.a @ self.prior
        self.denoiser = gaussian(self.prior, schedule, whole=True)

    def observe(self, x0: Tensor, mask: Tensor) -> Tensor:
        return x0.flatten(1) @ self.a.T

    def guided(self, clouds: int) -> MomentMatching:
        return MomentMatching(self.denoiser, self.observe, self.y.expand(clouds, 2), self.std)


@pytest.mark.parametrize("schedule", FOUR, ids=named(FOUR))
def test_moment_matching_is_the_exact_posterior_score(schedule: Schedule) -> None:
    """-(alpha^2 S + sigma^2)^{-1} (x_t - alpha m), with m and S the mean and covariance given y, at random x_t and three times, to 1e-8."""
    problem = Linear(schedule)
    for t in between(schedule):
        alpha, sigma = levels(schedule, t)
        x = math.hypot(alpha, sigma) * normal(40, 3, 2, seed=626)
        spread = alpha**2 * problem.covariance + sigma**2 * torch.eye(6).double()
        expected = -torch.linalg.solve(spread, (x.flatten(1) - alpha * problem.mean).T).T
        found = at(problem.guided(40), x, t).score.flatten(1)
        torch.testing.assert_close(found * sigma, expected * sigma, rtol=1e-8, atol=1e-8)


def test_moment_matching_samples_the_exact_posterior() -> None:
    """20,000 clouds by ddim of order 2 in 200 steps: mean and covariance given y, 27 numbers, within 4 standard errors; seed 627.

    Each cloud also ends where the exact flow takes it, x = alpha m + V^(1/2) V_T^(-1/2) (x_T - alpha_T m) with V = alpha^2 S + sigma^2, to
    1e-3. That the start is N(0, r^2) and not N(alpha_T m, V_T), which moves the mean by 1.1e-2 m, is a property of samplers, and is
    in what is expected.
    """
    schedule = CosineSchedule()
    problem = Linear(schedule)
    noise = normal(20_000, 3, 2, seed=627)
    grid = log_snr_grid(schedule, 200)
    with torch.no_grad():
        x = ddim(problem.guided(20_000), grid=grid, **all_points(noise)).flatten(1)
    (a, s), (a_end, s_end) = levels(schedule, float(grid[0])), levels(schedule, float(grid[-1]))
    values, axes = torch.linalg.eigh(problem.covariance)
    start, end = (a**2 * values + s**2).sqrt(), (a_end**2 * values + s_end**2).sqrt()
    flow = axes @ torch.diag(end / start) @ axes.T
    expected = a_end * problem.mean + (math.hypot(a, s) * noise.flatten(1) - a * problem.mean) @ flow.T
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)
    mean = a_end * problem.mean - a * flow @ problem.mean
    covariance = a_end**2 * problem.covariance + s_end**2 * torch.eye(6)
    assert float(pulls(x, mean, covariance).abs().max()) < 4
    # and it is far from the prior
    assert float(pulls(x, torch.zeros(6).double(), problem.prior).abs().max()) > 30


def test_moment_matching_on_clouds_of_mixed_sizes() -> None:
    """The total of one feature over a cloud's points, observed: by symmetry each point of n has y / (n + s^2) of it in the mean."""
    mask = torch.arange(5) < torch.tensor([1, 3, 5])[:, None]
    y, s = torch.tensor([[2.0], [1.0], [-3.0]], dtype=torch.float64), 0.5
    denoiser = MomentMatching(
        mixture([0.0], [1.0], [1.0]), lambda x0, mask: x0[..., :1].sum(1), y, torch.tensor([s]).double()
    )
    t = float(denoiser.schedule.t_max)
    _alpha, sigma = levels(denoiser.schedule, t)
    x0 = denoiser(torch.zeros(3, 5, 2).double(), torch.full((3,), t).double(), mask, torch.zeros(3, 0).double()).x0
    n = mask.sum(1)[:, None].double()
    # p(x0 | x_t) = N(alpha x_t, sigma^2) for a normal prior
    expected = sigma**2 * y / (n * sigma**2 + s**2)
    torch.testing.assert_close(x0[..., 0], expected * mask, rtol=1e-9, atol=1e-9)
    assert float(x0[..., 1].abs().max()) == 0


# Constraints


def test_a_linear_constraint_is_met_exactly() -> None:
    """The total of each feature, by the nearest cloud that has it: all points are moved alike."""
    noise, mask, cond = clouds(628)
    totals = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    denoiser = Constrained(epic(), lambda x0, mask: (x0 * mask[..., None]).sum(1) - totals, iterations=1)
    with torch.no_grad():
        x = sample("ddim", denoiser, noise, log_snr_grid(CosineSchedule(), 10), mask, cond, denoise=True)
    torch.testing.assert_close(x.sum(1), totals.expand(4, 3), rtol=0, atol=1e-9)
    assert bool((x[~mask] == 0).all())
    t = torch.full((4,), 0.3, dtype=torch.float64)
    free, held = epic()(noise, t, mask, cond).x0, denoiser(noise, t, mask, cond).x0
    moved = ((totals - free.sum(1)) / mask.sum(1)[:, None])[:, None] * mask[..., None]
    torch.testing.assert_close(held, free + moved, rtol=1e-8, atol=1e-9)


def test_a_nonlinear_constraint_is_met() -> None:
    """The total of exp, as of momenta from their logarithms, is 1 to 1e-6 with the default number of iterations, and points are only exchanged."""
    noise, mask, cond = clouds(629)
    scale = 1 / mask.sum(1).double()

    def constraint(x0: Tensor, mask: Tensor) -> Tensor:
        share = torch.where(mask, x0[..., 2].exp(), 0.0)
        return (share.sum(1) * scale - 1)[:, None]

    with torch.no_grad():
        x = sample(
            "ddim",
            Constrained(epic(), constraint),
            noise,
            log_snr_grid(CosineSchedule(), 10),
            mask,
            cond,
            denoise=True,
        )
    assert float(constraint(x, mask).abs().max()) < 1e-6
    assert bool((x[~mask] == 0).all())


def test_a_constraint_that_is_met_changes_nothing() -> None:
    noise, mask, cond = clouds(630)
    t = torch.full((4,), 0.3, dtype=torch.float64)
    free = epic()(noise, t, mask, cond).x0.detach()
    totals = free.sum(1)
    held = Constrained(epic(), lambda x0, mask: x0.sum(1) - totals)(noise, t, mask, cond)
    torch.testing.assert_close(held.x0, free)


@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        (Posterior, {"log_likelihood": lambda x0, mask: -x0.square().sum((1, 2))}),
        (
            MomentMatching,
            {
                "observe": lambda x0, mask: x0.sum(1),
                "value": torch.zeros(4, 3).double(),
                "std": torch.ones(3).double(),
            },
        ),
        (Constrained, {"constraint": lambda x0, mask: x0.sum(1)}),
    ],
)
def test_predictions_carry_no_graph(wrapper: Callable[..., DenoiserLike], options: dict[str, Any]) -> None:
    """Otherwise a sampler called with gradients on would keep every step."""
    x, mask, cond = clouds(631)
    prediction = wrapper(epic(), **options)(x, torch.full((4,), 0.3, dtype=torch.float64), mask, cond)
    assert not prediction.output.requires_grad
    assert not prediction.x0.requires_grad
