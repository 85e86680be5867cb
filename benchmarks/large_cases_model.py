"""What large_cases.py assumes and reckons from, and its arithmetic: shards on many workers, and optimiser steps of many processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from large_cases_measuring import NET

from pcdiff.config import TrainingConfig, load_config
from pcdiff.files import read_json
from pcdiff.generator import WINDOW
from pcdiff.resources import pretrained

# Jets of a shard where nothing else is asked for.
SHARD = 8 * WINDOW
FAST, LARGE, PYTHIA = "gluon30-fast", "jets150", "Pythia 8 + FastJet"


class Assumed(float):
    """A number that was not measured here: a float with its unit and its reason."""

    unit: str
    why: str

    def __new__(cls, value: float, unit: str, why: str) -> Self:
        made = super().__new__(cls, value)
        made.unit, made.why = unit, why
        return made


JETS = Assumed(1e9, "jets", "case (a)")
TRAINING_JETS = Assumed(
    1e8, "jets", "case (b): the training part of JetClass, ten classes, 1,000 ROOT files of 100,000 (arXiv 2202.03772)"
)
CONSTITUENTS = Assumed(39.1, "a JetClass jet", "mean of 500 public jets of all classes (19,550 constituents); ± 0.7")
BRANCHES = Assumed(16, "numbers of 4 bytes a constituent", "the particle branches of JetClass's files")
BRANCHES_READ = Assumed(4, "of these", "px, py, pz, energy: what pcdiff reads where nothing else is asked for")
PASSES = Assumed(
    5.12,
    "passes",
    "50 epochs of 10,240,000 jets: train_JetClass.sh of Particle Transformer, a classifier; what a generator needs is not known",
)
NODES = Assumed(100, "nodes", "the allocation")
CORES = Assumed(64, "cores a node", "two processors of 32 cores")
EFFICIENCY = Assumed(
    0.7,
    "",
    "rate of a core of a full node over that of one alone; measured for two, beside other work (next table), never for 64",
)
GPUS = Assumed(4, "GPUs a node", "as most GPU nodes have; each as the H200 that was measured")
MEMORY = Assumed(512e9, "bytes a node", "8 GB a core")
NETWORK = Assumed(12.5e9, "bytes/s a node", "one link of 100 Gbit/s")
LATENCY = Assumed(5e-6, "s a message", "InfiniBand with software; over TCP some ten times as long")
FILESYSTEM = Assumed(
    10e9, "bytes/s, all nodes together", "the share of a parallel file system that one user gets; ask your centre"
)
METADATA = Assumed(20_000, "operations/s, all nodes together", "opening, creating, renaming; ask your centre")
METADATA_A_SHARD = Assumed(
    8, "operations a shard", "two looks whether it is there, create, write, permissions, flush, close, rename"
)
RANDOM_READ = Assumed(
    1e-4,
    "s a random read",
    "a solid-state disk, one read at a time; a network file system takes up to ten times as long",
)
MTBF = Assumed(10_000 * 3600, "s between failures of a node", "10,000 hours, 14 months: a pessimistic sound machine")
PREEMPTED = Assumed(24 * 3600, "s between losses of a node", "a queue whose jobs may be pre-empted: once a day")
DEATHS = Assumed(
    4, "deaths", "Dask gives a task up when so many workers died at it (distributed.scheduler.allowed-failures: 3)"
)
SCALING_CONSTITUENTS = Assumed(66.6, "a jet", "of the jets that training was timed with on a CPU (scaling.json)")
H200_SECONDS = Assumed(
    600, "s", "of the card of jets150: 10 minutes for all its steps, beside another training on the same GPU"
)

ASSUMED = {name: value for name, value in list(globals().items()) if isinstance(value, Assumed)}


@dataclass(frozen=True)
class Sampling:
    """A sample in shards on workers of one core each.

    Attributes:
        jets: of the whole sample.
        rate: jets a second of one worker.
        shard: jets of a shard.
        workers: their number.
    """

    jets: float
    rate: float
    shard: int
    workers: float

    @property
    def shards(self) -> int:
        return math.ceil(self.jets / self.shard)

    @property
    def seconds_a_shard(self) -> float:
        return self.shard / self.rate

    @property
    def rounds(self) -> int:
        """How often each worker takes a shard, the last time perhaps not all of them."""
        return math.ceil(self.shards / self.workers)

    @property
    def wall(self) -> float:
        """Seconds; the start of the workers is not in it."""
        return self.rounds * min(self.seconds_a_shard, self.jets / self.rate)

    @property
    def core_seconds(self) -> float:
        return self.jets / self.rate

    def lost(self, nodes: float, cores: float, mtbf: float) -> tuple[float, float]:
        """Expected number of workers that die with their nodes, and core-seconds that are done again: half a shard each."""
        killed = nodes * self.wall / mtbf * cores
        return killed, killed * self.seconds_a_shard / 2

    def given_up(self, mtbf: float, deaths: float) -> float:
        """Expected number of shards at which so many workers die one after the other, which ends the command."""
        return self.shards * (1 - math.exp(-self.seconds_a_shard / mtbf)) ** deaths


@dataclass(frozen=True)
class Step:
    """One optimiser step of N processes, in seconds.

    Attributes:
        host: what each does for the whole batch of one process: putting it together, drawing its noise.
        net: what one process computes for it.
        gradients: bytes that are summed.
        processes: N.
        growth: how many times as large the batch is.
    """

    host: float
    net: float
    gradients: float
    processes: int
    growth: float = 1.0

    @property
    def whole_batch(self) -> float:
        return self.host * self.growth

    @property
    def share(self) -> float:
        return self.net * self.growth / self.processes

    @property
    def summing(self) -> float:
        """By the faster of both ways, as NCCL chooses."""
        return min(summed(self.gradients, self.processes, NETWORK, LATENCY) for summed in (ring, tree))

    @property
    def seconds(self) -> float:
        """One part after the other, as the loop has them."""
        return self.whole_batch + self.share + self.summing


def ring(size: float, processes: int, bandwidth: float, latency: float) -> float:
    """Seconds to sum ``size`` bytes of N processes around a ring: 2 (N - 1) (size / N / bandwidth + latency)."""
    return 2 * (processes - 1) * (size / processes / bandwidth + latency)


def tree(size: float, processes: int, bandwidth: float, latency: float) -> float:
    """The same up and down a tree, in pieces: 2 size / bandwidth + 2 log2(N) latency; nothing for one process."""
    return 2 * (size / bandwidth + math.log2(processes) * latency) if processes > 1 else 0.0


@dataclass(frozen=True)
class Facts:
    """What was measured.

    Attributes:
        own: by ``--measure``.
        throughput, scaling, observables, quality: files of other benchmarks.
        memory, processes: likewise; None where they have not been run.
    """

    own: dict[str, Any]
    throughput: dict[str, Any]
    scaling: dict[str, Any]
    observables: dict[str, Any]
    quality: dict[str, Any]
    memory: dict[str, Any] | None
    processes: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path, own: dict[str, Any]) -> Facts:
        there = [read_json(folder / f"{name}.json") for name in ("throughput", "scaling", "observables", "quality")]
        later = [
            read_json(path) if (path := folder / f"{name}.json").is_file() else None for name in ("memory", "processes")
        ]
        return cls(own, *there, *later)

    def stored(self, name: str) -> float:
        """Jets a second and core of throughput.json, one thread."""
        (row,) = (row for row in self.throughput["rows"] if row["name"] == name and row["threads"] == 1)
        return float(row["jets_per_second_and_core"]["median"])

    def two_cores(self, name: str) -> float:
        """Jets a second and core with two threads over those with one."""
        rates = {
            row["threads"]: row["jets_per_second_and_core"]["median"]
            for row in self.throughput["rows"]
            if row["name"] == name
        }
        return float(rates[2] / rates[1])

    @property
    def start(self) -> float:
        """Seconds until the first jet: what a command takes for no jets, from its times for two numbers."""
        found = self.throughput["memory"][FAST]
        (few, many), (short, long) = found["jets"], found["seconds"]
        return float(short - few * (long - short) / (many - few))

    @property
    def jetclass(self) -> float:
        """Constituents of a JetClass jet over those of the jets that stood in."""
        return CONSTITUENTS / float(self.own["training"]["constituents"])

    @property
    def arrays(self) -> tuple[float, float]:
        """Bytes of JetClass as columns and encoded, on the disk of each process."""
        training = self.own["training"]
        return tuple(TRAINING_JETS * self.jetclass * training[name] for name in ("columns", "encoded"))  # type: ignore[return-value]

    @property
    def loading(self) -> float:
        """Seconds of one process to read, decode and encode JetClass."""
        return TRAINING_JETS * self.jetclass / float(self.own["training"]["loaded"])

    def reading(self, processes: int) -> float:
        """Seconds until all processes have their copies: as long as one takes, or as long as the file system takes for all."""
        read = TRAINING_JETS * CONSTITUENTS * 4 * BRANCHES_READ
        return max(self.loading, processes * (read + sum(self.arrays)) / FILESYSTEM)

    @property
    def host(self) -> float:
        """Seconds a batch that each process spends on the whole of it."""
        return float(self.own["training"]["together_ms"] + self.own["training"]["drawn_ms"]) / 1e3

    @cached_property
    def shipped_steps(self) -> int:
        """Of the training of jets150."""
        last = (pretrained()[NET] / "training_log.csv").read_text(encoding="utf-8").split()[-1]
        return int(last.split(",")[0])

    @property
    def gpu_step(self) -> float:
        """Seconds a step of jets150 on the GPU."""
        return H200_SECONDS / self.shipped_steps

    @cached_property
    def training(self) -> TrainingConfig:
        """Settings of the training of jets150."""
        return load_config(pretrained()[NET] / "config.yaml").training

    @property
    def batch(self) -> int:
        """Points of its batches, padding included."""
        return self.training.points_per_batch

    @property
    def operations(self) -> float:
        """Multiplications and additions of a step: two forward and four backward for each parameter and point."""
        return 6.0 * self.own["training"]["parameters"] * self.batch

    @property
    def checkpoint_every(self) -> int:
        """Steps between its checkpoints."""
        return self.training.checkpoint_every

    @property
    def steps(self) -> float:
        """Optimiser steps of one pass through JetClass."""
        return TRAINING_JETS * CONSTITUENTS / self.batch

    @property
    def core_step(self) -> float:
        """Seconds a step of one core of a CPU, whose jets have 66.6 constituents."""
        (row,) = (row for row in self.scaling["batches"]["rows"] if row["net"] == "that of gluon30-teacher")
        return self.batch / (SCALING_CONSTITUENTS * float(row["clouds_per_second"]["similar"]["median"]))

    def sampling(self, name: str, precision: str, *, shard: int = SHARD, workers: float | None = None) -> Sampling:
        """The 10^9 jets of a generator on full nodes; a single worker has its node to itself."""
        workers = NODES * CORES if workers is None else workers
        rate = self.own["generators"][name]["jets_per_second"][precision]
        return Sampling(JETS, rate * (1 if workers == 1 else EFFICIENCY), shard, workers)

    def best(self, name: str) -> str:
        """The precision in which a generator was fastest."""
        rates: dict[str, float] = self.own["generators"][name]["jets_per_second"]
        return max(rates, key=lambda precision: rates[precision])

    def data(self, name: str) -> float:
        """Bytes of the 10^9 jets of a generator in Parquet."""
        return JETS * float(self.own["formats"][name]["bytes"]["parquet"])

    @property
    def looking(self) -> float:
        """Seconds to see of all shards whose they are."""
        return math.ceil(JETS / SHARD) * float(self.own["shards"]["seconds_to_look"])

    def merging(self, name: str, kind: str) -> float:
        """Seconds to join all shards: as measured for one generator, and in proportion to reading and writing for the others."""

        def cost(of: str) -> float:
            about = self.own["formats"][of]
            return float(1 / about["read"]["parquet"] + 1 / about["written"][kind.lower()])

        return self.looking + JETS / float(self.own["shards"]["jets_per_second"][kind.lower()]) * cost(name) / cost(
            FAST
        )

    def step(self, processes: int, growth: float = 1, *, gpu: bool = True) -> Step:
        """Of GPUs, or of processes of one core each."""
        gradients = 4 * self.own["training"]["parameters"]
        if gpu:
            return Step(self.host, self.gpu_step - self.host, gradients, processes, growth)
        slower = 1.0 if processes == 1 else EFFICIENCY
        return Step(self.host / slower, (self.core_step - self.host) / slower, gradients, processes, growth)
