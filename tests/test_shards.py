"""Data sets that are made in shards, and are interrupted."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.data import toy
from pcdiff.shards import make_in_shards


@dataclass(frozen=True)
class Recipe:
    seed: int
    count: int = 30
    shards: int = 3

    def size(self, shard: int) -> int:
        return self.count // self.shards

    def provenance(self) -> dict[str, Any]:
        return asdict(self)


def made(recipe: Recipe, shard: int) -> PointClouds:
    return toy("spiral", recipe.size(shard), seed=100 * recipe.seed + shard)


def here(parts: int) -> Executor:
    return ThreadPoolExecutor(1)


def make(output: Path, seed: int) -> PointClouds:
    return pcdiff.read(
        make_in_shards(Recipe(seed), made, output, what="points", suffix=".parquet", executors=here, progress=False)
    )


def test_a_kill_while_shards_are_removed_leaves_none_for_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left may lack its recipe, and must not be taken for shards of the next one."""
    expected = make(tmp_path / "straight.parquet", 2)

    def killed(folder: Path) -> None:
        (folder / "recipe.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pcdiff.files.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "points.parquet", 1)
    assert make(tmp_path / "points.parquet", 2).equals(expected)
    assert {path.name for path in tmp_path.iterdir()} == {"straight.parquet", "points.parquet"}


def test_what_a_killed_worker_left_half_written_goes_with_the_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcdiff.shards.remove_folder", lambda folder: None)
    parts = tmp_path / "points.parquet.parts"
    parts.mkdir()
    (parts / ".00001-x.tmp.parquet").write_bytes(b"half")
    make(tmp_path / "points.parquet", 1)
    assert sorted(path.name for path in parts.iterdir()) == [
        *(f"0000{shard}.parquet" for shard in range(3)),
        "recipe.json",
    ]
