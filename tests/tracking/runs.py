"""What a run folder records, what a store has of it, and what is missing there."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient

from pcdiff.tracking.store import settings

History = dict[str, list[tuple[int, int, float]]]


def append(run: Path, *steps: int, per_line: int = 2) -> None:
    with (run / "metrics.jsonl").open("a") as stream:
        for step in steps:
            metrics = {f"loss/part {i}": math.sin(step + i) for i in range(per_line)}
            stream.write(json.dumps({"step": step, "time": 1.7e9 + 0.1234 * step, "metrics": metrics}) + "\n")


def in_folder(run: Path) -> History:
    history: History = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key, value in record["metrics"].items():
            history.setdefault(key, []).append((record["step"], round(1000 * record["time"]), value))
    return history


def tracked(uri: str, experiment: str = "pcdiff") -> list[Any]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def in_store(uri: str) -> History:
    (only,) = tracked(uri)
    return _history(MlflowClient(tracking_uri=uri), only)


def _history(client: Any, found: Any) -> History:
    return {
        key: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(found.info.run_id, key))
        for key in found.data.metrics
    }


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "tracking.json").read_text())
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def assert_complete(run: Path, uri: str, status: str = "FINISHED", experiment: str = "pcdiff") -> None:
    """The store has one run for this folder, with every metric, parameter, tag, data set and file, once each."""
    client = MlflowClient(tracking_uri=uri)
    about = json.loads((run / "run.json").read_text())
    (only,) = [one for one in tracked(uri, experiment) if one.data.tags["pcdiff.run"] == state(run)["id"]]
    assert (only.info.status, only.info.run_name) == (status, about["name"])
    assert only.data.params == {key: str(value)[:6000] for key, value in about["params"].items()}
    tags = {
        "config_hash": about["config_hash"],
        **{f"version.{name}": version for name, version in about["versions"].items()},
        **{f"data.{name}": checksum for name, checksum in about["data_fingerprint"].items()},
        **about["tags"],
    }
    assert tags.items() <= only.data.tags.items()
    data = sorted((entry.dataset.name, entry.dataset.digest) for entry in only.inputs.dataset_inputs)
    assert data == sorted((name, checksum[:36]) for name, checksum in about["data_fingerprint"].items())
    assert _history(client, only) == in_folder(run)
    with TemporaryDirectory() as folder, settings():
        client.download_artifacts(only.info.run_id, "", folder)
        assert dict(_files(Path(folder))) == {
            name: checksum
            for name, checksum in _files(run)
            if name not in {"metrics.jsonl", "tracking.json", "lock"} and not name.startswith("checkpoints/")
        }


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()
