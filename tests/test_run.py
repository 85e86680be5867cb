"""The run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from pcdiff import recording
from pcdiff.config import TrackingConfig
from pcdiff.errors import DataError
from pcdiff.recording import Record
from pcdiff.records import read_metrics
from pcdiff.run import Metrics, locked

from .full_disk import full_disk


def test_what_kills_left_of_a_run_is_swept(tmp_path: Path) -> None:
    """But for what belongs to the state of the tracking, which another process may be writing."""
    left = [".job-x.tmp", ".config-x.tmp.yaml", ".run-x.tmp.json", ".metrics-x.tmp.jsonl", "figures/.loss-x.tmp.png"]
    for name in (
        "figures",
        ".generator-x.tmp",
        ".generator-old-x.tmp/generator",
        ".evaluation-x.tmp",
        "checkpoints/.step_00000007-x.tmp",
    ):
        (tmp_path / name).mkdir(parents=True)
    for name in (*left, "figures/loss.png", ".tracking-x.tmp.json", "checkpoints/.step_00000007-x.tmp/state.json"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"checkpoints", "figures", "figures/loss.png", "lock", ".tracking-x.tmp.json"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path):
        pass
    assert f"{tmp_path / 'lock'}: cannot be locked ({os.strerror(number)})" in caplog.text


def test_a_full_disk_is_one_line_and_ends_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []

    class Mirror:
        def __init__(self, *_: object) -> None: ...

        def start(self) -> None: ...

        def stop(self, **how: object) -> None:
            ended.append(how["status"])

    monkeypatch.setattr(recording, "Mirror", Mirror)
    record = Record(tmp_path, TrackingConfig())
    record.metrics.append(1, {"loss/train": 1.0})
    file = tmp_path / "metrics.jsonl"
    refused = rf"^{file}: not enough disk to write this file \(File too large\)$"
    with full_disk(file.stat().st_size + 20):
        with pytest.raises(DataError, match=refused):
            record.metrics.append(2, {"loss/train": 1.0})
        with pytest.raises(DataError, match=refused):
            record.close("FAILED")
    assert ended == ["FAILED"]
    # What was begun of the second line goes when the run is resumed.
    again = Metrics(file)
    again.append(2, {"loss/train": 0.5})
    again.close()
    assert [(line.step, line.metrics["loss/train"]) for line in read_metrics(file)] == [(1, 1.0), (2, 0.5)]


def test_metrics_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read \(Is a directory\)"):
        Metrics(tmp_path / "metrics.jsonl")


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "time": 1.0, "metrics": {"loss/train": 1.0}}) for step in (1, 2, 3, 4)]
    file.write_bytes(f"{lines[0]}\n".encode() + bytes(40) + f"\n{lines[2]}\n[]\n{lines[3][:20]}".encode())
    metrics = Metrics(file)
    assert f"{file}: line 2 is not a line of metrics" in caplog.text
    assert "it is left out, and so is 1 other" in caplog.text
    # As a run that goes on from step 2.
    for step in (3, 4):
        metrics.append(step, {"loss/train": 1.0})
    metrics.close()
    assert [line.step for line in read_metrics(file)] == [1, 3, 4]


def test_the_last_step_gets_another_line_of_other_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for again in (False, True):
        metrics = Metrics(file)
        metrics.append(1, {"loss/train": 1.0, "lr": 1.0})
        assert metrics.has("validation/") == again
        metrics.append(1, {"validation/w1": 2.0})
        metrics.append(1, {"lr": 3.0})
        metrics.append(0, {"else": 3.0})
        assert metrics.has("validation/")
        metrics.close()
    assert [line.metrics for line in read_metrics(file)] == [{"loss/train": 1.0, "lr": 1.0}, {"validation/w1": 2.0}]
