"""What ``pcdiff info`` shows: facts of a run, of a generator, or of this installation."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcdiff import __version__
from pcdiff.files import read_json

if TYPE_CHECKING:
    from torch import nn

    from pcdiff.generator import Generator

__all__ = ["about", "environment"]

_PACKAGES = (
    "torch",
    "torch-geometric",
    "numpy",
    "awkward",
    "uproot",
    "h5py",
    "pyarrow",
    "mlflow",
    "zuko",
    "fastjet",
    "energyflow",
)
_EXTRAS = ("pythia8mc",)


def about(path: Path) -> dict[str, str]:
    """Facts of a run folder or a generator folder, as text by name.

    Raises:
        ModelError: it is neither, or its generator is damaged.
        DataError: its run.json is damaged.
    """
    from pcdiff.generator import Generator

    run = path / "run.json"
    if run.is_file() and not (path / "generator").exists():
        return _of_run(read_json(run)) | _of_metrics(path / "metrics.jsonl") | {"generator": "none written yet"}
    generator = Generator.load(path)
    described = read_json(run) if run.is_file() else generator.provenance
    return _of_run(described) | _of_metrics(path / "metrics.jsonl") | _of_generator(generator)


def _of_run(run: Mapping[str, Any]) -> dict[str, str]:
    facts = {name: str(run[key]) for key, name in _RUN.items() if key in run}
    facts |= {f"data fingerprint, {name}": str(value) for name, value in run.get("data_fingerprint", {}).items()}
    facts |= {f"{name} version": str(value) for name, value in run.get("versions", {}).items()}
    return facts | {name: str(value) for name, value in run.get("tags", {}).items()}


_RUN = {"name": "name", "created": "created", "config_hash": "config hash"}


def _of_metrics(file: Path) -> dict[str, str]:
    """The last value of each metric, with its step."""
    last: dict[str, str] = {}
    # A line that has no end is still being written, or was cut short by a kill.
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    for line in map(json.loads, lines):
        last |= {name: f"{value:.6g} at step {line['step']:,}" for name, value in line["metrics"].items()}
    return last


def _of_generator(generator: Generator) -> dict[str, str]:
    settings, transform = generator.settings, generator.transform
    shares = zip(transform.types, generator.types, strict=True)
    return {
        "net": ", ".join(f"{key} {value}" for key, value in settings.net.model_dump(mode="json").items()),
        "parameters of the net": f"{_parameters(generator.denoiser.net):,}",
        "multiplicity model": f"{settings.multiplicity.kind}, {_parameters(generator.multiplicity):,} parameters",
        "schedule": settings.schedule.kind,
        "sampler": ", ".join(f"{key} {value}" for key, value in settings.sampling.model_dump(mode="json").items()),
        "generates": ", ".join(scale.name for scale in transform.points),
        "given or drawn for each cloud": ", ".join(scale.name for scale in transform.clouds) or "nothing",
        "types": ", ".join(f"{name} {share:.1%}" for name, share in shares) or "none",
        "trained for": f"{generator.provenance.get('steps', 0):,} steps",
    }


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def environment() -> dict[str, str]:
    """Versions, cores and devices of this installation, as text by name."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "pcdiff": __version__,
        "installed in": str(Path(__file__).parents[1]),
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "CUDA devices": ", ".join(gpus) or "none",
        "MPS": "available" if torch.backends.mps.is_available() else "none",
        **{name: _version(name) for name in (*_PACKAGES, *_EXTRAS)},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
