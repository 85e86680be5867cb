"""A store that fails in every way that servers and disks fail: training goes on, and nothing is missing after a sync."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pcdiff.errors import PcdiffError
from pcdiff.tracking import Mirror, sync

from .runs import append, assert_complete, in_folder, state, tracked, wait_for
from .servers import Answer, Call, LostAnswer, NoAnswer, Proxy, free_port, mlflow_server


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server; it takes about 10 s to start."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with mlflow_server(folder, free_port()) as uri:
        yield uri


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


class EveryNth:
    """Each nth call fails in the same way."""

    def __init__(self, n: int, fault: Callable[[], Answer | None]) -> None:
        self._n, self._fault, self._count = n, fault, 0

    def __call__(self, _: Call) -> Answer | None:
        self._count += 1
        return self._fault() if self._count % self._n == 0 else None


def refused() -> None:
    raise NoAnswer


def lost() -> None:
    raise LostAnswer


def unavailable() -> Answer:
    return Answer(503, "<html><body>503 Service Unavailable</body></html>", "text/html")


# One call fails


@pytest.mark.parametrize("fault", [refused, lost, unavailable])
def test_a_server_that_fails_every_fifth_call(run: Path, proxy: Proxy, fault: Callable[[], Answer | None]) -> None:
    """No two attempts of the mirror fail at the same call, and the last is sync's."""
    proxy.fault = EveryNth(5, fault)
    mirror = Mirror(run, proxy.uri, interval=0.01)
    mirror.start()
    for step in range(100):
        append(run, step)
    mirror.stop(timeout=2)
    proxy.fault = lambda _: None
    sync(run)
    assert_complete(run, proxy.uri)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [refused, lost, unavailable])
def test_whichever_call_fails_the_next_sync_completes_the_run(
    run: Path, proxy: Proxy, fault: Callable[[], Answer | None], tmp_path: Path
) -> None:
    append(run, *range(3))
    failures = 0
    while True:
        copy = Path(shutil.copytree(run, tmp_path / f"copy {failures}"))
        proxy.calls.clear()
        wanted = failures

        def nth(call: Call, wanted: int = wanted) -> Answer | None:
            return fault() if len(proxy.calls) == wanted + 1 else None

        proxy.fault = nth
        try:
            sync(copy, proxy.uri)
        except PcdiffError:
            failures += 1
        else:
            break
        proxy.fault = lambda _: None
        sync(copy)
        assert_complete(copy, proxy.uri)
    # As many as a sync makes.
    assert failures == len(proxy.calls) > 15


# It hangs


