"""What tests of distributed training run in each of two processes: ``python -m tests.two_processes FOLDER``.

All of it in one pair of processes, since starting them takes longer. Each says what it saw in FOLDER/seen_RANK.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pcdiff import denoising, training
from pcdiff.config import Config
from pcdiff.distill import distill
from pcdiff.distributed import World
from pcdiff.errors import PcdiffError

from . import test_distill
from .test_objectives_training import variant
from .test_training import config

Files = tuple[Path, Path]


def uneven(files: Files, output: Path) -> Config:
    """Batches of one to a few clouds, so that a process often has none; few steps."""
    settings = config(files, output)
    about = settings.training.model_copy(update={"points_per_batch": 13, "steps": 25})
    return settings.model_copy(update={"training": about})


def accumulated(files: Files, output: Path, pieces: int) -> Config:
    """A learned schedule, hidden conditions: all that is drawn or learned by the batch."""
    settings = variant(files, output, "learned", 15)
    about = settings.training.model_copy(update={"accumulate": pieces})
    hidden = settings.denoiser.model_copy(update={"drop_conditions": 0.3})
    return settings.model_copy(update={"training": about, "denoiser": hidden})


def outcome(run: Callable[[], object]) -> str:
    """How a training ended, in words."""
    try:
        run()
    except PcdiffError as error:
        return f"error: {error}"
    except KeyboardInterrupt as stop:
        return f"interrupted: {stop}"
    except SystemExit as stop:
        return f"exit {stop.code}"
    return "done"


class _Patched:
    """Something happens on one process just after one step."""

    def __init__(self, rank: int, at: int, happens: Callable[[torch.nn.Module], None]) -> None:
        self.rank, self.at, self.happens = rank, at, happens
        self.step = training.step

    def __enter__(self) -> None:
        def patched(*arguments: Any) -> tuple[float, list[int]]:
            found = self.step(*arguments)
            if arguments[-1].step == self.at and World.here().rank == self.rank:
                self.happens(arguments[0])
            return found

        training.step = patched

    def __exit__(self, *_: object) -> None:
        training.step = self.step


def _disturbed(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)


def _interrupted(model: torch.nn.Module) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _asked_to_stop(*_: object) -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("went on")


def main(folder: Path) -> None:
    """All of it; the data lie in the folder."""
    world = World.joined()
    files, here = (folder / "train.parquet", folder / "validation.parquet"), folder / "pair"
    seen: dict[str, Any] = {}
    written: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # What is opened with O_TMPFILE has no name, and nobody sees it.
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        nameless = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_TMPFILE == os.O_TMPFILE
        if (writes and not nameless) or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    training.train(config(files, here / "plain"), progress=False)
    seen["written"] = [line for line in written if str(here) in line]

    training.train(uneven(files, here / "uneven"), progress=False)
    training.train(accumulated(files, here / "accumulated", 3), progress=False)

    settings = config(files, here / "stopped")
    with _Patched(1, 25, _interrupted):
        seen["stopped"] = outcome(lambda: training.train(settings, progress=False))
    seen["handler"] = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    seen["checkpoints"] = sorted(path.name for path in (here / "stopped" / "checkpoints").iterdir())
    world.wait()
    training.train(settings, resume=True, progress=False)

    losses = denoising.losses
    if world.rank == 1:
        denoising.losses = lambda model, drawn, settings: losses(model, drawn, settings) * float("nan")
    short = {**config(files, here).training.model_dump(), "validate_every": 100, "max_skipped": 5}
    settings = config(files, here / "not_finite", training=short)
    seen["not finite"] = outcome(lambda: training.train(settings, progress=False))
    denoising.losses = losses

    with _Patched(1, 5, _disturbed):
        seen["apart"] = outcome(lambda: training.train(config(files, here / "apart"), progress=False))

    if world.main:
        (here / "blocked" / "metrics.jsonl").mkdir(parents=True)
    seen["blocked"] = outcome(lambda: training.train(config(files, here / "blocked"), progress=False))

    compare = training._compare
    training._compare = _asked_to_stop
    settings = config(files, here / "compared", training={**short, "steps": 3, "compare": 10})
    seen["compared"] = outcome(lambda: training.train(settings, progress=False))
    training._compare = compare

    settings = config(files, here / "other", seed=3 + world.rank)
    seen["other config"] = outcome(lambda: training.train(settings, progress=False))
    lost = (files[0].with_name(f"absent_{world.rank}.parquet") if world.rank else files[0], files[1])
    seen["other data"] = outcome(lambda: training.train(config(lost, here / "lost"), progress=False))
    seen["there"] = outcome(lambda: training.train(config(files, here / "plain"), progress=False))
    settings = config(files, here / "cuda", device="cuda:1")
    seen["device"] = outcome(lambda: training.train(settings, progress=False))

    taught = test_distill.config(folder / "teacher", here / "distilled")
    distill(taught, progress=False)
    matched = taught.model_copy(update={"matching": 2.0, "output": str(here / "matched")})
    seen["matching"] = outcome(lambda: distill(matched, progress=False))
    (folder / f"seen_{world.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
