"""Categories through the whole chain: trained on, generated, stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.config import Config
from pcdiff.generator import Generator
from pcdiff.loader import batch_of
from pcdiff.schema import Feature, Schema
from pcdiff.starting import functions_of
from pcdiff.training import train
from pcdiff.trajectory import trajectory

from .test_density import make
from .test_transforms import LABELLED, labelled

EDGES = (-0.5, 1.0)
NAMES = ("low", "middle", "high")


def sorted_points(n: int, seed: int) -> PointClouds:
    """Vectors of a normal x and the kind of range it is in."""
    x = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    schema = Schema("vectors", (Feature("x"), Feature("kind", categories=NAMES)))
    return PointClouds.from_flat({"x": x, "kind": np.digitize(x, EDGES)}, np.arange(n + 1), {}, schema)


def test_a_category_that_follows_from_the_position_is_generated_with_it(tmp_path: Path) -> None:
    """Two in three would be wrong by chance. What is left is the width of the edges, which 500 steps leave at about 0.1."""
    config = {
        "name": "kinds",
        "output": str(tmp_path / "run"),
        "device": "cpu",
        "data": {
            "train": str(pcdiff.write(sorted_points(5000, 1), tmp_path / "train.parquet")),
            "validation": str(pcdiff.write(sorted_points(200, 2), tmp_path / "validation.root")),
        },
        "features": {"points": {"kind": "categorical", "x": "standard"}, "clouds": {}},
        "net": {"kind": "epic", "hidden": 64, "layers": 2, "global_size": 4},
        "optim": {"lr": 1e-2, "warmup": 20, "ema": 0.98},
        "loss": {"weight": "velocity", "times": "logit-normal"},
        "training": {"steps": 500, "points_per_batch": 512, "compare": 0},
        "multiplicity": {"kind": "empirical"},
        "tracking": {"enabled": False},
    }
    generator = Generator.load(train(Config.model_validate(config), progress=False))
    assert functions_of(generator.transform.points) == [("kind", "categorical"), ("x", "standard")]
    made = generator.sample(4000, seed=3)
    assert made.schema.point("kind").categories == NAMES
    x, kind = made.column("x"), made.column("kind")
    assert kind.dtype == np.int32
    shares = np.bincount(kind, minlength=3) / len(kind)
    np.testing.assert_allclose(shares, [0.3085, 0.5328, 0.1587], atol=0.05)
    for number, inside in enumerate((x < -0.7, (x > -0.3) & (x < 0.8), x > 1.2)):
        assert np.mean(kind[inside] == number) > 0.9

    # The same clouds at the end of the sampler's way; on it categories are read like any other.
    steps = trajectory(generator, 50, seed=3)
    last = steps[steps.feature("step") == steps.feature("step").max()]
    np.testing.assert_array_equal(last.column("kind"), kind[:50])
    assert set(steps.column("kind")) == {0, 1, 2}


def test_the_order_of_points_does_not_matter() -> None:
    clouds = labelled(30)
    generator = make(clouds, spread=0.1, points=LABELLED)
    batch = batch_of(generator.transform.encode(clouds), np.arange(30))
    assert batch.x.shape[-1] == 11
    order = torch.randperm(batch.x.shape[1], generator=torch.Generator().manual_seed(0))
    t = torch.full((30,), 0.4)
    with torch.no_grad():
        plain = generator.denoiser(batch.x, t, batch.mask, batch.cond).x0
        turned = generator.denoiser(batch.x[:, order], t, batch.mask[:, order], batch.cond).x0
    torch.testing.assert_close(turned, plain[:, order])
    assert not torch.equal(plain[:, order], plain)


def test_jets_of_a_generator_fall_in_pt_and_hold_known_categories(tmp_path: Path) -> None:
    clouds = labelled(60)
    generator = make(clouds, points=LABELLED)
    jets = generator.sample(40, seed=1)
    assert set(jets.column("particle_class")) == set(range(5))
    # No photon and no neutral hadron has a charge, and all others have one, as in the training data.
    charged = ~np.isin(jets.column("particle_class"), [1, 2])
    np.testing.assert_array_equal(np.abs(jets.column("charge")), charged)
    falls = np.diff(jets.column("ptrel"))[~np.isin(np.arange(1, jets.num_points), jets.offsets)]
    assert (falls <= 0).all()
    generator.save(tmp_path / "generator")
    again = Generator.load(tmp_path / "generator")
    assert again.transform == generator.transform
    assert again.sample(40, seed=1).equals(jets)
    for suffix in ("root", "parquet", "hdf5"):
        back = pcdiff.read(pcdiff.write(jets, tmp_path / f"jets.{suffix}"))
        assert back.equals(jets)
        assert back.schema.point("particle_class").categories == clouds.schema.point("particle_class").categories
