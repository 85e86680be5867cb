"""Runs are compared by samples of one seed against one truth that all of them had, or that is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pcdiff
from pcdiff import training
from pcdiff.comparison import _names, compare_runs
from pcdiff.errors import DataError
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.loss import Losses
from pcdiff.generator import Generator
from pcdiff.resources import find, pretrained

from .test_training import config
from .test_transforms import jets


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tiny runs that differ in the width of the net; their folders have the same name."""
    folder = tmp_path_factory.mktemp("comparison")
    files = (
        pcdiff.write(jets(400, seed=1), folder / "train.parquet"),
        pcdiff.write(jets(100, seed=2), folder / "validation.parquet"),
    )
    return [
        training.train(
            config(files, folder / f"width{hidden}" / "tiny", net={"kind": "epic", "hidden": hidden, "layers": 1}),
            progress=False,
        )
        for hidden in (8, 16)
    ]


@pytest.fixture(scope="module")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: list[int] = []
    found = compare_runs(
        runs, tmp_path_factory.mktemp("out") / "report", count=60, draws=3, seed=5, progress=made.append
    )
    assert sum(made) == 2 * 60
    assert found.output is not None
    return found.output


def test_samples_have_one_seed_and_the_truth_is_the_validation_data(runs: list[Path], report: Path) -> None:
    found = json.loads((report / "metrics.json").read_text())
    truth = pcdiff.read(runs[0].parents[1] / "validation.parquet")
    samples = {
        f"width{hidden}/tiny": Generator.load(run).sample(60, seed=5) for hidden, run in zip((8, 16), runs, strict=True)
    }
    expected = evaluate(truth, samples, draws=3, seed=5)
    assert found["truth"]["clouds"] == 100
    assert [sample["name"] for sample in found["samples"]] == list(samples)
    for sample, own in zip(found["samples"], expected.samples, strict=True):
        assert {name: metric["value"] for name, metric in sample["metrics"].items()} == {
            m.name: m.value for m in own.metrics
        }


def test_the_page_says_in_what_the_runs_differ(runs: list[Path], report: Path) -> None:
    page = (report / "index.html").read_text()
    section = page[page.index('id="runs"') : page.index('id="observables"')]
    settings = section[section.index("Settings that differ") :]
    assert "net.hidden" in settings
    assert "net.layers" not in settings
    for run in runs:
        parameters = sum(value.numel() for value in Generator.load(run).denoiser.net.parameters())
        assert f"{parameters:,}" in section
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
        assert f"{last['loss/validation']:.4f}" in section
    assert (report / "figures" / "losses.pdf").is_file()


def test_runs_of_other_data_need_a_truth(runs: list[Path], tmp_path: Path) -> None:
    other = (
        pcdiff.write(jets(200, seed=3), tmp_path / "t.parquet"),
        pcdiff.write(jets(50, seed=4), tmp_path / "v.parquet"),
    )
    run = training.train(config(other, tmp_path / "elsewhere"), progress=False)
    with pytest.raises(
        DataError, match=r"elsewhere: its validation data \(.*v\.parquet\) are not those of .*tiny \(.*validation"
    ):
        compare_runs([runs[0], run], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    found = compare_runs([runs[0], run], tmp_path / "report", truth=other[0], count=20, draws=2)
    assert found.truth.clouds == 200
    # What is there now is no longer what the runs had.
    twin = shutil.copytree(run, tmp_path / "twin")
    pcdiff.write(jets(50, seed=9), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v\.parquet: has changed since .*elsewhere was trained"):
        compare_runs([run, twin], tmp_path / "again")


def test_generators_that_come_with_pcdiff_are_called_by_name(runs: list[Path], tmp_path: Path) -> None:
    """With the losses of their log; they know no validation data."""
    truth = pcdiff.read(find("jets/gluon30_test.hdf5"))[:100]
    compare_runs(["gluon30-fast", "gluon30"], tmp_path / "report", truth=truth, count=60, draws=3)
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [sample["name"] for sample in found["samples"]] == ["gluon30-fast", "gluon30"]
    losses = Losses.read(pretrained()["gluon30-fast"])
    assert min(losses.training) < max(losses.validation)
    with pytest.raises(DataError, match=r"gluon30-teacher: .*name a truth"):
        compare_runs(["gluon30-teacher", runs[0]], tmp_path / "other", count=60)


def test_names_are_as_short_as_they_can_be() -> None:
    assert _names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert _names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


def test_refusals(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found 1 runs; expected at least two"):
        compare_runs(runs[:1], tmp_path / "report")
    with pytest.raises(DataError, match="is named twice"):
        compare_runs([runs[0], runs[0]], tmp_path / "report")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(DataError, match="other things than a report"):
        compare_runs(runs, tmp_path / "thesis")
