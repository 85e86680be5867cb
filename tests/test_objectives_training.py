"""Every method of the config trains on clouds of mixed sizes, and what is learned beyond the net is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pcdiff
from pcdiff import stepping, training
from pcdiff.config import Config
from pcdiff.diffusion import LearnedSchedule
from pcdiff.errors import ConfigError, DataError
from pcdiff.generator import Generator

from .test_training import config
from .test_transforms import jets

VARIANTS: dict[str, dict[str, Any]] = {
    "ddpm": {"schedule": {"kind": "ddpm", "steps": 50}, "denoiser": {"parametrisation": "epsilon"}},
    "score": {"schedule": {"kind": "sub-vp"}, "denoiser": {"parametrisation": "score"}},
    "edm": {"schedule": {"kind": "edm"}, "loss": {"weight": "velocity", "times": "logit-normal"}},
    "flow-matching": {
        "schedule": {"kind": "rectified"},
        "denoiser": {"parametrisation": "velocity"},
        "loss": {"weight": "flow-matching"},
    },
    "bound": {"loss": {"weight": "likelihood", "times": "importance"}},
    "learned": {"schedule": {"kind": "learned"}, "loss": {"weight": "likelihood"}},
    "implicit": {"loss": {"objective": "implicit-score"}},
    "sliced": {"loss": {"objective": "sliced-score"}},
    "potential": {
        "denoiser": {"potential": True},
        "net": {"kind": "transformer", "hidden": 8, "layers": 1, "heads": 2},
    },
    "action": {"denoiser": {"potential": True}, "loss": {"objective": "action"}},
    "poisson": {"schedule": {"kind": "edm"}, "denoiser": {"dimension": 8.0}, "loss": {"weight": "velocity"}},
    "guided": {"denoiser": {"drop_conditions": 0.3}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return (
        pcdiff.write(jets(400, seed=1), folder / "train.parquet"),
        pcdiff.write(jets(100, seed=2), folder / "validation.parquet"),
    )


def variant(files: tuple[Path, Path], output: Path, name: str, steps: int) -> Config:
    about = {
        "steps": steps,
        "points_per_batch": 200,
        "log_every": 1,
        "validate_every": steps,
        "checkpoint_every": steps,
        "compare": 0,
    }
    return config(files, output, training=about, **VARIANTS[name])


def weights(run: Path) -> bytes:
    return (run / "generator" / "denoiser.safetensors").read_bytes()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_method_trains_and_resumes_bit_for_bit(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    whole = training.train(variant(files, tmp_path / "whole", name, 40), progress=False)
    lines = [json.loads(line)["metrics"]["loss/train"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(lines).all()
    assert len(lines) == 40
    made = Generator.load(whole).sample(20, seed=1).validate()
    assert len(made) == 20

    def interrupted(*arguments: Any) -> tuple[float, list[int]]:
        found = step(*arguments)
        if arguments[-1].step == 17:
            raise KeyboardInterrupt
        return found

    step, keep = training.step, variant(files, tmp_path / "parts", name, 40)
    part = keep.model_copy(update={"training": keep.training.model_copy(update={"checkpoint_every": 1})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(part, progress=False)
    assert weights(training.train(part, resume=True, progress=False)) == weights(whole)


def test_a_learned_schedule_moves_is_kept_and_keeps_its_ends(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = training.train(variant(files, tmp_path / "run", "learned", 60), progress=False)
    schedule = Generator.load(run).denoiser.schedule
    assert isinstance(schedule, LearnedSchedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    with torch.no_grad():
        moved = schedule.log_snr(t) - LearnedSchedule().log_snr(t)
    assert float(moved[[0, -1]].abs().max()) < 1e-6
    assert float(moved.abs().max()) > 1e-4
    assert bool((schedule.log_snr(t).diff() < 0).all())


def test_learning_the_schedule_lowers_the_variance_of_the_bound_and_not_its_mean() -> None:
    """A fixed wrong denoiser (F = 0 on data of standard deviation 0.2): the second moment of the loss over uniform t falls."""
    from pcdiff.diffusion import Denoiser, comb, denoising_loss

    class Zero(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    schedule = LearnedSchedule()
    denoiser = Denoiser(Zero(), schedule)
    optimiser = torch.optim.Adam(schedule.parameters(), lr=0.02)
    rng = torch.Generator().manual_seed(0)
    mask, cond = torch.ones(2048, 4, dtype=torch.bool), torch.zeros(2048, 0)

    def losses() -> torch.Tensor:
        x0, noise = (torch.randn(2048, 4, 2, generator=rng) for _ in range(2))
        return denoising_loss(denoiser, 0.2 * x0, mask, cond, t=comb(2048, rng), noise=noise, weight="likelihood")

    before = [losses().detach() for _ in range(10)]
    for _ in range(200):
        loss = losses()
        optimiser.zero_grad()
        stepping.backward(denoiser, loss, len(loss), 1.0)
        optimiser.step()
    after = [losses().detach() for _ in range(10)]
    means, stds = ([float(getattr(torch.cat(v), what)()) for v in (before, after)] for what in ("mean", "std"))
    # standard error of each mean: std / sqrt(20,480)
    assert abs(means[1] - means[0]) < 5 * (stds[0] + stds[1]) / 20_480**0.5
    assert stds[1] < 0.8 * stds[0]


def test_guidance_needs_hidden_conditions_and_changes_the_clouds(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = training.train(variant(files, tmp_path / "run", "guided", 40), progress=False)
    generator = Generator.load(run)
    plain = generator.sample(30, seed=1)
    guided = generator.sample(30, seed=1, guidance=3.0)
    assert not np.allclose(plain.column("etarel"), guided.column("etarel"))
    np.testing.assert_array_equal(plain.counts, guided.counts)


def test_a_poisson_flow_refuses_samplers_that_draw_noise(files: tuple[Path, Path], tmp_path: Path) -> None:
    generator = Generator.load(training.train(variant(files, tmp_path / "run", "poisson", 5), progress=False))
    with pytest.raises(DataError, match="sampler = 'ancestral': a Poisson flow has an ODE only"):
        generator.sample(5, sampler="ancestral")
    with pytest.raises(DataError, match="sampler = 'ddim': a Poisson flow"):
        generator.sample(5, options={"eta": 0.5})
    generator.sample(5, sampler="heun", steps=3).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"objective": "action"}}, "denoiser.potential: true with it"),
        ({"loss": {"objective": "sliced-score"}, "denoiser": {"dimension": 4}}, "denoising, for denoiser.dimension"),
        (
            {"loss": {"objective": "implicit-score"}, "net": {"kind": "graph"}},
            "denoising, for the output of net.kind: graph",
        ),
        (
            {"loss": {"objective": "sliced-score", "weight": "velocity"}},
            "loss.weight: found 'velocity', expected this key with",
        ),
        (
            {"loss": {"objective": "action", "times": "uniform"}, "denoiser": {"potential": True}},
            "loss.times: found 'uniform', expected this key with loss.objective: denoising only, not action",
        ),
        ({"denoiser": {"dimension": 0.5}}, "denoiser.dimension: found 0.5, expected .* 1"),
        ({"schedule": {"kind": "learned"}}, "likelihood, the one weight under which a schedule can be learned"),
        ({"schedule": {"kind": "cosine", "steps": 7}}, "this key with kind: ddpm only"),
        ({"sampling": {"grid": "fitted"}}, "a grid is fitted after training"),
        ({"sampling": {"sampler": "heun", "order": 3}}, "no order for the sampler heun"),
        ({"sampling": {"options": {"ada": 1}}}, "an option of the sampler ddim: eta"),
        (
            {"features": {"clouds": {}}, "multiplicity": {"coupling": "affine"}},
            "multiplicity.coupling: found 'affine', expected spline, for there are no features.clouds",
        ),
    ],
)
def test_methods_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    data = {"name": "g", "data": {"train": "a.h5", "validation": "b.h5"}}
    with pytest.raises(ConfigError, match=message):
        pcdiff.load_config(data | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"guidance": 2.0}}, "guidance = 2.0: the generator was trained without denoiser.drop_conditions"),
        ({"sampling": {"sampler": "ito"}, "denoiser": {"dimension": 8.0}}, "sampler = 'ito': a Poisson flow"),
    ],
)
def test_a_default_sampler_that_cannot_run_is_refused_before_training(
    changes: dict[str, Any], message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        training.train(config(files, tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()
