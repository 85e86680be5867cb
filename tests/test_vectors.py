"""Plain vectors through the whole chain: trained on, generated and compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.config import Config
from pcdiff.data import toy
from pcdiff.generator import Generator
from pcdiff.noise import point_noise
from pcdiff.schema import vector_schema
from pcdiff.training import train


def trained(folder: Path, train_clouds: PointClouds, validation: PointClouds, **changes: object) -> Path:
    """A run on these clouds that changes no weight, so that its net remains the exact denoiser of standard normal points."""
    settings = {
        "name": "vectors",
        "output": str(folder / "run"),
        "device": "cpu",
        "data": {
            "train": str(pcdiff.write(train_clouds, folder / "train.parquet")),
            "validation": str(pcdiff.write(validation, folder / "validation.parquet")),
        },
        "features": {"points": dict.fromkeys(train_clouds.schema.point_names, "standard"), "clouds": {}},
        "net": {"kind": "epic", "hidden": 8, "layers": 1, "global_size": 4},
        "optim": {"lr": 1e-30},
        "training": {"steps": 2, "points_per_batch": 256},
        "multiplicity": {"kind": "empirical"},
        "tracking": {"enabled": False},
    }
    return train(Config.model_validate(settings | changes), progress=False)


def test_a_run_is_compared_in_coordinates_and_radius(tmp_path: Path) -> None:
    run = trained(tmp_path, toy("two-gaussians", 500, seed=1), toy("two-gaussians", 200, seed=2))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert {name for name in last if name.startswith("validation/")} == {
        f"validation/{kind}_{name}" for kind in ("w1", "triangular", "chi2") for name in ("x", "y", "radius")
    }
    drawn = {path.stem for path in (run / "evaluation" / "figures").glob("*.png")}
    assert drawn == {"x", "y", "radius", "x_y", "ranking"}
    made = Generator.load(run).sample(300, seed=4)
    assert made.schema == vector_schema(["x", "y"])
    assert (made.counts == 1).all()


def test_generated_vectors_keep_their_order_their_range_and_their_columns(tmp_path: Path) -> None:
    """Components named as those of jets are no momenta: nothing is sorted by pt, and no azimuth wrapped or added.

    A net whose output is zero turns noise into a fixed multiple of itself, so points must come in the order of their noise.
    """
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 901, 3)
    columns = {"pt": rng.normal(50, 2, 900).astype(np.float32), "phi": rng.normal(50, 9, 900).astype(np.float32)}
    clouds = PointClouds.from_flat(columns, offsets, {}, vector_schema(["pt", "phi"]))
    run = trained(tmp_path, clouds, clouds, training={"steps": 1, "points_per_batch": 256, "compare": 0})
    generator = Generator.load(run)
    made = generator.sample(40, seed=6)
    assert made.schema == clouds.schema
    noise = point_noise(6, 0, 40, 3, 2).reshape(-1, 2)
    encoded = generator.transform.encode(made).points
    scale = np.sum(encoded * noise) / np.sum(noise**2)
    assert 0.5 < scale < 1.5
    np.testing.assert_allclose(encoded, scale * noise, atol=1e-5)
    assert made.column("phi").min() > np.pi


def test_given_vectors_condition_nothing_but_their_number(tmp_path: Path) -> None:
    points = toy("gaussian", 300, seed=1)
    generator = Generator.load(trained(tmp_path, points, points, training={"steps": 1, "compare": 0}))
    assert generator.sample(given=points[:50], seed=3).equals(generator.sample(50, seed=3))


def test_default_features_are_refused_with_the_names_that_there_are(tmp_path: Path) -> None:
    points = toy("gaussian", 50)
    with pytest.raises(pcdiff.PcdiffError, match="no point feature 'etarel': there are: x, y") as caught:
        trained(tmp_path, points, points, features={})
    assert "\n" not in str(caught.value)
