"""A thread that copies a growing run to its tracking store, so that training never waits on the network."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Literal

from pcdiff.errors import PcdiffError
from pcdiff.tracking.ledger import Ledger
from pcdiff.tracking.replay import Replay
from pcdiff.tracking.store import public, reason, settings

__all__ = ["Mirror"]

_logger = logging.getLogger(__name__)

# Longest pause, in seconds, between two attempts to reach a store that is down.
_PATIENCE = 300.0


class Mirror:
    """Copies RUN/metrics.jsonl to MLflow every ``interval`` seconds while training appends to it.

    All calls to the store, and the import of MLflow, happen in a daemon thread; the file is the queue, so memory stays
    bounded however long the store is away. Nothing is raised into training.

    Args:
        run: the run folder, which has a run.json.
        uri: tracking store, see :func:`pcdiff.tracking.store_uri`.
        experiment: name of the MLflow experiment.
        interval: seconds between two transfers; doubled after each that fails, up to 300.
    """

    def __init__(
        self, run: str | Path, uri: str | None = None, experiment: str = "pcdiff", interval: float = 5.0
    ) -> None:
        self.run = Path(run).absolute()
        self._interval = interval
        self._ledger = Ledger(self.run, uri, experiment)
        self._stopping = threading.Event()
        self._status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"
        self._complete = False
        self._problem = "there was not enough time"
        self._thread = threading.Thread(target=self._work, name="pcdiff-mirror", daemon=True)

    def start(self) -> None:
        """Begin to copy; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 10.0, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> bool:
        """Copy the rest, files too, and end; warns in one line when that fails.

        Args:
            timeout: seconds to wait at most.
            status: how the run ended.

        Returns:
            Whether the store has everything.
        """
        self._status = status
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if not self._complete:
            self._give_up()
        return self._complete

    def _work(self) -> None:
        pause = self._interval
        replay = Replay(self._ledger)
        with settings():
            while not self._complete:
                # Asked before the transfer: what is in the file by now is all there is.
                last = self._stopping.is_set()
                try:
                    self._ledger.begin()
                    if last:
                        self._ledger.end(self._status)
                    replay.update(finish=last)
                    self._complete = last
                    pause = self._interval
                except Exception as error:  # noqa: BLE001 - whatever the store's client raises, training goes on
                    self._problem = reason(error)
                    pause = min(2 * pause, _PATIENCE)
                    if last:
                        return
                self._stopping.wait(pause)
            self._ledger.release()

    def _give_up(self) -> None:
        try:
            self._ledger.end(self._status)
        except (PcdiffError, OSError) as error:
            self._problem = reason(error)
        self._ledger.release()
        _logger.warning(
            "%s: the tracking store lacks a part of this run (%s); nothing is lost, send it with: pcdiff track sync %s",
            public(self._ledger.uri),
            self._problem,
            self.run,
        )
