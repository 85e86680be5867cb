"""pcdiff: diffusion models that generate physics point clouds.

The public names below are loaded on first use, so that ``import pcdiff`` stays quick and
reading a ROOT file never imports torch.

Module map, in the order in which they may import one another:

- :mod:`pcdiff.schema`, :mod:`pcdiff.clouds`: what columns mean; the ragged value object
- :mod:`pcdiff.io`: one module per file format, behind ``read``, ``iterate`` and ``write``
- :mod:`pcdiff.physics`: observables as plain functions of point clouds
- :mod:`pcdiff.data`: make and fetch data sets
- :mod:`pcdiff.transforms`, :mod:`pcdiff.loader`: from physical units to batches of tensors
- :mod:`pcdiff.nets`, :mod:`pcdiff.diffusion`, :mod:`pcdiff.multiplicity`: the model
- :mod:`pcdiff.generator`: everything that sampling needs, in one folder
- :mod:`pcdiff.evaluation`: metrics, figures and the report
- :mod:`pcdiff.tracking`, :mod:`pcdiff.training`, :mod:`pcdiff.config`, :mod:`pcdiff.cli`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pcdiff.clouds import PointClouds as PointClouds
    from pcdiff.config import load_config as load_config
    from pcdiff.errors import PcdiffError as PcdiffError
    from pcdiff.evaluation import evaluate as evaluate
    from pcdiff.generator import Generator as Generator
    from pcdiff.io import inspect as inspect
    from pcdiff.io import iterate as iterate
    from pcdiff.io import read as read
    from pcdiff.io import write as write
    from pcdiff.schema import Feature as Feature
    from pcdiff.schema import Schema as Schema
    from pcdiff.training import train as train

_HOME = {
    "PointClouds": "pcdiff.clouds",
    "Schema": "pcdiff.schema",
    "Feature": "pcdiff.schema",
    "PcdiffError": "pcdiff.errors",
    "read": "pcdiff.io",
    "iterate": "pcdiff.io",
    "write": "pcdiff.io",
    "inspect": "pcdiff.io",
    "Generator": "pcdiff.generator",
    "train": "pcdiff.training",
    "evaluate": "pcdiff.evaluation",
    "load_config": "pcdiff.config",
}

__all__ = [
    "Feature",
    "Generator",
    "PcdiffError",
    "PointClouds",
    "Schema",
    "__version__",
    "evaluate",
    "inspect",
    "iterate",
    "load_config",
    "read",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pcdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
