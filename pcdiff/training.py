"""Training: one loop from a config to a run folder (see :mod:`pcdiff.run`).

What step k draws depends only on (seed, k), and the order of the data on (seed, epoch), so a run that was killed and
resumed equals one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pcdiff import checkpoint, denoising
from pcdiff.bundle import Settings, build_denoiser, load_denoiser, weights_of
from pcdiff.checkpoint import Counters
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, RunConfig, config_hash, load_config
from pcdiff.denoising import Objective, training_objective
from pcdiff.diffusion import Denoiser
from pcdiff.distributed import ALONE, World
from pcdiff.errors import ConfigError, DataError
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.loss import loss_curve
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Loader
from pcdiff.loop import StepBar, stop_requests
from pcdiff.multiplicity import Multiplicity
from pcdiff.optimisers import Optimiser, build_optimiser
from pcdiff.recording import Record, Status
from pcdiff.records import read_run
from pcdiff.run import begun_by, describe_run, locked, note_job
from pcdiff.seeds import Purpose, word
from pcdiff.starting import fit_multiplicity, load_start
from pcdiff.stepping import step, stream_of
from pcdiff.training_data import TrainingData

__all__ = ["Task", "begun", "fit", "train"]

# Times and noise drawn for each validation cloud: the loss of one draw scatters more than it falls late in training.
_VALIDATION_DRAWS = 4

# How the names of the metrics of the comparison begin.
_COMPARED = "validation/"

# What a generator says about the run that made it.
_PROVENANCE = ("name", "created", "config_hash", "data_fingerprint", "versions")


@dataclass(frozen=True)
class Task:
    """What :func:`fit` learns.

    Attributes:
        loader: the clouds to learn from.
        objective: what is minimised.
        validate: the validation loss under the averaged weights; called on all processes.
        generator: the generator of a denoiser, with its provenance; called on process 0 alone, as is the next.
        truth: what its clouds are compared with at the end.
        command: what continues the run, ``pcdiff COMMAND --resume``.
    """

    loader: Loader
    objective: Objective
    validate: Callable[[Denoiser], float]
    generator: Callable[[Denoiser, Mapping[str, Any]], Generator]
    truth: Callable[[], PointClouds]
    command: str


def train(config: Config | str | Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Train a generator.

    Args:
        config: a config, or the name of its file.
        resume: continue the run from its newest checkpoint; without one, begin it.
        progress: show a progress bar.

    Returns:
        The run folder.

    Raises:
        PcdiffError: bad config or data; a run of that name exists; too many steps in a row were not finite.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written first. A second Ctrl-C does not wait for it.
    """
    world = World.joined()
    with world.together():
        if not isinstance(config, Config):
            config = load_config(config)
        run = Path(config.output or f"runs/{config.name}")
        device = world.device(config.device)
        settings = Settings(config.net, config.schedule, config.multiplicity, config.sampling, config.denoiser)
        try:
            settings.choose({})
        except DataError as error:
            raise ConfigError(f"{config.name}: the default sampler of the config does not fit: {error}") from error
        functions = list(config.features.points.items()), list(config.features.clouds.items())
        start = None if config.start is None else load_start(config.start, config.name, settings, *functions)
        # On the disk that holds the run, or will.
        folder = next(path for path in (run, *run.absolute().parents) if path.is_dir())
        data = TrainingData.load(config, None if start is None else start.transform, folder=folder)
        fingerprint = data.fingerprint | (
            {} if start is None else {"start": start.provenance["files"]["denoiser.safetensors"]}
        )
    with begun(run, config, fingerprint, world, resume=resume):
        _train(run, config, settings, data, start, device, world, progress=progress)
    return run


