from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pcdiff.config import EpicConfig
from pcdiff.diffusion import (
    PARAMETRISATIONS,
    CosineSchedule,
    DDPMSchedule,
    Denoiser,
    EDMSchedule,
    LearnedSchedule,
    Level,
    LinearSchedule,
    Potential,
    Prediction,
    RectifiedSchedule,
    Schedule,
)
from pcdiff.nets import build_net

from .conftest import MixtureNet, mixture
from .exact import SCHEDULES as CLOSED
from .exact import named, normal, seeded

SCHEDULES: list[Schedule] = [*CLOSED, DDPMSchedule.linear(), LearnedSchedule()]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
MEANS, STDS, WEIGHTS = [-1.0, 1.2], [0.3, 0.4], [0.4, 0.6]


@torch.no_grad()
def levels(schedule: Schedule, count: int = 25) -> tuple[Tensor, Level]:
    """Times even in log-SNR from one end of a schedule to the other."""
    ends = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    t = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64))
    t = t.clamp(schedule.t_min, schedule.t_max)
    return t, schedule.level(t)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (1.0, 7.0), (0.3, 0.7), (1e-3, 1.0)])
def test_all_readings_agree(alpha: float, sigma: float) -> None:
    """x_t = alpha x0 + sigma eps for any output, and v and the score follow from x0 and eps, also where r is not 1."""
    rng = torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    a, s, d_a, d_s = (torch.full((3, 1, 1), value, dtype=torch.float64) for value in (alpha, sigma, -0.7, 0.4))
    p = Prediction(x_t, output, Level(a, s, d_a, d_s))
    torch.testing.assert_close(a * p.x0 + s * p.eps, x_t)
    torch.testing.assert_close(p.v, a * p.eps - s * p.x0)
    torch.testing.assert_close(p.score, -p.eps / s)
    torch.testing.assert_close(p.velocity, d_a * p.x0 + d_s * p.eps)
    r = (a**2 + s**2).sqrt()
    torch.testing.assert_close(output, (a * p.eps - s * p.x0) / r)


