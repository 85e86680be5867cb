"""What an evaluation looks like in a terminal and a notebook."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from pcdiff.evaluation import Evaluation, evaluate
from pcdiff.evaluation.metrics import unit_notes
from pcdiff.physics import Measured, measure, observables


@pytest.fixture(scope="module")
def evaluation(toy_jets) -> Evaluation:
    return evaluate(toy_jets(500, 1), {"good": toy_jets(400, 2), "<b>bad</b>": toy_jets(300, 3, scale=1.3)}, draws=5)


def test_repr_is_one_line_that_says_what_differs(evaluation):
    text = repr(evaluation)
    assert "\n" not in text
    assert "good (400), <b>bad</b> (300) against 500 true jets" in text
    assert "good: 10 metrics, different: none" in text
    worst = ", ".join(metric.name for metric in evaluation.samples[1].different)
    assert f"<b>bad</b>: 10 metrics, different: {worst}>" in text


def test_a_notebook_shows_the_rows_of_the_table(evaluation):
    page = evaluation._repr_html_()
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    parsed = ET.fromstring(f"<div>{page}</div>".replace("<br>", "<br/>"))
    rows = [tuple(cell.text for cell in line) for line in parsed.findall(".//tbody/tr")]
    assert rows == [row[:-1] for row in evaluation.rows()]
    marked = [line.get("style") is not None for line in parsed.findall(".//tbody/tr")]
    assert marked == [row.different for row in evaluation.rows()]


def test_one_sample_needs_no_column_of_names(toy_jets):
    page = evaluate(toy_jets(50, 1), toy_jets(50, 2), draws=2)._repr_html_()
    assert "<th>sample</th>" not in page
    assert page.count("<th>") == 4


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
        "values of pT of the summed kept constituents",
    ]
