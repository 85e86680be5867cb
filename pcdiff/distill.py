"""Distillation: a generator that does in a few evaluations what its teacher does in many.

The teacher solves the ODE from noise; where its trajectories pass at a few times is kept (see :mod:`pcdiff.pairs`). The student, an ordinary
denoiser on the same schedule, learns to land there by as many steps of DDIM (:func:`pcdiff.diffusion.trajectory_loss`). With one step this
is knowledge distillation (arXiv 2101.02388), or the reflow of Flow Straight and Fast (arXiv 2209.03003). What a student cannot follow cloud by
cloud it can still get right as a distribution: see :mod:`pcdiff.matching`.

What comes out is a :class:`~pcdiff.generator.Generator` like any other, whose default sampler is ``ddim`` of order 1 on a grid of its own. All
scales are the teacher's, and so is the model of the number of points and the cloud features, unless a slimmer one is fitted to what it draws. The
run folder is that of a training, with the trajectories in RUN/pairs besides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from pcdiff.bundle import Settings, build_denoiser, load_denoiser, weights_of
from pcdiff.clouds import PointClouds
from pcdiff.config import DistillConfig, SamplingConfig, load_as
from pcdiff.denoising import Objective
from pcdiff.diffusion import Denoiser
from pcdiff.diffusion.losses import passing
from pcdiff.distributed import World
from pcdiff.errors import ConfigError, DataError
from pcdiff.files import sweep
from pcdiff.generator import Generator
from pcdiff.io import read
from pcdiff.loader import Drawn, Loader, batch_of
from pcdiff.matching import Matching
from pcdiff.multiplicity import Multiplicity
from pcdiff.pairs import kept_times, make_pairs, read_pairs, states_of
from pcdiff.resources import find
from pcdiff.seeds import Purpose, word
from pcdiff.starting import fit_multiplicity, functions_of, load_start
from pcdiff.training import Task, begun, fit
from pcdiff.transforms import Encoded

__all__ = ["distill"]

# Draws of the teacher's multiplicity model that a slimmer one is fitted to.
_DRAWN = 1 << 18


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
    world = World.joined()
    with world.together():
        if not isinstance(config, DistillConfig):
            config = load_as(DistillConfig, config)
        run = Path(config.output or f"runs/{config.name}")
        _refuse_pieces(config, world)
        device = world.device(config.device)
        teacher = Generator.load(config.teacher)
        try:
            chosen = teacher.choose(**config.sampling.model_dump())
            kept = kept_times(chosen, config.steps)
        except DataError as error:
            raise ConfigError(f"{config.name}: sampling of the teacher: {error}") from error
        settings = _settings(config, teacher.settings)
        functions = functions_of(teacher.transform.points), functions_of(teacher.transform.clouds)
        start = None if config.start is None else load_start(config.start, config.name, settings, *functions)
        fingerprint = {"teacher": _fingerprint(teacher, chosen)}
        if start is not None:
            fingerprint["start"] = start.provenance["files"]["denoiser.safetensors"]
        truth = None
        if config.truth is not None:
            clouds = read([find(name) for name in config.truth])
            try:
                truth = teacher.transform.encode(clouds)
            except DataError as error:
                raise ConfigError(f"{config.name}: truth does not fit the teacher: {error}") from error
            fingerprint["truth"] = clouds.fingerprint()
    with begun(run, config, fingerprint, world, resume=resume):
        given = _Given(config, teacher, chosen, kept, settings, device, world)
        train, validation = _pairs(run, given, shown=progress)
        multiplicity = None
        with world.together():
            if world.main:
                multiplicity = _multiplicity(run, given, start, shown=progress)
        model = _student(given, start).to(device)
        origin = {"teacher": teacher.origin} | ({} if start is None else {"start": start.origin})
        task = _task(given, multiplicity, train, validation, truth, origin)
        fit(run, config, model, task, world, progress=progress)
    return run


def _refuse_pieces(config: DistillConfig, world: World) -> None:
    """Refuse what needs all clouds of a batch at once where a batch is cut into pieces."""
    for key, pieces in (("the number of processes", world.size), ("training.accumulate", config.training.accumulate)):
        if config.matching and pieces > 1:
            raise ConfigError(
                f"{config.name}: matching = {config.matching} compares the clouds of a batch with each other, and {key} is {pieces}; "
                "expected 1 with matching above 0"
            )


@dataclass(frozen=True)
class _Given:
    """What is decided before anything is computed.

    Attributes:
        config: the distillation.
        teacher: the generator to learn from.
        chosen: how it is sampled.
        kept: the times of its grid that the student knows.
        settings: the student's.
        device: where both run.
        world: the processes that take part.
    """

    config: DistillConfig
    teacher: Generator
    chosen: SamplingConfig
    kept: tuple[int, ...]
    settings: Settings
    device: torch.device
    world: World


def _pairs(run: Path, given: _Given, *, shown: bool) -> tuple[Encoded, Encoded]:
    """The trajectories to learn from and those to validate with, made where the run does not have them."""
    folder, config, world = run / "pairs", given.config, given.world
    if world.main:
        sweep(folder, "*.safetensors")
    world.wait()
    columns = (TextColumn("trajectories"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("left"))
    sizes = {"train": config.pairs.train, "validation": config.pairs.validation}
    with (
        world.together(),
        Progress(*columns, TimeRemainingColumn(), expand=True, disable=not (shown and world.main)) as bar,
    ):
        task = bar.add_task("", total=sum(sizes.values()))
        for i, (name, n) in enumerate(sizes.items()):
            make_pairs(
                given.teacher,
                folder,
                name,
                n,
                seed=word(config.seed, Purpose.PAIRS, i),
                chosen=given.chosen,
                kept=given.kept,
                device=given.device,
                part=(world.rank, world.size),
                progress=lambda clouds: bar.advance(task, world.size * clouds),
            )
    train, validation = (read_pairs(folder, name, n) for name, n in sizes.items())
    return train, validation


def _settings(config: DistillConfig, teacher: Settings) -> Settings:
    """The student's: the teacher's but for the two models and the sampler; it never sees hidden conditions, and is not guided."""
    return replace(
        teacher,
        net=config.net or teacher.net,
        multiplicity=config.multiplicity or teacher.multiplicity,
        sampling=SamplingConfig(
            sampler="ddim", order=1, steps=config.steps, grid="fitted", precision=teacher.sampling.precision
        ),
        denoiser=teacher.denoiser.model_copy(update={"drop_conditions": 0.0}),
    )


def _multiplicity(run: Path, given: _Given, start: Generator | None, *, shown: bool) -> Multiplicity:
    """The teacher's where it is of that kind, or that of a start which learned from the same teacher, or a fitted one."""
    config, teacher = given.settings.multiplicity, given.teacher
    if teacher.settings.multiplicity == config:
        return teacher.multiplicity
    if (
        start is not None
        and start.settings.multiplicity == config
        and start.provenance.get("teacher") == json.loads(json.dumps(teacher.origin))
    ):
        return start.multiplicity

    def draw() -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.int64]]:
        drawn = teacher.conditions(0, _DRAWN, word(given.config.seed, Purpose.PAIRS, 3))
        features = [drawn.features[scale.name] for scale in teacher.transform.clouds]
        return drawn.counts, np.reshape(features, (len(features), _DRAWN)).T, drawn.types

    return fit_multiplicity(run, config, draw, len(teacher.transform.types), given.config.seed, shown=shown)


