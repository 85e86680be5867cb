"""A whole generator as one ONNX file, for programs without Python: from noise and conditions to points in physical units.

    input     noise     (clouds, points, C)  standard normal, finite also where there is no point; C is F, unless there are categories
              counts    (clouds,)            number of points of each cloud, at most ``points``
              features  (clouds, K)          cloud features in physical units; absent when K = 0
              type      (clouds,)            positions in the types; absent when there are fewer than two
    output    points    (clouds, points, F)  physical units, constituents by falling pT, zero where there is no point
              mask      (clouds, points)     true where there is a point

All are float32 but for the mask, which is bool; whole numbers too, since what experiments put around ONNX Runtime may pass on float32
only. Any number of clouds and points fits. The sampler is unrolled on its grid. The net stands in the file once, as a function that each
evaluation calls, so that a step adds a few operations to the file and not a net.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import pcdiff
from pcdiff.conditions import Conditions
from pcdiff.config import GraphConfig, SamplingConfig
from pcdiff.encodings import Categories, Scale
from pcdiff.errors import PcdiffError, optional
from pcdiff.files import atomic_file
from pcdiff.generator import Generator
from pcdiff.schema import Feature
from pcdiff.tracing import DOMAIN, NET, Whole
from pcdiff.transforms import Transform

__all__ = ["FORMAT_VERSION", "export_onnx", "onnx_inputs"]

FORMAT_VERSION = 1
"""Of the inputs, outputs and metadata of a file."""

# Samplers whose number of evaluations is known beforehand and that draw nothing on the way.
_UNROLLED = ("ddim", "unipc")

# What ONNX Runtime 1.15 reads, and all that came after it.
_OPSET, _IR_VERSION = 18, 8

# How many clouds a file is checked with, and by how much of its size, or of the spread of its feature, a value may be off. Rounding alone
# is less than a tenth of it.
_CHECKED, _TOLERANCE = 8, 1e-4

# What is traced stands for clouds of any number and size; these are neither 0 nor 1, which a trace takes for special.
_CLOUDS, _POINTS = 3, 5


def export_onnx(
    generator: Generator | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    sampler: str | None = None,
    order: int | None = None,
    steps: int | None = None,
    grid: str | None = None,
    denoise: bool | None = None,
    guidance: float | None = None,
) -> Path:
    """Write a generator as one ONNX file, whole or not at all; what goes in and comes out stands at the head of this module.

    The file says in its metadata what the columns are, in which units, and which generator and sampler it holds. Number of points
    and cloud features are inputs: the model of them (:attr:`pcdiff.generator.Generator.multiplicity`) is not in the file. Before it
    gets its name, ONNX Runtime makes some clouds with it, which must be those of torch.

    Args:
        generator: a generator, or what :meth:`pcdiff.generator.Generator.load` takes.
        output: the file.
        sampler, order, steps, grid, denoise, guidance: override the generator's default sampler, which must be ``ddim`` without
            ``eta``, or ``unipc``. The net is computed in float32, whatever the generator's precision.

    Returns:
        The file.

    Raises:
        PcdiffError: the generator or the sampler cannot be written so, a setting is out of range, the extra ``export`` is not
            installed, or the file does not give what torch gives.
    """
    onnx, _, _ = (optional(name, "export") for name in ("onnx", "onnxscript", "onnxruntime"))
    made = generator if isinstance(generator, Generator) else Generator.load(generator)
    chosen = made.choose(sampler=sampler, order=order, steps=steps, grid=grid, denoise=denoise, guidance=guidance)
    _require_exportable(made, chosen)
    chosen = chosen.model_copy(update={"precision": "float32"})
    denoiser = made.denoiser.cpu()
    times = made.grid(chosen)
    whole = _traced(Whole(denoiser, chosen, times, made.transform), _inputs(made.transform), 2)
    _insert(_traced(denoiser.net, _net_inputs(made.transform), 1), whole)
    whole.ir_version = _IR_VERSION
    onnx.helper.set_model_props(whole, _metadata(made, chosen, times))
    onnx.checker.check_model(whole)
    target = Path(output)
    with atomic_file(target) as temporary:
        temporary.write_bytes(whole.SerializeToString())
        _check(temporary, made, chosen)
    return target


def onnx_inputs(generator: Generator, found: Conditions, noise: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
    """What a file of this generator takes, by name.

    Args:
        generator: the one that was written.
        found: number of points, features and types of n clouds, for example of :meth:`pcdiff.generator.Generator.conditions`.
        noise: standard normal, shape (n, N, C), with N at least the largest number of points.
    """
    inputs = {"noise": np.asarray(noise, np.float32), "counts": found.counts.astype(np.float32)}
    if generator.transform.clouds:
        columns = [found.features[scale.name] for scale in generator.transform.clouds]
        inputs["features"] = np.stack(columns, axis=1, dtype=np.float32)
    if len(generator.transform.types) > 1:
        inputs["type"] = found.types.astype(np.float32)
    return inputs


def _check(file: Path, generator: Generator, chosen: SamplingConfig) -> None:
    """Make a few clouds with a file and with torch.

    Values are compared in order of size: where rounding swaps two points of nearly the same pT, nothing is wrong.

    Raises:
        PcdiffError: they differ by more than rounding explains.
    """
    onnxruntime = optional("onnxruntime", "export")
    found = generator.conditions(0, _CHECKED, seed=0)
    noise, mask, cond = generator.batch(0, found, 0)
    x = generator.solve(noise, mask, cond, np.arange(_CHECKED), 0, chosen, torch.device("cpu"))
    expected = generator.decode(x[mask].numpy(), found, {})
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = onnx_inputs(generator, found, noise)
    # Twice: from the second time on memory is laid out as the first has shown, which has failed before.
    for _ in range(2):
        points = session.run(["points"], inputs)[0][mask.numpy()]
        for i, encoding in enumerate(generator.transform.points):
            a, b = (np.sort(values.astype(np.float64)) for values in (points[:, i], expected.column(encoding.name)))
            # Categories are whole numbers, of which no other will do.
            least = encoding.std if isinstance(encoding, Scale) else 1.0
            size = np.abs(b) if encoding.function == "log" else np.maximum(np.abs(b), least)
            worst = np.max(np.abs(a - b) / size)
            if not worst <= _TOLERANCE:
                used = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime"))
                raise PcdiffError(
                    f"the file does not give what torch gives: {encoding.name!r} is off by {worst:.1e} of its size, expected at "
                    f"most {_TOLERANCE:.0e}; this is {used}: take the versions in constraints.txt"
                )


def _require_exportable(generator: Generator, chosen: SamplingConfig) -> None:
    """Refuse what has no such file.

    Raises:
        PcdiffError: says why.
    """
    settings = generator.settings
    expected = f"expected {' or '.join(_UNROLLED)}, without noise on the way"
    if chosen.options.get("eta"):
        raise PcdiffError(
            f"sampler {chosen.sampler!r} with eta = {chosen.options['eta']} draws noise; {expected}, such as unipc"
        )
    if chosen.sampler not in _UNROLLED:
        raise PcdiffError(f"sampler {chosen.sampler!r} cannot be written as ONNX; {expected}")
    if isinstance(settings.net, GraphConfig):
        raise PcdiffError(
            "a graph net chooses neighbours anew for each cloud, which ONNX cannot; expected epic or transformer"
        )
    other = [each.name for each in generator.transform.points if not isinstance(each, Scale | Categories)]
    if other:
        raise PcdiffError(
            f"the point feature {other[0]!r} is periodic or a normal score, which the file does not know; expected standard, log or categorical"
        )
    if settings.denoiser.potential:
        raise PcdiffError("denoiser.potential: the net is a gradient, which ONNX has not; expected a generator without")
    if settings.denoiser.dimension is not None:
        raise PcdiffError(
            "denoiser.dimension: a Poisson flow starts from other than normal noise; expected a diffusion"
        )


def _inputs(transform: Transform) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Each input of the file: an example, and the names of its dynamic axes."""
    found = {
        "noise": (torch.zeros(_CLOUDS, _POINTS, len(transform.channels)), ("clouds", "points")),
        "counts": (torch.ones(_CLOUDS), ("clouds",)),
    }
    if transform.clouds:
        found["features"] = torch.ones(_CLOUDS, len(transform.clouds)), ("clouds",)
    if len(transform.types) > 1:
        found["type"] = torch.zeros(_CLOUDS), ("clouds",)
    return found


