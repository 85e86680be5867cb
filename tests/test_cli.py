"""The command line: words in, calls out, and one line and exit code 2 for every mistake of the user."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import awkward as ak
import numpy as np
import pytest
import uproot

import pcdiff
from pcdiff import PointClouds
from pcdiff.cli import main
from pcdiff.config import SamplingConfig
from pcdiff.data import make_jets, toy
from pcdiff.data.toys import TOYS
from pcdiff.errors import PcdiffError
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.reweighting import reweight
from pcdiff.resources import find
from pcdiff.schema import jet_schema

JETS = 300
ROOT = Path(__file__).parents[1]


def write_jets(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 12, JETS)
    total = int(counts.sum())
    clouds = PointClouds.from_flat(
        {
            "etarel": rng.normal(0, 0.1, total).astype(np.float32),
            "phirel": rng.normal(0, 0.1, total).astype(np.float32),
            "ptrel": rng.uniform(0.01, 0.2, total).astype(np.float32),
        },
        np.concatenate([[0], np.cumsum(counts)]),
        {
            "pt": rng.uniform(800, 1600, JETS).astype(np.float32),
            "eta": rng.normal(0, 1, JETS).astype(np.float32),
            "mass": rng.uniform(50, 200, JETS).astype(np.float32),
            "type": np.zeros(JETS, np.int32),
        },
        jet_schema(["etarel", "phirel", "ptrel"], ["pt", "eta", "mass", "type"]),
    )
    pcdiff.write(clouds, path)


CONFIG = """\
name: tiny
data: {train: train.parquet, validation: validation.parquet}
net: {hidden: 8, layers: 1, global_size: 4}
training: {steps: 4, log_every: 2, validate_every: 4, checkpoint_every: 2, points_per_batch: 1024}
multiplicity: {kind: empirical}
tracking: {enabled: false}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a config and a run that the command line trained from them."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("train", "validation")):
        write_jets(folder / f"{name}.parquet", seed)
    (folder / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "tiny.yaml", "optim.warmup=1"]) == 0
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    folder = tmp_path / "work"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs a command that must be refused and leave the folder as it was; returns the lines on stderr."""

    def run(*argv: str) -> list[str]:
        capsys.readouterr()
        before = listing(work)
        assert main(list(argv)) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert listing(work) == before
        return output.err.splitlines()

    return run


def calls(monkeypatch: pytest.MonkeyPatch, function: str, result: object = None) -> list[tuple[Any, dict[str, Any]]]:
    """Puts a recorder in the place of a function."""
    recorded: list[tuple[Any, dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> object:
        recorded.append((args, kwargs))
        return result

    monkeypatch.setattr(function, record)
    return recorded


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pcdiff {pcdiff.__version__}\n"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; from pcdiff.cli import main; main(['--help']);"
        "heavy = {'torch', 'mlflow', 'uproot', 'awkward', 'pydantic', 'rich', 'numpy', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else f'{time.process_time()} s' if time.process_time() > 0.5 else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train a generator" in done.stdout


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_reading_files_never_imports_torch(command: str, trained: Path, tmp_path: Path) -> None:
    argv = [command, str(trained / "train.parquet"), *([str(tmp_path / "out.parquet")] if command == "convert" else [])]
    code = f"import sys; from pcdiff.cli import main; main({argv!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_train_writes_a_run_that_info_describes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "runs/tiny"]) == 0
    shown = capsys.readouterr().out
    run = json.loads(Path("runs/tiny/run.json").read_text())
    generator = pcdiff.Generator.load("runs/tiny")
    parameters = sum(p.numel() for p in generator.denoiser.net.parameters())
    assert re.search(r"^name +tiny *$", shown, re.MULTILINE)
    assert run["config_hash"] in shown
    assert run["data_fingerprint"]["train"] in shown
    assert re.search(rf"^parameters of the net +{parameters:,} *$", shown, re.MULTILINE)
    assert re.search(r"^loss/train +[\d.]+ at step 4 *$", shown, re.MULTILINE)
    assert main(["info", "runs/tiny/generator"]) == 0
    assert run["config_hash"] in capsys.readouterr().out


def test_resume_takes_the_run_folder_for_the_config(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/tiny").rename("moved")
    before = listing(work)
    assert main(["train", "moved", "--resume"]) == 0
    assert "moved: trained" in capsys.readouterr().out
    assert set(listing(work)) == set(before)


def test_info_of_a_run_without_checkpoint(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs/tiny/generator")
    assert main(["info", "runs/tiny"]) == 0
    assert "none written yet" in capsys.readouterr().out


def test_info_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for name in ("pcdiff", "Python", "cores", "torch threads", "mlflow"):
        assert re.search(rf"^{name} +\S", shown, re.MULTILINE)


def test_sample_takes_conditions_from_a_file(work: Path) -> None:
    assert main(["sample", "runs/tiny", "--given", "validation.parquet", "-o", "out.parquet"]) == 0
    given, made = pcdiff.read("validation.parquet"), pcdiff.read("out.parquet")
    assert (made.counts == given.counts).all()
    assert (made.feature("pt") == given.feature("pt")).all()


def test_sample_writes_what_python_generates(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", "runs/tiny", "-n", "1e2", "--seed", "7", "--steps", "3", "--order", "1", "-o", "out.parquet"]
    assert main(argv) == 0
    assert re.match(r"out\.parquet: 100 clouds in [\d.]+ s, [\d,]+ a second\n", capsys.readouterr().out)
    expected = pcdiff.Generator.load("runs/tiny").sample(100, seed=7, steps=3, order=1)
    found = pcdiff.read("out.parquet")
    assert found.points.to_list() == expected.points.to_list()
    assert found.features.to_list() == expected.features.to_list()
    assert found.provenance["sampling"]["seed"] == 7


def test_sample_makes_what_is_asked_for(work: Path) -> None:
    argv = ["sample", "runs/tiny", "-n", "50", "--set", "pt=900:1.2e3", "--set", "eta=-1:inf"]
    assert main([*argv, "--set", "number_of_points=7", "--set", "type=g", "-o", "out.root", "--trajectory", "2"]) == 0
    asked = {"pt": (900, 1200), "eta": (-1, np.inf), "number_of_points": 7, "type": "g"}
    found = pcdiff.read("out.root")
    assert (
        found.features.to_list() == pcdiff.Generator.load("runs/tiny").sample(50, conditions=asked).features.to_list()
    )
    assert set(found.counts) == {7}
    assert 900 <= found.feature("pt").min() <= found.feature("pt").max() <= 1200
    expected = {"pt": "900:1200", "eta": "-1:inf", "number_of_points": "7", "type": "g"}
    assert found.provenance["sampling"]["conditions"] == expected
    assert set(pcdiff.read("out_trajectory.root").counts) == {7}


def test_convert_keeps_every_value(work: Path) -> None:
    assert main(["convert", "train.parquet", "validation.parquet", "both.root", "--step-size", "100"]) == 0
    assert main(["convert", "both.root", "both.parquet"]) == 0
    expected = pcdiff.read(["train.parquet", "validation.parquet"])
    found = pcdiff.read("both.parquet")
    assert found.points.to_list() == expected.points.to_list()
    assert found.features.to_list() == expected.features.to_list()


def test_inspect_shows_how_columns_are_understood(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "train.parquet", "jets.root"]) == 0
    capsys.readouterr()
    assert main(["inspect", "jets.root"]) == 0
    shown = capsys.readouterr().out
    assert f"jets.root: {JETS} clouds, read as 'root'" in shown
    assert re.search(r"^Constituent_etarel +etarel +float\[\] *$", shown, re.MULTILINE)


def test_evaluate_prints_the_table_and_writes_the_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("train.parquet", "copy.parquet")
    assert (
        main(["evaluate", "validation.parquet", "train.parquet", "copy.parquet", "-o", "report", "--draws", "3"]) == 0
    )
    shown = capsys.readouterr().out
    assert "copy" in shown
    assert "report: report/index.html" in shown
    assert json.loads(Path("report/metrics.json").read_text())["draws"] == 3


def test_a_private_tree_is_the_truth_and_gives_conditions(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jets = pcdiff.read("validation.parquet")
    with uproot.recreate("private.root") as file:
        file["mine"] = {
            **{f"c_{name}": ak.values_astype(jets.points[name], "float32") for name in jets.schema.point_names},
            **{f"j_{name}": jets.features[name] for name in ("pt", "eta", "mass", "type")},
        }
    mapping = [
        "--option=tree=mine",
        "--option=points={etarel: c_etarel, phirel: c_phirel, ptrel: c_ptrel}",
        "--option=clouds={pt: j_pt, eta: j_eta, mass: j_mass, type: j_type}",
        "--option=types=[g, q, t, w, z]",
        "--option=axis=all",
    ]
    assert main(["evaluate", "private.root", "train.parquet", "--format", "root-mapping", *mapping, "-o", "own"]) == 0
    assert main(["evaluate", "validation.parquet", "train.parquet", "-o", "usual"]) == 0
    own, usual = (json.loads(Path(name, "metrics.json").read_text()) for name in ("own", "usual"))
    assert own["samples"][0]["metrics"] == usual["samples"][0]["metrics"]
    argv = ["sample", "runs/tiny", "--given", "private.root", "--from", "root-mapping", *mapping, "-o", "out.parquet"]
    assert main(argv) == 0
    assert (pcdiff.read("out.parquet").counts == jets.counts).all()


def test_the_help_shows_the_defaults_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*command: str) -> str:
        assert main([*command, "--help"]) == 0
        return " ".join(capsys.readouterr().out.split())

    for command, function, names in (
        (["sample"], pcdiff.Generator.iterate, ("seed", "device")),
        (["evaluate"], evaluate, ("draws", "seed", "workers", "most")),
        (["reweight"], reweight, ("kind", "folds", "seed")),
        (["data", "make", "jets"], make_jets, ("radius", "eta", "constituents", "seed")),
        (["data", "make", "toy"], toy, ("seed",)),
    ):
        text = shown(*command)
        for name in names:
            default = inspect.signature(function).parameters[name].default
            assert re.search(rf"--{name} [A-Z]+ [^-]*[^:]*default: {re.escape(str(default))}\b", text), (command, name)
    assert "default: 800:1600" in shown("data", "make", "jets")
    # argparse breaks names at their hyphens.
    assert ", ".join(TOYS).replace(", eight", " or eight") in shown("data", "make", "toy").replace("- ", "-")
    literals = {name: SamplingConfig.model_fields[name].annotation for name in ("grid", "sampler")}
    literals["order"] = get_args(SamplingConfig.model_fields["order"].annotation)[0]
    for literal in literals.values():
        choices = ", ".join(map(str, get_args(literal)))
        assert f"{choices}; default: the generator's own" in shown("sample").replace("- ", "-")


def test_shipped_data_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = calls(
        monkeypatch,
        "pcdiff.io.inspect",
        SimpleNamespace(path="x", clouds=1, format="f", columns=(), metadata={}, notes=()),
    )
    assert main(["inspect", "configs/quickstart.yaml"]) == 0
    assert found == [((ROOT / "configs" / "quickstart.yaml",), {})]


def test_reader_options_are_yaml(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(
        monkeypatch,
        "pcdiff.io.inspect",
        SimpleNamespace(path="x", clouds=1, format="f", columns=(), metadata={"seed": 3}, notes=("[b]",)),
    )
    assert main(["inspect", "train.parquet", "--option", "jets=FatJet", "--option", "columns={pt: Jet_pt}"]) == 0
    assert found == [((Path("train.parquet"),), {"jets": "FatJet", "columns": {"pt": "Jet_pt"}})]


def test_make_jets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch, "pcdiff.data.make_jets", Path("x"))
    assert main(["data", "make", "jets", "--process", "g", "-n", "200000"]) == 0
    options = "--radius 0.8 --pt 500:700 --eta 2.5 --constituents all --significant-bits 14 --max-ctau 10 --seed 3 --workers 2 -o q.root"
    assert main(["data", "make", "jets", "--process", "q", "-n", "1e3", *options.split()]) == 0
    assert found == [
        ((Path("data/jets_g_200000.hdf5"),), {"process": "g", "count": 200_000}),
        (
            (Path("q.root"),),
            {
                "process": "q",
                "count": 1000,
                "radius": 0.8,
                "pt": (500.0, 700.0),
                "eta": 2.5,
                "constituents": None,
                "significant_bits": 14,
                "max_ctau": 10.0,
                "seed": 3,
                "workers": 2,
            },
        ),
    ]


def test_make_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "make", "toy", "--shape", "swiss-roll", "-n", "20"]) == 0
    assert capsys.readouterr().out == "data/toy_swiss-roll_20.parquet\n"
    assert pcdiff.read("data/toy_swiss-roll_20.parquet").equals(toy("swiss-roll", 20))
    assert main(["data", "make", "toy", "--shape", "spiral", "-n", "1e2", "--seed", "3", "-o", "new/s.root"]) == 0
    assert pcdiff.read("new/s.root").equals(toy("spiral", 100, seed=3))


def test_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch, "pcdiff.data.fetch", Path("x"))
    assert main(["data", "fetch", "jetnet30", "--type", "g", "-o", "here"]) == 0
    assert found == [(("jetnet30",), {"type": "g", "output": Path("here")})]


def test_fetch_of_what_fpnd_compares_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = calls(monkeypatch, "pcdiff.evaluation.fpnd.fetch_fpnd_resources", Path("there"))
    assert main(["data", "fetch", "fpnd"]) == 0
    assert found == [((), {})]
    assert capsys.readouterr().out == "there\n"


def test_compare(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch, "pcdiff.comparison.compare_runs", SimpleNamespace(tables=lambda: (), output=None))
    options = "--truth validation.parquet -n 1e3 --classifier boosted --classifier net --fpnd --draws 7 --seed 3 --device cpu --workers 2"
    assert main(["compare", "one", "two", "-o", "side", *options.split()]) == 0
    ((args, given),) = found
    assert args == ([Path("one"), Path("two")], Path("side"))
    assert given.pop("truth").equals(pcdiff.read("validation.parquet"))
    assert callable(given.pop("progress"))
    chosen = {
        "count": 1000,
        "classifiers": ["boosted", "net"],
        "fpnd": True,
        "draws": 7,
        "seed": 3,
        "device": "cpu",
        "workers": 2,
    }
    assert given == chosen


def test_reweight_writes_the_weights_and_the_closure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    jets = pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))
    pcdiff.write(jets[:600], "truth.parquet")
    pcdiff.write(jets[600:1000], "sample.parquet")
    words = "truth.parquet sample.parquet -o weighted.root --kind net --folds 2 --held-out 0.5 --clip 5 --seed 1 --report closure"
    assert main(["reweight", *words.split()]) == 0
    weighted = pcdiff.read("weighted.root")
    expected = reweight(jets[:600], jets[600:1000], kind="net", folds=2, held_out=0.5, clip=5, seed=1)
    np.testing.assert_allclose(weighted.feature("weight"), expected.sample.feature("weight"), rtol=1e-4)
    assert weighted.feature("weight").mean() == pytest.approx(1)
    shown = capsys.readouterr().out
    assert "weighted.root: 400 weighted clouds" in shown
    assert "against 300 true jets" in shown
    assert (tmp_path / "closure" / "index.html").is_file()


def test_fetch_leaves_the_type_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch, "pcdiff.data.fetch", Path("x"))
    assert main(["data", "fetch", "jetnet30"]) == 0
    assert found == [(("jetnet30",), {})]


def test_tracking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = SimpleNamespace(uri="sqlite:///x.db", experiment="jets", run_id="abc", metrics=1200, artifacts=3)
    synced = calls(monkeypatch, "pcdiff.tracking.sync", report)
    shown = calls(monkeypatch, "pcdiff.tracking.ui")
    assert main(["track", "sync", "runs/a", "--uri", "http://localhost:5000"]) == 0
    assert capsys.readouterr().out == "sqlite:///x.db: sent 1,200 metric values and 3 files to jets/abc\n"
    assert main(["ui", "--port", "5001"]) == 0
    assert synced == [((Path("runs/a"),), {"uri": "http://localhost:5000"})]
    assert shown == [((), {"port": 5001})]


@pytest.mark.parametrize(
    "words", ["--resume optim.lr=1e-4 seed=3", "optim.lr=1e-4 --resume seed=3", "optim.lr=1e-4 seed=3 --resume"]
)
def test_overrides_stand_anywhere(words: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch, "pcdiff.training.train", Path("x"))
    assert main(["train", "tiny.yaml", *words.split()]) == 0
    (((config,), options),) = found
    assert (config.optim.lr, config.seed, options) == (1e-4, 3, {"resume": True})


def test_config_show_prints_what_loads_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "tiny.yaml", "optim.lr=1e-5"]) == 0
    Path("shown.yaml").write_text(capsys.readouterr().out)
    assert pcdiff.load_config("shown.yaml") == pcdiff.load_config("tiny.yaml", ["optim.lr=1e-5"])


def test_config_schema_is_the_committed_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "schema.json").read_text(encoding="utf-8")


SAMPLE = ("sample", "runs/tiny", "-n", "10", "-o")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("trian", "tiny.yaml"), "pcdiff: error: no command 'trian': did you mean 'train'?"),
        (("data", "mke"), "pcdiff data: error: no command 'mke': did you mean 'make'?"),
        (("train", "tiny.yaml", "--resum"), "pcdiff train: error: no option --resum: did you mean '--resume'?"),
        ((*SAMPLE, "x.root", "--stpes=5"), "pcdiff sample: error: no option --stpes: did you mean '--steps'?"),
        (("inspect", "train.parquet", "b"), "pcdiff inspect: error: one word too many: 'b'"),
        (
            ("sample", "runs/tiny", "-n", "ten", "-o", "x.root"),
            "pcdiff sample: error: argument -n: found 'ten', expected",
        ),
        (("sample", "runs/tiny", "-n", "0", "-o", "x.root"), "pcdiff sample: error: argument -n: found '0', expected"),
        (
            ("sample", "runs/tiny", "-n", "inf", "-o", "x.root"),
            "pcdiff sample: error: argument -n: found 'inf', expected",
        ),
        (("sample", "runs/tiny", "-n", "1"), "pcdiff sample: error: the following arguments are required: -o/--output"),
        (("sample", "runs/tiny", "-o", "x.root"), "pcdiff: error: say how many clouds to generate"),
        (
            ("data", "make", "jets", "--process", "g", "-n", "9", "--pt", "800"),
            "pcdiff data make jets: error: argument --pt: found '800', expected LOW:HIGH, for example 800:1600",
        ),
        (
            ("data", "make", "toy", "--shape", "spirel", "-n", "9"),
            "pcdiff: error: make toy: no shape 'spirel': did you mean 'spiral'?",
        ),
        (("train", "tiny2.yaml"), "pcdiff: error: tiny2.yaml: no such file"),
        (("train", "gluon3"), "pcdiff: error: configs/gluon3.yaml: no such file"),
        (("train", "train.parquet"), "pcdiff: error: train.parquet: not valid YAML"),
        (("train", "tiny.yaml"), "pcdiff: error: runs/tiny: there is a run already; continue it with --resume"),
        (
            ("train", "tiny.yaml", "net.hiden=9"),
            "pcdiff: error: override 'net.hiden=9': net.hiden: unknown key; did you",
        ),
        (
            ("train", "tiny.yaml", "seed=x"),
            "pcdiff: error: override 'seed=x': seed: found 'x', expected a whole number",
        ),
        (("train", "tiny.yaml", "name=a", "device=cuda:99"), "pcdiff: error: device 'cuda:99' is not available here"),
        (("train", "tiny.yaml", "name=a", "data.train=nothing.h5"), "pcdiff: error: nothing.h5: no such file"),
        (("train", "tiny.yaml", "name=a", "data.train=*.h5"), "pcdiff: error: *.h5: no file matches this pattern"),
        (
            ("train", "tiny.yaml", "name=a", "data.train=tiny.yaml"),
            "pcdiff: error: tiny.yaml: no reader for files that end in",
        ),
        (("train", "tiny.yaml", "name=a", "features.points={ptrl: log}"), "pcdiff: error: "),
        (
            ("train", "runs/tiny", "--resume", "net.hidden=9"),
            "pcdiff: error: runs/tiny: cannot resume with another config",
        ),
        (("train", "runs"), "pcdiff: error: runs: is a folder without config.yaml"),
        (
            ("sample", "runs/tny", "-n", "1", "-o", "x.root"),
            "pcdiff: error: runs/tny: not a generator or a finished run",
        ),
        (("sample", "runs", "-n", "1", "-o", "x.root"), "pcdiff: error: runs: not a generator or a finished run"),
        (
            (*SAMPLE, "x.rot"),
            "pcdiff: error: x.rot: no writer for files that end in '.rot'; expected .hdf5, .h5, .parquet, .root",
        ),
        ((*SAMPLE, "x.root", "--format", "rot"), "pcdiff: error: no file format 'rot': did you mean 'root'?"),
        ((*SAMPLE, "tiny.yaml/x.root"), "pcdiff: error: tiny.yaml/x.root: cannot be written"),
        (
            (*SAMPLE, "x.root", "--order", "7"),
            "pcdiff sample: error: argument --order: found '7', expected one of 1, 2",
        ),
        (
            (*SAMPLE, "x.root", "--grid", "snr"),
            "pcdiff sample: error: argument --grid: found 'snr', expected one of log-snr, uniform, quadratic",
        ),
        ((*SAMPLE, "x.root", "--option", "tree=jets"), "pcdiff: error: --from and --option say how to read the file"),
        (("evaluate", "train.parquet", "train.parquet", "--seed", "-1"), "pcdiff: error: seed is -1; expected a whole"),
        (
            ("evaluate", "train.parquet", "train.parquet", "-o", "runs"),
            "pcdiff: error: runs: is a folder with other things than a report",
        ),
        ((*SAMPLE, "x.root", "--set", "type=top"), "pcdiff: error: the generator knows no type 'top'"),
        ((*SAMPLE, "x.root", "--set", "mas=80"), "pcdiff: error: no condition 'mas': did you mean 'mass'?"),
        (
            (*SAMPLE, "x.root", "--set", "pt=900-1100"),
            "pcdiff: error: --set pt=900-1100: expected NAME=NUMBER, NAME=LOW:HIGH or type=NAME, for example pt=900:1100",
        ),
        ((*SAMPLE, "x.root", "--set", "type"), "pcdiff: error: --set type: expected NAME=NUMBER, NAME=LOW:HIGH or"),
        ((*SAMPLE, "x.root", "--set", "pt=1:2:3"), "pcdiff: error: --set pt=1:2:3: expected NAME=NUMBER"),
        (
            (*SAMPLE, "x.root", "--set", "pt=900", "--set", "pt=1:2"),
            "pcdiff: error: --set pt=1:2: pt is asked for twice; expected once",
        ),
        ((*SAMPLE, "x.root", "--set", "pt=5:9"), "pcdiff: error: pt = 5:9: lies outside of the training data, which"),
        (
            (*SAMPLE, "x.root", "--given", "train.parquet", "--set", "pt=900"),
            "pcdiff: error: the conditions are those of the given clouds; choose conditions or given",
        ),
        ((*SAMPLE, "x.root", "--device", "abacus"), "pcdiff: error: device 'abacus' is not available here"),
        (("evaluate", "train.parquet", "nothing.root", "-o", "report"), "pcdiff: error: nothing.root: no such file"),
        (
            ("evaluate", "*.root", "train.parquet", "-o", "report"),
            "pcdiff: error: *.root: no file matches this pattern",
        ),
        (("inspect", "nothing.root"), "pcdiff: error: nothing.root: no such file"),
        (("inspect", "tiny.yaml"), "pcdiff: error: tiny.yaml: no reader for files that end in '.yaml'"),
        (("inspect", "runs"), "pcdiff: error: runs: is a folder"),
        (("inspect", "train.parquet", "--option", "jets"), "pcdiff: error: --option jets: expected KEY=VALUE"),
        (
            ("inspect", "train.parquet", "--option", "jets=["),
            "pcdiff: error: --option jets=[: line 1, column 2: not valid",
        ),
        (
            ("inspect", "train.parquet", "--option", "jets=A"),
            "pcdiff: error: train.parquet: the format 'parquet' has no option",
        ),
        (("convert", "nothing.root", "new/x.parquet"), "pcdiff: error: nothing.root: no such file"),
        (("convert", "train.parquet", "x.h6"), "pcdiff: error: x.h6: no writer for files that end in '.h6'"),
        (("info", "nowhere"), "pcdiff: error: nowhere: not a generator or a finished run: there is no such folder"),
        (("track", "sync", "nowhere"), "pcdiff: error: nowhere: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: tuple[str, ...], line: str, refused: Callable[..., list[str]]
) -> None:
    (found,) = refused(*argv)
    assert found.startswith(line)


def test_the_page_of_a_store_that_is_not_there(refused: Callable[..., list[str]]) -> None:
    (line,) = refused("ui", "--uri", "sqlite:///none.db")
    assert re.match(r"pcdiff: error: \S*none\.db: no tracking store here", line)


def test_every_mistake_of_a_config_is_a_line(work: Path, refused: Callable[..., list[str]]) -> None:
    Path("bad.yaml").write_text(CONFIG + "seed: -1\nseed: 2\nnett: 3\n")
    assert refused("train", "bad.yaml", "optim.lr=fast") == [
        "pcdiff: error: bad.yaml: seed: found twice, on lines 7 and 8, expected once",
        "pcdiff: error: override 'optim.lr=fast': optim.lr: found 'fast', expected a number",
        "pcdiff: error: bad.yaml: nett: unknown key; did you mean 'net'?",
    ]


@pytest.mark.parametrize("name", ["generator.json", "denoiser.safetensors"])
def test_a_damaged_generator(name: str, refused: Callable[..., list[str]]) -> None:
    file = Path("runs/tiny/generator", name)
    file.write_bytes(file.read_bytes()[:-20])
    for argv in ((*SAMPLE, "x.parquet"), ("info", "runs/tiny")):
        (line,) = refused(*argv)
        assert line.startswith(f"pcdiff: error: {file}: ")


def test_a_generator_of_a_newer_version(refused: Callable[..., list[str]]) -> None:
    file = Path("runs/tiny/generator/generator.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    (line,) = refused(*SAMPLE, "x.parquet")
    assert line.startswith(
        f"pcdiff: error: {file}: has format version 99, this pcdiff {pcdiff.__version__} reads up to"
    )


def test_a_checkpoint_of_a_newer_version(refused: Callable[..., list[str]]) -> None:
    for file in Path("runs/tiny/checkpoints").glob("*/state.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    (line,) = refused("train", "runs/tiny", "--resume")
    assert re.match(r"pcdiff: error: runs/tiny/checkpoints/step_00000004/state\.json: has format version 99", line)


def test_a_truncated_file(refused: Callable[..., list[str]]) -> None:
    for name in ("cut.parquet", "cut.root", "cut.hdf5"):
        Path(name).write_bytes(Path("train.parquet").read_bytes()[:1000])
        for argv in (
            ("inspect", name),
            ("convert", name, "out.parquet"),
            ("evaluate", "train.parquet", name, "-o", "report"),
        ):
            (line,) = refused(*argv)
            assert line.startswith(f"pcdiff: error: {name}: ")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="this user may write everywhere")
def test_an_output_that_may_not_be_written(work: Path, refused: Callable[..., list[str]]) -> None:
    (work / "locked").mkdir(mode=0o500)
    (line,) = refused(*SAMPLE, "locked/x.parquet")
    assert line.startswith("pcdiff: error: locked/x.parquet: cannot be written")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_an_output_in_a_place_that_cannot_be_made(refused: Callable[..., list[str]]) -> None:
    (line,) = refused(*SAMPLE, "/proc/nowhere/x.parquet")
    assert line.startswith("pcdiff: error: /proc/nowhere")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_an_output_that_cannot_be_made_is_named_not_its_temporary_file(refused: Callable[..., list[str]]) -> None:
    (line,) = refused(*SAMPLE, "/proc/x.parquet")
    assert line.startswith("pcdiff: error: /proc/x.parquet: cannot be written")


def test_a_missing_input_is_found_before_the_output_is_begun(work: Path, refused: Callable[..., list[str]]) -> None:
    Path(".hidden.h5").touch()
    (line,) = refused("convert", "qqqqqq.xyz", "out.parquet")
    assert line.startswith("pcdiff: error: qqqqqq.xyz: no such file")
    assert line.endswith("there are: runs, tiny.yaml, train.parquet, validation.parquet")


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PcdiffError):
        main(["inspect", "nothing.root", "--debug"])
    monkeypatch.setenv("PCDIFF_DEBUG", "1")
    with pytest.raises(PcdiffError):
        main(["inspect", "nothing.root"])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("pcdiff.io.inspect", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["inspect", "train.parquet"])


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcdiff.training.train", interrupted)
    assert main(["train", "tiny.yaml"]) == 130
    assert capsys.readouterr().err == "pcdiff: interrupted\n"


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt("saved at step 4")

    monkeypatch.setattr("pcdiff.training.train", interrupted)
    assert main(["train", "tiny.yaml"]) == 130
    assert capsys.readouterr().err == "pcdiff: interrupted: saved at step 4\n"


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_while_sampling_leaves_no_file(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(signal, name)

    def ended(*args: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("pcdiff.generator.Generator.decode", ended)
    before = listing(work)
    with pytest.raises(SystemExit) as caught:
        main([*SAMPLE, "x.parquet"])
    assert caught.value.code == 128 + number
    assert listing(work) == before
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
def test_a_signal_that_is_ignored_stays_ignored(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*args: Any, **options: Any) -> Path:
        os.kill(os.getpid(), signal.SIGHUP)
        return Path("x")

    monkeypatch.setattr("pcdiff.training.train", ended)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["train", "tiny.yaml"]) == 0
    finally:
        signal.signal(signal.SIGHUP, old)


def test_ctrl_c_while_sampling_leaves_no_file(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcdiff.generator.Generator.decode", interrupted)
    before = listing(work)
    assert main([*SAMPLE, "x.parquet"]) == 130
    assert listing(work) == before


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "import sys; from pcdiff.cli import main; sys.exit(main(['config', 'schema']))"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_of_a_toy_goes_through_every_command_of_diffusion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, fit grids, sample with options and a trajectory, and tell the likelihood; each leaves what it says."""
    monkeypatch.chdir(tmp_path)
    small = ["training.steps=20", "net.hidden=16", "net.layers=1", "training.compare=0", "tracking.enabled=false"]
    assert main(["train", "configs/toys/gaussian", "output=run", "denoiser.drop_conditions=0.1", *small]) == 0
    notes = tmp_path / "run" / "generator" / "NOTES.txt"
    notes.write_text("mine")
    assert main(["grid", "run", "--steps", "3", "5"]) == 0
    assert notes.read_text() == "mine"
    assert set(json.loads((tmp_path / "run" / "generator" / "generator.json").read_text())["grids"]) == {"3", "5"}
    words = ["sample", "run", "-n", "200", "--grid", "fitted", "--steps", "5", "-o", "made.parquet", "--denoise"]
    assert main([*words, "--sampler-option", "eta=0.5", "--guidance", "1.5", "--trajectory", "2"]) == 0
    sampling = pcdiff.read("made.parquet").provenance["sampling"]
    assert sampling["options"] == {"eta": 0.5}
    assert (sampling["guidance"], sampling["denoise"], sampling["grid"]) == (1.5, True, "fitted")
    stages = pcdiff.read("made_trajectory.parquet")
    assert len(stages) == 2 * 6
    assert (tmp_path / "made_trajectory.png").stat().st_size > 5000
    capsys.readouterr()
    assert main(["likelihood", "run", "toys/gaussian_validation.parquet", "-n", "50", "--exact", "--steps", "20"]) == 0
    table = capsys.readouterr().out
    # One point a cloud: its number and its order say nothing, and what is left is near -2.3, the truth's -log(2 pi e 0.6).
    assert re.search(r"log p of their number\W+0\.0000", table)
    assert -4 < float(re.findall(r"log p of the cloud\W+?(-\d+\.\d+)", table)[0]) < -1.5


