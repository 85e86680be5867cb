"""The ONNX file computes what torch does, for any number of clouds and points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

import pcdiff
from pcdiff.bundle import NetConfig, Settings, build_denoiser
from pcdiff.cli import main
from pcdiff.config import (
    DenoiserConfig,
    EpicConfig,
    GraphConfig,
    MultiplicityConfig,
    SamplingConfig,
    ScheduleConfig,
    TransformerConfig,
)
from pcdiff.errors import PcdiffError
from pcdiff.export import _standardised, _unstandardised, _wrapped, export_onnx
from pcdiff.generator import Conditions, Generator
from pcdiff.kinematics import wrap
from pcdiff.multiplicity import build_multiplicity
from pcdiff.resources import pretrained
from pcdiff.transforms import Scale, Transform, cloud_columns

from .test_transforms import CLOUDS, POINTS, jets

Arrays = dict[str, npt.NDArray[Any]]

EPIC = EpicConfig(hidden=16, layers=2, global_size=4)
CPP = Path(__file__).parents[1] / "docs" / "examples" / "cpp"


def make(net: NetConfig, denoiser: DenoiserConfig | None = None) -> Generator:
    """A generator whose net has random weights."""
    clouds = jets(300)
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    settings = Settings(
        net,
        ScheduleConfig(),
        MultiplicityConfig(kind="empirical"),
        SamplingConfig(steps=3),
        denoiser or DenoiserConfig(),
    )
    torch.manual_seed(0)
    model = build_denoiser(settings, transform)
    for parameter in model.parameters():
        # Also those that are zero at first.
        torch.nn.init.normal_(parameter, std=0.2)
    multiplicity = build_multiplicity(settings.multiplicity, len(CLOUDS), 2)
    features = np.stack(list(cloud_columns(clouds, list(CLOUDS)).values()), 1)
    multiplicity.fit(clouds.counts, features, transform.type_index(clouds), 0)
    return Generator(model, multiplicity, transform, settings, (0.5, 0.5), {"name": "test", "config_hash": "abc"})


class Exported(NamedTuple):
    generator: Generator
    chosen: SamplingConfig
    file: Path

    def run(self, inputs: Arrays) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Points and mask by ONNX Runtime."""
        onnxruntime = pytest.importorskip("onnxruntime")
        points, mask = onnxruntime.InferenceSession(self.file, providers=["CPUExecutionProvider"]).run(None, inputs)
        return points, mask


def requests(clouds: int, points: int, seed: int = 0) -> Arrays:
    """Inputs with clouds of 1 to ``points`` points."""
    rng = np.random.default_rng(seed)
    features = [rng.uniform(800, 1600, clouds), rng.normal(0, 0.7, clouds), rng.uniform(20, 200, clouds)]
    return {
        "noise": rng.normal(size=(clouds, points, 3)).astype(np.float32),
        "counts": rng.integers(1, points + 1, clouds),
        "features": np.stack(features, axis=1).astype(np.float32),
        "type": rng.integers(0, 2, clouds),
    }


def by_torch(exported: Exported, inputs: Arrays) -> npt.NDArray[np.float32]:
    """The same by torch and the transform, in falling order of ptrel; shape (sum of counts, 3)."""
    generator, transform = exported.generator, exported.generator.transform
    features = {scale.name: inputs["features"][:, i] for i, scale in enumerate(transform.clouds)}
    found = Conditions(inputs["counts"], {**features, "phi": np.zeros(len(inputs["counts"]))}, inputs["type"])
    mask = np.arange(inputs["noise"].shape[1]) < found.counts[:, None]
    cond = transform.encode_conditions(found.counts, features, found.types)
    tensors = (torch.from_numpy(array) for array in (inputs["noise"], mask, cond))
    numbers = np.arange(len(mask))
    x = generator.solve(*tensors, numbers, 0, exported.chosen, torch.device("cpu")).numpy()
    clouds = generator.decode(x[mask], found, {})
    columns = np.stack([clouds.column(name) for name in POINTS], axis=1)
    owner = np.repeat(numbers, found.counts)
    return columns[np.lexsort((-columns[:, 2], owner))]


