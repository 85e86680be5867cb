"""Halo boxes on the comparison page: what differs is found, what is drawn is what is there, and what is only for jets is not asked."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.binning import Binned
from pcdiff.evaluation.marginals import marginal_metrics
from pcdiff.evaluation.metric import Resamples
from pcdiff.evaluation.plots import figure, profile_figure
from pcdiff.evaluation.slices import SLICE, chosen, slices
from pcdiff.physics import Measured, halos, measure, observables, profiles
from pcdiff.schema import POSITION, VELOCITY

from ..thomas import Thomas, catalogues
from .test_plots import inside_page, texts

PROCESS = Thomas()


def changed(clouds, **columns):
    kept = {name: clouds.column(name) for name in clouds.schema.point_names} | columns
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(kept, clouds.offsets, features, clouds.schema)


def smeared(clouds, width, seed):
    """Each halo moved by a normal number along each axis."""
    steps = np.random.default_rng(seed).normal(0, width, (3, clouds.num_points))
    moved = {name: np.mod(clouds.column(name) + by, 125.0) for name, by in zip(POSITION, steps, strict=True)}
    return changed(clouds, **moved)


@pytest.fixture(scope="module")
def truth():
    return PROCESS.draw(24, seed=1)


@pytest.fixture(scope="module")
def evaluation(truth, tmp_path_factory):
    good = PROCESS.draw(20, seed=2)
    samples = {
        "good": good,
        "smeared": smeared(good, 2.0, 3),
        "fast": changed(good, **{name: 1.2 * good.column(name) for name in VELOCITY}),
    }
    return evaluate(truth, samples, tmp_path_factory.mktemp("halos") / "report", draws=40)


def test_boxes_of_the_same_process_are_not_told_apart_and_others_are(evaluation):
    good, smeared, fast = evaluation.samples
    assert good.different == ()
    # sqrt(3^2 + 2^2) instead of 3 Mpc/h: clusters are wider.
    assert {"two_point_correlation", "power_spectrum", "redshift_space_monopole"} <= set(smeared.blamed)
    assert not set(smeared.blamed) & {
        "number_of_halos",
        "speed",
        "vx",
        "velocity_dispersion",
        "log10_mass",
        "mass_function",
    }
    assert {"speed", "velocity_dispersion", "vx"} <= set(fast.blamed)
    assert not set(fast.blamed) & {"two_point_correlation", "power_spectrum", "nearest_neighbour_1", "mass_function"}


def test_the_metrics_are_those_of_halos_and_the_deviation_is_in_spreads_of_one_box(evaluation, truth):
    names = {metric.name for metric in evaluation.samples[0].metrics}
    assert {"w1_speed", "w1_log10_mass", "triangular_mass_function", "chi2_two_point_correlation"} <= names
    assert {f"deviation_{name}" for name, profile in profiles("halos").items() if not profile.distribution} <= names
    assert not {f"triangular_{name}" for name, profile in profiles("halos").items() if not profile.distribution} & names
    assert not names & {"fpd", "kpd", "w1efp", "coverage", "mmd", "sliced_wasserstein", "duplicates", "w1p"}
    assert evaluation.samples[0].notes == ()


def spectra(clouds):
    """Nothing but the power spectrum, which is quick."""
    totals = {"power_spectrum": halos.halo_pairs(clouds)}
    return Measured("halos", clouds.counts, {}, {"power_spectrum": halos.power_spectrum(clouds)}, totals=totals)


def test_the_deviation_stays_as_boxes_are_added_while_chi_squared_grows():
    """A power spectrum that is off: chi-squared in proportion to the number of boxes, the deviation not."""
    found = {}
    for boxes in (20, 80):
        truth, sample = spectra(PROCESS.draw(boxes, seed=5)), spectra(smeared(PROCESS.draw(boxes, seed=6), 3.0, 7))
        metrics = marginal_metrics(truth, sample, Resamples.draw(truth, sample, 20, 0))
        found[boxes] = {metric.name: metric for metric in metrics}
    few, many = (found[boxes]["deviation_power_spectrum"] for boxes in (20, 80))
    assert abs(few.value - many.value) < 4 * np.hypot(few.error, many.error)
    assert many.floor == pytest.approx(few.floor / 2, rel=0.3)
    assert found[80]["chi2_power_spectrum"].value > 2 * found[20]["chi2_power_spectrum"].value


def test_the_report_counts_boxes_and_shows_a_slice(evaluation):
    page = (evaluation.output / "index.html").read_text()
    assert "24 true boxes" in page
    assert "true halos" not in page
    assert 'id="figure-slices"' in page
    for name in (*observables("halos"), *profiles("halos"), "slices"):
        assert (evaluation.output / "figures" / f"{name}.png").exists()
    data = json.loads((evaluation.output / "metrics.json").read_text())
    assert data["truth"]["clouds"] == 24
    assert "power spectrum" in (evaluation.output / "table.tex").read_text()
    assert "24 true boxes" in str(evaluation)


def test_boxes_without_velocities_are_compared_in_what_both_determine(truth):
    kept = (*POSITION, "log10_mass")
    features = {name: truth.feature(name) for name in truth.schema.cloud_names}
    bare = PointClouds.from_flat(
        {name: truth.column(name) for name in kept}, truth.offsets, features, truth.schema.select(points=kept)
    )
    (sample,) = evaluate(truth, bare).samples
    assert all(metric.value == 0 for metric in sample.metrics)
    assert {metric.about for metric in sample.metrics} >= {"power_spectrum", "log10_mass", "nearest_neighbour_4"}
    left_out = {note.split(" left out")[0] for note in sample.notes}
    assert {"halo speed", "redshift-space quadrupole", "mean pairwise velocity"} <= left_out


@pytest.mark.parametrize("name", [*observables("halos"), *profiles("halos")])
def test_each_figure_of_halos_has_units_and_nothing_is_cut(evaluation, name):
    truth, samples = evaluation.measured_truth, evaluation.measured_samples
    known = observables("halos")
    sheet = (
        figure(known[name], truth, samples)
        if name in known
        else profile_figure(profiles("halos")[name], truth, samples)
    )
    sheet.canvas.draw()
    main, below = sheet.axes
    assert texts(main.get_legend())[:2] == ["truth (24 boxes)", "good (20 boxes)"]
    assert inside_page(sheet)
    ticks = [
        tick.get_window_extent()
        for tick in (*below.get_xticklabels(), *below.get_xticklabels(minor=True))
        if tick.get_text() and below.get_xlim()[0] <= tick.get_position()[0] <= below.get_xlim()[1]
    ]
    ticks.sort(key=lambda box: box.x0)
    assert len(ticks) >= 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(ticks))


def test_a_profile_that_may_be_negative_is_drawn_below_zero_with_its_ratio(truth):
    """Infall: all points of the sample, and the ratio to the truth, which is 2."""
    truth = truth[:8]
    x = np.stack([truth.column(name) for name in POSITION])
    towards = {f"v{name}": -3 * (place - 62.5) for name, place in zip(POSITION, x, strict=True)}
    falling = changed(truth, **towards)
    twice = changed(truth, **{name: 2 * values for name, values in towards.items()})
    true, sample = measure(falling), measure(twice)
    sheet = profile_figure(profiles("halos")["pairwise_velocity"], true, {"twice": sample})
    main, below = sheet.axes
    drawn = main.containers[0][0].get_ydata()
    found = Binned.of_profile("pairwise_velocity", sample)
    np.testing.assert_allclose(drawn, found.mean[found.variance > 0])
    assert main.get_ylim()[0] < drawn.min()
    ratios = next(line for line in below.lines if line.get_marker() == "o").get_ydata()
    np.testing.assert_allclose(ratios, 2.0)


def test_a_slice_shows_the_halos_in_it_with_areas_as_their_masses():
    z = np.array([1.0, 24.9, 25.1, 124.9])
    columns = {"x": np.array([10.0, 60.0, 70.0, 80.0]), "y": np.full(4, 50.0), "z": z}
    columns["log10_mass"] = np.array([14.0, 15.0, 14.0, 14.0])
    box = catalogues(columns, [4])
    sheet = slices(box, {"a$": box})
    sheet.canvas.draw()
    first, second, _ = sheet.axes
    centre = first.collections[4]
    np.testing.assert_allclose(centre.get_offsets(), [[10, 50], [60, 50]])
    assert centre.get_sizes()[1] == pytest.approx(10 * centre.get_sizes()[0])
    assert first.get_title().split("\n")[0] == "truth"
    assert f"2 of 4 halos, $z < {SLICE:g}$" in first.get_title()
    assert second.get_title().startswith(r"a\$")
    assert [axes.get_xlabel() for axes in (first, second)] == ["$x$ [Mpc/$h$]"] * 2
    assert inside_page(sheet)


def test_the_box_of_a_sample_is_the_most_like_that_of_the_truth():
    def boxes(universes, counts):
        columns = dict(zip(POSITION, np.random.default_rng(0).uniform(0, 125, (3, sum(counts))), strict=True))
        drawn = catalogues(columns, counts)
        features = {name: drawn.feature(name) for name in drawn.schema.cloud_names} | {"omega_m": np.array(universes)}
        return PointClouds.from_flat(columns, drawn.offsets, features, drawn.schema)

    truth = boxes([0.1, 0.3, 0.5], [90, 10, 50])
    assert chosen(truth) == 2
    sample = boxes([0.1, 0.5, 0.5, 0.2], [50, 70, 45, 51])
    assert chosen(sample, truth[[2]]) == 2
