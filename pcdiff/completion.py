r"""Catalogues that hold known halos: light halos beside massive ones, or the other part of a box.

Halos that are known keep their place among the points, and RePaint (arXiv 2201.09865) lets the others agree with them. That the others are lighter
than a mass, or lie in a part of the box, is known too: their predictions are those within these bounds (:class:`pcdiff.diffusion.Truncated`). The
point-cloud counterpart of Rouhiainen et al., "Super-resolution emulation of large cosmological fields with a 3D conditional diffusion model", arXiv
2311.05217.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.conditions import conditions_of, require_covered
from pcdiff.diffusion import Truncated, repaint
from pcdiff.diffusion.heads import placed
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.noise import point_noise
from pcdiff.schema import POSITION
from pcdiff.seeds import Purpose, word
from pcdiff.torus import Torus
from pcdiff.transforms import Transform

__all__ = ["by_mass", "complete", "torus_of"]

# Above this log-SNR the noise of positions is below half of a unit, 0.6 Mpc/h in a box of 125 Mpc/h, closer than two halos can be.
_SETTLED = 1.5


def complete(
    generator: Generator,
    known: PointClouds,
    counts: npt.ArrayLike | None = None,
    *,
    region: Sequence[tuple[float, float]] | None = None,
    below: float | None = None,
    steps: int = 30,
    repeats: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> PointClouds:
    """Catalogues with halos added to known ones, which stay as they are.

    Args:
        generator: of halo catalogues.
        known: catalogues with the columns of the generator, and the cloud features that it is conditioned on; at least one halo each.
        counts: number of halos of each catalogue when it is complete, shape (n,); when absent drawn from the generator's own model for the
            features of the catalogue, not below the known number. That model does not look at the known halos: where they are more than the
            mean of such catalogues has, it adds too few, and gives the right number only in the mean over catalogues. Give what you know.
        region: where the added halos are: (low, high) for x, y and z in units of the box, within [0, box size]; anywhere when absent.
        below: the added halos have a log10_mass below this one.
        steps: of the sampler, even in log-SNR.
        repeats: how often each step is taken (see :func:`pcdiff.diffusion.repaint`) down to the noise at which halos are where they stay.
        seed: the same seed gives the same halos.
        device: see :func:`pcdiff.bundle.pick_device`.

    Returns:
        All halos, by falling mass.

    Raises:
        DataError: not a generator of halos, an argument is out of range, or catalogues that are not such as it has learned from.
    """
    torus_of(generator)
    transform = generator.transform
    known.validate("known")
    found = conditions_of(known, transform, 0, len(known), seed)
    require_covered(generator.multiplicity, transform, found.features, "complete")
    total = _totals(generator, known, counts, seed)
    for name, value in (("steps", steps), ("repeats", repeats)):
        if value < 1:
            raise DataError(f"complete: {name} is {value}; expected at least 1")
    where = pick_device(device)
    encoded = transform.encode(known)
    shape = (len(known), int(total.max()), len(transform.channels))
    mask = np.arange(shape[1]) < total[:, None]
    given = np.arange(shape[1]) < known.counts[:, None]
    values = np.zeros(shape, np.float32)
    values[given] = encoded.points
    low, high = (np.full(shape, sign * np.inf, np.float32) for sign in (-1, 1))
    added = mask & ~given
    for name, bounds in _bounds(transform, known, region, below).items():
        channel = transform.channels.index(name)
        low[..., channel][added], high[..., channel][added] = bounds
    own = word(seed, Purpose.PAIRS)
    noise = point_noise(own, 0, len(known), shape[1], shape[2])
    rng = torch.Generator().manual_seed(own % 2**63)
    cond = transform.encode_conditions(total, found.features, found.types)
    z, valid, conditions, clean, least, most, held = (
        torch.from_numpy(part).to(where) for part in (noise, mask, cond, values, low, high, given)
    )
    denoiser = generator.denoiser.to(where)
    grid = generator.grid(generator.choose(steps=steps, grid="log-snr"))
    settled = denoiser.schedule.log_snr(grid[:-1]) > _SETTLED
    with torch.inference_mode():
        x = repaint(
            Truncated(denoiser, least, most, denoiser.heads),
            z,
            grid,
            valid,
            conditions,
            known=clean,
            where=held[..., None].expand(shape),
            repeats=[1 if done else repeats for done in settled.tolist()],
            draw=lambda: torch.randn(shape, generator=rng).to(where),
        )
    points = placed(x, denoiser.heads, float(denoiser.schedule.alpha(grid[-1:]))).cpu().numpy()
    about = generator.metadata(seed=seed, steps=steps, repeats=repeats)
    made = transform.decode(points[mask], offsets_of(total), found.features, found.types, about)
    # Known halos as they were given, not as they came through the transform and back.
    flat = np.flatnonzero(given[mask])
    columns = {name: made.column(name).copy() for name in made.schema.point_names}
    for name, column in columns.items():
        column[flat] = known.column(name)
    rows = {name: made.feature(name) for name in made.schema.cloud_names}
    return by_mass(PointClouds.from_flat(columns, made.offsets, rows, made.schema, made.provenance))


def _totals(generator: Generator, known: PointClouds, counts: npt.ArrayLike | None, seed: int) -> npt.NDArray[np.int64]:
    """The number of halos of each complete catalogue."""
    if counts is not None:
        total = np.asarray(counts, np.int64)
        if total.shape != (len(known),) or np.any(total < known.counts):
            raise DataError(
                f"complete: counts of shape {total.shape}, the smallest {total.min(initial=0)}; expected one for each of "
                f"{len(known)} catalogues, not below the number of its halos"
            )
        return total
    names = [scale.name for scale in generator.transform.clouds]
    if names and not generator.multiplicity.conditional:
        raise DataError("complete: the generator cannot draw the number of halos for given features; give counts")
    rng = np.random.default_rng(word(seed, Purpose.ATTEMPTS))
    types = generator.transform.type_index(known)
    total = np.zeros(len(known), np.int64)
    for i in range(len(known)):
        given = {k: float(known.feature(name)[i]) for k, name in enumerate(names)}
        for _ in range(1000):
            drawn, _ = generator.multiplicity.draw(rng.standard_normal((1, 1 + len(names))), types[i : i + 1], given)
            total[i] = drawn[0]
            if total[i] >= known.counts[i]:
                break
        else:
            raise DataError(
                f"complete: catalogue {i} has {known.counts[i]} halos, more than the generator draws for its features; give counts"
            )
    return total


def _bounds(
    transform: Transform, known: PointClouds, region: Sequence[tuple[float, float]] | None, below: float | None
) -> dict[str, tuple[float, float]]:
    """Bounds of added halos in the denoiser's units, by channel."""
    scales = {encoding.name: encoding for encoding in transform.points}
    out: dict[str, tuple[float, float]] = {}
    if region is not None:
        size = float(known.feature("box_size")[0])
        if len(region) != 3 or any(not 0 <= low < high <= size for low, high in region):
            raise DataError(f"complete: region is {region}; expected three rising pairs within 0 and {size:g}")
        for name, (low, high) in zip(POSITION, region, strict=True):
            if (low, high) != (0, size):
                ends = scales[name].forward(np.array([low, high]))
                out[name] = (float(ends[0]), float(ends[1]))
    if below is not None:
        if "log10_mass" not in scales:
            raise DataError("complete: below needs a generator of masses")
        out["log10_mass"] = (-math.inf, float(scales["log10_mass"].forward(np.array([below]))[0]))
    return out


def by_mass(clouds: PointClouds) -> PointClouds:
    """The halos of each catalogue by falling mass, where they have one."""
    if "log10_mass" not in clouds.schema.point_names:
        return clouds
    order = np.lexsort((-clouds.column("log10_mass"), clouds.owners))
    columns = {name: clouds.column(name)[order] for name in clouds.schema.point_names}
    rows = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(columns, clouds.offsets, rows, clouds.schema, clouds.provenance)


def torus_of(generator: Generator) -> Torus:
    """What of the generator's channels is what.

    Raises:
        DataError: it is not one of halo catalogues.
    """
    torus = generator.transform.torus
    if torus is None:
        raise DataError("expected a generator of halo catalogues in a periodic box")
    return torus
