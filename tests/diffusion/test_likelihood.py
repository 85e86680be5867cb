from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pcdiff.config import EpicConfig
from pcdiff.diffusion import (
    CosineSchedule,
    DDPMSchedule,
    Denoiser,
    LearnedSchedule,
    Likelihood,
    LinearSchedule,
    Schedule,
    VESchedule,
    log_factorial,
    log_likelihood,
    log_snr_grid,
    uniform_grid,
    variational_bound,
)
from pcdiff.diffusion.divergence import DivergenceKind
from pcdiff.nets import build_net

from .conftest import MixtureNet, mixture
from .exact import SCHEDULES, gaussian, named, normal, random_covariance, seeded

ALL: list[Schedule] = [*SCHEDULES, DDPMSchedule.linear(1000), LearnedSchedule()]


def steps_of(schedule: Schedule) -> int:
    """The default; a learned schedule finds its times by bisection and is slow."""
    return 40 if isinstance(schedule, LearnedSchedule) else 100


def sized(counts: list[int]) -> Tensor:
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def correlated_clouds(covariance: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Clouds of independent points N(0, covariance), zero at padding."""
    z = normal(*mask.shape, len(covariance), seed=seed)
    return z @ torch.linalg.cholesky(covariance).T * mask[..., None]


def nothing(clouds: int) -> Tensor:
    return torch.zeros(clouds, 0, dtype=torch.float64)


COVARIANCE = random_covariance(3, seeded(500))
COUNTS = [1, 2, 3, 7, 12, 20, 30]


def generated(covariance: Tensor, schedule: Schedule) -> Tensor:
    """The covariance of what the ODE makes of its start N(0, r^2), over alpha: along each axis x / sqrt(variance) is constant."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    (a0, a1), (s0, s1) = schedule.alpha(ends).detach(), schedule.sigma(ends).detach()
    values, vectors = torch.linalg.eigh(covariance)
    made = (a0**2 * values + s0**2) / a0**2 * (a1**2 + s1**2) / (a1**2 * values + s1**2)
    return vectors @ torch.diag(made) @ vectors.T


# Exact


@pytest.mark.parametrize("schedule", [CosineSchedule(), DDPMSchedule.linear(1000)], ids=lambda s: named([s])[0])
def test_the_error_of_the_likelihood_falls_with_the_fourth_power_of_the_steps(schedule: Schedule) -> None:
    """Also on DDPM's chain, whose rate of noise jumps at each of its thousand steps (measured 1.4e-4, 8.0e-6, 5.8e-8 at 30, 60, 200)."""
    mask = sized([1, 3])
    x0 = correlated_clouds(COVARIANCE, mask, seed=522)
    law = MultivariateNormal(torch.zeros(3).double(), generated(COVARIANCE, schedule))
    truth = (law.log_prob(x0) * mask).sum(1)
    coarse, fine = (
        float((log_likelihood(gaussian(COVARIANCE, schedule), x0, mask, nothing(2), steps=n).log_p - truth).abs().max())
        for n in (40, 80)
    )
    assert math.log2(coarse / fine) > 3.75


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_log_likelihood_of_a_gaussian_in_closed_form(schedule: Schedule) -> None:
    """Clouds of 1 to 30 points of three correlated features: to 1e-3 nats a cloud of N(0, C), and to 3e-4 of what the ODE itself generates.

    Measured: 3.1e-4 and 1.4e-6 on the cosine schedule, 2.7e-4 and 2.8e-4 on the variance-exploding ones. DDPM's chain ends at a noise of
    0.01, which on the narrowest axis of C is seen: 5e-3 there.
    """
    seen = 5e-3 if isinstance(schedule, DDPMSchedule) else 1e-3
    mask = sized(COUNTS if isinstance(schedule, CosineSchedule) else [1, 3, 7])
    x0 = correlated_clouds(COVARIANCE, mask, seed=501)
    found = log_likelihood(gaussian(COVARIANCE, schedule), x0, mask, nothing(len(x0)), steps=steps_of(schedule))
    for covariance, near in ((COVARIANCE, seen), (generated(COVARIANCE, schedule), 3e-4)):
        truth = (MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x0) * mask).sum(1)
        torch.testing.assert_close(found.log_p, truth, rtol=0, atol=near)
    assert bool((found.error == 0).all())


