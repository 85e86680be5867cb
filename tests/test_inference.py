"""Posteriors of cloud features, against a law whose posterior is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pcdiff
from pcdiff.bundle import Settings
from pcdiff.cli import main
from pcdiff.clouds import PointClouds
from pcdiff.config import EpicConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
from pcdiff.diffusion import Denoiser, build_schedule
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.inference import Posterior, posteriors
from pcdiff.multiplicity import build_multiplicity
from pcdiff.schema import Feature, Schema
from pcdiff.transforms import Transform

SCHEMA = Schema("vectors", (Feature("x"),), (Feature("centre"), Feature("rate")))
SPREAD = 0.5


def clouds(n: int, seed: int) -> PointClouds:
    """n clouds: Poisson numbers of points of mean 20 rate, at N(centre, SPREAD^2)."""
    rng = np.random.default_rng(seed)
    centre, rate = rng.uniform(-1, 1, n), rng.uniform(1, 2, n)
    counts = np.maximum(rng.poisson(20 * rate), 1)
    x = np.repeat(centre, counts) + SPREAD * rng.standard_normal(counts.sum())
    features = {"centre": centre.astype(np.float32), "rate": rate.astype(np.float32)}
    return PointClouds.from_flat(
        {"x": x.astype(np.float32)}, np.concatenate([[0], np.cumsum(counts)]), features, SCHEMA
    )


class Exact(nn.Module):
    """The preconditioned output for independent points N(m, s^2) in the denoiser's units, m linear in the condition."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        scale, centre = transform.points[0], transform.clouds[0]
        self.slope, self.offset = centre.std / scale.std, (centre.mean - scale.mean) / scale.std
        self.variance = (SPREAD / scale.std) ** 2

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        alpha, sigma = (sign_snr.sigmoid().sqrt()[:, None, None] for sign_snr in (log_snr, -log_snr))
        mean = (self.slope * cond[:, 1] + self.offset)[:, None, None]
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        # F of x0 = alpha x - sigma F
        return (alpha * x - x0) / sigma * mask[..., None]


@pytest.fixture(scope="module")
def generator() -> Generator:
    train = clouds(3000, 0)
    transform = Transform.fit(train, {"x": "standard"}, {"centre": "standard", "rate": "standard"})
    config = MultiplicityConfig(kind="regression")
    settings = Settings(EpicConfig(), ScheduleConfig(), config, SamplingConfig())
    multiplicity = build_multiplicity(config, 2, 1)
    features = np.stack([train.feature("centre"), train.feature("rate")], axis=1)
    multiplicity.fit(train.counts, features, np.zeros(len(train), np.int64), seed=0)
    denoiser = Denoiser(Exact(transform), build_schedule(settings.schedule))
    return Generator(denoiser, multiplicity, transform, settings)


@pytest.fixture(scope="module")
def found(generator: Generator) -> tuple[PointClouds, list[Posterior]]:
    held_out = clouds(60, 1)
    return held_out, posteriors(generator, held_out, levels=48, seed=3)


def test_posterior_of_a_mean_is_that_of_bayes(found: tuple[PointClouds, list[Posterior]]) -> None:
    """N(mean of the points, SPREAD^2 / n); the error of the draws of noise is a fraction of it, and widens it."""
    held_out, posterior = found
    pulls, widths = [], []
    for i, one in enumerate(posterior):
        x = held_out[i : i + 1].column("x").astype(np.float64)
        width = SPREAD / np.sqrt(len(x))
        if abs(x.mean()) + 4 * width > 1:
            continue
        pulls.append((one.mean("centre") - x.mean()) / width)
        widths.append(one.std("centre") / width)
    assert len(pulls) > 30
    # Off by less than the posterior is wide, and as wide as the law and the noise of the draws together.
    scatter = np.std(pulls)
    assert scatter < 0.6
    assert abs(np.mean(pulls)) < 4 * scatter / np.sqrt(len(pulls))
    assert np.mean(widths) == pytest.approx(np.sqrt(1 + scatter**2), rel=0.1)


def test_posterior_of_a_rate_is_that_of_the_counts(
    generator: Generator, found: tuple[PointClouds, list[Posterior]]
) -> None:
    """The points say nothing of it: log p(n | rate) is all there is."""
    held_out, posterior = found
    for i, one in enumerate(posterior[:10]):
        axis = one.axes[1]
        centre = np.full(len(axis), one.mean("centre"))
        log_p = generator.multiplicity.log_count(
            np.repeat(held_out.counts[i], len(axis)), np.stack([centre, axis], axis=1), np.zeros(len(axis), np.int64)
        )
        p = np.exp(log_p - log_p.max())
        np.testing.assert_allclose(one.marginal("rate"), p / p.sum(), atol=0.02 * float((p / p.sum()).max()))


def test_ranks_of_true_values_are_even(found: tuple[PointClouds, list[Posterior]]) -> None:
    held_out, posterior = found
    for name in ("centre", "rate"):
        ranks = [one.rank(name, float(value)) for one, value in zip(posterior, held_out.feature(name), strict=True)]
        assert stats.kstest(ranks, "uniform").pvalue > 1e-3
    values = zip(held_out.feature("centre"), held_out.feature("rate"), strict=True)
    inside = [one.credibility(tuple(map(float, pair))) for one, pair in zip(posterior, values, strict=True)]
    assert stats.kstest(inside, "uniform").pvalue > 1e-3


def test_what_is_not_asked_for_is_taken_from_the_catalogue(generator: Generator) -> None:
    (one,) = posteriors(generator, clouds(1, 2), features=["centre"], levels=4)
    assert one.names == ("centre",)
    assert one.probability.ndim == 1
    assert one.probability.sum() == pytest.approx(1)


def test_catalogues_need_not_say_what_is_inferred(generator: Generator) -> None:
    """No observed catalogue knows it; where one does, it is not looked at."""
    known = clouds(1, 2)
    bare = PointClouds.from_flat({"x": known.column("x")}, known.offsets, {}, Schema("vectors", SCHEMA.points))
    (one,), (other,) = posteriors(generator, known, levels=4), posteriors(generator, bare, levels=4)
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.axes, other.axes)


def test_the_command_tells_mean_and_width(
    generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = clouds(1, 2)
    # No folder holds the exact net.
    monkeypatch.setattr(Generator, "load", lambda name: generator)
    bare = PointClouds.from_flat({"x": known.column("x")}, known.offsets, {}, Schema("vectors", SCHEMA.points))
    pcdiff.write(bare, tmp_path / "bare.hdf5")
    assert main(["posterior", "exact", str(tmp_path / "bare.hdf5"), "--levels", "4"]) == 0
    (one,) = posteriors(generator, known, levels=4)
    told = capsys.readouterr().out
    for name in ("centre", "rate"):
        assert f"{one.mean(name):.4f} ± {one.std(name):.4f}" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": ["center"]}, "not conditioned on 'center': did you mean 'centre'"),
        ({"features": []}, "expected one or two features"),
        ({"levels": 1}, "levels = 1: expected at least 2"),
    ],
)
def test_bad_arguments_are_named(generator: Generator, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        posteriors(generator, clouds(1, 2), **arguments)


def test_the_same_seed_gives_the_same_posterior(generator: Generator) -> None:
    held_out = clouds(2, 4)
    first, second = posteriors(generator, held_out, levels=4, seed=5)
    again = posteriors(generator, held_out[:1], levels=4, seed=5)[0]
    torch.testing.assert_close(torch.from_numpy(again.probability), torch.from_numpy(first.probability))
    assert not np.allclose(second.probability, first.probability)
