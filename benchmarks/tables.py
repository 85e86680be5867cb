"""The results of speed.py as tables: printed, and as Markdown in the README beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcdiff.files import atomic_file

README = Path(__file__).with_name("README.md")


def training_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["constituents", "net", "parameters", "jets a step", "jets/s", "ratio"]]
    for row in rows:
        part = row["training"]
        lines.append(
            [
                str(row["constituents"]),
                row["net"],
                f"{row['parameters']:,}",
                f"{part['clouds_per_step']:.0f}",
                _spread_of(part["clouds_per_second"]),
                _spread_of(part["ratio"]),
            ]
        )
    return lines


def sampling_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["constituents", "net", "ms/evaluation", "ratio", "evaluations", "jets/s", "ratio", "ratio to Pythia"]]
    for row in rows:
        one, whole = row["evaluation"], row["sampling"]
        lines.append(
            [
                str(row["constituents"]),
                row["net"],
                _spread_of(one["milliseconds_per_cloud"]),
                _spread_of(one["ratio"]),
                str(whole["evaluations"]),
                _spread_of(whole["clouds_per_second"]),
                _spread_of(whole["ratio"]),
                _spread_of(whole["ratio_to_pythia"]) if whole["ratio_to_pythia"] else "not installed",
            ]
        )
    return lines


def _spread_of(summary: dict[str, Any]) -> str:
    if summary["low"] == summary["high"]:
        return _digits(summary["median"])
    return f"{_digits(summary['median'])} ({_digits(summary['low'])}-{_digits(summary['high'])})"


def _digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def notes(result: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    at, whole, pythia = result["conditions"], result["whole_call"], result["pythia"]
    machine = [at["cpu"], f"{at['cores']} cores", at["capability"], at["system"]]
    load = f"load average at the start {at['load_average_at_start']:.1f}"
    versions = ", ".join(f"{name} {number}" for name, number in at["versions"].items())
    extent = (
        f"Training: {at['training_steps_a_round']} steps a round, at most {at['points_per_batch']} points in a batch. "
        f"Sampling: blocks of {at['block']:,} jets of a request for {at['request']:,}."
    )
    call = (
        f"`Generator.sample` of {at['block']:,} jets of 30 constituents with EPiC took {_digits(whole['call'])} s, its "
        f"evaluations alone {_digits(whole['evaluations'])} s."
    )
    if pythia is None:
        made = "Pythia 8 and FastJet are not installed (extra `pythia`)."
    else:
        speeds = " and ".join(_spread_of(speed) for speed in pythia["jets_per_second"])
        made = (
            f"Pythia 8 and FastJet, one process, {at['pythia_jets_a_round']} jets a round: {speeds} jets/s, beside 30 and "
            f"150 constituents; its start of {_digits(pythia['start_seconds'])} s is not counted."
        )
    return [
        f"{at['date']}; {', '.join(machine)}; torch threads: {at['threads']}; {load}.",
        f"{versions}.",
        f"Median of {at['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round.",
        extent,
        call,
        made,
    ]


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    for title, lines in (("Training", training_table(result["rows"])), ("Sampling", sampling_table(result["rows"]))):
        table = Table(title=title)
        for name in lines[0]:
            table.add_column(name, justify="left" if name == "net" else "right")
        for line in lines[1:]:
            table.add_row(*line, end_section=line[1] == "reference")
        console.print(table)
    for note in notes(result):
        console.print(note, highlight=False)


def markdown(result: dict[str, Any]) -> str:
    """The tables and notes as in benchmarks/README.md."""
    parts = []
    for title, (head, *body) in (
        ("Training", training_table(result["rows"])),
        ("Sampling", sampling_table(result["rows"])),
    ):
        lines = [head, ["---"] * len(head), *body]
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {note}" for note in notes(result)))
    return "\n\n".join(parts)


def update_readme(result: dict[str, Any]) -> None:
    """Replace what stands between the two marks in benchmarks/README.md."""
    begin, end = "<!-- results: written by speed.py -->", "<!-- end of results -->"
    text = README.read_text(encoding="utf-8")
    head, tail = text.partition(begin)[0], text.partition(end)[2]
    with atomic_file(README) as temporary:
        temporary.write_text(f"{head}{begin}\n\n{markdown(result)}\n\n{end}{tail}", encoding="utf-8")
