"""Distillation: a few steps land where the ODE goes, on maps that are known in closed form; runs are resumed bit for bit."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from pydantic import ValidationError
from scipy import special
from scipy.stats import ks_2samp, spearmanr
from torch import Tensor, nn

import pcdiff
from pcdiff import pairs, training
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.cli import main
from pcdiff.config import (
    DistillConfig,
    EpicConfig,
    MultiplicityConfig,
    SamplingConfig,
    ScheduleConfig,
    load_any,
    load_as,
)
from pcdiff.diffusion import CosineSchedule, Denoiser, Prediction, Schedule, ddim, trajectory_loss
from pcdiff.diffusion.losses import per_cloud
from pcdiff.diffusion.samplers import Levels
from pcdiff.distill import _fingerprint, distill
from pcdiff.errors import ConfigError, DataError, ModelError, PcdiffError
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, batch_of
from pcdiff.matching import Matching
from pcdiff.multiplicity import build_multiplicity
from pcdiff.seeds import Purpose, word
from pcdiff.transforms import Transform, cloud_columns

from .diffusion.exact import SCHEDULES, named, seeded
from .diffusion.test_losses import trained_like
from .test_transforms import CLOUDS, POINTS, jets


def generator(*, trained: bool) -> Generator:
    """A small generator of jets of 1 to 11 constituents.

    Untrained it is the exact denoiser of normal data, whose ODE stands still: F = 0 and alpha^2 + sigma^2 = 1.
    """
    clouds = jets(300)
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    settings = Settings(
        EpicConfig(hidden=32, layers=1, global_size=4),
        ScheduleConfig(),
        MultiplicityConfig(kind="empirical"),
        SamplingConfig(steps=12),
    )
    torch.manual_seed(0)
    denoiser = build_denoiser(settings, transform)
    if trained:
        nn.init.normal_(denoiser.net.exit.weight, std=0.2)
    multiplicity = build_multiplicity(settings.multiplicity, 3, 2)
    types = transform.type_index(clouds)
    multiplicity.fit(clouds.counts, np.stack(list(cloud_columns(clouds, list(CLOUDS)).values()), 1), types, 0)
    return Generator(denoiser, multiplicity, transform, settings, (0.5, 0.5), {"name": "teacher"})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "generator"
    generator(trained=True).save(path)
    return path


def config(teacher: Path, output: Path, **changes: Any) -> DistillConfig:
    settings = {
        "name": "fast",
        "output": str(output),
        "seed": 5,
        "device": "cpu",
        "teacher": str(teacher),
        "steps": 2,
        "pairs": {"train": 1500, "validation": 100},
        "optim": {"lr": 2e-3, "warmup": 10},
        "training": {
            "steps": 30,
            "points_per_batch": 400,
            "log_every": 1,
            "validate_every": 10,
            "checkpoint_every": 7,
            "compare": 0,
        },
        "tracking": {"enabled": False},
    }
    return DistillConfig.model_validate(settings | changes)


def weights(run: Path) -> bytes:
    return (run / "generator" / "denoiser.safetensors").read_bytes()


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return distill(config(teacher, tmp_path_factory.mktemp("runs") / "straight"), progress=False)


class Told(nn.Module):
    """A denoiser whose preconditioned output is given."""

    def __init__(self, output: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.output, self.schedule = output, schedule

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        return Prediction(x, self.output, self.schedule.level(t))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_the_output_in_closed_form_lands_on_the_next_state(schedule: Schedule) -> None:
    """F = r ((alpha alpha' + sigma sigma') x / r^2 - x') / (sigma alpha' - alpha sigma') takes x to x', and has no loss."""
    grid = torch.tensor([0.8, 0.3], dtype=torch.float64) * schedule.t_max
    a, s, a_next, s_next = (float(f(t)) for t in grid for f in (schedule.alpha, schedule.sigma))
    r = math.hypot(a, s)
    noise, target = torch.randn(2, 3, 5, 2, dtype=torch.float64, generator=seeded(0))
    mask, cond = torch.ones(3, 5, dtype=torch.bool), torch.zeros(3, 0)
    x = r * noise
    output = r * ((a * a_next + s * s_next) * x / r**2 - target) / (s * a_next - a * s_next)
    told = Told(output, schedule)
    torch.testing.assert_close(ddim(told, noise, grid, mask, cond, order=1), target, rtol=1e-10, atol=1e-10)
    assert float(trajectory_loss(told, [x, target], grid, mask, cond).max()) < 1e-18


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named(SCHEDULES))
def test_the_loss_is_how_far_the_sampler_passes_from_the_trajectory(schedule: Schedule) -> None:
    denoiser, grid = (
        trained_like(schedule=schedule),
        torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64) * schedule.t_max,
    )
    noise, *targets = torch.randn(3, 4, 5, 3, dtype=torch.float64, generator=seeded(1))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    cond = torch.randn(4, 2, dtype=torch.float64, generator=seeded(2))
    seen: list[Tensor] = []
    with torch.no_grad():
        end = ddim(denoiser, noise, grid, mask, cond, order=1, callback=lambda _, __, x, ___: seen.append(x))
        levels = Levels.of(denoiser, grid)
        found = trajectory_loss(denoiser, [seen[0], *targets], grid, mask, cond)
    squares = [
        per_cloud((x - target) ** 2, mask) / (levels.alpha[k] ** 2 + levels.sigma[k] ** 2)
        for k, (x, target) in enumerate(zip([seen[1], end], targets, strict=True), 1)
    ]
    torch.testing.assert_close(found, sum(squares) / 2, rtol=1e-10, atol=1e-12)


class Small(nn.Module):
    """A net of points in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, (log_snr / 10)[:, None, None].expand_as(x)], -1))
        return out


