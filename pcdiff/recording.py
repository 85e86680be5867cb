"""What is written of a run while it goes on: metrics in the run folder, mirrored to the tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pcdiff.config import TrackingConfig
from pcdiff.run import Metrics
from pcdiff.tracking import Mirror

__all__ = ["Record", "Status"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended."""

# Seconds that the tracking store gets at the end of a run; what it does not take by then waits for `pcdiff track sync`.
_LAST_TRANSFER = 15.0


class Record:
    """The metrics of a run, and their mirror where the config wants one.

    Args:
        run: the run folder.
        tracking: how it is mirrored.

    Attributes:
        metrics: to append to.
    """

    def __init__(self, run: Path, tracking: TrackingConfig) -> None:
        self.metrics = Metrics(run / "metrics.jsonl")
        self._mirror: Mirror | None = None
        if tracking.enabled:
            self._mirror = Mirror(run, tracking.uri, tracking.experiment, tracking.interval)
            self._mirror.start()

    def close(self, status: Status) -> None:
        """End both; the run ended so.

        Raises:
            DataError: the disk is full, or fails.
        """
        try:
            self.metrics.close()
        finally:
            if self._mirror is not None:
                self._mirror.stop(timeout=_LAST_TRANSFER, status=status)
