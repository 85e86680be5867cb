"""One training on many processes, each with a device of its own, on one node or several.

Every process walks the same order of batches and draws the same numbers for each. Of the clouds of a batch it computes its share, each
so-many-th of them: as clouds of a batch are sorted by size, shares are alike in points. The gradients are summed over the processes, and clipping, optimiser
and moving average are then computed alike on all, so that the weights stay the same bit for bit. So any number of processes do what one does,
up to the order in which the gradients of clouds are added up. Process 0 alone writes.

``DistributedDataParallel`` of torch is not used. It averages gradients over the processes, where here clouds must count alike whichever process has how many
of them; a process whose share of a small batch is empty has to be hidden from it; and it knows neither gradients of only some parameters, as a learned
schedule has, nor that a step of one process is not finite, nor that one was asked to stop. All of this is one sum of one flat buffer. What
DistributedDataParallel would win, sending while gradients are still being computed, is little for nets of about a million weights.

``torchrun`` and ``srun`` tell each process in its environment who it is, see :meth:`World.here`.
"""

from __future__ import annotations

import atexit
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from pcdiff.bundle import pick_device
from pcdiff.errors import PcdiffError, one_line
from pcdiff.loop import STOPPING

__all__ = ["ALONE", "World"]

T = TypeVar("T")

# Who a process is: number, number of all, number on its node.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
# Where the processes meet.
_MEETING = ("MASTER_ADDR", "MASTER_PORT")

# What torchrun calls itself where it was given no --rdzv-id. Its processes are its children.
_UNNAMED = "none"

