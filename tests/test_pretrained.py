"""Generators that come with pcdiff: found by name, put into the package whole, and in what is installed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch

import pcdiff
from pcdiff import resources
from pcdiff.cli import main
from pcdiff.config import Config, load_config
from pcdiff.errors import DataError, ModelError
from pcdiff.generator import Generator
from pcdiff.resources import find, find_generator, pretrained
from pcdiff.training import train

from .test_generator import sign
from .test_transforms import jets

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "ship.py"
CARD = "# Jets of a test\n\nThey mean nothing.\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on data that lie at an absolute path, as a user of a cluster may have it."""
    folder = tmp_path_factory.mktemp("somewhere")
    config = {
        "name": "first-try",
        "output": str(folder / "run"),
        "device": "cpu",
        "data": {
            "train": str(pcdiff.write(jets(300), folder / "train.parquet")),
            "validation": str(pcdiff.write(jets(100, seed=1), folder / "validation.parquet")),
        },
        "net": {"kind": "epic", "hidden": 8, "layers": 1, "global_size": 4},
        "optim": {"lr": 0.01, "warmup": 1},
        "training": {"steps": 6, "points_per_batch": 512, "log_every": 2, "validate_every": 3, "compare": 0},
        "multiplicity": {"kind": "empirical"},
        "sampling": {"steps": 4},
        "tracking": {"enabled": False, "uri": "http://tracking.example.org"},
    }
    return train(Config.model_validate(config), progress=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the one in the package; the working directory is another empty one."""
    folder = tmp_path / "site-packages" / "pretrained"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(resources, "PRETRAINED", folder)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def shipped(place: Path, run: Path) -> Path:
    """The folder of the shipped generator ``tiny``."""
    folder = place / "tiny"
    shutil.copytree(run / "generator", folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not here")
    spec = importlib.util.spec_from_file_location("ship", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def card(tmp_path: Path) -> Path:
    file = tmp_path / "card.md"
    file.write_text(CARD)
    return file


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_nothing_shipped_is_no_error_until_a_name_is_asked_for(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrained() == {}
    assert find_generator(run) == run / "generator"
    with pytest.raises(ModelError, match=r"^tiny: .*there is no such folder, nor .*; there are none to choose from$"):
        Generator.load("tiny")
    assert refused(capsys, "generators").startswith("pcdiff: error: no generator comes with this pcdiff")


def test_the_real_folder_holds_whole_generators_only() -> None:
    for name, folder in pretrained().items():
        assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")
        assert (folder / "training_log.csv").is_file()
        assert (folder / "config.yaml").is_file()
        assert Generator.load(name).provenance["name"] == name


def test_a_path_that_exists_wins_over_a_name(shipped: Path, run: Path) -> None:
    assert find_generator("tiny") == shipped
    assert find_generator(shipped) == shipped
    shutil.copytree(run / "generator", "tiny")
    assert find_generator("tiny") == Path("tiny")
    Path("tiny").rename("generator")
    Path("tiny").mkdir()
    Path("generator").rename("tiny/generator")
    assert find_generator("tiny") == Path("tiny/generator")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_path_that_is_no_generator_is_not_taken_for_the_name(shipped: Path, kind: str) -> None:
    """A run whose first checkpoint is still to come must not give the jets of another generator."""
    Path("tiny").mkdir() if kind == "folder" else Path("tiny").touch()
    with pytest.raises(ModelError, match=r"^tiny: not a generator .* comes with pcdiff is ") as caught:
        find_generator("tiny")
    assert str(caught.value).endswith(str(shipped))


def test_a_misspelt_name_gives_one_line_with_the_nearest(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped, shipped.with_name("quark30"))
    for argv in (
        ("sample", "tinny", "-n", "5", "-o", "x.root"),
        ("grid", "tinny"),
        ("info", "tinny"),
    ):
        assert refused(capsys, *argv).endswith("nor does one of this name come with pcdiff; did you mean 'tiny'?")
    with pytest.raises(ModelError, match=r"there are: quark30, tiny$"):
        Generator.load("zzz")


def test_a_half_written_folder_is_none(shipped: Path) -> None:
    shutil.copytree(shipped, shipped.with_name(".other-x.tmp"))
    (shipped.parent / "empty").mkdir()
    assert pretrained() == {"tiny": shipped}


def test_a_generator_in_the_place_of_a_file_is_refused(shipped: Path) -> None:
    with pytest.raises(DataError, match=r"^tiny: is a generator, expected a file; make one: pcdiff sample tiny "):
        find("tiny")


def test_sampling_by_name_is_sampling_by_path(shipped: Path, run: Path) -> None:
    """Bit for bit, in Python and on the command line; the file says which generator it is from."""
    expected = Generator.load(shipped).sample(40, seed=3)
    assert Generator.load("tiny").sample(40, seed=3).equals(expected)
    for name, output in (("tiny", "by_name.parquet"), (str(run), "by_path.parquet")):
        assert main(["sample", name, "-n", "40", "--seed", "3", "-o", output]) == 0
    by_name, by_path = (pcdiff.read(f"by_{way}.parquet") for way in ("name", "path"))
    assert by_name.equals(by_path)
    assert by_name.equals(expected)
    assert by_name.provenance["generator"]["config_hash"] == Generator.load(run).provenance["config_hash"]


def test_likelihood_by_name_is_that_by_path(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pcdiff.write(jets(20, seed=5), "jets.parquet")
    shown = []
    for name in ("tiny", str(shipped)):
        capsys.readouterr()
        assert main(["likelihood", name, "jets.parquet", "--steps", "2"]) == 0
        shown.append(capsys.readouterr().out)
    assert "log p of the cloud" in shown[0]
    assert shown[0] == shown[1]


def test_a_shipped_generator_is_not_changed(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (shipped / "generator.json").read_bytes()
    for name in ("tiny", str(shipped)):
        assert "tiny: comes with pcdiff and stays as it is" in refused(capsys, "grid", name, "--steps", "2")
        with pytest.raises(ModelError, match="comes with pcdiff and stays as it is"):
            Generator.load(name).save_grids(name)
    assert (shipped / "generator.json").read_bytes() == before
    shutil.copytree(shipped, "mine")
    Generator.load("mine").save_grids("mine")


def test_inspect_says_what_it_is(
    script: ModuleType, place: Path, run: Path, card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = script.ship(run, "tiny", card)
    capsys.readouterr()
    assert main(["inspect", "tiny"]) == 0
    shown = capsys.readouterr().out
    parameters = sum(p.numel() for p in Generator.load("tiny").denoiser.net.parameters())
    for fact, value in (
        ("name", "tiny"),
        ("kind", "jets"),
        ("parameters of the net", f"{parameters:,}"),
        ("training data", r"train\.parquet"),
        ("generates", "etarel, phirel, ptrel"),
        ("types", r"g [\d.]+%, t [\d.]+%"),
        ("sampler", ".*steps 4.*"),
    ):
        assert re.search(rf"^{fact} +{value} *$", shown, re.MULTILINE), fact
    # A long path is folded.
    assert f"card{folder / 'README.md'}" in "".join(shown.split())
    assert main(["generators"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(maxsplit=1) == ["tiny", "Jets of a test"]
    for name in (str(run), str(run / "generator")):
        assert main(["inspect", name]) == 0
        assert f"{parameters:,}" in capsys.readouterr().out
    assert "--format and --option say how to read a file" in refused(capsys, "inspect", "tiny", "--format", "root")
    Path("tiny").mkdir()
    assert refused(capsys, "inspect", "tiny").endswith(str(folder))


def test_how_it_is_sampled_is_decided_when_it_is_shipped(
    script: ModuleType, place: Path, run: Path, card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run), "tiny", "--card", str(card), "--sampling"]
    assert script.main([*arguments, "steps=7", "sampler=unipc", "precision=auto"]) == 0
    chosen = Generator.load("tiny").settings.sampling
    assert (chosen.sampler, chosen.steps, chosen.precision) == ("unipc", 7, "auto")
    shutil.rmtree(place / "tiny")
    capsys.readouterr()
    for wrong in ("steps=0", "grid=fitted", "pace=3"):
        assert script.main([*arguments, wrong]) == 2
        assert capsys.readouterr().err.startswith("ship.py: error: ")
    assert not (place / "tiny").exists()


def test_a_run_is_shipped_whole(script: ModuleType, place: Path, run: Path, card: Path) -> None:
    assert script.main([str(run), "tiny", "--card", str(card)]) == 0
    folder = place / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "generator.json",
        "denoiser.safetensors",
        "multiplicity.safetensors",
        "README.md",
        "config.yaml",
        "training_log.csv",
    }
    assert [path.name for path in place.iterdir()] == ["tiny"]
    assert (folder / "README.md").read_text() == CARD
    assert {path.stat().st_mode & 0o444 for path in folder.iterdir()} == {0o444}
    rows = list(csv.DictReader((folder / "training_log.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines] == [2, 3, 4, 6]
    names = {"loss/train": "training_loss", "loss/validation": "validation_loss", "lr": "learning_rate"}
    for row, line in zip(rows, lines, strict=True):
        for name, column in names.items():
            assert (row[column] == "") == (name not in line["metrics"])
            assert row[column] == "" or float(row[column]) == pytest.approx(line["metrics"][name], rel=1e-5)


def test_the_log_has_one_row_a_step(script: ModuleType, tmp_path: Path) -> None:
    """A run has another line of its last step, for the comparison."""
    lines = [
        {"step": 1, "metrics": {"loss/train": 2.0}},
        {"step": 2, "metrics": {"loss/train": 1.0, "loss/validation": 1.5}},
        {"step": 2, "metrics": {"validation/w1_mass": 0.1}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    script._write_log(tmp_path / "metrics.jsonl", tmp_path / "log.csv", 2)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [(row["step"], row["training_loss"], row["validation_loss"]) for row in rows] == [
        ("1", "2", ""),
        ("2", "1", "1.5"),
    ]


def test_weights_are_rounded_to_half_precision_and_nothing_else_is(
    script: ModuleType, place: Path, run: Path, card: Path
) -> None:
    """To 2^-11 of each weight, or 2^-25 below the normal numbers; the net computes in single precision as before."""
    folder = script.ship(run, "tiny", card)
    before, after = Generator.load(run), Generator.load("tiny")
    stored = safetensors.torch.load_file(folder / "denoiser.safetensors")
    parameters = dict(before.denoiser.net.named_parameters())
    assert {stored[name].dtype for name in parameters} == {torch.float16}
    for name, value in after.denoiser.net.state_dict().items():
        exact = before.denoiser.net.state_dict()[name]
        assert value.dtype == exact.dtype
        if name in parameters:
            assert ((value - exact).abs() <= exact.abs() * 2**-11 + 2**-25).all()
        else:
            assert torch.equal(value, exact)
    for name, value in after.multiplicity.state_dict().items():
        assert torch.equal(value, before.multiplicity.state_dict()[name])
    assert (folder / "denoiser.safetensors").stat().st_size < (run / "generator/denoiser.safetensors").stat().st_size
    made, exact = after.sample(50, seed=2), before.sample(50, seed=2)
    np.testing.assert_array_equal(made.counts, exact.counts)
    np.testing.assert_allclose(made.column("ptrel"), exact.column("ptrel"), rtol=0.01)


def test_nothing_of_the_machine_is_shipped(script: ModuleType, place: Path, run: Path, card: Path) -> None:
    file = run / "generator" / "generator.json"
    text = file.read_text()
    data = json.loads(text)
    data["provenance"] |= {"host": "node17.example.org", "teacher": {"name": "teacher", "host": "node17.example.org"}}
    try:
        sign(file, data)
        folder = script.ship(run, "tiny", card)
    finally:
        file.write_text(text)
    written = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    for secret in (str(run), str(run.parent), str(Path.home()), platform.node(), "example.org", "first-try"):
        assert secret not in written
    assert '"/' not in written
    assert " /" not in written
    provenance = Generator.load("tiny").provenance
    assert provenance["name"] == "tiny"
    assert provenance["teacher"] == {"name": "teacher"}
    assert provenance["data_fingerprint"] == json.loads((run / "run.json").read_text())["data_fingerprint"]
    before, after = load_config(run), load_config(folder / "config.yaml")
    assert after.data.train == ("train.parquet",)
    assert after.net == before.net
    assert after.training == before.training
    inside = before.model_copy(update={"data": before.data.model_copy(update={"train": (str(ROOT / "data/x.hdf5"),)})})
    assert script._portable_config(inside, "tiny").data.train == ("data/x.hdf5",)


def test_what_cannot_be_shipped_leaves_nothing(
    script: ModuleType,
    place: Path,
    run: Path,
    card: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def line(*argv: object) -> str:
        assert script.main([str(word) for word in argv]) == 2
        assert not list(place.glob("*"))
        return capsys.readouterr().err

    assert "'Tiny': not a name" in line(run, "Tiny", "--card", card)
    assert line("nowhere", "tiny", "--card", card).startswith("ship.py: error: nowhere: not a generator")
    unfinished = Path("unfinished")
    shutil.copytree(run, unfinished)
    config = (unfinished / "config.yaml").read_text()
    assert "  steps: 6\n" in config
    (unfinished / "config.yaml").write_text(config.replace("  steps: 6\n", "  steps: 6000\n"))
    assert "trained for 6 of 6,000 steps" in line(unfinished, "tiny", "--card", card)
    stopped = line(unfinished, "tiny", "--card", card, "--stopped-at", "5")
    assert "trained for 6 of 6,000 steps; expected one that was stopped at step 5" in stopped
    plain = Path("plain.md")
    plain.write_text("No title.\n")
    assert "begins without a title" in line(run, "tiny", "--card", plain)
    assert "no_card.md" in line(run, "tiny", "--card", "no_card.md")
    monkeypatch.setattr(script, "LARGEST", 1000)
    assert "expected at most 1,000" in line(run, "tiny", "--card", card)
    monkeypatch.undo()
    assert script.LARGEST == 3_000_000


def test_a_shipped_generator_is_not_replaced(script: ModuleType, shipped: Path, run: Path, card: Path) -> None:
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    assert script.main([str(run), "tiny", "--card", str(card)]) == 2
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before


def test_weights_too_large_for_half_precision_are_refused(script: ModuleType, run: Path) -> None:
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = 7e4
    with pytest.raises(pcdiff.PcdiffError, match="65504"):
        script._halve(net, run)


@pytest.mark.slow
def test_an_installed_pcdiff_samples_by_name_from_any_folder(
    script: ModuleType, place: Path, run: Path, card: Path, tmp_path: Path
) -> None:
    """Wheel and source distribution hold the generator, and what the wheel installs needs nothing of the checkout."""
    pytest.importorskip("hatchling")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pcdiff", "configs", "datasets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = script.ship(run, "tiny", card)
    shutil.copytree(folder, source / "pcdiff" / "pretrained" / "tiny")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    expected = {f"pcdiff/pretrained/tiny/{path.name}" for path in folder.iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    with tarfile.open(sdist) as archive:
        assert expected <= {name.partition("/")[2] for name in archive.getnames()}
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    code = (
        "import sys, pcdiff; from pcdiff.cli import main;"
        f"assert pcdiff.__file__.startswith({str(tmp_path / 'installed')!r});"
        "sys.exit(main(['sample', 'tiny', '-n', '30', '--seed', '3', '-o', 'x.root']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path.cwd(), env=environment, check=False)
    assert done.returncode == 0
    assert pcdiff.read("x.root").equals(Generator.load("tiny").sample(30, seed=3))
