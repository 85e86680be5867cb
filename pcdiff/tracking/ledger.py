"""RUN/tracking.json: how far a run has been copied to its tracking store, and the lock that keeps one sender at a time."""

from __future__ import annotations

import threading
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

from pcdiff.errors import DataError, PcdiffError
from pcdiff.files import lock, read_json, sweep, unlock, write_json
from pcdiff.tracking.store import public, store_uri

__all__ = ["Ledger", "State", "Status"]

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class State:
    """The content of RUN/tracking.json."""

    id: str
    """Value of the tag ``pcdiff.run``, by which the store finds the run."""
    uri: str
    """The store, without its password."""
    experiment: str
    status: Status
    """How the run ended, as far as known."""
    run_id: str | None = None
    """MLflow's name of the run."""
    offset: int = 0
    """Bytes of metrics.jsonl that the store has acknowledged."""
    params_done: bool = False
    artifacts: dict[str, str] = field(default_factory=dict)
    """Files that the store has: path within the run folder, SHA-256."""
    finished: bool = False
    """The store knows how the run ended."""


class Ledger:
    """Reads and writes RUN/tracking.json; one process at a time.

    Args:
        run: the run folder.
        uri: the store; what RUN/tracking.json says when absent, else as in :func:`pcdiff.tracking.store_uri`.
        experiment: name of the experiment; what RUN/tracking.json says when absent, else "pcdiff".
    """

    def __init__(self, run: Path, uri: str | None, experiment: str | None) -> None:
        self.run = run
        self.uri = store_uri(uri)
        self.state: State
        self._uri_given = uri is not None
        self._experiment = experiment
        self._guard = threading.RLock()
        self._lock: IO[bytes] | None = None
        self._released = False

    def claim(self) -> None:
        """Read RUN/tracking.json, or begin one, and keep other processes from sending the same run.

        Raises:
            PcdiffError: not a run folder, or another process sends it.
        """
        with self._guard:
            if self._lock is None:
                taken = self._take_lock()
                try:
                    sweep(self.run, "tracking.json")
                    self.state = self._load()
                    self.save()
                except BaseException:
                    taken.close()
                    raise
                self._lock = taken

    def begin(self) -> None:
        """Claim the run and note that it is being trained, again perhaps."""
        self.claim()
        if self.state.status != "RUNNING" or self.state.finished:
            self.save(status="RUNNING", finished=False)

    def end(self, status: Status) -> None:
        """Note how the run ended, before the store is told."""
        with self._guard:
            self.claim()
            self.save(status=status, finished=False)

    def save(self, **changes: object) -> None:
        """Change entries of the state and write it.

        Raises:
            PcdiffError: the run was released, perhaps by another thread while this one hung.
        """
        with self._guard:
            if self._released:
                raise PcdiffError(f"{self.run}: this process no longer sends the run")
            self.state = replace(self.state, **changes)  # type: ignore[arg-type]
            write_json(self.run / "tracking.json", asdict(self.state))

    def release(self) -> None:
        """Let others send this run; a call of this process that still hangs can no longer change RUN/tracking.json."""
        with self._guard:
            if self._lock is not None and not self._released:
                unlock(self._lock)
                self._lock.close()
            self._released = True

    def _take_lock(self) -> IO[bytes]:
        try:
            stream = (self.run / "run.json").open("r+b")
        except OSError as error:
            raise PcdiffError(f"{self.run}: is not a run folder that can be tracked ({error})") from error
        if not lock(stream):
            stream.close()
            raise PcdiffError(f"{self.run}: another process is sending this run to its tracking store")
        return stream

    def _load(self) -> State:
        file = self.run / "tracking.json"
        if not file.exists():
            return State(uuid.uuid4().hex, public(self.uri), self._experiment or "pcdiff", "FINISHED")
        try:
            state = State(**read_json(file))
        except TypeError as error:
            raise DataError(f"{file}: is not the state of a tracked run ({error})") from error
        # Equal without their passwords: then the environment knows the password, and the file does not.
        if not self._uri_given and public(self.uri) != state.uri:
            self.uri = state.uri
        experiment = self._experiment or state.experiment
        if (public(self.uri), experiment) == (state.uri, state.experiment):
            return state
        return State(state.id, public(self.uri), experiment, state.status)
