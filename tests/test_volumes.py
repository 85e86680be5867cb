"""Known halos completed, and volumes larger than the training box, with denoisers that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pcdiff
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.completion import complete
from pcdiff.config import (
    DenoiserConfig,
    MultiplicityConfig,
    PeriodicGraphConfig,
    SamplingConfig,
    ScheduleConfig,
)
from pcdiff.diffusion import CosineSchedule, Denoiser, TorusHead, Truncated, ddim, log_snr_grid
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.inference import posteriors
from pcdiff.multiplicity import build_multiplicity
from pcdiff.physics import measure
from pcdiff.schema import halo_schema
from pcdiff.transforms import Transform
from pcdiff.volumes import Windowed, grow

POINTS = ("x", "y", "z", "vx", "vy", "vz", "log10_mass")
SIZE = 80.0
FUNCTIONS = {
    **dict.fromkeys(("x", "y", "z"), "periodic"),
    **dict.fromkeys(("vx", "vy", "vz"), "standard"),
    "log10_mass": "normal-score",
}


def boxes(n: int, seed: int, mean: int = 60) -> PointClouds:
    """Halos that are spread evenly, their number in proportion to omega_m."""
    rng = np.random.default_rng(seed)
    omega_m = rng.uniform(0.1, 0.5, n).astype(np.float32)
    counts = np.maximum(rng.poisson(mean * omega_m / 0.3), 2)
    total = counts.sum()
    columns = {name: (SIZE * rng.random(total)).astype(np.float32) for name in "xyz"}
    for name in "xyz":
        columns[name][columns[name] >= SIZE] = 0
    columns |= {name: (200 * rng.standard_normal(total)).astype(np.float32) for name in ("vx", "vy", "vz")}
    columns["log10_mass"] = (13.3 + rng.exponential(0.3, total)).astype(np.float32)
    features = {"box_size": np.full(n, SIZE, np.float32), "omega_m": omega_m}
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PointClouds.from_flat(columns, offsets, features, halo_schema(POINTS, ("box_size", "omega_m")))


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Untrained: its net puts out zero, so positions are even, velocities and mass scores normal."""
    train = boxes(400, 0)
    transform = Transform.fit(train, FUNCTIONS, {"omega_m": "standard"})
    config = MultiplicityConfig(kind="regression")
    net = PeriodicGraphConfig(hidden=8, vectors=4, layers=1, neighbours=4, waves=2)
    settings = Settings(net, ScheduleConfig(), config, SamplingConfig(steps=30), DenoiserConfig())
    multiplicity = build_multiplicity(config, 1, 1)
    multiplicity.fit(train.counts, train.feature("omega_m")[:, None], np.zeros(len(train), np.int64), seed=0)
    return Generator(build_denoiser(settings, transform), multiplicity, transform, settings)


def test_generated_boxes_are_even_and_inside(generator: Generator) -> None:
    made = generator.sample(60, seed=1, conditions={"omega_m": 0.3})
    made.validate("generated")
    assert made.schema.kind == "halos"
    np.testing.assert_array_equal(made.feature("omega_m"), np.float32(0.3))
    np.testing.assert_array_equal(made.feature("box_size"), np.float32(SIZE))
    for name in "xyz":
        assert made.column(name).min() >= 0
        assert made.column(name).max() < SIZE
        assert stats.kstest(made.column(name) / SIZE, "uniform").pvalue > 1e-3
    # Their number is that of the universe that was asked for, exactly: 60 of Poisson, with its error.
    assert abs(made.counts.mean() - 60) < 4 * np.sqrt(60 / 60) + 1
    assert made.column("log10_mass").min() >= boxes(400, 0).column("log10_mass").min() - 1e-4
    falling = np.diff(made.column("log10_mass")) <= 0
    falling[made.offsets[1:-1] - 1] = True
    assert falling.all()


def test_a_stored_generator_makes_the_same_boxes(generator: Generator, tmp_path) -> None:
    generator.save(tmp_path / "generator")
    again = Generator.load(tmp_path / "generator")
    assert again.sample(3, seed=2).equals(generator.sample(3, seed=2))


class Silent(nn.Module):
    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_truncated_denoiser_draws_from_the_truncated_distributions() -> None:
    """A normal number below 0.5, and a position in a part of the circle: from the exact denoisers of the whole."""
    n, schedule = 4000, CosineSchedule()
    head = TorusHead(torch.tensor([0]), 100.0)
    denoiser = Denoiser(Silent(), schedule, heads=[head])
    low = torch.tensor([20.0, -torch.inf, -torch.inf], dtype=torch.float64).expand(n, 1, 3)
    high = torch.tensor([45.0, 0.5, torch.inf], dtype=torch.float64).expand(n, 1, 3)
    noise = torch.randn(n, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, cond = torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 0, dtype=torch.float64)
    grid = log_snr_grid(schedule, 100)
    x = ddim(Truncated(denoiser, low, high, [head]), noise, grid, mask, cond)[:, 0].numpy()
    position = np.mod(x[:, 0] / float(schedule.alpha(grid[-1:])), 100)
    assert position.min() > 19.9
    assert position.max() < 45.1
    assert stats.kstest((position - 20) / 25, "uniform").pvalue > 1e-3
    assert stats.kstest(x[:, 1], stats.truncnorm(-np.inf, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 2], "norm").pvalue > 1e-3


