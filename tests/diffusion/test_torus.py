"""Positions in a periodic box: the usual samplers, losses and likelihoods on a torus, against the wrapped normal distribution."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pcdiff.diffusion import (
    PARAMETRISATIONS,
    SAMPLERS,
    CosineSchedule,
    Denoiser,
    TorusHead,
    ddim,
    denoising_loss,
    log_likelihood,
    log_snr_grid,
    sample,
    variational_bound,
)

from .exact import seeded

PERIOD = 100.0
SCHEDULE = CosineSchedule()
# Where on the circle the clouds are, and how wide: narrow, and as wide as the circle itself.
CENTRE, NARROW, WIDE = 97.0, 4.0, 30.0


def wrapped_score(offset: Tensor, variance: Tensor) -> Tensor:
    """d log p / d offset of the wrapped normal distribution, by its images."""
    images = offset[..., None] + PERIOD * torch.arange(-12, 13)
    weights = torch.softmax(-images.square() / (2 * variance[..., None]), dim=-1)
    return -(images * weights).sum(dim=-1) / variance


class Wrapped(nn.Module):
    """The exact noise of independent coordinates with a wrapped normal distribution; blind to whole turns, as nets are."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        place = torch.remainder(x / log_snr.sigmoid().sqrt()[:, None, None], PERIOD)
        noise = torch.exp(-log_snr)[:, None, None].expand_as(x)
        eps = -noise.sqrt() * wrapped_score(place - CENTRE, self.std**2 + noise)
        return eps * mask[..., None]


def on_circle(net: nn.Module, features: int = 1) -> Denoiser:
    return Denoiser(net, SCHEDULE, heads=[TorusHead(torch.arange(features), PERIOD)])


