"""What an evaluation looks like in a terminal and a notebook."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy.stats import norm

from pcdiff.errors import DataError
from pcdiff.evaluation import Evaluation, evaluate
from pcdiff.evaluation.metric import estimate
from pcdiff.evaluation.notes import unit_notes
from pcdiff.evaluation.result import ComparedSet, Marginal, SampleResult
from pcdiff.physics import Measured, measure, observables


@pytest.fixture(scope="module")
def evaluation(toy_jets) -> Evaluation:
    return evaluate(toy_jets(500, 1), {"good": toy_jets(400, 2), "<b>bad</b>": toy_jets(300, 3, scale=1.3)})


def test_repr_is_one_line_that_says_what_differs(evaluation):
    text = repr(evaluation)
    assert "\n" not in text
    assert "good (400), <b>bad</b> (300) against 500 true jets" in text
    assert re.search(r"good: \d+ metrics, different: none", text)
    different = evaluation.samples[1].different
    worst = ", ".join(metric.name for metric in different[:5])
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    assert different
    assert text.endswith(f"metrics, different: {worst}{more}>")


def test_a_notebook_shows_the_rows_of_the_tables(evaluation):
    page = evaluation._repr_html_()
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    parsed = ET.fromstring(f"<div>{page}</div>".replace("<br>", "<br/>"))
    shown = [tuple(cell.text or "" for cell in line) for line in parsed.findall(".//tbody/tr")]
    rows = [*evaluation.rows(), *evaluation.marginals()]
    assert shown == [row[1:-1] if isinstance(row, Marginal) else row[:-1] for row in rows]
    marked = [line.get("style") is not None for line in parsed.findall(".//tbody/tr")]
    assert marked == [row.different for row in rows]


def test_one_sample_needs_no_column_of_names(toy_jets):
    page = evaluate(toy_jets(50, 1), toy_jets(50, 2), draws=2)._repr_html_()
    assert "<th>sample</th>" not in page
    assert page.count("<th>") == 4 + 6


def with_pulls(*pulls, about="mass", draws=20):
    """A result whose metrics have these pulls."""
    metrics = tuple(
        estimate(
            f"made_{number}",
            "made",
            group="observable",
            about=about if number else "pt",
            sizes=(10, 10),
            value=pull,
            resampled=np.zeros(2),
            null=np.array([-np.sqrt(0.5), np.sqrt(0.5)]),
        )
        for number, pull in enumerate(pulls)
    )
    return SampleResult(ComparedSet("made", 10, 10, 10.0, {}), metrics, (), (), draws)


@pytest.mark.parametrize("number", [1, 10, 100])
def test_one_in_a_hundred_samples_of_the_truth_would_be_called_different(number):
    threshold = with_pulls(*[0.0] * number, draws=100_000).threshold
    assert 1 - norm.cdf(threshold) ** number == pytest.approx(0.01, rel=0.01)
    # With few draws: a normal number over a standard deviation from 20 draws.
    rng = np.random.default_rng(number)
    values = rng.normal(size=200_000) / rng.normal(size=(20, 200_000)).std(axis=0, ddof=1)
    beyond = (values > with_pulls(*[0.0] * number).threshold).mean()
    assert abs(beyond - 0.01 / number) < 4 * np.sqrt(0.01 / number / 200_000)


def test_the_worst_stands_first_and_is_blamed():
    found = with_pulls(6.0, 20.0, -50.0, 1.0)
    assert [metric.pull for metric in found.different] == pytest.approx([20, 6])
    assert found.blamed == ("mass", "pt")
    assert with_pulls(2.0, 1.0).different == with_pulls(2.0, 1.0).blamed == ()


def test_records_are_flat_and_complete(evaluation):
    records = evaluation.records()
    assert len(records) == sum(len(sample.metrics) for sample in evaluation.samples)
    assert all(not isinstance(value, (dict, list, tuple)) for record in records for value in record.values())
    flagged = {(record["sample"], record["name"]) for record in records if record["different"]}
    assert flagged == {(s.compared.name, metric.name) for s in evaluation.samples for metric in s.different}


def test_a_picture_is_asked_for_by_name(evaluation):
    assert evaluation.figure("mass").axes
    with pytest.raises(DataError, match="no figure of 'mas': did you mean 'mass'"):
        evaluation.figure("mas")


def test_masses_say_which_constituents_they_are_of(evaluation):
    metrics = {metric.name: metric.title for metric in evaluation.samples[0].metrics}
    assert metrics["w1_mass"] == "W1, mass of the kept constituents"
    assert metrics["w1_pt"] == "W1, pT of the summed kept constituents"
    for name in ("mass", "pt", "eta"):
        assert "kept constituents" in observables("jets")[name].label


@pytest.mark.parametrize(("factor", "noted"), [(1000, True), (0.001, True), (1150, True), (1300, False), (1, False)])
def test_a_factor_of_1000_in_a_unit_is_noted(toy_jets, factor, noted):
    truth = measure(toy_jets(100, 1))
    scaled = truth.values | {name: factor * truth.values[name] for name in ("mass", "pt")}
    expected = tuple(
        f"values of {observables('jets')[name].title} differ by about 1000: is one of them in MeV?"
        for name in ("mass", "pt")
    )
    assert unit_notes(truth, Measured("jets", truth.counts, scaled)) == (expected if noted else ())


def test_the_note_is_in_the_table(toy_jets):
    truth, sample = toy_jets(60, 1), toy_jets(60, 2)
    sample.feature("pt")[:] *= 1000
    notes = evaluate(truth, sample, draws=2).samples[0].notes
    assert [note.split(" differ")[0] for note in notes] == [
        "values of mass of the kept constituents",
        "values of soft-drop mass",
        "values of pT of the summed kept constituents",
    ]
