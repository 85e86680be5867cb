"""The front door: results, tables and the report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import pcdiff
from pcdiff import physics
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation import evaluate
from pcdiff.physics import observables, profiles, titles
from pcdiff.schema import Feature, Schema, jet_schema


@pytest.fixture(scope="module")
def report(toy_jets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "report"
    samples = {
        "good": toy_jets(400, 2, provenance={"sources": ["good.root"], "seed": 7}),
        "<script>bad</script>": toy_jets(300, 3, scale=1.3),
    }
    return evaluate(toy_jets(500, 1), samples, folder, seed=3)


def test_json_holds_every_number_with_its_sizes(report):
    data = json.loads((report.output / "metrics.json").read_text())
    assert data == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (data["truth"]["clouds"], data["draws"], data["seed"], data["pcdiff"]) == (500, 20, 3, pcdiff.__version__)
    good = data["samples"][0]
    assert good["provenance"] == {"sources": ["good.root"], "seed": 7}
    assert good["metrics"]["w1_relative_mass"]["sample_size"] == 400
    assert good["metrics"]["w1_relative_mass"]["value"] == report.samples[0].metrics[0].value


def test_the_observables_of_the_constituents_momenta_give_a_scale_of_them_away(report):
    good, bad = report.samples
    assert not good.different
    momenta = {"total_ptrel", "ptrel", "pt", "rank_spectrum", "leading_ptrel", "second_ptrel", "third_ptrel"}
    assert set(bad.blamed) & momenta
    assert bad.blamed[0] in momenta
    # Angles, numbers and ratios of momenta are what they were.
    assert not set(bad.blamed) & {"etarel", "phirel", "multiplicity", "ptd", "tau21", "d2", "girth"}
    page = (report.output / "index.html").read_text()
    assert page.count("differs from the truth</span>") == 1


def test_a_cluster_finds_the_same_numbers(report, toy_jets, monkeypatch):
    """Evaluation in blocks, on two workers of Dask."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(physics, "_BLOCK", 300)
    samples = {
        "good": toy_jets(400, 2, provenance={"sources": ["good.root"], "seed": 7}),
        "<script>bad</script>": toy_jets(300, 3, scale=1.3),
    }
    found = evaluate(toy_jets(500, 1), samples, seed=3, dask="local:2")
    here, there = report.to_dict(), found.to_dict()
    assert here.pop("created") <= there.pop("created")
    assert here == there


def test_processes_and_a_cluster_exclude_each_other(toy_jets):
    with pytest.raises(DataError, match="expected one of them"):
        evaluate(toy_jets(50, 1), toy_jets(50, 2), workers=2, dask="local:2")


def test_table_is_readable_as_plain_text(report):
    text = str(report)
    assert "\x1b" not in text
    for wanted in ("good (400)", "500 true jets", "W1M, relative jet mass", "truth floor ± error", "pull"):
        assert wanted in text
    marginals = list(report.marginals())
    known = {*observables("jets"), *profiles("jets")}
    assert [line.name for line in marginals] == [name for name in titles("jets") if name in known for _ in range(2)]
    for line in (*report.rows(), *(line for line in marginals if line.name in observables("jets"))):
        assert re.fullmatch(r"-?[\d.]+ ± [\d.]+", line.generated)


def test_files_and_sets_in_memory_give_the_same_numbers(toy_jets, tmp_path):
    truth, sample = toy_jets(60, 1), toy_jets(50, 2)
    pcdiff.write(truth, tmp_path / "truth.root")
    pcdiff.write(sample, tmp_path / "synthetic.root")
    one, other = evaluate(truth, sample), evaluate(tmp_path / "truth.root", str(tmp_path / "synthetic.root"))
    assert other.samples[0].compared.name == "synthetic"
    assert one.samples[0].metrics == other.samples[0].metrics


def test_sets_with_different_columns_are_compared_in_what_both_determine(toy_jets):
    truth = toy_jets(100, 1)
    bare = PointClouds.from_flat(
        {name: truth.column(name) for name in truth.schema.point_names},
        truth.offsets,
        {},
        jet_schema(truth.schema.point_names, []),
    )
    (sample,) = evaluate(truth, bare).samples
    names = {metric.name for metric in sample.metrics}
    assert "w1_relative_mass" in names
    assert "w1p" in names
    assert not names & {"w1_mass", "w1_pt", "w1_eta"}
    left_out = [observables("jets")[name].title for name in ("mass", "soft_drop_mass", "pt", "eta")]
    assert [note.split(" left out")[0] for note in sample.notes] == left_out
    # All else draws batches of either set.
    same = [metric for metric in sample.metrics if metric.group == "observable" or metric.name.startswith("w1")]
    assert all(metric.value == 0 for metric in same)


def test_a_reference_is_named_and_gives_the_floor(toy_jets):
    truth, sample = toy_jets(200, 1), toy_jets(100, 2)
    measured = evaluate(truth, sample, reference=toy_jets(300, 4))
    assert measured.to_dict()["reference"]["clouds"] == 300
    assert measured.samples[0].metrics[0].floor != evaluate(truth, sample).samples[0].metrics[0].floor


def test_refusals_name_the_set(toy_jets, tmp_path):
    truth = toy_jets(20, 1)
    halos = PointClouds.from_flat({"x": np.ones(2)}, [0, 2], {}, Schema("halos", (Feature("x", "Mpc/h"),)))
    with pytest.raises(DataError, match="generated: holds halos, the truth holds jets"):
        evaluate(truth, halos)
    with pytest.raises(DataError, match="at least one"):
        evaluate(truth, {})
    with pytest.raises(DataError, match=r"missing\.root"):
        evaluate(truth, tmp_path / "missing.root", tmp_path / "report")
    with pytest.raises(DataError, match="reference has 10 clouds"):
        evaluate(truth, truth, tmp_path / "report", reference=toy_jets(10, 5))
    assert not (tmp_path / "report").exists()


def test_of_more_clouds_than_asked_for_a_random_part_is_compared(toy_jets, tmp_path):
    """From a file, from pieces and from memory the same part, other ones for truth and sample, and the report says how many."""
    truth, sample = toy_jets(300, 1), toy_jets(120, 2)
    path = pcdiff.write(truth, tmp_path / "truth.parquet")
    found = [evaluate(given, sample, draws=2, most=150) for given in (path, truth.split(40), truth)]
    assert found[0].truth.clouds == 150
    assert found[0].samples[0].compared.clouds == 120
    for evaluation in found:
        assert "truth: a random part was used, 150 of 300 jets" in evaluation.samples[0].notes
        assert evaluation.samples[0].metrics == found[0].samples[0].metrics
    twice = evaluate(truth, truth, draws=2, most=150)
    assert not twice.measured_truth.clouds.equals(twice.measured_samples["generated"].clouds)
    assert len(twice.samples[0].notes) == len(found[0].samples[0].notes) + 1


def test_no_clouds_at_most_is_refused(toy_jets):
    with pytest.raises(DataError, match="most is 0; expected at least 1 cloud"):
        evaluate(toy_jets(5, 1), toy_jets(5, 2), most=0)
