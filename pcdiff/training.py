"""Training: one loop from a config to a run folder (see :mod:`pcdiff.run`).

What step k draws depends only on (seed, k), and the order of the data on (seed, epoch), so a run that was killed and
resumed equals one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from pcdiff import checkpoint
from pcdiff.bundle import Settings, build_denoiser, load_denoiser, pick_device, weights_of
from pcdiff.checkpoint import Counters
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, RunConfig, load_config
from pcdiff.diffusion import (
    Denoiser,
    LearnedSchedule,
    action_loss,
    comb,
    denoising_loss,
    draw_times,
    probe,
    score_matching_loss,
)
from pcdiff.errors import ConfigError, DataError, PcdiffError
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.loss import loss_curve
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Loader
from pcdiff.loop import StepBar, stop_requests
from pcdiff.multiplicity import Multiplicity
from pcdiff.optimisers import Optimiser, build_optimiser
from pcdiff.precision import computing, pick_precision
from pcdiff.records import read_run
from pcdiff.run import Metrics, describe_run, locked
from pcdiff.seeds import Purpose, word
from pcdiff.starting import fit_multiplicity, load_start
from pcdiff.tracking import Mirror
from pcdiff.training_data import TrainingData
from pcdiff.transforms import Transform

__all__ = ["Losses", "Task", "fit", "train"]

# Seconds that the tracking store gets at the end of a run; what it does not take by then waits for `pcdiff track sync`.
_LAST_TRANSFER = 15.0

# Times and noise drawn for each validation cloud: the loss of one draw scatters more than it falls late in training.
_VALIDATION_DRAWS = 4

# What a generator says about the run that made it.
_PROVENANCE = ("name", "created", "config_hash", "data_fingerprint", "versions")

Losses = Callable[[Denoiser, CloudBatch, torch.Generator], Tensor]
"""The loss of each cloud of a batch, shape (B,), from what a step draws."""


@dataclass(frozen=True)
class Task:
    """What :func:`fit` learns.

    Attributes:
        loader: the clouds to learn from.
        losses: what is minimised.
        validate: the validation loss under the averaged weights.
        generator: the generator of a denoiser, with its provenance.
        truth: what its clouds are compared with at the end.
        command: what continues the run, ``pcdiff COMMAND --resume``.
    """

    loader: Loader
    losses: Losses
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
    if not isinstance(config, Config):
        config = load_config(config)
    run = Path(config.output or f"runs/{config.name}")
    device = pick_device(config.device)
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
    with locked(run):
        describe_run(run, config, fingerprint, resume=resume)
        _train(run, config, settings, data, start, device, progress=progress)
    return run


def _train(
    run: Path,
    config: Config,
    settings: Settings,
    data: TrainingData,
    start: Generator | None,
    device: torch.device,
    *,
    progress: bool,
) -> None:
    """The run, from its newest checkpoint or from the beginning."""
    multiplicity = _multiplicity(run, config, data, start, shown=progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(config.seed, Purpose.WEIGHTS))
        model = build_denoiser(settings, data.transform).to(device)
    if start is not None:
        load_denoiser(model, weights_of(start.denoiser))
    origin = {} if start is None else {"start": start.origin}
    loader = Loader(data.train, config.training.points_per_batch, config.seed)
    validation = Loader(data.validation, config.training.points_per_batch, config.seed)
    task = Task(
        loader,
        losses=_training_losses(data.transform, config),
        validate=lambda ema: _validate(ema, validation, config, device),
        generator=lambda ema, about: Generator(
            ema, multiplicity, data.transform, settings, data.types, {**about, **origin}
        ),
        # A copy in memory, by numbers.
        truth=lambda: data.validation_clouds[np.arange(min(config.training.compare, len(data.validation)))],
        command="train",
    )
    fit(run, config, model, task, device, progress=progress)


def fit(run: Path, config: RunConfig, model: Denoiser, task: Task, device: torch.device, *, progress: bool) -> None:
    """The loop: a model learns a task, from the newest checkpoint of its run or from the start.

    Args:
        run: the run folder, which is locked and described.
        config: its config.
        model: with the weights of the start, on the device.
        task: what it learns.
        device: to compute on.
        progress: show a progress bar.

    Raises:
        PcdiffError: too many steps in a row were not finite.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written first.
    """
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = build_optimiser(model, config.optim)
    counters = checkpoint.load_newest(run, model, ema, optimiser) or Counters()
    about = {name: value for name, value in read_run(run).items() if name in _PROVENANCE}

    def generator() -> Generator:
        return task.generator(ema, about | {"steps": counters.step})

    def keep() -> None:
        # The generator first: killed in between, a resumed run makes both again.
        generator().save(run / "generator")
        checkpoint.save(run, counters, model, ema, optimiser, keep=config.training.keep)

    metrics = Metrics(run / "metrics.jsonl")
    mirror = Mirror(run, config.tracking.uri, config.tracking.experiment, config.tracking.interval)
    if config.tracking.enabled:
        mirror.start()
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    last = config.training.steps
    try:
        with stop_requests() as requests, StepBar(config.name, last, counters.step, shown=progress) as bar:
            for batch in _batches(task.loader, counters, last):
                norm = _step(
                    model, ema, optimiser, batch.to(device), task.loader.mean_batch, task.losses, config, counters
                )
                done = counters.step
                line: dict[str, float] = {}
                if done % config.training.log_every == 0 or done == last:
                    line |= _training_line(counters, optimiser, norm, bar)
                if done % config.training.validate_every == 0 or done == last:
                    line["loss/validation"] = task.validate(ema)
                if done == last and config.training.compare:
                    line |= _compare(generator(), task.truth(), config, run)
                if line:
                    metrics.append(done, line)
                stop = bool(requests)
                if done % config.training.checkpoint_every == 0 or done == last or stop:
                    keep()
                if stop:
                    status = "KILLED"
                    _stop(requests[0], run, done, task.command)
        loss_curve(run, run / "figures" / "loss.png")
        status = "FINISHED"
    finally:
        metrics.close()
        if config.tracking.enabled:
            mirror.stop(timeout=_LAST_TRANSFER, status=status)


def _step(
    model: Denoiser,
    ema: Denoiser,
    optimiser: Optimiser,
    batch: CloudBatch,
    mean_batch: float,
    losses_of: Losses,
    config: RunConfig,
    counters: Counters,
) -> float:
    """One optimiser step; returns the norm of the gradient before clipping.

    A step whose loss or gradient is not finite changes no weight. It is counted, and too many in a row end the run.
    """
    device = batch.x.device
    with computing(device, pick_precision(config.training.precision, device)):
        losses = losses_of(model, batch, _rng(config.seed, Purpose.STEP, counters.step))
    loss = losses.sum() / mean_batch
    optimiser.zero_grad()
    _backward(model, loss, losses)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip))
    counters.step += 1
    counters.batch += 1
    if not (math.isfinite(norm) and math.isfinite(loss.item())):
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row >= config.training.max_skipped:
            raise PcdiffError(
                f"step {counters.step}: loss or gradient was not finite {counters.skipped_in_a_row} times in a row; the last "
                "good checkpoint is kept; lower optim.lr, or look for extreme values in the data"
            )
        return norm
    counters.skipped_in_a_row = 0
    optimiser.step(_lr_factor(counters.step, config))
    decay = min(config.optim.ema, (1 + counters.step) / (10 + counters.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    counters.loss_sum += losses.detach().sum().item()
    counters.loss_count += len(batch)
    return norm


def _backward(model: Denoiser, loss: Tensor, losses: Tensor) -> None:
    """Gradients of the loss; a learned schedule gets those of the second moment of the losses instead.

    The mean of the variational bound does not depend on the schedule between its ends, so lowering the second moment lowers the
    variance over the times that are drawn (Variational Diffusion Models, arXiv 2107.00630, section 5.1).
    """
    schedule = model.schedule
    learned = [p for p in schedule.parameters() if p.requires_grad] if isinstance(schedule, LearnedSchedule) else []
    if not learned:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    for parameter in learned:
        parameter.grad = None
    losses.square().mean().backward(inputs=learned)  # type: ignore[no-untyped-call]


def _training_losses(transform: Transform, config: Config) -> Losses:
    """Those of a training config, the clouds reflected at random where it says so."""

    def losses(model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Tensor:
        if config.features.reflect:
            batch = _reflect(batch, transform, rng)
        return _losses(model, batch, config, rng)

    return losses


def _losses(model: Denoiser, batch: CloudBatch, config: Config, rng: torch.Generator) -> Tensor:
    """The loss of each cloud at drawn times and noise, shape (B,)."""
    x, mask, cond = batch.x, batch.mask, batch.cond
    about = config.denoiser
    if about.drop_conditions:
        hidden = (torch.rand(len(batch), 1, generator=rng) < about.drop_conditions).to(x.device)
        # All but the number of points, which the mask shows anyway; zero is the mean of a condition.
        cond = torch.cat([cond[:, :1], cond[:, 1:].masked_fill(hidden, 0)], dim=1)
    drawn = draw_times(model.schedule, len(batch), config.loss.times, rng, weight=config.loss.weight)
    t, factor = (v.to(x.device) for v in drawn)
    noise = torch.randn(x.shape, generator=rng).to(x.device)
    objective = config.loss.objective
    if objective == "action":
        return action_loss(model, x, mask, cond, unit=comb(len(batch), rng).to(x.device), noise=noise)
    if objective != "denoising":
        vectors = probe(x, mask, "rademacher", rng) if objective == "sliced-score" else None
        return factor * score_matching_loss(model, x, mask, cond, t=t, noise=noise, vectors=vectors)
    unit = None if about.dimension is None else torch.rand(len(batch), generator=rng).to(x.device)
    return factor * denoising_loss(model, x, mask, cond, t=t, noise=noise, weight=config.loss.weight, unit=unit)


def _reflect(batch: CloudBatch, transform: Transform, rng: torch.Generator) -> CloudBatch:
    """Each cloud flipped or not by each symmetry of the physics, with probability one half, its axes in any order where they are alike."""
    x, cond = batch.x, batch.cond
    for signs, cond_signs in transform.reflections():
        flip = (torch.rand(len(batch), 1, generator=rng) < 0.5).to(x.device)
        x = torch.where(flip[..., None], x * torch.from_numpy(signs).to(x.device), x)
        cond = torch.where(flip, cond * torch.from_numpy(cond_signs).to(x.device), cond)
    turns = transform.turns()
    if turns:
        chosen = torch.randint(len(turns), (len(batch),), generator=rng)
        places = torch.from_numpy(np.stack(turns))[chosen].to(x.device)
        x = x.gather(2, places[:, None, :].expand_as(x))
    return CloudBatch(x, batch.mask, cond)


def _lr_factor(step: int, config: RunConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup, steps = config.optim.warmup, config.training.steps
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _compare(generator: Generator, truth: PointClouds, config: RunConfig, run: Path) -> dict[str, float]:
    """Generated clouds against validation clouds: a report in the run folder, and its metrics."""
    made = generator.sample(len(truth), seed=config.seed, device=config.device)
    (sample,) = evaluate(truth, {config.name: made}, run / "evaluation", seed=config.seed).samples
    return {f"validation/{metric.name}": metric.value for metric in sample.metrics}


def _stop(request: BaseException, run: Path, step: int, command: str) -> NoReturn:
    """End the run as it was asked to, and say how to go on."""
    if isinstance(request, KeyboardInterrupt):
        raise KeyboardInterrupt(f"saved at step {step}; continue with: pcdiff {command} --resume {run}")
    raise request


def _validate(ema: Denoiser, loader: Loader, config: Config, device: torch.device) -> float:
    """Mean loss of the validation clouds under the averaged weights, with the same times and noise each time."""
    total, count = 0.0, 0
    for i, batch in enumerate(loader.epoch(0)):
        rng = _rng(config.seed, Purpose.VALIDATION, i)
        for _ in range(_VALIDATION_DRAWS):
            total += _losses(ema, batch.to(device), config, rng).sum().item()
            count += len(batch)
    return total / count


def _training_line(counters: Counters, optimiser: Optimiser, norm: float, bar: StepBar) -> dict[str, float]:
    """Metrics since the last line."""
    line = {"lr": optimiser.lr, "skipped": float(counters.skipped)}
    if math.isfinite(norm):
        line["gradient_norm"] = norm
    if counters.loss_count:
        line["loss/train"] = counters.loss_sum / counters.loss_count
    counters.loss_sum, counters.loss_count = 0.0, 0
    return line | bar.update(counters.step, line.get("loss/train"))


def _rng(seed: int, purpose: Purpose, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(word(seed, purpose, index))


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
