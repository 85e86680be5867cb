"""Commands of pcdiff as processes of their own, which are killed at a given moment.

Moments are in seconds of processor time, so that they do not depend on what else the machine does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

__all__ = ["Ended", "Kill", "Way", "environment", "members", "run"]

Way = Literal["SIGKILL", "SIGTERM", "SIGINT twice"]

# Seconds on the clock: between two looks at the folder and at processes, those that a process has to end after it was asked to, and for the change that a kill waits for.
# Of two SIGINT that come during one call of a C function Python sees one.
_PAUSE, _NEW_PROCESSES, _PATIENCE, _LONGEST_AIM = 0.02, 0.2, 120.0, 10.0
# How processes end by signals; 0 where the signal came when all was done.
_CODES: dict[Way, tuple[int, ...]] = {
    "SIGKILL": (-signal.SIGKILL, 0),
    "SIGTERM": (-signal.SIGTERM, 128 + signal.SIGTERM, 0),
    # The second may come when Python has let go of the first.
    "SIGINT twice": (-signal.SIGINT, 128 + signal.SIGINT, 1, 0),
}


@dataclass(frozen=True)
class Kill:
    """What ends a command.

    Attributes:
        way: the signals.
        begun: whether ``wait`` counts from the first change that the command makes in its folder, or from its start.
        wait: seconds of processor time.
        aimed: whether it comes at the next change in the folder after that moment, such as a file that gets its name.
        everyone: whether all processes of the command get the signal, as from a batch system, or the first alone.
        pause: seconds on the clock between the two of ``SIGINT``, which all processes get, as from a terminal.
    """

    way: Way
    begun: bool
    wait: float
    aimed: bool
    everyone: bool
    pause: float


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        killed: whether it was still at work when its kill came.
        code: its exit code.
        begun: seconds of processor time until it first changed something in its folder.
        seconds: likewise, until it ended, or was killed.
        output: what it said.
        problems: what is not as it should be.
    """

    killed: bool
    code: int
    begun: float
    seconds: float
    output: str
    problems: tuple[str, ...]


def environment() -> dict[str, str]:
    """That of each command: one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(words: Sequence[str], folder: Path, kill: Kill | None = None) -> Ended:
    """Run Python with these words in a folder until it ends by itself or is killed."""
    before = _changes(folder)
    begun: float | None = None
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        used, now, killed = _Used(process.pid), 0.0, False
        while process.poll() is None:
            now = used.seconds()
            if begun is None and _changes(folder) != before:
                begun = now
            since = now if kill is None or not kill.begun else -1.0 if begun is None else now - begun
            if kill is not None and since >= kill.wait:
                killed = _strike(process, folder, kill)
                break
            time.sleep(_PAUSE)
        problems = []
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            problems.append(f"lived on for {_PATIENCE:.0f} s")
        problems += _left(process.pid)
        code = process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    if code not in ((0,) if kill is None or not killed else _CODES[kill.way]):
        problems.append(f"ended with exit code {code}")
    # Before the command has begun Python itself may be importing, and says so.
    if kill is not None and kill.begun and "Traceback" in output and "KeyboardInterrupt" not in output:
        problems.append("ended with a traceback")
    return Ended(killed, code, now if begun is None else begun, now, output, tuple(problems))


class _Used:
    """The processor time of a process and those that it has started."""

    def __init__(self, pid: int) -> None:
        self._first = psutil.Process(pid)
        self._seconds = {self._first: 0.0}
        self._looked = time.monotonic()

    def seconds(self) -> float:
        """Until now; of processes that have ended, until they were last seen."""
        with suppress(psutil.Error):
            if time.monotonic() - self._looked > _NEW_PROCESSES:
                self._looked = time.monotonic()
                for child in self._first.children(recursive=True):
                    self._seconds.setdefault(child, 0.0)
        for process in self._seconds:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process] = times.user + times.system
        return sum(self._seconds.values())


def members(group: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def _strike(process: subprocess.Popen[bytes], folder: Path, kill: Kill) -> bool:
    """Send the signals; returns whether the process was there to get them."""
    if kill.aimed:
        before, start = _changes(folder), time.monotonic()
        while process.poll() is None and _changes(folder) == before and time.monotonic() - start < _LONGEST_AIM:
            time.sleep(_PAUSE / 10)
    if process.poll() is not None:
        return False
    number = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT twice": signal.SIGINT}[kill.way]
    for again in range(2 if number == signal.SIGINT else 1):
        if again:
            time.sleep(kill.pause)
        try:
            if kill.everyone or number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        except ProcessLookupError:
            break
    return True


def _left(group: int) -> list[str]:
    """What is wrong where processes of the command live on; they are ended."""
    start = time.monotonic()
    while left := members(group):
        if time.monotonic() - start > _PATIENCE:
            os.killpg(group, signal.SIGKILL)
            return [f"{len(left)} of its processes lived on for {_PATIENCE:.0f} s"]
        time.sleep(0.02)
    return []


def _changes(folder: Path) -> list[tuple[str, int]]:
    """Changes whenever a file or folder within appears, goes or gets another name."""
    found = []
    try:
        found.append((str(folder), folder.stat().st_mtime_ns))
        with os.scandir(folder) as entries:
            inside = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return found
    for each in sorted(inside):
        found += _changes(each)
    return found
