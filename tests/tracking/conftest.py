"""A run folder, stores, and servers that do not answer."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcdiff.tracking.store import prepare


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow needs 7 s to make a database: make one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare(f"sqlite:///{file}")
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    folder = tmp_path / "a store"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for inner in ("figures", "generator", "evaluation/figures"):
        (folder / inner).mkdir(parents=True)
    (folder / "config.yaml").write_text("name: test\n")
    (folder / "generator" / "generator.json").write_text("{}")
    (folder / "generator" / "denoiser.safetensors").write_bytes(bytes(1000))
    (folder / "figures" / "loss.png").write_bytes(b"picture")
    (folder / "evaluation" / "index.html").write_text("report")
    (folder / "evaluation" / "figures" / "mass.png").write_bytes(b"picture")
    about = {
        "name": "test",
        "created": "2024-05-01T12:00:00+00:00",
        "config_hash": "c0ffee",
        "data_fingerprint": {"train": "a" * 64, "validation": "b" * 64},
        "versions": {"pcdiff": "0.1"},
        "params": {"net.kind": "epic", "long": "x" * 7000, "none": None, **{f"p{i}": i for i in range(150)}},
        "tags": {"host": "here", "git_commit": "abc123"},
    }
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in taken:
        connection.close()
    for other in threading.enumerate():
        if other.name == "pcdiff-mirror":
            other.join(20)


@pytest.fixture
def dead_server() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
