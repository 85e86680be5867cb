"""Data sets of halo catalogues: what they hold, and that nothing but the arguments decides it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcdiff import io, shards
from pcdiff.data import halos, make_halos
from pcdiff.data.halos import LOWEST_MASS, HaloRecipe
from pcdiff.data.particle_mesh import Cosmology, Mesh
from pcdiff.errors import DataError

needs_halos = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("colossus", "numba")),
    reason="the extra halos is not installed",
)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes of an eighth of the volume, three a shard."""
    monkeypatch.setattr(halos, "_SHARD", 3)
    monkeypatch.setattr(halos, "Mesh", lambda **given: Mesh(box_size=62.5, particles=32, **given))


def make(path: Path, **changes: Any) -> Path:
    return make_halos(path, **{"count": 5, "workers": 1, "progress": False, "steps": 4, **changes})


@needs_halos
@pytest.mark.usefixtures("coarse")
def test_the_file_does_not_depend_on_workers_nor_on_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(tmp_path / "one.parquet")
    assert not (tmp_path / "one.parquet.parts").exists()
    monkeypatch.setattr(shards, "remove_folder", lambda folder: None)
    two = make(tmp_path / "two.parquet", workers=2)
    assert two.read_bytes() == one.read_bytes()

    parts = sorted((tmp_path / "two.parquet.parts").glob("*.parquet"))
    assert [len(io.read(part)) for part in parts] == [3, 2]
    with pytest.raises(DataError, match=r"holds shards made with other settings \(seed 0, now 1\)"):
        make(tmp_path / "two.parquet", seed=1)
    # The second shard is made again, the first is taken as it is.
    parts[1].unlink()
    before = parts[0].stat().st_mtime_ns
    assert make(tmp_path / "two.parquet").read_bytes() == one.read_bytes()
    assert parts[0].stat().st_mtime_ns == before
    assert not io.read(make(tmp_path / "three.parquet", seed=1)).equals(io.read(one))


@needs_halos
@pytest.mark.usefixtures("coarse")
def test_boxes_hold_what_the_schema_says(tmp_path: Path) -> None:
    clouds = io.read(make(tmp_path / "boxes.parquet", omega_m=(0.3, 0.3), sigma_8=(0.9, 0.9)))
    assert clouds.schema.kind == "halos"
    assert len(clouds) == 5
    for name in ("x", "y", "z"):
        assert clouds.column(name).min() >= 0
        assert clouds.column(name).max() < 62.5
        assert clouds.schema.point(name).unit == "Mpc/h"
    assert clouds.column("log10_mass").min() > np.log10(LOWEST_MASS) - 1e-6
    falling = np.diff(clouds.column("log10_mass")) <= 0
    # But from one box to the next.
    falling[clouds.offsets[1:-1] - 1] = True
    assert falling.all()
    np.testing.assert_array_equal(clouds.feature("omega_m"), np.float32(0.3))
    np.testing.assert_array_equal(clouds.feature("box_size"), np.float32(62.5))
    # Masses are no whole multiples of a particle's.
    particle = Mesh(box_size=62.5, particles=32).particle_mass(Cosmology(float(np.float32(0.3)), 0.9))
    fraction = np.mod(10.0 ** clouds.column("log10_mass").astype(np.float64) / particle, 1)
    assert 0.2 < fraction.std() < 0.4


def test_each_parameter_falls_once_into_each_part_of_its_window() -> None:
    recipe = HaloRecipe(40, 3, (0.1, 0.5), (0.6, 1.0), 20)
    universes = recipe.cosmologies()
    for values, low, high in (
        ([u.omega_m for u in universes], 0.1, 0.5),
        ([u.sigma_8 for u in universes], 0.6, 1.0),
    ):
        part = np.floor((np.array(values) - low) / (high - low) * 40).astype(int)
        assert sorted(part.tolist()) == list(range(40))
    assert universes != HaloRecipe(40, 4, (0.1, 0.5), (0.6, 1.0), 20).cosmologies()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0; expected at least 1"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"omega_m": (0.5, 0.1)}, r"omega_m is \(0.5, 0.1\); expected rising values in 0.1 to 0.5"),
        ({"sigma_8": (0.6, 1.5)}, r"sigma_8 is \(0.6, 1.5\); expected rising values in 0.3 to 1.2"),
        ({"mesh": Mesh(steps=0)}, "steps is 0; expected at least 1"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"make halos: {message}"):
        HaloRecipe(**{"count": 1, "seed": 0, "omega_m": (0.1, 0.5), "sigma_8": (0.6, 1.0), "shard_size": 20, **changes})
