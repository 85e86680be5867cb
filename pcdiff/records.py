"""What a run folder says of itself, checked as it is read: run.json, and the lines of metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcdiff.errors import DataError
from pcdiff.files import read_json

__all__ = ["Line", "check_description", "metric_lines", "parse_line", "read_metrics", "read_run"]

_PARTS: Mapping[str, type] = {
    "name": str,
    "created": str,
    "config_hash": str,
    "data_fingerprint": dict,
    "versions": dict,
    "params": dict,
    "tags": dict,
    "steps": int,
}


@dataclass(frozen=True)
class Line:
    """A line of metrics.jsonl.

    Attributes:
        step: optimiser step.
        time: when, in seconds since 1970.
        metrics: values by name; also NaN and infinity.
    """

    step: int
    time: float
    metrics: Mapping[str, float]


def read_run(run: Path) -> dict[str, Any]:
    """What run.json says of a run.

    Raises:
        DataError: the file is missing or damaged, or a part of it is not what it should be.
    """
    about = read_json(run / "run.json")
    check_description(about, run / "run.json")
    return about


def check_description(about: Any, file: Path) -> None:
    """Whether what is said of a run, in its run.json or as the provenance of its generator, is of the right types.

    Raises:
        DataError: these are no values by name, or a part that is there is not what it should be.
    """
    if not isinstance(about, dict):
        raise DataError(f"{file}: says {about!r:.60} of a run, expected values by name: is the file damaged?")
    for key, kind in _PARTS.items():
        if key in about and (not isinstance(about[key], kind) or isinstance(about[key], bool)):
            wanted = {str: "text", int: "a whole number", dict: "values by name"}[kind]
            raise DataError(f"{file}: {key} is {about[key]!r:.60}, expected {wanted}: is the file damaged?")


def parse_line(text: str | bytes) -> Line:
    """A line of metrics.jsonl.

    Raises:
        ValueError: it is none.
    """
    try:
        record = json.loads(text)
        metrics = {str(name): float(value) for name, value in record["metrics"].items()}
        return Line(int(record["step"]), float(record["time"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a line of metrics ({type(error).__name__}: {error!s:.160})") from error


def metric_lines(file: Path) -> list[bytes]:
    """The lines of metrics.jsonl as they stand; the last is what follows the last end of a line.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return file.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def read_metrics(file: Path) -> list[Line]:
    """All whole lines of metrics.jsonl; a last one that has no end is still being written, or was cut short by a kill.

    Raises:
        DataError: a line is damaged.
    """
    found = []
    for number, line in enumerate(metric_lines(file)[:-1], 1):
        try:
            found.append(parse_line(line))
        except ValueError as error:
            raise DataError(f"{file}: line {number} is {error}") from error
    return found
