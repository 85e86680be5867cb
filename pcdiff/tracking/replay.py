"""Bring a tracking store up to what a run folder holds: each step may be repeated without harm."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pcdiff.errors import DataError, PcdiffError
from pcdiff.files import sha256
from pcdiff.records import parse_line, read_run
from pcdiff.tracking.ledger import Ledger
from pcdiff.tracking.store import artifact_location, prepare, public, reason, settings

__all__ = ["Replay", "SyncReport", "sync"]

# The tag that finds the run again when the answer to "create a run" was lost.
_TAG = "pcdiff.run"
# MLflow's limits: entries of one request, lengths of names, values and digests.
_METRICS, _PARAMS, _NAME, _PARAM, _TAG_VALUE, _DIGEST = 1000, 100, 250, 6000, 5000, 36


@dataclass(frozen=True)
class SyncReport:
    """What :func:`sync` did."""

    uri: str
    """The store, without its password."""
    experiment: str
    run_id: str
    metrics: int
    """Number of metric values sent."""
    artifacts: int
    """Number of files sent."""


def sync(run: str | Path, uri: str | None = None, experiment: str | None = None) -> SyncReport:
    """Send what the tracking store lacks of a run; a second call sends nothing.

    Args:
        run: the run folder.
        uri: the store; the one that the run was tracked in when absent, else as in :func:`pcdiff.tracking.store_uri`.
        experiment: name of the experiment; the one of the run when absent, else "pcdiff".

    Raises:
        PcdiffError: not a run folder, a run that is being trained, a store that cannot be used, or one that has taken
            everything but some entries or files, which it refuses.
    """
    ledger = Ledger(Path(run), uri, experiment)
    ledger.claim()
    replay = Replay(ledger)
    try:
        if ledger.state.status == "RUNNING":
            # The process that trained has gone without a word.
            ledger.end("KILLED")
        with settings():
            replay.update(finish=True)
    except PcdiffError:
        raise
    except Exception as error:
        raise PcdiffError(f"{public(ledger.uri)}: the tracking store cannot be used ({reason(error)})") from error
    finally:
        ledger.release()
    state = ledger.state
    return SyncReport(state.uri, state.experiment, str(state.run_id), replay.metrics, replay.artifacts)


class Replay:
    """Copies a run folder to its tracking store, from where the ledger says that it stands."""

    def __init__(self, ledger: Ledger) -> None:
        self.metrics = 0
        self.artifacts = 0
        self._ledger = ledger
        self._run = ledger.run
        self._client: Any = None
        # Metrics that the store may have although it never said so: {name: {(step, time)}}, or None when there are none.
        self._doubtful: dict[str, set[tuple[int, int]]] | None = {}
        # What the store does not take of this run, and why: servers differ in what they allow, and proxies in the size.
        self._refused: dict[str, str] = {}

    def update(self, *, finish: bool) -> None:
        """Send what is new: the description once, and metrics; with ``finish`` files and how the run ended as well.

        Raises:
            PcdiffError: with ``finish``, after all else was sent: the store refuses a part. Another attempt tries it again.
        """
        try:
            if self._client is None:
                self._connect()
            if not self._ledger.state.params_done and not self._refused:
                self._describe()
            self._send_metrics()
            if finish:
                self._send_files()
                self._send_end()
                if self._refused:
                    raise PcdiffError(f"{public(self._ledger.uri)}: the tracking store refuses {self._refusals()}")
        except BaseException:
            self._client, self._doubtful, self._refused = None, {}, {}
            raise

    @property
    def _run_id(self) -> str:
        return str(self._ledger.state.run_id)

    def _connect(self) -> None:
        """Find or create the run."""
        from mlflow import MlflowClient

        prepare(self._ledger.uri)
        client = MlflowClient(tracking_uri=self._ledger.uri)
        experiment_id = self._experiment(client)
        if self._ledger.state.run_id is None or not _exists(client, self._run_id):
            twins = self._twins(client, experiment_id)
            run_id = twins[0] if twins else self._create(client, experiment_id)
            self._ledger.save(run_id=run_id, offset=0, params_done=False, artifacts={}, finished=False)
        if self._ledger.state.status == "RUNNING":
            # The store believes that a resumed run has ended.
            client.update_run(self._run_id, status="RUNNING")
        self._client = client

    def _create(self, client: Any, experiment_id: str) -> str:
        about = self._about()
        start = round(1000 * datetime.fromisoformat(about["created"]).timestamp())
        created = client.create_run(experiment_id, start, {_TAG: self._ledger.state.id}, about["name"])
        self._doubtful = None
        return str(created.info.run_id)

    def _about(self) -> dict[str, Any]:
        file = self._run / "run.json"
        about = read_run(self._run)
        expected = {"name", "created", "config_hash", "data_fingerprint", "versions", "params", "tags"}
        if expected - about.keys():
            raise DataError(f"{file}: is not the description of a run; expected {', '.join(sorted(expected))}")
        return about

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        name = self._ledger.state.experiment
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location(self._ledger.uri)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _twins(self, client: Any, experiment_id: str) -> list[str]:
        found = client.search_runs([experiment_id], f"tags.`{_TAG}` = '{self._ledger.state.id}'")
        return sorted(run.info.run_id for run in found)

    def _remove_twins(self) -> None:
        """Delete the empty run that appears when a slow store creates one after the wait for it was given up."""
        experiment_id = self._client.get_run(self._run_id).info.experiment_id
        for twin in self._twins(self._client, experiment_id):
            if twin != self._run_id:
                self._client.delete_run(twin)

    def _describe(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        about = self._about()
        named = {_name(key): str(value)[:_PARAM] for key, value in about["params"].items()}
        params = [Param(key, value) for key, value in named.items()]
        for start in range(0, len(params), _PARAMS):
            self._log("params", params[start : start + _PARAMS])
        tags = {
            "config_hash": about["config_hash"],
            **{f"version.{name}": version for name, version in about["versions"].items()},
            **{f"data.{name}": checksum for name, checksum in about["data_fingerprint"].items()},
            **about["tags"],
        }
        if "git_commit" in tags:
            # The name that MLflow's page looks for.
            tags["mlflow.source.git.commit"] = tags["git_commit"]
        shown = [RunTag(_name(key), str(value)[:_TAG_VALUE]) for key, value in tags.items()]
        self._log("tags", shown)
        data = []
        for name, checksum in about["data_fingerprint"].items():
            source = json.dumps({"uri": about["params"].get(f"data.{name}")})
            entry = Dataset(name, checksum[:_DIGEST], "local", source)
            data.append(DatasetInput(entry, [InputTag("mlflow.data.context", name)]))
        if data:
            self._client.log_inputs(self._run_id, data)
        self._ledger.save(params_done=not self._refused)

    def _log(self, kind: Literal["params", "tags"], entries: list[Any]) -> None:
        """Send entries in one request; where the store refuses it, all of them but those that are to blame."""
        try:
            self._client.log_batch(self._run_id, **{kind: entries}, synchronous=True)
        except Exception as error:
            if not self._refuses(error):
                raise
            if len(entries) == 1:
                self._refused[f"{kind[:-1]} {entries[0].key}"] = reason(error)
                return
            middle = len(entries) // 2
            self._log(kind, entries[:middle])
            self._log(kind, entries[middle:])

    def _refuses(self, error: Exception) -> bool:
        """Whether the store finds fault with what it was sent, and not with the run, or with everything just now."""
        # Of MLflow's errors the first, of those of an upload the second.
        code = getattr(error, "error_code", None)
        status = getattr(getattr(error, "response", None), "status_code", None)
        about_content = code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"} or status in {400, 413, 415, 422}
        # Of a run that was deleted meanwhile all entries are refused.
        return about_content and _exists(self._client, self._run_id)

    def _refusals(self) -> str:
        (what, why), *others = self._refused.items()
        names = ", ".join(name for name, _ in others)
        return f"{what} ({why})" + (f", and {names}" if names else "")

    def _send_metrics(self) -> None:
        for end, batch in self._batches():
            missing = batch if self._doubtful is None else [metric for metric in batch if not self._has(metric)]
            for start in range(0, len(missing), _METRICS):
                part = missing[start : start + _METRICS]
                self._client.log_batch(self._run_id, metrics=part, synchronous=True)
                self.metrics += len(part)
            self._ledger.save(offset=end)
        self._doubtful = None

    def _has(self, metric: Any) -> bool:
        """Whether the store has this value already. SQL stores drop exact copies by themselves, others keep both."""
        assert self._doubtful is not None
        if metric.key not in self._doubtful:
            history = self._client.get_metric_history(self._run_id, metric.key)
            self._doubtful[metric.key] = {(old.step, old.timestamp) for old in history}
        return (metric.step, metric.timestamp) in self._doubtful[metric.key]

    def _batches(self) -> Iterator[tuple[int, list[Any]]]:
        """New metrics, as many whole lines at a time as fit into a request, with the offset of their end."""
        batch: list[Any] = []
        end = self._ledger.state.offset
        for offset, line in self._lines():
            if batch and len(batch) + len(line) > _METRICS:
                yield end, batch
                batch = []
            batch += line
            end = offset
        if end > self._ledger.state.offset:
            yield end, batch

    def _lines(self) -> Iterator[tuple[int, list[Any]]]:
        file = self._run / "metrics.jsonl"
        offset = self._ledger.state.offset
        if not file.exists():
            return
        if file.stat().st_size < offset:
            raise DataError(f"{file}: is shorter than what was already sent ({offset} bytes)")
        with file.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                # Training is still writing a line without an end.
                if not line.endswith(b"\n"):
                    return
                try:
                    metrics = _parse(line)
                except (ValueError, OverflowError) as error:
                    raise DataError(f"{file}: the line at byte {offset} is {error}") from error
                offset += len(line)
                yield offset, metrics

    def _send_files(self) -> None:
        single = [self._run / "config.yaml", self._run / "run.json"]
        folders = [self._run / name for name in ("figures", "generator", "evaluation", "evaluations")]
        inside = [path for folder in folders for path in sorted(folder.rglob("*"))]
        # What begins with a dot is half-written, by a process that was killed perhaps.
        for path in (path for path in [*single, *inside] if path.is_file() and not path.name.startswith(".")):
            name = path.relative_to(self._run)
            checksum = sha256(path)
            if self._ledger.state.artifacts.get(name.as_posix()) != checksum:
                folder = None if name.parent == Path() else name.parent.as_posix()
                try:
                    self._client.log_artifact(self._run_id, str(path), folder)
                except Exception as error:
                    if not self._refuses(error):
                        raise
                    self._refused[f"file {name.as_posix()}"] = reason(error)
                    continue
                self.artifacts += 1
                self._ledger.save(artifacts={**self._ledger.state.artifacts, name.as_posix(): checksum})

    def _send_end(self) -> None:
        if not self._ledger.state.finished:
            self._remove_twins()
            self._client.set_terminated(self._run_id, self._ledger.state.status, end_time=self._end())
            self._ledger.save(finished=True)

    def _end(self) -> int:
        """When the run ended, in ms: its last line of metrics."""
        file = self._run / "metrics.jsonl"
        return round(1000 * (file if file.exists() else self._run / "run.json").stat().st_mtime)


def _exists(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _parse(line: bytes) -> list[Any]:
    from mlflow.entities import Metric

    record = parse_line(line)
    time = round(1000 * record.time)
    values = {_name(key): value for key, value in record.metrics.items()}
    return [Metric(key, math.nan if math.isinf(value) else value, time, record.step) for key, value in values.items()]


def _name(name: str) -> str:
    """A name that MLflow takes: letters, digits and ``_ - . space : /``, read as a clean relative path.

    >>> _name("W1(mass) [10^-3]")
    'W1_mass_ _10_-3_'
    >>> _name("../a//b")
    'a/b'
    """
    parts = re.sub(r"[^\w\-. :/]", "_", name).split("/")
    return "/".join(part for part in parts if part not in {"", ".", ".."})[:_NAME] or "_"