def test_known_halos_stay_and_light_ones_are_added(generator: Generator) -> None:
    whole = boxes(12, 3)
    heavy = whole.column("log10_mass") > 13.6
    owner = np.repeat(np.arange(12), whole.counts)
    counts = np.bincount(owner[heavy], minlength=12)
    columns = {name: whole.column(name)[heavy] for name in POINTS}
    rows = {name: whole.feature(name) for name in whole.schema.cloud_names}
    known = PointClouds.from_flat(columns, np.concatenate([[0], np.cumsum(counts)]), rows, whole.schema)
    made = complete(generator, known, whole.counts, below=13.6, steps=8, repeats=2, seed=1)
    np.testing.assert_array_equal(made.counts, whole.counts)
    kept = made.column("log10_mass") > 13.6
    np.testing.assert_array_equal(np.bincount(np.repeat(np.arange(12), made.counts)[kept], minlength=12), counts)
    rank = np.lexsort((-known.column("log10_mass"), np.repeat(np.arange(12), counts)))
    for name in POINTS:
        np.testing.assert_array_equal(made.column(name)[kept], known.column(name)[rank])
    # What is added is spread evenly, as the denoiser knows it.
    assert stats.kstest(made.column("x")[~kept] / SIZE, "uniform").pvalue > 1e-3


def test_the_other_half_of_a_box_is_filled(generator: Generator) -> None:
    whole = boxes(8, 4)
    inside = whole.column("x") < SIZE / 2
    owner = np.repeat(np.arange(8), whole.counts)
    counts = np.bincount(owner[inside], minlength=8)
    known = PointClouds.from_flat(
        {name: whole.column(name)[inside] for name in POINTS},
        np.concatenate([[0], np.cumsum(counts)]),
        {name: whole.feature(name) for name in whole.schema.cloud_names},
        whole.schema,
    )
    made = complete(
        generator, known, whole.counts, region=[(SIZE / 2, SIZE), (0, SIZE), (0, SIZE)], steps=12, repeats=2
    )
    left = made.column("x") < SIZE / 2
    # The noise that is left at the last time may carry a halo over the border by 0.003 of a unit.
    np.testing.assert_array_equal(np.bincount(np.repeat(np.arange(8), made.counts)[left], minlength=8), counts)
    x = made.column("x")[~left]
    assert stats.kstest(2 * x / SIZE - 1, "uniform").pvalue > 1e-3
    drawn = complete(generator, known, steps=2, repeats=1)
    assert np.all(drawn.counts >= known.counts)


def test_a_volume_is_filled_evenly(generator: Generator, tmp_path: Path) -> None:
    made = grow(generator, (2, 1, 3), {"omega_m": 0.3}, count=1500, steps=12, seed=1)
    assert len(made) == 1
    for name, side in (("x", 2 * SIZE), ("y", SIZE), ("z", 3 * SIZE)):
        assert made.feature(f"size_{name}")[0] == side
        assert made.column(name).min() >= 0
        assert made.column(name).max() < side
        assert stats.kstest(made.column(name) / side, "uniform").pvalue > 1e-3
    with pytest.raises(DataError, match="volume: size_x is 160 where box_size is 240 Mpc/h; expected a cube"):
        measure(made, "volume")
    with pytest.raises(DataError, match=r"made\.hdf5: size_x is 160 where"):
        pcdiff.write(made.with_features({"redshift": 0}), tmp_path / "made.hdf5", format="halotools")
    cube = measure(grow(generator, (2, 2, 2), {"omega_m": 0.3}, count=800, steps=1))
    assert cube.clouds.feature("box_size")[0] == 2 * SIZE
    assert abs(grow(generator, (2, 1, 1), {"omega_m": 0.3}, steps=1).counts[0] - 120) < 5 * np.sqrt(120)


def trained(generator: Generator) -> Denoiser:
    """The same denoiser with weights that say something."""
    net = generator.denoiser.net
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return generator.denoiser


