"""One optimiser step: what is drawn for it, gradients by pieces, clipping, the learning rate and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pcdiff.checkpoint import Counters
from pcdiff.config import RunConfig
from pcdiff.denoising import Objective
from pcdiff.diffusion import Denoiser, LearnedSchedule
from pcdiff.distributed import World
from pcdiff.errors import PcdiffError
from pcdiff.loader import CloudBatch, Drawn
from pcdiff.optimisers import Optimiser
from pcdiff.precision import computing, pick_precision
from pcdiff.seeds import Purpose, word

__all__ = ["backward", "lr_factor", "step", "stream_of"]


def stream_of(seed: int, purpose: Purpose, index: int) -> torch.Generator:
    """The random numbers of a step, or of a batch of the validation."""
    return torch.Generator().manual_seed(word(seed, purpose, index))


def step(
    model: Denoiser,
    ema: Denoiser,
    optimiser: Optimiser,
    batch: CloudBatch,
    mean_batch: float,
    objective: Objective,
    config: RunConfig,
    world: World,
    requests: list[int],
    counters: Counters,
) -> tuple[float, list[int]]:
    """One optimiser step, which all processes take together.

    A step whose loss or gradient is not finite changes no weight. It is counted, and too many in a row end the run.

    Args:
        model, ema: the weights and their moving average, which are changed.
        optimiser: of the model.
        batch: the clouds, on the CPU, the same on all processes.
        mean_batch: the scale of the loss, see :class:`pcdiff.loader.Loader`.
        objective: what is minimised.
        config: of the run.
        world: the processes.
        requests: the signals that asked this process to stop.
        counters: where the run stands.

    Returns:
        The norm of the gradient before clipping, and the signals that asked any process to stop.

    Raises:
        PcdiffError: too many steps in a row were not finite.
    """
    optimiser.zero_grad()
    drawn = objective.draw(model, batch, stream_of(config.seed, Purpose.STEP, counters.step))
    own = _gradients(model, drawn, mean_batch, objective, config, world)
    loss, asked = world.summed(model.parameters(), own, requests)
    loss_sum = loss.item()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip))
    counters.step += 1
    counters.batch += 1
    if not (math.isfinite(norm) and math.isfinite(loss_sum)):
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row >= config.training.max_skipped:
            raise world.once(
                PcdiffError(
                    f"step {counters.step}: loss or gradient was not finite {counters.skipped_in_a_row} times in a row; the last "
                    "good checkpoint is kept; lower optim.lr, or look for extreme values in the data"
                )
            )
        return norm, asked
    counters.skipped_in_a_row = 0
    optimiser.step(lr_factor(counters.step, config))
    decay = min(config.optim.ema, (1 + counters.step) / (10 + counters.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    counters.loss_sum += loss_sum
    counters.loss_count += len(batch)
    return norm, asked


def _gradients(
    model: Denoiser, drawn: Drawn, mean_batch: float, objective: Objective, config: RunConfig, world: World
) -> Tensor:
    """Add up the gradients of this process's share of a batch, piece by piece; returns the sum of its losses."""
    device = next(model.parameters()).device
    precision = pick_precision(config.training.precision, device)
    total: Tensor | None = None
    for rows in world.share(len(drawn), config.training.accumulate):
        piece = drawn[rows].to(device)
        with computing(device, precision):
            losses = objective.losses(model, piece)
        backward(model, losses, mean_batch, len(piece) / len(drawn))
        found = losses.detach().sum()
        total = found if total is None else total + found
    return torch.zeros((), device=device) if total is None else total


def backward(model: Denoiser, losses: Tensor, mean_batch: float, part: float) -> None:
    """Add the gradients of the losses of a part of a batch; a learned schedule gets those of their second moment instead.

    The mean of the variational bound does not depend on the schedule between its ends, so lowering the second moment lowers the
    variance over the times that are drawn (Variational Diffusion Models, arXiv 2107.00630, section 5.1).

    Args:
        model: what is trained.
        losses: of each cloud, shape (B,).
        mean_batch: the scale of the loss.
        part: share of the batch's clouds that these are.
    """
    loss = losses.sum() / mean_batch
    schedule = model.schedule
    learned = [p for p in schedule.parameters() if p.requires_grad] if isinstance(schedule, LearnedSchedule) else []
    if not learned:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    others = [p for p in model.net.parameters() if p.requires_grad]
    if others:
        loss.backward(retain_graph=True, inputs=others)  # type: ignore[no-untyped-call]
    (losses.square().mean() * part).backward(inputs=learned)  # type: ignore[no-untyped-call]


def lr_factor(step: int, config: RunConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup, steps = config.optim.warmup, config.training.steps
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
