"""What all benchmarks share: summaries of rounds, and what their numbers depend on.

A shared machine drifts by more than many of the differences. So what is compared is timed in turns, round after round, and a
ratio is taken within a round.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
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
