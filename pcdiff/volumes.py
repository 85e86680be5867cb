r"""Halo catalogues in volumes larger than the training box.

A volume of whole multiples of the training box is covered by windows of its size that overlap by half. In each evaluation the net sees each window
as a box of its own, and the prediction for a halo is the mean over the windows that it is in, with the weight sin^2(pi d / size) of its distance d from
the border of each: there, where the net sees neighbours that are none, it is zero. The windows are made together, not one after another, and in each
evaluation they begin elsewhere; so no place is at a border throughout. What the volume lacks are fluctuations on scales larger than the training box. Overlapping
predictions as in MultiDiffusion, arXiv 2302.08113.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.completion import by_mass, torus_of
from pcdiff.conditions import require_covered
from pcdiff.diffusion import Denoiser, Prediction, sample
from pcdiff.diffusion.heads import placed
from pcdiff.diffusion.samplers.base import Levels
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.kinematics import into_box
from pcdiff.noise import point_noise
from pcdiff.schema import POSITION, Feature
from pcdiff.seeds import Purpose, word
from pcdiff.torus import Torus

__all__ = ["Windowed", "grow"]

Singles = npt.NDArray[np.float32]
Encode = Callable[[npt.NDArray[np.int64]], Tensor]

# Windows that the net sees at a time: what stays in the cache of a core.
_AT_A_TIME = 8


def grow(
    generator: Generator,
    boxes: tuple[int, int, int],
    features: Mapping[str, float],
    *,
    count: int | None = None,
    steps: int = 20,
    order: int = 2,
    seed: int = 0,
    device: str = "auto",
) -> PointClouds:
    """One catalogue in a periodic volume of several training boxes.

    Args:
        generator: of halo catalogues.
        boxes: how many training boxes the volume is long along x, y and z. Along an axis of one it is periodic as the training box is.
        features: all cloud features that the generator is conditioned on, by name.
        count: number of halos; drawn as the sum of those of so many boxes when absent.
        steps, order: of DDIM, even in log-SNR.
        seed: the same seed gives the same halos.
        device: see :func:`pcdiff.bundle.pick_device`.

    Returns:
        One cloud, by falling mass. Its columns ``size_x``, ``size_y`` and ``size_z`` are the sides of the volume in Mpc/h, and ``box_size``
        is the largest of them. Observables and files of halotools are those of cubes: they refuse a volume of unequal sides.

    Raises:
        DataError: not a generator of halos, or an argument is out of range; a feature is where no training data were.
    """
    torus = torus_of(generator)
    transform = generator.transform
    names = [scale.name for scale in transform.clouds]
    if set(features) != set(names):
        raise DataError(f"grow: features are {', '.join(features)}; expected {', '.join(names)}")
    if min(boxes) < 1:
        raise DataError(f"grow: boxes is {boxes}; expected three whole numbers from 1")
    require_covered(generator.multiplicity, transform, features, "grow")
    volumes = math.prod(boxes)
    if count is None:
        if not generator.multiplicity.conditional:
            raise DataError("grow: the generator cannot draw the number of halos for given features; give count")
        rng = np.random.default_rng(word(seed, Purpose.ATTEMPTS))
        given = {k: features[name] for k, name in enumerate(names)}
        normals = rng.standard_normal((volumes, 1 + len(names)))
        count = int(generator.multiplicity.draw(normals, np.zeros(volumes, np.int64), given)[0].sum())
    where = pick_device(device)
    denoiser = generator.denoiser.to(where)
    windowed = Windowed(denoiser, torus, boxes, _encoder(generator, features), seed)
    noise = torch.from_numpy(point_noise(word(seed, Purpose.PAIRS), 0, 1, count, len(transform.channels)))
    grid = generator.grid(generator.choose(steps=steps, grid="log-snr"))
    levels = Levels.of(denoiser, grid)
    # Spread evenly over the whole volume, which noise of the size of one box would not be.
    rng = np.random.default_rng(word(seed, Purpose.POINTS, 1))
    sides = torus.period * np.array(boxes)
    places = torch.from_numpy(rng.random((count, 3)) * sides)
    noise[0, :, list(torus.positions)] = (
        levels.alpha[0] * places / math.hypot(levels.alpha[0], levels.sigma[0])
    ).float()
    mask = torch.ones(1, count, dtype=torch.bool)
    with torch.inference_mode():
        x = sample("ddim", windowed, noise.to(where), grid, mask.to(where), torch.zeros(1, 0), order=order)
    x = placed(x, denoiser.heads, levels.alpha[-1])[0].cpu()
    return _volume(
        generator, torus, boxes, x.numpy(), features, generator.metadata(seed=seed, steps=steps, boxes=list(boxes))
    )


def _encoder(generator: Generator, features: Mapping[str, float]) -> Encode:
    """From numbers of halos (W,) to conditions (W, C)."""

    def encode(counts: npt.NDArray[np.int64]) -> Tensor:
        rows = {name: np.full(len(counts), value, np.float32) for name, value in features.items()}
        cond = generator.transform.encode_conditions(counts, rows, np.zeros(len(counts), np.int64))
        return torch.from_numpy(cond)

    return encode


class Windowed:
    """A denoiser of a volume larger than its box, by overlapping windows; see the head of this module.

    Args:
        denoiser: of one box.
        torus: its channels.
        boxes: length of the volume along each axis, in boxes.
        encode: from numbers of points to conditions.
        seed: of where the windows begin, which the time decides too.
    """

    def __init__(
        self, denoiser: Denoiser, torus: Torus, boxes: tuple[int, int, int], encode: Encode, seed: int = 0
    ) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.torus = torus
        self.boxes = boxes
        self.encode = encode
        self.seed = seed
        # Along an axis of one box there is one window, the box itself, which is periodic in truth.
        starts = [np.arange(2 * n) / 2 if n > 1 else np.zeros(1) for n in boxes]
        self.starts = torus.period * np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)

    def __call__(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:  # noqa: ARG002
        """As :meth:`pcdiff.diffusion.Denoiser.forward`, for one cloud; the conditions are its own."""
        channels = list(self.torus.positions)
        level = self.schedule.level(t)
        place = (x_t[0, :, channels] / level.alpha[0]).double()
        total, weight = torch.zeros_like(x_t[0]), torch.zeros_like(x_t[0, :, :1])
        # Windows with the same borders at all times would leave fewer pairs across these than elsewhere.
        rng = np.random.default_rng(word(self.seed, Purpose.STEPS, round(float(t[0]) * 2**32)))
        all_starts = self.starts + self.torus.period / 2 * rng.random(3)
        for first in range(0, len(all_starts), _AT_A_TIME):
            starts = torch.from_numpy(all_starts[first : first + _AT_A_TIME]).to(place.device)
            inside, share = self._inside(place, starts)
            sizes = inside.sum(dim=1)
            width = int(sizes.max())
            if width == 0:
                continue
            # The points of each window first, in their order.
            index = (~inside).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
            held = torch.arange(width, device=place.device) < sizes[:, None]
            windows = x_t[0][index] * held[..., None]
            eps = self.denoiser(
                windows, t.expand(len(starts)), held, self.encode(sizes.cpu().numpy()).to(x_t.device)
            ).eps
            w = (share.gather(1, index) * held)[..., None].to(x_t.dtype)
            total = total.index_add(0, index.flatten(), (w * eps).flatten(0, 1))
            weight = weight.index_add(0, index.flatten(), w.flatten(0, 1))
        return Prediction.of("epsilon", (total / weight)[None], x_t, level)

    def _inside(self, place: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Which points (P,) are in which windows (W,), and their weights: shape (W, P) each."""
        period = self.torus.period
        inside = torch.ones(len(starts), len(place), dtype=torch.bool, device=place.device)
        share = torch.ones(len(starts), len(place), dtype=place.dtype, device=place.device)
        for axis, boxes in enumerate(self.boxes):
            if boxes == 1:
                continue
            offset = torch.remainder(place[None, :, axis] - starts[:, None, axis], boxes * period)
            inside &= offset < period
            # sin^2 of two windows that overlap by half adds up to 1; a point at a border is in another window's middle.
            share = share * torch.sin(math.pi * offset / period).square()
        return inside, share.clamp(min=1e-12)


