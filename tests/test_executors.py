"""Where independent work is done."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pcdiff.errors import PcdiffError
from pcdiff.executors import _started, dask_workers, done


def test_workers_end_when_their_parent_is_killed() -> None:
    """They hold the pipe, whose end is the end of the last of them, until then; one works, and one waits for work."""
    script = """
import time
from pcdiff.executors import processes
if __name__ == "__main__":
    with processes(2)(2) as pool:
        pool.submit(time.sleep, 0).result()
        pool.submit(time.sleep, 3600)
        pool.submit(time.sleep, 0).result()
        print("working", flush=True)
        time.sleep(3600)
"""
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], stdout=writing) as process:
        os.close(writing)
        # In two parts, where Python does not buffer.
        said = os.read(reading, 7) + os.read(reading, 1)
        process.send_signal(signal.SIGKILL)
    assert said == b"working\n"
    os.set_blocking(reading, False)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert os.read(reading, 1) == b""
        except BlockingIOError:
            assert time.monotonic() < deadline, "workers live on"
            time.sleep(0.02)
        else:
            break
    os.close(reading)


def test_parts_are_told_of_as_they_end_and_given_in_order() -> None:
    first, told = threading.Event(), []

    def double(part: int) -> int:
        if part == 0:
            assert first.wait(60)
        return 2 * part

    def finished(part: int) -> None:
        told.append(part)
        first.set()

    with ThreadPoolExecutor(2) as pool:
        assert done(pool, double, [0, 1, 2], finished) == [0, 2, 4]
    assert sorted(told) == [0, 1, 2]
    assert told[0] != 0


def test_a_part_that_fails_drops_those_not_begun() -> None:
    begun, others = [], threading.Event()

    def fails(part: int) -> None:
        begun.append(part)
        if part == 1:
            raise OSError("no room")
        assert others.wait(60)

    with ThreadPoolExecutor(2) as pool:
        # The first still runs when the second has failed.
        threading.Timer(1, others.set).start()
        with pytest.raises(OSError, match="no room"):
            done(pool, fails, list(range(100)))
    assert len(begun) < 5


def _refused(where: str) -> str:
    """What is said of a cluster that cannot be started."""
    try:
        with dask_workers(where)(1):
            return ""
    except PcdiffError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:unclosed cluster:ResourceWarning")
@pytest.mark.parametrize(
    ("kind", "words"),
    [("slurm", ["#SBATCH --cpus-per-task=3", "#SBATCH --mem=5G"]), ("htcondor", ["RequestCpus = MY.DaskWorkerCores"])],
)
def test_jobs_of_a_batch_system_are_as_the_configuration_says(
    kind: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to what would be submitted, and without cores and memory one line that says where they belong."""
    jobqueue, dask = pytest.importorskip("dask_jobqueue"), pytest.importorskip("dask")
    asked: list[int] = []
    monkeypatch.setattr(jobqueue.core.JobQueueCluster, "scale", lambda cluster, n=0, jobs=0: asked.append(n + jobs))
    monkeypatch.chdir(tmp_path)
    where = f"{kind}:20"
    with dask.config.set({f"jobqueue.{kind}.{key}": None for key in ("cores", "memory", "disk")}):
        said = _refused(where)
    assert re.fullmatch(rf"{where}: dask-jobqueue takes .*`jobqueue: {kind}:` in .*cores and memory.*", said)
    # What the library began to build is taken away while its warning is ignored.
    gc.collect()
    # Any free port, for another cluster may be on this machine.
    free = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    settings = {"cores": 3, "memory": "5GiB", "disk": "1GiB", "scheduler-options": free}
    with dask.config.set({f"jobqueue.{kind}.{key}": value for key, value in settings.items()}):
        cluster = _started(where, kind, 20)
        try:
            assert asked == [20]
            assert all(word in cluster.job_script() for word in words)
        finally:
            cluster.close()


def test_a_scheduler_that_is_killed_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with subprocess.Popen([sys.executable, "-m", "dask", *words], stderr=subprocess.DEVNULL) as scheduler:
        try:
            deadline = time.monotonic() + 60
            while not file.exists():
                assert time.monotonic() < deadline, "no scheduler"
                time.sleep(0.05)

            def kill() -> None:
                time.sleep(1)
                scheduler.kill()

            def work() -> None:
                with dask_workers(str(file))(1) as pool:
                    # No worker is there, so it waits until the scheduler is gone.
                    threading.Thread(target=kill).start()
                    done(pool, abs, [1])

            with pytest.raises(PcdiffError, match=r"scheduler\.json: the scheduler is gone.*the same command goes on"):
                work()
        finally:
            scheduler.kill()
