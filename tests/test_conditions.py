"""What is asked of clouds holds for each of them, and the rest follows the model's own distribution given that."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats

from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.conditions import Conditions, as_text
from pcdiff.config import EpicConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.multiplicity import FlowMultiplicity, build_multiplicity
from pcdiff.schema import jet_schema
from pcdiff.trajectory import trajectory
from pcdiff.transforms import Transform, cloud_columns

from .test_multiplicity import gaussian_copula
from .test_transforms import POINTS

FEATURES = {"pt": "log", "mass": "log", "num_constituents": "standard"}


def jets(n: int) -> PointClouds:
    """Jets of which at most 20 constituents are kept; mass and number of constituents grow with pT, and more so for tops."""
    rng = np.random.default_rng(0)
    types = rng.choice([0, 2], n, p=[0.7, 0.3]).astype(np.int32)
    pt = 800 + rng.exponential(200, n)
    made = rng.poisson(pt / 80 + 3 * types) + 1
    counts = np.minimum(made, 20)
    points = {
        "etarel": rng.normal(0, 0.1, counts.sum()),
        "phirel": rng.normal(0, 0.1, counts.sum()),
        "ptrel": rng.lognormal(-3, 1, counts.sum()),
    }
    clouds = {"pt": pt, "mass": 0.1 * pt * rng.lognormal(0, 0.3, n) + 20 * types, "num_constituents": made}
    return PointClouds.from_flat(
        {name: values.astype(np.float32) for name, values in points.items()},
        np.concatenate([[0], np.cumsum(counts)]),
        {name: values.astype(np.float32) for name, values in clouds.items()} | {"type": types},
        jet_schema(list(points), [*clouds, "type"], axis="all"),
    )


def make(**multiplicity: Any) -> Generator:
    """A generator whose net is untrained, and whose model of the number of points and the features is fitted."""
    clouds = jets(4000)
    transform = Transform.fit(clouds, POINTS, FEATURES)
    settings = Settings(
        EpicConfig(hidden=8, layers=1, global_size=4),
        ScheduleConfig(),
        MultiplicityConfig.model_validate(multiplicity),
        SamplingConfig(steps=2),
    )
    torch.manual_seed(0)
    denoiser = build_denoiser(settings, transform)
    torch.nn.init.normal_(denoiser.net.exit.weight, std=0.1)
    model = build_multiplicity(settings.multiplicity, len(FEATURES), 2)
    features = np.stack(list(cloud_columns(clouds, list(FEATURES)).values()), 1)
    types = transform.type_index(clouds)
    model.fit(clouds.counts, features, types, 0)
    return Generator(denoiser, model, transform, settings, tuple(np.bincount(types) / len(types)))


@pytest.fixture(scope="module")
def flow() -> Generator:
    return make(layers=2, hidden=16, steps=200)


@pytest.fixture(scope="module", params=["flow", "empirical"])
def generator(request: pytest.FixtureRequest, flow: Generator) -> Generator:
    return flow if request.param == "flow" else make(kind="empirical")


def columns(found: Conditions) -> dict[str, np.ndarray]:
    named = {name: values.astype(np.float64) for name, values in found.features.items() if name != "phi"}
    return {"number_of_points": found.counts.astype(np.float64), "type": found.types.astype(np.float64)} | named


def test_all_that_is_asked_for_holds_for_each_cloud(generator: Generator) -> None:
    asked = {"type": "t", "pt": (899.99, 1100.01), "mass": (100, 150), "number_of_points": (12, 18)}
    made = generator.sample(1500, seed=4, conditions=asked)
    assert set(made.feature("type")) == {2}
    assert (made.counts >= 12).all()
    assert (made.counts <= 18).all()
    for name in ("pt", "mass"):
        low, high = asked[name]
        assert (made.feature(name).astype(np.float64) >= low).all()
        assert (made.feature(name).astype(np.float64) <= high).all()


def test_a_number_of_points_and_a_whole_feature_are_exact(generator: Generator) -> None:
    assert set(generator.sample(1100, conditions={"number_of_points": 17}).counts) == {17}
    found = generator.conditions(0, 500, 1, {"num_constituents": 22})
    assert set(found.features["num_constituents"]) == {22}
    # Of jets with 22 constituents, 20 are kept in the training data; a flow knows it to its quality alone.
    assert np.mean(found.counts == 20) > 0.8


@pytest.mark.parametrize(
    "asked",
    [
        {"pt": (900, 1000)},
        {"type": "t", "number_of_points": (14, 17)},
        {"mass": (120, 140), "pt": (0, 1100)},
        {"num_constituents": 15},
    ],
    ids=" ".join,
)
def test_they_are_the_clouds_of_the_model_that_hold_it(generator: Generator, asked: dict[str, Any]) -> None:
    """Two samples, 40,000 clouds cut and 3,000 asked for, agree in each column and in each product with pT: 9 tests, at 1e-3 in all."""
    drawn, found = columns(generator.conditions(0, 40_960, 1)), columns(generator.conditions(0, 3000, 2, asked))
    keep = np.ones(40_960, bool)
    for name, value in asked.items():
        low, high = value if isinstance(value, tuple) else (1.0, 1.0) if value == "t" else (value, value)
        keep &= (drawn[name] >= low) & (drawn[name] <= high)
    assert keep.sum() > 500
    for name in drawn:
        cut = drawn[name][keep]
        assert stats.ks_2samp(cut, found[name]).pvalue > 1e-3 / 9
        if name != "pt":
            assert stats.ks_2samp(cut * drawn["pt"][keep], found[name] * found["pt"]).pvalue > 1e-3 / 9


def test_clouds_of_a_block_are_independent(flow: Generator) -> None:
    """Those that come from further draws are no repeats, of one another or from block to block."""
    found = flow.conditions(0, 2048, 3, {"pt": (950, 960)})
    assert len(np.unique(found.features["mass"])) > 2040


@pytest.mark.parametrize(("rho", "value"), [(0.8, 0.0), (0.8, 2.0), (0.5, -1.5)])
def test_all_else_follows_a_value_that_is_set(rho: float, value: float) -> None:
    """Of a Gaussian copula, z_0 given the feature's score v is normal with mean rho v and variance 1 - rho^2, so counts have closed
    probabilities. The window's own effect, a variance of (0.06 rho)^2 more, is far below what 4,000 clouds show: chi-squared, at 1e-3."""
    counts = np.random.default_rng(11).poisson(12, 5000) + 1
    model, normals = gaussian_copula(counts, rho, math.sqrt(1 - rho**2))
    generator = one_feature(model)
    found = generator.conditions(0, 4000, 5, {"x": value})
    assert (found.features["x"] == np.float32(value)).all()
    level = np.interp(value, normals, np.linspace(0, 1, len(normals)))
    score = special.ndtri(level)
    edges = special.ndtri(np.concatenate([[0.0], model.counts.cumulative.numpy()]))
    expected = 4000 * np.diff(special.ndtr((edges - rho * score) / math.sqrt(1 - rho**2)))
    seen = np.bincount(found.counts, minlength=len(expected))
    common = expected > 10
    statistic = np.sum((seen - expected)[common] ** 2 / expected[common])
    assert stats.chi2.sf(statistic, common.sum()) > 1e-3