def _volume(
    generator: Generator,
    torus: Torus,
    boxes: tuple[int, int, int],
    x: Singles,
    features: Mapping[str, float],
    about: dict[str, Any],
) -> PointClouds:
    """A volume in physical units: the transform knows one box, so positions are wrapped to the volume here."""
    rows = {name: np.array([value], np.float32) for name, value in features.items()}
    made = generator.transform.decode(x, np.array([0, len(x)]), rows, np.zeros(1, np.int64), about)
    size = float(made.feature("box_size")[0])
    columns = {name: made.column(name) for name in made.schema.point_names}
    for axis, name in enumerate(POSITION):
        place = size / torus.period * x[:, torus.positions[axis]].astype(np.float64)
        columns[name] = into_box(place, size * boxes[axis], np.float32)
    sides = [Feature(f"size_{name}", "Mpc/h", f"side of the volume along {name}") for name in POSITION]
    schema = replace(made.schema, clouds=(*made.schema.clouds, *sides))
    kept = {name: made.feature(name) for name in made.schema.cloud_names}
    kept |= {side.name: np.array([size * n], np.float32) for side, n in zip(sides, boxes, strict=True)}
    kept["box_size"] = np.array([size * max(boxes)], np.float32)
    return by_mass(PointClouds.from_flat(columns, made.offsets, kept, schema, made.provenance))
