"""Figures: what they show is what the numbers say, and nothing hides anything."""

from __future__ import annotations

import io
import itertools
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from pcdiff.data import toy
from pcdiff.evaluation.binning import Binned
from pcdiff.evaluation.calibration import reliability
from pcdiff.evaluation.loss import Losses, loss_figure
from pcdiff.evaluation.maps import map_figure, plane, pulls
from pcdiff.evaluation.metric import estimate
from pcdiff.evaluation.plots import figure, histogram, profile_figure
from pcdiff.evaluation.result import ComparedSet, SampleResult
from pcdiff.evaluation.summary_plots import classifier_figure, largest_pulls, ranking_figure
from pcdiff.physics import Measured, Profile, measure, observables, planes, profiles
from pcdiff.schema import PARTICLE_CLASSES

JETS = observables("jets")


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def binned(contents, weights=None):
    contents = np.asarray(contents, np.float64)
    size = len(contents)
    return Binned(csr_array(contents), np.ones(size), np.ones(size) if weights is None else weights)


def profile(*sizes, **options):
    edges = tuple(np.arange(size + 1.0) for size in sizes)
    return Profile(
        "made", "made", lambda clouds: csr_array(()), edges, ("$a$", "$b$")[: len(sizes)], "content", **options
    )


def with_contents(contents, weights=None):
    size = len(contents)
    return Measured(
        "jets", np.ones(size, np.int64), {}, {"made": csr_array(np.asarray(contents, np.float64))}, weights=weights
    )


def inside_page(sheet):
    """Whether nothing is cut off at the edge of the page, to a hundredth of an inch."""
    box, page = sheet.get_tightbbox().extents, sheet.bbox_inches.extents
    return (box[:2] >= page[:2] - 0.01).all() and (box[2:] <= page[2:] + 0.01).all()


def test_a_histogram_is_a_density():
    found = histogram(binned([[1, 0], [1, 0], [0, 1], [1, 0]]), np.array([0.0, 1.0, 3.0]), density=True)
    np.testing.assert_allclose(found.values(), [0.75, 0.125])
    np.testing.assert_allclose(found.variances(), [0.75 * 0.25 / 4, 0.75 * 0.25 / 4 / 4])


@pytest.fixture(scope="module")
def four_sets(toy_jets):
    return {
        "truth": measure(toy_jets(400, 1)),
        "a": measure(toy_jets(900, 2)),
        "_cost in $_": measure(toy_jets(5, 3, scale=3.0)),
        "a run with a name that says what it is": measure(toy_jets(70, 3)),
    }