def mixture_states(z: Tensor, grid: Tensor, schedule: Schedule) -> list[Tensor]:
    """Where the ODE of 0.4 N(-0.8, 0.5^2) + 0.6 N(0.9, 0.6^2) takes z: in one dimension it keeps every quantile.

    The two modes touch, so that the slope of the map stays below 2 and a small net can follow it.
    """
    x = np.linspace(-8, 8, 40_001)

    def below(t: Tensor) -> np.ndarray[Any, Any]:
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        parts = ((0.4, -0.8, 0.5), (0.6, 0.9, 0.6))
        return sum(w * special.ndtr((x - alpha * m) / math.hypot(alpha * s, sigma)) for w, m, s in parts)

    quantiles = np.interp(z.numpy(), x, below(grid[0]))
    return [z, *(torch.from_numpy(np.interp(quantiles, below(t), x)) for t in grid[1:])]


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_learn_the_exact_map_of_a_mixture(steps: int) -> None:
    """The root mean square of the distance to the exact map is below 4 % of the spread of the data, on fresh noise."""
    schedule = CosineSchedule()
    grid = torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)
    denoiser = Denoiser(Small().double(), schedule)
    # There is no noise in the loss, so a method of second order is at its minimum soon.
    states = mixture_states(
        torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)[:, None, None], grid, schedule
    )
    optimiser = torch.optim.LBFGS(denoiser.parameters(), max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        mean = trajectory_loss(denoiser, states, grid, torch.ones(256, 1, dtype=torch.bool), torch.zeros(256, 0)).mean()
        mean.backward()
        return mean

    optimiser.step(loss)
    z = torch.randn(4096, 1, 1, dtype=torch.float64, generator=seeded(3))
    exact = mixture_states(z, grid, schedule)[-1]
    with torch.no_grad():
        made = ddim(denoiser, z, grid, torch.ones(4096, 1, dtype=torch.bool), torch.zeros(4096, 0), order=1)
    assert float((made - exact).square().mean().sqrt()) < 0.04 * float(exact.std())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_learns_the_map_of_normal_data(steps: int, tmp_path: Path) -> None:
    """The ODE of normal data stands still: the clouds are the noise. A DDIM step of half of the way does not, with F = 0 it ends
    at cos(45 degrees) x; the student finds its F = -tan(angle / 2) x, to 8 % of the noise.
    """
    generator(trained=False).save(tmp_path / "teacher")
    about = {"steps": 500, "points_per_batch": 1000, "validate_every": 500, "checkpoint_every": 500, "compare": 0}
    # Fine enough that the solver stands still too: at order 2 in 12 steps it does not.
    changes = {"sampling": {"sampler": "unipc", "order": 3, "steps": 40}, "optim": {"lr": 5e-3, "warmup": 10}}
    run = distill(
        config(tmp_path / "teacher", tmp_path / "run", steps=steps, training=about, **changes), progress=False
    )
    student = Generator.load(run)
    noise, mask, cond = student.batch(0, student.conditions(0, 500, seed=9), seed=9)
    made = student.solve(noise, mask, cond, np.arange(500), 9, student.choose(), torch.device("cpu"))
    error = float((made - noise)[mask].square().mean().sqrt())
    assert error < 0.08
    # The validation loss is the mean square of such errors, over clouds and steps.
    assert lines(run)[-1]["loss/validation"] < 0.08**2


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_each_step_stands_for_as_many_of_the_teacher(steps: int, straight: Path, teacher: Path, tmp_path: Path) -> None:
    about = {"steps": 1, "points_per_batch": 400, "compare": 0}
    changes = {"steps": steps, "pairs": {"train": 20, "validation": 20}, "training": about}
    run = straight if steps == 2 else distill(config(teacher, tmp_path / "run", **changes), progress=False)
    taught = Generator.load(teacher)
    times = taught.grid(taught.choose()).tolist()
    places = [round(float(t), 6) for t in Generator.load(run).grids[steps]]
    found = [[round(t, 6) for t in times].index(t) for t in places]
    assert found[0] == 0
    assert found[-1] == 12
    assert set(np.diff(found)) <= {12 // steps, math.ceil(12 / steps)}


def test_a_start_gives_the_first_weights(straight: Path, teacher: Path, tmp_path: Path) -> None:
    """At a vanishing learning rate they stay; another net is refused."""
    changes = {"start": str(straight), "optim": {"lr": 1e-30}, "seed": 6}
    run = distill(config(teacher, tmp_path / "run", **changes), progress=False)
    assert weights(run) == weights(straight)
    assert Generator.load(run).provenance["start"]["name"] == "fast"
    with pytest.raises(ConfigError, match=r"start: .* has net .*hidden=32.*expected .*hidden=8"):
        distill(config(teacher, tmp_path / "other", net={"hidden": 8}, **changes), progress=False)


def test_a_slimmer_multiplicity_model_draws_what_the_teacher_draws(teacher: Path, tmp_path: Path) -> None:
    """The teacher has a table of 300 rows; the flow that learns from its draws has the same marginals, and the rank correlations."""
    slim = {"kind": "flow", "layers": 1, "hidden": 32, "steps": 1500}
    run = distill(config(teacher, tmp_path / "run", multiplicity=slim), progress=False)
    student, taught = Generator.load(run), Generator.load(teacher)
    assert student.settings.multiplicity.kind == "flow"
    assert student.settings.multiplicity.layers == 1
    n = 20_000
    drawn, true = (one.conditions(0, n, 31) for one in (student, taught))
    assert ks_2samp(drawn.counts, true.counts).statistic < 0.03
    for name in CLOUDS:
        assert ks_2samp(drawn.features[name], true.features[name]).statistic < 0.03
        found, expected = (spearmanr(one.features[name], one.counts).statistic for one in (drawn, true))
        # Of a table of 300 rows, in which a smooth density need not follow each.
        assert found == pytest.approx(expected, abs=0.06)
    # A run that begins from this one, of the same teacher, does not fit it anew.
    after = {"start": str(run), "optim": {"lr": 1e-30}, "seed": 6, "multiplicity": slim}
    again = distill(config(teacher, tmp_path / "again", **after), progress=False)
    assert (again / "generator" / "multiplicity.safetensors").read_bytes() == (
        run / "generator" / "multiplicity.safetensors"
    ).read_bytes()


def test_matching_widens_what_a_short_distillation_left_too_narrow(teacher: Path, tmp_path: Path) -> None:
    """Beside the trajectories, the energy distance between the student's clouds and the teacher's falls."""
    found = {}
    for weight in (0.0, 3.0):
        about = {"steps": 150, "points_per_batch": 1500, "validate_every": 150, "checkpoint_every": 150, "compare": 0}
        net = {"hidden": 8, "layers": 1, "global_size": 2}
        changes = {"net": net, "steps": 1, "training": about, "matching": weight}
        run = distill(config(teacher, tmp_path / f"run{weight}", **changes), progress=False)
        taught, student = Generator.load(teacher), Generator.load(run)
        noise, mask, cond = taught.batch(0, taught.conditions(0, 1000, 77), 77)
        made, true = (
            one.solve(noise, mask, cond, np.arange(1000), 77, one.choose(), torch.device("cpu"))
            for one in (student, taught)
        )
        true = CloudBatch(true, mask, cond)
        about_clouds = Matching.of(taught.transform.points, true)
        found[weight] = float(about_clouds.distance(replace(true, x=made), true))
    assert found[3.0] < 0.9 * found[0.0]


def test_matching_goes_to_the_truth_where_the_teacher_misses_it(teacher: Path, tmp_path: Path) -> None:
    """The trajectories are of a teacher of normal data, the true clouds another generator's: the student comes nearer to them."""
    other = generator(trained=False)
    other.save(tmp_path / "teacher")
    truth = Generator.load(teacher).sample(3000, seed=3)
    pcdiff.write(truth, tmp_path / "truth.hdf5")
    fresh = Generator.load(teacher).sample(1000, seed=4)
    about = {"steps": 150, "points_per_batch": 1500, "validate_every": 150, "checkpoint_every": 150, "compare": 0}
    changes = {"steps": 1, "training": about, "matching": 3.0, "truth": str(tmp_path / "truth.hdf5")}
    run = distill(config(tmp_path / "teacher", tmp_path / "run", **changes), progress=False)
    transform = other.transform
    true = batch_of(transform.encode(fresh), np.arange(1000))
    measured = Matching.of(transform.points, true)
    taught, made = (
        float(measured.distance(batch_of(transform.encode(one.sample(1000, seed=5)), np.arange(1000)), true))
        for one in (other, Generator.load(run))
    )
    assert made < 0.5 * taught
    described = json.loads((run / "run.json").read_text())
    assert described["data_fingerprint"]["truth"] == truth.fingerprint()


def test_a_truth_that_nothing_reads_or_that_does_not_fit_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="matching above 0"):
        config(teacher, tmp_path / "run", truth="true.hdf5")
    with pytest.raises(DataError, match=r"nowhere\.hdf5"):
        distill(config(teacher, tmp_path / "run", matching=1.0, truth="nowhere.hdf5"), progress=False)
    with pytest.raises(ConfigError, match=r"fast: truth does not fit the teacher: .*etarel"):
        distill(
            config(teacher, tmp_path / "run", matching=1.0, truth="datasets/toys/spiral_test.parquet"), progress=False
        )
    assert not (tmp_path / "run").exists()


def test_what_comes_out_is_a_generator_of_few_evaluations(straight: Path, teacher: Path) -> None:
    student, taught = Generator.load(straight), Generator.load(teacher)
    assert student.settings.sampling == SamplingConfig(sampler="ddim", order=1, steps=2, grid="fitted")
    grid = student.grid(student.choose())
    assert len(grid) == 3
    assert torch.isin(grid, taught.grid(taught.choose())).all()
    asked = []
    student.denoiser.register_forward_hook(lambda *_: asked.append(1))
    made = student.sample(50, seed=1).validate()
    assert len(asked) == 2
    # Of the same seed the teacher makes the same number of points and cloud features.
    same = taught.sample(50, seed=1)
    np.testing.assert_array_equal(made.counts, same.counts)
    np.testing.assert_array_equal(made.feature("pt"), same.feature("pt"))
    assert student.provenance["teacher"]["name"] == "teacher"
    assert student.provenance["steps"] == 30


def test_it_is_equivariant_under_permutations(straight: Path) -> None:
    student = Generator.load(straight)
    noise, mask, cond = student.batch(0, student.conditions(0, 20, seed=2), seed=2)
    order = torch.randperm(noise.shape[1], generator=seeded(0))
    rest = np.arange(20), 2, student.choose(), torch.device("cpu")
    made, permuted = (student.solve(noise[:, i], mask[:, i], cond, *rest) for i in (torch.arange(len(order)), order))
    torch.testing.assert_close(permuted, made[:, order], rtol=1e-4, atol=1e-5)


def test_trajectories_are_those_of_the_teacher(straight: Path, teacher: Path) -> None:
    """Stored states are what the teacher's sampler passes through, cloud by cloud, and the first is the noise."""
    taught, student = Generator.load(teacher), Generator.load(straight)
    found = pairs.read_pairs(straight / "pairs", "validation", 100)
    seed = config(teacher, straight).seed
    own = word(seed, Purpose.PAIRS, 1)
    conditions = taught.conditions(0, 100, own)
    noise, mask, cond = taught.batch(0, conditions, own)
    np.testing.assert_array_equal(found.counts, conditions.counts)
    np.testing.assert_array_equal(found.cond, cond.numpy())
    seen: dict[float, Tensor] = {}
    chosen = taught.choose()
    end = taught.solve(
        noise,
        mask,
        cond,
        np.arange(100),
        own,
        chosen,
        torch.device("cpu"),
        callback=lambda _, t, x, __: seen.update({float(t): x}),
    )
    times = student.grids[2]
    states = torch.stack([seen[times[0]], seen[times[1]], end], dim=2)[mask].flatten(1)
    np.testing.assert_allclose(found.points, states.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.points[:, :3], noise[mask].numpy())


def test_killed_while_making_trajectories_and_resumed(
    straight: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are there are not made again, a half-written one is swept, and all is as undisturbed."""
    monkeypatch.setattr(pairs, "_SHARD", 1024)
    solved, run = pairs._solved, tmp_path / "run"

    def killed(*arguments: Any) -> Any:
        if arguments[1] == 1024:
            raise KeyboardInterrupt
        return solved(*arguments)

    monkeypatch.setattr(pairs, "_solved", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(config(teacher, run), progress=False)
    monkeypatch.setattr(pairs, "_solved", solved)
    (run / "pairs" / ".train_000001-x.tmp.safetensors").write_bytes(b"half")
    first = run / "pairs" / "train_000000.safetensors"
    written = first.stat().st_mtime_ns
    distill(config(teacher, run), resume=True, progress=False)
    assert first.stat().st_mtime_ns == written
    assert sorted(path.name for path in (run / "pairs").iterdir()) == [
        "train_000000.safetensors",
        "train_000001.safetensors",
        "validation_000000.safetensors",
    ]
    whole = pairs.read_pairs(run / "pairs", "train", 1500)
    monkeypatch.undo()
    # One file or two: the noise of a cloud depends on its number alone, values agree to rounding.
    once = pairs.read_pairs(straight / "pairs", "train", 1500)
    np.testing.assert_array_equal(whole.offsets, once.offsets)
    np.testing.assert_allclose(whole.points, once.points, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "net", [None, {"kind": "epic", "hidden": 8, "layers": 1, "global_size": 2}], ids=["own", "slim"]
)
def test_interrupted_and_resumed_equals_undisturbed(net: Any, teacher: Path, straight: Path, tmp_path: Path) -> None:
    whole = straight if net is None else distill(config(teacher, tmp_path / "whole", net=net), progress=False)
    step, run = training.step, tmp_path / "run"

    def interrupted(*arguments: Any) -> tuple[float, list[int]]:
        found = step(*arguments)
        if arguments[-1].step == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step", interrupted)
        with pytest.raises(KeyboardInterrupt, match="saved at step 17; continue with: pcdiff distill --resume"):
            distill(config(teacher, run, net=net), progress=False)
    distill(config(teacher, run, net=net), resume=True, progress=False)
    assert weights(run) == weights(whole)
    keys = ("loss/train", "loss/validation")
    assert [[line.get(key) for key in keys] for line in lines(run)] == [
        [line.get(key) for key in keys] for line in lines(whole)
    ]


def test_the_command_distils_and_samples_what_it_made(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "fast.yaml", tmp_path / "run"
    file.write_text(
        f"name: fast\nteacher: {teacher}\npairs: {{train: 300, validation: 50}}\ntracking: {{enabled: false}}\n"
        "training: {steps: 5, points_per_batch: 400, compare: 100}\n"
    )
    assert main(["distill", str(file), f"output={run}", "steps=1", "device=cpu"]) == 0
    assert f"{run}: distilled; next: pcdiff sample {run}" in capsys.readouterr().out
    assert any(name.startswith("validation/") for name in lines(run)[-1]), "compared with the teacher"
    assert load_any(run) == load_as(DistillConfig, run)
    assert main(["sample", str(run), "-n", "30", "-o", str(tmp_path / "made.parquet")]) == 0
    assert main(["info", str(run)]) == 0
    assert "order 1" in capsys.readouterr().out
    assert main(["config", "show", str(run)]) == 0
    assert f"teacher: {teacher}" in capsys.readouterr().out
    assert main(["distill", str(run), "--resume", "optim.lr=1"]) == 2
    assert "optim.lr was 0.001, is 1.0" in capsys.readouterr().err


def test_a_teacher_that_changed_is_refused(teacher: Path, straight: Path, tmp_path: Path) -> None:
    with pytest.raises(PcdiffError, match="there is a run already"):
        distill(config(teacher, straight), progress=False)
    own = tmp_path / "teacher"
    generator(trained=True).save(own)
    run = distill(
        config(own, tmp_path / "run", training={"steps": 2, "points_per_batch": 400, "compare": 0}), progress=False
    )
    generator(trained=False).save(own)
    with pytest.raises(PcdiffError, match="the teacher data have changed since the run began"):
        distill(load_as(DistillConfig, run), resume=True, progress=False)


@pytest.mark.parametrize("name", ["ancestral", "restart", "edm-churn"])
def test_a_teacher_that_draws_noise_is_refused(name: str, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"sampler = '{name}': draws noise along the way"):
        distill(config(teacher, tmp_path / "run", sampling={"sampler": name}), progress=False)
    with pytest.raises(ConfigError, match="draws noise"):
        distill(config(teacher, tmp_path / "run", sampling={"options": {"eta": 0.5}}), progress=False)
    assert not (tmp_path / "run").exists()


def test_bad_configs_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        distill(config(tmp_path / "nowhere", tmp_path / "run"), progress=False)
    with pytest.raises(ConfigError, match="steps = 2; expected at least the student's 3"):
        distill(config(teacher, tmp_path / "run", steps=3, sampling={"steps": 2}), progress=False)
    content = {"name": "fast", "teacher": str(teacher)}
    for steps, text in ((0, "greater than or equal to 1"), (9, "less than or equal to 8")):
        with pytest.raises(ConfigError, match=f"steps: found {steps}, expected {text}"):
            load_as(DistillConfig, content | {"steps": steps})
    with pytest.raises(ConfigError, match=r"net\.hiden: unknown key; did you mean 'hidden'"):
        load_as(DistillConfig, content | {"net": {"hiden": 3}})
    with pytest.raises(ConfigError, match=r"sampling\.oder: unknown key; did you mean 'order'"):
        load_as(DistillConfig, content | {"sampling": {"oder": 3}})
    with pytest.raises(ConfigError, match="teacher: found nothing, expected a value"):
        load_as(DistillConfig, {"name": "fast"})


def _stored(file: Path, tensors: dict[str, Any]) -> None:
    file.write_bytes(safetensors.numpy.save(tensors, {"sha256": pairs._checksum(tensors)}))


def test_a_file_of_trajectories_comes_back_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    """Any byte of it may be wrong; what cannot be used is to be made again."""
    file = tmp_path / "train_000000.safetensors"
    rng = np.random.default_rng(1)
    states, cond = rng.normal(size=(6, 4)).astype(np.float32), np.ones((3, 2), np.float32)
    _stored(file, {"states": states, "counts": np.array([1, 2, 3]), "cond": cond})
    found = pairs.read_pairs(tmp_path, "train", 3)
    assert found.points.tobytes() == states.tobytes()
    assert found.counts.tolist() == [1, 2, 3]
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"train_000000\.safetensors: .*remove it, and --resume makes it again"):
            pairs.read_pairs(tmp_path, "train", 3)


def test_files_of_trajectories_of_different_widths_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_SHARD", 1)
    for i, width in enumerate((4, 4, 6)):
        tensors = {
            "states": np.ones((2, width), np.float32),
            "counts": np.array([2]),
            "cond": np.ones((1, 2), np.float32),
        }
        _stored(tmp_path / f"train_{i:06d}.safetensors", tensors)
    assert pairs.read_pairs(tmp_path, "train", 2).counts.tolist() == [2, 2]
    with pytest.raises(DataError, match=r"train_000002\.safetensors: holds states and cond of \(6, 2\) columns"):
        pairs.read_pairs(tmp_path, "train", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"counts": None},
            r"holds cond \(float32\), states \(float32\), expected states \(float32\), counts \(int64\), cond",
        ),
        ({"counts": np.array([1, 2, 3], np.int32)}, r"counts \(int32\).*, expected"),
        ({"counts": np.array([1, 2, 4])}, r"3 counts of 7 points in all, states \(6, 4\).*expected those of 3 clouds"),
        ({"counts": np.array([3, 3])}, r"2 counts of 6 points in all"),
        ({"cond": np.ones((2, 2), np.float32)}, r"cond \(2, 2\)"),
        ({"states": np.array(1, np.float32)}, r"states \(\)"),
    ],
)
def test_trajectories_of_other_names_types_or_sizes_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    whole = {"states": np.ones((6, 4), np.float32), "counts": np.array([1, 2, 3]), "cond": np.ones((3, 2), np.float32)}
    tensors = {key: values for key, values in (whole | changes).items() if values is not None}
    _stored(tmp_path / "train_000000.safetensors", tensors)
    with pytest.raises(DataError, match=message):
        pairs.read_pairs(tmp_path, "train", 3)
    (tmp_path / "train_000000.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read; remove it, and --resume makes it again"):
        pairs.read_pairs(tmp_path, "train", 3)


def test_a_grid_of_other_times_leaves_the_trajectories_as_they_are(teacher: Path, tmp_path: Path) -> None:
    """Nor does any other part of generator.json that they do not depend on; a run thus goes on with them."""
    shutil.copytree(teacher, tmp_path / "teacher")
    loaded = Generator.load(tmp_path / "teacher")
    chosen = loaded.choose(steps=12)
    loaded.grids[7] = (1.0, 0.0)
    loaded.save_grids(tmp_path / "teacher")
    again = Generator.load(tmp_path / "teacher")
    assert again.provenance["files"] != loaded.provenance["files"]
    assert _fingerprint(again, chosen) == _fingerprint(loaded, chosen)


@pytest.mark.parametrize(("file", "name", "most"), [("gluon30", "gluon30", 5), ("gluon30_fast", "gluon30-fast", 2)])
def test_the_shipped_configs_are_found_by_name(file: str, name: str, most: int) -> None:
    shipped = load_as(DistillConfig, file)
    assert shipped.name == name
    assert shipped.steps <= most
