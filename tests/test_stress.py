"""That the stress scripts would notice what they look for."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.data import toy
from tests.stress import killing, kills
from tests.stress.killing import Ended, Kill, Way, run
from tests.stress.pipeline import STAGES
from tests.stress.wholeness import Whole

WRITES = "from pathlib import Path; import time; Path('x').touch(); print('begun', flush=True); time.sleep(60)"


def test_all_kills_are_shared_out_and_each_stage_has_some() -> None:
    for number in range(80):
        assert sum(kills.shares(number)) == number
    assert min(kills.shares(50)) > 0
    assert len(kills.shares(50)) == len(STAGES)


@pytest.mark.parametrize("goes_on", [True, False])
def test_kills_lie_within_the_time_that_a_stage_takes(goes_on: bool) -> None:
    """Of a stage that goes on, the half that is not done again is cut into pieces, and the other is killed all along."""
    took = Ended(killed=False, code=0, begun=4.0, seconds=10.0, output="", problems=())
    found = list(kills.planned(np.random.default_rng(1), 400, took, goes_on=goes_on))
    early, late = ([kill.wait for kill in found if kill.begun is begun] for begun in (False, True))
    assert max(early) < 4
    # Time before it writes counts half: 2 s of 8 s. Five sigmas.
    assert abs(len(early) - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)
    reached = 3 if goes_on else 6
    assert late[0] < 0.2
    assert reached - 0.2 < max(late) < reached + 0.2


@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "SIGINT twice"])
def test_a_command_is_killed_once_it_writes(way: Way, tmp_path: Path) -> None:
    kill = Kill(way, begun=True, wait=0.0, aimed=False, everyone=False, pause=0.01)
    ended = run(("-c", WRITES), tmp_path, kill)
    assert ended.killed
    assert ended.output.startswith("begun")
    assert ended.problems == ()
    assert ended.code == {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGINT twice": -signal.SIGINT}[way]
    assert ended.begun <= ended.seconds < 50


def test_what_ends_badly_and_what_lives_on_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killing, "_PATIENCE", 0.5)
    assert run(("-c", "raise SystemExit(3)"), tmp_path).problems == ("ended with exit code 3",)
    child = f"import subprocess; subprocess.Popen(['sleep', '60']); {WRITES}"
    kill = Kill("SIGKILL", begun=True, wait=0.0, aimed=False, everyone=False, pause=0.0)
    (problem,) = run(("-c", child), tmp_path, kill).problems
    assert "1 of its processes lived on" in problem


def test_what_is_not_whole_is_noticed(tmp_path: Path) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "folder"
    points = toy("spiral", 50, seed=1)
    for root in (straight, folder):
        pcdiff.write(points, root / "same.parquet")
    whole = Whole(folder, straight)
    (folder / ".same-x.tmp.parquet").write_bytes(b"half")
    assert whole.problems() == []
    assert (whole.files, whole.temporaries) == (1, 1)
    file = pcdiff.write(toy("spiral", 50, seed=2), folder / "same.parquet")
    assert whole.problems() == ["same.parquet: holds other clouds than those of the undisturbed pipeline"]
    file.write_bytes(file.read_bytes()[:-20])
    (folder / "figure.pdf").write_bytes(b"%PDF-1.4 half")
    (folder / "run.json").write_text("{")
    (folder / "same.tmp.parquet").write_bytes(b"half")
    found = whole.problems()
    assert [line.partition(":")[0] for line in found[:-1]] == [
        "figure.pdf",
        "run.json",
        "same.parquet",
        "same.tmp.parquet",
    ]
    assert found[-1].endswith("same.tmp.parquet: is half-written, and found by a pattern")
