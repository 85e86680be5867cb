"""Peak memory of training, sampling and evaluation against the number of jets.

    make memory
    python benchmarks/memory.py --tasks evaluate --jets 100000 3000000

What is measured, and how, is described in benchmarks/README.md. Ends with 1 where a peak grows by more than the limit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import conditions, described
from rich.console import Console
from tables import README, bullets, console, markdown_table, show, update_readme

from pcdiff.clouds import PointClouds
from pcdiff.errors import PcdiffError
from pcdiff.files import write_json
from pcdiff.io import read, write
from pcdiff.resources import find

RESULTS = Path(__file__).with_name("results") / "memory.json"

# Seconds between two looks at a process.
_INTERVAL = 0.02
# What pcdiff promises: from the fewest jets of a task to the most, the peak grows by no more.
LIMIT = 1.2
_JETS = {
    "train": (100_000, 1_000_000, 3_000_000),
    "sample": (100_000, 1_000_000, 3_000_000),
    "evaluate": (100_000, 1_000_000),
}
_FEW = (1000, 3000)


def tiled(source: Path, n: int, path: Path) -> Path:
    """A file of n jets: those of the source over and over, written in pieces."""
    jets = read(source)

    def pieces() -> Iterator[PointClouds]:
        for start in range(0, n, len(jets)):
            yield jets[: n - start]

    return write(pieces(), path)


def watched(words: list[str], folder: Path) -> dict[str, float]:
    """Run ``pcdiff WORDS`` in a process of its own: its peak of anonymous memory in megabytes (10^6 bytes), and the seconds.

    Anonymous memory is what a process has from the system beyond pages of files, which the system drops where it needs room. Linux tells it at any
    time but keeps no peak of it, so it is looked at fifty times a second.

    Raises:
        PcdiffError: the process failed.
    """
    script = "import sys; from pcdiff.cli import main; sys.exit(main())"
    start, peak = time.monotonic(), 0.0
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(_INTERVAL)
        if process.returncode:
            log.seek(0)
            raise PcdiffError(f"pcdiff {' '.join(words)}: {log.read().decode(errors='replace')[-1000:]}")
    return {"megabytes": peak, "seconds": time.monotonic() - start}


def anonymous(process: int) -> float:
    """Anonymous memory of a process in megabytes; 0 of one that has just ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 / 1e6 if found else 0.0


def measure(task: str, jets: int, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of a task on so many jets."""
    made = folder / f"made{chosen.suffix}"
    data = folder / f"jets{chosen.suffix}"
    if task != "sample":
        tiled(find("datasets/jets/gluon30_train.hdf5"), jets, data)
    words = {
        "train": [
            "train",
            "quickstart",
            f"output={folder / 'run'}",
            f"data.train={data}",
            f"training.steps={chosen.steps}",
            "training.compare=0",
            "tracking.enabled=false",
        ],
        "sample": ["sample", chosen.generator, "-n", str(jets), "-o", str(made)],
        "evaluate": ["evaluate", str(data), str(data), "--most", str(chosen.most)],
    }[task]
    return {"task": task, "jets": jets} | watched(words, folder)


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines: peaks, and what they are over that of the fewest jets."""
    lines = [["command", "jets", "peak memory, MB", "ratio", "seconds"]]
    for task in dict.fromkeys(row["task"] for row in rows):
        found = [row for row in rows if row["task"] == task]
        for row in found:
            ratio = row["megabytes"] / found[0]["megabytes"]
            lines.append(
                [
                    f"pcdiff {task}",
                    f"{row['jets']:,}",
                    f"{row['megabytes']:,.0f}",
                    f"{ratio:.2f}",
                    f"{row['seconds']:,.0f}",
                ]
            )
    return lines


def exceeding(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each task whose peak grows by more than the limit from the fewest jets to the most."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        found = [row for row in rows if row["task"] == task]
        ratio = found[-1]["megabytes"] / found[0]["megabytes"]
        if ratio > LIMIT:
            lines.append(
                f"pcdiff {task}: the peak grows by a factor of {ratio:.2f} from {found[0]['jets']:,} to "
                f"{found[-1]['jets']:,} jets; the limit is {LIMIT}"
            )
    return lines


def notes(at: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    commands = (
        f"Training: {at['steps']} steps of configs/quickstart.yaml. Sampling: {at['generator']}, to {at['suffix'][1:]}. "
        f"Evaluation: at most {at['most']:,} jets of either set."
    )
    return [*described(at, threads=False), commands]


def run(chosen: argparse.Namespace, out: Console) -> list[dict[str, Any]]:
    """All tasks, from few jets to many."""
    rows = []
    for task in chosen.tasks:
        for jets in sorted(chosen.jets or (_FEW if chosen.quick else _JETS[task])):
            with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                rows.append(measure(task, jets, chosen, Path(folder)))
            out.print(f"{task}, {jets:,} jets: {rows[-1]['megabytes']:,.0f} MB, {rows[-1]['seconds']:,.0f} s")
    return rows


def main() -> int:
    """Run the benchmark; the exit code says whether a peak grows by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few jets, to see that it works: the numbers mean nothing")
    parser.add_argument(
        "--jets",
        type=int,
        nargs="+",
        help="numbers of jets (default: 100000 1000000 3000000, of evaluate up to 1000000)",
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=list(_JETS), default=list(_JETS), help="what is measured (default: all)"
    )
    parser.add_argument("--generator", default="gluon30-fast", help="what samples (default: %(default)s)")
    parser.add_argument(
        "--suffix", default=".hdf5", help="of the files, which decides their format (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, help="of training (default: 300)")
    parser.add_argument("--most", type=int, help="jets that are evaluated of each set (default: 100000)")
    parser.add_argument("--folder", type=Path, help="where temporary files lie, a few GB (default: the system's)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the table into benchmarks/README.md")
    chosen = parser.parse_args()
    chosen.steps = chosen.steps or (10 if chosen.quick else 300)
    chosen.most = chosen.most or (1000 if chosen.quick else 100_000)
    at = conditions() | {name: getattr(chosen, name) for name in ("generator", "suffix", "steps", "most")}
    out = console()
    rows = run(chosen, out)
    show("Peak of anonymous memory", table(rows), out)
    for note in notes(at):
        out.print(note, highlight=False)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, {"conditions": at, "rows": rows})
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("memory.py", f"{markdown_table(table(rows))}\n\n{bullets(notes(at))}")
        out.print(f"table: {README}")
    above = exceeding(rows)
    for line in above:
        out.print(line, highlight=False)
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