def _task(
    given: _Given,
    multiplicity: Multiplicity | None,
    train: Encoded,
    validation: Encoded,
    truth: Encoded | None,
    origin: Mapping[str, Any],
) -> Task:
    """What the student learns: to land on the trajectories."""
    config, teacher, settings, device = given.config, given.teacher, given.settings, given.device
    width, grid = len(teacher.transform.channels), teacher.grid(given.chosen)[list(given.kept)]

    budget = config.training.points_per_batch
    loader, held = (Loader(clouds, budget, config.seed) for clouds in (train, validation))
    apart = _matching(teacher, validation, width).to(device) if config.matching else None
    mended = None
    if apart is not None and truth is not None:
        true, same = (
            apart.potential(batch.to(device) for batch in Loader(clouds, budget, config.seed).epoch(0))
            for clouds in (truth, _ends(train, width))
        )
        mended = true, same

    def losses(model: Denoiser, drawn: Drawn) -> Tensor:
        batch = drawn.batch
        states = states_of(batch.x, width)
        found, end = passing(model, states, grid, batch.mask, batch.cond)
        if apart is not None and len(batch) > 1:
            # The same for each cloud, so that the mean over the batch has it once.
            found = found + config.matching * apart.distance(
                replace(batch, x=end), replace(batch, x=states[-1]), mended
            )
        return found

    @torch.no_grad()
    def validate(ema: Denoiser) -> float:
        own = held.epoch(0, given.world.rank, given.world.size)
        (total,) = given.world.total([sum(losses(ema, Drawn(batch.to(device))).sum().item() for batch in own)])
        return total / len(validation)

    def generator(ema: Denoiser, about: Mapping[str, Any]) -> Generator:
        assert multiplicity is not None
        grids = {config.steps: grid.tolist()}
        return Generator(ema, multiplicity, teacher.transform, settings, teacher.types, {**about, **origin}, grids)

    def taught() -> PointClouds:
        own, n = word(config.seed, Purpose.PAIRS, 2), config.training.compare
        return teacher.sample(n, seed=own, device=config.device, **given.chosen.model_dump())

    # The trajectories are all there is to learn from: a step draws nothing.
    objective = Objective(lambda _, batch, __: Drawn(batch), losses)
    return Task(loader, objective, validate, generator, taught, "distill")


def _matching(teacher: Generator, clouds: Encoded, width: int) -> Matching:
    """What the student's clouds are told from others by, on the scales of these trajectories."""
    return Matching.of(teacher.transform.points, batch_of(_ends(clouds, width), np.arange(len(clouds))))


def _ends(clouds: Encoded, width: int) -> Encoded:
    """Where trajectories end."""
    return replace(clouds, points=clouds.points[:, -width:])


def _student(given: _Given, start: Generator | None) -> Denoiser:
    """The student before it has learned: its start, or the teacher itself, or another net on the teacher's schedule."""
    config, teacher = given.config, given.teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(config.seed, Purpose.WEIGHTS))
        student = build_denoiser(given.settings, teacher.transform)
    source = teacher if start is None and config.net is None else start
    if source is not None:
        load_denoiser(student, weights_of(source.denoiser))
    if isinstance(teacher.denoiser.schedule, nn.Module):
        # The trajectories are of this very schedule.
        student.schedule = teacher.denoiser.schedule.requires_grad_(False)
    return student


def _fingerprint(teacher: Generator, chosen: SamplingConfig) -> str:
    """SHA-256 of what the trajectories depend on: weights, sampler and times."""
    about = [teacher.weights, chosen.model_dump(mode="json"), teacher.grid(chosen).tolist()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
