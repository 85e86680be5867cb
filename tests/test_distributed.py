"""Several processes do what one does, up to rounding; they stop, resume and fail as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcdiff
from pcdiff import training
from pcdiff.config import to_yaml
from pcdiff.distill import distill
from pcdiff.distributed import World
from pcdiff.errors import PcdiffError
from pcdiff.generator import Generator

from . import test_distill
from .test_training import config, losses, weights
from .test_transforms import jets
from .two_processes import accumulated, uneven

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    return known | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and a teacher."""
    folder = tmp_path_factory.mktemp("distributed")
    pcdiff.write(jets(400, seed=1), folder / "train.parquet")
    pcdiff.write(jets(100, seed=2), folder / "validation.parquet")
    test_distill.generator(trained=True).save(folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> tuple[Path, Path]:
    return folder / "train.parquet", folder / "validation.parquet"


@pytest.fixture(scope="module")
def seen(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """What two processes saw, which were started as srun does it; see two_processes.py."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", str(folder)],
            cwd=ROOT,
            env=environment(
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_STEP_NUM_TASKS="2",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=500)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
        yield [json.loads((folder / f"seen_{rank}.json").read_text()) for rank in range(2)]
    finally:
        for process in processes:
            process.kill()


def assert_same_curve(run: Path, alone: Path) -> None:
    """Training and validation losses agree within 1e-5 of their size, step by step."""
    curves = [np.array(losses(each), dtype=float) for each in (run, alone)]
    assert np.isfinite(curves[0][:, 1]).all()
    np.testing.assert_allclose(*curves, rtol=1e-5, atol=0)


def test_two_processes_follow_the_loss_curve_of_one(
    seen: object, folder: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert_same_curve(folder / "pair" / "plain", training.train(config(files, tmp_path / "alone"), progress=False))


def test_a_process_without_clouds_takes_its_part(
    seen: object, folder: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = training.train(uneven(files, tmp_path / "alone"), progress=False)
    assert_same_curve(folder / "pair" / "uneven", alone)


def test_pieces_change_nothing_but_rounding(
    seen: object, folder: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also with a learned schedule, which learns from the second moment of the losses of the whole batch."""
    whole = training.train(accumulated(files, tmp_path / "whole", 1), progress=False)
    for run in (
        folder / "pair" / "accumulated",
        training.train(accumulated(files, tmp_path / "pieces", 4), progress=False),
    ):
        assert_same_curve(run, whole)
        found, expected = (Generator.load(each).denoiser.schedule.state_dict() for each in (run, whole))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_rest_is_the_same_bit_for_bit(
    seen: list[dict[str, Any]], folder: Path
) -> None:
    """The other process hears of it in the next sum of gradients."""
    assert [each["stopped"] for each in seen] == ["exit 143", "exit 143"]
    assert seen[0]["handler"]
    assert seen[0]["checkpoints"][-1] == "step_00000026"
    runs = folder / "pair" / "stopped", folder / "pair" / "plain"
    assert weights(runs[0]) == weights(runs[1])
    assert losses(runs[0]) == losses(runs[1])


def test_only_process_0_writes(seen: list[dict[str, Any]]) -> None:
    assert any("metrics.jsonl" in line for line in seen[0]["written"])
    assert seen[1]["written"] == []


def test_what_is_not_finite_on_one_process_is_skipped_by_all(seen: list[dict[str, Any]], folder: Path) -> None:
    assert "error: step 5: loss or gradient was not finite 5 times in a row" in seen[0]["not finite"]
    assert seen[1]["not finite"] == "exit 2"
    assert not (folder / "pair" / "not_finite" / "checkpoints").exists()


def test_weights_that_differ_end_the_run_before_they_are_kept(seen: list[dict[str, Any]], folder: Path) -> None:
    assert seen[0]["apart"].startswith("error: the weights after step 7 of process 1 of 2 is not that of process 0")
    assert seen[1]["apart"] == "exit 2"
    assert not (folder / "pair" / "apart" / "checkpoints").exists()


def test_a_signal_within_the_comparison_stops_all_with_the_last_checkpoint(
    seen: list[dict[str, Any]], folder: Path
) -> None:
    assert [each["compared"] for each in seen] == ["exit 143", "exit 143"]
    assert (folder / "pair" / "compared" / "checkpoints" / "step_00000003").is_dir()


def test_one_process_says_what_is_wrong(seen: list[dict[str, Any]]) -> None:
    said = {name: [each[name] for each in seen] for name in seen[0]}
    assert said["other config"][0].startswith("error: the config of process 1 of 2 is not that of process 0")
    assert said["blocked"][0].endswith("metrics.jsonl: cannot be read (Is a directory)")
    assert said["blocked"][1] == "exit 2"
    assert said["other data"][0] == "exit 2"
    assert "absent_1.parquet: no such file" in said["other data"][1]
    assert "there is a run already" in said["there"][0]
    assert "device 'cuda:1' is one for all 2 processes; expected cuda" in said["device"][0]
    assert "matching = 2.0 compares the clouds of a batch with each other" in said["matching"][0]
    for name in ("other config", "there", "device", "matching"):
        assert said[name][1] == "exit 2", name


def test_distillation_on_two_processes(seen: object, folder: Path, tmp_path: Path) -> None:
    alone = distill(test_distill.config(folder / "teacher", tmp_path / "alone"), progress=False)
    assert_same_curve(folder / "pair" / "distilled", alone)
    pieces = test_distill.config(folder / "teacher", tmp_path / "pieces", matching=2.0, training={"accumulate": 2})
    with pytest.raises(PcdiffError, match=r"matching = 2\.0 .* and training\.accumulate is 2"):
        distill(pieces, progress=False)


@given(count=st.integers(1, 200), size=st.integers(1, 9), pieces=st.integers(1, 5))
def test_each_cloud_is_computed_once_and_shares_are_even(count: int, size: int, pieces: int) -> None:
    shares = [
        [i for rows in World(rank, size).share(count, pieces) for i in range(count)[rows]] for rank in range(size)
    ]
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= pieces


def test_who_a_process_is() -> None:
    meeting = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "7", **meeting}
    srun = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}
    assert World.here({}) == World()
    assert World.here(torchrun) == World(3, 4, 1, "torchrun", "7")
    assert World.here({**torchrun, "TORCHELASTIC_RESTART_COUNT": "0"}) == World(3, 4, 1, "torchrun", "7")
    assert World.here({**torchrun, "TORCHELASTIC_RESTART_COUNT": "1"}) == World(
        3, 4, 1, "torchrun", "7", restarted=True
    )
    assert World.here(srun | meeting) == World(2, 4, 0, "srun")
    # Under torchrun that srun started, torchrun knows.
    assert World.here(srun | torchrun) == World(3, 4, 1, "torchrun", "7")
    # Tasks that are to be by themselves, a single task, a script that sbatch started.
    assert World.here(srun) == World()
    assert World.here({**srun, **meeting, "SLURM_STEP_NUM_TASKS": "1"}) == World()
    assert World.here({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", **meeting}) == World()


def test_processes_that_were_started_again_resume_what_their_launcher_began_and_nothing_else(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was refused, for it is another one's, is refused again after the restart that follows."""
    settings = config(files, tmp_path / "run")
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"steps": 2})})
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "-",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for job, restarts, refused in (("1", 0, False), ("1", 1, False), ("2", 0, True), ("2", 1, True), ("none", 1, True)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        if refused:
            with pytest.raises(PcdiffError, match="there is a run already"):
                training.train(settings, progress=False)
        else:
            training.train(settings, progress=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "0"}, "has RANK, .* but not WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "a"}, "but not SLURM_PROCID, SLURM_LOCALID, MASTER_PORT"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2, WORLD_SIZE=2, .*expected RANK below WORLD_SIZE"),
        ({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=one, .*expected whole numbers"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(given: dict[str, str], said: str) -> None:
    meeting = {} if len(given) < 3 else {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    with pytest.raises(PcdiffError, match=said):
        World.here(given | meeting)


def launched(
    folder: Path, name: str, *arguments: str, script: Sequence[str] = ("-m", "pcdiff")
) -> subprocess.Popen[str]:
    """``pcdiff train`` of the tiny config by torchrun on two processes."""
    file = folder / f"{name}.yaml"
    file.write_text(to_yaml(config((folder / "train.parquet", folder / "validation.parquet"), folder / name)))
    launcher, options = [sys.executable, "-m", "torch.distributed.run"], [a for a in arguments if a.startswith("-")]
    words = ["--nnodes", "1", "--nproc-per-node", "2", "--master-port", str(free_port()), *options, *script]
    return subprocess.Popen(
        [*launcher, *words, "train", str(file), *(a for a in arguments if not a.startswith("-"))],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=500)
    finally:
        process.kill()
    return process.returncode, said


# A worker that is lost once, in the first round, and leaves no checkpoint of that step.
_LOST = """
import os, signal, sys
from pcdiff import training
from pcdiff.cli import main

step = training.step

def lost(*arguments):
    found = step(*arguments)
    if arguments[-1].step == 25 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return found

training.step = lost
sys.exit(main())
"""


@pytest.mark.slow
def test_torchrun_starts_again_after_a_lost_worker_and_ends_the_same_bit_for_bit(folder: Path, seen: object) -> None:
    script = folder / "lost.py"
    script.write_text(_LOST)
    code, said = finished(launched(folder, "restarted", "--max-restarts=1", script=(str(script),)))
    assert code == 0, said
    assert said.count("trained; next: pcdiff sample") == 1
    assert weights(folder / "restarted") == weights(folder / "pair" / "plain")
    assert losses(folder / "restarted") == losses(folder / "pair" / "plain")


@pytest.mark.slow
def test_torchrun_passes_on_a_signal_and_the_run_goes_on_later(folder: Path, seen: object) -> None:
    """SIGTERM to the launcher and to its workers at once, as SLURM sends it."""
    process = launched(folder, "cut", "training.steps=100000")
    log, deadline = folder / "cut" / "metrics.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_bytes().count(b"\n") > 10) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    for number in (*map(int, workers.stdout.split()), process.pid):
        os.kill(number, signal.SIGTERM)
    code, said = finished(process)
    assert code != 0
    steps = [int(path.name[5:]) for path in (folder / "cut" / "checkpoints").iterdir()]
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert max(steps) == last, said


@pytest.mark.slow
def test_torchrun_shows_one_line_for_a_mistake(folder: Path) -> None:
    code, said = finished(launched(folder, "wrong", "optim.lr=-1"))
    assert code != 0
    assert said.count("pcdiff: error:") == 1, said
