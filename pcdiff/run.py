"""The run folder: the truth about a run, which MLflow mirrors.

RUN/config.yaml      the config, every default written out
RUN/run.json         what the run is: config hash, data fingerprints, versions
RUN/metrics.jsonl    one line of metrics at a time
RUN/checkpoints/     the newest few, see :mod:`pcdiff.checkpoint`
RUN/generator/       what :meth:`pcdiff.Generator.load` reads, renewed with each checkpoint
RUN/figures/         the loss curve
RUN/job              which torchrun began or resumed it last, where one did
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pcdiff
from pcdiff.config import RunConfig, config_hash, flat, to_yaml
from pcdiff.errors import DataError, PcdiffError
from pcdiff.files import atomic_file, lock, plain_errors, sweep, write_json
from pcdiff.records import metric_lines, parse_line, read_run

__all__ = ["Metrics", "begun_by", "describe_run", "locked", "note_job"]

_log = logging.getLogger(__name__)

# Config keys that may change when a run is resumed, for they do not change what is learned.
_FREE = ("device", "output", "tracking.", "training.accumulate")


def describe_run(run: Path, config: RunConfig, fingerprint: Mapping[str, str], *, resume: bool) -> None:
    """Write config.yaml and run.json, or check that a resumed run has the same config and data.

    Raises:
        PcdiffError: there is a run in the folder and ``resume`` is false, or what is learned would change in mid-run.
    """
    file = run / "run.json"
    if file.exists():
        if not resume:
            raise PcdiffError(
                f"{run}: there is a run already; continue it with --resume or choose another output=FOLDER"
            )
        _refuse_changes(run, config, fingerprint)
        return
    with atomic_file(run / "config.yaml") as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    write_json(
        file,
        {
            "name": config.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config_hash": config_hash(config),
            "data_fingerprint": dict(fingerprint),
            "versions": {
                "pcdiff": pcdiff.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "numpy", "awkward")},
            },
            "params": flat(config),
            "tags": {"host": platform.node(), "platform": platform.platform(), **_git_commit()},
        },
    )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder for this process, and sweep what a kill left half-written in it.

    Raises:
        PcdiffError: another process trains in it.
    """
    with _made(run / "lock").open("w") as stream:
        if not lock(stream):
            raise PcdiffError(f"{run}: another process is training in this folder")
        # All that is written under this lock.
        sweep(run, "config.yaml", "run.json", "metrics.jsonl", "job", "generator", "evaluation")
        sweep(run / "checkpoints", "step_*")
        sweep(run / "figures", "loss.png")
        yield


def note_job(run: Path, job: str) -> None:
    """Keep which launcher has begun or resumed the run."""
    with atomic_file(run / "job") as temporary:
        temporary.write_text(job, encoding="utf-8")


def begun_by(run: Path) -> str | None:
    """The launcher that has begun or resumed the run last; None where there was none."""
    file = run / "job"
    return file.read_text(encoding="utf-8") if file.exists() else None


def _made(file: Path) -> Path:
    """The file, after its folder was made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PcdiffError(f"{file.parent}: cannot be made ({error.strerror})") from error
    return file


def _refuse_changes(run: Path, config: RunConfig, fingerprint: Mapping[str, str]) -> None:
    about = read_run(run)
    if "params" not in about:
        raise DataError(
            f"{run / 'run.json'}: lacks params, expected the config that the run began with: is the file damaged?"
        )
    # Not those of config.yaml, which may have been edited since.
    before, now = about["params"], flat(config)
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith(_FREE)
    ]
    # The order of the features is that of the net's inputs.
    features = [[key for key in values if key.startswith("features.")] for values in (before, now)]
    if not changed and features[0] != features[1]:
        changed = [f"the features were {', '.join(features[0])}, are {', '.join(features[1])}"]
    if changed:
        raise PcdiffError(f"{run}: cannot resume with another config: {'; '.join(changed)}")
    data = about.get("data_fingerprint", {})
    for name, found in fingerprint.items():
        if data.get(name) != found:
            raise PcdiffError(f"{run}: cannot resume: the {name} data have changed since the run began")


def _git_commit() -> dict[str, str]:
    """The commit of the working directory, when it is a git checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True, env={**os.environ}
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": done.stdout.strip()}


class Metrics:
    """Appends lines to metrics.jsonl.

    Steps already in the file are not written again: a resumed run repeats them. Lines that are damaged are left out of it, with a
    warning, and so is a last one that a kill cut short.

    Raises:
        DataError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.last = -1
        self._path = path
        # Names of the metrics that the file has of the last step.
        self._names: set[str] = set()
        if path.exists():
            self._read()
        with plain_errors(path, always=True):
            self._stream = path.open("a", buffering=1, encoding="utf-8")

    def _read(self) -> None:
        *lines, cut = metric_lines(self._path)
        whole, damaged = [], []
        for number, line in enumerate(lines, 1):
            try:
                found = parse_line(line)
            except ValueError as error:
                damaged.append(f"line {number} is {error}")
                continue
            whole.append(line)
            self._note(found.step, found.metrics)
        if damaged:
            others = {1: "", 2: ", and so is 1 other"}.get(len(damaged), f", and so are {len(damaged) - 1} others")
            _log.warning("%s: %s; it is left out%s", self._path, damaged[0], others)
        if cut or damaged:
            with atomic_file(self._path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in whole))

    def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        self._names = {*metrics, *(self._names if step == self.last else ())}
        self.last = step

    def has(self, prefix: str) -> bool:
        """Whether the last step has a metric whose name begins so."""
        return any(name.startswith(prefix) for name in self._names)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line; the last step may get another, of other metrics.

        Raises:
            DataError: the disk is full, or fails.
        """
        if step > self.last or (step == self.last and self._names.isdisjoint(metrics)):
            with plain_errors(self._path, always=True):
                self._stream.write(json.dumps({"step": step, "time": time.time(), "metrics": dict(metrics)}) + "\n")
            self._note(step, metrics)

    def close(self) -> None:
        """Close the file.

        Raises:
            DataError: the disk is full, or fails.
        """
        with plain_errors(self._path, always=True):
            self._stream.close()
