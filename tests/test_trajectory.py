from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.schema import Feature, Schema, vector_schema
from pcdiff.trajectory import _stages, draw_trajectory, trajectory

from .test_density import make
from .test_transforms import jets


@pytest.mark.parametrize("sampler", ["ddim", "heun", "rk45", "langevin", "restart", "predictor-corrector"])
def test_the_end_is_what_sampling_gives(sampler: str) -> None:
    generator = make(jets(100), spread=0.1)
    stages = trajectory(generator, 3, seed=5, sampler=sampler, steps=6)
    step = stages.feature("step")
    assert set(step) == set(range(7))
    times = [float(stages.feature("time")[step == k][0]) for k in range(7)]
    assert np.all(np.diff(times) <= 0)
    last = stages[step == 6]
    made = generator.sample(3, seed=5, sampler=sampler, steps=6)
    for i in range(3):
        # Sampling orders constituents by falling pT; a trajectory keeps each point in its place.
        order = np.argsort(-last[i : i + 1].column("ptrel"), kind="stable")
        for name in ("etarel", "phirel", "ptrel"):
            tolerance = 5e-3 if sampler == "rk45" else 1e-4
            found = last[i : i + 1].column(name)[order]
            np.testing.assert_allclose(found, made[i : i + 1].column(name), rtol=tolerance, atol=tolerance)


def test_it_starts_from_the_prior() -> None:
    """At t_max the standardised points are standard normal: 60 clouds, mean and variance within 5 standard errors."""
    generator = make(jets(100))
    first = trajectory(generator, 60, seed=1, steps=2)[:60]
    assert set(first.feature("step")) == {0}
    z = generator.transform.points[0].forward(first.column("etarel")).astype(np.float64)
    assert abs(z.mean()) < 5 / np.sqrt(len(z))
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / len(z))


def test_it_is_written_and_drawn(tmp_path: Path) -> None:
    stages = trajectory(make(jets(100)), 2, steps=8)
    back = pcdiff.read(pcdiff.write(stages, tmp_path / "stages.root"))
    assert back.equals(stages)
    assert draw_trajectory(stages, tmp_path / "stages.png").stat().st_size > 10_000


def test_a_picture_of_many_clouds_shows_the_first_ones(tmp_path: Path) -> None:
    generator = make(jets(100))
    first = draw_trajectory(trajectory(generator, 8, steps=2), tmp_path / "eight.png")
    many = draw_trajectory(trajectory(generator, 300, steps=2), tmp_path / "many.png")
    assert imread(many).shape == imread(first).shape


def test_bad_requests_give_one_line() -> None:
    generator = make(jets(100))
    with pytest.raises(DataError, match="cannot follow 0 clouds"):
        trajectory(generator, 0)
    with pytest.raises(DataError, match="no type 'w'"):
        trajectory(generator, 2, conditions={"type": "w"})
    with pytest.raises(DataError, match="seed is -1; expected a whole number from 0"):
        trajectory(generator, 2, seed=-1)


def test_a_picture_shows_stages_of_equal_way() -> None:
    """A point that moves by 0, 0, 1, 1, 1, 1, 1 units is shown at the steps 0 or 2, 3, 4, 5, 6, 7: never twice where it stands."""
    x = np.repeat([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 1).astype(np.float32)
    columns = {"x": x, "y": np.zeros_like(x)}
    schema = Schema("vectors", vector_schema(["x", "y"]).points, (Feature("step"),))
    clouds = PointClouds.from_flat(columns, np.arange(9), {"step": np.arange(8, dtype=np.int32)}, schema)
    assert _stages(clouds).tolist() == [0, 3, 4, 5, 6, 7]
