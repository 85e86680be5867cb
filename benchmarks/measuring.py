"""What all benchmarks share: summaries of rounds, and what their numbers depend on.

A shared machine drifts by more than many of the differences. So what is compared is timed in turns, round after round, and a
ratio is taken within a round.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pcdiff

_PACKAGES = ("torch", "torch-geometric", "numpy", "awkward", "pythia8mc", "fastjet")


def summary(values: list[float]) -> dict[str, Any]:
    """Median, lowest and highest of the rounds, and the rounds themselves."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": values}


def ratios(reference: list[float], seconds: list[float]) -> dict[str, Any]:
    """How many times as fast as the reference, each round by itself, from the seconds that both took."""
    return summary([a / b for a, b in zip(reference, seconds, strict=True)])


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """By how many megabytes (10^6 bytes) the peak of a process grows while it does something; at least one page of memory.

    The process is a fresh one, so that no memory that earlier work gave back to the allocator, but not to the system, hides what is needed.

    Args:
        prepare: a function of a module, called in that process with the arguments; returns what is to be done. What it needs
            itself is not counted.
    """
    # From a server that has imported what takes long: a process that it forks has run nothing, and has no peak behind it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pcdiff.generator", "pcdiff.training"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_growth, prepare, arguments).result()


def _growth(prepare: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> float:
    work = prepare(*arguments)
    # Linux forgets an earlier peak on request, so that what was given back does not hide what is needed now.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    work()
    return max(_peak() - before, resource.getpagesize() / 1e6)


def _peak() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return found / 1e6 if sys.platform == "darwin" else found * 1024 / 1e6


def conditions() -> dict[str, Any]:
    """Date, machine and versions."""
    present = [name for name in _PACKAGES if importlib.util.find_spec(name.replace("-", "_"))]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average_at_start": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "pcdiff": pcdiff.__version__,
            **{name: version(name) for name in present},
        },
    }


def described(at: dict[str, Any], *, threads: bool = True) -> list[str]:
    """Conditions as two sentences that stand beside the numbers."""
    machine = ", ".join([at["cpu"], f"{at['cores']} cores", at["capability"], at["system"]])
    used = f"torch threads: {at['threads']}; " if threads else ""
    versions = ", ".join(f"{name} {number}" for name, number in at["versions"].items())
    return [
        f"{at['date']}; {machine}; {used}load average at the start {at['load_average_at_start']:.1f}.",
        f"{versions}.",
    ]


def processor() -> str:
    """The name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
