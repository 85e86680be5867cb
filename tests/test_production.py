"""Shards of a sample, by batch jobs and on Dask, joined to what one process makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pcdiff
from pcdiff import data
from pcdiff.cli import main
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, ModelError, PcdiffError
from pcdiff.executors import dask_workers, processes
from pcdiff.generator import WINDOW, Generator, shard_range
from pcdiff.production import _Request, _shard, merge, sample_in_shards

from .test_generator import generator as generator  # noqa: PLC0414
from .test_generator import sign

N = 3 * WINDOW + 1000
SETTINGS: dict[str, Any] = {"seed": 3, "steps": 1}


@pytest.fixture(scope="module")
def saved(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "generator"
    generator.save(folder)
    return folder


@pytest.fixture(scope="module")
def whole(saved: Path) -> PointClouds:
    return Generator.load(saved).sample(N, **SETTINGS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as found:
        yield found


def _command(generator: Path, output: Path, *words: str) -> list[str]:
    return ["sample", str(generator), "-n", str(N), "--seed", "3", "--steps", "1", "-o", str(output), *words]


@pytest.mark.parametrize(("n", "count"), [(1, 1), (40_000, 3), (1_000_000, 7)])
def test_shards_cover_a_request_once(n: int, count: int) -> None:
    """Each begins where the one before ends, with a window; the largest is at most one window larger than the smallest."""
    ranges = [shard_range(n, (number, count)) for number in range(count)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == n
    assert [stop for _, stop in ranges[:-1]] == [first for first, _ in ranges[1:]]
    assert all(first % WINDOW == 0 for first, _ in ranges)
    sizes = [-(-stop // WINDOW) - first // WINDOW for first, stop in ranges]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_shards_of_batch_jobs_join_to_what_one_process_makes(saved: Path, whole: PointClouds, tmp_path: Path) -> None:
    """Made in any order, through another format, bit for bit, the file too."""
    for number in (2, 0, 1):
        assert main(_command(saved, tmp_path / f"job_{number}.hdf5", "--shard", f"{number}/3")) == 0
    file = merge(tmp_path / "job_*.hdf5", tmp_path / "joined.parquet")
    joined = pcdiff.read(file)
    assert joined.equals(whole)
    assert main(_command(saved, tmp_path / "one.parquet")) == 0
    assert file.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert joined.provenance["sampling"] == whole.provenance["sampling"]
    assert "shard" not in joined.provenance


def test_a_cluster_that_loses_a_worker_makes_the_same(
    saved: Path, whole: PointClouds, tmp_path: Path, cluster: Any
) -> None:
    """A worker is killed as soon as the first shard is there; its work is done again, and a rerun makes nothing anew."""
    folder = tmp_path / "shards"

    def kill() -> None:
        while not list(folder.glob("[0-9]*.parquet")):
            time.sleep(0.01)
        os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    executors = dask_workers(cluster.scheduler_address)
    files = sample_in_shards(saved, N, folder, executors=executors, shards=4, progress=False, **SETTINGS)
    killer.join()
    assert pcdiff.read(merge(folder, tmp_path / "joined.parquet")).equals(whole)
    before = [file.stat().st_mtime_ns for file in files]
    assert main(_command(saved, folder, "--dask", cluster.scheduler_address, "--shards", "4")) == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_processes_make_the_same(saved: Path, whole: PointClouds, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    sample_in_shards(saved, N, folder, executors=processes(2), progress=False, **SETTINGS)
    assert len(list(folder.glob("*.parquet"))) == 1
    assert pcdiff.read(merge(folder, tmp_path / "joined.parquet")).equals(whole)


def test_data_are_the_same_from_a_cluster(tmp_path: Path, cluster: Any) -> None:
    pytest.importorskip("colossus")
    arguments: dict[str, Any] = {"count": 2, "seed": 1, "steps": 2, "refinement": 1, "progress": False}
    here = data.make_halos(tmp_path / "here.hdf5", workers=1, **arguments)
    there = data.make_halos(tmp_path / "there.hdf5", dask=cluster.scheduler_address, **arguments)
    assert pcdiff.read(here).equals(pcdiff.read(there))


def test_what_is_no_whole_sample_is_not_joined(saved: Path, tmp_path: Path) -> None:
    def job(number: int, *words: str) -> Path:
        path = tmp_path / f"{number}{''.join(words)}.parquet"
        assert main([*_command(saved, path, "--shard", f"{number}/3"), *words]) == 0
        return path

    first, second, third = map(job, range(3))
    other = job(1, "--seed=4")
    output = tmp_path / "joined.parquet"
    with pytest.raises(DataError, match="1 of 3 shards are missing, the first is 1/3"):
        merge([first, third], output)
    with pytest.raises(DataError, match="is shard 0/3, as"):
        merge([first, second, third, first], output)
    with pytest.raises(DataError, match="is a shard of another sample than"):
        merge([first, other, third], output)
    plain = pcdiff.write(pcdiff.read(first), tmp_path / "plain.parquet")
    plain_clouds = pcdiff.read(plain)
    plain_clouds.provenance.pop("shard")
    pcdiff.write(plain_clouds, plain)
    with pytest.raises(DataError, match="says nothing of a shard"):
        merge([plain], output)
    assert not output.exists()


def test_another_sample_does_not_mix_into_a_folder(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"

    def here(parts: int) -> Executor:
        return ThreadPoolExecutor(parts)

    sample_in_shards(saved, 10, folder, executors=here, progress=False, **SETTINGS)
    with pytest.raises(DataError, match="seed 3, now 4"):
        sample_in_shards(saved, 10, folder, executors=here, progress=False, seed=4, steps=1)


def test_a_worker_with_another_generator_says_so(saved: Path) -> None:
    request = _Request(str(saved), {"denoiser.safetensors": "0"}, 10, 1, SETTINGS)
    with pytest.raises(ModelError, match="is another generator on this worker"):
        list(_shard(request, 0))


@pytest.mark.parametrize("part", ["transform", "grids"])
def test_the_same_weights_in_other_units_are_another_generator(part: str, saved: Path, tmp_path: Path) -> None:
    """So they are on other fitted times: on a worker, and in a shard."""
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    about = json.loads((other / "generator.json").read_text())
    if part == "transform":
        about["transform"]["clouds"][0]["mean"] += 0.01
    else:
        about["grids"] = {"1": [0.9, 0.0]}
    sign(other / "generator.json", about)
    files = Generator.load(saved).provenance["files"]
    with pytest.raises(ModelError, match="is another generator on this worker"):
        list(_shard(_Request(str(other), files, 10, 1, SETTINGS), 0))
    shards = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, (folder, file) in enumerate(zip((saved, other), shards, strict=True)):
        assert main(_command(folder, file, "--shard", f"{number}/2")) == 0
    with pytest.raises(DataError, match="is a shard of another sample than"):
        merge(shards, tmp_path / "joined.parquet")


@pytest.mark.parametrize("words", [["--shard", "3/3"], ["--shard", "1"], ["--shard", "0/9"]])
def test_a_shard_that_there_is_not_is_one_line(
    words: list[str], saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(_command(saved, tmp_path / "job.hdf5", *words))
    except SystemExit as ended:
        code = ended.code
    assert code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "job.hdf5").exists()


@pytest.mark.parametrize("where", ["local", "local:0", "slurm:many", "node", "tcp//node:1"])
def test_what_names_no_cluster_is_refused(where: str) -> None:
    with pytest.raises(DataError, match=f"Dask cluster '{where}'"):
        dask_workers(where)


def test_a_scheduler_that_does_not_answer_is_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("pcdiff.executors._PATIENCE", 1)
    with pytest.raises(PcdiffError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        sample_in_shards(saved, 10, tmp_path / "shards", executors=dask_workers("tcp://127.0.0.1:9"), progress=False)
    with pytest.raises(PcdiffError, match="no such file; start a scheduler with"):
        sample_in_shards(
            saved, 10, tmp_path / "shards", executors=dask_workers(str(tmp_path / "none.json")), progress=False
        )
