"""The pages on data of one's own, a private ROOT tree and CMS NanoAOD: their commands work word by word, as they stand."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

import pcdiff
from pcdiff.cli import main
from pcdiff.clouds import PointClouds
from pcdiff.config import Config
from pcdiff.config.dialect import parse as parse_yaml
from pcdiff.physics import jets as observables

ROOT = Path(__file__).parents[1]
PRIVATE = (ROOT / "docs" / "your_own_root_file.md").read_text(encoding="utf-8")
NANOAOD = (ROOT / "docs" / "tutorial" / "nanoaod.md").read_text(encoding="utf-8")
TEMPLATE = (ROOT / "configs" / "template_root.yaml").read_text(encoding="utf-8")


def embedded(part: str) -> PointClouds:
    """As many gluon jets as the page on NanoAOD takes."""
    size = {"train": 4000, "validation": 1000}[part]
    return pcdiff.read(ROOT / "datasets" / "jets" / f"gluon30_{part}.hdf5")[:size]


def save_files(page: str, folder: Path) -> None:
    """Each block that the page says to save, under the name that it says."""
    found = re.findall(r"[Ss]ave this as `([\w.]+)`.*?^```\w+\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert found
    for name, text in found:
        (folder / name).write_text(text, encoding="utf-8")


def run_page(page: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Run all blocks of the language ``sh`` in the working directory; returns what each command said."""
    said = {}
    for block in re.findall(r"^```sh\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                (script,) = words
                runpy.run_path(script, run_name="__main__")
            else:
                assert program == "pcdiff"
                assert main(words) == 0
            said[line.strip()] = capsys.readouterr().out
    return said


def write_private(path: Path, jets: PointClouds, seed: int) -> None:
    """The jets as a private tree may have them, one an entry, their masses in MeV."""
    rng = np.random.default_rng(seed)
    pt, eta, phi = jets.feature("pt"), jets.feature("eta"), rng.uniform(-np.pi, np.pi, len(jets))
    relative = jets.relative()
    with uproot.recreate(path) as file:
        file.mktree(
            "events",
            {
                "part_pt": relative.ptrel * pt,
                "part_eta": relative.etarel + eta,
                "part_phi": relative.phirel + phi,
                "jet_pt": pt,
                "jet_eta": eta,
                "jet_phi": phi,
                "jet_m": 1000 * jets.feature("mass"),
                "jet_label": rng.integers(0, 2, len(jets)),
            },
        )


def assert_generated(path: Path, report: Path, truth: PointClouds) -> None:
    """500 jets within the cuts of the training jets, which the model of the features meets exactly, and a report on them."""
    made = pcdiff.read(path)
    assert len(made) == 500
    assert made.counts.max() <= truth.counts.max()
    for name in ("pt", "eta"):
        # Quantiles are interpolated in single precision.
        low, high = truth.feature(name).min(), truth.feature(name).max()
        assert made.feature(name).min() >= low - 1e-3 * abs(low)
        assert made.feature(name).max() <= high + 1e-3 * abs(high)
    assert (report / "index.html").stat().st_size > 10_000
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["samples"][0]["metrics"]
    assert metrics["w1_relative_mass"]["value"] > 0


def test_the_page_on_a_private_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    jets = embedded("validation")
    write_private(tmp_path / "train.root", embedded("train"), seed=1)
    write_private(tmp_path / "validation.root", jets, seed=2)
    (tmp_path / "own.yaml").write_text(TEMPLATE, encoding="utf-8")
    said = run_page(PRIVATE, capsys)
    assert "part_pt" in said["pcdiff inspect validation.root"]
    truth = pcdiff.read(tmp_path / "truth.root")
    # The same jets by another way: angles and masses to single precision.
    np.testing.assert_allclose(truth.feature("mass"), jets.feature("mass"), rtol=1e-6)
    np.testing.assert_allclose(observables.relative_mass(truth), observables.relative_mass(jets), rtol=2e-3, atol=1e-5)
    assert truth.schema.cloud("type").categories == ("background", "signal")
    assert truth.schema.axis == "all"
    assert_generated(tmp_path / "trial.root", tmp_path / "trial_report", embedded("train"))


def test_the_page_on_nanoaod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_files(NANOAOD, tmp_path)
    said = run_page(NANOAOD, capsys)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", NANOAOD, flags=re.DOTALL | re.MULTILINE)
    assert shown in said["pcdiff inspect train_nano.root"]
    # The jets come out of the events as they went in, but for those that are not selected.
    jets = embedded("validation")
    jets = jets[np.abs(jets.feature("eta")) < 2]
    selected = pcdiff.read(tmp_path / "validation.root")
    np.testing.assert_array_equal(selected.counts, jets.counts)
    np.testing.assert_array_equal(selected.feature("pt"), jets.feature("pt"))
    np.testing.assert_allclose(
        observables.relative_mass(selected), observables.relative_mass(jets), rtol=2e-3, atol=1e-5
    )
    assert_generated(tmp_path / "trial.root", tmp_path / "trial_report", pcdiff.read(tmp_path / "train.root"))


@pytest.mark.slow
def test_the_page_on_nanoaod_with_a_real_file(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large-radius jets of top pairs, so few that both files are the same."""
    monkeypatch.chdir(tmp_path)
    save_files(NANOAOD, tmp_path)
    for part in ("train", "validation"):
        shutil.copy(shared / "cms" / "nano_tt_v15.root", tmp_path / f"{part}_nano.root")
    said = run_page(NANOAOD.replace("```sh\npython write_nano.py\n```\n", ""), capsys)
    assert "62 of 64 FatJet have candidates" in said["pcdiff inspect train_nano.root"]
    selected = pcdiff.read(tmp_path / "train.root")
    assert selected.feature("pt").min() > 200
    assert ak.max(np.hypot(selected.relative().etarel, selected.relative().phirel)) < 1
    assert_generated(tmp_path / "trial.root", tmp_path / "trial_report", selected)


def test_each_setting_that_the_template_shows_is_one() -> None:
    """Also those that are switched off, each by itself."""
    texts = [TEMPLATE]
    for off in re.finditer(r"^ *#(?=\w)", TEMPLATE, flags=re.MULTILINE):
        texts.append(TEMPLATE[: off.end() - 1] + TEMPLATE[off.end() :])
    assert len(texts) == 6
    for text in texts:
        settings, repeated = parse_yaml(text)
        assert not repeated
        Config.model_validate(settings)