def one_feature(model: FlowMultiplicity) -> Generator:
    """A generator of vectors with one cloud feature ``x``; only its model of the number of points is used."""
    transform = Transform.from_dict(
        {
            "points": [{"name": "y", "function": "standard", "mean": 0.0, "std": 1.0}],
            "clouds": [{"name": "x", "function": "standard", "mean": 0.0, "std": 1.0}],
            "count": {"name": "number of points", "function": "standard", "mean": 0.0, "std": 1.0},
            "types": [],
            "schema": {
                "kind": "vectors",
                "points": [{"name": "y", "unit": "", "description": "", "categories": []}],
                "clouds": [{"name": "x", "unit": "", "description": "", "categories": []}],
                "reflections": [],
                "axis": "",
            },
        }
    )
    settings = Settings(EpicConfig(hidden=4, layers=1, global_size=2), ScheduleConfig(), model.config, SamplingConfig())
    return Generator(build_denoiser(settings, transform), model, transform, settings)


def test_a_value_and_windows_together(flow: Generator) -> None:
    found = flow.conditions(0, 300, 1, {"pt": 1000.1, "mass": (100, 150), "type": "t"})
    assert (found.features["pt"] == np.float32(1000.1)).all()
    assert (np.abs(found.features["mass"] - 125) <= 25).all()
    assert set(found.types) == {1}
    edge = float(flow.multiplicity.quantiles(1)[0])
    assert (flow.conditions(0, 20, 1, {"pt": edge}).features["pt"] == np.float32(edge)).all()


