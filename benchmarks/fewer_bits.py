"""ONNX files in float16 and INT8, made by the tools of ONNX Runtime, and how good their jets are against those of float32."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.conditions import Conditions, conditions_of
from pcdiff.errors import DataError, optional
from pcdiff.evaluation import wasserstein
from pcdiff.export import _insert, onnx_inputs
from pcdiff.generator import Generator
from pcdiff.physics import observables

# What ``quantize_dynamic`` of onnxruntime.quantization is told; weights are of 8 bits with sign.
INT8: Mapping[str, dict[str, bool]] = {
    "INT8": {},
    "INT8, per channel, 7 bits": {"per_channel": True, "reduce_range": True},
}
_BATCH = 136
# How many inputs of the net are computed: points, log-SNR, mask, conditions; the others are weights.
_COMPUTED = 4

Floats = npt.NDArray[np.float64]


def fewer_bits(file: Path) -> dict[str, Path]:
    """The same generator with the net in fewer bits; the transform and the sampler stay in float32 and double precision.

    Args:
        file: of ``pcdiff export``; the others are put beside it.
    """
    onnx = optional("onnx", "export")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

    logging.getLogger().setLevel(logging.ERROR)
    whole, net = onnx.load(file), file.with_name("net.onnx")
    # By itself: neither tool looks into functions, and numbers that go into the file must not lose digits.
    onnx.save(_net_of(whole), net)
    quant_pre_process(net, net, skip_symbolic_shape=True)
    nets = {"float16": convert_float_to_float16(onnx.load(net), keep_io_types=True)}
    for name, settings in INT8.items():
        quantised = file.with_name("quantised.onnx")
        quantize_dynamic(
            net,
            quantised,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            # Of products of weights only, not of two things that are computed.
            extra_options={"MatMulConstBOnly": True},
            **settings,
        )
        nets[name] = onnx.load(quantised)
    made = {name: file.with_name(f"{i}.onnx") for i, name in enumerate(nets)}
    for name, path in made.items():
        onnx.save(_with_net(whole, nets[name]), path)
    return made


def _net_of(whole: Any) -> Any:
    """The net of a file as a model by itself."""
    helper, types = optional("onnx", "export").helper, optional("onnx", "export").TensorProto
    (function,) = whole.functions
    kinds = [types.FLOAT, types.FLOAT, types.BOOL, types.FLOAT]
    width = whole.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    shapes = [("clouds", "points", width), ("clouds",), ("clouds", "points"), ("clouds", None)]
    inputs = [helper.make_tensor_value_info(*one) for one in zip(function.input, kinds, shapes, strict=False)]
    outputs = [helper.make_tensor_value_info(function.output[0], types.FLOAT, shapes[0])]
    call = next(node for node in whole.graph.node if node.domain == function.domain)
    names = dict(zip(call.input[_COMPUTED:], function.input[_COMPUTED:], strict=True))
    weights = [copy.deepcopy(tensor) for tensor in whole.graph.initializer if tensor.name in names]
    for tensor in weights:
        tensor.name = names[tensor.name]
    graph = helper.make_graph(function.node, "net", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=function.opset_import, ir_version=whole.ir_version)


def _with_net(whole: Any, net: Any) -> Any:
    """A file with another net in the place of its own."""
    import onnx_ir
    from onnx import inliner

    made = copy.deepcopy(whole)
    domain = made.functions.pop().domain
    old = {name for node in made.graph.node if node.domain == domain for name in node.input[_COMPUTED:]}
    kept = [tensor for tensor in made.graph.initializer if tensor.name not in old]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    for node in made.graph.node:
        if node.domain == domain:
            del node.input[_COMPUTED:]
    # The tool for float16 leaves nodes in any order.
    ordered = onnx_ir.from_proto(net)
    ordered.graph.sort()
    _insert(onnx_ir.to_proto(ordered), made)
    known = {entry.domain for entry in made.opset_import}
    made.opset_import.extend(entry for entry in net.opset_import if entry.domain not in known)
    return inliner.inline_local_functions(made)


def quality(
    generator: Generator, sessions: Mapping[str, Any], truth: PointClouds, jets: int, draws: int
) -> dict[str, dict[str, float]]:
    """W1M and W1P of what each session makes, and by how much they are above those of the first.

    All make jets of the same noise under the conditions of the first true jets, which are compared with as many others.

    Args:
        generator: the one that was written.
        sessions: by name, float32 first.
        truth: at least twice as many jets.
        draws: resamples of jets behind the errors; all sessions share them.

    Raises:
        DataError: there are too few true jets.
    """
    if len(truth) < 2 * jets:
        raise DataError(
            f"the truth has {len(truth):,} jets, expected at least {2 * jets:,}: conditions, and others to compare with"
        )
    found = conditions_of(truth, generator.transform, 0, jets, 1)
    true = truth[jets : 2 * jets]
    samples = {name: _made(generator, session, found) for name, session in sessions.items()}
    values = {name: _distances(true, sample) for name, sample in samples.items()}
    rng = np.random.default_rng(1)
    resampled: dict[str, list[Floats]] = {name: [] for name in samples}
    for _ in range(draws):
        first, second = rng.integers(0, jets, (2, jets))
        for name, sample in samples.items():
            resampled[name].append(_distances(true[first], sample[second]))
    reference = next(iter(samples))
    rows = {}
    for name in samples:
        spread = np.std(resampled[name], axis=0, ddof=1)
        change = values[name] - values[reference]
        change_spread = np.std(np.subtract(resampled[name], resampled[reference]), axis=0, ddof=1)
        rows[name] = {
            f"{distance}{what}": float(number[i])
            for what, number in (
                ("", values[name]),
                ("_error", spread),
                ("_change", change),
                ("_change_error", change_spread),
            )
            for i, distance in enumerate(("w1m", "w1p"))
        }
    return rows


def _made(generator: Generator, session: Any, found: Conditions) -> PointClouds:
    """Clouds by a session, those of like sizes together."""
    noise, mask, _ = (tensor.numpy() for tensor in generator.batch(0, found, 1))
    inputs = onnx_inputs(generator, found, noise)
    points = np.zeros_like(inputs["noise"])
    for batch in np.array_split(np.argsort(found.counts, kind="stable"), -(-len(noise) // _BATCH)):
        most = int(found.counts[batch].max())
        some = {name: values[batch] for name, values in inputs.items()}
        some["noise"] = some["noise"][:, :most]
        points[batch, :most] = session.run(["points"], some)[0]
    columns = {scale.name: points[mask][:, i] for i, scale in enumerate(generator.transform.points)}
    # What stands beside the points is that of any clouds under these conditions.
    like = generator.decode(noise[mask], found, {})
    features = {name: like.feature(name) for name in like.schema.cloud_names}
    return PointClouds.from_flat(columns, offsets_of(found.counts), features, like.schema)


def _distances(true: PointClouds, sample: PointClouds) -> Floats:
    """W1M, and W1P, the mean over the features of a constituent."""
    mass = observables("jets")["relative_mass"].function
    each = [wasserstein(true.column(name), sample.column(name)) for name in ("etarel", "phirel", "ptrel")]
    return np.array([wasserstein(mass(true), mass(sample)), np.mean(each)])
