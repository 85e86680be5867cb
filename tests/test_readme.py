"""What the README shows must work as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.cli.parser import parse
from pcdiff.clouds import PointClouds
from pcdiff.schema import jet_schema

from .test_transforms import jets

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_mass_plot_is_drawn_from_a_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(block for block in blocks("python") if "uproot" in block)
    assert len(script.strip().splitlines()) <= 20
    bare = jets(100)
    features = {name: bare.feature(name) for name in bare.schema.cloud_names} | {"phi": np.zeros(100, np.float32)}
    points = {name: bare.column(name) for name in bare.schema.point_names}
    clouds = PointClouds.from_flat(points, bare.offsets, features, jet_schema(list(points), list(features)))
    pcdiff.write(clouds, tmp_path / "synthetic.root")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "jet_mass.png").stat().st_size > 5000


def test_each_pcdiff_command_parses() -> None:
    lines = [line.split("#")[0].split() for block in blocks("bash") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line[:1] == ["pcdiff"]]
    assert len(commands) == 5
    for command in commands:
        parse(command)


def test_linked_files_exist() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (root / target).exists(), target


@pytest.mark.slow
def test_quickstart_reaches_its_quality(tmp_path: Path) -> None:
    """The quickstart's own settings: relative jet mass W1 below 4e-3, 10,000 generated against 6,000 true jets."""
    run = pcdiff.train(
        pcdiff.load_config("configs/quickstart.yaml", [f"output={tmp_path / 'run'}", "tracking.enabled=false"])
    )
    generated = pcdiff.Generator.load(run).sample(10_000, seed=1)
    shutil.rmtree(run)
    evaluation = pcdiff.evaluate("datasets/jets/gluon30_test.hdf5", generated)
    assert evaluation.to_dict()["samples"][0]["metrics"]["w1_relative_mass"]["value"] < 4e-3