_TO_MEET = timedelta(minutes=10)
# The others wait for process 0 while it fits the model of the number of points, or compares at the end. When a process is lost, its launcher ends the rest.
_TO_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """The processes of a training, and which of them this is.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: number of this process on its node, from 0.
        launcher: ``torchrun`` or ``srun``; None for a process that none of them started.
        job: names the ``torchrun`` that started the processes, the same after it has started them again; else None.
        restarted: whether it has, after it lost one of them.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str | None = None
    job: str | None = None
    restarted: bool = False

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> World:
        """Who this process is by its environment.

        - ``torchrun`` sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; TORCHELASTIC_RESTART_COUNT, which is above 0 after a restart, and
          TORCHELASTIC_RUN_ID, which is its ``--rdzv-id``;
        - ``srun`` sets SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID. They are read where MASTER_ADDR and MASTER_PORT are set besides, which is for
          the job script to do; without MASTER_ADDR each task of ``srun`` is a process by itself.

        Args:
            environment: that of the process when absent.

        Raises:
            PcdiffError: some of these are missing or no numbers.
        """
        environment = os.environ if environment is None else environment
        started = [name for name in _TORCHRUN[:2] if name in environment]
        tasks = environment.get(_SRUN[1], "1")
        if started:
            launcher, names = "torchrun", _TORCHRUN
        elif tasks != "1" and "MASTER_ADDR" in environment:
            launcher, names = "srun", _SRUN
        else:
            return cls()
        missing = [name for name in (*names, *_MEETING) if name not in environment]
        if missing:
            raise PcdiffError(
                f"the environment has {(started or ['MASTER_ADDR'])[0]}, which says that this is one of several processes of a training, but not "
                f"{', '.join(missing)}; start it with torchrun or as docs/how-to/distributed.md says, or unset {(started or ['MASTER_ADDR'])[0]}"
            )
        numbers = {name: environment[name] for name in names}
        if not all(value.isdecimal() for value in numbers.values()):
            raise PcdiffError(f"the environment has {_listed(numbers)}; expected whole numbers from 0")
        rank, size, local_rank = (int(value) for value in numbers.values())
        if rank >= size:
            raise PcdiffError(f"the environment has {_listed(numbers)}; expected {names[0]} below {names[1]}")
        if launcher != "torchrun":
            return cls(rank, size, local_rank, launcher)
        job = environment.get("TORCHELASTIC_RUN_ID", _UNNAMED)
        if job == _UNNAMED:
            job = f"{platform.node()} {os.getppid()}"
        restarted = environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        return cls(rank, size, local_rank, launcher, job, restarted)

    @classmethod
    def joined(cls) -> World:
        """That of :meth:`here`, after the processes have met.

        Raises:
            PcdiffError: the environment is wrong, or the others did not come within ten minutes.
        """
        world = cls.here()
        if world.size > 1 and not torch.distributed.is_initialized():
            # Not every build of torch has it.
            from torch.distributed.rendezvous import rendezvous

            # What processes tell each other apart from gradients lies in the memory of the CPU.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "cpu:gloo"
            try:
                store, *_ = next(rendezvous("env://", world.rank, world.size, timeout=_TO_MEET))
                torch.distributed.init_process_group(
                    backend, store=store, timeout=_TO_WAIT, rank=world.rank, world_size=world.size
                )
            except (RuntimeError, ValueError, OSError) as error:
                where = ":".join(os.environ[name] for name in _MEETING)
                raise PcdiffError(
                    f"process {world.rank} of {world.size} did not meet the others at MASTER_ADDR:MASTER_PORT = {where}: {one_line(error)}"
                ) from error
            # Once for the process, which may train again.
            atexit.register(torch.distributed.destroy_process_group)
        return world

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process by the name in a config: of CUDA devices the one of its number on its node.

        Raises:
            PcdiffError: there is none for it.
        """
        if self.size == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return pick_device(name)
        if name not in ("auto", "cuda"):
            raise PcdiffError(
                f"device {name!r} is one for all {self.size} processes; expected cuda, of which each takes its own, or cpu"
            )
        count = torch.cuda.device_count()
        if not count:
            # Which says so.
            return pick_device("cuda")
        # SLURM may show each task its own GPU only.
        index = 0 if self.launcher == "srun" and count == 1 else self.local_rank
        if index >= count:
            raise PcdiffError(
                f"process {self.rank} is the one numbered {index}, from 0, on its node, which has {count} GPUs; start one process a GPU, or set device=cpu"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def share(self, count: int, pieces: int = 1) -> Iterator[slice]:
        """Which rows of a batch this process computes, in so many pieces one after the other; empty ones are left out.

        >>> [list(range(7))[rows] for rows in World(rank=1, size=2).share(7, pieces=2)]
        [[1, 5], [3]]
        """
        total = self.size * pieces
        for first in range(self.rank, min(count, total), self.size):
            yield slice(first, None, total)

    def summed(self, parameters: Iterable[nn.Parameter], loss: Tensor, requests: list[int]) -> tuple[Tensor, list[int]]:
        """Sum the gradients and the loss over the processes; a value that is not finite on one is so on all.

        Args:
            parameters: of the model, on one device; their gradients are replaced by the sums. One without a gradient on any process keeps none.
            loss: a number.
            requests: the signals of :data:`pcdiff.loop.STOPPING` that this process got.

        Returns:
            The loss, and the signals that any process got until now.
        """
        if self.size == 1:
            return loss, requests
        given = [parameter for parameter in parameters if parameter.requires_grad]
        device = given[0].device
        there = [float(parameter.grad is not None) for parameter in given]
        asked = [float(number in requests) for number in STOPPING]
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in given]
        flags = torch.tensor([*there, *asked], device=device)
        buffer = torch.cat([*gradients, flags, loss.detach().reshape(1).to(flags)])
        self._sum(buffer)
        *parts, flags, loss = torch.split(buffer, [*(len(gradient) for gradient in gradients), len(flags), 1])
        known = flags.tolist()
        for parameter, part, found in zip(given, parts, known, strict=False):
            parameter.grad = part.view_as(parameter) if found else None
        return loss[0], [int(number) for number, flag in zip(STOPPING, known[len(given) :], strict=True) if flag]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of some numbers over the processes."""
        if self.size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64)
        self._sum(buffer)
        return [float(value) for value in buffer]

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.total([0.0])

    def sent(self, value: T) -> T:
        """What process 0 has."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.main else None]
        with self._contact():
            torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        found: T = box[0]
        return found

    def require_same(self, what: str, value: str) -> None:
        """Refuse to go on where processes differ in what they must agree on.

        Raises:
            PcdiffError: they do.
        """
        found = self._gathered(value)
        others = [str(rank) for rank, theirs in enumerate(found) if theirs != found[0]]
        if others:
            raise self.once(
                PcdiffError(
                    f"{what} of process {', '.join(others)} of {self.size} is not that of process 0; expected the same on all"
                )
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error of the user's input in this block on some process ends all; one of them says it."""
        own = None
        try:
            yield
        except PcdiffError as error:
            own = error
        failed = [rank for rank, whether in enumerate(self._gathered(own is not None)) if whether]
        if not failed:
            return
        if own is not None and failed[0] == self.rank:
            raise own
        raise _silent()

    def once(self, error: PcdiffError) -> BaseException:
        """What to raise where all processes have the same error: process 0 says it, the others end with the same exit code."""
        return error if self.main else _silent()

    def _gathered(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._contact():
            torch.distributed.all_gather_object(found, value)
        return found

    def _sum(self, buffer: Tensor) -> None:
        with self._contact():
            torch.distributed.all_reduce(buffer)

    @contextmanager
    def _contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise PcdiffError(
                f"process {self.rank} of {self.size} lost contact to another, which has ended ({one_line(error, 120)})"
            ) from error


ALONE = World()
"""One process by itself."""


def _silent() -> SystemExit:
    """The end of a process whose error another one says."""
    return SystemExit(2)


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