def test_points_far_out_have_the_right_likelihood_too() -> None:
    """Five standard deviations from the middle."""
    mask = sized([1, 1])
    x0 = torch.tensor([[[5.0, 0.0, 0.0]], [[-3.0, 4.0, 0.0]]], dtype=torch.float64)
    found = log_likelihood(gaussian(COVARIANCE), x0, mask, nothing(2), steps=60).log_p
    law = MultivariateNormal(torch.zeros(3).double(), generated(COVARIANCE, CosineSchedule()))
    torch.testing.assert_close(found, law.log_prob(x0[:, 0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_log_likelihood_of_a_mixture(schedule: Schedule) -> None:
    """Within 5e-3 nats a point, from a valley to the flanks; the noise at t_min has been added to the components."""
    means, stds, weights = [-1.0, 1.2], [0.3, 0.4], [0.4, 0.6]
    x0 = torch.linspace(-2, 2.5, 19, dtype=torch.float64)[:, None, None]
    mask = torch.ones(19, 1, dtype=torch.bool)
    found = log_likelihood(mixture(means, stds, weights, schedule), x0, mask, nothing(19), steps=steps_of(schedule))
    truth = sum(w * Normal(m, s).log_prob(x0).exp() for m, s, w in zip(means, stds, weights, strict=True)).log()
    torch.testing.assert_close(found.log_p, truth.flatten(), rtol=0, atol=0.03)
    # what is left is the start, N(0, r^2): it goes with alpha at t_max
    assert float((found.log_p - truth.flatten()).abs().mean()) < 5e-3


def epic(features: int) -> Denoiser:
    torch.manual_seed(0)
    net = build_net(EpicConfig(hidden=16, layers=2), features, 1, ["etarel", "phirel", "ptrel"][:features]).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return Denoiser(net, CosineSchedule())


@pytest.mark.parametrize("which", ["mixture", "epic"])
def test_the_density_integrates_to_one(which: str) -> None:
    """On a line, by the trapezoid rule within 1e-3; for a net of random weights as for the exact one, for it is a density whatever F is."""
    denoiser = mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6]) if which == "mixture" else epic(1)
    x = torch.linspace(-9, 9, 901, dtype=torch.float64)
    cond = nothing(len(x)) if which == "mixture" else torch.full((len(x), 1), 0.3, dtype=torch.float64)
    found = log_likelihood(denoiser, x[:, None, None], torch.ones(len(x), 1, dtype=torch.bool), cond, steps=60)
    assert float(torch.trapezoid(found.log_p.exp(), x)) == pytest.approx(1, abs=1e-3)


def test_the_density_of_two_entries_integrates_to_one() -> None:
    """A cloud of two points that see each other, so that the Jacobian is not diagonal, over a square of side 12 in steps of 0.25."""
    denoiser = epic(1)
    side = torch.linspace(-6, 6, 49, dtype=torch.float64)
    x0 = torch.cartesian_prod(side, side)[..., None]
    cond = torch.full((len(x0), 1), 0.3, dtype=torch.float64)
    found = log_likelihood(denoiser, x0, torch.ones(len(x0), 2, dtype=torch.bool), cond, steps=30).log_p
    assert float(found.exp().sum() * 0.25**2) == pytest.approx(1, abs=3e-3)
    # and it does not know which point is the first
    square = found.view(49, 49)
    torch.testing.assert_close(square, square.T)


@pytest.mark.parametrize("kind", ["exact", "rademacher"])
def test_padding_order_and_batch_change_no_likelihood(kind: DivergenceKind) -> None:
    denoiser = epic(3)
    mask = sized([5, 2, 1])
    x0 = normal(3, 5, 3, seed=502) * mask[..., None]
    cond = normal(3, 1, seed=503)

    def run(x0: Tensor, mask: Tensor, cond: Tensor) -> Likelihood:
        return log_likelihood(denoiser, x0, mask, cond, steps=10, kind=kind, generator=seeded(504), probes=2)

    whole = run(x0, mask, cond)
    if kind == "exact":
        turn = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(run(x0[:, turn], mask[:, turn], cond).log_p, whole.log_p)
        alone = run(x0[1:2, :2], mask[1:2, :2], cond[1:2])
        torch.testing.assert_close(alone.log_p, whole.log_p[1:2])
        wider = torch.cat([x0, torch.zeros(3, 4, 3).double()], 1)
        more = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
        torch.testing.assert_close(run(wider, more, cond).log_p, whole.log_p)
    # neither what stands at padding nor the probe there
    torch.testing.assert_close(run(torch.where(mask[..., None], x0, 7.0), mask, cond).log_p, whole.log_p)


# Estimated


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_estimated_divergence_is_right_within_its_error(kind: DivergenceKind) -> None:
    """200 clouds of 1 to 12 points, 8 probes, seed 505: each pull is Student's of 7 degrees of freedom, beyond 3 for 2 % of the clouds.

    At most 5 % beyond 3; their mean, whose error is 0.08, within 4 of it; the sum over all clouds within 3 of its own.
    """
    mask = sized([1 + k % 12 for k in range(200)])
    x0 = correlated_clouds(COVARIANCE, mask, seed=506)
    denoiser, cond = gaussian(COVARIANCE), nothing(200)
    truth = log_likelihood(denoiser, x0, mask, cond, steps=12).log_p
    found = log_likelihood(denoiser, x0, mask, cond, steps=12, kind=kind, generator=seeded(505))
    assert bool((found.error > 0).all())
    away = found.log_p - truth
    pulls = away / found.error
    assert float((pulls.abs() > 3).double().mean()) <= 0.05
    assert abs(float(pulls.mean())) < 4 * math.sqrt(7 / 5 / 200)
    assert abs(float(away.sum())) < 3 * float(found.error.square().sum().sqrt())


def test_more_probes_lower_the_error() -> None:
    """As the root of their number: 16 times as many, a quarter, within 4 sigma of the scatter (here some 30 %)."""
    mask = sized([6] * 30)
    x0 = correlated_clouds(COVARIANCE, mask, seed=507)
    few, many = (
        log_likelihood(
            gaussian(COVARIANCE), x0, mask, nothing(30), steps=8, kind="gaussian", probes=count, generator=seeded(508)
        )
        for count in (4, 64)
    )
    assert float(few.error.mean() / many.error.mean()) == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("given", [{"generator": None}, {"probes": 1}])
def test_an_estimate_without_an_error_is_refused(given: dict[str, int | None]) -> None:
    arguments = {"generator": seeded(1), "probes": 4} | given
    with pytest.raises(ValueError, match="at least 2 probes"):
        log_likelihood(
            gaussian(COVARIANCE),
            normal(1, 1, 3, seed=1),
            torch.ones(1, 1, dtype=torch.bool),
            nothing(1),
            kind="rademacher",
            **arguments,  # type: ignore[arg-type]
        )


def test_log_factorial() -> None:
    counts = torch.tensor([0, 1, 2, 5, 150])
    expected = torch.tensor([math.lgamma(n + 1) for n in counts.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_factorial(counts), expected)
    assert math.exp(float(log_factorial(counts)[3])) == pytest.approx(120)


# Bound


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_reconstruction_and_prior_terms_by_direct_formulae(schedule: Schedule) -> None:
    """The entropy of the noise over alpha at t_min, and the divergence of two normal laws at t_max, of each entry."""
    mask = sized([4, 1, 2])
    x0 = normal(3, 4, 2, seed=509) * mask[..., None]
    bound = variational_bound(
        mixture([0.0], [1.0], [1.0], schedule), x0, mask, nothing(3), generator=seeded(510), draws=2
    )
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    (a0, a1), (s0, s1) = schedule.alpha(ends).detach(), schedule.sigma(ends).detach()
    entries = mask.sum(1).double() * 2
    torch.testing.assert_close(bound.reconstruction.detach(), entries * stats.norm.entropy(scale=float(s0 / a0)))
    each = kl_divergence(Normal(a1 * x0, s1), Normal(torch.zeros_like(x0), (a1**2 + s1**2).sqrt()))
    torch.testing.assert_close(bound.prior.detach(), (each * mask[..., None]).sum((1, 2)))


def of_normal_data(x0: Tensor, mask: Tensor, log_snr: Tensor) -> Tensor:
    """E |eps - eps_hat|^2 for F = 0 in a variance-preserving schedule: alpha^2 (alpha^2 + sigma^2 x0^2) summed over a cloud."""
    a2, s2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
    return mask.sum(1) * x0.shape[2] * a2**2 + a2 * s2 * x0.square().sum((1, 2))


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), DDPMSchedule.linear(1000)])
def test_diffusion_term_of_normal_data_in_closed_form(schedule: Schedule) -> None:
    """The integral over log-SNR l of alpha^4 is softplus - sigmoid, that of alpha^2 sigma^2 sigmoid, between both ends.

    200 copies of each of three clouds, 64 draws, seed 511; the mean over copies within 4 of its reported error, which is at most 3 % of it.
    """
    mask = sized([3, 1, 2])
    x0 = normal(3, 3, 2, seed=512) * mask[..., None]
    copies = 200
    many = x0.repeat(copies, 1, 1), mask.repeat(copies, 1), nothing(3 * copies)
    bound = variational_bound(mixture([0.0], [1.0], [1.0], schedule), *many, generator=seeded(511))
    ends = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    low, high = ends
    cross = torch.sigmoid(high) - torch.sigmoid(low)
    fourth = nn.functional.softplus(high) - nn.functional.softplus(low) - cross
    truth = (mask.sum(1) * 2 * fourth + x0.square().sum((1, 2)) * cross) / 2
    found = bound.diffusion.view(copies, 3).mean(0)
    error = bound.error.view(copies, 3).square().sum(0).sqrt() / copies
    assert bool((error < 0.03 * truth).all())
    assert bool(((found - truth).abs() < 4 * error).all())


