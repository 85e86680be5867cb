"""How long the observables of many jets take, and how much memory: `make bench`.

The jets are the embedded gluon jets, repeated as often as needed. The reference of the energy-flow polynomials is EnergyFlow itself, called
in one process on some of the same jets, just before; that of the other observables is the anti-kT clustering of the same jets by
FastJet, the step that any analysis of jets has behind it. Results go to benchmarks/results/observables.json, and as a table to the README
beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import awkward as ak
import energyflow
import fastjet
import numpy as np
from tables import update_readme

import pcdiff
from pcdiff import physics
from pcdiff.clouds import PointClouds
from pcdiff.executors import processes
from pcdiff.files import write_json
from pcdiff.physics import observables, profiles
from pcdiff.physics.jets import flow_polynomials
from pcdiff.resources import find

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "observables.json"
# Jets that the references are taken on.
REFERENCE_JETS = 2_000


def jets(count: int) -> PointClouds:
    """So many jets: the embedded ones, repeated."""
    parts = [pcdiff.read(find(f"datasets/jets/gluon30_{split}.hdf5")) for split in ("train", "validation", "test")]
    embedded = PointClouds.concatenate(parts)
    return embedded[np.arange(count) % len(embedded)]


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reference_polynomials(clouds: PointClouds) -> float:
    """Seconds a jet of EnergyFlow alone."""
    relative = clouds.relative()
    points = np.stack([ak.to_numpy(ak.flatten(relative[name])) for name in ("ptrel", "etarel", "phirel")], axis=1)
    events = np.split(points.astype(np.float64), clouds.offsets[1:-1])
    polynomials = energyflow.EFPSet(("d<=", 4), measure="hadr", beta=1, normed=None, coords="ptyphim")
    return seconds(lambda: polynomials.batch_compute(events, n_jobs=1)) / len(clouds)


def reference_clustering(clouds: PointClouds) -> float:
    """Seconds a jet of FastJet's anti-kT clustering with R = 0.4, the four-momenta being there."""
    momenta = ak.to_packed(clouds.momenta())
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4)
    return seconds(lambda: fastjet.ClusterSequence(momenta, definition).inclusive_jets()) / len(clouds)


def each(clouds: PointClouds) -> Iterator[tuple[str, float]]:
    """Seconds of each observable and profile in the order of the tables; what several share is counted with the first."""
    for name, observable in _stored(observables("jets"), clouds).items():
        yield name, seconds(lambda function=observable.function: function(clouds))
    for name, profile in _stored(profiles("jets"), clouds).items():
        yield name, seconds(lambda function=profile.function: function(clouds))


def _stored(known: dict[str, Any], clouds: PointClouds) -> dict[str, Any]:
    """Those whose columns the jets have."""
    return {name: about for name, about in known.items() if {*about.columns} <= {*clouds.schema.point_names}}


def measure(count: int, workers: int) -> dict[str, Any]:
    """All numbers."""
    clouds = jets(count)
    some = clouds[:REFERENCE_JETS]
    # Loads the graphs, which every process does once.
    flow_polynomials(some[:1])
    alone, clustering = reference_polynomials(some), reference_clustering(some)
    polynomials = seconds(lambda: flow_polynomials(clouds))
    # Of clouds that nothing is remembered of.
    whole, again = jets(count), jets(count)
    here = seconds(lambda: physics.measure(whole))
    with processes(workers)(workers) as pool:
        there = seconds(lambda: physics.measure(again, pool=pool))
    kilobytes = {"workers": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}
    parts = dict(each(clouds))
    kilobytes["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = sum(parts.values())
    return {
        "date": date.today().isoformat(),
        "pcdiff": pcdiff.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": os.getloadavg()[0],
        "jets": count,
        "workers": workers,
        "polynomials": {"seconds": polynomials, "reference": alone * count, "ratio": alone * count / polynomials},
        "processes": {"seconds": there, "reference": here, "ratio": here / there},
        "others": {
            "seconds": total,
            "reference": clustering * count,
            "ratio": total / (clustering * count),
            "each": parts,
        },
        "peak_megabytes": {name: size / 1024 for name, size in kilobytes.items()},
    }


def table(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    polynomials, others, memory = found["polynomials"], found["others"], found["peak_megabytes"]
    pooled = found["processes"]
    slowest = sorted(others["each"].items(), key=lambda item: -item[1])[:6]
    lines = [
        f"| {found['jets']:,} jets | seconds | reference | ratio |",
        "| --- | --- | --- | --- |",
        (
            f"| 36 energy-flow polynomials, one process | {polynomials['seconds']:.1f} | EnergyFlow in one process: "
            f"{polynomials['reference']:.1f} s | {polynomials['ratio']:.2f} times as fast |"
        ),
        (
            f"| all other observables and profiles ({len(others['each'])}), one process | {others['seconds']:.1f} | anti-kT clustering: "
            f"{others['reference']:.1f} s | {others['ratio']:.1f} times as long |"
        ),
        (
            f"| all of them, {found['workers']} processes | {pooled['seconds']:.1f} | one process: {pooled['reference']:.1f} s | "
            f"{pooled['ratio']:.2f} times as fast |"
        ),
        "",
        "The longest of the others: " + ", ".join(f"{name} {value:.1f} s" for name, value in slowest) + ".",
        f"Peak memory: {memory['process']:.0f} MB, and {memory['workers']:.0f} MB of each further process.",
        f"{found['date']}, {found['machine']}, load {found['load']:.1f} at the end; references on {REFERENCE_JETS:,} of the jets.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jets", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--update-readme", action="store_true", help="write the table into the README beside this file")
    arguments = parser.parse_args()
    found = measure(arguments.jets, arguments.workers)
    write_json(arguments.output, found)
    print(json.dumps(found, indent=2))
    if arguments.update_readme:
        update_readme("observables.py", table(found))


if __name__ == "__main__":
    main()
