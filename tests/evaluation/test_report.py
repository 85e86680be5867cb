"""The report's folder: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pcdiff.errors import DataError
from pcdiff.evaluation import evaluate


def test_a_full_disk_leaves_no_part_and_keeps_the_older_report(toy_jets, tmp_path, monkeypatch):
    evaluate(toy_jets(60, 1), toy_jets(50, 2), tmp_path / "report", seed=1)
    save, saved = Figure.savefig, []

    def full(self, *args, **options):
        saved.append(args)
        if len(saved) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", full)
    for name in ("new", "report"):
        saved.clear()
        with pytest.raises(DataError, match=rf"{name}: not enough disk"):
            evaluate(toy_jets(60, 1), toy_jets(50, 2), tmp_path / name, seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["seed"] == 1


def test_an_older_report_or_an_empty_folder_is_replaced(toy_jets, tmp_path):
    (tmp_path / "report").mkdir()
    for seed in (1, 2):
        evaluate(toy_jets(60, 1), toy_jets(50, 2), tmp_path / "report", seed=seed)
        assert json.loads((tmp_path / "report" / "metrics.json").read_text())["seed"] == seed
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_anything_else_is_left_alone(toy_jets, tmp_path, monkeypatch):
    truth = toy_jets(20, 1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.json").touch()
    with pytest.raises(DataError, match="thesis: is a folder with other things than a report"):
        evaluate(truth, truth, tmp_path / "thesis")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        evaluate(truth, truth, tmp_path / "thesis" / "metrics.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is the working directory"):
        evaluate(truth, truth, ".")
    assert [str(path) for path in Path().rglob("*")] == ["thesis", "thesis/metrics.json"]


def test_a_negative_seed_is_refused(toy_jets):
    with pytest.raises(DataError, match="seed is -1; expected a whole number from 0"):
        evaluate(toy_jets(20, 1), toy_jets(20, 2), seed=-1)