def drawn(n: int, std: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clouds of one point on the circle, their mask and no conditions."""
    x0 = CENTRE + std * torch.randn(n, 1, 1, generator=seeded(seed), dtype=torch.float64)
    return torch.remainder(x0, PERIOD), torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 0, dtype=torch.float64)


def log_density(x0: Tensor, std: float) -> Tensor:
    images = x0[..., None] - CENTRE + PERIOD * torch.arange(-12, 13)
    return torch.logsumexp(-images.square() / (2 * std**2), dim=-1).sum((1, 2)) - math.log(math.sqrt(2 * math.pi) * std)


@pytest.mark.parametrize("std", [NARROW, WIDE])
@pytest.mark.parametrize("name", ["ddim", "unipc", "heun", "ancestral", "sde-dpm"])
def test_samplers_make_the_wrapped_normal_distribution(name: str, std: float) -> None:
    """From noise that is spread evenly over the circle; the samplers know nothing of the circle."""
    n = 4000
    _, mask, cond = drawn(n, std, 0)
    noise = torch.randn(n, 1, 1, generator=seeded(1), dtype=torch.float64)
    draws = seeded(2)
    steps = 300 if SAMPLERS[name].stochastic and name != "ddim" else 60
    x = sample(
        name,
        on_circle(Wrapped(std)),
        noise,
        log_snr_grid(SCHEDULE, steps),
        mask,
        cond,
        draw=lambda: torch.randn(n, 1, 1, generator=draws, dtype=torch.float64),
    )
    # Unrolled about the centre; images of a wide distribution are counted by its distribution function.
    offset = torch.remainder(x.flatten() - CENTRE + PERIOD / 2, PERIOD) - PERIOD / 2

    def cdf(value):
        return sum(
            stats.norm.cdf((value + k * PERIOD) / std) - stats.norm.cdf((-PERIOD / 2 + k * PERIOD) / std)
            for k in range(-3, 4)
        )

    assert stats.kstest(offset.numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("std", [NARROW, WIDE])
def test_likelihood_is_that_of_the_wrapped_normal_distribution(std: float) -> None:
    x0, mask, cond = drawn(16, std, 3)
    found = log_likelihood(on_circle(Wrapped(std)), x0, mask, cond, steps=100)
    torch.testing.assert_close(found.log_p, log_density(x0, std), atol=2e-4, rtol=0)


def test_variational_bound_is_tight() -> None:
    """For one wide distribution, and for an even spread, whose -log p is the log of the size of the box."""
    x0, mask, cond = drawn(400, WIDE, 4)
    bound = variational_bound(on_circle(Wrapped(WIDE)), x0, mask, cond, generator=seeded(5), draws=64)
    assert torch.count_nonzero(bound.prior) == 0
    gap = bound.total + log_density(x0, WIDE)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5

    class Even(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            return torch.zeros_like(x)

    bound = variational_bound(on_circle(Even()), x0, mask, cond, generator=seeded(6), draws=64)
    gap = bound.total - math.log(PERIOD)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5


def test_whole_turns_of_the_noise_change_no_target() -> None:
    head = TorusHead(torch.arange(3), PERIOD)
    level = SCHEDULE.level(torch.tensor([0.3, 0.9, 0.99], dtype=torch.float64))
    eps = torch.randn(3, 5, 3, generator=seeded(7), dtype=torch.float64)
    turn = PERIOD * level.alpha / level.sigma
    torch.testing.assert_close(head.noise(eps + 2 * turn, level), head.noise(eps, level), atol=1e-6, rtol=0)
    # Of little noise nothing is wrapped; of noise as large as the box nothing is known.
    torch.testing.assert_close(head.noise(eps, level)[0], eps[0], atol=1e-12, rtol=0)
    last = SCHEDULE.level(torch.tensor([SCHEDULE.t_max], dtype=torch.float64))
    assert float(head.noise(eps[:1], last).abs().max()) < 1e-4


@pytest.mark.parametrize("parametrisation", ["preconditioned", "epsilon", "x0", "score"])
def test_weight_of_the_output_counts_each_channel_as_it_is_put_out(parametrisation: str) -> None:
    """Positions by the error of their noise, a number by that of what the net says of it, times half the slope of the log-SNR."""
    x0, output = (torch.randn(3, 4, 2, generator=seeded(seed), dtype=torch.float64) for seed in (1, 2))
    noise = torch.randn(3, 4, 2, generator=seeded(3), dtype=torch.float64)
    t, mask = torch.tensor([0.1, 0.5, 0.95], dtype=torch.float64), torch.ones(3, 4, dtype=torch.bool)

    class Says(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            return output

    head = TorusHead(torch.tensor([0]), PERIOD)
    denoiser = Denoiser(Says(), SCHEDULE, parametrisation=parametrisation, heads=[head])
    made = denoising_loss(denoiser, x0, mask, torch.zeros(3, 0), t=t, noise=noise, weight="output")
    level = SCHEDULE.level(t)
    a, b = PARAMETRISATIONS[parametrisation](level)
    errors = output - torch.cat([head.noise(noise[..., :1], level), a * x0[..., 1:] + b * noise[..., 1:]], dim=-1)
    expected = (-level.d_log_snr.flatten() / 2) * errors.square().mean((1, 2))
    torch.testing.assert_close(made, expected)


def test_loss_does_not_know_the_origin() -> None:
    """Clean positions that are moved by any vector, or given in another image of the box, have the same loss and the same gradient."""
    n = 6
    x0, mask, cond = drawn(n, WIDE, 8)
    noise = torch.randn(n, 1, 1, generator=seeded(9), dtype=torch.float64)
    t = torch.linspace(0.05, SCHEDULE.t_max, n, dtype=torch.float64)

    class Moved(Wrapped):
        def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
            return super().forward(x - 31.0 * log_snr.sigmoid().sqrt()[:, None, None], log_snr, mask, cond)

    losses = [
        denoising_loss(on_circle(net), moved, mask, cond, t=t, noise=noise, weight="likelihood")
        for net, moved in ((Wrapped(WIDE), x0), (Moved(WIDE), x0 + 31.0), (Wrapped(WIDE), x0 - 3 * PERIOD))
    ]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], atol=1e-9, rtol=1e-9)


def test_the_exact_denoiser_has_the_least_loss() -> None:
    n = 3000
    x0, mask, cond = drawn(n, NARROW, 10)
    noise = torch.randn(n, 1, 1, generator=seeded(11), dtype=torch.float64)
    t = torch.linspace(SCHEDULE.t_min, SCHEDULE.t_max, n, dtype=torch.float64)
    exact, narrower, wider = (
        denoising_loss(on_circle(Wrapped(std)), x0, mask, cond, t=t, noise=noise).mean()
        for std in (NARROW, 0.8 * NARROW, 1.25 * NARROW)
    )
    assert exact < narrower
    assert exact < wider


def test_a_start_in_another_image_of_the_box_ends_there_too() -> None:
    _, mask, cond = drawn(50, NARROW, 12)
    denoiser = on_circle(Wrapped(NARROW))
    grid = log_snr_grid(SCHEDULE, 200)
    noise = torch.randn(50, 1, 1, generator=seeded(13), dtype=torch.float64)
    once = ddim(denoiser, noise, grid, mask, cond)
    # A start that is moved by a whole turn is the same point on the torus; samplers start at r z, and r is 1.
    turn = PERIOD * float(SCHEDULE.alpha(grid[:1]))
    again = ddim(denoiser, noise + turn, grid, mask, cond)
    # What comes out stands at the last time, at which a turn is alpha P.
    last = PERIOD * float(SCHEDULE.alpha(grid[-1:]))
    torch.testing.assert_close(again - once, torch.full_like(once, last), atol=1e-9, rtol=0)