@every
def test_properties_are_the_readings_of_their_names(schedule: Schedule) -> None:
    _, level = levels(schedule)
    p = Prediction(normal(25, 3, 2, seed=0), normal(25, 3, 2, seed=1), level)
    readings = {"preconditioned": p.output, "epsilon": p.eps, "x0": p.x0, "v": p.v, "score": p.score}
    readings["velocity"] = p.velocity
    assert readings.keys() == PARAMETRISATIONS.keys()
    for name, value in readings.items():
        torch.testing.assert_close(p.read(name), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("second", list(PARAMETRISATIONS))
@pytest.mark.parametrize("first", list(PARAMETRISATIONS))
@every
def test_each_parametrisation_comes_back_from_each_other(schedule: Schedule, first: str, second: str) -> None:
    """To 1e-6 of the scale of the prediction, in float64, at 25 levels between the ends of the schedule."""
    _, level = levels(schedule)
    x_t = normal(25, 4, 3, seed=2) * level.r
    value = Prediction(x_t, normal(25, 4, 3, seed=3), level).read(first)
    other = Prediction.of(first, value, x_t, level).read(second)
    back = Prediction.of(second, other, x_t, level).read(first)
    scale = value.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(back / scale, value / scale, rtol=0, atol=1e-6)


class ExactNet(nn.Module):
    """Puts out the exact prediction of a mixture in a parametrisation, from y = x_t / r and the log-SNR."""

    def __init__(self, parametrisation: str, schedule: Schedule) -> None:
        super().__init__()
        self.parametrisation, self.schedule = parametrisation, schedule
        self.exact = MixtureNet(MEANS, STDS, WEIGHTS)

    def forward(self, y: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        level = self.schedule.level(self.schedule.time(log_snr.detach()))
        output = self.exact(y, log_snr, mask, cond)
        x_t = y * level.r
        x0 = (level.alpha * y - level.sigma * output) / level.r
        eps = (x_t - level.alpha * x0) / level.sigma
        return {
            "preconditioned": output,
            "epsilon": eps,
            "x0": x0,
            "v": level.alpha * eps - level.sigma * x0,
            "score": -eps / level.sigma,
            "velocity": level.d_alpha * x0 + level.d_sigma * eps,
        }[self.parametrisation]


@pytest.mark.parametrize("parametrisation", list(PARAMETRISATIONS))
@every
def test_whatever_the_net_puts_out_the_prediction_is_the_same(schedule: Schedule, parametrisation: str) -> None:
    """A net that knows p of a mixture exactly, for each p, against the preconditioned one, in each reading, to 1e-6 of scale."""
    t, level = levels(schedule)
    denoiser = Denoiser(ExactNet(parametrisation, schedule), schedule, parametrisation=parametrisation)
    x_t = normal(25, 4, 3, seed=4) * level.r
    mask, cond = torch.ones(25, 4, dtype=torch.bool), torch.zeros(25, 0)
    with torch.no_grad():
        made = denoiser(x_t, t, mask, cond)
        expected = mixture(MEANS, STDS, WEIGHTS, schedule)(x_t, t, mask, cond)
    for reading in PARAMETRISATIONS:
        value = expected.read(reading)
        scale = value.abs().amax((1, 2), keepdim=True)
        torch.testing.assert_close(made.read(reading) / scale, value / scale, rtol=0, atol=1e-6)


@every
def test_score_of_the_exact_denoiser_is_the_gradient_of_the_log_density(schedule: Schedule) -> None:
    t, level = levels(schedule)
    x_t = (normal(25, 4, 1, seed=5) * level.r).requires_grad_()
    means, stds, weights = (torch.tensor(v, dtype=torch.float64) for v in (MEANS, STDS, WEIGHTS))
    variance = level.alpha**2 * stds**2 + level.sigma**2
    log_p = torch.logsumexp(
        weights.log() - (x_t - level.alpha * means) ** 2 / (2 * variance) - variance.log() / 2, dim=-1
    )
    (score,) = torch.autograd.grad(log_p.sum(), x_t)
    denoiser = mixture(MEANS, STDS, WEIGHTS, schedule)
    with torch.no_grad():
        made = denoiser(x_t, t, torch.ones(25, 4, dtype=torch.bool), torch.zeros(25, 0)).score
    scale = score.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(made / scale, score / scale, rtol=0, atol=1e-6)


@every
def test_velocity_is_the_motion_of_a_noisy_cloud(schedule: Schedule) -> None:
    """d x_t / dt at fixed x0 and eps, by autograd through alpha(t) and sigma(t)."""
    t, level = levels(schedule)
    x0, eps = normal(25, 2, 2, seed=6), normal(25, 2, 2, seed=7)
    # Each entry has a time of its own, so that the gradient of the sum is that of the entry.
    times = t[:, None, None].expand_as(x0).clone().requires_grad_()
    (motion,) = torch.autograd.grad((schedule.alpha(times) * x0 + schedule.sigma(times) * eps).sum(), times)
    made = Prediction.of("x0", x0, level.alpha * x0 + level.sigma * eps, level).velocity
    scale = motion.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(made / scale, motion / scale, rtol=0, atol=1e-8)


def test_velocity_of_straight_lines_is_their_end_less_their_start() -> None:
    schedule = RectifiedSchedule()
    _, level = levels(schedule)
    x0, eps = normal(25, 2, 2, seed=8), normal(25, 2, 2, seed=9)
    p = Prediction.of("x0", x0, level.alpha * x0 + level.sigma * eps, level)
    torch.testing.assert_close(p.velocity, eps - x0)


def test_preconditioning_of_edm_is_that_of_its_paper() -> None:
    """Table 1 of arXiv 2206.00364 at sigma_data = 1: x0 = c_skip x + c_out (-F), with the net fed c_in x."""
    schedule = EDMSchedule()
    t, _ = levels(schedule)
    seen = {}

    class Spy(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            seen["x"] = x
            return torch.sin(3 * x)

    x_t = normal(25, 3, 2, seed=10) * 5
    s = t[:, None, None]
    p = Denoiser(Spy(), schedule)(x_t, t, torch.ones(25, 3, dtype=torch.bool), torch.zeros(25, 0))
    torch.testing.assert_close(seen["x"], x_t / torch.sqrt(1 + s**2))
    c_skip, c_out = 1 / (1 + s**2), s / torch.sqrt(1 + s**2)
    torch.testing.assert_close(p.x0, c_skip * x_t + c_out * -torch.sin(3 * seen["x"]))


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule()])
def test_untrained_net_is_the_exact_gaussian_denoiser(schedule: Schedule) -> None:
    """For x0 ~ N(0, 1) under a variance-preserving schedule E[x0 | x_t] = alpha x_t and E[eps | x_t] = sigma x_t."""
    denoiser = Denoiser(build_net(EpicConfig(hidden=8, layers=1), 3, 0, ["etarel", "phirel", "ptrel"]), schedule)
    x_t = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(schedule.t_min, schedule.t_max, 4)
    with torch.no_grad():
        p = denoiser(x_t, t, torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, 0))
    torch.testing.assert_close(p.x0, schedule.alpha(t)[:, None, None] * x_t)
    torch.testing.assert_close(p.eps, schedule.sigma(t)[:, None, None] * x_t)


