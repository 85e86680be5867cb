"""Whether all files that have their names are whole, and whether two folders of the pipeline hold the same."""

from __future__ import annotations

import json
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import safetensors.numpy
from PIL import Image

import pcdiff
from pcdiff.errors import PcdiffError
from pcdiff.files import expand, read_json, sha256
from pcdiff.generator import Generator
from pcdiff.records import read_metrics
from tests.stress.pipeline import ELSEWHERE, RUN, STORE
from tests.tracking.runs import assert_complete, state, tracked

__all__ = ["Whole", "differences"]

_CLOUDS = {".hdf5", ".parquet", ".root"}
# Folders that appear whole or not at all: they hold what those of the undisturbed pipeline hold.
_FOLDERS = (f"{RUN}/generator", f"{RUN}/evaluation", "report")
# What a file lacks that was cut short.
_ENDS = {".pdf": b"%%EOF\n", ".html": b"</html>", ".csv": b"\n", ".yaml": b"\n", ".tex": b"\n"}


class Whole:
    """Looks through a folder of the pipeline again and again.

    Args:
        folder: the folder.
        undisturbed: that of a pipeline which nothing disturbed, for clouds that have the same name there are the same.

    Attributes:
        files: how many files were found whole, each as often as it was looked at anew.
        temporaries: how many half-written ones were seen, under names that say so.
    """

    def __init__(self, folder: Path, undisturbed: Path) -> None:
        self.files, self.temporaries = 0, 0
        self._folder, self._undisturbed = folder, undisturbed
        self._expected: dict[Path, str] = {}
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def problems(self) -> list[str]:
        """What is not whole, one line each."""
        found = []
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder)
            if not path.is_file() or "mlartifacts" in name.parts:
                # MLflow copies files as they come; those that it has not acknowledged are sent again.
                continue
            if any(part.startswith(".") for part in name.parts):
                self.temporaries += path not in self._seen
                self._seen[path] = (0, 0, 0)
                continue
            stat = path.stat()
            now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._seen.get(path) == now:
                continue
            self._seen[path] = now
            try:
                self._check(path, name)
                self.files += 1
            except (PcdiffError, ValueError, OSError, sqlite3.DatabaseError) as error:
                found.append(f"{name}: {error}")
        return found + self._folders() + self._taken()

    def _folders(self) -> list[str]:
        found = []
        for name in _FOLDERS:
            here, there = (
                {path.relative_to(root / name) for path in (root / name).rglob("*")}
                for root in (self._folder, self._undisturbed)
            )
            if here and here != there:
                found.append(f"{name}: has not the files that it should: {sorted(map(str, here ^ there))}")
        return found

    def _taken(self) -> list[str]:
        """What a user's patterns find although it is half-written."""
        found = expand(f"{self._folder}/**/*")
        return [f"{path}: is half-written, and found by a pattern" for path in found if ".tmp" in path.name]

    def _check(self, path: Path, name: Path) -> None:
        """Read a file as its reader does, with its checksums."""
        if path.suffix in _CLOUDS:
            found = pcdiff.read(path).fingerprint()
            if self._expectation(name) not in {found, ""}:
                raise ValueError("holds other clouds than those of the undisturbed pipeline")
        elif path.suffix == ".safetensors":
            safetensors.numpy.load_file(path)
            if path.name == "state.safetensors" and sha256(path) != read_json(path.with_name("state.json"))["sha256"]:
                raise ValueError("has not the checksum of its state.json")
            if path.parent.name == "generator":
                Generator.load(path.parent)
        elif path.suffix == ".json":
            read_json(path)
        elif path.name == "metrics.jsonl":
            read_metrics(path)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix in _ENDS:
            if not path.read_bytes().endswith(_ENDS[path.suffix]):
                raise ValueError("is cut short")
        elif path.suffix == ".db":
            with closing(sqlite3.connect(path)) as store:
                (answer,) = store.execute("PRAGMA integrity_check").fetchone()
            if answer != "ok":
                raise ValueError(answer)
        elif path.name != "lock" and not path.name.startswith("mlflow.db-"):
            raise ValueError("is a file that nobody should have made")

    def _expectation(self, name: Path) -> str:
        """The fingerprint of the undisturbed pipeline's file of that name; nothing where there is none, as of a shard."""
        file = self._undisturbed / name
        if file not in self._expected:
            self._expected[file] = pcdiff.read(file).fingerprint() if file.exists() else ""
        return self._expected[file]


def differences(folder: Path, undisturbed: Path) -> tuple[list[str], list[str]]:
    """What the disturbed pipeline has otherwise than the undisturbed one, and what it has alike, one line each."""
    comparisons: dict[str, Callable[[Path], Any]] = {
        "the generator's weights": lambda root: {
            path.name: sha256(path) for path in sorted((root / RUN / "generator").glob("*.safetensors"))
        },
        "the last checkpoint": lambda root: sha256(max((root / RUN).glob("checkpoints/*/state.safetensors"))),
        "the metrics of the training": lambda root: [
            (line.step, {key: value for key, value in line.metrics.items() if key != "steps_per_second"})
            for line in read_metrics(root / RUN / "metrics.jsonl")
        ],
        "the data": lambda root: pcdiff.read(root / "jets.hdf5").fingerprint(),
        "the sample in one file": lambda root: pcdiff.read(root / "whole.parquet").fingerprint(),
        "the sample in shards": lambda root: pcdiff.read(root / "sample.parquet").fingerprint(),
        "the sample in ROOT": lambda root: pcdiff.read(root / "sample.root").fingerprint(),
        "the report": lambda root: _without_dates(read_json(root / "report" / "metrics.json")),
    }
    differing, alike = [], []
    for what, of in comparisons.items():
        here, there = of(folder), of(undisturbed)
        if here == there:
            alike.append(f"{what}: equal")
        else:
            differing.append(f"{what}: {json.dumps(here)[:300]}, undisturbed {json.dumps(there)[:300]}")
    for what, root in (("whole", folder), ("undisturbed whole", undisturbed)):
        if pcdiff.read(root / "whole.parquet").fingerprint() != pcdiff.read(root / "sample.parquet").fingerprint():
            differing.append(f"{what}.parquet: is not what its shards join to")
    for store in (STORE, ELSEWHERE):
        problem = _incomplete(folder, store)
        if problem:
            differing.append(f"{store}: {problem}")
        else:
            alike.append(f"{store}: every metric, parameter, tag and file of the run, each once")
    return differing, alike


def _incomplete(folder: Path, store: str) -> str:
    """What a tracking store lacks of the run, or has twice; nothing where all is well."""
    run, uri = folder / RUN, f"sqlite:///{folder / store}"
    runs = [one for one in tracked(uri) if one.data.tags["pcdiff.run"] == state(run)["id"]]
    if len(runs) != 1:
        return f"has the run {len(runs)} times"
    try:
        assert_complete(run, uri)
    except AssertionError as error:
        (*_, last) = traceback.extract_tb(error.__traceback__)
        return f"is not what the run folder holds: {last.line}"
    return ""


def _without_dates(values: Any) -> Any:
    """The same but for when and from what files it was made."""
    if isinstance(values, dict):
        return {key: _without_dates(value) for key, value in values.items() if key not in {"created", "provenance"}}
    return [_without_dates(value) for value in values] if isinstance(values, list) else values
