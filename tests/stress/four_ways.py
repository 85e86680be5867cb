"""One sample made in four ways, as a user would make it: by one process, by two, on a Dask cluster, and on one that loses a worker.

    make four-ways                                  1,000,000 jets
    python -m tests.stress.four_ways --jets 20000

All hold the same jets bit for bit, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

import pcdiff
from benchmarks.tables import console, show
from pcdiff.clouds import PointClouds
from pcdiff.files import sha256
from pcdiff.generator import WINDOW
from tests.stress.killing import environment, members

GENERATOR = "gluon30-fast"
# Shards on the cluster: enough that a worker can be killed midway, and fewer than windows.
_SHARDS = 16


@dataclass(frozen=True)
class Way:
    """A sample.

    Attributes:
        name: how it was made.
        file: the sample.
        shards: of how many parts it was joined.
        retries: how many shards were begun again.
        seconds: until it was there, joined.
    """

    name: str
    file: Path
    shards: int
    retries: int
    seconds: float


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """``pcdiff WORDS``, in a process group of its own."""
    command = [sys.executable, "-m", "pcdiff", *words]
    return subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True)


def ended(*processes: subprocess.Popen[bytes]) -> None:
    """Wait until all are done.

    Raises:
        SystemExit: one has failed.
    """
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"{' '.join(map(str, processes[np.flatnonzero(codes)[0]].args))}: exit codes {codes}")


def sample(folder: Path, jets: int, *words: str) -> subprocess.Popen[bytes]:
    """The command that makes the sample, or a part of it."""
    return started(folder, "sample", GENERATOR, "-n", str(jets), "--seed", "1", *words)


def by_one(folder: Path, jets: int) -> tuple[int, int]:
    """In one process; gives the number of shards and of retries, as the others do."""
    ended(sample(folder, jets, "-o", "one.parquet"))
    return 1, 0


def by_two(folder: Path, jets: int) -> tuple[int, int]:
    """In two processes side by side, as batch jobs."""
    ended(*(sample(folder, jets, "--shard", f"{job}/2", "-o", f"two/{job}.parquet") for job in range(2)))
    ended(started(folder, "merge", "two", "-o", "two.parquet"))
    return 2, 0


def by_dask(folder: Path, jets: int) -> tuple[int, int]:
    """On a cluster of two workers."""
    return _by_dask(folder, jets, "dask", lambda process, parts, shards: 0)


def by_dask_killed(folder: Path, jets: int) -> tuple[int, int]:
    """The same, and a worker is killed in the midst of a shard when half of them are there."""
    return _by_dask(folder, jets, "killed", _kill)


def _by_dask(
    folder: Path, jets: int, name: str, disturb: Callable[[subprocess.Popen[bytes], Path, int], int]
) -> tuple[int, int]:
    shards = min(_SHARDS, math.ceil(jets / WINDOW))
    process = sample(folder, jets, "--dask", "local:2", "--shards", str(shards), "-o", name)
    retries = disturb(process, folder / name, shards)
    ended(process)
    ended(started(folder, "merge", name, "-o", f"{name}.parquet"))
    return shards, retries


def _kill(process: subprocess.Popen[bytes], parts: Path, shards: int) -> int:
    """Kill a process that writes a shard; gives how many shards that were half-written by then."""
    while process.poll() is None:
        if len(list(parts.glob("*.parquet"))) >= shards // 2:
            for worker in members(process.pid):
                written = _half_written(worker, parts)
                if written:
                    worker.kill()
                    print(f"killed a worker that was at {', '.join(path.name for path in written)}", flush=True)
                    return len(written)
        time.sleep(0.01)
    return 0


def _half_written(worker: psutil.Process, parts: Path) -> list[Path]:
    """The shards that a process has open under a temporary name."""
    try:
        paths = [Path(file.path) for file in worker.open_files()]
    except psutil.Error:
        return []
    return [path for path in paths if path.parent == parts and path.name.startswith(".")]


def differing(one: PointClouds, other: PointClouds) -> list[str]:
    """Which parts of two samples differ in any bit."""
    found = [] if one.schema == other.schema else ["schema"]
    pairs = [("offsets", one.offsets, other.offsets)]
    pairs += [(name, one.column(name), other.column(name)) for name in one.schema.point_names]
    pairs += [(name, one.feature(name), other.feature(name)) for name in one.schema.cloud_names]
    found += [name for name, a, b in pairs if a.dtype != b.dtype or a.tobytes() != b.tobytes()]
    return found or ([] if one.fingerprint() == other.fingerprint() else ["fingerprint"])


def table(ways: Sequence[Way], first: PointClouds) -> tuple[list[list[str]], list[str]]:
    """The table, and which ways made another sample."""
    lines = [["way", "jets", "seconds", "jets/s", "shards", "retries", "fingerprint", "SHA-256 of the file"]]
    problems = []
    for way in ways:
        made = pcdiff.read(way.file)
        parts = differing(first, made)
        if parts:
            problems.append(f"{way.name}: differs from {ways[0].name} in {', '.join(parts)}")
        lines.append(
            [way.name, f"{len(made):,}", f"{way.seconds:.0f}", f"{len(made) / way.seconds:,.0f}", str(way.shards),
             str(way.retries), made.fingerprint()[:12], sha256(way.file)[:12]]
        )  # fmt: skip
    return lines, problems


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jets", type=int, default=1_000_000, help=f"how many; at least {2 * WINDOW}")
    args = parser.parse_args()
    if args.jets <= WINDOW:
        parser.error(f"--jets is {args.jets}; expected more than a window of {WINDOW}, which cannot be divided")
    folder = Path(tempfile.mkdtemp(prefix="pcdiff-four-ways-"))
    ways = []
    for name, file, make in (
        ("1 process", "one", by_one),
        ("2 processes", "two", by_two),
        ("Dask, 2 workers", "dask", by_dask),
        ("Dask, a worker killed", "killed", by_dask_killed),
    ):
        start = time.monotonic()
        shards, retries = make(folder, args.jets)
        ways.append(Way(name, folder / f"{file}.parquet", shards, retries, time.monotonic() - start))
    lines, problems = table(ways, pcdiff.read(ways[0].file))
    show(f"{args.jets:,} jets of {GENERATOR}, four ways", lines, console())
    if ways[-1].retries == 0:
        problems.append("no worker was killed while it wrote a shard")
    if problems:
        print(*problems, sep="\n")
        sys.exit(f"the folder stays: {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
