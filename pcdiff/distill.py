"""Distillation: a generator that does in one or two evaluations what its teacher does in many.

The teacher solves the ODE from noise; where its trajectories pass at a few times is kept (see :mod:`pcdiff.pairs`). The student, an ordinary
denoiser on the same schedule, learns to land there by as many steps of DDIM (:func:`pcdiff.diffusion.trajectory_loss`). With one step this
is knowledge distillation (arXiv 2101.02388), or the reflow of Flow Straight and Fast (arXiv 2209.03003).

What comes out is a :class:`~pcdiff.generator.Generator` like any other, whose default sampler is ``ddim`` of order 1 on a grid of its own. The
number of points, the cloud features and all scales are the teacher's. The run folder is that of a training, with the trajectories in
RUN/pairs besides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from pcdiff.bundle import Settings, build_denoiser, load_denoiser, pick_device, weights_of
from pcdiff.clouds import PointClouds
from pcdiff.config import DistillConfig, SamplingConfig, load_as
from pcdiff.diffusion import Denoiser, trajectory_loss
from pcdiff.errors import ConfigError, DataError
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Loader
from pcdiff.pairs import make_pairs, nearest_times, read_pairs, states_of
from pcdiff.run import describe_run, locked
from pcdiff.seeds import Purpose, word
from pcdiff.training import Task, fit
from pcdiff.transforms import Encoded

__all__ = ["distill", "even_levels"]


def distill(config: DistillConfig | str | Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Teach a generator of few steps what another one does in many.

    Args:
        config: a config, or the name of its file.
        resume: continue the run from its newest checkpoint, or the making of the trajectories; without either, begin it.
        progress: show progress bars.

    Returns:
        The run folder.

    Raises:
        PcdiffError: bad config; no such teacher, or one without an ODE; a run of that name exists; too many steps in a row were not
            finite.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written first. A second Ctrl-C does not wait for it.
    """
    if not isinstance(config, DistillConfig):
        config = load_as(DistillConfig, config)
    run = Path(config.output or f"runs/{config.name}")
    device = pick_device(config.device)
    teacher = Generator.load(config.teacher)
    try:
        chosen = teacher.choose(**(config.sampling.resolved().model_dump() if config.sampling else {}))
        kept = nearest_times(teacher, chosen, even_levels(config.steps))
    except DataError as error:
        raise ConfigError(f"{config.name}: sampling of the teacher: {error}") from error
    with locked(run):
        describe_run(run, config, {"teacher": _fingerprint(teacher, chosen)}, resume=resume)
        train, validation = _pairs(run, config, teacher, chosen, kept, device, shown=progress)
        settings = _settings(config, teacher.settings)
        model = _student(config, teacher, settings).to(device)
        task = _task(config, teacher, chosen, kept, settings, train, validation, device)
        fit(run, config, model, task, device, progress=progress)
    return run


def even_levels(steps: int) -> Tensor:
    """The log-SNR between the steps of a student, shape (steps - 1,), rising.

    A step of DDIM turns (x_t / r, F) by the angle arctan(sigma / alpha) that lies between its levels (see
    :func:`pcdiff.diffusion.trajectory_loss`); the levels are even in this angle, so that each step asks alike of the net.

    >>> even_levels(2).tolist()
    [0.0]
    """
    angle = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:-1] * torch.pi / 2
    # Rounded, for the tangent of a right angle's half is not exactly 1.
    return (-2 * torch.log(torch.tan(angle))).round(decimals=12) + 0.0


def _pairs(
    run: Path,
    config: DistillConfig,
    teacher: Generator,
    chosen: SamplingConfig,
    kept: tuple[int, ...],
    device: torch.device,
    *,
    shown: bool,
) -> tuple[Encoded, Encoded]:
    """The trajectories to learn from and those to validate with, made where the run does not have them."""
    folder = run / "pairs"
    for left in folder.glob(".*.tmp.*"):
        left.unlink()
    columns = (TextColumn("trajectories"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("left"))
    sizes = {"train": config.pairs.train, "validation": config.pairs.validation}
    with Progress(*columns, TimeRemainingColumn(), expand=True, disable=not shown) as bar:
        task = bar.add_task("", total=sum(sizes.values()))
        for i, (name, n) in enumerate(sizes.items()):
            make_pairs(
                teacher,
                folder,
                name,
                n,
                seed=word(config.seed, Purpose.PAIRS, i),
                chosen=chosen,
                kept=kept,
                device=device,
                progress=lambda clouds: bar.advance(task, clouds),
            )
    train, validation = (read_pairs(folder, name, n) for name, n in sizes.items())
    return train, validation


def _settings(config: DistillConfig, teacher: Settings) -> Settings:
    """The student's: the teacher's but for the net and the sampler; it never sees hidden conditions, and is not guided."""
    return replace(
        teacher,
        net=config.net or teacher.net,
        sampling=SamplingConfig(
            sampler="ddim", order=1, steps=config.steps, grid="fitted", precision=teacher.sampling.precision
        ),
        denoiser=teacher.denoiser.model_copy(update={"drop_conditions": 0.0}),
    )


def _task(
    config: DistillConfig,
    teacher: Generator,
    chosen: SamplingConfig,
    kept: tuple[int, ...],
    settings: Settings,
    train: Encoded,
    validation: Encoded,
    device: torch.device,
) -> Task:
    """What the student learns: to land on the trajectories."""
    width, grid = len(teacher.transform.points), teacher.grid(chosen)[list(kept)]

    def losses(model: Denoiser, batch: CloudBatch, _: torch.Generator | None = None) -> Tensor:
        return trajectory_loss(model, states_of(batch.x, width), grid, batch.mask, batch.cond)

    held = Loader(validation, config.training.points_per_batch, config.seed)

    @torch.no_grad()
    def validate(ema: Denoiser) -> float:
        return sum(losses(ema, batch.to(device)).sum().item() for batch in held.epoch(0)) / len(validation)

    def generator(ema: Denoiser, about: Mapping[str, Any]) -> Generator:
        taught = {"teacher": teacher.origin}
        grids = {config.steps: grid.tolist()}
        return Generator(
            ema, teacher.multiplicity, teacher.transform, settings, teacher.types, {**about, **taught}, grids
        )

    def truth() -> PointClouds:
        own, n = word(config.seed, Purpose.PAIRS, 2), config.training.compare
        return teacher.sample(n, seed=own, device=config.device, **chosen.model_dump())

    loader = Loader(train, config.training.points_per_batch, config.seed)
    return Task(loader, losses, validate, generator, truth, "distill")


def _student(config: DistillConfig, teacher: Generator, settings: Settings) -> Denoiser:
    """The student before it has learned: the teacher itself, or another net on the teacher's schedule."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(config.seed, Purpose.WEIGHTS))
        student = build_denoiser(settings, teacher.transform)
    if config.net is None:
        load_denoiser(student, weights_of(teacher.denoiser))
    elif isinstance(teacher.denoiser.schedule, nn.Module):
        student.schedule = teacher.denoiser.schedule
    if isinstance(student.schedule, nn.Module):
        # The trajectories are of this very schedule.
        student.schedule.requires_grad_(False)
    return student


def _fingerprint(teacher: Generator, chosen: SamplingConfig) -> str:
    """SHA-256 of what the trajectories depend on: weights, sampler and times."""
    about = [teacher.provenance["files"], chosen.model_dump(mode="json"), teacher.grid(chosen).tolist()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