def test_rounding_carries_no_value_over_an_end() -> None:
    """Values within four numbers of float32 about 900.1; both ends of the window lie between two of them."""
    model, _ = gaussian_copula(np.full(100, 3), 0.0, 1.0)
    steps = np.linspace(900.1 - 1e-4, 900.1 + 1e-4, 1025)
    model.marginals[0].knots.copy_(torch.from_numpy(steps))
    generator = one_feature(model)
    below = np.float32(900.1)
    above = np.nextafter(below, np.float32(1000))
    assert float(below) < 900.1 < float(above)
    assert below in generator.conditions(0, 1000, 1).features["x"]
    assert set(generator.conditions(0, 1000, 1, {"x": (900.1, 900.10009)}).features["x"]) == {above}


def test_several_types_keep_their_proportions(generator: Generator) -> None:
    """All types are as none asked for, bit for bit; with a window, types come as often as the model has them in it."""
    assert same(generator.conditions(0, 700, 3, {"type": ("t", "g")}), generator.conditions(0, 700, 3))
    drawn = columns(generator.conditions(0, 40_960, 1))
    inside = drawn["type"][(drawn["mass"] > 150) & (drawn["mass"] < 200)]
    found = generator.conditions(0, 4000, 2, {"type": ["g", "t"], "mass": (150, 200)}).types
    error = math.sqrt(inside.var() / len(inside) + found.var() / len(found))
    assert abs(inside.mean() - found.mean()) < 4 * error
    assert inside.mean() > 0.35 > drawn["type"].mean()


def same(a: Conditions, b: Conditions) -> bool:
    pairs = [(a.counts, b.counts), (a.types, b.types), *((a.features[name], b.features[name]) for name in a.features)]
    return all(np.array_equal(one, other) for one, other in pairs)


def first(found: Conditions, n: int) -> Conditions:
    return Conditions(found.counts[:n], {name: values[:n] for name, values in found.features.items()}, found.types[:n])


ASKED = {"pt": (900, 1200), "mass": 110.0, "number_of_points": (8, 18)}


def test_what_is_asked_of_all_clouds_by_chance_changes_none(generator: Generator) -> None:
    wide = {"pt": (0, math.inf), "number_of_points": (1, 20)}
    assert same(generator.conditions(0, 1500, 8, wide), generator.conditions(0, 1500, 8))


def test_a_cloud_that_is_as_asked_for_anyway_stays(generator: Generator) -> None:
    free, found = generator.conditions(0, 1000, 6), generator.conditions(0, 1000, 6, {"pt": (900, 1100)})
    inside = (free.features["pt"] >= 900) & (free.features["pt"] <= 1100)
    for name in free.features:
        np.testing.assert_array_equal(free.features[name][inside], found.features[name][inside])


def test_a_cloud_does_not_depend_on_how_many_are_asked_for(generator: Generator) -> None:
    whole = generator.conditions(0, 2500, 3, ASKED)
    for n in (1, 10, 1024, 1030):
        assert same(generator.conditions(0, n, 3, ASKED), first(whole, n))
    assert not same(generator.conditions(0, 1024, 4, ASKED), first(whole, 1024))


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(flow: Generator, threads: None) -> None:
    made = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(flow.sample(2100, seed=6, conditions=ASKED))
    assert made[0].equals(made[1])
    assert made[0].equals(made[2])


