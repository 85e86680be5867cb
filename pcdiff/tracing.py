"""A generator as one torch module that can be traced into an ONNX file: its sampler unrolled on its grid, and its transform in tensors.

The transform's arithmetic stands here once more because a trace follows tensors only, where :mod:`pcdiff.encodings` has arrays; tests hold
the two to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn

from pcdiff.config import SamplingConfig
from pcdiff.diffusion import Denoiser, DenoiserLike, Level, Prediction, sample
from pcdiff.diffusion.guidance import ClassifierFree
from pcdiff.diffusion.samplers import Levels
from pcdiff.encodings import Categories, Combinations, Encoding, Scale, leading_scale
from pcdiff.transforms import Transform

__all__ = ["DOMAIN", "NET", "Whole", "categories", "standardised", "unstandardised", "wrapped"]

DOMAIN, NET = "pcdiff", "net"
"""The name of the net among the functions of a file."""


class _AtTimes(nn.Module):
    """A denoiser at the times of a grid; evaluating its net is a call of the function that the file holds once.

    Its levels are looked up, as they are here: next to noise a tangent of other rounding changes alpha in the fifth digit.
    """

    times: Tensor
    levels: Tensor

    def __init__(self, denoiser: Denoiser, times: Tensor) -> None:
        super().__init__()
        self.schedule = denoiser.schedule
        # All but its net, which must not stand in the file twice.
        self.rest = denoiser.with_net(nn.Identity())
        times = times.float()
        with torch.no_grad():
            level = self.schedule.level(times)
        values = [getattr(level, field.name).flatten() for field in fields(Level)]
        self.register_buffer("times", times)
        self.register_buffer("levels", torch.stack(values))

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
        """As :meth:`pcdiff.diffusion.Denoiser.forward`, at times of the grid."""
        step = (t[:, None] - self.times).abs().argmin(dim=1)
        level = Level(*(values[step][:, None, None] for values in self.levels))
        inputs = (x_t / level.r, level.log_snr.flatten(), mask, cond)
        output = torch.onnx.ops.symbolic(f"{DOMAIN}::{NET}", inputs, dtype=x_t.dtype, shape=x_t.shape, version=1)
        return self.rest.prediction(output, x_t, mask, level)


class Whole(nn.Module):
    """What the file computes, but for the net."""

    one_hot: Tensor

    def __init__(self, denoiser: Denoiser, chosen: SamplingConfig, times: Tensor, transform: Transform) -> None:
        super().__init__()
        self.denoiser = _AtTimes(denoiser, times)
        self.chosen = chosen
        # Whether times fall cannot be asked in a trace.
        self.levels = Levels.of(denoiser, times)
        self.transform = transform
        self.register_buffer("one_hot", torch.eye(len(transform.types)), persistent=False)

    def forward(
        self, noise: Tensor, counts: Tensor, features: Tensor | None = None, type: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points and mask, as :mod:`pcdiff.export` describes them."""
        mask = torch.arange(noise.shape[1]) < counts[:, None]
        guided: DenoiserLike = self.denoiser
        if self.chosen.guidance != 1:
            guided = ClassifierFree(guided, self.chosen.guidance)
        x = sample(
            self.chosen.sampler,
            guided,
            noise,
            self.levels,
            mask,
            self._conditions(counts, features, type),
            order=self.chosen.order,
            denoise=self.chosen.denoise,
        )
        return self._physical(x, mask), mask

    def _conditions(self, counts: Tensor, features: Tensor | None, type: Tensor | None) -> Tensor:
        """As :meth:`pcdiff.transforms.Transform.encode_conditions`, shape (clouds, C)."""
        columns = [standardised(self.transform.count, counts)]
        if features is not None:
            columns += [standardised(scale, features[:, i]) for i, scale in enumerate(self.transform.clouds)]
        cond = torch.stack(columns, dim=1)
        return cond if type is None else torch.cat([cond, self.one_hot[type.long()]], dim=1)

    def _physical(self, x: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`pcdiff.transforms.Transform.decode`, constituents in falling order, shape (clouds, points, F)."""
        encodings = self.transform.points
        leading = leading_scale(encodings) if self.transform.schema.kind == "jets" else None
        if leading is not None:
            key = x[..., leading[0]].masked_fill(~mask, -torch.inf)
            order = key.topk(key.shape[1], dim=1).indices
            x = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
        parts = torch.split(x, [encoding.width for encoding in encodings], dim=-1)
        named = list(zip(encodings, parts, strict=True))
        columns = {each.name: unstandardised(each, part[..., 0]) for each, part in named if isinstance(each, Scale)}
        if self.transform.combinations is not None:
            together = torch.cat([part for each, part in named if isinstance(each, Categories)], dim=-1)
            columns |= categories(self.transform.combinations, encodings, together)
        if self.transform.schema.kind == "jets" and "phi" in columns:
            columns["phi"] = wrapped(columns["phi"])
        return torch.stack([columns[each.name] for each in encodings], dim=-1).float().masked_fill(~mask[..., None], 0)


def standardised(scale: Scale, values: Tensor) -> Tensor:
    """As :meth:`pcdiff.encodings.Scale.forward`."""
    shaped = values.double().log() if scale.function == "log" else values.double()
    return ((shaped - _exact(scale.mean)) / _exact(scale.std)).float()


def unstandardised(scale: Scale, values: Tensor) -> Tensor:
    """As :meth:`pcdiff.encodings.Scale.inverse`, in double precision."""
    shaped = values.double() * _exact(scale.std) + _exact(scale.mean)
    limit = np.finfo(np.float32)
    if scale.function == "log":
        return shaped.exp().clamp(float(limit.tiny), float(limit.max))
    return shaped.clamp(float(limit.min), float(limit.max))


def categories(combinations: Combinations, encodings: Sequence[Encoding], values: Tensor) -> dict[str, Tensor]:
    """As :meth:`pcdiff.encodings.Combinations.inverse`, in double precision."""
    words = torch.from_numpy(combinations.words(encodings)).double()
    distance = words.square().sum(1) - 2 * values.double() @ words.T
    nearest = torch.tensor(combinations.values, dtype=torch.float64)[distance.argmin(dim=-1)]
    return {name: nearest[..., i] for i, name in enumerate(combinations.names)}


def _exact(number: float) -> Tensor:
    """A number that a trace keeps in double precision; of a Python number it keeps float32."""
    return torch.tensor(number, dtype=torch.float64)


def wrapped(angle: Tensor) -> Tensor:
    """As :func:`pcdiff.kinematics.wrap`."""
    inside = (angle >= -torch.pi) & (angle < torch.pi)
    turns = torch.floor((angle + torch.pi) / (2 * torch.pi))
    return torch.where(inside, angle, angle - 2 * torch.pi * turns)
