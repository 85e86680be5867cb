"""The generator: everything that sampling needs, in one folder of JSON and safetensors.

    generator.json            format version, schema, transform, settings, checksums, provenance
    denoiser.safetensors      weights of the net
    multiplicity.safetensors  the model of the number of points and the cloud features

Noise: clouds are numbered from 0 in a request, and the noise of cloud i depends only on (seed, i). Windows of clouds are drawn,
sorted by size, and pass through the sampler in blocks of similar size, so little is spent on padding.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

import pcdiff
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.config import EpicConfig, GraphConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig, TransformerConfig
from pcdiff.diffusion import GRIDS, SAMPLERS, Denoiser, build_schedule
from pcdiff.errors import DataError, ModelError, PcdiffError, suggest
from pcdiff.files import atomic_folder, read_json, sha256, write_json
from pcdiff.multiplicity import Multiplicity, build_multiplicity
from pcdiff.nets import build_net
from pcdiff.noise import BLOCK, cloud_noise, point_noise
from pcdiff.transforms import Transform, cloud_columns

__all__ = ["Generator", "Settings", "build_denoiser", "pick_device"]

FORMAT_VERSION = 1

# On a CPU a block passes through the sampler in pieces of about this many points, which stay in its cache.
_CPU_POINTS = 4096
# Blocks that are sorted by size together; also what is held in memory at a time.
_WINDOW = 16

NetConfig = EpicConfig | TransformerConfig | GraphConfig


@dataclass(frozen=True)
class Settings:
    """The parts of a training config that a generator is built from and sampled with by default."""

    net: NetConfig
    schedule: ScheduleConfig
    multiplicity: MultiplicityConfig
    sampling: SamplingConfig


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes the first CUDA device where there is one, else the CPU.

    Raises:
        PcdiffError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PcdiffError(f"device {name!r} is not available here; expected auto, cpu, cuda, cuda:N or mps") from error
    return device


def build_denoiser(settings: Settings, transform: Transform) -> Denoiser:
    """An untrained denoiser for clouds of this transform."""
    names = [scale.name for scale in transform.points]
    net = build_net(settings.net, len(names), transform.conditions, names)
    return Denoiser(net, build_schedule(settings.schedule))


class Generator:
    """A trained generator of point clouds.

    Attributes:
        denoiser: net and schedule.
        multiplicity: model of the number of points and the cloud features.
        transform: between physical units and the denoiser's.
        settings: how it was built, and the default sampler.
        types: fraction of each of ``transform.types`` in the training data.
        provenance: plain data: name, config hash, data fingerprint, steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        multiplicity: Multiplicity,
        transform: Transform,
        settings: Settings,
        types: tuple[float, ...] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.denoiser = denoiser.eval()
        self.multiplicity = multiplicity.eval()
        self.transform = transform
        self.settings = settings
        self.types = types
        self.provenance = dict(provenance or {})

    def __repr__(self) -> str:
        transform, sampling = self.transform, self.settings.sampling
        return (
            f"<Generator {self.provenance.get('name', '')}: {self.settings.net.kind} net of "
            f"{sum(parameter.numel() for parameter in self.denoiser.parameters()):,} parameters; "
            f"points ({', '.join(scale.name for scale in transform.points)}), clouds ({', '.join(transform.schema.cloud_names)})"
            f"{', types ' + ', '.join(transform.types) if transform.types else ''}; "
            f"{sampling.sampler} of order {sampling.order} in {sampling.steps} steps>"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folder, whole or not at all."""
        with atomic_folder(path) as folder:
            files = {}
            for name, module in (("denoiser", self.denoiser.net), ("multiplicity", self.multiplicity)):
                file = folder / f"{name}.safetensors"
                safetensors.torch.save_file(
                    {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, file
                )
                files[file.name] = sha256(file)
            write_json(
                folder / "generator.json",
                {
                    "format_version": FORMAT_VERSION,
                    "pcdiff": pcdiff.__version__,
                    "files": files,
                    "net": self.settings.net.model_dump(mode="json"),
                    "schedule": self.settings.schedule.model_dump(mode="json"),
                    "multiplicity": self.settings.multiplicity.model_dump(mode="json"),
                    "sampling": self.settings.sampling.model_dump(mode="json"),
                    "transform": self.transform.to_dict(),
                    "types": list(self.types),
                    "provenance": self.provenance,
                },
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generator:
        """Read a generator.

        Args:
            path: its folder, or a run folder that holds it as ``generator/``.

        Raises:
            ModelError: not a generator, of a newer format, or damaged.
        """
        folder = Path(path)
        if not (folder / "generator.json").is_file() and (folder / "generator" / "generator.json").is_file():
            folder = folder / "generator"
        file = folder / "generator.json"
        if not file.is_file():
            found = "there is no such folder" if not Path(path).exists() else "there is no generator.json in it"
            raise ModelError(f"{path}: not a generator or a finished run: {found}")
        data = read_json(file)
        version = data.get("format_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise ModelError(f"{file}: has no format_version; expected a generator written by pcdiff")
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{file}: has format version {version}, this pcdiff {pcdiff.__version__} reads up to {FORMAT_VERSION}; "
                "update pcdiff"
            )
        try:
            settings = Settings(
                net=TypeAdapter(NetConfig).validate_python(data["net"]),
                schedule=ScheduleConfig.model_validate(data["schedule"]),
                multiplicity=MultiplicityConfig.model_validate(data["multiplicity"]),
                sampling=SamplingConfig.model_validate(data["sampling"]),
            )
            transform = Transform.from_dict(data["transform"])
            types = tuple(map(float, data["types"]))
            files, provenance = dict(data["files"]), dict(data["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{file}: not a complete generator: {_one_line(error)}") from error
        denoiser = build_denoiser(settings, transform)
        multiplicity = build_multiplicity(settings.multiplicity, len(transform.clouds), max(1, len(transform.types)))
        _load_net(denoiser.net, _tensors(folder, "denoiser.safetensors", files))
        try:
            multiplicity.load(_tensors(folder, "multiplicity.safetensors", files))
        except RuntimeError as error:
            raise ModelError(
                f"{folder / 'multiplicity.safetensors'}: does not fit generator.json: {_one_line(error)}"
            ) from error
        return cls(denoiser, multiplicity, transform, settings, types, {**provenance, "files": files})

    def metadata(self, **settings: Any) -> dict[str, Any]:
        """What a file of generated clouds should say about its origin: plain data for JSON."""
        return {"generator": self.provenance, "sampling": settings, "pcdiff": pcdiff.__version__}

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        type: str | None = None,
        given: PointClouds | None = None,
        sampler: str | None = None,
        order: int | None = None,
        steps: int | None = None,
        grid: str | None = None,
        device: str = "auto",
        progress: Callable[[int], None] | None = None,
    ) -> PointClouds:
        """Generate clouds in memory; arguments as for :meth:`iterate`."""
        pieces = self.iterate(
            n,
            seed=seed,
            type=type,
            given=given,
            sampler=sampler,
            order=order,
            steps=steps,
            grid=grid,
            device=device,
            progress=progress,
        )
        return PointClouds.concatenate(list(pieces))

    def iterate(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        type: str | None = None,
        given: PointClouds | None = None,
        sampler: str | None = None,
        order: int | None = None,
        steps: int | None = None,
        grid: str | None = None,
        device: str = "auto",
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[PointClouds]:
        """Generate clouds piece by piece, in constant memory.

        Args:
            n: how many; the number of clouds in ``given`` when absent.
            seed: the same seed gives the same clouds.
            type: generate only this type, for example ``"t"``.
            given: take the number of points, the cloud features and the type of each cloud from here instead of drawing them.
            sampler, order, steps, grid: override the generator's default sampler (see :class:`~pcdiff.config.SamplingConfig`).
            device: see :func:`pick_device`.
            progress: called now and then with the number of clouds made since the last call.

        Yields:
            Clouds in physical units, in order, points by falling pT.

        Raises:
            PcdiffError: a setting is out of range, or the net's output is not finite.
        """
        if n is None:
            if given is None:
                raise DataError("say how many clouds to generate")
            n = len(given)
        if given is not None:
            given.validate("given")
            if type is not None:
                raise DataError("the type is that of the given clouds; choose type or given")
        most = n if given is None else len(given)
        if operator.index(n) < 1 or n > most:
            raise DataError(f"cannot generate {n} clouds" + ("" if given is None else f" from the {most} given"))
        if operator.index(seed) < 0:
            raise DataError(f"seed is {seed}; expected a whole number from 0")
        try:
            chosen = SamplingConfig.model_validate(
                self.settings.sampling.model_dump()
                | {
                    key: value
                    for key, value in {"sampler": sampler, "order": order, "steps": steps, "grid": grid}.items()
                    if value is not None
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{first['loc'][-1]} = {first['input']!r}: {first['msg']}") from error
        if type is not None and type not in self.transform.types:
            raise DataError(f"the generator knows no type {type!r}: {suggest(type, self.transform.types)}")
        where = pick_device(device)
        self.denoiser.to(where)
        provenance = self.metadata(seed=seed, n=n, **chosen.model_dump(mode="json"))
        for start in range(0, n, _WINDOW * BLOCK):
            size = min(_WINDOW * BLOCK, n - start)
            counts, features, types = self._conditions(start, size, seed, type, given)
            points = self._points(start, counts, features, types, seed, chosen, where, progress)
            yield self._decode(points, counts, features, types, provenance)

    def _conditions(
        self, start: int, size: int, seed: int, type: str | None, given: PointClouds | None
    ) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
        """Number of points, cloud features in physical units and type positions of the clouds from ``start`` on."""
        names = [scale.name for scale in self.transform.clouds]
        uniform, normal = cloud_noise(seed, start, size, 1 + len(names))
        if given is not None:
            part = given[start : start + size]
            counts = part.counts
            values = np.stack(list(cloud_columns(part, names).values()), axis=1) if names else np.zeros((size, 0))
            types = self.transform.type_index(part)
        else:
            if type is not None:
                types = np.full(size, self.transform.types.index(type), np.int64)
            else:
                types = np.searchsorted(np.cumsum(self.types)[:-1], uniform[:, 0], side="right").astype(np.int64)
            counts, values = self.multiplicity.draw(normal, types)
        features = {name: values[:, k].astype(np.float32) for k, name in enumerate(names)}
        if "phi" not in features and given is not None and "phi" in given.schema.cloud_names:
            features["phi"] = given[start : start + size].feature("phi").astype(np.float32)
        if "phi" not in features:
            # The beams are symmetric about their axis. Rounded to float32 the largest value must stay below pi.
            phi = (2 * np.pi * uniform[:, 1] - np.pi).astype(np.float32)
            features["phi"] = np.clip(phi, -np.float32(3.1415925), np.float32(3.1415925))
        return counts, features, types

    @torch.inference_mode()
    def _points(
        self,
        start: int,
        counts: npt.NDArray[np.int64],
        features: Mapping[str, npt.NDArray[Any]],
        types: npt.NDArray[np.int64],
        seed: int,
        chosen: SamplingConfig,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Standardised points of all clouds, flat, shape (sum of counts, F)."""
        width = len(self.transform.points)
        noise = point_noise(seed, start, len(counts), int(counts.max()), width)
        cond = self.transform.encode_conditions(counts, features, types)
        offsets = offsets_of(counts)
        out = np.empty((int(offsets[-1]), width), np.float32)
        grid = GRIDS[chosen.grid](self.denoiser.schedule, chosen.steps)
        order = np.argsort(counts, kind="stable")
        for index in _pieces(order, counts, device):
            largest = int(counts[index].max())
            mask = np.arange(largest) < counts[index][:, None]
            x = SAMPLERS[chosen.sampler](
                self.denoiser,
                torch.from_numpy(np.ascontiguousarray(noise[index, :largest])).to(device),
                grid,
                torch.from_numpy(mask).to(device),
                torch.from_numpy(cond[index]).to(device),
                order=chosen.order,
            )
            rows = (offsets[index][:, None] + np.arange(largest))[mask]
            out[rows] = x.cpu().numpy()[mask]
            if progress is not None:
                progress(len(index))
        if not np.isfinite(out).all():
            raise ModelError(
                f"the generator's output is not finite in {int((~np.isfinite(out)).any(axis=1).sum())} of {len(out)} points; "
                "train longer or sample with more steps"
            )
        return out

    def _decode(
        self,
        points: npt.NDArray[np.float32],
        counts: npt.NDArray[np.int64],
        features: Mapping[str, npt.NDArray[Any]],
        types: npt.NDArray[np.int64],
        provenance: Mapping[str, Any],
    ) -> PointClouds:
        """Clouds in physical units, points by falling pT where they have one."""
        names = [scale.name for scale in self.transform.points]
        rank = next((names.index(name) for name in ("ptrel", "pt", "energy") if name in names), None)
        if rank is not None:
            cloud = np.repeat(np.arange(len(counts)), counts)
            points = points[np.lexsort((-points[:, rank], cloud))]
        offsets = offsets_of(counts)
        return self.transform.decode(points, offsets, features, types, provenance)


def _pieces(
    order: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], device: torch.device
) -> Iterator[npt.NDArray[np.int64]]:
    """Clouds that pass through the sampler together, of similar size; which ones, only the request decides."""
    first = 0
    while first < len(order):
        block = order[first : first + BLOCK]
        if device.type == "cpu":
            block = block[: max(1, _CPU_POINTS // int(counts[block].max()))]
        yield block
        first += len(block)


def _tensors(folder: Path, name: str, files: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Stored tensors, their checksum verified."""
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path}: is missing; the generator is not whole")
    if name not in files or sha256(path) != files[name]:
        raise ModelError(
            f"{path}: its SHA-256 is not the one in generator.json; the file is damaged or of another generator"
        )
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file: {_one_line(error)}") from error


def _load_net(net: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"denoiser.safetensors does not fit generator.json: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
