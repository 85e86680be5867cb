"""The store holds what the run folder holds, once, whatever happens on the way; training never waits for it."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pcdiff.errors import PcdiffError
from pcdiff.tracking import Mirror, store_uri, sync, ui
from pcdiff.tracking.ledger import Ledger
from pcdiff.tracking.store import settings

from .runs import append, in_folder, in_store, state, tracked, wait_for


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that use the network."""
    threads: set[int] = set()

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            threads.add(threading.get_ident())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    for name in ("connect", "connect_ex", "send", "sendall", "recv", "recv_into"):
        watch(socket.socket, name)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        watch(socket, name)
    return threads


# Where


def test_the_store_is_the_given_one_or_the_environment_s_or_a_local_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert store_uri("sqlite:///sub/a.db") == f"sqlite:///{tmp_path}/sub/a.db"
    assert store_uri(None) == "http://tracking"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert store_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"


def test_settings_come_back_when_the_last_user_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    first, second = settings(), settings()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    second.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_new_store_appears_whole(empty_store: Path) -> None:
    assert [path.name for path in empty_store.parent.iterdir()] == ["mlflow.db"]
    assert (empty_store.parent / "mlartifacts").as_uri() in str(
        MlflowClient(tracking_uri=f"sqlite:///{empty_store}").get_experiment("0").artifact_location
    )


# What


def test_the_mirror_copies_a_growing_run(run: Path, store: str) -> None:
    mirror = Mirror(run, store, interval=0.05)
    append(run, 1, 2)
    mirror.start()
    wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0)
    assert tracked(store)[0].info.status == "RUNNING"
    for step in range(3, 12):
        append(run, step)
        time.sleep(0.02)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 12, "time": 17')
    assert mirror.stop(timeout=30)
    whole = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")
    assert state(run)["offset"] == len(whole[0]) + 1
    (run / "metrics.jsonl").write_bytes(whole[0] + whole[1])
    assert in_store(store) == in_folder(run)
    (only,) = tracked(store)
    assert only.info.status == "FINISHED"
    assert state(run)["finished"]


def test_the_description_and_the_files_are_there(run: Path, store: str) -> None:
    append(run, 1)
    report = sync(run, store, "jets")
    assert (report.metrics, report.artifacts, report.experiment) == (2, 7, "jets")
    (only,) = tracked(store, "jets")
    assert only.info.run_id == report.run_id
    assert only.info.run_name == "test"
    assert only.info.start_time == 1714564800000
    assert only.data.params["net.kind"] == "epic"
    assert only.data.params["long"] == "x" * 6000
    assert only.data.params["none"] == "None"
    assert len(only.data.params) == 153
    assert only.data.tags["mlflow.source.git.commit"] == "abc123"
    assert only.data.tags["version.pcdiff"] == "0.1"
    assert only.data.tags["config_hash"] == "c0ffee"
    assert {(d.dataset.name, d.dataset.digest) for d in only.inputs.dataset_inputs} == {
        ("train", "a" * 36),
        ("validation", "b" * 36),
    }
    kept = run.parent / "a store" / "mlartifacts" / only.info.run_id / "artifacts"
    assert (kept / "generator" / "denoiser.safetensors").read_bytes() == bytes(1000)
    listed = MlflowClient(tracking_uri=store).list_artifacts(only.info.run_id)
    assert [entry.path for entry in listed] == ["config.yaml", "evaluation", "figures", "generator", "run.json"]


def test_names_and_values_that_mlflow_lacks(run: Path, store: str) -> None:
    line = (
        '{"step": 1, "time": 1.7e9, "metrics": {"W1[pt] (10^-3)": NaN, "up": Infinity, "down": -Infinity, "ok": 1}}\n'
    )
    (run / "metrics.jsonl").write_text(line)
    sync(run, store)
    values = {key: value for key, ((_, _, value),) in in_store(store).items()}
    assert values.pop("ok") == 1
    assert values.keys() == {"W1_pt_ _10_-3_", "up", "down"}
    assert all(math.isnan(value) for value in values.values())