@pytest.mark.parametrize("name", list(JETS))
def test_each_observable_is_drawn_with_sizes_and_units_and_nothing_is_cut_or_hidden(name, four_sets):
    samples = dict(four_sets)
    truth = samples.pop("truth")
    sheet = figure(JETS[name], truth, samples)
    sheet.canvas.draw()
    main, below = sheet.axes
    assert texts(main.get_legend()) == [
        "truth (400 jets)",
        "a (900 jets)",
        r"cost in \$_ (5 jets)",
        "a run with a name that says what it is (70 jets)",
    ]
    if JETS[name].unit:
        assert f"[{JETS[name].unit}]" in below.get_xlabel()
    assert main.get_legend().get_window_extent().y0 >= main.get_window_extent().y1
    assert inside_page(sheet)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_categories_are_named_on_the_axis(four_sets):
    samples = dict(four_sets)
    sheet = profile_figure(profiles("jets")["class_composition"], samples.pop("truth"), samples)
    sheet.canvas.draw()
    _, below = sheet.axes
    assert [tick.get_text() for tick in below.get_xticklabels()] == list(PARTICLE_CLASSES)
    np.testing.assert_allclose(below.get_xticks(), range(5))
    boxes = [tick.get_window_extent() for tick in below.get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    assert inside_page(sheet)


def test_points_and_ratios_are_those_of_the_contents():
    rng = np.random.default_rng(0)
    truth, sample = (Measured("jets", np.ones(n, np.int64), {"mass": rng.normal(50, 9, n)}) for n in (4000, 1000))
    sheet = figure(JETS["mass"], truth, {"a": sample})
    main, below = sheet.axes
    edges = main.patches[0].get_data().edges
    true, found = (Binned.of_observable(JETS["mass"], each, edges) for each in (truth, sample))
    shown = found.mean > 0
    np.testing.assert_allclose(main.containers[0][0].get_ydata(), (found.mean / np.diff(edges))[shown])
    ratio = found.mean / true.mean
    low, high = below.get_ylim()
    np.testing.assert_allclose(below.containers[0][0].get_ydata(), ratio[(ratio > low) & (ratio <= high)])
    # What is off the scale is an arrow at its edge.
    assert sum(len(line.get_xdata()) for line in below.lines if line.get_marker() == "^") == (ratio > high).sum()


def test_a_sample_that_lacks_the_observable_is_left_out(toy_jets):
    lacking = measure(toy_jets(50, 2))
    del lacking.values["mass"]
    sheet = figure(JETS["mass"], measure(toy_jets(50, 1)), {"a": lacking})
    assert texts(sheet.axes[0].get_legend()) == ["truth (50 jets)"]


def test_a_weighted_sample_states_its_effective_size():
    # Half of the clouds do not count: (sum w)^2 / sum w^2 = 50.
    weights = np.repeat([2.0, 0.0], 50)
    sheet = profile_figure(profile(3), with_contents(np.ones((9, 3))), {"a": with_contents(np.ones((100, 3)), weights)})
    assert texts(sheet.axes[0].get_legend())[1] == "a (100 jets, effective 50)"


def test_a_profile_in_one_variable_has_its_words_and_means():
    contents = np.random.default_rng(0).poisson(3.0, (200, 4))
    sheet = profile_figure(profile(4, log_y=True), with_contents(contents), {"a": with_contents(contents[:90])})
    main, below = sheet.axes
    assert (below.get_xlabel(), main.get_ylabel(), main.get_yscale()) == ("$a$", "content", "log")
    np.testing.assert_allclose(main.containers[0][0].get_ydata(), contents[:90].mean(axis=0))


@pytest.mark.parametrize("several", [1, 2, 4])
def test_maps_share_their_colours_and_show_each_bin_where_it_is(several):
    # Content 10 a + b in bin (a, b), so that a transposed or mirrored map is seen.
    contents = (10 * np.arange(3)[:, None] + np.arange(2)).ravel().astype(np.float64)
    clouds = np.tile(contents, (40, 1))
    samples = {f"s{number}": with_contents((1 + number) * clouds) for number in range(several)}
    sheet = profile_figure(profile(3, 2), with_contents(clouds), samples)
    sheet.canvas.draw()
    meshes = [axes.collections[0] for axes in sheet.axes if axes.get_xlabel() == "$a$"]
    assert len(meshes) == 1 + 2 * several
    maps = meshes[: 1 + several]
    assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in maps} == {(0.0, several * contents.max())}
    drawn = np.ma.filled(maps[0].get_array(), 0.0).reshape(2, 3)
    np.testing.assert_allclose(drawn, contents.reshape(3, 2).T)
    assert maps[0].get_coordinates()[0, -1].tolist() == [3.0, 0.0]
    assert all((mesh.norm.vmin, mesh.norm.vmax) == (-5.0, 5.0) for mesh in meshes[1 + several :])
    assert inside_page(sheet)


def test_pulls_of_a_true_sample_are_normal_and_bins_of_few_clouds_are_left_out():
    rng = np.random.default_rng(1)
    rates = np.repeat([0.2, 3.0, 0.0001], [400, 400, 10])
    truth, sample = (binned(rng.poisson(rates, (size, len(rates)))) for size in (900, 600))
    found = pulls(truth, sample)
    assert np.isnan(found[800:]).all()
    known = found[:800]
    assert abs(known.mean()) < 5 / np.sqrt(800)
    # The variance of a sample variance of normal numbers is 2 / n; 5 sigmas.
    assert abs(known.var() - 1) < 5 * np.sqrt(2 / 800)


