"""The benchmarks of halos: their estimates against closed forms and laws that are known, and each script once on tiny samples."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

import pcdiff
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.config import DenoiserConfig, MultiplicityConfig, PeriodicGraphConfig, SamplingConfig, ScheduleConfig
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation.binning import Binned
from pcdiff.generator import Generator
from pcdiff.loader import batch_of
from pcdiff.multiplicity import build_multiplicity
from pcdiff.physics import measure
from pcdiff.schema import halo_schema
from pcdiff.transforms import Transform

from .thomas import Thomas

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

POINTS = ("x", "y", "z", "vx", "vy", "vz", "log10_mass")
FEATURES = ("box_size", "redshift", "omega_m", "sigma_8")
SIZE = 125.0
FUNCTIONS = {
    **dict.fromkeys(("x", "y", "z"), "periodic"),
    **dict.fromkeys(("vx", "vy", "vz"), "standard"),
    "log10_mass": "normal-score",
}
PROCESS = Thomas(clusters=12, members=6)


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(FOLDER)


def call(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *words: str | Path) -> None:
    """The script with these words on its command line."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
    module.main()


def poisson(boxes: int, seed: int, mean: float = 60.0) -> PointClouds:
    """Halos that are spread evenly in universes that are, too: their mean number is in proportion to omega_m, and masses grow with sigma_8."""
    rng = np.random.default_rng(seed)
    omega_m, sigma_8 = rng.uniform(0.1, 0.5, boxes), rng.uniform(0.6, 1.0, boxes)
    counts = np.maximum(rng.poisson(mean * omega_m / 0.3), 4)
    total = counts.sum()
    columns = {name: np.minimum(SIZE * rng.random(total), 124.99).astype(np.float32) for name in "xyz"}
    columns |= {name: (200 * rng.standard_normal(total)).astype(np.float32) for name in ("vx", "vy", "vz")}
    heights = np.repeat(0.3 * sigma_8 / 0.8, counts)
    columns["log10_mass"] = (13.33 + heights * rng.exponential(1, total)).astype(np.float32)
    rows = dict(zip(FEATURES, (np.full(boxes, SIZE), np.zeros(boxes), omega_m, sigma_8), strict=True))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PointClouds.from_flat(
        columns, offsets, {k: v.astype(np.float32) for k, v in rows.items()}, halo_schema(POINTS, FEATURES)
    )


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Untrained: its net puts out zero, so positions are even, velocities and mass scores normal."""
    train = poisson(300, 0)
    transform = Transform.fit(train, FUNCTIONS, {"omega_m": "standard", "sigma_8": "standard"})
    config = MultiplicityConfig(kind="regression")
    net = PeriodicGraphConfig(hidden=8, vectors=4, layers=1, neighbours=4, waves=2)
    settings = Settings(net, ScheduleConfig(log_snr_max=8), config, SamplingConfig(steps=4), DenoiserConfig())
    multiplicity = build_multiplicity(config, 2, 1)
    rows = np.stack([train.feature("omega_m"), train.feature("sigma_8")], axis=1)
    multiplicity.fit(train.counts, rows, np.zeros(len(train), np.int64), seed=0)
    return Generator(build_denoiser(settings, transform), multiplicity, transform, settings)


@pytest.fixture(scope="module")
def folder(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the scripts read."""
    made = tmp_path_factory.mktemp("halos")
    generator.save(made / "generator")
    for seed, (name, boxes) in enumerate({"lhc_train": 300, "lhc_validation": 6, "lhc_test": 12}.items()):
        pcdiff.write(poisson(boxes, seed + 1), made / f"halos_{name}.hdf5")
    pcdiff.write(PROCESS.draw(24, seed=5), made / "halos_fiducial.hdf5")
    return made


def test_estimates_are_those_of_evaluate() -> None:
    from halo_statistics import Estimate

    clouds = PROCESS.draw(10, seed=1)
    bins = slice(4, 12)
    found = Estimate.of_profile("two_point_correlation", clouds, bins)
    binned = Binned.of_profile("two_point_correlation", measure(clouds)).part(bins)
    np.testing.assert_allclose(found.value, binned.mean)
    # Of n boxes the variance has n - 1 degrees of freedom.
    np.testing.assert_allclose(found.error**2, binned.variance * 10 / 9)


