"""The ONNX file computes what torch does, for any number of clouds and points."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import pcdiff
from pcdiff.bundle import NetConfig, Settings, build_denoiser
from pcdiff.cli import main
from pcdiff.conditions import Conditions
from pcdiff.config import (
    DenoiserConfig,
    EpicConfig,
    GraphConfig,
    MultiplicityConfig,
    SamplingConfig,
    ScheduleConfig,
    TransformerConfig,
)
from pcdiff.diffusion import DenoiserLike, sample
from pcdiff.diffusion.guidance import ClassifierFree
from pcdiff.encodings import Categories, Combinations, Function, Scale
from pcdiff.errors import PcdiffError
from pcdiff.export import _check, export_onnx, onnx_inputs
from pcdiff.generator import Generator
from pcdiff.kinematics import wrap
from pcdiff.multiplicity import build_multiplicity
from pcdiff.resources import pretrained
from pcdiff.tracing import categories, standardised, unstandardised, wrapped
from pcdiff.transforms import Transform, cloud_columns

from .test_transforms import CLOUDS, LABELLED, POINTS, labelled

Arrays = dict[str, npt.NDArray[np.float32]]

EPIC = EpicConfig(hidden=16, layers=2, global_size=4)
ATTENTION = EPIC.model_copy(update={"heads": 2, "value_size": 8, "attending": (1,)})
TRANSFORMER = TransformerConfig(hidden=16, layers=1, heads=2)
GUIDED = DenoiserConfig(drop_conditions=0.1)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CPP = Path(__file__).parents[1] / "docs" / "examples" / "cpp"


def make(
    net: NetConfig,
    denoiser: DenoiserConfig | None = None,
    *,
    conditioned: bool = True,
    points: Mapping[str, Function] = POINTS,
) -> Generator:
    """A generator whose net has random weights."""
    clouds = labelled(300)
    transform = Transform.fit(clouds, points, CLOUDS if conditioned else {}, use_type=conditioned)
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
    multiplicity = build_multiplicity(settings.multiplicity, len(transform.clouds), max(1, len(transform.types)))
    columns = cloud_columns(clouds, [scale.name for scale in transform.clouds])
    features = np.stack(list(columns.values()), 1) if columns else np.zeros((len(clouds), 0))
    multiplicity.fit(clouds.counts, features, transform.type_index(clouds), 0)
    types = (0.5, 0.5) if conditioned else ()
    return Generator(model, multiplicity, transform, settings, types, {"name": "test", "config_hash": "abc"})


class Exported:
    """A generator, what of it was written, and a session that runs the file."""

    def __init__(self, generator: Generator, chosen: SamplingConfig, file: Path) -> None:
        # As the file has it; a processor that multiplies in bfloat16 would compute the generator's own choice in that.
        self.generator, self.chosen, self.file = generator, chosen.model_copy(update={"precision": "float32"}), file
        onnxruntime = pytest.importorskip("onnxruntime")
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.encodings = generator.transform.points
        # Of etarel, phirel and ptrel.
        self.numbers = [i for i, encoding in enumerate(self.encodings) if isinstance(encoding, Scale)]

    def run(self, inputs: Arrays) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Points and mask by ONNX Runtime."""
        points, mask = self.session.run(None, inputs)
        return points, mask

    def requests(self, clouds: int, points: int, seed: int = 0) -> Arrays:
        """Inputs with clouds of 1 to ``points`` points, and features as in the training data."""
        rng = np.random.default_rng(seed)
        found = self.generator.conditions(0, clouds, seed)
        found = Conditions(rng.integers(1, points + 1, clouds), found.features, found.types)
        return onnx_inputs(
            self.generator, found, rng.normal(size=(clouds, points, len(self.generator.transform.channels)))
        )

    def by_torch(self, inputs: Arrays, dtype: torch.dtype = torch.float32) -> npt.NDArray[np.float64]:
        """The same numbers by torch, standardised, constituents by falling ptrel; shape (sum of counts, 3)."""
        transform, counts = self.generator.transform, inputs["counts"].astype(np.int64)
        features = {scale.name: inputs["features"][:, i] for i, scale in enumerate(transform.clouds)}
        cond = transform.encode_conditions(counts, features, inputs.get("type", np.zeros(len(counts))).astype(np.int64))
        mask = np.arange(inputs["noise"].shape[1]) < counts[:, None]
        denoiser: DenoiserLike = copy.deepcopy(self.generator.denoiser).to(dtype)
        if self.chosen.guidance != 1:
            denoiser = ClassifierFree(denoiser, self.chosen.guidance)
        noise, conditions = (torch.from_numpy(array).to(dtype) for array in (inputs["noise"], cond))
        with torch.inference_mode():
            x = sample(
                self.chosen.sampler,
                denoiser,
                noise,
                self.generator.grid(self.chosen),
                torch.from_numpy(mask),
                conditions,
                order=self.chosen.order,
                denoise=self.chosen.denoise,
            ).numpy()
        ends = np.cumsum([encoding.width for encoding in self.encodings])
        flat = x[mask].astype(np.float64)[:, ends[self.numbers] - 1]
        return flat[np.lexsort((-flat[:, 2], np.repeat(np.arange(len(counts)), counts)))]

    def standardised(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The numbers of points in physical units as the net sees them, in double precision; shape (P, 3)."""
        columns = []
        for i in self.numbers:
            scale, column = self.encodings[i], points[:, i].astype(np.float64)
            assert isinstance(scale, Scale)
            columns.append(((np.log(column) if scale.function == "log" else column) - scale.mean) / scale.std)
        return np.stack(columns, axis=1)


def comparable(expected: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """All points but those so near in ptrel that rounding decides which comes first."""
    tied = np.abs(np.diff(expected[:, 2])) < 2e-5
    alone: npt.NDArray[np.bool_] = ~(np.append(tied, False) | np.append(False, tied))
    assert alone.mean() > 0.99
    return alone


def assert_same(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> None:
    """Standardised points agree to 1e-5, each that can be compared."""
    alone = comparable(expected)
    np.testing.assert_allclose(found[alone], expected[alone], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=["attention", "transformer", "categories", "gluon30-fast"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    for name in PACKAGES:
        pytest.importorskip(name)
    file = tmp_path_factory.mktemp("onnx") / "test.onnx"
    if request.param == "gluon30-fast":
        if request.param not in pretrained():
            pytest.skip("gluon30-fast does not come with this pcdiff")
        assert main(["export", request.param, "-o", str(file)]) == 0
        generator = Generator.load(request.param)
        return Exported(generator, generator.choose(), file)
    overrides: dict[str, Any]
    if request.param == "attention":
        generator, overrides = make(ATTENTION, GUIDED), {"order": 2, "steps": 2, "guidance": 2.0}
    elif request.param == "categories":
        generator, overrides = make(EPIC, points=LABELLED), {"steps": 2}
    else:
        generator, overrides = make(TRANSFORMER, conditioned=False), {"sampler": "unipc", "steps": 2, "denoise": True}
    export_onnx(generator, file, **overrides)
    return Exported(generator, generator.choose(**overrides), file)


@pytest.mark.parametrize(("clouds", "points"), [(1, 1), (1, 12), (7, 1), (3, 5), (40, 30), (2, 150)])
def test_any_number_of_clouds_and_points_gives_what_torch_gives(exported: Exported, clouds: int, points: int) -> None:
    inputs = exported.requests(clouds, points, seed=points)
    made, mask = exported.run(inputs)
    np.testing.assert_array_equal(mask, np.arange(points) < inputs["counts"][:, None])
    assert (made[~mask] == 0).all()
    assert_same(exported.standardised(made[mask]), exported.by_torch(inputs))


def test_the_file_is_as_near_to_double_precision_as_torch(exported: Exported) -> None:
    """What is left between the two is rounding: neither is nearer to what the same net gives in double precision."""
    inputs = exported.requests(100, 30, seed=3)
    made, mask = exported.run(inputs)
    exact = exported.by_torch(inputs, torch.float64)
    by_onnx, by_torch = (
        np.sqrt(np.median((points - exact) ** 2, axis=0))
        for points in (exported.standardised(made[mask]), exported.by_torch(inputs))
    )
    assert (by_onnx < 2 * by_torch).all()
    assert (by_torch < 2 * by_onnx).all()


def test_a_session_gives_the_same_points_at_each_call(exported: Exported) -> None:
    """Memory is laid out anew after the first call of a shape, and shapes change between calls."""
    inputs = exported.requests(5, 20)
    first, _ = exported.run(inputs)
    for other in ((5, 20), (2, 3), (9, 40)):
        exported.run(exported.requests(*other, seed=1))
        np.testing.assert_array_equal(exported.run(inputs)[0], first)


def test_points_fall(exported: Exported) -> None:
    made, mask = exported.run(exported.requests(40, 12))
    falls = np.diff(made[..., exported.numbers[2]], axis=1) <= 0
    assert falls[mask[:, 1:]].all()


def test_order_of_the_noise_and_padding_change_nothing(exported: Exported) -> None:
    inputs = exported.requests(20, 9)
    made, mask = exported.run(inputs)
    expected = exported.standardised(made[mask])
    permuted = inputs["noise"].copy()
    for row, count in zip(permuted, inputs["counts"], strict=True):
        row[: int(count)] = row[: int(count)][::-1].copy()
    assert_same(exported.standardised(exported.run({**inputs, "noise": permuted})[0][mask]), expected)
    padded = np.pad(inputs["noise"], ((0, 0), (0, 31), (0, 0)), constant_values=7)
    padded[:, :9][~mask] = -5
    wide, wide_mask = exported.run({**inputs, "noise": padded})
    assert wide.shape == (20, 40, made.shape[2])
    assert_same(exported.standardised(wide[wide_mask]), expected)


@pytest.mark.parametrize("asked", [False, True])
def test_the_file_makes_the_jets_that_sampling_makes(exported: Exported, asked: bool) -> None:
    """From the noise of a seed, by the path of `pcdiff sample`: decoded, and in falling order; also under asked conditions."""
    generator, chosen = exported.generator, exported.chosen
    conditions: dict[str, Any] = {}
    if asked:
        low, high = np.quantile(generator.conditions(0, 300, seed=4).counts, (0.2, 0.8))
        conditions = {"number_of_points": (float(low), float(high))}
        if len(generator.transform.types) > 1:
            conditions["type"] = generator.transform.types[1]
    overrides = {name: getattr(chosen, name) for name in ("sampler", "order", "steps", "denoise", "guidance")}
    expected = generator.sample(50, seed=5, precision="float32", conditions=conditions, **overrides)
    found = generator.conditions(0, 50, 5, conditions)
    noise, mask, _ = generator.batch(0, found, 5)
    made, made_mask = exported.run(onnx_inputs(generator, found, noise))
    np.testing.assert_array_equal(made_mask, mask.numpy())
    np.testing.assert_array_equal(made_mask.sum(axis=1), expected.counts)
    columns = np.stack([expected.column(encoding.name) for encoding in exported.encodings], axis=1)
    standard = exported.standardised(columns)
    assert_same(exported.standardised(made[made_mask]), standard)
    alone = comparable(standard)
    for i, encoding in enumerate(exported.encodings):
        if isinstance(encoding, Categories):
            np.testing.assert_array_equal(made[made_mask][alone, i], columns[alone, i])


def test_types_and_features_reach_the_net(exported: Exported) -> None:
    """Each of them, by itself, changes the points."""
    inputs = exported.requests(10, 9)
    made, _ = exported.run(inputs)
    others = {}
    if "type" in inputs:
        others["type"] = {**inputs, "type": 1 - inputs["type"]}
    for i, scale in enumerate(exported.generator.transform.clouds):
        changed = inputs["features"].copy()
        changed[:, i] *= 1.2
        others[scale.name] = {**inputs, "features": changed}
    for name, other in others.items():
        points, mask = exported.run(other)
        moved = (np.abs(points - made) > 1e-5).any(axis=(1, 2))
        assert moved.all(), name
        assert_same(exported.standardised(points[mask]), exported.by_torch(other))


def test_a_file_that_is_not_the_generator_is_refused(exported: Exported) -> None:
    """Were a constant of the transform lost on the way, by as little as a part in a thousand, it would be seen."""
    generator = exported.generator
    points = tuple(
        replace(encoding, std=1.001 * encoding.std)
        if encoding.name == "phirel" and isinstance(encoding, Scale)
        else encoding
        for encoding in generator.transform.points
    )
    other = replace(generator.transform, points=points)
    changed = copy.copy(generator)
    changed.transform = other
    _check(exported.file, generator, exported.chosen)
    with pytest.raises(PcdiffError, match=r"^the file does not give what torch gives: 'phirel' is off by 1\.\de-03 of"):
        _check(exported.file, changed, exported.chosen)


def test_the_file_says_what_it_holds(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    model, generator = onnx.load(exported.file), exported.generator
    about = {entry.key: entry.value for entry in model.metadata_props}
    provenance = generator.provenance
    assert about["pcdiff"] == pcdiff.__version__
    assert about["format_version"] == "1"
    assert (about["generator"], about["config_hash"]) == (provenance["name"], provenance["config_hash"])
    points = {entry["name"]: entry.get("categories", []) for entry in json.loads(about["points"])}
    schema = generator.transform.schema
    assert points == {encoding.name: list(schema.point(encoding.name).categories) for encoding in exported.encodings}
    units = {entry["name"]: entry["unit"] for entry in json.loads(about["features"])}
    assert list(units) == [scale.name for scale in generator.transform.clouds]
    assert all(units.get(name, "GeV") == "GeV" for name in ("pt", "mass"))
    assert json.loads(about["types"]) == list(generator.transform.types)
    sampler = json.loads(about["sampler"])
    assert sampler["steps"] == exported.chosen.steps
    assert sampler["times"] == generator.grid(exported.chosen).tolist()
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    optional = {"features": ["clouds", len(units)]} if units else {}
    if len(generator.transform.types) > 1:
        optional["type"] = ["clouds"]
    assert axes == {
        "noise": ["clouds", "points", len(generator.transform.channels)],
        "counts": ["clouds"],
        **optional,
        "points": ["clouds", "points", len(points)],
        "mask": ["clouds", "points"],
    }
    # What ONNX Runtime 1.15 reads.
    assert (model.ir_version, {entry.domain: entry.version for entry in model.opset_import}[""]) == (8, 18)


def test_the_weights_stand_in_the_file_once(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported.file)
    of_net = [tensor for tensor in model.graph.initializer if tensor.name.startswith("net.") and len(tensor.dims) == 2]
    stored = sum(int(np.prod(tensor.dims)) for tensor in of_net)
    weights = sum(
        parameter.numel() for parameter in exported.generator.denoiser.net.parameters() if parameter.ndim == 2
    )
    assert weights <= stored <= weights + 100
    calls = [node for node in model.graph.node if node.domain == "pcdiff"]
    assert len(calls) == exported.chosen.steps + exported.chosen.denoise
    # Neither paths nor the names of files of the machine that wrote it.
    assert str(Path(pcdiff.__file__).parent).encode() not in exported.file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gluon30", "gluon30-teacher"])
def test_trained_generators_of_several_steps_give_what_torch_gives(name: str, tmp_path: Path) -> None:
    """In 20 steps rounding alone takes single numbers further than 1e-5 from double precision, in torch as in the file."""
    for package in PACKAGES:
        pytest.importorskip(package)
    generator = Generator.load(name)
    exported = Exported(generator, generator.choose(), export_onnx(generator, tmp_path / "file.onnx"))
    inputs = exported.requests(100, 30)
    made, mask = exported.run(inputs)
    exact = exported.by_torch(inputs, torch.float64)
    alone = comparable(exact)
    by_onnx, by_torch = exported.standardised(made[mask])[alone], exported.by_torch(inputs)[alone]
    assert np.quantile(np.abs(by_onnx - by_torch), 0.999) < 1e-5
    errors = [np.sqrt(np.mean((points - exact[alone]) ** 2)) for points in (by_onnx, by_torch)]
    assert errors[0] < 2 * errors[1] < 2e-6


def test_scales_and_angles_are_those_of_the_transform() -> None:
    """In both directions; beyond the range of float32 values end where they do in the transform."""
    values = np.array([1e-30, 0.3, 2.0, 1e30], np.float32)
    extreme = np.array([-3e38, -200.0, -1.0, 0.0, 3.0, 200.0], np.float32)
    for function in ("standard", "log"):
        scale = Scale("x", function, 0.4, 2.5)
        np.testing.assert_array_equal(standardised(scale, torch.from_numpy(values)).numpy(), scale.forward(values))
        back = unstandardised(scale, torch.from_numpy(extreme)).float().numpy()
        np.testing.assert_allclose(back, scale.inverse(extreme), rtol=1e-7)
    angles = np.linspace(-20, 20, 401)
    np.testing.assert_allclose(wrapped(torch.from_numpy(angles)).numpy(), wrap(angles), atol=1e-14)


def test_categories_are_those_of_the_transform() -> None:
    rng = np.random.default_rng(0)
    columns = {"kind": rng.choice([-211, 22, 211], 1000, p=[0.2, 0.7, 0.1]), "charge": rng.choice([-1, 0, 1], 1000)}
    points = tuple(Categories.fit(name, values) for name, values in columns.items())
    combinations = Combinations.fit(points, columns)
    assert combinations is not None
    values = rng.normal(size=(5, 200, 6)).astype(np.float32)
    found = categories(combinations, points, torch.from_numpy(values))
    for name, expected in combinations.inverse(points, values.reshape(-1, 6)).items():
        np.testing.assert_array_equal(found[name].numpy().ravel(), expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sampler": "ancestral"}, r"^sampler 'ancestral' .*; expected ddim or unipc, without noise on the way$"),
        ({"sampler": "rk45"}, r"^sampler 'rk45' .*; expected ddim or unipc"),
        ({"options": {"eta": 0.5}}, r"^sampler 'ddim' with eta = 0.5 draws noise; expected ddim or unipc"),
        (
            {"guidance": 2.0},
            r"^guidance = 2.0: the generator was trained without denoiser.drop_conditions; expected 1$",
        ),
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


def test_an_error_leaves_the_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PACKAGES:
        pytest.importorskip(name)
    make(EPIC).save(tmp_path / "mine")
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"before")
    words = ["export", str(tmp_path / "mine"), "-o", str(file), "--steps", "1"]
    assert main([*words, "--sampler", "langevin"]) == 2
    assert capsys.readouterr().err.startswith("pcdiff: error: sampler 'langevin' cannot be written as ONNX")
    for name in PACKAGES:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            assert main(words) == 2
        error = capsys.readouterr().err
        assert f"this needs the package {name!r}" in error
        assert error.endswith("pip install 'pcdiff[export]'\n")
    assert file.read_bytes() == b"before"


@pytest.mark.slow
def test_the_example_in_cpp_makes_the_jets_that_python_makes(tmp_path: Path) -> None:
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if root is None or not CPP.is_dir() or shutil.which("cmake") is None:
        pytest.skip("needs CMake, and ONNX Runtime's headers and library in the folder ONNXRUNTIME_ROOT")
    for name in PACKAGES:
        pytest.importorskip(name)
    generator = Generator.load("gluon30-fast")
    exported = Exported(generator, generator.choose(), export_onnx(generator, tmp_path / "gluon30.onnx"))
    build = tmp_path / "build"
    settings = [f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    for command in (["cmake", "-S", CPP, "-B", build, *settings], ["cmake", "--build", build]):
        subprocess.run(command, check=True)

    def jets_of(*arguments: Path) -> list[npt.NDArray[np.float32]]:
        words = [build / "generate_jets", *arguments]
        shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return [np.loadtxt(part.splitlines()[1:], np.float32) for part in shown.split("jet ")[1:]]

    noise = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    noise.tofile(tmp_path / "noise")
    features = np.array([[1050, 0.3, 95, 62], [980, -0.9, 55, 24]], np.float32)
    expected, mask = exported.run({"noise": noise, "counts": np.array([30, 24], np.float32), "features": features})
    found = jets_of(exported.file, tmp_path / "noise")
    assert [len(jet) for jet in found] == [30, 24]
    # Eight digits are printed.
    np.testing.assert_allclose(np.concatenate(found), expected[mask], rtol=1e-5, atol=1e-7)
    # With noise of its own, other jets.
    drawn = np.concatenate(jets_of(exported.file))
    assert ((drawn[:, 2] > 0) & (drawn[:, 2] < 1)).all()
    assert not np.isclose(drawn, expected[mask], rtol=1e-2).any(axis=1).all()
    broken = subprocess.run([build / "generate_jets", tmp_path / "noise"], check=False, capture_output=True, text=True)
    assert (broken.returncode, broken.stderr.splitlines()[0][:15]) == (1, "generate_jets: ")
