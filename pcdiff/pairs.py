"""What a generator is taught with that shall do with a few steps: trajectories that another generator solved, from noise to clouds.

    FOLDER/NAME_000000.safetensors   the first 16,384 clouds; and so on

Each file holds ``states`` (P, S * F), the S kept states of all points one after the other, ``counts`` (n,) and ``cond`` (n, C), and in its
metadata the SHA-256 of their names, types, shapes and values. It is written whole or not at all, and one that is there already is not made again, so that a killed run goes on where it stood.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from pcdiff.clouds import offsets_of
from pcdiff.config import SamplingConfig
from pcdiff.diffusion import SAMPLERS, Prediction
from pcdiff.errors import DataError, ModelError, one_line
from pcdiff.files import atomic_file, require_space
from pcdiff.generator import Generator
from pcdiff.noise import BLOCK
from pcdiff.sampling_loop import Solver, pieces, workers
from pcdiff.transforms import Encoded

__all__ = ["kept_times", "make_pairs", "read_pairs", "states_of"]

Tensors = dict[str, npt.NDArray[np.generic]]

# What each file holds, and where its metadata have the checksum.
_TYPES: dict[str, np.dtype[Any]] = {
    "states": np.dtype(np.float32),
    "counts": np.dtype(np.int64),
    "cond": np.dtype(np.float32),
}
_CHECKSUM = "sha256"

_AGAIN = "remove it, and --resume makes it again"

# Clouds in a file: what is held in memory while they are made.
_SHARD = 16 * BLOCK


def kept_times(chosen: SamplingConfig, steps: int) -> tuple[int, ...]:
    """Which states of a sampler a student of fewer steps learns from: each of its steps stands for equally many, or one more.

    A grid that is fitted to the teacher (``pcdiff grid``) thus shares its work evenly among the steps of the student.

    Args:
        chosen: the sampler of the teacher, as :meth:`pcdiff.Generator.choose` gives it.
        steps: number of steps of the student.

    Returns:
        steps + 1 rising positions in the sampler's grid.

    Raises:
        DataError: the sampler has fewer steps than the student, or it draws noise: there is no trajectory to learn.

    >>> kept_times(SamplingConfig(steps=20).resolved(), 5), kept_times(SamplingConfig(steps=5).resolved(), 2)
    ((0, 4, 8, 12, 16, 20), (0, 2, 5))
    """
    if SAMPLERS[chosen.sampler].stochastic and chosen.options.get("eta", 1):
        raise DataError(
            f"sampler = {chosen.sampler!r}: draws noise along the way, so a cloud is not a function of its noise; expected a sampler of the "
            "ODE: ddim with eta 0, unipc, euler, heun or rk45"
        )
    if chosen.steps < steps:
        raise DataError(f"steps = {chosen.steps}; expected at least the student's {steps}")
    return tuple(k * chosen.steps // steps for k in range(steps + 1))


def make_pairs(
    generator: Generator,
    folder: Path,
    name: str,
    n: int,
    *,
    seed: int,
    chosen: SamplingConfig,
    kept: tuple[int, ...],
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> None:
    """Solve the ODE of a generator for clouds of its own multiplicity model, and store where the trajectories passed.

    Args:
        generator: the teacher.
        folder: for the files.
        name: what their names begin with.
        n: number of clouds.
        seed: of the clouds, as for :meth:`pcdiff.Generator.sample`.
        chosen: the sampler, as :meth:`pcdiff.Generator.choose` gives it.
        kept: which states are stored, by their position in the sampler's grid; the last is the end.
        device: to solve on.
        part: (k, m): make the files k, k + m, k + 2 m, ..., so that m processes make them all.
        progress: called now and then with the number of clouds that were added.

    Raises:
        DataError: the disk has no room.
        ModelError: the output of the net is not finite.
    """
    solver = Solver(generator.denoiser.to(device), chosen, generator.grid(chosen), seed, device)
    with workers(solver.threads) as pool:
        for start in range(part[0] * _SHARD, n, part[1] * _SHARD):
            size, file = min(_SHARD, n - start), _file(folder, name, start)
            if not file.exists():
                tensors = _solved(generator, start, size, solver, kept, pool, progress)
                require_space(file, sum(values.nbytes for values in tensors.values()))
                with atomic_file(file) as temporary:
                    temporary.write_bytes(safetensors.numpy.save(tensors, {_CHECKSUM: _checksum(tensors)}))
            elif progress is not None:
                progress(size)


def read_pairs(folder: Path, name: str, n: int) -> Encoded:
    """What :func:`make_pairs` stored, as clouds whose point features are those of all states one after the other.

    Raises:
        DataError: a file is missing or damaged, or is not one of so many clouds.
    """
    parts = [_read(_file(folder, name, start), min(_SHARD, n - start)) for start in range(0, n, _SHARD)]
    widths = [(part["states"].shape[1], part["cond"].shape[1]) for part in parts]
    for i, width in enumerate(widths):
        if width != widths[0]:
            raise DataError(
                f"{_file(folder, name, i * _SHARD)}: holds states and cond of {width} columns, the first file {widths[0]}; {_AGAIN}"
            )
    points, counts, cond = (np.concatenate([part[key] for part in parts]) for key in _TYPES)
    return Encoded(points, offsets_of(counts), cond)


def _read(file: Path, size: int) -> Tensors:
    """What a file holds, its checksum verified.

    Raises:
        DataError: it is missing, damaged, or not one of so many clouds.
    """
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
            stated = (opened.metadata() or {}).get(_CHECKSUM)
    except (OSError, safetensors.SafetensorError, TypeError) as error:
        raise DataError(f"{file}: cannot be read; {_AGAIN} ({one_line(error)})") from error
    if stated != _checksum(tensors):
        raise DataError(f"{file}: is damaged: its SHA-256 is not the one that it states; {_AGAIN}")
    found: dict[str, np.dtype[Any]] = {key: values.dtype for key, values in tensors.items()}
    if found != _TYPES:
        raise DataError(f"{file}: holds {_shown(found)}, expected {_shown(_TYPES)}; {_AGAIN}")
    states, counts, cond = (tensors[key] for key in _TYPES)
    rows = (int(counts.sum()), size)
    if counts.shape != (size,) or (states.ndim, cond.ndim) != (2, 2) or (len(states), len(cond)) != rows:
        raise DataError(
            f"{file}: holds {counts.size} counts of {counts.sum()} points in all, states {states.shape} and cond {cond.shape}; "
            f"expected those of {size} clouds; {_AGAIN}"
        )
    return tensors


def _shown(types: Mapping[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{key} ({kind})" for key, kind in types.items()) or "nothing"


def _checksum(tensors: Tensors) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for key, values in sorted(tensors.items()):
        digest.update(f"{key} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def states_of(x: Tensor, width: int) -> list[Tensor]:
    """The states, each of shape (B, N, F), of a batch of such clouds, shape (B, N, S * F).

    Args:
        x: the batch.
        width: F.
    """
    return list(torch.split(x, width, dim=-1))


def _file(folder: Path, name: str, start: int) -> Path:
    return folder / f"{name}_{start // _SHARD:06d}.safetensors"


def _solved(
    generator: Generator,
    start: int,
    size: int,
    solver: Solver,
    kept: tuple[int, ...],
    pool: Executor,
    progress: Callable[[int], None] | None,
) -> Tensors:
    """The tensors of one file."""
    found = generator.conditions(start, size, solver.seed)
    noise, mask, cond = generator.batch(start, found, solver.seed)
    counts, offsets = found.counts, offsets_of(found.counts)
    out = np.empty((int(offsets[-1]), len(kept) * noise.shape[2]), np.float32)

    def run(index: npt.NDArray[np.int64]) -> int:
        largest = int(counts[index].max())
        states: list[Tensor] = []

        def look(step: int, _: Tensor, x: Tensor, __: Prediction) -> None:
            if step in kept:
                states.append(x)

        part = noise[index, :largest], mask[index, :largest], cond[index]
        end = solver(*part, start + index, look)
        inside = part[1].numpy()
        rows = (offsets[index][:, None] + np.arange(largest))[inside]
        out[rows] = torch.cat([*states, end], dim=-1).cpu().numpy()[inside]
        return len(index)

    parts = pieces(np.argsort(counts, kind="stable"), counts, solver.device)
    for done in [pool.submit(run, index) for index in parts]:
        made = done.result()
        if progress is not None:
            progress(made)
    if not np.isfinite(out).all():
        raise ModelError("the teacher's output is not finite; train it longer or sample it with more steps")
    return {"states": out, "counts": counts, "cond": cond.numpy()}
