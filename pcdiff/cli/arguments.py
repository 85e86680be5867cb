"""The kinds of value that options of the command line take; what is wrong with one is said in one line."""

from __future__ import annotations

import argparse
from typing import Literal, get_args, get_origin

__all__ = [
    "CLUSTER",
    "GENERATOR",
    "OneOf",
    "add_reading",
    "count",
    "count_or_all",
    "length_or_all",
    "shard",
    "window",
    "window_or_value",
]

CLUSTER = "the address of a scheduler (tcp://HOST:PORT), its file (*.json), local:N, slurm:N or htcondor:N"
"""What names a Dask cluster."""
GENERATOR = "run folder, generator folder, or name of a generator that comes with pcdiff (pcdiff generators)"
"""What names a generator."""


class OneOf:
    """One of the values that a setting of the sampler may have, known without torch."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def _values(self) -> tuple[str | int, ...]:
        # Pydantic takes a moment to import, which only these options need.
        from pcdiff.config import SamplingConfig

        annotation = SamplingConfig.model_fields[self._setting].annotation
        # Where None is allowed besides, the values stand one level deeper.
        literal = next((part for part in get_args(annotation) if get_origin(part) is Literal), annotation)
        return get_args(literal)

    def __call__(self, text: str) -> str | int:
        for value in self._values():
            if text == str(value):
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one of {self}")

    def __str__(self) -> str:
        return ", ".join(map(str, self._values()))


def count(text: str) -> int:
    """A whole number from 1, also as 1e5 or 100_000."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value < 1 or not value.is_integer():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1")
    return int(value)


def count_or_all(text: str) -> int | None:
    """A whole number from 1, or None for ``all``."""
    return None if text == "all" else count(text)


def length_or_all(text: str) -> float | None:
    """A length in mm, or None for ``all``."""
    try:
        return None if text == "all" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a length in mm, or all") from None


def shard(text: str) -> tuple[int, int]:
    """Number and count of shards, as 0/8 to 7/8."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected I/N with I from 0 to N - 1, for example 0/8")
    return int(number), int(count)


def window(text: str) -> tuple[float, float]:
    """Both ends of LOW:HIGH."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected LOW:HIGH, for example 800:1600") from None
    return low, high


def window_or_value(text: str) -> tuple[float, float]:
    """Both ends of LOW:HIGH, or a value twice."""
    try:
        low, high = map(float, text.split(":") if ":" in text else (text, text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a value, or LOW:HIGH, for example 0.1:0.5"
        ) from None
    return low, high


def add_reading(parser: argparse.ArgumentParser, format_option: str, file: str) -> None:
    """The options that say how to read an input; the one of the format has another name where an output has one too."""
    parser.add_argument(
        format_option, dest="input_format", metavar="NAME", help=f"format of {file}, where its content does not say"
    )
    parser.add_argument(
        "--option",
        metavar="KEY=VALUE",
        dest="options",
        action="append",
        default=[],
        help=f"of the reader of {file}, for example jets=FatJet; may be repeated",
    )
