"""Jets per second of generators as ONNX files (`pcdiff export`) against the same in torch, on one core.

    python benchmarks/export.py gluon30-fast --update-readme

What is compared, and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generators import load_all
from measuring import conditions, described, ratios, summary
from tables import README, bullets, console, digits, markdown_table, show, spread_of, update_readme

from pcdiff.errors import PcdiffError, optional
from pcdiff.export import export_onnx, onnx_inputs
from pcdiff.files import write_json
from pcdiff.generator import Generator

RESULTS = Path(__file__).with_name("results") / "export.json"


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: rounds of measurements.
        batch: jets that pass through together; with 30 constituents 136 are what `pcdiff sample` takes.
        batches: how many of these a round.
    """

    rounds: int
    batch: int
    batches: int


FULL = Extent(rounds=9, batch=136, batches=20)
QUICK = Extent(rounds=2, batch=3, batches=1)


def measure(generator: Generator, extent: Extent) -> dict[str, Any]:
    """Microseconds of the processor a jet of both, in turns, and the size of the file."""
    onnxruntime = optional("onnxruntime", "export")
    chosen = generator.choose(precision="float32")
    found = generator.conditions(0, extent.batch, seed=1)
    noise, mask, cond = generator.batch(0, found, 1)
    inputs = onnx_inputs(generator, found, noise)
    numbers = np.arange(extent.batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        file = export_onnx(generator, Path(folder, "generator.onnx"))
        took, size = time.process_time() - start, file.stat().st_size
        session = onnxruntime.InferenceSession(file, options)
    makers: dict[str, Callable[[], Any]] = {
        "torch": lambda: generator.solve(noise, mask, cond, numbers, 1, chosen, torch.device("cpu")),
        "onnx": lambda: session.run(None, inputs),
    }
    for make in makers.values():
        make()
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(extent.rounds):
        for name, make in makers.items():
            # Of the processor: what else runs on the core does not count.
            start = time.process_time()
            for _ in range(extent.batches):
                make()
            seconds[name].append((time.process_time() - start) / extent.batches / extent.batch)
    return {
        "steps": chosen.steps,
        "megabytes": size / 1e6,
        "seconds_to_export": took,
        "microseconds": {name: summary([1e6 * one for one in each]) for name, each in seconds.items()},
        "ratio": ratios(seconds["torch"], seconds["onnx"]),
    }


def table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["generator", "steps", "torch, µs a jet", "ONNX Runtime, µs a jet", "times as fast", "MB", "s to write"]]
    for name, row in rows.items():
        both = (spread_of(row["microseconds"][one]) for one in ("torch", "onnx"))
        measured = [*both, spread_of(row["ratio"]), digits(row["megabytes"]), digits(row["seconds_to_export"])]
        lines.append([name, str(row["steps"]), *measured])
    return lines


def notes(result: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    return [
        *described(result["conditions"]),
        f"onnxruntime {result['onnxruntime']}; batches of {result['batch']} jets.",
        f"Median of {result['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round.",
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "generators", nargs="*", help="runs, folders of generators, or names (default: all that come with pcdiff)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the table into benchmarks/README.md")
    given = parser.parse_args()
    extent = QUICK if given.quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        at, out = conditions(), console()
        rows = {name: measure(one, extent) for name, one in load_all(given.generators).items()}
        installed = version("onnxruntime")
    except PcdiffError as error:
        raise SystemExit(f"export.py: {error}") from error
    finally:
        torch.set_num_threads(threads)
    result = {"conditions": at, "onnxruntime": installed, "rounds": extent.rounds, "batch": extent.batch, "rows": rows}
    show("One core", table(rows), out)
    for note in notes(result):
        out.print(note, highlight=False)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.output, result)
    out.print(f"all numbers: {given.output}")
    if given.update_readme:
        update_readme("export.py", f"{markdown_table(table(rows))}\n\n{bullets(notes(result))}")
        out.print(f"table: {README}")


if __name__ == "__main__":
    main()
