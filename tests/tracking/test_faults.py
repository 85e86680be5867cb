"""A store that fails in every way that servers and disks fail: training goes on, and nothing is missing after a sync."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pcdiff.errors import PcdiffError
from pcdiff.tracking import Mirror, sync

from ..full_disk import full_disk
from .runs import append, assert_complete, state, tracked, wait_for
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


@pytest.mark.parametrize("where", ["experiments/get-by-name", "runs/create", "runs/log-batch", "mlflow-artifacts"])
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
    if where == "mlflow-artifacts":
        # Files are sent when the run ends.
        stopping.start()
    assert reached.wait(30)
    waits: list[tuple[str, float | None]] = []
    join = threading.Thread.join
    monkeypatch.setattr(
        threading.Thread,
        "join",
        lambda self, timeout=None: (waits.append((self.name, timeout)), join(self, timeout))[1],
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


def test_the_process_ends_at_once_although_an_upload_hangs(run: Path, proxy: Proxy) -> None:
    """An upload must not be in a thread that the interpreter waits for."""
    over = threading.Event()

    def hang(call: Call) -> None:
        if "mlflow-artifacts" in call.path:
            over.wait(60)
            raise NoAnswer

    proxy.fault = hang
    append(run, 1)
    script = f"""
import threading
from pcdiff.tracking import Mirror
mirror = Mirror({str(run)!r}, {proxy.uri!r}, interval=0.05)
mirror.start()
threading.Thread(target=mirror.stop, kwargs={{"timeout": 3600.0}}, daemon=True).start()
input()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: any("mlflow-artifacts" in call.path for call in proxy.calls), 120)
        process.communicate("\n", timeout=30)
        # The server still hangs.
        assert not over.is_set()
        assert process.returncode == 0
    finally:
        process.kill()
        over.set()


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


