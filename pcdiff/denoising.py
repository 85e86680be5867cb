"""What a training config minimises: the loss of each cloud at times and noise that are drawn for the batch.

Drawing and computing are apart. What is drawn depends on all clouds of a batch, for their times are spread over it; the loss of a cloud depends on
that cloud alone. So a batch can be drawn whole and computed in pieces, one after the other or on many processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcdiff.config import Config
from pcdiff.diffusion import (
    Denoiser,
    action_loss,
    comb,
    denoising_loss,
    draw_times,
    probe,
    score_matching_loss,
)
from pcdiff.diffusion.schedule import Schedule
from pcdiff.loader import CloudBatch, Drawn
from pcdiff.transforms import Transform

__all__ = ["Objective", "draw", "losses", "reflected", "training_objective"]


@dataclass(frozen=True)
class Objective:
    """What an optimiser step minimises.

    Attributes:
        draw: what is drawn for a batch, on the CPU.
        losses: of each cloud, shape (B,), on the device of the model; that of a cloud is the same in any part of its batch.
    """

    draw: Callable[[Denoiser, CloudBatch, torch.Generator], Drawn]
    losses: Callable[[Denoiser, Drawn], Tensor]


def training_objective(config: Config, transform: Transform) -> Objective:
    """That of a training config, the clouds reflected at random where it says so.

    Args:
        config: of the training.
        transform: of the clouds.
    """

    def drawn(model: Denoiser, batch: CloudBatch, rng: torch.Generator) -> Drawn:
        if config.features.reflect:
            batch = reflected(batch, transform, rng)
        return draw(model.schedule, batch, config, rng)

    return Objective(drawn, lambda model, drawn: losses(model, drawn, config))


def draw(schedule: Schedule, batch: CloudBatch, config: Config, rng: torch.Generator) -> Drawn:
    """Times and noise for a batch, and whose conditions are hidden.

    Args:
        schedule: of the noise.
        batch: the clouds, on the CPU.
        config: of the training.
        rng: of random numbers, on the CPU.
    """
    about, kind, count = config.denoiser, config.loss.objective, len(batch)
    if about.drop_conditions:
        hidden = torch.rand(count, 1, generator=rng) < about.drop_conditions
        # All but the number of points, which the mask shows anyway; zero is the mean of a condition.
        cond = torch.cat([batch.cond[:, :1], batch.cond[:, 1:].masked_fill(hidden, 0)], dim=1)
        batch = CloudBatch(batch.x, batch.mask, cond)
    t, factor = draw_times(schedule, count, config.loss.times, rng, weight=config.loss.weight)
    numbers = {"t": t, "factor": factor, "noise": torch.randn(batch.x.shape, generator=rng)}
    if kind == "action":
        numbers["unit"] = comb(count, rng)
    elif kind == "sliced-score":
        numbers["vectors"] = probe(batch.x, batch.mask, "rademacher", rng)
    elif kind == "denoising" and about.dimension is not None:
        numbers["unit"] = torch.rand(count, generator=rng)
    return Drawn(batch, numbers)


def losses(model: Denoiser, drawn: Drawn, config: Config) -> Tensor:
    """The loss of each cloud, shape (B,).

    Args:
        model: what is trained.
        drawn: what :func:`draw` gave, or a part of it, on the device of the model.
        config: of the training.
    """
    batch, numbers = drawn.batch, drawn.numbers
    clouds, noise, kind = (model, batch.x, batch.mask, batch.cond), numbers["noise"], config.loss.objective
    if kind == "action":
        return action_loss(*clouds, unit=numbers["unit"], noise=noise)
    t, factor = numbers["t"], numbers["factor"]
    if kind != "denoising":
        return factor * score_matching_loss(*clouds, t=t, noise=noise, vectors=numbers.get("vectors"))
    weight, unit = config.loss.weight, numbers.get("unit")
    return factor * denoising_loss(*clouds, t=t, noise=noise, weight=weight, unit=unit)


def reflected(batch: CloudBatch, transform: Transform, rng: torch.Generator) -> CloudBatch:
    """Each cloud flipped or not by each symmetry of the physics, with probability one half, its axes in any order where they are alike."""
    x, cond = batch.x, batch.cond
    for signs, cond_signs in transform.reflections():
        flip = torch.rand(len(batch), 1, generator=rng) < 0.5
        x = torch.where(flip[..., None], x * torch.from_numpy(signs), x)
        cond = torch.where(flip, cond * torch.from_numpy(cond_signs), cond)
    turns = transform.turns()
    if turns:
        chosen = torch.randint(len(turns), (len(batch),), generator=rng)
        places = torch.from_numpy(np.stack(turns))[chosen]
        x = x.gather(2, places[:, None, :].expand_as(x))
    return CloudBatch(x, batch.mask, cond)
