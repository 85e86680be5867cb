from __future__ import annotations

import torch

from pcdiff.config import EpicConfig
from pcdiff.diffusion import CosineSchedule, Denoiser, LinearSchedule, denoising_loss, draw_times
from pcdiff.nets import build_net


def trained_like(seed: int = 0) -> Denoiser:
    """A net whose last layer is not zero."""
    torch.manual_seed(seed)
    net = build_net(EpicConfig(hidden=16, layers=2), 3, 2, ["etarel", "phirel", "ptrel"]).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Denoiser(net, CosineSchedule())


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
    t = draw_times(schedule, 64, "low-discrepancy", torch.Generator().manual_seed(3))
    unit = (t.double() - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert bool(((unit >= -1e-7) & (unit <= 1)).all())
    gaps = unit.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((63,), 1 / 64, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_uniform_times_are_uniform() -> None:
    schedule = CosineSchedule()
    n = 100_000
    t = draw_times(schedule, n, "uniform", torch.Generator().manual_seed(4)).double()
    unit = (t - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert abs(float(unit.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5
