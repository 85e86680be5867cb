"""Generators as ONNX files (`pcdiff export`) against the same in torch: jets per second on one core, and how near the numbers are.

    python benchmarks/export.py gluon30-fast gluon30 gluon30-teacher --truth data/gluon30_test.hdf5 --update-readme

What is compared, and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fewer_bits import fewer_bits, quality
from generators import evaluations, load_all
from measuring import conditions, described, ratios, summary
from tables import README, bullets, console, digits, markdown_table, show, spread_of, update_readme

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.conditions import Conditions
from pcdiff.encodings import Scale, leading_scale
from pcdiff.errors import DataError, PcdiffError, optional
from pcdiff.export import export_onnx, onnx_inputs
from pcdiff.files import write_json
from pcdiff.generator import Generator
from pcdiff.resources import find
from pcdiff.transforms import Transform

RESULTS = Path(__file__).with_name("results") / "export.json"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: rounds of measurements.
        batch: jets that pass through together; with 30 constituents 136 are what `pcdiff sample` takes.
        evaluations: of the net for each of them, a round, in as many batches as that takes.
        compared: jets whose numbers are compared.
        judged: fewer bits are judged of generators that take up to so many evaluations: the others are not run for speed.
        jets, draws: generated jets behind each W1, and resamples behind its error.
    """

    rounds: int
    batch: int
    evaluations: int
    compared: int
    judged: int
    jets: int
    draws: int


FULL = Extent(rounds=9, batch=136, evaluations=20, compared=1_000, judged=5, jets=20_000, draws=20)
QUICK = Extent(rounds=2, batch=3, evaluations=1, compared=20, judged=20, jets=50, draws=3)


