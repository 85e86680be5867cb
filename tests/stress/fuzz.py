"""Broken and hostile files against every reader: each is read, or refused in one line.

    make fuzz                                              every format, 2,000 files each; writes docs/reference/robustness.md
    python -m tests.stress.fuzz flat --files 200           a part of it
    python -m tests.stress.fuzz flat --first 17 --files 1  one file again, with its traceback

A file is broken as its format and its number say, so a number names a file for good. It is read in a process of its own kind, whose memory
is limited and whose time is watched, and which is started anew when it dies. There an audit hook sees what the interpreter is about
to do: unpickle, start programs, connect to hosts, open other files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.measuring import conditions, described
from benchmarks.tables import bullets, console, digits, markdown_table, show, update_readme
from pcdiff.files import read_json, write_json
from tests.stress.bases import TARGETS
from tests.stress.reader import OUTCOMES, Reader

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "robustness.md"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"


def _run(target: str, first: int, files: int, verbose: bool) -> dict[str, Any]:
    """One row of the table as plain data."""
    reader = Reader(target)
    counts: Counter[str] = Counter()
    worst: dict[str, list[int]] = {}
    memory, longest, start = (0, -1), (0.0, -1), time.monotonic()
    for index in range(first, first + files):
        found = reader.outcome(index)
        counts[found.kind] += 1
        memory, longest = max(memory, (found.memory, index)), max(longest, (found.seconds, index))
        if found.kind not in ("read", "refused"):
            worst.setdefault(found.kind, []).append(index)
            print(
                f"{target} {index}: {found.kind}: {found.detail[-4000:] if verbose else found.detail[-300:]}",
                flush=True,
            )
        elif files == 1:
            print(
                f"{target} {index}: {found.kind} in {found.seconds:.3f} s, {found.memory / 1e6:.1f} MB\n{found.detail}"
            )
    reader.close()
    return {
        "format": target,
        "files": files,
        **{kind: counts[kind] for kind in OUTCOMES},
        "memory": memory[0] / 1e6,
        "longest": longest[0],
        "most": {"memory": memory[1], "longest": longest[1]},
        "seconds": time.monotonic() - start,
        "numbers": worst,
    }


def _table(rows: list[dict[str, Any]]) -> list[list[str]]:
    kinds = [kind for kind in OUTCOMES if kind not in ("read", "refused")]
    head = ["format", "files", "read", "refused", "memory, MB", "longest, s", *(OUTCOMES[kind] for kind in kinds)]
    lines = [
        [row["format"], f"{row['files']:,}", f"{row['read']:,}", f"{row['refused']:,}", digits(row["memory"]),
         digits(row["longest"]), *(str(row[kind]) for kind in kinds)]
        for row in rows
    ]  # fmt: skip
    return [head, *lines]


def _keep(row: dict[str, Any], at: dict[str, Any]) -> None:
    """Put a row into the results, and all rows into the page, so that a run that is cut off can go on with the formats that are left."""
    found = read_json(RESULTS) if RESULTS.is_file() else {}
    found |= {row["format"]: row}
    rows = [found[target.name] for target in TARGETS if target.name in found]
    write_json(RESULTS, {each["format"]: each for each in rows})
    dates = sorted({each["date"] for each in rows})
    files, seconds = sum(each["files"] for each in rows), sum(each["seconds"] for each in rows)
    notes = [
        *described(at, threads=False),
        f"{files:,} files in {seconds / 60:.0f} minutes, begun at {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}.",
    ]
    update_readme("fuzz.py", f"{markdown_table(_table(rows))}\n\n{bullets(notes)}", PAGE)


def main() -> None:
    """Run as a script."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("formats", nargs="*", help=f"all by default: {', '.join(names)}")
    parser.add_argument("--files", type=int, default=2000, help="how many of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--verbose", action="store_true", help="whole tracebacks")
    parser.add_argument("--update-readme", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args()
    unknown = sorted(set(args.formats) - set(names))
    if unknown:
        parser.error(f"no format {unknown[0]}; expected some of {', '.join(names)}")
    at = conditions()
    rows = []
    for name in args.formats or names:
        row = _run(name, args.first, args.files, args.verbose or args.files == 1) | {"date": at["date"]}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.update_readme:
            _keep(row, at)
    show("Broken files", _table(rows), console())
    bad = sum(row[kind] for row in rows for kind in OUTCOMES if kind not in ("read", "refused"))
    if bad:
        sys.exit(f"{bad} files ended otherwise than read or refused in one line")


if __name__ == "__main__":
    main()
