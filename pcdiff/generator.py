"""The generator: everything that sampling needs, in one folder of JSON and safetensors.

    generator.json            format version, schema, transform, settings, checksums (its own too), provenance
    denoiser.safetensors      weights of the net
    multiplicity.safetensors  the model of the number of points and the cloud features

Noise: clouds are numbered from 0 in a request, and the noise of cloud i depends only on (seed, i). Windows of clouds are drawn,
sorted by size, and pass through the sampler in pieces of similar size (:mod:`pcdiff.sampling_loop`), so little is spent on padding.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import pcdiff
from pcdiff.allocator import give_back_freed_memory
from pcdiff.bundle import (
    Description,
    Settings,
    build_denoiser,
    check_sizes,
    load_denoiser,
    pick_device,
    read_tensors,
    weights_of,
    write_tensors,
)
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.conditions import Asked, Conditions, Selection, Source, as_text, conditions_of
from pcdiff.config import SamplingConfig
from pcdiff.diffusion import GRIDS, Denoiser, fit_grids, student_scale
from pcdiff.diffusion.samplers import Callback
from pcdiff.encodings import leading_scale
from pcdiff.errors import DataError, ModelError, PcdiffError, one_line
from pcdiff.files import atomic_folder, require_replaceable
from pcdiff.multiplicity import Multiplicity, build_multiplicity
from pcdiff.noise import BLOCK, point_noise, student_uniforms
from pcdiff.precision import pick_precision
from pcdiff.resources import DESCRIPTION, find_generator, require_own
from pcdiff.sampling_loop import Guide, Solver, Window, workers
from pcdiff.seeds import Purpose, word
from pcdiff.transforms import Transform

__all__ = ["WINDOW", "Generator", "Guide", "shard_range"]

P = ParamSpec("P")

_WEIGHTS, _MULTIPLICITY = "denoiser.safetensors", "multiplicity.safetensors"

WINDOW = 16 * BLOCK
"""Clouds that are sorted by size together; what is held in memory is two such windows."""

# Clouds whose trajectories a grid is fitted to.
_GRID_CLOUDS = 256


def _called_like(
    function: Callable[P, Iterator[PointClouds]],
) -> Callable[[Callable[..., PointClouds]], Callable[P, PointClouds]]:
    """Gives a method the arguments of another, so that their list stands once."""

    def decorate(method: Callable[..., PointClouds]) -> Callable[P, PointClouds]:
        arguments = signature(function)
        method.__signature__ = arguments.replace(return_annotation="PointClouds")  # type: ignore[attr-defined]
        return method

    return decorate


class Generator:
    """A trained generator of point clouds.

    Attributes:
        denoiser: net and schedule.
        multiplicity: model of the number of points and the cloud features.
        transform: between physical units and the denoiser's.
        settings: how it was built, and the default sampler.
        types: fraction of each of ``transform.types`` in the training data.
        provenance: plain data: name, config hash, data fingerprint, steps.
        grids: times fitted to it, by number of steps (see :meth:`fit_grids`).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        multiplicity: Multiplicity,
        transform: Transform,
        settings: Settings,
        types: tuple[float, ...] = (),
        provenance: Mapping[str, Any] | None = None,
        grids: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        self.denoiser = denoiser.eval()
        self.multiplicity = multiplicity.eval()
        self.transform = transform
        self.settings = settings
        self.types = types
        self.provenance = dict(provenance or {})
        self.grids = {steps: tuple(times) for steps, times in (grids or {}).items()}

    def __repr__(self) -> str:
        transform, sampling = self.transform, self.settings.sampling.resolved()
        return (
            f"<Generator {self.provenance.get('name', '')}: {self.settings.net.kind} net of "
            f"{sum(parameter.numel() for parameter in self.denoiser.parameters()):,} parameters; "
            f"points ({', '.join(scale.name for scale in transform.points)}), clouds ({', '.join(transform.schema.cloud_names)})"
            f"{', types ' + ', '.join(transform.types) if transform.types else ''}; "
            f"{sampling.sampler}{'' if sampling.order is None else f' of order {sampling.order}'} in {sampling.steps} steps>"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folder, whole or not at all; another generator that it holds is replaced.

        Raises:
            DataError: it is a folder of other things, or cannot be written.
            ModelError: it is a generator that comes with pcdiff.
        """
        require_replaceable(Path(path), "a generator", {DESCRIPTION})
        require_own(Path(path))
        with atomic_folder(path) as folder:
            files = {
                name: write_tensors(folder / name, tensors)
                for name, tensors in (
                    (_WEIGHTS, weights_of(self.denoiser)),
                    (_MULTIPLICITY, self.multiplicity.state_dict()),
                )
            }
            about = Description(self.settings, self.transform, self.types, files, self.provenance, self.grids)
            about.write(folder)

    def save_grids(self, path: str | os.PathLike[str]) -> Path:
        """Keep the fitted grids in a folder that holds this generator already; nothing else in it changes.

        Args:
            path: as for :meth:`load`.

        Returns:
            The folder.
        """
        folder = self.folder(path)
        replace(Description.read(folder), grids=self.grids).write(folder)
        return folder

    @staticmethod
    def folder(path: str | os.PathLike[str]) -> Path:
        """The folder of a generator that is named by itself, by the run that it belongs to, or as one that comes with pcdiff.

        Raises:
            ModelError: there is no such generator.
        """
        return find_generator(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generator:
        """Read a generator.

        Args:
            path: its folder, a run folder that holds it as ``generator/``, or the name of one that comes with pcdiff
                (:func:`pcdiff.resources.pretrained`); a path that exists wins over a name.

        Raises:
            ModelError: not a generator, of a newer format, or damaged.
        """
        folder = cls.folder(path)
        about = Description.read(folder)
        settings, transform = about.settings, about.transform
        files = [folder / name for name in (_WEIGHTS, _MULTIPLICITY)]
        weights, rows = (read_tensors(folder, file.name, about.files) for file in files)
        try:
            check_sizes(settings, transform, dict(zip(files, (weights, rows), strict=True)))
            denoiser = build_denoiser(settings, transform)
            types = max(1, len(transform.types))
            multiplicity = build_multiplicity(settings.multiplicity, len(transform.clouds), types)
        except (ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, PcdiffError):
                raise
            raise ModelError(f"{folder / DESCRIPTION}: describes no generator: {one_line(error, 300)}") from error
        load_denoiser(denoiser, weights)
        try:
            multiplicity.load(rows)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"{folder / _MULTIPLICITY}: does not fit {DESCRIPTION}: {one_line(error, 300)}") from error
        provenance = {**about.provenance, "files": about.files}
        return cls(denoiser, multiplicity, transform, settings, about.types, provenance, about.grids)

    @property
    def origin(self) -> dict[str, Any]:
        """What a generator that is made from this one says of it: its provenance, but for the files that it was read from."""
        return {name: value for name, value in self.provenance.items() if name != "files"}

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of tensors that it was read from, by name: unlike ``provenance["files"]`` the same with other fitted grids."""
        return {name: found for name, found in self.provenance["files"].items() if name != DESCRIPTION}

    def metadata(self, conditions: Asked | None = None, **settings: Any) -> dict[str, Any]:
        """What a file of generated clouds should say about its origin: plain data for JSON.

        Args:
            conditions: as for :meth:`iterate`.
            settings: of the sampling.
        """
        if conditions:
            settings["conditions"] = as_text(conditions)
        return {"generator": self.provenance, "sampling": settings, "pcdiff": pcdiff.__version__}

    def iterate(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        conditions: Asked | None = None,
        given: PointClouds | None = None,
        sampler: str | None = None,
        order: int | None = None,
        steps: int | None = None,
        grid: str | None = None,
        options: Mapping[str, float] | None = None,
        denoise: bool | None = None,
        guidance: float | None = None,
        guide: Guide | None = None,
        precision: str | None = None,
        device: str = "auto",
        shard: tuple[int, int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[PointClouds]:
        """Generate clouds piece by piece, in constant memory, on as many cores as ``torch.get_num_threads()`` says.

        While the caller has one piece, the next is being made.

        Args:
            n: how many; the number of clouds in ``given`` when absent.
            seed: the same seed gives the same clouds.
            conditions: what is asked of the clouds, for example ``{"type": "t", "pt": (900, 1100), "number_of_points": 25}``; how they are
                met, :mod:`pcdiff.conditions` says.
            given: take the number of points, the cloud features and the type of each cloud from here instead of drawing them.
            sampler, order, steps, grid, options, denoise, guidance: override the generator's default sampler (see
                :class:`~pcdiff.config.SamplingConfig`).
            guide: puts a posterior or a constraint around the denoiser; called for some clouds after others, never at once.
            precision: ``float32``, ``bfloat16`` or ``auto``, likewise; what bfloat16 costs,
                :class:`~pcdiff.config.SamplingConfig` says.
            device: see :func:`pcdiff.bundle.pick_device`.
            shard: the number of a shard, from 0 on, and of all shards: only its clouds, as :func:`shard_range` has it. Those of all shards, one
                after the other, are the clouds without a shard, bit for bit.
            progress: called now and then with the number of clouds made since the last call.

        Yields:
            Clouds in physical units, in order, the constituents of a jet by falling pT, halos by falling mass.

        Raises:
            PcdiffError: a setting is out of range, or the net's output is not finite.
        """
        if n is None:
            if given is None:
                raise DataError("say how many clouds to generate")
            n = len(given)
        if given is not None:
            given.validate("given")
            if conditions:
                raise DataError("the conditions are those of the given clouds; choose conditions or given")
        most = n if given is None else len(given)
        if operator.index(n) < 1 or n > most:
            raise DataError(f"cannot generate {n} clouds" + ("" if given is None else f" from the {most} given"))
        chosen = self.choose(
            sampler=sampler,
            order=order,
            steps=steps,
            grid=grid,
            options=options,
            denoise=denoise,
            guidance=guidance,
            precision=precision,
        )
        first, stop = shard_range(n, shard)
        where = pick_device(device)
        solver = self._solver(chosen, seed, where, guide)
        computed = str(pick_precision(chosen.precision, where)).removeprefix("torch.")
        sampling = chosen.model_dump(mode="json") | {"precision": computed}
        source = self._source(conditions, given)
        provenance = self.metadata(conditions, seed=seed, n=n, **sampling)
        if shard is not None:
            provenance["shard"] = {"number": shard[0], "of": shard[1]}
        made: tuple[npt.NDArray[np.float32], Conditions] | None = None
        with workers(solver.threads) as pool:

            def draw(start: int) -> list[Future[tuple[Conditions, npt.NDArray[np.float32]]]]:
                blocks = _blocks(start, min(start + WINDOW, stop))
                return [pool.submit(self._draw, source, cloud, size, seed) for cloud, size in blocks]

            drawn = draw(first)
            for start in range(first, stop, WINDOW):
                parts, noise = zip(*(block.result() for block in drawn), strict=True)
                found = Conditions.concatenate(parts)
                window = Window(
                    solver, pool, start, np.concatenate(noise), found.counts, self._encoded(found), self._falling
                )
                drawn = draw(start + WINDOW)
                if made is not None:
                    yield self.decode(*made, provenance)
                made = window.result(progress), found
                give_back_freed_memory()
            if made is not None:
                yield self.decode(*made, provenance)

    @_called_like(iterate)
    def sample(self, *args: Any, **settings: Any) -> PointClouds:
        """Generate clouds in memory; arguments as for :meth:`iterate`."""
        return PointClouds.concatenate(list(self.iterate(*args, **settings)))

    def choose(self, **overrides: Any) -> SamplingConfig:
        """The default sampler with what is not None overridden; see :meth:`pcdiff.bundle.Settings.choose`."""
        chosen = self.settings.choose(overrides)
        if chosen.grid == "fitted" and chosen.steps not in self.grids:
            fitted = ", ".join(map(str, sorted(self.grids))) or "none"
            raise DataError(
                f"steps = {chosen.steps}: no grid was fitted for so many, only for {fitted}; fit one with `pcdiff grid`"
            )
        return chosen

    def grid(self, chosen: SamplingConfig) -> Tensor:
        """The times of a sampler, shape (steps + 1,), float64."""
        if chosen.grid == "fitted":
            return torch.tensor(self.grids[chosen.steps], dtype=torch.float64)
        return GRIDS[chosen.grid](self.denoiser.schedule, chosen.steps)

    def fit_grids(self, steps: Sequence[int] = (5, 10, 20), *, seed: int = 0, device: str = "auto") -> None:
        """Fit times to this generator and keep them as ``grid="fitted"`` (see :mod:`pcdiff.diffusion.fitted`).

        Args:
            steps: numbers of steps to fit a grid for.
            seed: of the clouds that it is fitted to, which are no others' of any seed.
            device: see :func:`pcdiff.bundle.pick_device`.

        Raises:
            DataError: a number of steps is out of range.
        """
        own = word(seed, Purpose.GRID)
        noise, mask, cond = self.batch(0, self.conditions(0, _GRID_CLOUDS, own), own)
        where = pick_device(device)
        self.denoiser.to(where)
        try:
            found = fit_grids(self.denoiser, noise.to(where), mask.to(where), cond.to(where), tuple(steps))
        except ValueError as error:
            raise DataError(str(error)) from error
        self.grids |= {count: tuple(times.tolist()) for count, times in found.items()}

    def conditions(self, start: int, size: int, seed: int, conditions: Asked | None = None) -> Conditions:
        """What is known of the clouds from ``start``, a multiple of the block, on; arguments as for :meth:`iterate`.

        Raises:
            DataError: what is asked for is not known, or hardly ever drawn.
        """
        draw = self._source(conditions, None)
        return Conditions.concatenate([draw(first, part, seed) for first, part in _blocks(start, start + size)])

    def _source(self, conditions: Asked | None, given: PointClouds | None) -> Source:
        if given is not None:
            return partial(conditions_of, given, self.transform)
        return Selection(conditions or {}, self.multiplicity, self.transform, self.types).draw

    def batch(self, start: int, found: Conditions, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The noise (n, N, F), mask (n, N) and conditions (n, C) of all of these clouds in one batch."""
        counts = found.counts
        mask = np.arange(int(counts.max())) < counts[:, None]
        noise = np.zeros((*mask.shape, len(self.transform.channels)), np.float32)
        blocks = _blocks(start, start + len(counts))
        noise[mask] = np.concatenate(
            [self._noise(first, counts[first - start : first - start + size], seed) for first, size in blocks]
        )
        return torch.from_numpy(noise), torch.from_numpy(mask), torch.from_numpy(self._encoded(found))

    def _noise(self, start: int, counts: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float32]:
        """The noise of clouds of one block, flat, shape (sum of counts, F)."""
        noise = point_noise(seed, start, len(counts), int(counts.max()), len(self.transform.channels))
        if self.settings.denoiser.dimension is not None:
            unit = torch.from_numpy(student_uniforms(seed, start, len(counts)))
            noise = noise * student_scale(unit, self.settings.denoiser.dimension).float().numpy()[:, None, None]
        return noise[np.arange(noise.shape[1]) < counts[:, None]]

    def _draw(self, source: Source, start: int, size: int, seed: int) -> tuple[Conditions, npt.NDArray[np.float32]]:
        """What is known of the clouds of one block, and their noise."""
        found = source(start, size, seed)
        return found, self._noise(start, found.counts, seed)

    def _encoded(self, found: Conditions) -> npt.NDArray[np.float32]:
        return self.transform.encode_conditions(found.counts, found.features, found.types)

    def solve(
        self,
        noise: Tensor,
        mask: Tensor,
        cond: Tensor,
        clouds: npt.NDArray[np.int64],
        seed: int,
        chosen: SamplingConfig,
        device: torch.device,
        guide: Guide | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Standardised points, shape (B, N, F), of the clouds of these numbers, by a sampler as :meth:`choose` gives it."""
        return self._solver(chosen, seed, device, guide)(noise, mask, cond, clouds, callback)

    def _solver(self, chosen: SamplingConfig, seed: int, device: torch.device, guide: Guide | None) -> Solver:
        return Solver(self.denoiser.to(device), chosen, self.grid(chosen), seed, device, guide)

    @property
    def _falling(self) -> int | None:
        """Which channel points fall in, where they have one: constituents in pT, halos in mass."""
        channels = self.transform.channels
        if self.transform.schema.kind == "halos" and "log10_mass" in channels:
            return channels.index("log10_mass")
        found = leading_scale(self.transform.points) if self.transform.schema.kind == "jets" else None
        return None if found is None else found[0]

    def decode(self, points: npt.NDArray[np.float32], found: Conditions, provenance: Mapping[str, Any]) -> PointClouds:
        """Clouds in physical units."""
        return self.transform.decode(points, offsets_of(found.counts), found.features, found.types, provenance)


def shard_range(n: int, shard: tuple[int, int] | None) -> tuple[int, int]:
    """The first cloud of a shard of a request for n clouds, and the one after its last. Shards are whole windows, of 16,384 clouds.

    Args:
        n: number of clouds of the request.
        shard: its number, from 0 on, and that of all shards; the whole request when absent.

    Raises:
        DataError: there is no such shard, or none of so many would hold a window.

    >>> shard_range(40_000, (1, 2))
    (16384, 40000)
    """
    if shard is None:
        return 0, n
    number, count = shard
    windows = -(-n // WINDOW)
    if count > windows:
        raise DataError(f"{n:,} clouds have at most {windows} shards, of {WINDOW:,} clouds; {count} were asked for")
    if not 0 <= number < count:
        raise DataError(f"shard {number}/{count}: expected one of 0/{count} to {count - 1}/{count}")
    first, stop = (number * windows // count, (number + 1) * windows // count)
    return first * WINDOW, min(stop * WINDOW, n)


def _blocks(start: int, stop: int) -> list[tuple[int, int]]:
    """The first cloud and the number of clouds of each block."""
    return [(first, min(BLOCK, stop - first)) for first in range(start, stop, BLOCK)]
