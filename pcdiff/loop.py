"""What a long loop shows of itself, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["STOPPING", "StepBar", "stop_requests"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what batch systems send before they take a node back, and a closed terminal."""


@contextmanager
def stop_requests(*, patient: bool = False, at_once: bool = False) -> Iterator[list[int]]:
    """A list that the signals of :data:`STOPPING` put their number into.

    Args:
        patient: a second signal does nothing, where it would end the loop at once. Launchers pass on what the processes got besides by themselves.
        at_once: the first signal leaves the block, after which the program goes on.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def request(number: int, frame: object) -> None:  # noqa: ARG001
        if requests and not patient:
            raise KeyboardInterrupt if requests[0] == signal.SIGINT else SystemExit(128 + requests[0])
        requests.append(number)
        if at_once and len(requests) == 1:
            raise _Left

    old = {number: signal.signal(number, request) for number in STOPPING}
    try:
        yield requests
    except _Left:
        pass
    except Exception:
        # Libraries in C may make an error of their own of what a signal raises within them.
        if not (at_once and requests):
            raise
    finally:
        at_once = False
        for number, handler in old.items():
            signal.signal(number, handler)


class _Left(BaseException):
    """Leaves the block of :func:`stop_requests`."""


class StepBar:
    """A progress bar of optimiser steps with loss, rate and time left.

    Args:
        name: of the run.
        steps: how many there are.
        done: how many were done before.
        shown: whether it is seen.
    """

    def __init__(self, name: str, steps: int, done: int, *, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[name]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} steps/s"),
            TextColumn("left"),
            TimeRemainingColumn(),
            expand=True,
            disable=not shown,
        )
        self._task = self._progress.add_task("train", total=steps, completed=done, name=name, loss="-", rate="-")
        self._last = (done, time.monotonic())

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, loss: float | None) -> dict[str, float]:
        """Show where the run stands; returns the rate since the last call."""
        now = time.monotonic()
        rate = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        shown = "-" if loss is None else f"{loss:.4f}"
        self._progress.update(self._task, completed=step, loss=shown, rate=f"{rate:.1f}")
        return {"steps_per_second": rate}