def test_the_likelihood_of_a_number_of_points_that_was_never_seen_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_density import make
    from .test_transforms import jets

    monkeypatch.chdir(tmp_path)
    clouds = jets(60)
    most = clouds.counts.max()
    make(clouds[clouds.counts < most]).save("g")
    pcdiff.write(clouds, "all.parquet")
    assert main(["likelihood", "g", "all.parquet", "--steps", "1", "--probes", "2"]) == 0
    said, unseen = capsys.readouterr(), int((clouds.counts == most).sum())
    assert f"{unseen} of the clouds have a number of points that no cloud of the training data had" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler-option", "eta"], "--sampler-option eta: expected KEY=VALUE, for example eta=0.5"),
        (["--sampler-option", "ada=1"], "expected an option of the sampler ddim: eta"),
        (["--sampler", "heun", "--order", "2"], "expected no order for the sampler heun"),
        (["--guidance", "2"], "trained without denoiser.drop_conditions"),
        (["--grid", "fitted"], "no grid was fitted for so many"),
    ],
)
def test_sampler_settings_that_do_not_fit_give_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_density import make
    from .test_transforms import jets

    monkeypatch.chdir(tmp_path)
    make(jets(100)).save("g")
    assert main(["sample", "g", "-n", "5", "-o", "made.root", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made.root").exists()
