"""What ``pcdiff info`` and ``pcdiff inspect`` show: facts of a run, of a generator, or of this installation."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcdiff import __version__
from pcdiff.errors import PcdiffError
from pcdiff.records import read_metrics, read_run
from pcdiff.resources import DESCRIPTION, find_generator, pretrained

if TYPE_CHECKING:
    from torch import nn

    from pcdiff.generator import Generator

__all__ = ["about", "environment", "is_generator", "shipped_generators"]

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
_EXTRAS = ("pythia8mc", "onnx", "onnxscript", "onnxruntime")

_RUN_FILE = "run.json"
_CARD = "README.md"


def is_generator(name: str) -> bool:
    """Whether a name is that of a run folder, a generator folder or a generator that comes with pcdiff."""
    files = (_RUN_FILE, DESCRIPTION, f"generator/{DESCRIPTION}")
    return name in pretrained() or any((Path(name) / file).is_file() for file in files)


def shipped_generators() -> dict[str, str]:
    """The title of the card of each generator that comes with pcdiff, by name.

    Raises:
        PcdiffError: there are none.
    """
    found = pretrained()
    if not found:
        raise PcdiffError("no generator comes with this pcdiff; train one: pcdiff train quickstart")
    return {name: _title(folder / _CARD) for name, folder in found.items()}


def _title(card: Path) -> str:
    return card.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def about(name: str | os.PathLike[str]) -> dict[str, str]:
    """Facts of a run or a generator, as text by name.

    Args:
        name: as for :meth:`pcdiff.Generator.load`; also a run without a generator yet.

    Raises:
        ModelError: it is neither, or its generator is damaged.
        DataError: its run.json is damaged.
    """
    from pcdiff.generator import Generator

    run = Path(name)
    if (run / _RUN_FILE).is_file():
        facts = _of_run(read_run(run)) | _of_metrics(run / "metrics.jsonl") | _of_config(run)
        found = (
            _of_generator(Generator.load(run)) if (run / "generator").exists() else {"generator": "none written yet"}
        )
        return facts | found
    folder = find_generator(name)
    generator = Generator.load(folder)
    facts = _of_run(generator.provenance) | _of_config(folder) | _of_generator(generator) | {"folder": str(folder)}
    card = folder / _CARD
    return facts | ({"card": str(card)} if card.is_file() else {})


def _of_run(run: Mapping[str, Any]) -> dict[str, str]:
    facts = {name: str(run[key]) for key, name in _RUN.items() if key in run}
    facts |= {f"data fingerprint, {name}": str(value) for name, value in run.get("data_fingerprint", {}).items()}
    facts |= {f"{name} version": str(value) for name, value in run.get("versions", {}).items()}
    return facts | {name: str(value) for name, value in run.get("tags", {}).items()}


_RUN = {"name": "name", "created": "created", "config_hash": "config hash"}


def _of_config(folder: Path) -> dict[str, str]:
    """What a run learned from, where its config lies beside it."""
    from pcdiff.config import Config, load_any

    if not (folder / "config.yaml").is_file():
        return {}
    config = load_any(folder)
    if isinstance(config, Config):
        return {"training data": ", ".join(config.data.train)}
    return {"teacher": config.teacher}


def _of_metrics(file: Path) -> dict[str, str]:
    """The last value of each metric, with its step."""
    last: dict[str, str] = {}
    for line in read_metrics(file) if file.is_file() else []:
        last |= {name: f"{value:.6g} at step {line.step:,}" for name, value in line.metrics.items()}
    return last


def _of_generator(generator: Generator) -> dict[str, str]:
    settings, transform = generator.settings, generator.transform
    shares = zip(transform.types, generator.types, strict=True)
    return {
        "kind": transform.schema.kind,
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