@pytest.mark.parametrize("kind", ["even", "log-snr"])
def test_chain_of_normal_data_in_closed_form(kind: str) -> None:
    """Each step adds (e^{l(s) - l(t)} - 1) / 2 of the error at its beginning; 400 copies, seed 513, within 4 of the reported error."""
    schedule = CosineSchedule()
    grid = (uniform_grid if kind == "even" else log_snr_grid)(schedule, 30)
    mask = sized([3, 1])
    x0 = normal(2, 3, 2, seed=514) * mask[..., None]
    copies = 400
    many = x0.repeat(copies, 1, 1), mask.repeat(copies, 1), nothing(2 * copies)
    bound = variational_bound(mixture([0.0], [1.0], [1.0]), *many, generator=seeded(513), grid=grid)
    log_snr = schedule.log_snr(grid)
    truth = sum(
        (math.exp(float(then - now)) - 1) / 2 * of_normal_data(x0, mask, now)
        for now, then in itertools.pairwise(log_snr)
    )
    found = bound.diffusion.view(copies, 2).mean(0)
    error = bound.error.view(copies, 2).square().sum(0).sqrt() / copies
    assert bool(((found - truth).abs() < 4 * error).all())


class Spoiled(nn.Module):
    """A net whose output is off by a tenth of one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        out: Tensor = (self.net(x, log_snr, mask, cond) + 0.1 * torch.cos(3 * x)) * mask[..., None]
        return out


@pytest.mark.parametrize("schedule", ALL, ids=named(ALL))
def test_the_bound_is_tight_for_the_exact_denoiser_and_loose_for_others(schedule: Schedule) -> None:
    """In continuous time it is the negative log-likelihood, within 4 of its error; for a spoiled denoiser and a chain of 30 steps above.

    2,000 clouds of a mixture, one to three points each; seeds 515 and 516. Measured above the truth of 2.10 nats: cosine 0.004 +- 0.070, linear -0.010 +- 0.073,
    DDPM 0.003 +- 0.059; spoiled, on the same draws, 0.062; chain of 30 steps 4.63 +- 0.13.
    """
    means, stds, weights = [-1.0, 1.2], [0.3, 0.4], [0.4, 0.6]
    mask = sized([1, 2, 3] * 667)
    rng = seeded(515)
    which = torch.multinomial(torch.tensor(weights), mask.numel(), replacement=True, generator=rng).view(mask.shape)
    z = torch.randn(mask.shape, generator=rng, dtype=torch.float64)
    x0 = ((torch.tensor(means).double()[which] + torch.tensor(stds).double()[which] * z) * mask)[..., None]
    density = sum(w * Normal(m, s).log_prob(x0).exp() for m, s, w in zip(means, stds, weights, strict=True))
    truth = -(density.log()[..., 0] * mask).sum(1)

    def run(denoiser: Denoiser, grid: Tensor | None = None) -> tuple[float, float]:
        """How far the bound is above, and the error of that."""
        bound = variational_bound(denoiser, x0, mask, nothing(len(x0)), generator=seeded(516), draws=32, grid=grid)
        return float((bound.total - truth).mean().detach()), float(bound.error.square().sum().sqrt()) / len(x0)

    net = MixtureNet(means, stds, weights)
    above, error = run(Denoiser(net, schedule))
    assert error < 0.1
    assert abs(above) < 4 * error
    spoiled, error = run(Denoiser(Spoiled(net), schedule))
    # |eps - eps_hat|^2 rises by alpha^2 0.01 cos^2(3x) an entry: half of its integral over 12 positive log-SNRs is .03 to .06 each
    assert spoiled > above + 0.02
    chain, error = run(Denoiser(net, schedule), log_snr_grid(schedule, 30))
    assert chain > 4 * error


def test_the_bound_of_a_chain_falls_to_that_of_continuous_time() -> None:
    """As 1 / steps, from the closed form for normal data; and as estimated, within 4 of the errors (300 copies, seed 518)."""
    schedule = CosineSchedule()
    mask = torch.ones(1, 1, dtype=torch.bool)
    x0 = torch.full((1, 1, 1), 0.8, dtype=torch.float64)
    many = x0.repeat(300, 1, 1), mask.repeat(300, 1), nothing(300)
    denoiser = mixture([0.0], [1.0], [1.0])
    truth = -float(Normal(0.0, 1.0).log_prob(x0))
    gaps = []
    for steps in (30, 60, 120, 240):
        grid = log_snr_grid(schedule, steps)
        bound = variational_bound(denoiser, *many, generator=seeded(518), grid=grid)
        log_snr = schedule.log_snr(grid)
        each = torch.expm1(log_snr.diff()) / 2 * torch.stack([of_normal_data(x0, mask, l)[0] for l in log_snr[:-1]])
        expected = float(bound.reconstruction[0] + bound.prior[0] + each.sum())
        assert abs(float(bound.total.mean()) - expected) < 4 * float(bound.error.square().sum().sqrt()) / 300
        gaps.append(expected - truth)
    assert all(gap > 0 for gap in gaps)
    for coarse, fine in itertools.pairwise(gaps):
        assert coarse / fine == pytest.approx(2, abs=0.3)


def test_padding_changes_no_bound() -> None:
    """In its fixed terms, and in the mean of the third over 400 copies (seed 519) within 4 of the error."""
    mask = sized([2, 1])
    x0 = normal(2, 2, 2, seed=520) * mask[..., None]
    wide = torch.cat([x0, torch.full((2, 3, 2), 9.0).double()], 1)
    more = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    denoiser = mixture([-1.0, 1.2], [0.3, 0.4], [0.4, 0.6])

    def run(x0: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bound = variational_bound(
            denoiser, x0.repeat(400, 1, 1), mask.repeat(400, 1), nothing(800), generator=seeded(519), draws=16
        )
        error = bound.error.view(400, 2).square().sum(0).sqrt() / 400
        return (bound.reconstruction + bound.prior)[:2], bound.diffusion.view(400, 2).mean(0), error

    (fixed, found, error), (fixed_wide, found_wide, error_wide) = run(x0, mask), run(wide, more)
    torch.testing.assert_close(fixed, fixed_wide)
    assert bool(((found - found_wide).abs() < 4 * torch.hypot(error, error_wide)).all())


@pytest.mark.parametrize(
    "make", [lambda: mixture([0.0], [1.0], [1.0]), lambda: mixture([0.0], [1.0], [1.0], VESchedule())]
)
def test_likelihoods_in_single_precision(make: Callable[[], Denoiser]) -> None:
    """To 1e-2 nats a cloud of twelve points."""
    denoiser = make()
    mask = sized([12, 4])
    x0 = normal(2, 12, 1, seed=521) * mask[..., None]
    found = log_likelihood(denoiser, x0.float(), mask, nothing(2).float(), steps=60).log_p
    assert found.dtype == torch.float32
    truth = (Normal(0.0, 1.0).log_prob(x0) * mask[..., None]).sum((1, 2))
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=1e-2)