def test_pieces_hold_it_too(flow: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of several windows is streamed, and each piece is as one of its own would be."""
    monkeypatch.setattr("pcdiff.generator.WINDOW", 1024)
    pieces = list(flow.iterate(2500, seed=3, steps=1, conditions={"number_of_points": 15}))
    assert [len(piece) for piece in pieces] == [1024, 1024, 452]
    assert all((piece.counts == 15).all() for piece in pieces)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ptt": 900}, "no condition 'ptt': did you mean 'pt'?"),
        ({"number_of_point": 5}, "no condition 'number_of_point': did you mean 'number_of_points'?"),
        ({"radius": 1}, "no condition 'radius': there are: mass, num_constituents, number_of_points, pt, type"),
        ({"type": "tt"}, "the generator knows no type 'tt': did you mean 't'?"),
        ({"type": ("t", "w")}, "the generator knows no type 'w': there are: g, t"),
        ({"type": ()}, "type = (): expected a name, or several"),
        ({"type": 2}, "type = 2: expected a name, or several"),
        ({"pt": "90"}, "pt = '90': expected a number or a window (low, high)"),
        ({"pt": (1, 2, 3)}, "pt = (1, 2, 3): expected a number or a window (low, high)"),
        ({"pt": None}, "pt = None: expected a number or a window (low, high)"),
        ({"pt": (1000, 900)}, "pt = 1000:900: expected a number, or a window whose low end is not above its high end"),
        ({"pt": math.nan}, "pt = nan: expected a number, or a window"),
        ({"pt": (100, 500.5)}, "pt = 100:500.5: lies outside of the training data, which cover pt from 800."),
        ({"pt": math.inf}, "pt = inf: lies outside of the training data, which cover pt from 800."),
        ({"number_of_points": 21}, "number_of_points = 21: lies outside of the training data, which cover number_of_p"),
        ({"number_of_points": 7.5}, "number_of_points = 7.5: expected a whole number, as all are in the training data"),
        ({"num_constituents": 12.5}, "num_constituents = 12.5: expected a whole number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_met_gives_one_line(flow: Generator, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        flow.sample(5, conditions=asked)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_clouds_that_are_too_rare_are_refused_at_once(generator: Generator) -> None:
    """In one line: how many of how many draws held it, and what the training data cover."""
    with pytest.raises(DataError) as caught:
        generator.sample(5, conditions={"type": "g", "pt": (1500, 3000), "mass": (50, 60), "number_of_points": (1, 3)})
    line = str(caught.value)
    assert line.startswith("type = g, pt = 1500:3000, mass = 50:60, number_of_points = 1:3: only ")
    assert " of 262,144 clouds that the generator draws are so, expected 32 at least; the training data cover " in line
    assert "pt from 800." in line
    assert line.count(" GeV") == 2


def test_given_clouds_have_their_own(flow: Generator) -> None:
    given = flow.sample(5)
    with pytest.raises(DataError, match="choose conditions or given"):
        flow.sample(given=given, conditions={"pt": 1000})
    assert "conditions" not in flow.sample(given=given, conditions={}).provenance["sampling"]


def test_a_file_says_what_was_asked_for(flow: Generator) -> None:
    asked = {"type": ("g", "t"), "pt": (900, math.inf), "mass": 110.5, "number_of_points": 15}
    made = flow.sample(5, conditions=asked).provenance["sampling"]
    expected = {"type": "g,t", "pt": "900:inf", "mass": "110.5", "number_of_points": "15"}
    assert json.loads(json.dumps(made, allow_nan=False))["conditions"] == expected == as_text(asked)


def test_a_trajectory_is_that_of_the_clouds(flow: Generator) -> None:
    asked = {"pt": 1000, "number_of_points": 12}
    stages = trajectory(flow, 3, seed=5, conditions=asked)
    made = flow.sample(3, seed=5, conditions=asked)
    last = stages[-3:]
    assert set(stages.counts) == {12}
    for name in ("pt", "mass", "phi", "type"):
        np.testing.assert_array_equal(last.feature(name), made.feature(name))
    assert stages.provenance["sampling"]["conditions"] == as_text(asked)


def test_sample_says_what_it_takes() -> None:
    one, other = (inspect.signature(method).parameters for method in (Generator.sample, Generator.iterate))
    assert list(one.values()) == list(other.values())