def assert_near(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Each of etarel, phirel and ptrel to 1e-5 of its size; angles, which may all be near zero, of their spread in a jet at least."""
    for a, b, spread in zip(found.T.astype(np.float64), expected.T.astype(np.float64), (0.08, 0.08, 0), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(b), spread * np.sqrt(len(b)))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((EPIC, {"order": 2, "steps": 4}), id="epic"),
        pytest.param((EPIC.model_copy(update={"heads": 2, "value_size": 8}), {"steps": 1}), id="attention"),
        pytest.param(
            (TransformerConfig(hidden=16, layers=2, heads=2), {"sampler": "unipc", "denoise": True}), id="transformer"
        ),
    ],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    net, overrides = request.param
    generator = make(net)
    file = export_onnx(generator, tmp_path_factory.mktemp("onnx") / "test.onnx", **overrides)
    return Exported(generator, generator.choose(**overrides), file)


@pytest.mark.parametrize(("clouds", "points"), [(1, 1), (1, 12), (7, 1), (3, 5), (40, 30), (2, 150)])
def test_any_number_of_clouds_and_points_gives_what_torch_gives(exported: Exported, clouds: int, points: int) -> None:
    inputs = requests(clouds, points, seed=points)
    made, mask = exported.run(inputs)
    np.testing.assert_array_equal(mask, np.arange(points) < inputs["counts"][:, None])
    assert (made[~mask] == 0).all()
    assert_near(made[mask], by_torch(exported, inputs))


def test_points_fall(exported: Exported) -> None:
    made, mask = exported.run(requests(40, 12))
    falls = np.diff(made[..., 2], axis=1) <= 0
    assert falls[mask[:, 1:]].all()


def test_order_of_the_noise_and_padding_change_nothing(exported: Exported) -> None:
    inputs = requests(20, 9)
    made, mask = exported.run(inputs)
    permuted = inputs["noise"].copy()
    for row, count in zip(permuted, inputs["counts"], strict=True):
        row[:count] = row[:count][::-1].copy()
    assert_near(exported.run({**inputs, "noise": permuted})[0][mask], made[mask])
    padded = np.pad(inputs["noise"], ((0, 0), (0, 31), (0, 0)), constant_values=7)
    padded[:, :9][~mask] = -5
    wide, wide_mask = exported.run({**inputs, "noise": padded})
    assert wide.shape == (20, 40, 3)
    assert_near(wide[wide_mask], made[mask])


def test_the_file_says_what_it_holds(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported.file)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["pcdiff"] == pcdiff.__version__
    assert (about["format_version"], about["generator"], about["config_hash"]) == ("1", "test", "abc")
    assert [entry["name"] for entry in json.loads(about["points"])] == list(POINTS)
    assert [(entry["name"], entry["unit"]) for entry in json.loads(about["features"])] == [
        ("pt", "GeV"),
        ("eta", ""),
        ("mass", "GeV"),
    ]
    assert json.loads(about["types"]) == ["g", "t"]
    sampler = json.loads(about["sampler"])
    assert sampler["steps"] == exported.chosen.steps
    assert sampler["times"] == exported.generator.grid(exported.chosen).tolist()
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "noise": ["clouds", "points", 3],
        "counts": ["clouds"],
        "features": ["clouds", 3],
        "type": ["clouds"],
        "points": ["clouds", "points", 3],
        "mask": ["clouds", "points"],
    }


def test_the_weights_stand_in_the_file_once(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported.file)
    stored = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) == 2)
    weights = sum(
        parameter.numel() for parameter in exported.generator.denoiser.net.parameters() if parameter.ndim == 2
    )
    assert weights <= stored <= weights + 100
    calls = [node for node in model.graph.node if node.domain == "pcdiff"]
    assert len(calls) == exported.chosen.steps + exported.chosen.denoise
    # Neither paths nor the names of files of the machine that wrote it.
    assert str(Path(pcdiff.__file__).parent).encode() not in exported.file.read_bytes()


@pytest.mark.parametrize("name", ["gluon30", "gluon30-fast"])
def test_shipped_generators_give_the_jets_that_sampling_gives(name: str, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    if name not in pretrained():
        pytest.skip(f"{name} does not come with this pcdiff")
    generator = Generator.load(name)
    file = export_onnx(name, tmp_path / "jets.onnx")
    expected = generator.sample(200, seed=5, precision="float32")
    found = generator.conditions(0, 200, seed=5)
    noise, mask, _ = generator.batch(0, found, 5)
    features = np.stack([found.features[scale.name] for scale in generator.transform.clouds], axis=1)
    inputs = {"noise": noise.numpy(), "counts": found.counts, "features": features}
    made, made_mask = Exported(generator, generator.choose(), file).run(inputs)
    np.testing.assert_array_equal(made_mask, mask.numpy())
    columns = np.stack([expected.column(feature) for feature in expected.schema.point_names], axis=1)
    assert_near(made[made_mask], columns)


def test_scales_and_angles_are_those_of_the_transform() -> None:
    """In both directions; beyond the range of float32 values end where they do in the transform."""
    values = np.array([1e-30, 0.3, 2.0, 1e30], np.float32)
    extreme = np.array([-3e38, -200.0, -1.0, 0.0, 3.0, 200.0], np.float32)
    for function in ("standard", "log"):
        scale = Scale("x", function, 0.4, 2.5)
        np.testing.assert_array_equal(_standardised(scale, torch.from_numpy(values)).numpy(), scale.forward(values))
        back = _unstandardised(scale, torch.from_numpy(extreme)).float().numpy()
        np.testing.assert_allclose(back, scale.inverse(extreme), rtol=1e-7)
    angles = np.linspace(-20, 20, 401)
    np.testing.assert_allclose(_wrapped(torch.from_numpy(angles)).numpy(), wrap(angles), atol=1e-14)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sampler": "ancestral"}, r"^sampler 'ancestral' .*; expected ddim or unipc, without noise on the way$"),
        ({"sampler": "rk45"}, r"^sampler 'rk45' .*; expected ddim or unipc"),
        ({"options": {"eta": 0.5}}, r"^sampler 'ddim' with eta = 0.5 draws noise; expected ddim or unipc"),
        ({"precision": "bfloat16"}, r"^precision 'bfloat16' .*; expected float32"),
    ],
)
def test_a_sampler_that_cannot_be_written_is_refused(overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    generator = make(EPIC)
    stored = SamplingConfig.model_validate(generator.settings.sampling.model_dump(exclude={"order"}) | overrides)
    object.__setattr__(generator.settings, "sampling", stored)
    with pytest.raises(PcdiffError, match=message):
        export_onnx(generator, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("net", "denoiser", "message"),
    [
        (GraphConfig(hidden=8, layers=1, coordinates=("etarel", "phirel")), DenoiserConfig(), "graph net"),
        (EPIC, DenoiserConfig(potential=True), r"denoiser\.potential"),
        (EPIC, DenoiserConfig(dimension=128.0), r"denoiser\.dimension"),
    ],
)
def test_a_net_that_cannot_be_written_is_refused(
    net: NetConfig, denoiser: DenoiserConfig, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(PcdiffError, match=rf"{message}.*; expected [^\n]*$"):
        export_onnx(make(net, denoiser), tmp_path / "x.onnx")


def test_the_command_writes_the_file_and_an_error_leaves_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    make(EPIC).save(tmp_path / "mine")
    file = tmp_path / "mine.onnx"
    words = ["export", str(tmp_path / "mine"), "-o", str(file), "--steps", "1"]
    assert main(words) == 0
    before = file.read_bytes()
    capsys.readouterr()
    assert main([*words, "--sampler", "langevin"]) == 2
    assert capsys.readouterr().err.startswith("pcdiff: error: sampler 'langevin' cannot be written as ONNX")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(words) == 2
    assert capsys.readouterr().err.rstrip().endswith("pip install 'pcdiff[export]'")
    assert file.read_bytes() == before


@pytest.mark.slow
def test_the_example_in_cpp_prints_jets(tmp_path: Path) -> None:
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if root is None or not CPP.is_dir() or shutil.which("cmake") is None:
        pytest.skip("needs CMake, and ONNX Runtime's headers and library in the folder ONNXRUNTIME_ROOT")
    pytest.importorskip("onnxscript")
    file = export_onnx("gluon30-fast", tmp_path / "gluon30.onnx")
    build = tmp_path / "build"
    for command in (
        ["cmake", "-S", CPP, "-B", build, f"-DONNXRUNTIME_ROOT={root}"],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True)
    shown = subprocess.run([build / "generate_jets", file], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in shown.splitlines() if line and not line.startswith("jet")]
    ptrel = np.array([float(row[2]) for row in rows])
    assert len(rows) > 10
    assert ((ptrel > 0) & (ptrel < 1)).all()