REJECTIONS = [
    Answer(400, json.dumps({"error_code": "BAD_REQUEST", "message": "no"})),
    Answer(401, PAGE, "text/html"),
    Answer(403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"})),
    Answer(404, PAGE, "text/html"),
    Answer(418, json.dumps({"error_code": "TEAPOT", "message": "short and stout"})),
    Answer(429, json.dumps({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "later"})),
    Answer(500, json.dumps({"error_code": "INTERNAL_ERROR", "message": "database or disk is full"})),
    Answer(502, PAGE, "text/html"),
    Answer(503, json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"})),
]
NO_ANSWERS_OF_MLFLOW = [Answer(200, PAGE, "text/html"), Answer(302, location="http://127.0.0.1:9/sign-in")]


@pytest.mark.parametrize(
    ("where", "answers"),
    [
        ("/", [*REJECTIONS, *NO_ANSWERS_OF_MLFLOW]),
        # All but the first, which says that it is the entries that are bad: then it asks for each of them.
        ("runs/log-batch", [*REJECTIONS[1:], *NO_ANSWERS_OF_MLFLOW]),
        ("mlflow-artifacts", REJECTIONS),
    ],
)
def test_a_server_that_rejects_is_one_line_and_gets_everything_later(
    run: Path, proxy: Proxy, where: str, answers: list[Answer], capfd: pytest.CaptureFixture[str]
) -> None:
    append(run, 1)
    uri = proxy.uri.replace("http://", "http://user:secret@")
    for answer in answers:
        proxy.fault = lambda call, answer=answer: answer if where in call.path else None
        with pytest.raises(PcdiffError, match=r"the tracking store (cannot be used|refuses)") as caught:
            sync(run, uri)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    proxy.fault = lambda _: None
    sync(run, uri)
    assert capfd.readouterr().out == ""
    assert_complete(run, proxy.uri)


def test_a_parameter_that_the_server_does_not_take_holds_nothing_else_back(
    run: Path, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow allows 6,000 characters; older servers allow fewer."""

    def old(call: Call) -> Answer | None:
        if call.path.endswith("log-batch"):
            for parameter in json.loads(call.body).get("params", []):
                if len(parameter["value"]) > 500:
                    message = f"Param value had length {len(parameter['value'])}, which exceeded length limit of 500"
                    return Answer(400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": message}))
        return None

    proxy.fault = old
    append(run, 1)
    mirror = Mirror(run, proxy.uri, interval=0.01)
    mirror.start()
    wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0)
    before = len(proxy.calls)
    append(run, 2)
    wait_for(lambda: bool(state(run)["offset"] == (run / "metrics.jsonl").stat().st_size))
    # The description is not sent again and again.
    assert not any(b'"params"' in call.body for call in proxy.calls[before:])
    assert not mirror.stop(timeout=30)
    assert "refuses param long (INVALID_PARAMETER_VALUE: Param value had length 6000" in caplog.text
    with pytest.raises(PcdiffError, match=r"the tracking store refuses param long \(INVALID_PARAMETER_VALUE: Param"):
        sync(run)
    missing = {"long"}
    (only,) = [one for one in tracked(proxy.uri) if one.data.tags["pcdiff.run"] == state(run)["id"]]
    wanted = json.loads((run / "run.json").read_text())["params"]
    assert only.data.params == {key: str(value) for key, value in wanted.items() if key not in missing}
    assert only.info.status == "FINISHED"
    # Newer now.
    proxy.fault = lambda _: None
    sync(run)
    assert_complete(run, proxy.uri)


def test_a_file_that_the_server_does_not_take_holds_nothing_else_back(run: Path, proxy: Proxy) -> None:
    """A proxy often allows a request one megabyte."""
    append(run, 1)
    proxy.fault = lambda call: Answer(413, PAGE, "text/html") if len(call.body) == 1000 else None
    for _ in range(2):
        with pytest.raises(PcdiffError, match=r"refuses file generator/denoiser\.safetensors \(413 "):
            sync(run, proxy.uri)
    (only,) = [one for one in tracked(proxy.uri) if one.data.tags["pcdiff.run"] == state(run)["id"]]
    assert only.info.status == "FINISHED"
    assert "evaluation/index.html" in state(run)["artifacts"]
    proxy.fault = lambda _: None
    assert sync(run).artifacts == 1
    assert_complete(run, proxy.uri)


def test_a_run_that_is_deleted_while_it_is_sent_is_made_again(run: Path, proxy: Proxy) -> None:
    """To add to a deleted run is refused as bad parameters are."""
    append(run, 1)
    mirror = Mirror(run, proxy.uri, interval=0.01)
    mirror.start()
    wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0)
    MlflowClient(tracking_uri=proxy.uri).delete_run(state(run)["run_id"])
    append(run, 2)
    wait_for(lambda: bool(state(run)["offset"] == (run / "metrics.jsonl").stat().st_size))
    assert mirror.stop(timeout=30)
    assert_complete(run, proxy.uri)


# There are no locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks(
    run: Path, store: str, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither taking the lock nor giving it back ends anything."""

    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    append(run, 1)
    mirror = Mirror(run, store, interval=0.01)
    mirror.start()
    assert mirror.stop(timeout=60)
    assert sync(run).metrics == 0
    assert_complete(run, store)
    assert f"run.json: cannot be locked ({os.strerror(number)})" in caplog.text


# Its disk is full


def test_a_database_on_a_full_disk(run: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    sync(run, store)
    database = Path(store.removeprefix("sqlite:///"))
    append(run, *range(1000))
    with full_disk(database.stat().st_size):
        mirror = Mirror(run, store, interval=0.01)
        mirror.start()
        assert not mirror.stop(timeout=30)
        with pytest.raises(PcdiffError, match="the tracking store cannot be used"):
            sync(run)
    assert f"pcdiff track sync {run}" in caplog.text
    sync(run)
    assert_complete(run, store)


def test_files_on_a_full_disk(run: Path, store: str) -> None:
    """The copy is cut off in the middle; the next one takes its place."""
    append(run, 1)
    size = 2 * Path(store.removeprefix("sqlite:///")).stat().st_size
    content = bytes(range(256)) * (size // 128)
    (run / "generator" / "denoiser.safetensors").write_bytes(content)
    with full_disk(size), pytest.raises(PcdiffError, match=os.strerror(errno.EFBIG)):
        sync(run, store)
    assert "generator/denoiser.safetensors" not in state(run)["artifacts"]
    sync(run)
    assert_complete(run, store)


def test_a_run_folder_on_a_full_disk(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RUN/tracking.json cannot be written: what the store has acknowledged is unknown, and sent once all the same."""

    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    append(run, *range(5))
    sync(run, store)
    append(run, *range(5, 10))
    with monkeypatch.context() as patch:
        patch.setattr("pcdiff.tracking.ledger.write_json", full)
        mirror = Mirror(run, store, interval=0.01)
        mirror.start()
        assert not mirror.stop(timeout=30)
    sync(run)
    assert_complete(run, store)


# Several at once


def test_several_runs_at_once_in_one_sqlite_store(run: Path, store: str, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / f"run {i}")) for i in range(4)]
    mirrors = [Mirror(one, store, interval=0.01) for one in runs]
    for mirror in mirrors:
        mirror.start()
    for step in range(100):
        for one in runs:
            append(one, step)
    for mirror in mirrors:
        mirror.stop(timeout=60)
    for one in runs:
        sync(one)
        assert_complete(one, store)
    assert len(tracked(store)) == len(runs)


@pytest.mark.slow
def test_several_processes_make_one_store_and_one_of_them_is_killed(run: Path, tmp_path: Path) -> None:
    """None of them finds a store or an experiment; each has its run in it afterwards."""
    store = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    script = """
import sys
from pathlib import Path
from pcdiff.tracking import Mirror
sys.path.insert(0, sys.argv[3])
from tests.tracking.runs import append, state, wait_for
run = Path(sys.argv[1])
mirror = Mirror(run, sys.argv[2], interval=0.05)
mirror.start()
for step in range(100):
    append(run, step)
wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0, 300)
print("sending", flush=True)
for step in range(100, 200):
    append(run, step)
input()
mirror.stop(timeout=120)
"""
    runs = [Path(shutil.copytree(run, tmp_path / f"run {i}")) for i in range(4)]
    with ExitStack() as stack:
        processes = []
        for one in runs:
            command = [sys.executable, "-c", script, str(one), store, str(Path(__file__).parents[2])]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "sending\n"
        processes[0].kill()
        for process in processes[1:]:
            process.communicate("\n", timeout=300)
            assert process.returncode == 0
    for i, one in enumerate(runs):
        sync(one)
        assert_complete(one, store, "FINISHED" if i else "KILLED")
    assert len(tracked(store)) == len(runs)


# It dies


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_is_sent_to(run: Path, empty_store: Path, tmp_path: Path) -> None:
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    append(run, *range(100))
    with mlflow_server(folder, port) as uri:
        mirror = Mirror(run, uri, interval=0.01)
        mirror.start()
        wait_for(lambda: (run / "tracking.json").exists() and state(run)["offset"] > 0, 60)
        # Calls are on their way all the time when it goes.
        append(run, *range(100, 20_000))
        offset = state(run)["offset"]
        wait_for(lambda: bool(state(run)["offset"] > offset), 60)
    assert not mirror.stop(timeout=30)
    with mlflow_server(folder, port) as uri:
        sync(run)
        assert_complete(run, uri)
        assert sync(run).metrics == 0
