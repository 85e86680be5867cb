"""How training and sampling grow with the number of points, in time and memory; what two cores and batches of similar size gain.

    taskset -c 0 python benchmarks/scaling.py --parts points batches --update-readme
    python benchmarks/scaling.py --parts cores --update-readme

Each part is stored by itself and keeps what the others have found. What is compared, and how, is described in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import (
    REFERENCE_SAMPLING,
    Contender,
    Ours,
    Padded,
    config_of,
    jets_of,
    padded_attention,
    settings_of,
    synthetic_jets,
)
from measuring import conditions, peak_memory, ratios, summary
from rich.progress import Progress
from scaling_results import KINDS, PADDED, SHIPPED, exponents, markdown, notes, save, tables
from tables import README, console, show, update_readme

from pcdiff.bundle import NetConfig, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, EpicConfig, GraphConfig, TransformerConfig
from pcdiff.diffusion import Denoiser
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.loader import Loader
from pcdiff.transforms import Transform

RESULTS = Path(__file__).with_name("results") / "scaling.json"
FIGURES = Path(__file__).parents[1] / "docs" / "images"

# The defaults of the library; and EPiC layers whose points also attend to each other, as those of the shipped generators do.
NETS: dict[str, NetConfig] = {
    "epic": EpicConfig(),
    "epic, 2 heads": EpicConfig(heads=2),
    "transformer": TransformerConfig(),
    "graph": GraphConfig(),
}
CONSTITUENTS = 150
# In one thread, what a clock shows if nothing else runs: other processes on the machine count less.
CLOCK = time.process_time

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        sizes: points of a cloud.
        points_per_batch: points of a training batch, a multiple of all sizes: each batch is then as large as the others.
        cores_sizes: points of a cloud where cores are compared.
        cores_steps: training steps a round where cores are compared.
        request: points of all clouds together that are sampled where cores are compared.
        rounds: rounds of measurements.
        seconds: least duration of one sampling measurement.
        most_seconds: a size is left out if a training step and an evaluation would take longer, by what the size before it took and the
            ratio of the numbers of points.
        most_megabytes: a size is left out if a step would take more memory, by the same reckoning.
        clouds: jets of the data set that batches of similar size are made of.
        steps: training steps a round on these.
        jets_points: most points in a batch of these.
    """

    sizes: tuple[int, ...]
    points_per_batch: int
    cores_sizes: tuple[int, ...]
    cores_steps: int
    request: int
    rounds: int
    seconds: float
    most_seconds: float
    most_megabytes: float
    clouds: int
    steps: int
    jets_points: int