def test_lines_and_backlogs_larger_than_a_request(run: Path, store: str) -> None:
    append(run, *range(30), per_line=2)
    append(run, 30, per_line=1100)
    append(run, *range(31, 560), per_line=2)
    sync(run, store)
    assert in_store(store) == in_folder(run)


# Once


def test_an_evaluation_that_is_added_to_a_run_is_sent_by_the_next_sync(run: Path, store: str) -> None:
    append(run, 1)
    sync(run, store)
    added = run / "evaluations" / "more clouds" / "figures"
    added.mkdir(parents=True)
    (added / "mass.png").write_bytes(b"picture")
    (added.parent / "index.html").write_text("report")
    assert sync(run).artifacts == 2
    (only,) = tracked(store)
    listed = MlflowClient(tracking_uri=store).list_artifacts(only.info.run_id, "evaluations/more clouds/figures")
    assert [entry.path for entry in listed] == ["evaluations/more clouds/figures/mass.png"]
    assert sync(run).artifacts == 0


def test_syncing_twice_changes_nothing(run: Path, store: str) -> None:
    append(run, 1, 2, 3)
    sync(run, store)
    before = tracked(store)[0].to_dictionary(), in_store(store), state(run)
    again = sync(run)
    assert (again.metrics, again.artifacts) == (0, 0)
    assert (tracked(store)[0].to_dictionary(), in_store(store), state(run)) == before


def test_only_changed_files_are_sent_again(run: Path, store: str) -> None:
    sync(run, store)
    (run / "figures" / "loss.png").write_bytes(b"another picture")
    assert sync(run).artifacts == 1