def _train(
    run: Path,
    config: Config,
    settings: Settings,
    data: TrainingData,
    start: Generator | None,
    device: torch.device,
    world: World,
    *,
    progress: bool,
) -> None:
    """The run, from its newest checkpoint or from the beginning."""
    multiplicity: Multiplicity | None = None
    with world.together():
        if world.main:
            multiplicity = _multiplicity(run, config, data, start, shown=progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(config.seed, Purpose.WEIGHTS))
        model = build_denoiser(settings, data.transform).to(device)
    if start is not None:
        load_denoiser(model, weights_of(start.denoiser))
    origin = {} if start is None else {"start": start.origin}
    loader = Loader(data.train, config.training.points_per_batch, config.seed)
    validation = Loader(data.validation, config.training.points_per_batch, config.seed)

    def generator(ema: Denoiser, about: Mapping[str, Any]) -> Generator:
        assert multiplicity is not None
        return Generator(ema, multiplicity, data.transform, settings, data.types, {**about, **origin})

    task = Task(
        loader,
        objective=training_objective(config, data.transform),
        validate=lambda ema: _validate(ema, validation, config, device, world),
        generator=generator,
        # A copy in memory, by numbers.
        truth=lambda: data.validation_clouds[np.arange(min(config.training.compare, len(data.validation)))],
        command="train",
    )
    fit(run, config, model, task, world, progress=progress)


@contextmanager
def begun(
    run: Path, config: RunConfig, fingerprint: Mapping[str, str], world: World, *, resume: bool
) -> Iterator[None]:
    """Hold and describe the run folder, which process 0 does for all.

    Processes that torchrun has started again resume the run that it began, and no other.

    Args:
        run: the run folder.
        config: of the run, the same on all processes.
        fingerprint: of what it learns from, the same on all processes.
        world: the processes.
        resume: go on with a run that is there.

    Raises:
        PcdiffError: there is a run and it is not resumed, or another process trains in the folder; processes have different configs or data.
    """
    world.require_same("the config", config_hash(config))
    world.require_same("the data", json.dumps(fingerprint, sort_keys=True))
    with ExitStack() as held:
        with world.together():
            if world.main:
                held.enter_context(locked(run))
                again = world.restarted and begun_by(run) == world.job
                describe_run(run, config, fingerprint, resume=resume or again)
                if world.job is not None:
                    note_job(run, world.job)
        yield


def fit(
    run: Path,
    config: RunConfig,
    model: Denoiser,
    task: Task,
    world: World = ALONE,
    *,
    progress: bool,
) -> None:
    """The loop: a model learns a task, from the newest checkpoint of its run or from the start.

    Args:
        run: the run folder, which is locked and described.
        config: its config.
        model: with the weights of the start, on the device to compute on.
        task: what it learns.
        world: the processes that learn it together; all of them call this.
        progress: show a progress bar.

    Raises:
        PcdiffError: too many steps in a row were not finite; the processes lost contact, or their weights differ.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written first.
    """
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = build_optimiser(model, config.optim)
    counters = _restored(run, model, ema, optimiser, world)

    def generator() -> Generator:
        about = {name: value for name, value in read_run(run).items() if name in _PROVENANCE}
        return task.generator(ema, about | {"steps": counters.step})

    def keep() -> None:
        world.require_same(
            f"the weights after step {counters.step}", "" if world.size == 1 else checkpoint.checksum(model)
        )
        if world.main:
            # The generator first: killed in between, a resumed run makes both again.
            generator().save(run / "generator")
            checkpoint.save(run, counters, model, ema, optimiser, keep=config.training.keep)

    record: Record | None = None
    with world.together():
        if world.main:
            record = Record(run, config.tracking)

    def compared(requests: list[int]) -> int | None:
        """Make the comparison where the run has none yet, until a signal comes, and return that: all else is kept by now."""
        with world.together():
            if record is not None and config.training.compare and not requests and not record.metrics.has(_COMPARED):
                line: dict[str, float] = {}
                with stop_requests(patient=world.launcher is not None, at_once=True) as asked:
                    line = _compare(generator(), task.truth(), config, run)
                requests += asked
                if line:
                    record.metrics.append(counters.step, line)
        return world.sent(next(iter(requests), None))

    last = config.training.steps
    status: Status = "FAILED"
    stopped: int | None = None
    try:
        with (
            stop_requests(patient=world.launcher is not None) as requests,
            StepBar(config.name, last, counters.step, shown=progress and world.main) as bar,
        ):
            for batch in _batches(task.loader, counters, last):
                norm, asked = step(
                    model,
                    ema,
                    optimiser,
                    batch,
                    task.loader.mean_batch,
                    task.objective,
                    config,
                    world,
                    requests,
                    counters,
                )
                done = counters.step
                line: dict[str, float] = {}
                if done % config.training.log_every == 0 or done == last:
                    line |= _training_line(counters, optimiser, norm, bar)
                if done % config.training.validate_every == 0 or done == last:
                    line["loss/validation"] = task.validate(ema)
                if line and record is not None:
                    record.metrics.append(done, line)
                # In one process this is the list that signals are put into, in several it is what all knew of in the step.
                stopped = asked[0] if asked else None
                if done % config.training.checkpoint_every == 0 or done == last or stopped is not None:
                    keep()
                if stopped is not None:
                    break
            if stopped is None:
                stopped = compared(requests)
        if stopped is None and world.main:
            loss_curve(run, run / "figures" / "loss.png")
        status = "FINISHED" if stopped is None else "KILLED"
    finally:
        if record is not None:
            record.close(status)
    # Launchers end all processes when one has ended badly, so all are there until process 0 has written.
    world.wait()
    if stopped is not None:
        _stop(stopped, run, counters.step, task.command, world)