def test_chi_squared_is_one_a_bin_for_two_sets_of_one_law() -> None:
    """Correlated normal numbers; the mean of 400 pairs within 4 standard errors, with few boxes for many bins."""
    from halo_statistics import Estimate, chi_squared

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 5))
    values = []
    for _ in range(400):
        one, other = (Estimate.of(rng.normal(size=(9, 5)) @ mixing) for _ in range(2))
        values.append(chi_squared(one, other)["full"])
    assert abs(np.mean(values) - 1) < 4 * np.std(values) / 20
    with pytest.raises(DataError, match="more boxes"):
        chi_squared(Estimate.of(rng.normal(size=(3, 5))), Estimate.of(rng.normal(size=(3, 5))))


def test_quality_knows_boxes_of_one_law_from_others() -> None:
    import halos_quality

    truth, other, sample = (PROCESS.draw(40, seed=seed) for seed in (1, 2, 3))
    same = halos_quality.measured(truth, other, sample)
    assert same["chi_squared"]["sample"]["full"] < 3
    assert same["ratios"]["number_of_halos"]["sample"] == [[1, 0]]
    for name in ("velocity_dispersion", "mass_function"):
        for ratio, error in same["ratios"][name]["sample"]:
            assert abs(ratio - 1) < 4 * error
    wide = Thomas(clusters=12, members=6, spread=6.0).draw(40, seed=3)
    different = halos_quality.measured(truth, other, wide)
    assert different["chi_squared"]["sample"]["full"] > 10
    assert different["chi_squared"]["floor"] == same["chi_squared"]["floor"]
    # Pairs are 8 times as rare where clusters are twice as wide.
    assert different["ratios"]["two_point_correlation"]["sample"][0][0] < 0.3


@pytest.mark.parametrize("response", [1.0, 0.5])
def test_slopes_are_those_of_the_means_whatever_the_scatter(response: float) -> None:
    """Of numbers that scatter as much as they respond, a straight line of least squares would have half of the slope."""
    from halos_response import _slopes

    rng = np.random.default_rng(1)
    theta = rng.uniform(size=(4000, 2))
    mean = 3 * theta[:, 0] - theta[:, 1] + theta[:, 0] * theta[:, 1]
    ones = np.ones(len(theta))
    true, made = (factor * mean + mean.std() * rng.normal(size=len(theta)) for factor in (1, response))
    draws = np.vstack([ones, rng.multinomial(len(theta), ones / len(theta), 60)])
    found = _slopes(theta, (true, ones), (made, ones), draws)
    assert abs(found[0] - response) < 4 * found[1:].std()
    assert found[1:].std() < 0.1