def test_what_a_kill_left_half_written_is_not_sent(run: Path, store: str) -> None:
    """And what was to become the ledger itself is swept."""
    (run / "figures" / ".loss-x.tmp.png").write_bytes(b"half")
    (run / ".tracking-x.tmp.json").write_bytes(b"half")
    sync(run, store)
    assert {Path(name).name for name in state(run)["artifacts"] if name.startswith("figures/")} == {"loss.png"}
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("call", ["create_experiment", "create_run", "log_batch", "log_inputs", "log_artifact"])
def test_a_lost_answer_doubles_nothing(run: Path, store: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append(run, 1, 2)
    original = getattr(MlflowClient, call)

    def losing(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        raise ConnectionError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, losing)
        with pytest.raises(PcdiffError, match=r"^sqlite:.*: the tracking store .*\(the answer was lost\)$"):
            sync(run, store)
        with suppress(PcdiffError):
            sync(run, store)
    append(run, 3)
    sync(run, store)
    assert in_store(store) == in_folder(run)


def test_metrics_that_arrived_are_not_sent_again(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQL stores drop exact copies, others do not: the sender must not rely on it."""
    append(run, 1, 2)
    original = MlflowClient.log_batch
    sent: list[tuple[str, int]] = []

    def recording(*args: Any, metrics: Any = (), **kwargs: Any) -> None:
        sent.extend((metric.key, metric.step) for metric in metrics)
        original(*args, metrics=metrics, **kwargs)
        if metrics and len(sent) == 4:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", recording)
    with pytest.raises(PcdiffError, match="the answer was lost"):
        sync(run, store)
    append(run, 3)
    sync(run, store)
    assert len(sent) == len(set(sent)) == 6
    shutil.copy(run / "tracking.json", run.parent / "kept.json")
    lost = {**state(run), "run_id": None, "offset": 0}
    (run / "tracking.json").write_text(json.dumps(lost))
    sync(run)
    assert len(sent) == 6
    assert state(run)["run_id"] == json.loads((run.parent / "kept.json").read_text())["run_id"]


def test_a_run_created_behind_our_back_is_removed(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow server creates the run after the wait was given up and a second one was asked for."""
    original = MlflowClient.create_run
    monkeypatch.setattr(MlflowClient, "create_run", lambda *a, **k: (original(*a, **k), original(*a, **k))[1])
    append(run, 1)
    sync(run, store)
    assert in_store(store) == in_folder(run)


def test_a_request_is_never_repeated_blindly(run: Path) -> None:
    """MLflow repeats a request whose answer is lost, which creates a second run; here only after a search."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer({"experiment": {"experiment_id": "1", "name": "pcdiff", "lifecycle_stage": "active"}})

        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            if not self.path.endswith("create"):
                self.answer({})

        def answer(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for _ in range(2):
                with pytest.raises(PcdiffError, match="the tracking store cannot be used"):
                    sync(run, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    calls = [re.sub(r".*/mlflow/|\?.*", "", path) for path in asked]
    assert calls == ["experiments/get-by-name", "runs/search", "runs/create"] * 2


def test_a_deleted_run_or_another_store_gets_everything(run: Path, store: str, empty_store: Path) -> None:
    append(run, 1, 2)
    first = sync(run, store)
    MlflowClient(tracking_uri=store).delete_run(first.run_id)
    second = sync(run)
    assert second.run_id != first.run_id
    assert in_store(store) == in_folder(run)
    other = f"sqlite:///{shutil.copy(empty_store, run.parent / 'other.db')}"
    sync(run, other)
    assert in_store(other) == in_folder(run)
    assert sync(run).uri == other
    assert sync(run, store).run_id == second.run_id
    assert in_store(store) == in_folder(run)


# How it ends


def test_a_run_that_died_is_marked_as_killed_and_lives_again_when_resumed(run: Path, store: str) -> None:
    died = Ledger(run, store, None)
    died.begin()
    append(run, 1)
    with pytest.raises(PcdiffError, match="another process is sending this run"):
        sync(run)
    died.release()
    sync(run)
    assert tracked(store)[0].info.status == "KILLED"
    resumed = Mirror(run, store, interval=0.05)
    resumed.start()
    wait_for(lambda: bool(tracked(store)[0].info.status == "RUNNING"))
    append(run, 2)
    assert resumed.stop(timeout=30, status="FAILED")
    assert tracked(store)[0].info.status == "FAILED"
    assert in_store(store) == in_folder(run)


@pytest.mark.parametrize("server", ["silent_server", "dead_server"])
def test_training_does_not_wait_and_nothing_is_lost(
    run: Path,
    store: str,
    server: str,
    callers: set[int],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = request.getfixturevalue(server)
    begin = time.monotonic()
    mirror = Mirror(run, uri, interval=0.05)
    mirror.start()
    started = time.monotonic()
    for step in range(20):
        append(run, step)
        time.sleep(0.02)
    before = time.monotonic()
    assert not mirror.stop(timeout=1, status="FINISHED")
    assert time.monotonic() - before < 2
    assert before - started < 2
    assert started - begin < 0.5
    assert callers
    assert threading.get_ident() not in callers
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"pcdiff track sync {run}" in warning
    assert "\n" not in warning
    assert capfd.readouterr().err == ""
    assert state(run)["status"] == "FINISHED"
    sync(run, store)
    assert in_store(store) == in_folder(run)
    assert tracked(store)[0].info.status == "FINISHED"


def test_a_store_that_comes_back_gets_what_it_missed(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MlflowClient.log_batch
    failures = [0]

    def failing(*args: Any, **kwargs: Any) -> None:
        failures[0] += 1
        if failures[0] in {3, 4}:
            raise ConnectionError("down")
        original(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    append(run, 1)
    mirror = Mirror(run, store, interval=0.02)
    mirror.start()
    wait_for(lambda: failures[0] > 4)
    append(run, 2)
    assert mirror.stop(timeout=30)
    assert in_store(store) == in_folder(run)


def test_the_process_ends_at_once_although_the_server_hangs(run: Path, silent_server: str) -> None:
    append(run, 1)
    script = f"""
import time
from pcdiff.tracking import Mirror
mirror = Mirror({str(run)!r}, {silent_server!r}, interval=0.05)
mirror.start()
while "mlflow.tracking.client" not in __import__("sys").modules: time.sleep(0.05)
time.sleep(1)
mirror.stop(timeout=0.5)
print(time.time(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert time.time() - float(done.stdout) < 3
    assert len(done.stderr.splitlines()) == 1


# What the user sees


def test_errors_are_one_line(run: Path, store: str, dead_server: str, tmp_path: Path) -> None:
    with pytest.raises(PcdiffError, match="is not a run folder"):
        sync(tmp_path, store)
    with pytest.raises(PcdiffError) as caught:
        sync(run, dead_server.replace("http://", "http://user:secret@"))
    assert str(caught.value).startswith(f"{dead_server.replace('http://', 'http://user@')}: the tracking store cannot")
    assert "Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value) + (run / "tracking.json").read_text()
    append(run, 1)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write("no metrics\n")
    with pytest.raises(PcdiffError, match=r"metrics\.jsonl: the line at byte \d+ is not a line of metrics"):
        sync(run, store)
    (run / "metrics.jsonl").write_text("")
    sync(run, store)
    append(run, 1)
    sync(run)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(PcdiffError, match=r"metrics\.jsonl: is shorter than what was already sent"):
        sync(run)
    (run / "run.json").write_text("{}")
    with pytest.raises(PcdiffError, match=r"run\.json: is not the description of a run"):
        sync(run, store, "another")


def test_the_page_of_a_server_is_only_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    ui("https://tracking.example.org")
    assert opened == ["https://tracking.example.org"]
    assert "https://tracking.example.org" in capsys.readouterr().out


def test_the_page_needs_a_store_and_a_free_port(store: str, tmp_path: Path) -> None:
    with pytest.raises(PcdiffError, match=r"mlflow\.db: no tracking store here"):
        ui(f"sqlite:///{tmp_path}/none/mlflow.db", open_browser=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PcdiffError, match=f"port {port}: cannot be used"):
            ui(store, port=port, open_browser=False)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no process groups")
def test_a_server_ends_with_its_workers(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """The server here is a process that starts a worker and ends; a pipe stays open as long as one of them lives."""
    script = "import subprocess; subprocess.Popen(['sleep', '60'])"
    start = subprocess.Popen
    reading, writing = os.pipe()

    def started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert options["env"]["PYTHONWARNINGS"] == "ignore"
        server = start([sys.executable, "-c", script], **{**options, "stdout": writing})
        os.close(writing)
        return server

    monkeypatch.setattr(subprocess, "Popen", started)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PcdiffError, match="MLflow's server ended"):
        ui(store, port, open_browser=False)
    ready, _, _ = select.select([reading], [], [], 30)
    assert ready
    assert os.read(reading, 1) == b""
    os.close(reading)


@contextmanager
def real_server(store: str, port: int) -> Iterator[str]:
    """`pcdiff ui` in a process of its own."""
    script = f"from pcdiff.tracking import ui; ui({store!r}, {port}, open_browser=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert "http" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_real_server_dies_in_mid_run(run: Path, store: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with real_server(store, port) as uri:
        with urllib.request.urlopen(uri) as page:
            assert b"MLflow" in page.read()
        append(run, *range(100))
        mirror = Mirror(run, uri, interval=0.1)
        mirror.start()
        wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0, 60)
    append(run, *range(100, 200))
    begin = time.monotonic()
    assert not mirror.stop(timeout=5)
    assert time.monotonic() - begin < 6
    with real_server(store, port):
        sync(run)
        assert in_store(store) == in_folder(run)
        assert sync(run).metrics == 0


def test_mlflow_is_not_imported_by_the_package() -> None:
    script = "import sys, pcdiff.tracking as t; t.Mirror('.'); assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert mlflow.__name__ in sys.modules
