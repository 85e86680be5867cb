from __future__ import annotations

import hashlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pcdiff.data import fetch
from pcdiff.data.fetch import DATA_SETS, DataSet
from pcdiff.errors import DataError

BODY = np.random.default_rng(0).bytes(3_000_000)


@dataclass
class Server:
    """A local server and what it was asked for.

    Attributes:
        sends: how many bytes of a body go out before the server falls silent (``stalls``) or hangs up.
    """

    url: str = ""
    body: bytes = BODY
    sends: int | None = None
    stalls: bool = False
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append((self.path, asked))
            if self.path.strip("/") not in ("g.hdf5", "g150.hdf5"):
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.ranges else 0
            if start >= len(state.body):
                self.send_error(416)
                return
            body = state.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.sends])
            self.wfile.flush()
            if state.stalls:
                state.released.wait(30)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/"
        known = DataSet(state.url, ".hdf5", {"g": hashlib.md5(BODY).hexdigest(), "q": "0" * 32})
        monkeypatch.setitem(DATA_SETS, "jetnet30", known)  # type: ignore[arg-type]
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        state.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Path]:
    def get(**changes: object) -> Path:
        return fetch(**{"base_url": server.url, "output": tmp_path, "progress": False, **changes})  # type: ignore[arg-type]

    return get


def test_a_good_file_arrives_under_its_name_and_is_not_fetched_twice(
    server: Server, get: Callable[..., Path], tmp_path: Path
) -> None:
    assert get() == tmp_path / "g.hdf5"
    assert (tmp_path / "g.hdf5").read_bytes() == BODY
    assert get() == tmp_path / "g.hdf5"
    assert server.asked == [("/g.hdf5", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["g.hdf5"]


def test_a_wrong_sum_leaves_no_file(server: Server, get: Callable[..., Path], tmp_path: Path) -> None:
    server.body = BODY[:-1] + b"x"
    with pytest.raises(DataError, match=r"g.hdf5: its MD5 sum is \w+, expected \w+"):
        get()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_finished_by_the_next_call(
    server: Server, get: Callable[..., Path], tmp_path: Path, ranges: bool
) -> None:
    server.sends, server.ranges = 1_000_000, ranges
    with pytest.raises(DataError, match=r"ended at 1000000 of 3000000 bytes; fetch it again"):
        get()
    assert not (tmp_path / "g.hdf5").exists()
    server.sends = None
    assert get().read_bytes() == BODY
    assert server.asked[-1] == ("/g.hdf5", "bytes=1000000-")


def test_a_left_over_that_is_too_long_is_fetched_anew(server: Server, get: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "g.hdf5.part").write_bytes(BODY + b"x")
    assert get().read_bytes() == BODY


def test_a_silent_server_is_given_up(server: Server, get: Callable[..., Path], tmp_path: Path) -> None:
    server.sends, server.stalls = 1000, True
    with pytest.raises(DataError, match=r"no data for 0.5 s; fetch it again"):
        get(timeout=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["g.hdf5.part"]


def test_an_unknown_sum_is_reported(get: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert get(name="jetnet150") == tmp_path / "g150.hdf5"
    assert f"not checked; its MD5 sum is {hashlib.md5(BODY).hexdigest()}" in caplog.text


def test_the_server_answers_404(get: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q.hdf5: the server answered 404 \(Not Found\)"):
        get(type="q")
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DataError, match=r"g.hdf5: cannot be reached \(.*refused\); is there a network"):
            fetch(base_url=url, output=tmp_path, progress=False)


def test_a_failure_leaves_no_empty_folder(get: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        get(type="q", output=tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set 'jetnet3': did you mean 'jetnet30'"):
        fetch("jetnet3", output=tmp_path)
    with pytest.raises(DataError, match=r"no jet type 'h' in jetnet30"):
        fetch(type="h", output=tmp_path)
    with pytest.raises(DataError, match=r"expected an address that starts with http"):
        fetch(base_url="file:///data", output=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written"):
        fetch(base_url="http://127.0.0.1:1", output=tmp_path / "file" / "below")
