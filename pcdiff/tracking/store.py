"""Where runs are tracked: which store, how to reach it without ever waiting long, and its page."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from pcdiff.errors import PcdiffError

__all__ = ["artifact_location", "prepare", "public", "reason", "settings", "store_uri", "ui"]

_SETTINGS = {
    # Nobody waits for an answer but the mirror's own thread and `pcdiff track sync`; a busy server may take its time.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # A request whose answer was lost may have worked. Repeating it blindly, as MLflow would, creates a run twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # The address that it prints has the password, and other programs read what pcdiff prints.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_SQLITE = "sqlite:///"
_users: list[object] = []
_users_lock = threading.Lock()
_before: dict[str, str | None] = {}


def store_uri(uri: str | None = None) -> str:
    """The tracking store: ``uri``, else the environment's MLFLOW_TRACKING_URI, else ./mlflow.db.

    Paths of sqlite files are made absolute, so that a later change of folder does not change the store.

    >>> store_uri("http://tracking.example.org:5000")
    'http://tracking.example.org:5000'
    >>> store_uri("sqlite:////data/mlflow.db")
    'sqlite:////data/mlflow.db'
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    file = _sqlite_file(chosen)
    return chosen if file is None else f"{_SQLITE}{file.absolute()}"


def _sqlite_file(uri: str) -> Path | None:
    name = uri.removeprefix(_SQLITE)
    return Path(name) if name not in {uri, "", ":memory:"} and "?" not in name else None


def public(text: str) -> str:
    """Text without the passwords of the addresses in it.

    >>> public("postgresql://reader:secret@db.example.org/mlflow")
    'postgresql://reader@db.example.org/mlflow'
    """
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", text)


def reason(error: BaseException) -> str:
    """The root of an error in a few words: HTTP clients wrap "connection refused" in half a page."""
    root = error
    while inner := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = inner
    text = " ".join(public(str(root)).split()) or type(root).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


@contextmanager
def settings() -> Iterator[None]:
    """MLflow's environment variables for bounded waits, no repeats, no chatter and no telemetry.

    What was there before comes back when the last of several threads is done.
    """
    with _users_lock:
        if not _users:
            _before.update({name: os.environ.get(name) for name in _SETTINGS})
            os.environ.update(_SETTINGS)
        user = object()
        _users.append(user)
    try:
        yield
    finally:
        with _users_lock:
            _users.remove(user)
            if not _users:
                for name, value in _before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files: beside a sqlite store, else where the store decides (``None``)."""
    file = _sqlite_file(uri)
    return None if file is None else (file.parent / "mlartifacts").as_uri()


def prepare(uri: str) -> None:
    """Make the database of a new sqlite store, whole or not at all.

    MLflow takes about 7 s to make one, in many steps; a process that ends in between would leave a file that no MLflow
    opens again. So it is made under another name first.
    """
    file = _sqlite_file(uri)
    if file is None or file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mlflow-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / file.name
        store = SqlAlchemyStore(f"{_SQLITE}{made}", artifact_location(uri))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        try:
            # Unlike a rename, a link does not replace the store that another process may have made meanwhile.
            os.link(made, file)
        except FileExistsError:
            return
        except OSError:
            # Not every file system has links.
            made.rename(file)


def ui(uri: str | None = None, port: int = 5000, open_browser: bool = True) -> None:
    """Show the MLflow page of the store; serves it on this machine until interrupted if the store is no server.

    Raises:
        PcdiffError: there is no such store, the port is taken, or MLflow does not start.
    """
    store = store_uri(uri)
    if store.startswith(("http://", "https://")):
        _show(store, open_browser)
        return
    file = _sqlite_file(store)
    if file is not None and not file.exists():
        raise PcdiffError(f"{file}: no tracking store here; train a run first, or name the store with --uri")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PcdiffError(f"port {port}: cannot be used ({error.strerror}); choose another with --port") from error
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    command += ["--workers", "1", "--uvicorn-opts", "--log-level=warning"]
    # Without jobs the server starts no helper processes, which it would leave behind.
    environment = {
        **os.environ,
        **_SETTINGS,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # About the inside of MLflow's server, which its reader cannot change.
        "PYTHONWARNINGS": "ignore",
    }
    folder = None if file is None else file.parent
    server = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        page = f"http://127.0.0.1:{port}"
        _await_page(f"{page}/health", server)
        _show(page, open_browser)
        server.wait()
    except KeyboardInterrupt:
        return
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server with all of its workers, which outlive it when it dies alone."""
    # Who stops pcdiff gives it some 10 s before killing it, and nobody would be left to end the server.
    for request, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, request)
        try:
            server.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def _show(page: str, open_browser: bool) -> None:
    Console(soft_wrap=True).print(f"MLflow: {public(page)}", highlight=False)
    if open_browser:
        webbrowser.open(page)


def _await_page(page: str, server: subprocess.Popen[bytes]) -> None:
    # A proxy, which the environment may name, cannot see this machine's own pages.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None:
        try:
            with direct.open(page, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise PcdiffError(f"MLflow's server ended with exit code {server.returncode}")
