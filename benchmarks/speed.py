"""Training and sampling speed of the nets, as ratios to a reference that is measured in the same run.

    make bench
    python benchmarks/speed.py --threads 1 --update-readme

What is compared, and how, is described in benchmarks/README.md. How fast whole generators are is for throughput.py to say.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from contenders import FULL, NETS, QUICK, REFERENCE, Extent, contenders
from measuring import conditions, described, ratios, summary
from rich.progress import Progress
from tables import README, bullets, console, markdown_table, show, spread_of, update_readme

from pcdiff.files import write_json

RESULTS = Path(__file__).with_name("results") / "speed.json"


def measure(constituents: int, extent: Extent, advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rounds of all nets at one number of constituents: plain data, one entry a net.

    Args:
        advance: told what has just been measured.
    """
    ours, reference = contenders(constituents, extent)
    field = [*ours, reference]
    for contender in field:
        contender.warm_up(extent.seconds)
        advance(f"{constituents} constituents: warm-up, {contender.name}")
    train: dict[str, list[float]] = {contender.name: [] for contender in field}
    sample: dict[str, list[float]] = {contender.name: [] for contender in field}
    for _ in range(extent.rounds):
        for kind, seconds in (("training", train), ("sampling", sample)):
            for contender in field:
                seconds[contender.name].append(contender.train() if kind == "training" else contender.sample())
                advance(f"{constituents} constituents: {kind}, {contender.name}")

    rows = []
    for contender in field:
        steps = contender.config.sampling.steps
        whole = [steps * seconds for seconds in sample[contender.name]]
        theirs = [reference.config.sampling.steps * seconds for seconds in sample[REFERENCE]]
        rows.append(
            {
                "constituents": constituents,
                "net": contender.name,
                "parameters": sum(p.numel() for p in contender.model.parameters()),
                "training": {
                    "clouds_per_step": contender.mean_batch,
                    "clouds_per_second": summary([1 / seconds for seconds in train[contender.name]]),
                    "ratio": ratios(train[REFERENCE], train[contender.name]),
                },
                "evaluation": {
                    "clouds": contender.sampled,
                    "evaluations": contender.evaluations,
                    "milliseconds_per_cloud": summary([1e3 * seconds for seconds in sample[contender.name]]),
                    "ratio": ratios(sample[REFERENCE], sample[contender.name]),
                },
                "sampling": {
                    "evaluations": steps,
                    "clouds_per_second": summary([1 / seconds for seconds in whole]),
                    "ratio": ratios(theirs, whole),
                },
            }
        )
    return rows


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Heading and lines of each table by its title."""
    training = [["constituents", "net", "parameters", "jets a step", "jets/s", "ratio"]]
    sampling = [["constituents", "net", "ms/evaluation", "ratio", "evaluations", "jets/s", "ratio"]]
    for row in rows:
        name = [str(row["constituents"]), row["net"]]
        part, one, whole = row["training"], row["evaluation"], row["sampling"]
        training.append(
            [
                *name,
                f"{row['parameters']:,}",
                f"{part['clouds_per_step']:.0f}",
                spread_of(part["clouds_per_second"]),
                spread_of(part["ratio"]),
            ]
        )
        sampling.append(
            [
                *name,
                spread_of(one["milliseconds_per_cloud"]),
                spread_of(one["ratio"]),
                str(whole["evaluations"]),
                spread_of(whole["clouds_per_second"]),
                spread_of(whole["ratio"]),
            ]
        )
    return {"Training": training, "Sampling": sampling}


def notes(at: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    return [
        *described(at),
        f"Median of {at['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round.",
        f"Training: {at['training_steps_a_round']} steps a round, at most {at['points_per_batch']} points in a batch.",
        f"Sampling: blocks of {at['block']:,} jets of a request for {at['request']:,}.",
    ]


def markdown(result: dict[str, Any]) -> str:
    """The tables and notes as in benchmarks/README.md."""
    parts = [f"#### {title}\n\n{markdown_table(lines)}" for title, lines in tables(result["rows"]).items()]
    return "\n\n".join([*parts, bullets(notes(result["conditions"]))])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument(
        "--threads",
        type=int,
        choices=range(1, (os.cpu_count() or 1) + 1),
        default=torch.get_num_threads(),
        metavar="N",
        help="threads of torch (default: all cores)",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    extent = QUICK if chosen.quick else FULL
    at = conditions() | {
        "rounds": extent.rounds,
        "training_steps_a_round": extent.steps,
        "points_per_batch": extent.points_per_batch,
        "block": extent.block,
        "request": extent.clouds,
    }
    out = console()
    with Progress(console=out) as progress:
        work = len(extent.strata) * (len(NETS) + 1) * (1 + 2 * extent.rounds)
        bar = progress.add_task("starting", total=work)
        rows: list[dict[str, Any]] = []
        for constituents in extent.strata:
            rows += measure(constituents, extent, lambda what: progress.update(bar, advance=1, description=what))
    result = {"conditions": at, "rows": rows}
    for title, lines in tables(rows).items():
        show(title, lines, out)
    for note in notes(at):
        out.print(note, highlight=False)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, result)
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("speed.py", markdown(result))
        out.print(f"tables: {README}")


if __name__ == "__main__":
    main()
