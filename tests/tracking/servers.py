"""A real MLflow server, and a proxy before it that fails as it is told."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """``mlflow server`` with its database folder/mlflow.db and files in folder/files; killed without a word at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            # Its workers are in its process group and would outlive it.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _await(page: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(page, timeout=5):
                return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)


@dataclass(frozen=True)
class Call:
    """A request of the client."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the proxy says instead of the server."""

    status: int
    body: str = ""
    content_type: str = "application/json"
    location: str | None = None


Fault = Callable[[Call], Answer | None]
"""What happens to a call: an answer of the proxy's own, or ``None`` for the server's; or one of the errors below."""


class NoAnswer(Exception):
    """The connection is closed before the server hears of the call."""


class LostAnswer(Exception):
    """The connection is closed after the server has done what was asked."""


def healthy(_: Call) -> None:
    """Every call goes to the server."""


class Proxy:
    """Stands before a server; ``fault`` decides what becomes of each call, ``calls`` has all that came."""

    def __init__(self, uri: str) -> None:
        self.calls: list[Call] = []
        self.fault: Fault = healthy
        self._server = uri.removeprefix("http://")
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # A call may hang for longer than a test lasts.
        self._proxy.daemon_threads = True
        self._proxy.block_on_close = False
        # The client may have given up when its answer comes.
        self._proxy.handle_error = lambda *_: None
        self.uri = f"http://127.0.0.1:{self._proxy.server_port}"
        self._thread = threading.Thread(target=self._proxy.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()

    def _forward(self, call: Call, content_type: str | None) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(self._server, timeout=60)
        try:
            headers = {} if content_type is None else {"Content-Type": content_type}
            connection.request(call.method, call.path, call.body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Content-Type", "application/json")
        finally:
            connection.close()

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                call = Call(self.command, self.path, self._body())
                proxy.calls.append(call)
                self.close_connection = True
                try:
                    own = proxy.fault(call)
                except NoAnswer:
                    return
                except LostAnswer:
                    proxy._forward(call, self.headers["Content-Type"])
                    return
                if own is None:
                    self._answer(*proxy._forward(call, self.headers["Content-Type"]))
                else:
                    self._answer(own.status, own.body.encode(), own.content_type, own.location)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _take

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, body: bytes, content_type: str, location: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                if location is not None:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return

        return Handler
