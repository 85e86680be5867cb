"""Figures: binning, statistical errors, and drawing without warnings."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pcdiff.data import toy
from pcdiff.evaluation.plots import bins, figure, histogram, plane
from pcdiff.physics import Measured, measure, observables, planes

JETS = observables("jets")


def cloud_values(name, values):
    return Measured("jets", np.ones(len(values), np.int64), {name: np.asarray(values, np.float64)})


@pytest.mark.parametrize("size", [1, 9, 30, 1000, 100_000])
@pytest.mark.parametrize("name", ["mass", "ptrel", "multiplicity"])
def test_bins_rise_and_hold_enough_of_the_truth(name, size):
    values = np.random.default_rng(size).gamma(2.0, 20.0, size)
    values = np.ceil(values) if name == "multiplicity" else values
    edges = bins(JETS[name], values)
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 121
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    assert counts.sum() == size
    # The fullest bin only stays thinner where there are not even 25 values beside it.
    assert np.sum(counts < 25) <= 2
    if name == "multiplicity":
        assert (np.mod(edges, 1) == 0.5).all()


def test_bins_of_a_constant_and_of_zeros():
    assert bins(JETS["mass"], np.full(10, 3.0)).tolist() == [2.5, 3.5]
    assert bins(JETS["ptrel"], np.zeros(10)).tolist() == [-0.5, 0.5]
    assert bins(JETS["multiplicity"], np.full(10, 30.0)).tolist() == [29.5, 30.5]


def test_histogram_is_a_density_with_binomial_errors_and_keeps_what_is_outside():
    values = np.array([-50.0, 0.5, 1.5, 1.5, 3.0, 99.0])
    found = histogram(JETS["mass"], cloud_values("mass", values), np.array([0.0, 1.0, 2.0, 4.0]))
    share = np.array([2, 2, 2]) / 6
    np.testing.assert_allclose(found.values(), share / [1, 1, 2])
    np.testing.assert_allclose(found.variances(), share * (1 - share) / 6 / np.array([1, 1, 4]))


def test_points_that_repeat_their_cloud_have_the_errors_of_the_cloud():
    values = np.random.default_rng(0).normal(size=200)
    edges = np.linspace(-3, 3, 11)
    repeated = Measured("jets", np.full(200, 9), {"etarel": np.repeat(values, 9)})
    one = histogram(JETS["mass"], cloud_values("mass", values), edges)
    many = histogram(JETS["etarel"], repeated, edges)
    np.testing.assert_allclose(many.values(), one.values(), rtol=1e-12)
    np.testing.assert_allclose(many.variances(), one.variances(), rtol=1e-9)


def test_errors_of_correlated_points_are_those_of_repeated_samples():
    """The variance formula against the spread over 400 samples; 5 standard errors of a variance."""
    edges = np.array([-10.0, -0.5, 0.0, 0.5, 10.0])
    rng = np.random.default_rng(1)

    def sample():
        counts = rng.integers(1, 9, 300)
        shared = np.repeat(rng.normal(size=300), counts)
        return Measured("jets", counts, {"etarel": shared + rng.normal(size=counts.sum())})

    drawn = [histogram(JETS["etarel"], sample(), edges) for _ in range(400)]
    spread = np.var([one.values() for one in drawn], axis=0, ddof=1)
    claimed = np.mean([one.variances() for one in drawn], axis=0)
    np.testing.assert_allclose(claimed / spread, 1.0, atol=5 * np.sqrt(2 / 400))


@pytest.mark.parametrize("name", list(JETS))
def test_each_observable_is_drawn_with_sizes_and_units(name, toy_jets):
    truth = measure(toy_jets(400, 1))
    samples = {"a": measure(toy_jets(900, 2)), "_cost in $_": measure(toy_jets(5, 3, scale=3.0))}
    page = figure(JETS[name], truth, samples)
    page.canvas.draw()
    main, below = page.axes
    texts = [text.get_text() for text in main.get_legend().get_texts()]
    assert texts == ["truth (400 jets)", "a (900 jets)", r"cost in \$_ (5 jets)"]
    if JETS[name].unit:
        assert f"[{JETS[name].unit}]" in below.get_xlabel()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_sample_that_lacks_the_observable_is_left_out(toy_jets):
    lacking = measure(toy_jets(50, 2))
    del lacking.values["mass"]
    page = figure(JETS["mass"], measure(toy_jets(50, 1)), {"a": lacking})
    assert [text.get_text() for text in page.axes[0].get_legend().get_texts()] == ["truth (50 jets)"]


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
    page = plane(first, second, truth, samples)
    page.canvas.draw()
    titles = [axes.get_title() for axes in page.axes]
    assert titles == [rf"{name} (300 vectors)" for name in ("truth", r"a\$", "b", "d")]
    low, high = truth.values["x"].min(), truth.values["x"].max()
    frame = (low - 0.1 * (high - low), high + 0.1 * (high - low))
    for axes, measured in zip(page.axes, (truth, samples["a$"], samples["b"], samples["d"]), strict=True):
        (line,) = axes.lines
        np.testing.assert_allclose(axes.get_xlim(), frame)
        # A point outside the frame stands at its edge.
        np.testing.assert_allclose(line.get_xdata(), np.clip(measured.values["x"][:300], *frame))
        assert np.all((line.get_ydata() >= axes.get_ylim()[0]) & (line.get_ydata() <= axes.get_ylim()[1]))
    pixels = [axes.transData.transform([(0, 0), (1, 0), (0, 1)]) for axes in page.axes]
    for corner, right, above in pixels:
        np.testing.assert_allclose(right[0] - corner[0], above[1] - corner[1])
