"""Training and sampling speed of the nets, as ratios to a reference that is measured in the same run.

    make bench
    python benchmarks/speed.py --threads 1 --update-readme

What is compared, and how, is described in benchmarks/README.md. A shared machine drifts by more than many of the
differences: so everything is timed in turns, round after round, and a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import FULL, NETS, QUICK, REFERENCE, Extent, PythiaJets, contenders, synthetic_jets
from rich.console import Console
from rich.progress import Progress
from tables import README, show, update_readme

import pcdiff
from pcdiff.files import write_json
from pcdiff.transforms import cloud_columns

RESULTS = Path(__file__).with_name("results") / "speed.json"


def measure(
    constituents: int, extent: Extent, pythia: PythiaJets | None, advance: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Rounds of everything at one number of constituents: plain data, one entry a net, and jets/s of Pythia and FastJet.

    Args:
        pythia: what the nets replace, where it is installed.
        advance: told what has just been measured.
    """
    ours, reference = contenders(constituents, extent)
    field = [*ours, reference]
    for contender in field:
        contender.warm_up(extent.seconds)
        advance(f"{constituents} constituents: warm-up, {contender.name}")
    train: dict[str, list[float]] = {contender.name: [] for contender in field}
    sample: dict[str, list[float]] = {contender.name: [] for contender in field}
    made: list[float] = []
    for _ in range(extent.rounds):
        for kind, seconds in (("training", train), ("sampling", sample)):
            for contender in field:
                seconds[contender.name].append(contender.train() if kind == "training" else contender.sample())
                advance(f"{constituents} constituents: {kind}, {contender.name}")
        if pythia is not None:
            made.append(pythia.make())
            advance(f"{constituents} constituents: Pythia and FastJet")

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
                    "clouds_per_second": _summary([1 / seconds for seconds in train[contender.name]]),
                    "ratio": _ratio(train[REFERENCE], train[contender.name]),
                },
                "evaluation": {
                    "clouds": contender.sampled,
                    "evaluations": contender.evaluations,
                    "milliseconds_per_cloud": _summary([1e3 * seconds for seconds in sample[contender.name]]),
                    "ratio": _ratio(sample[REFERENCE], sample[contender.name]),
                },
                "sampling": {
                    "evaluations": steps,
                    "clouds_per_second": _summary([1 / seconds for seconds in whole]),
                    "ratio": _ratio(theirs, whole),
                    "ratio_to_pythia": _ratio(made, whole) if made else None,
                },
            }
        )
    return rows, _summary([1 / seconds for seconds in made]) if made else None


def whole_call(extent: Extent) -> dict[str, float]:
    """``Generator.sample`` of one block of 30 constituents by EPiC, beside its evaluations alone, in seconds.

    What the call adds (multiplicity flow, sorting, decoding to physical units) is what the tables leave out when they
    take the time of a jet as evaluations times the time of one.
    """
    epic = contenders(30, extent)[0][0]
    clouds = synthetic_jets(extent.block, 30)
    columns = cloud_columns(clouds, [scale.name for scale in epic.transform.clouds])
    features = np.stack(list(columns.values()), axis=1)
    epic.generator.multiplicity.fit(clouds.counts, features, np.zeros(len(clouds), np.int64), seed=0)
    epic.warm_up(extent.seconds)
    evaluations = epic.sample() * epic.config.sampling.steps * extent.block
    start = time.perf_counter()
    epic.generator.sample(extent.block, device="cpu")
    return {"call": time.perf_counter() - start, "evaluations": evaluations}


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": values}


def _ratio(reference: list[float], seconds: list[float]) -> dict[str, Any]:
    """How many times faster than the reference, each round by itself."""
    return _summary([a / b for a, b in zip(reference, seconds, strict=True)])


def conditions(threads: int, extent: Extent) -> dict[str, Any]:
    """What the numbers depend on: date, machine, versions, sample sizes."""
    packages = ["torch", "torch-geometric", "numpy", "awkward", "pythia8mc", "fastjet"]
    present = [name for name in packages if importlib.util.find_spec(name.replace("-", "_"))]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average_at_start": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "pcdiff": pcdiff.__version__,
            **{name: version(name) for name in present},
        },
        "rounds": extent.rounds,
        "training_steps_a_round": extent.steps,
        "points_per_batch": extent.points_per_batch,
        "block": extent.block,
        "request": extent.clouds,
        "pythia_jets_a_round": extent.jets,
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


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
    at = conditions(chosen.threads, extent)
    console = Console(width=None if Console().is_terminal else 160)
    installed = all(importlib.util.find_spec(name) for name in ("pythia8mc", "fastjet"))
    pythia = PythiaJets(extent.jets) if installed else None

    with Progress(console=console) as progress:
        work = len(extent.strata) * ((len(NETS) + 1) * (1 + 2 * extent.rounds) + extent.rounds * installed)
        bar = progress.add_task("starting", total=work)
        rows: list[dict[str, Any]] = []
        speeds = []
        for constituents in extent.strata:
            nets, speed = measure(
                constituents, extent, pythia, lambda what: progress.update(bar, advance=1, description=what)
            )
            rows += nets
            speeds.append(speed)
        progress.update(bar, description="a whole call")
        whole = whole_call(extent)

    result = {
        "conditions": at,
        "rows": rows,
        "whole_call": whole,
        "pythia": {"start_seconds": pythia.start_seconds, "jets_per_second": speeds} if pythia else None,
    }
    show(result, console)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, result)
    console.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme(result)
        console.print(f"tables: {README}")


if __name__ == "__main__":
    main()
