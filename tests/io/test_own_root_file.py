"""The page about private ROOT files: its commands work as they stand, on a file of its layout."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

import pcdiff
from pcdiff.cli import main

ROOT = Path(__file__).parents[2]
TINY = {
    "train": [
        "net.hidden=8",
        "net.layers=1",
        "net.global_size=4",
        "training.steps=4",
        "training.points_per_batch=512",
        "optim.warmup=1",
        "multiplicity={kind: empirical}",
        "tracking.enabled=false",
    ],
    "sample": ["-n", "100", "--steps", "2"],
    "evaluate": ["--draws", "2"],
}


def write_private(path: Path, seed: int) -> None:
    """100 jets of 2 to 8 massless constituents around an axis, the jet mass in MeV."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 9, 100)
    total, eta, phi = int(counts.sum()), rng.normal(0, 1, 100), rng.uniform(-3, 3, 100)
    flat = {
        "part_pt": rng.exponential(50, total) + 1,
        "part_eta": np.repeat(eta, counts) + rng.normal(0, 0.1, total),
        "part_phi": np.repeat(phi, counts) + rng.normal(0, 0.01, total),
    }
    branches = {name: ak.unflatten(values, counts) for name, values in flat.items()}
    branches["jet_pt"] = ak.sum(branches["part_pt"], axis=1)
    with uproot.recreate(path) as file:
        file.mktree(
            "events",
            {
                **branches,
                "jet_eta": eta,
                "jet_phi": phi,
                "jet_m": rng.uniform(5e3, 5e4, 100),
                "jet_label": rng.integers(0, 2, 100),
            },
        )


def commands() -> list[list[str]]:
    page = (ROOT / "docs" / "your_own_root_file.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line]


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_private(tmp_path / "train.root", 1)
    write_private(tmp_path / "validation.root", 2)
    shutil.copy(ROOT / "configs" / "private_tree.yaml", tmp_path / "own.yaml")
    said = {}
    for program, command, *words in commands():
        assert program == "pcdiff"
        assert main([command, *words, *TINY.get(command, [])]) == 0
        said[command, words[0]] = capsys.readouterr().out
    assert {command for command, _ in said} == {"inspect", "convert", "train", "sample", "evaluate"}
    assert "part_pt" in said["inspect", "validation.root"]
    truth = pcdiff.read(tmp_path / "truth.root")
    assert truth.feature("mass").max() < 50
    assert truth.schema.cloud("type").categories == ("background", "signal")
    assert truth.schema.axis == "all"
    assert len(pcdiff.read(tmp_path / "synthetic.root")) == 100
    assert (tmp_path / "report" / "index.html").is_file()
