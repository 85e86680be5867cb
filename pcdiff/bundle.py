"""What a generator is built from: its settings, and its tensors, written with a checksum and verified on reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pcdiff.config import (
    DenoiserConfig,
    EpicConfig,
    GraphConfig,
    MultiplicityConfig,
    SamplingConfig,
    ScheduleConfig,
    TransformerConfig,
)
from pcdiff.diffusion import SAMPLERS, Denoiser, Potential, build_schedule
from pcdiff.errors import DataError, ModelError, PcdiffError
from pcdiff.files import sha256
from pcdiff.nets import build_net
from pcdiff.transforms import Transform

__all__ = [
    "NetConfig",
    "Settings",
    "build_denoiser",
    "load_denoiser",
    "one_line",
    "pick_device",
    "read_tensors",
    "weights_of",
    "write_tensors",
]

NetConfig = EpicConfig | TransformerConfig | GraphConfig

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
    about = settings.denoiser
    return Denoiser(
        Potential(net) if about.potential else net,
        build_schedule(settings.schedule),
        parametrisation=about.parametrisation,
        dimension=about.dimension,
    )


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file; returns its SHA-256."""
    safetensors.torch.save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file)
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
        raise ModelError(f"{path}: not a safetensors file: {one_line(error)}") from error


def weights_of(denoiser: Denoiser) -> dict[str, Tensor]:
    """The net's weights, and those of a schedule that was learned with it."""
    tensors = dict(denoiser.net.state_dict())
    if isinstance(denoiser.schedule, nn.Module):
        tensors |= {_SCHEDULE + name: value for name, value in denoiser.schedule.state_dict().items()}
    return tensors


def load_denoiser(denoiser: Denoiser, tensors: Mapping[str, Tensor]) -> None:
    """Take what :func:`weights_of` gave.

    Raises:
        ModelError: they are of another net or schedule.
    """
    schedule = {name.removeprefix(_SCHEDULE): v for name, v in tensors.items() if name.startswith(_SCHEDULE)}
    try:
        denoiser.net.load_state_dict({name: v for name, v in tensors.items() if not name.startswith(_SCHEDULE)})
        if isinstance(denoiser.schedule, nn.Module):
            denoiser.schedule.load_state_dict(schedule)
    except RuntimeError as error:
        raise ModelError(f"denoiser.safetensors does not fit generator.json: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The text of an error, short and on one line."""
    return " ".join(str(error).split())[:300]