def measure(generator: Generator, extent: Extent, truth: PointClouds | None) -> dict[str, Any]:
    """Microseconds of the processor a jet, in turns, how near numbers are, and what fewer bits give, where there are true jets."""
    onnxruntime = optional("onnxruntime", "export")
    chosen = generator.choose(precision="float32")
    each = evaluations(generator, precision="float32")
    judging = truth if each <= extent.judged else None
    found = generator.conditions(0, extent.batch, seed=1)
    noise, mask, cond = generator.batch(0, found, 1)
    inputs = onnx_inputs(generator, found, noise)
    numbers = np.arange(extent.batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        file = export_onnx(generator, Path(folder, "generator.onnx"))
        took = time.process_time() - start
        files = {"onnx": file} | ({} if judging is None else fewer_bits(file))
        sizes = {name: path.stat().st_size for name, path in files.items()}
        sessions = {name: onnxruntime.InferenceSession(path, options) for name, path in files.items()}
    makers: dict[str, Callable[[], Any]] = {
        "torch": lambda: generator.solve(noise, mask, cond, numbers, 1, chosen, torch.device("cpu")),
        **{name: lambda session=session: session.run(None, inputs) for name, session in sessions.items()},
    }
    seconds = timed(makers, extent, -(-extent.evaluations // each))
    row = {
        "evaluations": each,
        "megabytes": sizes["onnx"] / 1e6,
        "seconds_to_export": took,
        "microseconds": {name: summary([1e6 * one for one in taken]) for name, taken in seconds.items()},
        "ratio": ratios(seconds["torch"], seconds["onnx"]),
        "differences": compared(generator, sessions["onnx"], extent.compared),
    }
    if judging is not None:
        judged = quality(generator, sessions, judging, extent.jets, extent.draws)
        row["bits"] = {
            name: {"megabytes": sizes[name] / 1e6, "ratio": ratios(seconds["onnx"], seconds[name]), **judged[name]}
            for name in files
        }
    return row


def timed(makers: dict[str, Callable[[], Any]], extent: Extent, batches: int) -> dict[str, list[float]]:
    """Seconds of the processor a jet, by round."""
    for make in makers.values():
        make()
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(extent.rounds):
        for name, make in makers.items():
            # Of the processor: what else runs on the core does not count.
            start = time.process_time()
            for _ in range(batches):
                make()
            seconds[name].append((time.process_time() - start) / batches / extent.batch)
    return seconds


def compared(generator: Generator, session: Any, jets: int) -> dict[str, dict[str, float]]:
    """Root mean square and largest of the differences of standardised numbers: of the file, of torch, of torch in double precision.

    Raises:
        DataError: the generator makes no jets whose constituents fall in pT.
    """
    found = generator.conditions(0, jets, seed=2)
    noise, mask, _ = generator.batch(0, found, 2)
    points = session.run(["points"], onnx_inputs(generator, found, noise))[0][mask.numpy()]
    file = standardised(generator.transform, points)
    (single, _), (double, hardness) = (solved(generator, found, dtype) for dtype in (torch.float32, torch.float64))
    # Where rounding decides which of two constituents comes first, there is nothing to compare.
    tied = np.abs(np.diff(hardness)) < 2e-5
    alone = ~(np.append(tied, False) | np.append(False, tied))
    pairs = {"file, torch": (file, single), "file, double": (file, double), "torch, double": (single, double)}
    differences = {name: np.abs(a - b)[alone] for name, (a, b) in pairs.items()}
    return {
        name: {"rms": float(np.sqrt(np.mean(values**2))), "largest": float(values.max())}
        for name, values in differences.items()
    }


def standardised(transform: Transform, points: npt.NDArray[np.float32]) -> Floats:
    """The numbers, not the categories, of points in physical units as the net sees them, in double precision; by column."""
    columns = []
    for scale, column in zip(transform.points, points.T.astype(np.float64), strict=True):
        if isinstance(scale, Scale):
            columns.append(((np.log(column) if scale.function == "log" else column) - scale.mean) / scale.std)
    return np.stack(columns, axis=1)


def solved(generator: Generator, found: Conditions, dtype: torch.dtype) -> tuple[Floats, Floats]:
    """The same numbers by torch, computed in this precision, constituents by falling pT; and what they fall in."""
    leading = leading_scale(generator.transform.points)
    if leading is None:
        raise DataError("expected jets whose constituents have ptrel, pt or energy")
    noise, mask, cond = generator.batch(0, found, 2)
    clouds = np.arange(len(found.counts))
    made = copy.copy(generator)
    made.denoiser = copy.deepcopy(generator.denoiser).to(dtype)
    chosen = generator.choose(precision="float32")
    x = made.solve(noise.to(dtype), mask, cond.to(dtype), clouds, 2, chosen, torch.device("cpu"))
    flat: Floats = x[mask].double().numpy()
    flat = flat[np.lexsort((-flat[:, leading[0]], np.repeat(clouds, found.counts)))]
    ends = np.cumsum([encoding.width for encoding in generator.transform.points])
    numbers = [
        end - 1 for end, encoding in zip(ends, generator.transform.points, strict=True) if isinstance(encoding, Scale)
    ]
    return flat[:, numbers], flat[:, leading[0]]


def table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [
        ["generator", "evaluations", "torch, µs a jet", "ONNX Runtime, µs a jet", "times as fast", "MB", "s to write"]
    ]
    for name, row in rows.items():
        both = (spread_of(row["microseconds"][one]) for one in ("torch", "onnx"))
        measured = [*both, spread_of(row["ratio"]), digits(row["megabytes"]), digits(row["seconds_to_export"])]
        lines.append([name, str(row["evaluations"]), *measured])
    return lines


def differences_table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Root mean square and, in brackets, the largest difference."""
    pairs = list(next(iter(rows.values()))["differences"])
    lines = [["generator", "evaluations", *(" and ".join(pair.split(", ")) for pair in pairs)]]
    for name, row in rows.items():
        found = (row["differences"][pair] for pair in pairs)
        lines.append([name, str(row["evaluations"]), *(f"{each['rms']:.1e} ({each['largest']:.1e})" for each in found)])
    return lines


def bits_table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and lines, with errors; none where there were no true jets."""
    lines = [["generator", "net", "times as fast", "MB", "W1M, 10⁻³", "change", "W1P, 10⁻³", "change"]]
    for name, row in rows.items():
        for bits, found in row.get("bits", {}).items():
            distances = [
                f"{1e3 * found[key]:.3f} ± {1e3 * found[f'{distance}{error}']:.3f}"
                for distance in ("w1m", "w1p")
                for key, error in ((distance, "_error"), (f"{distance}_change", "_change_error"))
            ]
            lines.append(
                [
                    name,
                    "float32" if bits == "onnx" else bits,
                    spread_of(found["ratio"]),
                    digits(found["megabytes"]),
                    *distances,
                ]
            )
    return lines[: len(lines) if len(lines) > 1 else 0]


def notes(result: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    return [
        *described(result["conditions"]),
        f"onnxruntime {result['onnxruntime']}; batches of {result['batch']} jets.",
        f"Median of {result['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round.",
        f"Differences of {result['compared']:,} jets: root mean square, in brackets the largest.",
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "generators", nargs="*", help="runs, folders of generators, or names (default: all that come with pcdiff)"
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="true jets, to judge float16 and INT8 by; without them neither is made"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    given = parser.parse_args()
    extent = QUICK if given.quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        at, out = conditions(), console()
        truth = None if given.truth is None else pcdiff.read(find(given.truth))
        rows = {name: measure(one, extent, truth) for name, one in load_all(given.generators).items()}
        installed = version("onnxruntime")
    except PcdiffError as error:
        raise SystemExit(f"export.py: {error}") from error
    finally:
        torch.set_num_threads(threads)
    result = {
        "conditions": at,
        "onnxruntime": installed,
        "rounds": extent.rounds,
        "batch": extent.batch,
        "compared": extent.compared,
        "jets": extent.jets,
        "rows": rows,
    }
    tables = {"One core": table(rows), "Differences": differences_table(rows), "Fewer bits": bits_table(rows)}
    shown = {title: lines for title, lines in tables.items() if lines}
    for title, lines in shown.items():
        show(title, lines, out)
    for note in notes(result):
        out.print(note, highlight=False)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.output, result)
    out.print(f"all numbers: {given.output}")
    if given.update_readme:
        parts = [f"#### {title}\n\n{markdown_table(lines)}" for title, lines in shown.items()]
        update_readme("export.py", "\n\n".join([*parts, bullets(notes(result))]))
        out.print(f"table: {README}")


if __name__ == "__main__":
    main()