def test_windows_of_a_repeated_box_see_the_box_itself(generator: Generator, tmp_path) -> None:
    """Of two copies side by side each window holds one box, in an order and from an origin of its own; so what is said is the same."""
    generator.save(tmp_path / "generator")
    one = Generator.load(tmp_path / "generator")
    denoiser, torus = trained(one).double(), one.transform.torus
    assert torus is not None

    def encode(counts):
        rows = {"omega_m": np.full(len(counts), 0.3, np.float32)}
        return torch.from_numpy(one.transform.encode_conditions(counts, rows, np.zeros(len(counts), int))).double()

    rng = torch.Generator().manual_seed(2)
    x = torch.randn(1, 25, 7, generator=rng, dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    a = float(denoiser.schedule.alpha(t))
    x[..., :3] = a * 100 * torch.rand(1, 25, 3, generator=rng, dtype=torch.float64)
    mask = torch.ones(1, 25, dtype=torch.bool)
    expected = denoiser(x, t, mask, encode(np.array([25]))).eps
    copy = x.clone()
    copy[..., 0] += a * 100
    both = torch.cat([x, copy], dim=1)
    windowed = Windowed(denoiser, torus, (2, 1, 1), encode)
    found = windowed(both, t, torch.ones(1, 50, dtype=torch.bool), torch.zeros(1, 0)).eps
    torch.testing.assert_close(found, torch.cat([expected, expected], dim=1), atol=1e-8, rtol=1e-8)
    single = Windowed(denoiser, torus, (1, 1, 1), encode)(x, t, mask, torch.zeros(1, 0)).eps
    torch.testing.assert_close(single, expected, atol=1e-10, rtol=1e-10)


def test_windows_begin_elsewhere_at_each_time(generator: Generator) -> None:
    """Of clustered points, the numbers in the windows tell where these begin; the seed and the time decide it."""
    torus, found = generator.transform.torus, []
    assert torus is not None

    def encode(counts):
        found.append(tuple(counts))
        return torch.zeros(len(counts), 2)

    rng = torch.Generator().manual_seed(3)
    x = torch.randn(1, 60, 7, generator=rng)
    x[..., :3] = 200 * torch.rand(1, 60, 3, generator=rng)
    for seed, time in ((1, 0.2), (1, 0.2), (1, 0.21), (2, 0.2)):
        t = torch.tensor([time])
        windowed = Windowed(generator.denoiser, torus, (2, 2, 2), encode, seed)
        scaled = x * torch.where(torch.arange(7) < 3, generator.denoiser.schedule.alpha(t), 1)
        with torch.no_grad():
            windowed(scaled.float(), t, torch.ones(1, 60, dtype=torch.bool), torch.zeros(1, 0))
    calls = len(found) // 4
    first, again, later, other = (found[k * calls : (k + 1) * calls] for k in range(4))
    assert first == again
    assert first != later
    assert first != other


def test_bad_arguments_are_named(generator: Generator) -> None:
    known = boxes(2, 5)
    with pytest.raises(DataError, match="complete: counts of shape"):
        complete(generator, known, [1, 1])
    with pytest.raises(DataError, match="expected three rising pairs within 0 and 80"):
        complete(generator, known, region=[(0, 90), (0, 80), (0, 80)])
    with pytest.raises(DataError, match="repeats is 0; expected at least 1"):
        complete(generator, known, known.counts, repeats=0)
    with pytest.raises(DataError, match="grow: features are omega_b; expected omega_m"):
        grow(generator, (2, 1, 1), {"omega_b": 0.05})
    with pytest.raises(DataError, match=r"grow: boxes is \(0, 1, 1\)"):
        grow(generator, (0, 1, 1), {"omega_m": 0.3})
    with pytest.raises(
        DataError, match=r"grow: omega_m = 0\.9 lies outside of the training data, which cover omega_m from 0\.1"
    ):
        grow(generator, (2, 1, 1), {"omega_m": 0.9})
    with pytest.raises(DataError, match=r"complete: omega_m = 0\.9 lies outside of the training data"):
        complete(generator, known.with_features({"omega_m": [0.3, 0.9]}), known.counts)


def test_catalogues_that_the_training_data_are_no_examples_of_are_refused(generator: Generator) -> None:
    """Their positions would be folded into the box, and their masses taken for the least that is known."""
    known = boxes(2, 5)
    larger = known.with_features({"box_size": 1000})
    message = "box_size of cloud 0 is 1000 Mpc/h; the generator knows only 80, which all of its training data have"
    for function in (lambda: complete(generator, larger), lambda: posteriors(generator, larger)):
        with pytest.raises(DataError, match=message):
            function()
    columns = {name: known.column(name) for name in POINTS} | {"log10_mass": known.column("log10_mass") - 1}
    rows = {name: known.feature(name) for name in known.schema.cloud_names}
    lighter = PointClouds.from_flat(columns, known.offsets, rows, known.schema)
    with pytest.raises(DataError, match=r"of \d+ halos are lighter than log10_mass = 13\.30"):
        complete(generator, lighter, lighter.counts)
    points = tuple(replace(each, unit="kpc/h") if each.name == "x" else each for each in known.schema.points)
    columns["log10_mass"] = known.column("log10_mass")
    other = PointClouds.from_flat(columns, known.offsets, rows, replace(known.schema, points=points))
    with pytest.raises(DataError, match="point feature 'x' is in 'kpc/h', expected 'Mpc/h' as in the training data"):
        complete(generator, other, other.counts)
