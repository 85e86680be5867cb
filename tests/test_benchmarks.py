from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import pcdiff
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.config import EpicConfig, FeaturesConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
from pcdiff.encodings import Categories, Combinations
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation import evaluate, wasserstein
from pcdiff.generator import Generator
from pcdiff.multiplicity import build_multiplicity
from pcdiff.physics import measure
from pcdiff.resources import find, pretrained
from pcdiff.schema import jet_schema
from pcdiff.transforms import Transform, cloud_columns

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def references(path: None) -> ModuleType:
    import references

    return references


@pytest.fixture(scope="module")
def jets() -> PointClouds:
    return pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))


@pytest.fixture(scope="module")
def untrained(jets: PointClouds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator whose net gives zero: the exact denoiser of normal data, whose trajectories stay where they start."""
    features, settings = (
        FeaturesConfig(),
        Settings(
            EpicConfig(hidden=8, layers=1, global_size=4),
            ScheduleConfig(),
            MultiplicityConfig(kind="empirical"),
            SamplingConfig(),
        ),
    )
    transform = Transform.fit(jets, features.points, features.clouds)
    multiplicity = build_multiplicity(settings.multiplicity, len(transform.clouds), 1)
    rows = cloud_columns(jets, [scale.name for scale in transform.clouds])
    multiplicity.fit(jets.counts, np.stack(list(rows.values()), axis=1), np.zeros(len(jets), np.int64), seed=0)
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    Generator(build_denoiser(settings, transform), multiplicity, transform, settings, (1.0,)).save(folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *words: str | Path) -> None:
    """The script with these words on its command line."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
    module.main()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """What a run on tiny samples stored and printed. The numbers mean nothing, their relations do."""
    output = tmp_path_factory.mktemp("bench") / "speed.json"
    # A process of its own, because the number of threads belongs to the process.
    done = subprocess.run(
        [sys.executable, FOLDER / "speed.py", "--quick", "--threads", "1", "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


def test_each_net_is_compared_with_the_reference_at_both_sizes(bench: tuple[dict, str]) -> None:
    result, _ = bench
    rows = {(row["constituents"], row["net"]): row for row in result["rows"]}
    assert set(rows) == {(n, net) for n in (30, 150) for net in ("epic", "transformer", "graph", "reference")}
    for (constituents, _), row in rows.items():
        reference = rows[constituents, "reference"]
        for part, speed in (("training", "clouds_per_second"), ("sampling", "clouds_per_second")):
            ours, theirs = (r[part][speed]["rounds"] for r in (row, reference))
            assert row[part]["ratio"]["rounds"] == pytest.approx([a / b for a, b in zip(ours, theirs, strict=True)])
        evaluation, sampling = row["evaluation"]["milliseconds_per_cloud"], row["sampling"]
        assert sampling["clouds_per_second"]["median"] == pytest.approx(
            1e3 / (evaluation["median"] * sampling["evaluations"])
        )
        fewer = reference["sampling"]["evaluations"] / sampling["evaluations"]
        assert sampling["ratio"]["median"] == pytest.approx(fewer * row["evaluation"]["ratio"]["median"])


def test_the_conditions_are_printed_beside_the_numbers(bench: tuple[dict, str]) -> None:
    result, printed = bench
    at = result["conditions"]
    for text in (at["cpu"], at["date"], at["capability"], f"torch {at['versions']['torch']}", "torch threads: 1"):
        assert text in printed
    for table in ("Training", "Sampling"):
        assert table in printed


@pytest.mark.parametrize("name", ["EpicReference", "AttentionReference"])
@torch.inference_mode()
def test_the_reference_nets_know_no_order_and_no_padding(references: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    conditions = () if name == "EpicReference" else (4,)
    net = getattr(references, name)(3, *conditions).double().eval()
    x, t = torch.randn(5, 7, 3).double(), torch.rand(5).double()
    cond = (torch.randn(5, 4).double(),) if conditions else ()
    mask = torch.arange(7) < torch.tensor([7, 1, 4, 6, 2])[:, None]
    y = net(x, t, mask, *cond)[mask]
    assert y.abs().max() > 0.01

    order = torch.randperm(7)
    back = torch.empty_like(x)
    back[:, order] = net(x[:, order], t, mask[:, order], *cond)
    torch.testing.assert_close(back[mask], y, rtol=1e-10, atol=1e-12)

    # What stands in empty places, and how many there are, changes nothing.
    filled = torch.where(mask[..., None], x, 100.0)
    longer = torch.cat([filled, torch.full((5, 3, 3), -50.0).double()], dim=1)
    found = net(longer, t, torch.cat([mask, torch.zeros(5, 3, dtype=torch.bool)], dim=1), *cond)[:, :7][mask]
    torch.testing.assert_close(found, y, rtol=1e-10, atol=1e-12)


def test_the_midpoint_method_is_of_second_order(references: ModuleType) -> None:
    """dx/dt = -2 t x has the solution x(1) = x(0) / e."""
    start, calls = torch.linspace(1, 2, 5).double(), 0

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return -2 * t * x

    errors = [float((references.midpoint(velocity, start, n) - start / math.e).abs().max()) for n in (40, 80, 160)]
    assert calls == 2 * (40 + 80 + 160)
    assert errors[0] < 1e-3
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize(
    ("generator", "metric", "floor", "bound"),
    [
        ("gluon30", "w1m", 4e-4, 6e-4),
        ("gluon30", "w1p", 4e-4, 6e-4),
        ("gluon30", "w1efp", 6e-6, 9e-6),
        ("gluon30", "fpd", 1.4e-4, 5e-4),
        ("gluon30", "auc_boosted", 0.5, 0.6),
        ("gluon30", "auc_net", 0.5, 0.6),
        ("gluon30", "fpnd", 0.15, 0.25),
        ("gluon30-fast", "w1m", 4e-4, 12e-4),
        ("gluon30-fast", "w1p", 4e-4, 12e-4),
        ("gluon30-fast", "w1efp", 6e-6, 18e-6),
        ("gluon30-fast", "fpd", 1.4e-4, 15e-4),
        ("gluon30-fast", "auc_net", 0.5, 0.7),
    ],
)
def test_a_limit_is_met_just_below_and_missed_just_above(
    generator: str, metric: str, floor: float, bound: float
) -> None:
    from quality_results import verdicts

    floors = {metric: [0.9 * floor, 1.1 * floor]}
    for factor, met in ((1 - 1e-6, True), (1 + 1e-6, False)):
        # The mean over seeds decides, not a single one.
        values = {metric: [bound * factor - floor / 3, bound * factor + floor / 3]}
        (found,) = verdicts(generator, values, floors)
        assert found.met is met
        assert found.ratio == pytest.approx(factor * bound / floor)
        assert found.floor_spread == pytest.approx(0.1 * floor * math.sqrt(2))


def test_a_generator_without_limits_is_not_judged() -> None:
    from quality_results import verdicts

    (found,) = verdicts("mine", {"w1m": [1.0], "fpnd": [2.0]}, {"w1m": [0.5], "fpnd": []})
    assert found.met is None
    assert found.ratio == 2
    assert found.spread is None


def test_one_half_of_the_truth_is_at_the_floor(jets: PointClouds) -> None:
    """It is one more draw if both halves follow one distribution: within 4 standard deviations of the others.

    Those of logarithms, since distances are positive and of long tails; FPD of so few jets hangs on which half has the largest values.
    """
    from quality import DISTANCES, Truth

    truth = Truth((jets[:600], jets[600:1200]), workers=1)
    for metric, distance in DISTANCES.items():
        draws = np.log([truth.distance(metric, draw) for draw in range(30)])
        assert len(set(draws)) == 30
        assert abs(math.log(distance(*truth.measured)) - draws.mean()) < 4 * draws.std(ddof=1), metric


def test_cuts_have_the_size_of_a_floor_and_bootstrap_draws_are_larger_by_the_root_of_two() -> None:
    """W1 of pairs of normal samples of 500; means of 300 pairs, within 4 standard errors."""
    rng = np.random.default_rng(0)
    direct, cut, resampled = [], [], []
    for _ in range(300):
        one, two = rng.normal(size=(2, 500))
        direct.append(wasserstein(one, two))
        pooled = rng.permutation(np.concatenate([one, two]))
        cut.append(wasserstein(pooled[:500], pooled[500:]))
        resampled.append(wasserstein(rng.choice(one, 500), rng.choice(two, 500)))
    means = [float(np.mean(found)) for found in (direct, cut, resampled)]
    relative = [
        float(np.std(found, ddof=1)) / math.sqrt(300) / mean
        for found, mean in zip((direct, cut, resampled), means, strict=True)
    ]
    assert means[1] / means[0] == pytest.approx(1, abs=4 * math.hypot(*relative[:2]))
    assert means[2] / means[1] == pytest.approx(math.sqrt(2), abs=4 * math.sqrt(2) * math.hypot(*relative[1:]))


def test_the_metrics_are_those_of_evaluate(jets: PointClouds) -> None:
    from quality import DISTANCES

    sets = jets[:150], jets[150:300]
    (sample,) = evaluate(*sets, draws=2).samples
    found = {metric.name: metric.value for metric in sample.metrics}
    for name, stored in (("w1m", "w1_relative_mass"), ("w1p", "w1p"), ("w1efp", "w1efp"), ("fpd", "fpd")):
        assert DISTANCES[name](*map(measure, sets)) == pytest.approx(found[stored], rel=1e-9), name


def test_results_are_kept_as_they_come(tmp_path: Path) -> None:
    from quality_results import Store

    def store(identity: str) -> Store:
        return Store(tmp_path / "quality.json", {"truth": identity}, print)

    def never() -> float:
        raise AssertionError

    first = store("a")
    first.part("gluon30", "weights")
    assert first.once("gluon30", "w1m", 1, lambda: 0.25) == 0.25
    # A run that is cut off here goes on there.
    again = store("a")
    again.part("gluon30", "weights")
    assert again.once("gluon30", "w1m", 1, never) == 0.25
    assert again.once("gluon30", "w1m", 2, lambda: 0.5) == 0.5
    assert again.values("gluon30", "w1m") == [0.25, 0.5]
    again.part("gluon30", "other weights")
    assert again.values("gluon30", "w1m") == []
    with pytest.raises(DataError, match="other true jets"):
        store("b")


def test_quality_of_a_generator_is_measured_and_not_measured_again(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import quality

    output = tmp_path / "quality.json"
    words = [untrained, "--truth", "datasets/jets/gluon30_test.hdf5", "--jets", "200", "--seeds", "2", "--draws", "2"]
    words += ["--without-fpnd", "--workers", "1", "--output", output]
    call(monkeypatch, quality, *words)
    result = json.loads(output.read_text())
    values = result["parts"]["untrained"]["values"]
    assert {name: list(found) for name, found in values.items()} == {
        **{name: ["1", "2"] for name in ("w1m", "w1p", "w1efp", "fpd")},
        **{name: ["1"] for name in ("auc_boosted", "auc_net")},
    }
    # A net that knows nothing makes jets that any classifier finds, and no distance of which is near its floor.
    floors = result["parts"]["truth"]["values"]
    assert values["auc_boosted"]["1"] > 0.8
    assert floors["auc_boosted"]["0"] < 0.7
    assert min(values["w1m"].values()) > 2 * max(floors["w1m"].values())
    capsys.readouterr()
    monkeypatch.setattr(quality, "measure", None)
    call(monkeypatch, quality, *words)
    assert "auc_net" not in capsys.readouterr().out
    assert json.loads(output.read_text()) == result


def test_distances_of_fewer_bits_are_those_of_quality(jets: PointClouds) -> None:
    from fewer_bits import _distances
    from quality import w1m, w1p

    first, second = jets[:300], jets[300:500]
    a, b = measure(first), measure(second)
    assert _distances(first, second) == pytest.approx([w1m(a, b), w1p(a, b)], rel=1e-5)


@pytest.mark.slow
def test_a_file_is_compared_with_torch(
    untrained: Path, jets: PointClouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net gives zero, in any number of bits, so all make the same jets, and rounding is all that is left."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import export

    pcdiff.write(jets, tmp_path / "truth.hdf5")
    call(
        monkeypatch, export, untrained, "--quick", "--truth", tmp_path / "truth.hdf5", "--output", tmp_path / "out.json"
    )
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"].values()
    assert row["evaluations"] == SamplingConfig().steps
    for difference in row["differences"].values():
        assert difference["rms"] <= difference["largest"] < 1e-5
    float32, *others = row["bits"].values()
    assert (float32["ratio"]["median"], float32["w1m_change"], float32["w1m_change_error"]) == (1, 0, 0)
    for found in others:
        assert found["w1m"] == pytest.approx(float32["w1m"], rel=1e-3)
        assert found["w1p"] == pytest.approx(float32["w1p"], rel=1e-3)


def test_evaluations_are_counted(untrained: Path) -> None:
    from generators import evaluations

    generator = Generator.load(untrained)
    assert evaluations(generator) == 20
    assert evaluations(generator, sampler="unipc", steps=7) == 7
    assert evaluations(generator, sampler="heun", steps=4) == 8
    assert evaluations(generator, steps=3, denoise=True) == 4


def test_errors_of_samplers_fall_as_their_order_says(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trajectories of normal data stay where they start: a problem on which some methods do better than their order."""
    import evaluations

    monkeypatch.setattr(evaluations, "QUICK", evaluations.Extent(jets=50, evaluations=(10, 20, 40), fine=90, draws=3))
    output = tmp_path / "evaluations.json"
    call(
        monkeypatch,
        evaluations,
        *(
            untrained,
            "--students",
            untrained,
            "--truth",
            "datasets/jets/gluon30_test.hdf5",
            "--quick",
            "--output",
            output,
            "--figures",
            tmp_path,
        ),
    )
    found = json.loads(output.read_text())["generators"]["untrained"]
    (student,) = found["students"]
    same = next(row for row in found["rows"] if (row["method"], row["grid"], row["asked"]) == ("ddim 2", "log-snr", 20))
    assert student["evaluations"] == 20
    assert student["relative_error"] == pytest.approx(same["relative_error"], rel=1e-5)
    rows = {(row["method"], row["grid"], row["asked"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 7 * 3 * 3
    assert all(row["evaluations"] == row["asked"] for row in found["rows"])
    for method, order in (("ddim 1", 1), ("ddim 2", 2), ("ddim 3", 3), ("unipc 2", 3)):
        errors = [rows[method, "log-snr", count]["relative_error"] for count in (20, 40)]
        assert math.log2(errors[0] / errors[1]) > order - 0.3, method
    assert set(rows["ddim 2", "fitted", 10]["distances"]) == set(evaluations.OBSERVABLES)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"evaluations_untrained{suffix}").stat().st_size > 10_000


def test_relative_errors_are_those_of_each_jet(untrained: Path) -> None:
    from evaluations import Trajectories

    trajectories = Trajectories(Generator.load(untrained), 20, seed=1)
    exact = trajectories.ends(steps=3)
    factors = np.linspace(0.5, 1.5, 20)
    moved = exact * np.repeat(factors, trajectories.found.counts)[:, None].astype(np.float32)
    np.testing.assert_allclose(trajectories.relative_errors(moved, exact), np.abs(factors - 1), rtol=1e-5, atol=1e-7)


def test_a_floor_needs_two_parts_of_the_truth(jets: PointClouds) -> None:
    from evaluations import floors

    with pytest.raises(DataError, match="at least 60"):
        floors(jets[:59], 30, 2)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The throughput benchmark with solvers of a few steps, for their number decides nothing that is tested."""
    import throughput

    solvers = throughput.midpoint, throughput.uniform_grid
    monkeypatch.setattr(throughput, "midpoint", lambda velocity, x, steps: solvers[0](velocity, x, 2))
    monkeypatch.setattr(throughput, "uniform_grid", lambda schedule, steps: solvers[1](schedule, 2))
    return throughput


def test_throughput_is_compared_within_rounds(
    short: ModuleType, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pythia8mc")
    threads, output = torch.get_num_threads(), tmp_path / "throughput.json"
    call(monkeypatch, short, untrained, "--quick", "--output", output)
    assert torch.get_num_threads() == threads
    result = json.loads(output.read_text())
    rows = {(row["name"], row["threads"]): row for row in result["rows"]}
    assert {name for name, _ in rows} == {"untrained", short.PYTHIA, short.EPIC, short.ATTENTION}
    assert [rows[name, 1]["evaluations"] for name in ("untrained", short.EPIC, short.ATTENTION)] == [20, 200, 100]
    for row in result["rows"]:
        for name, ratio in row["ratios"].items():
            # Pythia has one thread whatever the others have.
            other = rows.get((name, row["threads"])) or rows[name, 1]
            pairs = zip(*(one["jets_per_second_and_core"]["rounds"] for one in (row, other)), strict=True)
            assert ratio["rounds"] == pytest.approx([ours / theirs for ours, theirs in pairs])
    for used in result["memory"].values():
        assert used["ratio"] == pytest.approx(used["megabytes"][1] / used["megabytes"][0])
        # Importing torch alone takes more.
        assert min(used["megabytes"]) > 100


def test_padded_references_make_as_many_constituents_as_they_are_filling(short: ModuleType, jets: PointClouds) -> None:
    for name, maker in short.references(9).items():
        (made,) = maker.pieces(seed=1)
        np.testing.assert_array_equal(made.counts, jets[:9].counts, err_msg=name)
        np.testing.assert_array_equal(made.feature("pt"), jets[:9].feature("pt"))
        (again,), (other,) = maker.pieces(seed=1), maker.pieces(seed=2)
        assert made.equals(again)
        assert not made.equals(other)


def _filled(megabytes: int) -> np.ndarray:
    """Memory that is really there, since something is written to it."""
    return np.full(megabytes * 1_000_000, 1, np.uint8)


def _filling(megabytes: int) -> Callable[[], object]:
    _filled(3 * megabytes)
    return lambda: _filled(megabytes)


def test_peak_memory_is_that_of_the_work_alone(path: None) -> None:
    """Filling so many megabytes, after three times as much was given back: to 2 MB, twice."""
    from measuring import peak_memory

    assert [peak_memory(_filling, megabytes) for megabytes in (50, 200, 50)] == pytest.approx([50, 200, 50], abs=2)


def test_exponents_of_powers_are_recovered() -> None:
    """Exactly, with no error; and of noise of 10% within 4 of the errors that are given, which are of the right size."""
    from scaling_results import exponents

    def rows(power: float, noise: float, seed: int) -> list[dict]:
        rng = np.random.default_rng(seed)
        found = []
        for points in (10, 50, 100, 500, 1000, 5000):
            # A cost of each cloud and a batch of 5000 points; below 100 points something else reigns.
            cost = 1e-3 * points**power * math.exp(noise * rng.normal()) + 100 * (points < 100)
            clouds = 5000 // points
            entry = {"clouds": clouds, "milliseconds_per_cloud": {"low": cost}, "megabytes": 2 * cost * clouds}
            found.append({"net": "one", "points": points, "training": entry, "sampling": entry})
        return [*found, {"net": "one", "points": 50_000, "left_out": "too long"}]

    for power in (1.0, 2.0):
        for entry in exponents(rows(power, 0.0, 0)):
            assert entry["points"] == [100, 500, 1000, 5000]
            for fit in (entry["time"], entry["memory"]):
                assert fit["exponent"] == pytest.approx(power)
                assert fit["at_the_end"] == pytest.approx(power)
                assert fit["error"] == pytest.approx(0, abs=1e-6)
    fits = [exponents(rows(1.5, 0.1, seed))[0]["time"] for seed in range(200)]
    slopes = np.array([fit["exponent"] for fit in fits])
    # Mean square of the errors that are given and variance of those that were made, of 200 draws with 2 degrees of freedom each.
    given = np.mean([fit["error"] ** 2 for fit in fits])
    assert given == pytest.approx(np.var(slopes), rel=4 * math.sqrt(1 / 200 + 2 / 200))
    assert abs(slopes.mean() - 1.5) < 4 * slopes.std() / math.sqrt(200)


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path]:
    """What a run on tiny samples stored, printed and drew."""
    folder = tmp_path_factory.mktemp("scaling")
    cores = ["cores"] if len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)) > 1 else []
    words = [
        "--quick",
        "--parts",
        "points",
        "batches",
        *cores,
        "--output",
        folder / "scaling.json",
        "--figures",
        folder,
    ]
    # A process of its own, because the number of threads belongs to the process.
    done = subprocess.run([sys.executable, FOLDER / "scaling.py", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "scaling.json").read_text()), done.stdout, folder


@pytest.mark.slow
def test_scaling_is_measured_for_all_nets_at_all_sizes(scaling: tuple[dict, str, Path]) -> None:
    result, printed, folder = scaling
    nets = {"epic", "epic, 2 heads", "transformer", "graph", "padded attention"}
    rows = {(row["net"], row["points"]): row for row in result["points"]["rows"]}
    assert set(rows) == {(net, points) for net in nets for points in (20, 100, 400)}
    for (_, points), row in rows.items():
        for kind in ("training", "sampling"):
            assert row[kind]["clouds"] * points == 400
    memory = {(entry["net"], entry["kind"]): entry["memory"]["exponent"] for entry in result["points"]["exponents"]}
    # Of so few points the activations are few megabytes: still, heads that see all pairs need clearly more than layers that pool.
    assert memory["epic, 2 heads", "training"] > memory["epic", "training"] + 0.5
    for row in result["batches"]["rows"]:
        ours, theirs = (row["clouds_per_second"][kind]["rounds"] for kind in ("similar", "reference"))
        assert row["ratio"]["rounds"] == pytest.approx([a / b for a, b in zip(ours, theirs, strict=True)])
    for row in result.get("cores", {"rows": []})["rows"]:
        for kind in ("training", "sampling"):
            alone, together = (min(row[kind][threads]["rounds"]) for threads in ("one", "all"))
            assert row[kind]["ratio"] == pytest.approx(alone / together)
    for text in ("Exponents of the number of points", "limit 1.1", "limit 3", *nets):
        assert text in printed
    for suffix in (".png", ".pdf"):
        assert (folder / f"scaling{suffix}").stat().st_size > 10_000


def test_a_size_that_would_take_too_long_or_too_much_is_left_out() -> None:
    """A batch of a fixed number of points costs in proportion to the points of a cloud, if pairs count."""
    from scaling import FULL, _beyond

    before = {"points": 500, "seconds": FULL.most_seconds / 10, "training": {"megabytes": FULL.most_megabytes / 4}}
    assert _beyond(None, 5000, FULL) is None
    assert _beyond(before, 1999, FULL) is None
    assert "MB" in (_beyond(before, 2500, FULL) or "")
    assert " s" in (_beyond(before, 5500, FULL) or "")


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    from tables import markdown_table, update_readme

    readme = tmp_path / "README.md"
    marks = "<!-- results: written by {0}.py -->\n\nold\n\n<!-- end of results of {0}.py -->\n"
    readme.write_text(f"before\n{marks.format('one')}between\n{marks.format('two')}after\n")
    update_readme("one.py", markdown_table([["a", "b"], ["1", "2"]]), readme)
    new = marks.format("one").replace("old", "| a | b |\n| --- | --- |\n| 1 | 2 |")
    assert readme.read_text() == f"before\n{new}between\n{marks.format('two')}after\n"
    with pytest.raises(PcdiffError, match=r"three\.py"):
        update_readme("three.py", "", readme)


def test_the_readme_has_a_place_for_each_script() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in (
        "quality",
        "classes",
        "choices",
        "evaluations",
        "throughput",
        "export",
        "speed",
        "scaling",
        "observables",
    ):
        assert text.count(f"<!-- results: written by {name}.py -->") == 1
        assert text.count(f"<!-- end of results of {name}.py -->") == 1
    # And the cards of those that are held to limits have one for their quality.
    from quality_results import LIMITS

    for name in LIMITS:
        card = (pretrained()[name] / "README.md").read_text(encoding="utf-8")
        assert card.count("<!-- results: written by quality.py -->") == 1
        assert card.count("<!-- end of results of quality.py -->") == 1


@pytest.fixture
def classes(path: None) -> ModuleType:
    import classes

    return classes


def test_distances_of_a_class_are_those_of_what_was_changed(classes: ModuleType, jets: PointClouds) -> None:
    """etarel moved by 0.03: a third of it is the mean W1; no distance from itself; halves of one set are near each other."""
    own = classes.compared(jets[:400])
    assert classes.distances(own, own) == {"w1m": 0, "w1p": 0, "w1n": 0}
    moved = replace(own, values=own.values | {"etarel": own.values["etarel"] + np.float32(0.03)})
    assert classes.distances(own, moved)["w1p"] == pytest.approx(0.01, rel=1e-5)
    assert classes.distances(own, replace(own, counts=own.counts - 2))["w1n"] == pytest.approx(2)
    floors = classes.floors(jets[:400], jets[400:800], draws=3)
    assert all(value > 0 for values in floors.values() for value in values)
    # Three standard errors of the mean number of constituents of both halves.
    assert max(floors["w1n"]) < 3 * np.std(jets.counts) / 400**0.5 * 2**0.5


def test_what_is_asked_of_a_class_is_met(classes: ModuleType, untrained: Path) -> None:
    generator = Generator.load(untrained)
    found = classes.asked(generator, "g")
    assert found["pt"] == found["number"] == 1


def test_spectra_by_rank(path: None) -> None:
    """Jets with ptrel 1/2, 1/4, ...: each rank has one value, without error; ranks of fewer than 20 jets are left out."""
    from classes_plots import spectrum

    counts = np.array([3] * 30 + [5] * 10)
    ranks = np.concatenate([np.arange(n) for n in counts])
    ptrel = (0.5 ** (ranks + 1)).astype(np.float32)
    # The order within a jet must not matter.
    order = np.concatenate(
        [
            start + np.random.default_rng(0).permutation(n)
            for start, n in zip(np.cumsum(counts) - counts, counts, strict=True)
        ]
    )
    zeros = np.zeros(len(ptrel), np.float32)
    clouds = PointClouds.from_flat(
        {"etarel": zeros, "phirel": zeros, "ptrel": ptrel[order]},
        np.concatenate([[0], np.cumsum(counts)]),
        {},
        jet_schema(("etarel", "phirel", "ptrel"), ()),
    )
    mean, error = spectrum(clouds, 5)
    np.testing.assert_allclose(mean, [0.5, 0.25, 0.125, np.nan, np.nan])
    np.testing.assert_allclose(error, [0, 0, 0, np.nan, np.nan], atol=1e-7)


@pytest.fixture
def categories(path: None) -> ModuleType:
    import categories

    return categories


def test_the_code_words_that_are_compared(categories: ModuleType) -> None:
    """Binary digits from the lowest, of mean 0 and mean square 1."""
    values = np.array([-1, -1, 0, 1, 1, 1, 1, 2, 5])
    encoding = Categories.fit("kind", values)
    own = encoding.codes
    for contender in categories.CONTENDERS.values():
        if contender.codes is None:
            continue
        with categories.as_in(contender):
            words = encoding.forward(values).astype(np.float64)
            np.testing.assert_allclose(words.mean(axis=0), 0, atol=1e-6)
            np.testing.assert_allclose(np.mean(words**2), 1, rtol=1e-6)
            alone = Combinations.fit((encoding,), {"kind": values})
            assert alone is not None
            np.testing.assert_array_equal(alone.inverse((encoding,), words.astype(np.float32))["kind"], values)
    np.testing.assert_array_equal(encoding.codes, own)
    steps = np.diff(categories.analog_bits(encoding), axis=0)
    digits = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(steps / np.abs(steps).max(), np.diff(digits, axis=0), atol=1e-6)


def test_labels_are_compared_by_total_variation_and_contradictions(categories: ModuleType, jets: PointClouds) -> None:
    """Every other photon called a neutral hadron: half the sum of the two changes; a charge of each neutral hadron: all contradict."""

    def labelled(kind: np.ndarray, charge: np.ndarray) -> PointClouds:
        points = {name: some.column(name) for name in some.schema.point_names} | {
            "charge": charge,
            "particle_class": kind,
        }
        features = {name: some.feature(name) for name in some.schema.cloud_names}
        schema = pcdiff.schema.jet_schema(list(points), list(features), axis="all")
        return PointClouds.from_flat(points, some.offsets, features, schema)

    some = jets[:200]
    kind = np.random.default_rng(0).integers(0, 5, some.num_points).astype(np.int32)
    charge = np.where(np.isin(kind, [1, 2]), 0, 1).astype(np.int32)
    truth = labelled(kind, charge)
    same = categories.compared(truth, truth)
    assert all(value == 0 for value, _ in same.values())
    taken = (kind == 2) & (np.arange(len(kind)) % 2 == 0)
    wrong = categories.compared(truth, labelled(np.where(taken, 1, kind).astype(np.int32), np.ones_like(charge)))
    np.testing.assert_allclose(wrong["total variation, class"][0], np.mean(taken))
    np.testing.assert_allclose(wrong["share of contradicting charges"][0], np.mean(np.isin(kind, [1, 2])))
    before, after = (np.bincount(some.owners, which) for which in (kind == 1, (kind == 1) | taken))
    expected = wasserstein(before, after)
    np.testing.assert_allclose(wrong["W1 number of neutral hadrons"][0], expected)
    assert wrong["W1 relative_mass"][0] == 0


@pytest.fixture
def memory(path: None) -> ModuleType:
    import memory

    return memory


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_counts_what_is_allocated_and_no_pages_of_files(memory: ModuleType, tmp_path: Path) -> None:
    """In a process of its own: this one may hold memory that others have freed in it."""
    file = tmp_path / "large"
    file.write_bytes(bytes(64_000_000))
    code = (
        "import os, sys, memory, numpy as np\n"
        "before = memory.anonymous(os.getpid())\n"
        "pages = np.memmap(sys.argv[1], np.uint8, 'r')\n"
        "print(pages.max(), memory.anonymous(os.getpid()) - before)\n"
        "held = np.ones(64_000_000, np.uint8)\n"
        "print(held.max(), memory.anonymous(os.getpid()) - before)\n"
    )
    script = Path(str(memory.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code, file], cwd=script.parent, capture_output=True, text=True, check=True
    )
    (zero, mapped), (one, allocated) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert (zero, one) == (0, 1)
    assert mapped < 16
    assert allocated == pytest.approx(64, abs=16)


def test_tiled_jets_are_those_of_the_sample_over_and_over(
    memory: ModuleType, jets: PointClouds, tmp_path: Path
) -> None:
    path = memory.tiled(find("datasets/jets/gluon30_test.hdf5"), len(jets) + 10, tmp_path / "tiled.parquet")
    tiled = pcdiff.read(path)
    assert tiled[: len(jets)].equals(jets)
    assert tiled[len(jets) :].equals(jets[:10])


def test_memory_that_grows_by_more_than_the_limit_fails(
    memory: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each task is measured up to what is promised of it."""
    growth = {"train": 1.0, "sample": 1.0, "evaluate": 1.0}
    sizes = dict.fromkeys(growth, 0)

    def watched(words: list[str], folder: Path) -> dict[str, float]:
        sizes[words[0]] += 1
        return {"megabytes": 100 * (1 if sizes[words[0]] == 1 else growth[words[0]]), "seconds": 1.0}

    monkeypatch.setattr(memory, "watched", watched)
    monkeypatch.setattr(memory, "tiled", lambda source, n, path: path)
    output = tmp_path / "memory.json"
    monkeypatch.setattr(sys, "argv", ["memory.py", "--folder", str(tmp_path), "--output", str(output)])
    assert memory.main() == 0
    rows = json.loads(output.read_text())["rows"]
    assert [max(row["jets"] for row in rows if row["task"] == task) for task in growth] == [3 * 10**6, 3 * 10**6, 10**6]
    sizes, growth = dict.fromkeys(growth, 0), growth | {"sample": 1.19, "evaluate": 1.21}
    capsys.readouterr()
    assert memory.main() == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "limit" in line)
    assert line.startswith("pcdiff evaluate: the peak grows by a factor of 1.21 from 100,000 to 1,000,000 jets")


@pytest.mark.slow
def test_memory_is_measured_for_each_command(
    memory: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "memory.json"
    call(monkeypatch, memory, "--quick", "--folder", tmp_path, "--output", output)
    rows = json.loads(output.read_text())["rows"]
    assert [(row["task"], row["jets"]) for row in rows] == list(
        itertools.product(("train", "sample", "evaluate"), (1000, 3000))
    )
    # A process that has imported torch.
    assert all(row["megabytes"] > 50 for row in rows)
    assert len(memory.table(rows)) == 7


@pytest.fixture
def large_cases(path: None) -> ModuleType:
    import large_cases

    return large_cases


def test_shards_on_workers(large_cases: ModuleType) -> None:
    """Ten shards of 2 s on four workers are three rounds; half a shard of each killed worker is done again."""
    from large_cases_model import Sampling

    one = Sampling(jets=1000, rate=50, shard=100, workers=4)
    assert (one.shards, one.seconds_a_shard, one.rounds, one.wall, one.core_seconds) == (10, 2, 3, 6, 20)
    assert Sampling(30, 50, 100, 4).wall == pytest.approx(0.6)
    # Two nodes of two cores, of which each is lost once a minute: 0.2 nodes, 0.4 workers, 0.4 s.
    assert one.lost(nodes=2, cores=2, mtbf=60) == pytest.approx((0.4, 0.4))
    # Half of all attempts fail: one shard in sixteen is given up after four.
    assert one.given_up(mtbf=2 / math.log(2), deaths=4) == pytest.approx(10 / 16)


def test_steps_of_many_processes(large_cases: ModuleType) -> None:
    """What each does for the whole batch stays, the net is shared out, and the sum grows with the processes."""
    from large_cases_model import LATENCY, NETWORK, Step, ring, tree

    # Two processes send half of it to each other, twice; up and down the tree, all of it twice.
    assert ring(8.0, 2, bandwidth=4.0, latency=1.0) == pytest.approx(2 + 2)
    assert tree(8.0, 2, bandwidth=4.0, latency=1.0) == pytest.approx(4 + 2)
    assert tree(8.0, 16, bandwidth=4.0, latency=1.0) == pytest.approx(4 + 8)
    assert ring(8.0, 1, 4.0, 1.0) == tree(8.0, 1, 4.0, 1.0) == 0
    assert Step(host=0.1, net=1.0, gradients=1e6, processes=1).seconds == pytest.approx(1.1)
    many = Step(0.1, 1.0, 1e6, processes=10)
    assert many.seconds == pytest.approx(
        0.1 + 0.1 + min(ring(1e6, 10, NETWORK, LATENCY), tree(1e6, 10, NETWORK, LATENCY))
    )
    grown = Step(0.1, 1.0, 1e6, processes=10, growth=10)
    assert (grown.whole_batch, grown.share) == pytest.approx((1.0, 1.0))


def test_the_page_of_large_cases_has_a_place_for_each_table_and_the_results_fill_it(large_cases: ModuleType) -> None:
    from large_cases_model import Facts

    page = large_cases.PAGE.read_text(encoding="utf-8")
    facts = Facts.read(large_cases.RESULTS.parent, json.loads(large_cases.RESULTS.read_text()))
    for name, table in large_cases.PARTS.items():
        assert page.count(f"<!-- results: written by large_cases.py, {name} -->") == 1
        assert page.count(f"<!-- end of results of large_cases.py, {name} -->") == 1
        head, *lines = table(facts)
        assert lines
        assert all(len(line) == len(head) for line in lines), name
    # Bytes a jet times 10^9 jets, written once more.
    stored = facts.own["formats"]["jets150"]["bytes"]["parquet"]
    assert facts.data("jets150") == pytest.approx(1e9 * stored)
    # 100 nodes of 64 cores at full rate would take as long as the shards, but for the last round.
    one = facts.sampling("jets150", "float32")
    assert one.core_seconds / one.workers <= one.wall < one.core_seconds / one.workers + one.seconds_a_shard


def test_times_and_sizes_in_words(path: None) -> None:
    from tables import duration, size

    found = [duration(seconds) for seconds in (0, 2e-6, 1.5e-3, 1, 90, 150, 5400, 7200, 40 * 3600, 4e5)]
    assert found == ["0", "2 µs", "1.5 ms", "1 s", "90 s", "2.5 min", "90 min", "2 h", "40 h", "4.63 days"]
    assert [size(count) for count in (12, 1500, 2.5e9, 4e13)] == ["12 B", "1.5 kB", "2.5 GB", "40 TB"]


def test_steps_of_several_processes_are_kept_beside_each_other(path: None, tmp_path: Path) -> None:
    from processes import keep

    file = tmp_path / "processes.json"
    for processes, milliseconds in ((2, 9.0), (1, 12.0), (2, 8.0)):
        keep(file, "one.yaml", {"processes": processes, "milliseconds": milliseconds})
    rows = json.loads(file.read_text())["rows"]
    assert [(row["processes"], row["milliseconds"]) for row in rows] == [(1, 12.0), (2, 8.0)]
    keep(file, "other.yaml", {"processes": 1, "milliseconds": 5.0})
    assert [row["milliseconds"] for row in json.loads(file.read_text())["rows"]] == [5.0]
