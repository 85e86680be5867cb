"""Categories in the denoiser: exact where each point is for itself, certain near the data, and one prediction like any other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pcdiff.diffusion import (
    BankDenoiser,
    CategoryHead,
    CosineSchedule,
    Denoiser,
    EDMSchedule,
    LinearSchedule,
    ddim,
    denoising_loss,
    log_snr_grid,
)

from .exact import seeded

SHARES = torch.tensor([0.5, 0.375, 0.125], dtype=torch.float64)
SPREAD = (SHARES * (1 - SHARES)).mean().sqrt()
WORDS = (torch.eye(3, dtype=torch.float64) - SHARES) / SPREAD


class Answer(nn.Module):
    """A net that always says the same."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        return self.value.expand_as(x) * mask[..., None]


def denoiser(value: Tensor | None = None, schedule=None, **about) -> Denoiser:
    """A number before and after three channels of a category."""
    value = torch.zeros(5, dtype=torch.float64) if value is None else value
    return Denoiser(
        Answer(value),
        schedule or CosineSchedule(),
        heads=[CategoryHead(torch.tensor([1, 2, 3]), WORDS, SHARES)],
        **about,
    )


def clouds(n: int, size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Independent points, and the last cloud shorter by one."""
    rng = seeded(seed)
    kinds = torch.multinomial(SHARES.expand(n * size, 3), 1, generator=rng)[:, 0]
    numbers = torch.randn(n * size, 2, generator=rng, dtype=torch.float64)
    x0 = torch.cat([numbers[:, :1], WORDS[kinds], numbers[:, 1:]], dim=1).view(n, size, 5)
    mask = torch.ones(n, size, dtype=torch.bool)
    mask[-1, -1] = False
    return x0 * mask[..., None], mask


@pytest.mark.parametrize("parametrisation", ["preconditioned", "x0"])
@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), EDMSchedule()])
def test_without_a_word_of_the_net_it_is_exact_for_independent_categories(schedule, parametrisation) -> None:
    """As the exact denoiser over a bank of clouds of one point that holds each category as often as its share."""
    bank = WORDS.repeat_interleave((8 * SHARES).long(), dim=0)[:, None]
    one = torch.ones(8, 1, dtype=torch.bool)
    exact = BankDenoiser(bank, one, schedule)
    t = torch.linspace(schedule.t_min + 1e-3, schedule.t_max - 1e-3, 8, dtype=torch.float64)
    level = schedule.level(t)
    x_t = level.alpha * bank + level.sigma * torch.randn(bank.shape, generator=seeded(1), dtype=torch.float64)
    plain = Denoiser(
        Answer(torch.zeros(3, dtype=torch.float64)),
        schedule,
        parametrisation=parametrisation,
        heads=[CategoryHead(torch.arange(3), WORDS, SHARES)],
    )
    cond = torch.zeros(8, 0, dtype=torch.float64)
    torch.testing.assert_close(plain(x_t, t, one, cond).x0, exact(x_t, t, one, cond).x0, rtol=1e-9, atol=1e-9)


def test_evidence_of_the_net_is_a_likelihood_ratio() -> None:
    """Far from the data x_t tells nothing, so x0 is the mean over p_k exp(c_k o), whatever that of the numbers is."""
    said = torch.tensor([0.3, 0.2, -0.1, 0.4, -0.7], dtype=torch.float64)
    model = denoiser(said)
    x0, mask = clouds(2)
    t = torch.full((2,), model.schedule.t_max, dtype=torch.float64)
    prediction = model(torch.zeros_like(x0), t, mask, torch.zeros(2, 0, dtype=torch.float64))
    level = model.schedule.level(t)
    weights = (
        SHARES
        * (WORDS @ said[1:4]).exp()
        * (-((level.alpha[0, 0] / level.sigma[0, 0]) ** 2) / 2 * WORDS.square().sum(1)).exp()
    )
    expected = weights / weights.sum() @ WORDS
    torch.testing.assert_close(prediction.x0[0, 0, 1:4], expected)
    torch.testing.assert_close(prediction.output[0, :, [0, 4]], said[[0, 4]].expand(4, 2))


def test_it_is_a_prediction_like_any_other() -> None:
    """alpha x0 + sigma eps = x_t, and zero where there is no point."""
    model = denoiser(torch.linspace(-1, 1, 5, dtype=torch.float64))
    x0, mask = clouds(6)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    level = model.schedule.level(t)
    x_t = (level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=seeded(2), dtype=torch.float64)) * mask[
        ..., None
    ]
    found = model(x_t, t, mask, torch.zeros(6, 0, dtype=torch.float64))
    torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, x_t)
    assert (found.output[~mask] == 0).all()
    # An expectation over code words: shares of at least 0 that sum to 1.
    shares = found.x0[mask][:, 1:4] * SPREAD + SHARES
    assert (shares >= -1e-12).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares), dtype=torch.float64))


def test_near_the_data_categories_cost_nothing_to_learn() -> None:
    """At a log-SNR of 8 the loss of a net that says nothing is that of the two numbers alone."""
    model = denoiser()
    x0, mask = clouds(500)
    t = model.schedule.time(torch.full((500,), 8.0, dtype=torch.float64))
    noise = torch.randn(x0.shape, generator=seeded(3), dtype=torch.float64)
    about = {"t": t, "noise": noise, "weight": "velocity"}
    cond = torch.zeros(500, 0, dtype=torch.float64)
    found = denoising_loss(model, x0, mask, cond, **about)
    only = torch.tensor([0, 4])
    plain = Denoiser(Answer(torch.zeros(2, dtype=torch.float64)), model.schedule)
    numbers = denoising_loss(plain, x0[..., only], mask, cond, **(about | {"noise": noise[..., only]}))
    torch.testing.assert_close(5 * found, 2 * numbers)


def test_a_sampler_makes_categories_of_their_shares() -> None:
    """4,000 points: each share within 4 standard deviations, each channel at a code word to the noise of the last time."""
    model = denoiser()
    x = torch.randn(1000, 4, 5, generator=seeded(4), dtype=torch.float64)
    mask = torch.ones(1000, 4, dtype=torch.bool)
    end = ddim(model, x, log_snr_grid(model.schedule, 60), mask, torch.zeros(1000, 0, dtype=torch.float64), order=2)
    distance = torch.cdist(end[..., 1:4].reshape(-1, 3), WORDS)
    nearest, kind = distance.min(dim=1)
    assert float(nearest.quantile(0.99)) < 0.05
    share = torch.bincount(kind, minlength=3) / 4000
    assert ((share - SHARES).abs() < 4 * (SHARES * (1 - SHARES) / 4000).sqrt()).all()