def _net_inputs(transform: Transform) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Each input of the net, likewise."""
    return {
        "x": (torch.zeros(_CLOUDS, _POINTS, len(transform.channels)), ("clouds", "points")),
        "log_snr": (torch.zeros(_CLOUDS), ("clouds",)),
        "mask": (torch.ones(_CLOUDS, _POINTS, dtype=torch.bool), ("clouds", "points")),
        "cond": (torch.zeros(_CLOUDS, transform.conditions), ("clouds",)),
    }


def _traced(module: nn.Module, inputs: Mapping[str, tuple[Tensor, tuple[str, ...]]], outputs: int) -> Any:
    """The module as an ONNX model.

    Args:
        module: what is computed.
        inputs: by the names of the arguments, examples and the names of their dynamic axes.
        outputs: 2 for points and mask, 1 for points alone.
    """
    dims = {name: torch.export.Dim(name) for name in ("clouds", "points")}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            kwargs={name: example for name, (example, _) in inputs.items()},
            dynamic_shapes={name: {i: dims[axis] for i, axis in enumerate(axes)} for name, (_, axes) in inputs.items()},
            input_names=list(inputs),
            output_names=["points", "mask"][:outputs],
            dynamo=True,
            # Else a factor within 1e-5 of 1 is taken for 1, such as alpha at the last time.
            optimize=False,
            opset_version=_OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # Some shapes are noted down wrongly, [] for [1], and ONNX Runtime before 1.20 then gave wrong points from the second call on.
    del model.graph.value_info[:]
    # Where in the code a node comes from would put the paths of this machine into the file.
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch.onnx says of its own parts and of packages that it could also serve is not for a user of pcdiff."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _insert(net: Any, whole: Any) -> None:
    """Put the net into a model that calls it, as a function whose last inputs are the weights."""
    helper = optional("onnx", "export").helper
    weights = [tensor.name for tensor in net.graph.initializer]
    inputs = [value.name for value in net.graph.input] + weights
    outputs = [value.name for value in net.graph.output]
    whole.functions.append(helper.make_function(DOMAIN, NET, inputs, outputs, net.graph.node, net.opset_import))
    for tensor in net.graph.initializer:
        added = whole.graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = f"{NET}.{tensor.name}"
    for node in whole.graph.node:
        if node.domain == DOMAIN:
            node.input.extend(f"{NET}.{name}" for name in weights)


def _metadata(generator: Generator, chosen: SamplingConfig, times: Tensor) -> dict[str, str]:
    """What the file says of itself; all but plain words is JSON."""
    transform, schema = generator.transform, generator.transform.schema
    plain = {
        "points": [_described(schema.point(encoding.name)) for encoding in transform.points],
        "features": [_described(schema.cloud(scale.name)) for scale in transform.clouds],
        "types": list(transform.types),
        "sampler": chosen.model_dump(mode="json") | {"times": times.tolist()},
        "provenance": generator.origin,
    }
    return {
        "pcdiff": pcdiff.__version__,
        "format_version": str(FORMAT_VERSION),
        "generator": str(generator.provenance.get("name", "")),
        "config_hash": str(generator.provenance.get("config_hash", "")),
        "kind": schema.kind,
        **{name: json.dumps(value, ensure_ascii=False) for name, value in plain.items()},
    }


def _described(feature: Feature) -> dict[str, Any]:
    about: dict[str, Any] = {"name": feature.name, "unit": feature.unit, "description": feature.description}
    if feature.categories:
        about["categories"] = list(feature.categories)
    return about