def _restored(run: Path, model: Denoiser, ema: Denoiser, optimiser: Optimiser, world: World) -> Counters:
    """Where the run stands: process 0 reads its newest checkpoint, and the others have it from there."""
    counters = Counters()
    with world.together():
        if world.main:
            counters = checkpoint.load_newest(run, model, ema, optimiser) or counters
    if world.size == 1:
        return counters
    counters, tensors = world.sent((counters, checkpoint.tensors_of(model, ema, optimiser)))
    if not world.main:
        checkpoint.restore("process 0", tensors, model, ema, optimiser)
    return counters


def _compare(generator: Generator, truth: PointClouds, config: RunConfig, run: Path) -> dict[str, float]:
    """Generated clouds against validation clouds: a report in the run folder, and its metrics."""
    made = generator.sample(len(truth), seed=config.seed, device=config.device)
    (sample,) = evaluate(truth, {config.name: made}, run / "evaluation", seed=config.seed).samples
    return {f"{_COMPARED}{metric.name}": metric.value for metric in sample.metrics}


def _stop(number: int, run: Path, step: int, command: str, world: World) -> NoReturn:
    """End the run as it was asked to, and say how to go on."""
    if number == signal.SIGINT and world.main:
        raise KeyboardInterrupt(f"saved at step {step}; continue with: pcdiff {command} --resume {run}")
    raise SystemExit(128 + number)


def _validate(ema: Denoiser, loader: Loader, config: Config, device: torch.device, world: World) -> float:
    """Mean loss of the validation clouds under the averaged weights, with the same times and noise each time."""
    total, count = 0.0, 0
    for i, batch in enumerate(loader.epoch(0, world.rank, world.size)):
        rng = stream_of(config.seed, Purpose.VALIDATION, world.rank + i * world.size)
        for _ in range(_VALIDATION_DRAWS):
            drawn = denoising.draw(ema.schedule, batch, config, rng)
            total += denoising.losses(ema, drawn.to(device), config).sum().item()
            count += len(batch)
    total, number = world.total([total, count])
    return total / number


def _training_line(counters: Counters, optimiser: Optimiser, norm: float, bar: StepBar) -> dict[str, float]:
    """Metrics since the last line."""
    line = {"lr": optimiser.lr, "skipped": float(counters.skipped)}
    if math.isfinite(norm):
        line["gradient_norm"] = norm
    if counters.loss_count:
        line["loss/train"] = counters.loss_sum / counters.loss_count
    counters.loss_sum, counters.loss_count = 0.0, 0
    return line | bar.update(counters.step, line.get("loss/train"))


def _batches(loader: Loader, counters: Counters, steps: int) -> Iterator[CloudBatch]:
    """Batches from where the run stands until its last step."""
    while counters.step < steps:
        for batch in loader.epoch(counters.epoch, counters.batch):
            yield batch
            if counters.step >= steps:
                return
        counters.epoch += 1
        counters.batch = 0


def _multiplicity(
    run: Path, config: Config, data: TrainingData, start: Generator | None, *, shown: bool
) -> Multiplicity:
    """That of a start which learned from the same clouds, or a fitted one."""
    if start is not None and start.settings.multiplicity == config.multiplicity:
        before = start.provenance.get("data_fingerprint", {})
        if before.get("train") == data.fingerprint["train"]:
            return start.multiplicity
    return fit_multiplicity(
        run,
        config.multiplicity,
        lambda: (data.counts, data.features, data.type_index),
        len(data.transform.types),
        config.seed,
        shown=shown,
    )