@pytest.mark.parametrize(
    "where", ["experiments/get-by-name", "runs/search", "runs/create", "runs/log-batch", "mlflow-artifacts", "runs/update"]
)
def test_the_end_of_a_run_waits_for_a_hanging_server_as_long_as_it_says(
    run: Path, proxy: Proxy, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training's thread waits for is the mirror's thread alone, and only for the time that it was given."""
    reached, over = threading.Event(), threading.Event()

    def hang(call: Call) -> None:
        if where in call.path:
            reached.set()
            over.wait(60)
            raise NoAnswer

    proxy.fault = hang
    append(run, *range(10))
    mirror = Mirror(run, proxy.uri, interval=0.01)
    mirror.start()
    stopping = threading.Thread(target=mirror.stop, kwargs={"timeout": 3600.0})
    if where in {"mlflow-artifacts", "runs/update"}:
        # These are called when the run ends.
        stopping.start()
    assert reached.wait(30)
    waits: list[tuple[str, float | None]] = []
    join = threading.Thread.join
    monkeypatch.setattr(
        threading.Thread, "join", lambda self, timeout=None: (waits.append((self.name, timeout)), join(self, timeout))[1]
    )
    assert not mirror.stop(timeout=0.25)
    assert waits == [("pcdiff-mirror", 0.25)]
    assert not over.is_set()
    monkeypatch.undo()
    # Another process may send the run by now, to another store or to this one when it is well again.
    assert state(run)["status"] == "FINISHED"
    proxy.fault = lambda _: None
    sync(run)
    assert_complete(run, proxy.uri)
    over.set()
    if stopping.ident is not None:
        stopping.join()
    # The call that hung comes to its end, and changes nothing any more.
    before = state(run)
    for other in threading.enumerate():
        if other.name == "pcdiff-mirror":
            other.join()
    assert state(run) == before
    assert_complete(run, proxy.uri)


@pytest.mark.parametrize("where", ["experiments/get-by-name", "mlflow-artifacts"])
def test_the_process_ends_at_once_although_a_call_hangs(run: Path, proxy: Proxy, where: str) -> None:
    """An upload must not be in a thread that the interpreter waits for."""
    over = threading.Event()

    def hang(call: Call) -> None:
        if where in call.path:
            over.wait(60)
            raise NoAnswer

    proxy.fault = hang
    append(run, 1)
    script = f"""
import time
from pcdiff.tracking import Mirror
mirror = Mirror({str(run)!r}, {proxy.uri!r}, interval=0.05)
mirror.start()
print("stopping", flush=True)
mirror.stop(timeout=float(input()))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    try:
        wait_for(lambda: len(proxy.calls) > 0, 60)
        # By then all calls before the one that hangs have been answered.
        _, said = process.communicate("8", timeout=40)
    finally:
        process.kill()
        over.set()
    assert any(where in call.path for call in proxy.calls)
    assert process.returncode == 0
    assert "pcdiff track sync" in said
    assert len(said.splitlines()) == 1


# It is slow


@pytest.mark.slow
def test_a_server_that_takes_ten_seconds_for_each_call(run: Path, proxy: Proxy) -> None:
    """Some 20 calls: the mirror gets as far as there is time for, and sync waits for each answer."""
    pause = threading.Event()

    def slow(_: Call) -> None:
        pause.wait(10)

    proxy.fault = slow
    append(run, *range(10))
    mirror = Mirror(run, proxy.uri, interval=0.1)
    mirror.start()
    wait_for(lambda: (run / "tracking.json").exists() and state(run)["run_id"] is not None, 120)
    append(run, *range(10, 20))
    assert not mirror.stop(timeout=1)
    sync(run)
    pause.set()
    assert_complete(run, proxy.uri)


# It rejects


PAGE = "<html>\n<body>\n<h1>Sign in</h1>\n</body>\n</html>"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(400, json.dumps({"error_code": "BAD_REQUEST", "message": "no"})),
        Answer(401, PAGE, "text/html"),
        Answer(403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"})),
        Answer(404, PAGE, "text/html"),
        Answer(429, json.dumps({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "later"})),
        Answer(500, json.dumps({"error_code": "INTERNAL_ERROR", "message": "database or disk is full"})),
        Answer(502, PAGE, "text/html"),
        Answer(503, json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"})),
        Answer(200, PAGE, "text/html"),
        Answer(418, json.dumps({"error_code": "TEAPOT", "message": "short and stout"})),
    ],
    ids=lambda answer: f"{answer.status} {answer.content_type[-4:]}",
)
@pytest.mark.parametrize("where", ["/", "runs/log-batch", "mlflow-artifacts"])
def test_a_server_that_rejects(
    run: Path, proxy: Proxy, answer: Answer, where: str
) -> None:
    append(run, 1)
    proxy.fault = lambda call: answer if where in call.path else None
    if where != "mlflow-artifacts" or answer.status != 200:
        with pytest.raises(PcdiffError, match="the tracking store cannot be used") as caught:
            sync(run, proxy.uri)
        assert "\n" not in str(caught.value)
    proxy.fault = lambda _: None
    sync(run, proxy.uri)
    assert_complete(run, proxy.uri)


def test_a_server_that_asks_to_sign_in(run: Path, proxy: Proxy) -> None:
    append(run, 1)

    def sign_in(call: Call) -> Answer:
        if call.path == "/sign-in":
            return Answer(200, PAGE, "text/html")
        return Answer(302, location=f"{proxy.uri}/sign-in")

    proxy.fault = sign_in
    with pytest.raises(PcdiffError, match="the tracking store cannot be used"):
        sync(run, proxy.uri)
    proxy.fault = lambda _: None
    sync(run, proxy.uri)
    assert_complete(run, proxy.uri)
