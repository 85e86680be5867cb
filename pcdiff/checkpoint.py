"""Checkpoints: everything that the rest of a run depends on, written whole or not at all, and never unpickled.

    RUN/checkpoints/step_00001000/state.safetensors   weights, their moving average, the optimiser's moments
    RUN/checkpoints/step_00001000/state.json          counters, and the checksum of the tensors

Nothing random is stored: what a step draws depends only on (seed, step), and the order of the data on (seed, epoch).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from pcdiff.errors import DataError, ModelError, one_line
from pcdiff.files import atomic_folder, read_json, remove_folder, sha256, write_json
from pcdiff.optimisers import Optimiser

__all__ = ["Counters", "checksum", "load_newest", "restore", "save", "tensors_of"]

FORMAT_VERSION = 1

_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """Where a run stands.

    Attributes:
        step: optimiser steps done, skipped ones included.
        epoch, batch: the next batch.
        skipped: steps skipped so far because loss or gradient was not finite.
        skipped_in_a_row: those since the last good step.
        loss_sum, loss_count: losses of the clouds since the last line of metrics, and their number.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0


def save(run: Path, counters: Counters, model: nn.Module, ema: nn.Module, optimiser: Optimiser, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest ``keep``."""
    folder = run / "checkpoints" / f"step_{counters.step:08d}"
    with atomic_folder(folder) as temporary:
        file = temporary / "state.safetensors"
        safetensors.torch.save_file(tensors_of(model, ema, optimiser), file)
        write_json(
            temporary / "state.json",
            {"format_version": FORMAT_VERSION, "counters": asdict(counters), "sha256": sha256(file)},
        )
    folders = _folders(run)
    here = folders.index(folder)
    # Newer ones were damaged, or this one would not have been started from: they must not count as kept.
    for old in [*folders[:here], *folders[here + keep :]]:
        remove_folder(old)
    return folder


def load_newest(run: Path, model: nn.Module, ema: nn.Module, optimiser: Optimiser) -> Counters | None:
    """Restore the newest checkpoint that is whole; None where the run has none.

    A damaged one is passed over with a warning.

    Raises:
        ModelError: there are checkpoints, and none is whole; the newest whole one is of a newer format or of another net.
    """
    folders = _folders(run)
    for folder in folders:
        try:
            counters, tensors = _read(folder)
        except DataError as error:
            _log.warning("%s; it is passed over", error)
            continue
        restore(str(folder), tensors, model, ema, optimiser)
        return counters
    if folders:
        raise ModelError(
            f"{run / 'checkpoints'}: none of the checkpoints in it is whole; restore one from a copy, or remove this folder to train from "
            "the beginning"
        )
    return None


def checksum(model: nn.Module) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _folders(run: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    found = [folder for folder in (run / "checkpoints").glob("step_*") if folder.name[5:].isdecimal()]
    return sorted(found, key=lambda folder: int(folder.name[5:]), reverse=True)


def _read(folder: Path) -> tuple[Counters, dict[str, Tensor]]:
    data = read_json(folder / "state.json")
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise DataError(
            f"{folder / 'state.json'}: is damaged (format version is {version!r:.60}, expected a whole number)"
        )
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{folder / 'state.json'}: has format version {version}, expected at most {FORMAT_VERSION}; update pcdiff"
        )
    file = folder / "state.safetensors"
    try:
        if not file.is_file() or sha256(file) != data.get("sha256"):
            raise DataError(f"{file}: is missing or damaged (its SHA-256 is not the one in state.json)")
        return _counters(data["counters"]), safetensors.torch.load_file(file)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({one_line(error)})") from error
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise DataError(f"{folder}: is damaged ({one_line(error)})") from error


def _counters(stored: dict[str, Any]) -> Counters:
    found = Counters(**stored)
    for each in fields(Counters):
        value = getattr(found, each.name)
        if isinstance(value, bool) or not isinstance(value, (int, float) if each.type == "float" else int) or value < 0:
            raise ValueError(f"{each.name} is {value!r:.60}, expected a number that is not negative")
    return found


def tensors_of(model: nn.Module, ema: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, copies on the CPU."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    tensors |= {f"optimiser.{name}": value for name, value in optimiser.moments().items()}
    # Clones: tensors that share memory, as tied weights do, are refused by the format.
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def restore(where: str, tensors: dict[str, Tensor], model: nn.Module, ema: nn.Module, optimiser: Optimiser) -> None:
    """Take what :func:`tensors_of` gave.

    Args:
        where: they come from, which the error names.
        tensors: of the same net.
        model, ema, optimiser: that take them.

    Raises:
        ModelError: they are of another net.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        model.load_state_dict(part("model."))
        ema.load_state_dict(part("ema."))
    except RuntimeError as error:
        raise ModelError(f"{where}: is of another net than the config's: {one_line(error, 200)}") from error
    optimiser.load_moments(part("optimiser."))
