"""What a generator is built from: its settings and description, and its tensors, written with a checksum and verified on reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

import pcdiff
from pcdiff.config import (
    DenoiserConfig,
    MultiplicityConfig,
    NetConfig,
    SamplingConfig,
    ScheduleConfig,
)
from pcdiff.diffusion import SAMPLERS, CategoryHead, Denoiser, Head, Potential, TorusHead, build_schedule
from pcdiff.errors import DataError, ModelError, PcdiffError, one_line
from pcdiff.files import read_json, sha256, write_json
from pcdiff.nets import build_net
from pcdiff.records import check_description
from pcdiff.resources import DESCRIPTION, require_own
from pcdiff.transforms import Transform

__all__ = [
    "Description",
    "NetConfig",
    "Settings",
    "build_denoiser",
    "check_sizes",
    "load_denoiser",
    "net_of",
    "pick_device",
    "read_tensors",
    "weights_of",
    "write_tensors",
]

# 2: the denoiser's settings, all schedules and samplers, fitted grids. 3: categorical point features. 4: periodic boxes.
FORMAT_VERSION = 4

# Where generator.json holds the checksum of all else that it says.
_CHECKSUM = "sha256"

# Before the names of a learned schedule's parameters; a net has no part of that name.
_SCHEDULE = "schedule."


@dataclass(frozen=True)
class Settings:
    """The parts of a training config that a generator is built from and sampled with by default."""

    net: NetConfig
    schedule: ScheduleConfig
    multiplicity: MultiplicityConfig
    sampling: SamplingConfig
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)

    def choose(self, overrides: Mapping[str, Any]) -> SamplingConfig:
        """The default sampler with what is not None overridden, options one by one, and all of its own settings written out.

        Raises:
            DataError: a setting is out of range, or not for this generator.
        """
        given = {key: value for key, value in overrides.items() if value is not None}
        stored = self.sampling
        kept = stored.model_dump()
        if given.get("sampler", stored.sampler) != stored.sampler:
            # Order and options are those of the sampler that they were set for.
            del kept["order"], kept["options"]
        given["options"] = kept.get("options", {}) | dict(given.get("options", {}))
        try:
            chosen = SamplingConfig.model_validate(kept | given).resolved()
        except ValidationError as error:
            first = error.errors()[0]
            what = first.get("ctx", {}).get("expected")
            raise DataError(
                f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: "
                + (f"expected {what}" if what else first["msg"])
            ) from error
        about = self.denoiser
        if about.dimension is not None and (
            SAMPLERS[chosen.sampler].stochastic and (chosen.sampler != "ddim" or chosen.options["eta"])
        ):
            raise DataError(
                f"sampler = {chosen.sampler!r}: a Poisson flow has an ODE only; expected one that draws no noise"
            )
        if chosen.guidance != 1 and not about.drop_conditions:
            raise DataError(
                f"guidance = {chosen.guidance}: the generator was trained without denoiser.drop_conditions; expected 1"
            )
        return chosen


@dataclass(frozen=True)
class Description:
    """What generator.json says: all of a generator but its tensors.

    Attributes:
        settings, transform, types, provenance, grids: as for :class:`pcdiff.generator.Generator`.
        files: SHA-256 of each file of tensors, by name; once it was read, that of what generator.json says too.
    """

    settings: Settings
    transform: Transform
    types: tuple[float, ...]
    files: Mapping[str, str]
    provenance: Mapping[str, Any]
    grids: Mapping[int, tuple[float, ...]]

    def write(self, folder: Path) -> None:
        """Write it into the folder of a generator.

        Raises:
            ModelError: the generator comes with pcdiff.
        """
        require_own(folder)
        settings = {part.name: getattr(self.settings, part.name).model_dump(mode="json") for part in fields(Settings)}
        about = {
            "transform": self.transform.to_dict(),
            "types": list(self.types),
            "grids": {str(steps): list(times) for steps, times in self.grids.items()},
            "provenance": dict(self.provenance),
        }
        tensors = {name: found for name, found in self.files.items() if name != DESCRIPTION}
        head = {"format_version": FORMAT_VERSION, "pcdiff": pcdiff.__version__, "files": tensors}
        # As it comes back, so that the checksum is that of what is read: keys that are no text become text.
        content = json.loads(json.dumps(head | settings | about, allow_nan=False))
        write_json(folder / DESCRIPTION, content | {_CHECKSUM: _checksum(content)})

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read it from the folder of a generator.

        Raises:
            ModelError: of a newer format, damaged, or incomplete.
        """
        file = folder / DESCRIPTION
        data = read_json(file)
        version = data.get("format_version")
        if not isinstance(version, int):
            raise ModelError(f"{file}: has no format_version; expected a generator written by pcdiff")
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{file}: has format version {version}, this pcdiff {pcdiff.__version__} reads up to {FORMAT_VERSION}; "
                "update pcdiff"
            )
        stated = data.pop(_CHECKSUM, None)
        if stated != _checksum(data):
            raise ModelError(f"{file}: is damaged: its SHA-256 is not the one that it states")
        try:
            settings = Settings(
                net=TypeAdapter(NetConfig).validate_python(data["net"]),
                schedule=ScheduleConfig.model_validate(data["schedule"]),
                multiplicity=MultiplicityConfig.model_validate(data["multiplicity"]),
                sampling=SamplingConfig.model_validate(data["sampling"]),
                # Format version 1 has neither this nor grids.
                denoiser=DenoiserConfig.model_validate(data.get("denoiser", {})),
            )
            check_description(data["provenance"], file)
            return cls(
                settings=settings,
                transform=Transform.from_dict(data["transform"]),
                types=tuple(map(float, data["types"])),
                files={**data["files"], DESCRIPTION: stated},
                provenance=dict(data["provenance"]),
                grids={int(steps): tuple(map(float, times)) for steps, times in data.get("grids", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(f"{file}: not a complete generator: {one_line(error, 300)}") from error


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of what generator.json says, as JSON without spaces, keys in order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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


def net_of(settings: Settings, transform: Transform) -> nn.Module:
    """An untrained net for clouds of this transform."""
    channels = transform.channels
    return build_net(settings.net, len(channels), transform.conditions, channels, transform.torus)


def build_denoiser(settings: Settings, transform: Transform) -> Denoiser:
    """An untrained denoiser for clouds of this transform."""
    net = net_of(settings, transform)
    about = settings.denoiser
    return Denoiser(
        Potential(net) if about.potential else net,
        build_schedule(settings.schedule),
        parametrisation=about.parametrisation,
        dimension=about.dimension,
        heads=_heads(transform),
    )


def _heads(transform: Transform) -> list[Head]:
    """What reads the net's output for categorical features, and for positions in a periodic box."""
    heads: list[Head] = []
    if transform.combinations is not None:
        names = transform.combinations.names
        channels = [i for i, name in enumerate(transform.channels) if name in names]
        words, shares = transform.combinations.words(transform.points), transform.combinations.shares
        heads.append(CategoryHead(torch.tensor(channels), torch.from_numpy(words), torch.tensor(shares)))
    if transform.torus is not None:
        heads.append(TorusHead(torch.tensor(transform.torus.positions), transform.torus.period))
    return heads


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file, each tensor in its own precision; returns its SHA-256."""
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    # Safetensors' own way to a file leaves it to the owner alone, whatever the umask says.
    file.write_bytes(content)
    return sha256(file)


def read_tensors(folder: Path, name: str, files: Mapping[str, str]) -> dict[str, Tensor]:
    """Stored tensors, their checksum verified.

    Raises:
        ModelError: the file is missing or damaged.
    """
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
        raise ModelError(f"{path}: not a safetensors file: {one_line(error, 300)}") from error


def check_sizes(settings: Settings, transform: Transform, tensors: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """Refuse settings of models that have more numbers than their files, before memory is taken for them.

    Args:
        settings, transform: of the generator.
        tensors: what the files of the net and of the multiplicity model hold, by their names.

    Raises:
        ModelError: a model is larger.
    """
    with torch.device("meta"):
        net = sum(value.numel() for value in net_of(settings, transform).state_dict().values())
    about = settings.multiplicity
    # Each layer of a flow has a square matrix of this width, which cannot be laid out without memory.
    flow = about.layers * about.hidden**2 if about.kind == "flow" else 0
    for (file, found), declared in zip(tensors.items(), (net, flow), strict=True):
        held = sum(value.numel() for value in found.values())
        if declared > held:
            raise ModelError(f"{file}: holds {held:,} numbers, expected at least {declared:,} as {DESCRIPTION} says")


def weights_of(denoiser: Denoiser) -> dict[str, Tensor]:
    """The net's weights, and those of a schedule that was learned with it."""
    tensors = dict(denoiser.net.state_dict())
    if isinstance(denoiser.schedule, nn.Module):
        tensors |= {_SCHEDULE + name: value for name, value in denoiser.schedule.state_dict().items()}
    return tensors


def load_denoiser(denoiser: Denoiser, tensors: Mapping[str, Tensor]) -> None:
    """Take what :func:`weights_of` gave; weights that were stored in half precision become those of the net in single precision.

    Raises:
        ModelError: they are of another net or schedule.
    """
    schedule = {name.removeprefix(_SCHEDULE): v for name, v in tensors.items() if name.startswith(_SCHEDULE)}
    try:
        denoiser.net.load_state_dict({name: v for name, v in tensors.items() if not name.startswith(_SCHEDULE)})
        if isinstance(denoiser.schedule, nn.Module):
            denoiser.schedule.load_state_dict(schedule)
    except RuntimeError as error:
        raise ModelError(f"denoiser.safetensors does not fit generator.json: {one_line(error, 300)}") from error
