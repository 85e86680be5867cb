"""A process that reads broken files, whose memory is limited, whose time is watched and who is seen at what it has no reason to do."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pcdiff.errors import PcdiffError
from tests.stress.bases import TARGETS, Base, Files
from tests.stress.mutations import mutate

__all__ = ["OUTCOMES", "Outcome", "Reader", "broken"]

# Memory beyond that of the interpreter with its libraries, and seconds of the processor, that a file of a few kB may take.
_MEMORY = 1 << 30
_SECONDS = 10

# Seconds after which a process that does not compute waits for ever.
_PATIENCE = 600

# What an outcome is called, and what it means; those behind "refused" must not happen.
OUTCOMES = {
    "read": "read",
    "refused": "refused in one line",
    "wrong": "wrong data",
    "other": "other error",
    "exhausted": "out of memory",
    "escape": "escape",
    "crash": "crash",
    "hang": "hang",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: a key of ``OUTCOMES``.
        detail: the error, for whoever looks for its cause.
        seconds, memory: what it took; seconds of the processor, memory in bytes.
    """

    kind: str
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0


def broken(target: str, bases: list[Base], index: int) -> tuple[Base, Files]:
    """File number ``index`` of a format: what it was made of, and its content."""
    base = bases[index % len(bases)]
    rng = random.Random(f"{target} {index}")
    name = rng.choice(base.changed or tuple(sorted(base.files)))
    return base, base.seal({**base.files, name: mutate(base.files[name], base.text, rng)})


# What a process that reads a file has no reason to do.
_FORBIDDEN = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"}
_FORBIDDEN |= {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.bind",
    "urllib.Request",
    "ctypes.dlopen",
    "shutil.rmtree",
}


class _Watch:
    """Notes what the interpreter does that a reader has no reason to."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self.on = False
        places = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev"}
        places |= {str(Path(__file__).parents[2]), *(place for place in sys.path if place), str(folder)}
        self._allowed = tuple(places)
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self._allowed):
                self.seen.append(f"open {path}")


def _serve(target: str, folder: Path, connection: Connection) -> None:
    """Reads the files whose numbers come through the connection."""
    log = os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    bases = next(known for known in TARGETS if known.name == target).bases()
    # What libraries load when they are first used is no growth; that whole files are read holds the fuzzer to its word.
    expected = [base.read(_written(base.seal(base.files), folder)) for base in bases]
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = _Watch(folder)
    connection.send("ready")
    while (index := connection.recv()) is not None:
        base, files = broken(target, bases, index)
        connection.send(_outcome(base, files, expected[index % len(bases)], folder, watch))


def _written(files: Files, folder: Path) -> Path:
    shutil.rmtree(folder / "case", ignore_errors=True)
    for name, content in files.items():
        path = folder / "case" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "case"


def _outcome(base: Base, files: Files, expected: object, folder: Path, watch: _Watch) -> Outcome:
    case = _written(files, folder)
    Path("/proc/self/clear_refs").write_text("5")
    before, start, detail = _status("VmRSS"), time.process_time(), ""
    watch.seen.clear()
    watch.on = True
    try:
        found = base.read(case)
        kind = "wrong" if base.exact and found != expected else "read"
        detail = f"{expected} became {found}" if kind == "wrong" else ""
    except Exception as error:  # noqa: BLE001 - any error is an outcome
        detail = "".join(traceback.format_exception(error))
        exhausted = any(isinstance(each, MemoryError) or "malloc" in str(each) for each in _chain(error))
        clear = isinstance(error, PcdiffError) and str(error)
        kind = "exhausted" if exhausted else "refused" if clear else "other"
    finally:
        watch.on = False
    seconds, memory = time.process_time() - start, max(0, _status("VmHWM") - before)
    if watch.seen:
        kind, detail = "escape", "; ".join(watch.seen)
    return Outcome(kind, detail, seconds, memory)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(key: str) -> int:
    """A size of this process in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


class Reader:
    """The process that reads, started anew when it is gone."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["tests.stress.reader"])
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(self._target, self._folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(600) or not self._alive():
            raise PcdiffError(f"{self._target}: the whole files cannot be read: {self._said()}")

    def _alive(self) -> bool:
        try:
            return self._connection.recv() == "ready"
        except EOFError:
            return False

    def _said(self) -> str:
        return (self._folder / "stderr").read_text(errors="replace")[-3000:]

    def outcome(self, index: int) -> Outcome:
        """What becomes of file number ``index``."""
        start = time.monotonic()
        self._connection.send(index)
        try:
            if self._answers():
                found: Outcome = self._connection.recv()
                return found
            kind = "hang"
            # Its last words are where it was.
            os.kill(self._process.pid or 0, signal.SIGABRT)
            self._process.join(_SECONDS)
            self._process.kill()
        except (EOFError, ConnectionError):
            kind = "crash"
        self._process.join()
        found = Outcome(kind, f"exit status {self._process.exitcode}: {self._said()}", time.monotonic() - start)
        self._start()
        return found

    def _answers(self) -> bool:
        """Whether an answer comes; the clock is that of the processor, so that a busy machine makes no hang."""
        first, used, since = self._used(), 0.0, time.monotonic()
        while not self._connection.poll(0.5):
            now = self._used() - first
            if now > used:
                used, since = now, time.monotonic()
            if used > _SECONDS or time.monotonic() - since > _PATIENCE:
                return False
        return True

    def _used(self) -> float:
        """Seconds of the processor that the process has had; 0 when it is gone."""
        try:
            words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process, and remove its files."""
        self._connection.send(None)
        self._process.join()
        shutil.rmtree(self._folder)
