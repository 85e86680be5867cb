from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.io import part, read, write
from pcdiff.schema import jet_schema

from ..test_transforms import jets


def numbered(n: int) -> PointClouds:
    """Jets of one constituent whose pT is their number."""
    return PointClouds.from_flat({"pt": np.arange(n, dtype=np.float64)}, np.arange(n + 1), {}, jet_schema(["pt"], []))


def test_few_clouds_are_all_taken() -> None:
    clouds = numbered(100)
    found = part(clouds.split(30), 100, np.random.SeedSequence(1))
    assert found.equals(clouds)
    assert "part" not in found.provenance


@pytest.mark.parametrize("size", [1, 13, 250, 1000])
def test_the_part_does_not_depend_on_the_pieces(size: int) -> None:
    clouds = numbered(1000)
    found = part(clouds.split(size), 50, np.random.SeedSequence(1))
    assert found.equals(part([clouds], 50, np.random.SeedSequence(1)))
    assert found.provenance["part"] == {"clouds": 50, "of": 1000}
    assert np.all(np.diff(found.column("pt")) > 0)
    assert not found.equals(part([clouds], 50, np.random.SeedSequence(2)))


def test_every_cloud_is_as_likely_as_any_other() -> None:
    """Over 2,000 seeds the counts of 100 clouds, each expected 500 times, follow a binomial law: chi-squared within 5 sigmas."""
    counts = np.zeros(100)
    for seed in range(2000):
        taken = part(numbered(100).split(9), 25, np.random.SeedSequence(seed)).column("pt").astype(int)
        counts[taken] += 1
    # Of a fixed number taken, the sum over clouds is known: 99 degrees of freedom.
    chi_squared = np.sum((counts - 500) ** 2 / (2000 * 0.25 * 0.75)) * 99 / 100
    assert abs(chi_squared - 99) < 5 * np.sqrt(2 * 99)


def test_no_more_than_twice_the_part_and_a_piece_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    concatenate = PointClouds.concatenate.__func__  # type: ignore[attr-defined]

    def watched(cls: type[PointClouds], parts: list[PointClouds]) -> PointClouds:
        held.append(sum(map(len, parts)))
        made: PointClouds = concatenate(cls, parts)
        return made

    monkeypatch.setattr(PointClouds, "concatenate", classmethod(watched))
    part(numbered(5000).split(20), 50, np.random.SeedSequence(0))
    assert max(held) <= 2 * 50 + 20


def test_nothing_to_take_is_an_error() -> None:
    with pytest.raises(DataError, match="there are no clouds"):
        part([], 10, np.random.SeedSequence(0))
    with pytest.raises(DataError, match="at least 1 cloud"):
        part([numbered(3)], 0, np.random.SeedSequence(0))


@pytest.mark.parametrize(
    ("name", "kind"), [("a.hdf5", None), ("a.parquet", None), ("a.root", None), ("b.root", "rntuple")]
)
def test_a_file_does_not_depend_on_how_its_clouds_came(name: str, kind: str | None, tmp_path: Path) -> None:
    clouds = jets(300, seed=2)
    for size in (1, 64, 299, 1000):
        path = write(clouds.split(size), tmp_path / name, format=kind)
        assert read(path).equals(clouds), size
