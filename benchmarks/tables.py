"""Tables of results: printed, and as Markdown in the README beside this file, between two marks for each script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcdiff.errors import PcdiffError
from pcdiff.files import atomic_file

README = Path(__file__).with_name("README.md")

Lines = Sequence[Sequence[str]]


def markdown_table(lines: Lines) -> str:
    """A table in Markdown; the first line is its heading."""
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def bullets(notes: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {note}" for note in notes)


def show(title: str, lines: Lines, console: Console) -> None:
    """Print a table; the first line is its heading."""
    table = Table(title=title)
    for name in lines[0]:
        table.add_column(name)
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)


def console() -> Console:
    """Where results are printed, wide enough for tables in a log file too."""
    return Console(width=None if Console().is_terminal else 160)


def spread_of(summary: dict[str, Any]) -> str:
    """Median of some rounds and, in brackets, the lowest and the highest."""
    if summary["low"] == summary["high"]:
        return digits(summary["median"])
    return f"{digits(summary['median'])} ({digits(summary['low'])}-{digits(summary['high'])})"


def digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    units = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0))
    name, unit = next((pair for pair in reversed(units) if seconds >= pair[1]), units[0])
    # A minute and a half is 90 seconds, but a thousandth of a second and a half is 1.5 of them.
    if unit >= 60 and seconds < 2 * unit:
        name, unit = units[[found for found, _ in units].index(name) - 1]
    return "0" if seconds == 0 else f"{digits(seconds / unit)} {name}"


def size(count: float) -> str:
    """Bytes in a decimal unit that suits them."""
    units = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
    name, unit = next((pair for pair in reversed(units) if count >= pair[1]), units[0])
    return f"{digits(count / unit)} {name}"


def update_readme(script: str, text: str, readme: Path = README) -> None:
    """Replace what stands between the two marks of a script in a Markdown file.

    Raises:
        PcdiffError: the file or the marks are not there.
    """
    begin, end = f"<!-- results: written by {script} -->", f"<!-- end of results of {script} -->"
    found = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if begin not in found or end not in found:
        raise PcdiffError(f"{readme}: expected the marks {begin} and {end}")
    head, tail = found.partition(begin)[0], found.partition(end)[2]
    with atomic_file(readme) as temporary:
        temporary.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")