FULL = Extent(
    sizes=(10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
    points_per_batch=5000,
    cores_sizes=(30, 150),
    cores_steps=2,
    request=32_768,
    rounds=3,
    seconds=0.3,
    most_seconds=60,
    most_megabytes=4000,
    clouds=16_384,
    steps=8,
    jets_points=3840,
)
QUICK = Extent(
    sizes=(20, 100, 400),
    points_per_batch=400,
    cores_sizes=(10,),
    cores_steps=1,
    request=160,
    rounds=1,
    seconds=0.0,
    most_seconds=60,
    most_megabytes=4000,
    clouds=64,
    steps=1,
    jets_points=300,
)


def one_size(name: str, points: int, points_per_batch: int) -> Padded:
    """A net on clouds of so many points each, of which a batch is trained on and sampled: none is padded."""
    torch.manual_seed(0)
    config = _config(name)
    transform, loader = _encoded(
        jets_of(np.full(points_per_batch // points, points), np.random.default_rng(0)), points_per_batch
    )
    return Padded(name, _denoiser(name, config, transform), config, transform, loader, 1, points)


def _config(name: str) -> Config:
    return config_of(NETS[name]) if name in NETS else config_of(EpicConfig(), REFERENCE_SAMPLING)


def _denoiser(name: str, config: Config, transform: Transform) -> Denoiser:
    return padded_attention(config, transform) if name == PADDED else build_denoiser(settings_of(config), transform)


def _encoded(clouds: PointClouds, points_per_batch: int) -> tuple[Transform, Loader]:
    features = config_of(EpicConfig()).features
    transform = Transform.fit(clouds, features.points, features.clouds)
    return transform, Loader(transform.encode(clouds), points_per_batch, seed=0)


def _memory_work(name: str, points: int, points_per_batch: int, kind: str) -> Callable[[], object]:
    """A training step or an evaluation, in a process that has done the same on a few points."""
    torch.set_num_threads(1)
    _use_sdpa()
    small = one_size(name, 2, 8)
    small.train()
    small.sample()
    large = one_size(name, points, points_per_batch)
    return large.train if kind == "training" else large.sample


def measure_points(extent: Extent, advance: Advance) -> list[dict[str, Any]]:
    """Seconds and megabytes of all nets at all sizes, on one core: plain data, one entry a net and size.

    A round goes through all sizes, so that a machine that gets slower with the hour is not taken for an exponent.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    field: list[tuple[dict[str, Any], Contender]] = []
    for name in (*NETS, PADDED):
        before: dict[str, Any] | None = None
        for points in extent.sizes:
            row: dict[str, Any] = {"net": name, "points": points}
            rows.append(row)
            if (why := _beyond(before, points, extent)) is not None:
                row["left_out"] = why
                continue
            one = one_size(name, points, extent.points_per_batch)
            start = CLOCK()
            one.warm_up(extent.seconds)
            seconds = CLOCK() - start
            for kind in KINDS:
                grown = peak_memory(_memory_work, name, points, extent.points_per_batch, kind)
                row[kind] = {"clouds": one.sampled, "megabytes": grown}
            before = row | {"seconds": seconds}
            field.append((row, one))
            advance(f"memory: {name}, {points} points")
    taken: dict[tuple[int, str], list[float]] = {}
    for turn in range(extent.rounds):
        for place, (row, one) in enumerate(field):
            taken.setdefault((place, "training"), []).append(one.train(CLOCK))
            taken.setdefault((place, "sampling"), []).append(one.sample(CLOCK))
            advance(f"round {turn + 1}: {row['net']}, {row['points']} points")
    for (place, kind), found in taken.items():
        field[place][0][kind]["milliseconds_per_cloud"] = summary([1e3 * value for value in found])
    return rows


def _beyond(before: Mapping[str, Any] | None, points: int, extent: Extent) -> str | None:
    """Why a size is left out, if it is: what it would take, from what a step and an evaluation took at the size before it."""
    if before is None:
        return None
    # A batch holds the same number of points at all sizes, so its cost grows with their number in a cloud if that of a pair counts.
    growth = points / before["points"]
    seconds, megabytes = growth * before["seconds"], growth * before["training"]["megabytes"]
    if seconds > extent.most_seconds:
        return f"a step and an evaluation would take {seconds:.0f} s"
    return f"a step would take {megabytes:,.0f} MB" if megabytes > extent.most_megabytes else None


def measure_cores(extent: Extent, advance: Advance) -> list[dict[str, Any]]:
    """How many times as fast as one thread all threads train and sample: plain data, one entry a net and size.

    By the clock, the fastest round of each: a process that takes a core away for a while spoils some rounds, not these.
    """
    rows = []
    threads = available()
    for points in extent.cores_sizes:
        torch.manual_seed(0)
        clouds = jets_of(np.full(extent.request // points, points), np.random.default_rng(0))
        transform, loader = _encoded(clouds, extent.points_per_batch)
        for name in (*NETS, PADDED):
            config = _config(name)
            one: Contender = (
                Ours(name, config, transform, loader, extent.cores_steps, clouds)
                if name in NETS
                else Padded(
                    name, _denoiser(name, config, transform), config, transform, loader, extent.cores_steps, points
                )
            )
            seconds: dict[tuple[str, int], list[float]] = {}
            for turn in range(-1, extent.rounds):
                for number in (1, threads):
                    torch.set_num_threads(number)
                    if turn < 0:
                        one.warm_up(extent.seconds)
                        continue
                    seconds.setdefault(("training", number), []).append(one.train())
                    seconds.setdefault(("sampling", number), []).append(one.sample())
            row: dict[str, Any] = {"net": name, "points": points, "threads": threads}
            for kind in KINDS:
                alone, together = seconds[kind, 1], seconds[kind, threads]
                row[kind] = {"ratio": min(alone) / min(together), "one": summary(alone), "all": summary(together)}
            rows.append(row)
            advance(f"{points} points: {name}")
    return rows


def available() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_batches(extent: Extent, advance: Advance) -> list[dict[str, Any]]:
    """Training on jets of up to 150 constituents, on one core, against padded attention as wide and as deep: one entry a net."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clouds = synthetic_jets(extent.clouds, CONSTITUENTS)
    transform, loader = _encoded(clouds, extent.jets_points)
    nets = NETS | {f"that of {SHIPPED}": Generator.load(SHIPPED).settings.net}
    configs = {name: config_of(net) for name, net in nets.items()}
    shapes = {name: (net.hidden, net.layers) for name, net in nets.items()}

    def padded(name: str, config: Config) -> Padded:
        model = _denoiser(name, config, transform)
        return Padded(name, model, config, transform, loader, extent.steps, CONSTITUENTS)

    references = {shapes[name]: padded(PADDED, config) for name, config in configs.items()}
    alike = {name: padded(name, config) for name, config in configs.items()}
    ours = {name: Ours(name, config, transform, loader, extent.steps, clouds[:1]) for name, config in configs.items()}
    field: list[Contender] = [*references.values(), *alike.values(), *ours.values()]
    seconds: dict[int, list[float]] = {id(one): [] for one in field}
    for one in field:
        one.train()
        advance(f"{CONSTITUENTS} constituents: warm-up, {one.name}")
    for _ in range(extent.rounds):
        for one in field:
            seconds[id(one)].append(one.train(CLOCK))
            advance(f"{CONSTITUENTS} constituents: {one.name}")
    return [
        {
            "net": name,
            "hidden": shapes[name][0],
            "layers": shapes[name][1],
            "clouds_per_second": {
                kind: summary([1 / value for value in seconds[id(one)]])
                for kind, one in (("similar", ours[name]), ("padded", alike[name]), ("reference", reference))
            },
            "ratio": ratios(seconds[id(reference)], seconds[id(ours[name])]),
            "ratio_of_batches": ratios(seconds[id(alike[name])], seconds[id(ours[name])]),
        }
        for name in nets
        for reference in [references[shapes[name]]]
    ]


def _use_sdpa() -> None:
    """Let the reference use scaled_dot_product_attention in sampling as in training.

    PyTorch's own path for whole layers writes out all pairs of points, which takes several times as long for large clouds.
    """
    torch.backends.mha.set_fastpath_enabled(False)


PARTS = {"points": measure_points, "cores": measure_cores, "batches": measure_batches}


def main() -> None:
    """Measure, print, draw, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the picture (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    if "cores" in chosen.parts and available() < 2:
        raise SystemExit("scaling.py: cores: expected at least 2 cores to compare, found 1 that this process may use")
    _use_sdpa()
    extent, out = QUICK if chosen.quick else FULL, console()
    result: dict[str, Any] = read_json(chosen.output) if chosen.output.is_file() and not chosen.quick else {}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    for part in chosen.parts:
        at = conditions() | {"rounds": extent.rounds, "threads": available() if part == "cores" else 1}
        with Progress(console=out) as progress:
            bar = progress.add_task(part, total=None)
            rows = PARTS[part](extent, lambda what, bar=bar: progress.update(bar, advance=1, description=what))
        result[part] = {"conditions": at, "rows": rows}
        if part == "points":
            result[part] |= {
                "exponents": exponents(rows),
                "points_per_batch": extent.points_per_batch,
                "most_seconds": extent.most_seconds,
                "most_megabytes": extent.most_megabytes,
            }
        write_json(chosen.output, result)
    for title, lines in tables(result).items():
        show(title, lines, out)
    for note in notes(result):
        out.print(note, highlight=False)
    if "points" in result:
        out.print(", ".join(map(str, save(result, chosen.figures))))
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("scaling.py", markdown(result))
        out.print(f"tables: {README}")


if __name__ == "__main__":
    main()