def test_a_map_of_nothing_is_drawn():
    empty = binned(np.zeros((3, 6)))
    for log_y in (False, True):
        map_figure(profile(3, 2, log_y=log_y), "truth (3 jets)", empty, {"a (3 jets)": empty}).canvas.draw()


def test_a_plane_shows_equally_many_points_of_each_set_in_the_frame_of_the_truth():
    truth = measure(toy("spiral", 900, seed=1))
    lacking = measure(toy("spiral", 40, seed=4))
    del lacking.values["y"]
    samples = {
        "a$": measure(toy("gaussian", 300, seed=2)),
        "b": measure(toy("swiss-roll", 2000, seed=3)),
        "c": lacking,
        "d": measure(toy("spiral", 500, seed=5)),
    }
    ((first, second),) = planes("vectors")
    sheet = plane(first, second, truth, samples)
    sheet.canvas.draw()
    titles = [axes.get_title().split("\n")[0] for axes in sheet.axes]
    assert titles == ["truth", r"a\$", "b", "d"]
    assert sheet.axes[2].get_title() == "b\n(2,000 vectors), 300 points shown"
    low, high = truth.values["x"].min(), truth.values["x"].max()
    frame = (low - 0.1 * (high - low), high + 0.1 * (high - low))
    for axes, measured in zip(sheet.axes, (truth, samples["a$"], samples["b"], samples["d"]), strict=True):
        np.testing.assert_allclose(axes.get_xlim(), frame)
        # A point outside the frame stands at its edge.
        x, y = axes.collections[0].get_offsets().T
        np.testing.assert_allclose(x, np.clip(measured.values["x"][:300], *frame))
        assert np.all((y >= axes.get_ylim()[0]) & (y <= axes.get_ylim()[1]))
    pixels = [axes.transData.transform([(0, 0), (1, 0), (0, 1)]) for axes in sheet.axes]
    for corner, right, above in pixels:
        np.testing.assert_allclose(right[0] - corner[0], above[1] - corner[1])
    assert inside_page(sheet)


def result(name, pulls):
    """A sample whose observables have two metrics each, one of which has this pull (None: infinite)."""

    def metric(about, number, pull):
        value, spread = (pull, [-1.0, 1.0]) if pull is not None else (1.0, [0.0, 0.0])
        return estimate(
            f"{number}_{about}",
            about,
            group="observable",
            about=about,
            sizes=(10, 10),
            value=value,
            resampled=np.zeros(2),
            null=np.array(spread) / np.sqrt(2),
        )

    metrics = [metric(about, number, pull) for about, pull in pulls.items() for number, pull in enumerate((-2.0, pull))]
    return SampleResult(ComparedSet(name, 10, 10, 10.0, {}), tuple(metrics), (), (), 20)


def test_the_ranking_has_the_worst_observables_first_and_shows_infinite_pulls():
    names = [f"o{number}" for number in range(20)]
    one = result("one", {name: float(number) for number, name in enumerate(names)})
    two = result("two", {"o3": 500.0, "o4": None})
    assert largest_pulls(two) == pytest.approx({"o4": np.inf, "o3": 500.0})
    assert list(largest_pulls(two)) == ["o4", "o3"]
    sheet = ranking_figure([one, two], {name: name.upper() for name in names})
    sheet.canvas.draw()
    (axes,) = sheet.axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == ["O4", "O3", *(f"O{number}" for number in range(19, 6, -1))]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    lengths = [bar.get_width() for bar in axes.containers[1]][:2]
    assert lengths == pytest.approx([axes.get_xlim()[1], 500.0])
    threshold = one.threshold
    assert any(np.allclose(line.get_xdata(), threshold) for line in axes.lines)
    assert inside_page(sheet)


