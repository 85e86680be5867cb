"""MLflow, and nothing else in pcdiff knows MLflow.

The run folder is the truth and MLflow is a mirror of it, so a store that is slow, hangs or is dead never slows or loses
a run: a thread of its own copies what training has appended to RUN/metrics.jsonl (:class:`Mirror`), and :func:`sync`
copies whatever is missing later. Both may be repeated without harm. RUN/tracking.json says how far the copy has come.

- parameters, tags (versions, checksums, commit) and data sets come from RUN/run.json;
- metrics keep their step and time. MLflow has no infinity (it would store 1.8e308 and ruin the axis of the plot), so
  infinite values are sent as NaN; the run folder keeps the difference;
- config, figures and the generator folder are plain artifacts, sent when the run ends.
"""

from __future__ import annotations

from pcdiff.tracking.mirror import Mirror
from pcdiff.tracking.replay import SyncReport, sync
from pcdiff.tracking.store import store_uri, ui

__all__ = ["Mirror", "SyncReport", "store_uri", "sync", "ui"]
