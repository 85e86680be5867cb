from __future__ import annotations

import pytest
import torch
from torch import nn

from pcdiff.config import EpicConfig
from pcdiff.diffusion import CosineSchedule, Denoiser, LinearSchedule, Prediction, Schedule
from pcdiff.nets import build_net


@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (1.0, 7.0), (0.3, 0.7), (1e-3, 1.0)])
def test_all_readings_agree(alpha: float, sigma: float) -> None:
    """x_t = alpha x0 + sigma eps for any output, and v and the score follow from x0 and eps, also where r is not 1."""
    rng = torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    a, s = (torch.full((3, 1, 1), value, dtype=torch.float64) for value in (alpha, sigma))
    p = Prediction(x_t, output, a, s)
    torch.testing.assert_close(a * p.x0 + s * p.eps, x_t)
    torch.testing.assert_close(p.v, a * p.eps - s * p.x0)
    torch.testing.assert_close(p.score, -p.eps / s)
    r = (a**2 + s**2).sqrt()
    torch.testing.assert_close(output, (a * p.eps - s * p.x0) / r)


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