def test_reliability_of_true_probabilities_is_the_diagonal():
    """chi-squared of 10 bins within 5 sigmas: its variance is twice its mean."""
    rng = np.random.default_rng(2)
    scores, weights = rng.beta(2, 2, 20_000), rng.gamma(2.0, 0.5, 20_000)
    middle, share, error = reliability(rng.random(20_000) < scores, scores, weights)
    assert len(middle) == 10
    assert (((share - middle) / error) ** 2).sum() < 10 + 5 * np.sqrt(20)


def test_equal_scores_stand_in_one_bin():
    is_true = np.repeat([True, False], [300, 100])
    middle, share, error = reliability(is_true, np.full(400, 0.5), np.ones(400))
    assert (middle.tolist(), share.tolist()) == ([0.5], [0.75])
    assert error[0] == pytest.approx(np.sqrt(0.75 * 0.25 / 400))


def test_the_roc_curve_encloses_the_auc_of_weighted_clouds_and_importances_are_ordered():
    rng = np.random.default_rng(3)
    weights = rng.gamma(2.0, 0.5, 300)
    truth = Measured("jets", np.ones(500, np.int64), {})
    sample = Measured("jets", np.ones(300, np.int64), {}, weights=weights)
    ranking = tuple(SimpleNamespace(observable=f"o{i}", importance=0.01 * i, error=0.001) for i in (7, 2))
    test = SimpleNamespace(
        auc=0.7, error=0.01, truth_scores=rng.beta(3, 2, 500), sample_scores=rng.beta(2, 3, 300), ranking=ranking
    )
    titles = {f"o{i}": f"O{i}" for i in range(9)}
    longest = "pseudorapidity of the summed kept constituents"
    sheet = classifier_figure({"a": test}, truth, {"a": sample}, titles)
    sheet.canvas.draw()
    curves, calibration, importances = sheet.axes
    x, y = curves.lines[0].get_data()
    found = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)
    scores = np.concatenate([test.truth_scores, test.sample_scores])
    expected = roc_auc_score(
        np.repeat([1, 0], [500, 300]), scores, sample_weight=np.concatenate([np.ones(500), weights])
    )
    assert found == pytest.approx(expected, rel=1e-9)
    assert calibration.get_xlim() == calibration.get_ylim()
    assert [label.get_text() for label in importances.get_yticklabels()] == ["O7", "O2"]
    assert texts(curves.get_legend())[0].endswith("AUC 0.700 ± 0.010")
    assert inside_page(sheet)
    wordy = classifier_figure({"a": test}, truth, {"a": sample}, dict.fromkeys(titles, longest))
    wordy.canvas.draw()
    assert wordy.axes[2].get_tightbbox().x0 > wordy.axes[1].get_window_extent().x1
    alone = classifier_figure({"a": SimpleNamespace(**(vars(test) | {"ranking": ()}))}, truth, {"a": sample}, titles)
    assert len(alone.axes) == 2


def test_losses_of_runs_are_drawn_over_each_other(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {step}, "time": 0, "metrics": {{"loss/train": {1 / step}}}}}' for step in (1, 2, 4)]
    lines.append('{"step": 4, "time": 0, "metrics": {"loss/validation": 0.3}}')
    file.write_text("\n".join([*lines, '{"step": 5, "ti']))
    losses = Losses.read(tmp_path)
    assert losses == Losses({1: 1.0, 2: 0.5, 4: 0.25}, {4: 0.3})
    sheet = loss_figure({"one": losses, "two": Losses({1: 2.0}, {})})
    sheet.canvas.draw()
    (axes,) = sheet.axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 0.5, 0.25]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert texts(axes.get_legend())[1] == "one, validation (averaged weights)"
    assert inside_page(sheet)


@pytest.mark.parametrize("setting", ["figure.constrained_layout.use", "figure.autolayout"])
def test_the_users_own_layout_changes_nothing(setting, four_sets):
    """Warnings are errors here, and panels are placed by hand."""
    with mpl.rc_context({setting: True}):
        page = figure(JETS["mass"], four_sets["truth"], {"a": four_sets["a"]})
        placed = [axes.get_position().bounds for axes in page.axes]
        page.savefig(io.BytesIO(), format="png")
    assert [axes.get_position().bounds for axes in page.axes] == placed
