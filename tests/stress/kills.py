"""Kills over the whole pipeline: what has its name is whole, and in the end all is as if nothing had happened.

    make stress                                      50 kills
    python -m tests.stress.kills --kills 20 --seed 7

Data are made, a generator is trained, sampled from, in one file and in shards, the sample is written and compared with the data, and the run is sent to
tracking stores. Once this is undisturbed; then each command is killed at random moments and started again until it has ended by itself. Moments are drawn from
the seed, over the processor time that the command took undisturbed. How far it comes by then is not the same each time, so neither are the kills of a seed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.tables import console, show
from tests.stress.killing import Ended, Kill, Way, run
from tests.stress.pipeline import STAGES, Stage, prepare
from tests.stress.wholeness import Whole, differences

# A kill that comes too late comes by this factor sooner next time.
_SOONER = 0.7
# The part of its work that a stage which goes on does not do again after a kill: imports are, and what comes at the end, such as the comparison after a training.
_KEPT = 0.5
_CHANCES = dict(zip(get_args(Way), (0.5, 0.25, 0.25), strict=True))


@dataclass
class Row:
    """What befell a stage.

    Attributes:
        ways: its kills.
        starting: how many of them came before it had begun to write.
        restarts: how often it was started again.
        files: how many files were found whole after its kills.
        temporaries: how many half-written ones were found, under names that say so.
        problems: what was not as it should be.
    """

    ways: Counter[str] = field(default_factory=Counter)
    starting: int = 0
    restarts: int = 0
    files: int = 0
    temporaries: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, ended: Ended, stage: Stage, what: str) -> None:
        """Keep what is wrong with the end of a command."""
        said = ended.output.strip()[-1500:]
        self.problems += [f"pcdiff {' '.join(stage.words)}: {what}: {each}\n{said}" for each in ended.problems]


def shares(kills: int) -> list[int]:
    """How many of the kills each stage gets, by their weights."""
    ends = np.rint(np.cumsum([0, *(stage.weight for stage in STAGES)]) * kills / sum(s.weight for s in STAGES))
    return [int(number) for number in np.diff(ends)]


def planned(rng: np.random.Generator, number: int, undisturbed: Ended, *, goes_on: bool) -> Iterator[Kill]:
    """Kills of a stage, from moments over the time that it took undisturbed, of which the time before it writes counts half.

    A stage that goes on where it was killed is killed in order, and later by what it does not do again, so that the kills are spread over all of it.
    """
    starting, working = undisturbed.begun / 2, undisturbed.seconds - undisturbed.begun
    before = 0.0
    for moment in np.sort(rng.uniform(0, starting + working, number)):
        begun = bool(moment > starting)
        since = moment - starting
        yield Kill(
            way=rng.choice(list(_CHANCES), p=list(_CHANCES.values())),
            begun=begun,
            wait=float(since - before) if begun else float(2 * moment),
            aimed=begun and bool(rng.random() < 0.5),
            everyone=bool(rng.random() < 0.3),
            pause=float(rng.uniform(0, 0.5)),
        )
        if begun and goes_on:
            before = min(since, _KEPT * working)


def disturb(stage: Stage, folder: Path, kills: Iterator[Kill], whole: Whole, row: Row) -> None:
    """Kill a stage and start it again until all its kills are done and it has ended by itself."""
    for kill in kills:
        while True:
            ended = run((*stage.program, *stage.words), folder, kill)
            row.note(ended, stage, f"after {kill}")
            files, temporaries = whole.files, whole.temporaries
            row.problems += [f"pcdiff {' '.join(stage.words)}: after {kill}: {each}" for each in whole.problems()]
            row.files, row.temporaries = (
                row.files + whole.files - files,
                row.temporaries + whole.temporaries - temporaries,
            )
            row.restarts += 1
            if ended.killed:
                row.ways[kill.way] += 1
                row.starting += not kill.begun
                print(f"{stage.name}: {kill.way} after {ended.seconds:.1f} s, exit code {ended.code}", flush=True)
                break
            # It came too late.
            kill = replace(kill, wait=_SOONER * kill.wait, aimed=False)
            for name in stage.anew:
                shutil.rmtree(folder / name, ignore_errors=True)
    ended = run((*stage.program, *stage.words), folder)
    row.note(ended, stage, "undisturbed in the end")


def undisturbed(folder: Path) -> list[Ended]:
    """The pipeline without kills."""
    prepare(folder)
    found = []
    for stage in STAGES:
        ended = run((*stage.program, *stage.words), folder)
        print(f"{stage.name}, undisturbed: {ended.begun:.1f} s until it writes, {ended.seconds:.1f} s", flush=True)
        if ended.problems:
            sys.exit(f"pcdiff {' '.join(stage.words)}: {ended.problems[0]}\n{ended.output}")
        found.append(ended)
    return found


def table(rows: list[Row]) -> list[list[str]]:
    """Stages of one name, such as shards, in one line, and the sum of all."""
    ways = list(_CHANCES)
    lines = [
        ["stage", "kills", *ways, "while starting", "restarts", "files found whole", "half-written ones", "problems"]
    ]
    named = [
        (name, [row for _, row in group])
        for name, group in groupby(zip(STAGES, rows, strict=True), key=lambda pair: pair[0].name)
    ]
    for name, group in [*named, ("all", rows)]:
        counts: Counter[str] = sum((row.ways for row in group), Counter())
        totals = (sum(getattr(row, key) for row in group) for key in ("starting", "restarts", "files", "temporaries"))
        numbers = [counts.total(), *(counts[way] for way in ways), *totals, sum(len(row.problems) for row in group)]
        lines.append([name, *map(str, numbers)])
    return lines


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of their moments and signals")
    args = parser.parse_args()
    # Shells let what they start in the background ignore Ctrl-C, which the commands would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What a store is asked for at the end.
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    start, rng = time.monotonic(), np.random.default_rng(args.seed)
    root = Path(tempfile.mkdtemp(prefix="pcdiff-kills-"))
    straight, folder = root / "undisturbed", root / "killed"
    times = undisturbed(straight)
    prepare(folder)
    whole, rows = Whole(folder, straight), []
    for stage, took, number in zip(STAGES, times, shares(args.kills), strict=True):
        rows.append(Row())
        disturb(stage, folder, planned(rng, number, took, goes_on=stage.goes_on), whole, rows[-1])
    last = whole.problems()
    differing, alike = differences(folder, straight)
    show(f"{args.kills} kills, seed {args.seed}, {(time.monotonic() - start) / 60:.1f} minutes", table(rows), console())
    print(*alike, sep="\n")
    problems = [*(problem for row in rows for problem in row.problems), *last, *differing]
    if problems:
        print(*problems, sep="\n")
        sys.exit(f"{len(problems)} things are not as they should be; the folder stays: {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