def test_cells_are_thirds_of_both_parameters() -> None:
    from halos_response import _cells

    theta = np.random.default_rng(0).random((90, 2))
    cells = _cells(theta)
    for k, number in ((0, cells // 3), (1, cells % 3)):
        np.testing.assert_array_equal(np.bincount(number), [30, 30, 30])
        assert theta[number == 0, k].max() < theta[number == 1, k].min() < theta[number == 2, k].min()


def test_the_posterior_of_the_mass_function_holds_the_truth_as_often_as_it_says(generator: Generator) -> None:
    from halos_posterior import others, summary

    methods = others(generator, poisson(1200, 1), poisson(120, 2))
    for rows in methods.values():
        found = summary(rows)
        for name in ("omega_m", "sigma_8", "both"):
            assert found[name]["uniform"] > 1e-3
            assert abs(found[name]["coverage"][0] - 0.68) < 4 * np.sqrt(0.68 * 0.32 / 120)
    # sigma_8 is in the masses alone.
    assert summary(methods["mass_function"])["sigma_8"]["width"][0] < 0.9 * 0.4 / np.sqrt(12)
    assert summary(methods["number"])["sigma_8"]["width"][0] == pytest.approx(0.4 / np.sqrt(12), rel=0.05)


def test_pairs_along_and_across_an_axis_are_alike_but_where_one_of_them_is_torn() -> None:
    from halos_seam import directed

    rng = np.random.default_rng(0)
    sides = np.array([250.0, 125.0, 125.0])
    place = rng.random((3000, 3)) * sides
    # Close pairs in all directions, as of clusters.
    ways = rng.standard_normal((3000, 3))
    near = place + rng.uniform(3.2, 6, (3000, 1)) * ways / np.linalg.norm(ways, axis=1, keepdims=True)
    along, across, expected = directed(np.mod(np.concatenate([place, near]), sides), sides)
    np.testing.assert_array_less(np.abs(along - across), 4.5 * np.sqrt(along + across))
    assert along[0] > 1.1 * expected[0]
    along, across, expected = directed(place, sides)
    np.testing.assert_array_less(np.abs(along - expected), 4.5 * np.sqrt(expected))
    np.testing.assert_array_less(np.abs(across - expected), 4.5 * np.sqrt(expected))
    # Those along x lost.
    lost = np.abs(near - place)[:, 0] > np.linalg.norm(near - place, axis=1) / 2
    torn = np.where(lost[:, None], rng.random((3000, 3)) * sides, np.mod(near, sides))
    along, across, _ = directed(np.concatenate([place, torn]), sides)
    assert along[0] < across[0] - 4.5 * np.sqrt(along[0] + across[0])


def test_halves_of_boxes_without_correlation_have_none_across() -> None:
    from halos_seam import cross

    clouds = poisson(40, 3, mean=400)
    for first, halves in (
        (clouds.column("x") < SIZE / 2, True),
        (np.arange(clouds.num_points) % 3 == 0, False),
    ):
        found = cross(clouds, first, halves)
        np.testing.assert_array_less(np.abs(found.value), 4.5 * found.error)
    # Halves of one cluster each are told from each other.
    near = PROCESS.draw(10, seed=1)
    found = cross(near, np.arange(near.num_points) % 2 == 0, halves=False)
    r = np.sqrt(3.2 * 3.2 * (20 / 3.2) ** 0.2)
    assert found.value[0] == pytest.approx(PROCESS.correlation(r), rel=0.3)


def test_linear_correlation_of_a_box_is_the_sum_over_its_images() -> None:
    """Of P(k) = A exp(-k^2 s^2): a Gaussian less the mean A / V, as the box holds no wave of length zero."""
    from halo_boxes import box_correlation

    s, a, size = 4.0, 1000.0, 100.0
    edges = np.array([1.0, 1.001, 5.0, 5.001, 12.0, 12.001])
    found = box_correlation(lambda k: a * np.exp(-((k * s) ** 2)), size, 24, edges)[::2]
    r = np.array([1.0005, 5.0005, 12.0005])
    expected = a * (4 * np.pi * s**2) ** -1.5 * np.exp(-(r**2) / (4 * s**2)) - a / size**3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.fixture
def halos(path: None) -> ModuleType:
    import halos

    return halos


def test_each_part_is_measured_stored_and_written(
    halos: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "halos.json"
    common = ["--generator", folder / "generator", "--data", folder, "--output", output, "--images", tmp_path]
    call(monkeypatch, halos, "quality", "--boxes", "12", *common)
    call(monkeypatch, halos, "solvers", "--boxes", "12", *common)
    call(monkeypatch, halos, "response", "--boxes", "12", "--repeats", "2", *common)
    small = ["--volumes", "8", "--boxes", "8", "--grow-steps", "2", "--steps", "2", "--repeats", "1"]
    call(monkeypatch, halos, "seam", *small, *common)
    call(monkeypatch, halos, "waves", "--boxes", "6", *common)
    kept = tmp_path / "kept.jsonl"
    asked = ["posterior", "--count", "2", "--levels", "2", "--kept", kept, *common]
    call(monkeypatch, halos, *asked)
    before = kept.read_text()
    assert [json.loads(row)["box"] for row in before.splitlines()] == [0, 1]
    # A second run takes what is there, and an interrupted line is made again.
    import halos_posterior

    kept.write_text(before + '{"box": 2, "of"')
    monkeypatch.setattr(halos_posterior, "_one", None)
    call(monkeypatch, halos, *asked)
    assert kept.read_text() == before
    with pytest.raises(SystemExit, match="remove it to begin anew"):
        call(monkeypatch, halos, "posterior", "--count", "2", "--levels", "3", "--kept", kept, *common)
    with pytest.raises(SystemExit, match="has 12 boxes, expected at least 400"):
        call(monkeypatch, halos, "response", "--boxes", "400", *common)
    stored = json.loads(output.read_text())
    assert set(stored) == {"quality", "solvers", "response", "posterior", "seam", "waves"}
    text = halos.markdown(stored)
    for part, title in halos.TITLES.items():
        assert f"#### {title}" in text
        assert (tmp_path / f"halos_{part}.png").stat().st_size > 10_000
    # A net that knows nothing spreads halos evenly: clusters are not there.
    assert stored["quality"]["chi_squared"]["sample"]["full"] > 3
    assert "against the limits" in capsys.readouterr().out


def test_boxes_are_measured_and_put_into_their_card(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("colossus", "numba"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("the extra halos is not installed")
    import halo_boxes

    asked = []

    def make(file: Path, *, count: int, steps: int, refinement: int, **_: object) -> None:
        asked.append((steps, refinement))
        # As if finer simulations had more clusters.
        pcdiff.write(Thomas(clusters=10 + refinement, members=6).draw(count, seed=1), file)

    monkeypatch.setattr(halo_boxes, "make_halos", make)
    card = tmp_path / "README.md"
    words = ["mass", "correlation", "convergence", "--count", "12", "--boxes", "4", "--data", folder]
    words += ["--output", tmp_path / "boxes.json", "--card", card, "--update-card"]
    with pytest.raises(SystemExit, match="expected the marks"):
        call(monkeypatch, halo_boxes, *words)
    card.write_text("<!-- results: written by halo_boxes.py --><!-- end of results of halo_boxes.py -->")
    call(monkeypatch, halo_boxes, *words)
    assert asked == list(halo_boxes.SETTINGS)
    stored = json.loads((tmp_path / "boxes.json").read_text())
    rows = {(row["steps"], row["cells"]): row["ratios"]["number of halos"] for row in stored["convergence"]["rows"]}
    assert rows[10, 2] == [1, 0]
    assert rows[20, 3] == [pytest.approx(13 / 12), 0]
    assert stored["correlation"]["rows"]["bias"] > 1
    assert "mass function / Watson13" in card.read_text()


def test_more_particles_are_corrected_less() -> None:
    from halo_boxes import corrected

    from pcdiff.data.halos import FIDUCIAL
    from pcdiff.data.particle_mesh import Mesh

    particles = np.array([32.0, 1024.0])
    mass = np.log10(particles * Mesh().particle_mass(FIDUCIAL))
    np.testing.assert_allclose(corrected(mass) - mass, np.log10(1 - np.array([1 / 8, 1 / 64])))


@pytest.fixture
def clouds() -> PointClouds:
    return poisson(6, 9)


@pytest.mark.parametrize("name", ["wrapped", "flow", "flow, late", "plain"])
def test_processes_know_of_the_box_what_they_say(name: str, generator: Generator, clouds: PointClouds) -> None:
    """Nothing changes under translations but in the plain one; and what it learns from keeps all distances and speeds."""
    import torus
    from torus_processes import PROCESSES

    process = PROCESSES[name](generator.settings, generator.transform)
    model = process.build().eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    error = torus.translation_error(process, model, clouds, seed=2)
    assert error < 1e-6 if name != "plain" else error > 1e-2
    batch = batch_of(generator.transform.encode(clouds), np.arange(len(clouds)))
    assert torch.isfinite(process.losses(model, process.draw(model, batch, rng))).all()
    if name.startswith("flow"):
        start, s = process.start(batch, rng), torch.ones(len(batch))
        end, velocity = process.between(batch, start, s)
        off = (end - batch.x)[batch.mask]
        turns = off[:, :3] / 100
        torch.testing.assert_close(turns, turns.round(), atol=1e-5, rtol=0)
        assert velocity[..., :3].abs().max() <= 50 / (100 / np.sqrt(12)) + 1e-5
        torch.testing.assert_close(off[:, 3:], torch.zeros_like(off[:, 3:]), atol=1e-5, rtol=0)
    if name == "plain":
        turned = process.turned(batch, rng).x[0, :4] * 100 / np.sqrt(12)
        for at in (0, 3):
            own, other = batch.x[0, :4, at : at + 3].clone(), turned[:, at : at + 3] / (1 if at == 0 else 100 / 12**0.5)
            if at == 0:
                own, other = (value[:, None] - value[None] for value in (own, other))
                own, other = (value - 100 * (value / 100).round() for value in (own, other))
            torch.testing.assert_close(own.norm(dim=-1), other.norm(dim=-1), atol=2e-3, rtol=1e-4)


def test_processes_are_trained_and_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torus

    results = tmp_path / "torus.json"
    words = ["--steps", "2", "--points", "512", "--boxes", "8", "--evaluations", "2", "--data", folder]
    words += ["--runs", tmp_path / "runs", "--results", results]
    call(monkeypatch, torus, "--processes", "flow", *words)
    monkeypatch.setattr(torus, "show", lambda *_: None)
    call(monkeypatch, torus, "--processes", "flow", "plain", *words)
    rows = json.loads(results.read_text())["rows"]
    assert [row["process"] for row in rows] == ["flow", "plain"]
    # Noise whose mean is the middle of the box leaves no halo at its ends, two steps from a net that knows nothing.
    assert rows[1]["evaluations"]["2"]["uneven"]["sample"] > 10 * rows[0]["evaluations"]["2"]["uneven"]["sample"]
    with pytest.raises(SystemExit, match="remove it to begin anew"):
        call(monkeypatch, torus, *words, "--seed", "3")


def test_even_halos_are_called_even_and_others_are_not() -> None:
    """30 values of chi^2 with one degree of freedom each: within 4 standard errors, with some room for errors from 60 boxes."""
    from torus import unevenness

    clouds = poisson(60, 4, mean=200)
    assert abs(unevenness(clouds) - 1) < 4 * np.sqrt(2 / 30) + 2 / 60
    assert unevenness(clouds.points_where((clouds.column("x") > 20) | (clouds.column("y") < 60))) > 10


def test_the_readme_has_a_place_for_each_script() -> None:
    from tables import update_readme

    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("halos", "torus"):
        assert text.count(f"<!-- results: written by {name}.py -->") == 1
        assert text.count(f"<!-- end of results of {name}.py -->") == 1
    card = (FOLDER.parent / "datasets" / "halos_pm" / "README.md").read_text(encoding="utf-8")
    assert card.count("<!-- results: written by halo_boxes.py -->") == 1
    assert card.count("<!-- end of results of halo_boxes.py -->") == 1
    with pytest.raises(PcdiffError, match="expected the marks"):
        update_readme("halos.py", "", FOLDER / "none.md")


def test_ranks_of_normal_posteriors() -> None:
    """A tabulated normal posterior: rank and mean as the law has them."""
    from halos_posterior import tabulated

    axes = [np.linspace(0.1, 0.5, 121), np.linspace(0.6, 1.0, 121)]
    x, y = np.meshgrid(*axes, indexing="ij")
    posterior = tabulated(-((x - 0.3) ** 2 + (y - 0.8) ** 2).ravel() / (2 * 0.05**2), axes)
    assert posterior.mean("omega_m") == pytest.approx(0.3, abs=1e-6)
    assert posterior.rank("sigma_8", 0.85) == pytest.approx(stats.norm.cdf(1), abs=2e-3)
