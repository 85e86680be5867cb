"""What is killed: each command from the making of data to the tracking store, as a user runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ELSEWHERE", "RUN", "STAGES", "STORE", "Stage", "prepare"]

RUN, STORE, ELSEWHERE = "runs/stress", "mlflow.db", "elsewhere/mlflow.db"

# Checkpoints every few steps, and a mirror that sends all the time, so that kills meet them.
_CONFIG = f"""
name: stress
seed: 5
data: {{train: jets.hdf5, validation: jets.hdf5}}
net: {{kind: epic, hidden: 16, layers: 2, global_size: 4}}
training: {{steps: 400, points_per_batch: 300, log_every: 5, validate_every: 200, checkpoint_every: 8, compare: 300}}
optim: {{warmup: 20}}
multiplicity: {{layers: 1, hidden: 8, steps: 50}}
sampling: {{steps: 2}}
tracking: {{uri: "sqlite:///{STORE}", interval: 0.2}}
"""

# Three windows, so three shards.
_SAMPLE = ("sample", RUN, "-n", "34000", "--seed", "1")


@dataclass(frozen=True)
class Stage:
    """A command.

    Attributes:
        name: of its row in the table.
        words: after ``pcdiff``.
        weight: how many of 50 kills it gets.
        goes_on: whether it goes on where it was killed.
        program: what Python runs.
        anew: what is removed where it has to begin again, for else it would have nothing to do.
    """

    name: str
    words: tuple[str, ...]
    weight: int
    goes_on: bool = False
    program: tuple[str, ...] = ("-m", "pcdiff")
    anew: tuple[str, ...] = ()


# One of the 2,000 jets that a shard has otherwise takes ten seconds.
_SMALL_SHARDS = (
    "import sys; from pcdiff.cli import main; from pcdiff.data import jets; jets._SHARD = 150; sys.exit(main())"
)

STAGES = (
    Stage(
        "data",
        ("data", "make", "jets", "--process", "g", "-n", "600", "--workers", "2", "-o", "jets.hdf5"),
        7,
        goes_on=True,
        program=("-c", _SMALL_SHARDS),
    ),
    Stage("training", ("train", "config.yaml", "--resume"), 13, goes_on=True, anew=("runs",)),
    Stage("sampling", (*_SAMPLE, "-o", "whole.parquet"), 5),
    *(
        Stage("sampling in shards", (*_SAMPLE, "--shard", f"{shard}/3", "-o", f"shards/{shard}.parquet"), 2)
        for shard in range(3)
    ),
    Stage("merging", ("merge", "shards", "-o", "sample.parquet"), 3),
    Stage("writing", ("convert", "sample.parquet", "sample.root"), 3),
    Stage("evaluation", ("evaluate", "jets.hdf5", "sample.root", "-o", "report", "--most", "500", "--draws", "5"), 5),
    # The mirror has sent it already, or as much of it as it came to.
    Stage("tracking", ("track", "sync", RUN), 3, goes_on=True),
    Stage(
        "tracking, another store",
        ("track", "sync", RUN, "--uri", f"sqlite:///{ELSEWHERE}"),
        5,
        goes_on=True,
        anew=(str(Path(ELSEWHERE).parent),),
    ),
)


def prepare(folder: Path) -> None:
    """Write what the commands ask for."""
    folder.mkdir()
    (folder / "config.yaml").write_text(_CONFIG, encoding="utf-8")