@every
def test_untrained_net_is_the_exact_gaussian_denoiser_under_any_schedule(schedule: Schedule) -> None:
    """E[x0 | x_t] = alpha x_t / r^2 for x0 ~ N(0, 1)."""
    t, level = levels(schedule)
    denoiser = Denoiser(build_net(EpicConfig(hidden=8, layers=1), 1, 0, ["x"]).double(), schedule)
    x_t = normal(25, 3, 1, seed=11)
    with torch.no_grad():
        p = denoiser(x_t, t, torch.ones(25, 3, dtype=torch.bool), torch.zeros(25, 0))
    torch.testing.assert_close(p.x0, level.alpha / (level.alpha**2 + level.sigma**2) * x_t)


def test_net_is_told_the_log_snr() -> None:
    class Echo(nn.Module):
        def forward(
            self, x: torch.Tensor, log_snr: torch.Tensor, mask: torch.Tensor, cond: torch.Tensor
        ) -> torch.Tensor:
            return log_snr[:, None, None].expand_as(x)

    schedule = CosineSchedule()
    t = torch.tensor([0.1, 0.5, 0.9])
    p = Denoiser(Echo(), schedule)(torch.zeros(3, 1, 1), t, torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 0))
    torch.testing.assert_close(p.output[:, 0, 0], schedule.log_snr(t))


def potential() -> Potential:
    net = build_net(EpicConfig(hidden=8, layers=2, global_size=4), 2, 1, ["x", "y"]).double()
    generator = seeded(12)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return Potential(net)


def scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    x = normal(3, 5, 2, seed=13) * mask[..., None]
    return x, torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64), mask, normal(3, 1, seed=14)


def test_output_of_a_potential_is_the_gradient_of_its_scalar() -> None:
    """Central differences of phi in each valid entry; nothing in the padding."""
    net, (x, log_snr, mask, cond) = potential(), scene()
    with torch.no_grad():
        output = net(x, log_snr, mask, cond)
        h = 1e-5
        for point in range(5):
            for feature in range(2):
                step = torch.zeros_like(x)
                step[:, point, feature] = h
                difference = net.phi(x + step, log_snr, mask, cond) - net.phi(x - step, log_snr, mask, cond)
                torch.testing.assert_close(output[:, point, feature], difference / (2 * h), rtol=1e-6, atol=1e-8)
    assert bool((output[~mask] == 0).all())


def test_jacobian_of_a_potential_is_symmetric() -> None:
    net, (x, log_snr, mask, cond) = potential(), scene()
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y, log_snr[:1], mask[:1], cond[:1]), x[:1])
    square = jacobian.reshape(10, 10)
    torch.testing.assert_close(square, square.T)
    assert float(square.abs().max()) > 1e-3


def test_a_potential_is_equivariant_and_its_scalar_invariant() -> None:
    net, (x, log_snr, mask, cond) = potential(), scene()
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(net.phi(x[:, order], log_snr, mask[:, order], cond), net.phi(x, log_snr, mask, cond))
        moved = net(x[:, order], log_snr, mask[:, order], cond)
        torch.testing.assert_close(moved, net(x, log_snr, mask, cond)[:, order])


def test_each_parameter_of_a_potential_learns_from_its_output() -> None:
    """Except the last bias, which shifts phi by a constant."""
    net, (x, log_snr, mask, cond) = potential(), scene()
    net(x, log_snr, mask, cond).square().sum().backward()
    for name, parameter in net.named_parameters():
        if name != "net.exit.bias":
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name


def test_a_denoiser_of_a_potential_has_a_score_that_is_a_gradient_field() -> None:
    denoiser = Denoiser(potential(), CosineSchedule())

    def score(x: Tensor) -> Tensor:
        t, mask = x.new_full((1,), 0.4), torch.ones(1, 4, dtype=torch.bool)
        return denoiser(x, t, mask, x.new_zeros(1, 1)).score

    jacobian = torch.autograd.functional.jacobian(score, normal(1, 4, 2, seed=15)).reshape(8, 8)
    torch.testing.assert_close(jacobian, jacobian.T)
