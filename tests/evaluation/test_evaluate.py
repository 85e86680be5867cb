"""The front door: results, tables and the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation import evaluate
from pcdiff.physics import observables
from pcdiff.schema import Feature, Schema, jet_schema


class Assets(HTMLParser):
    """Every address that the page would load or link to."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture(scope="module")
def report(toy_jets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "report"
    samples = {
        "good": toy_jets(400, 2, provenance={"sources": ["good.root"], "seed": 7}),
        "<script>bad</script>": toy_jets(300, 3, scale=1.3),
    }
    return evaluate(toy_jets(500, 1), samples, folder, draws=5, seed=3)


def test_json_holds_every_number_with_its_sizes(report):
    data = json.loads((report.output / "metrics.json").read_text())
    assert data == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (data["truth"]["clouds"], data["draws"], data["seed"], data["pcdiff"]) == (500, 5, 3, pcdiff.__version__)
    good = data["samples"][0]
    assert good["provenance"] == {"sources": ["good.root"], "seed": 7}
    assert good["metrics"]["w1_relative_mass"]["sample_size"] == 400
    assert good["metrics"]["w1_relative_mass"]["value"] == report.samples[0].metrics[0].value


def test_page_is_self_contained_and_complete(report):
    page = (report.output / "index.html").read_text()
    assets = Assets()
    assets.feed(page)
    assert assets.addresses
    assert all(address.startswith("data:image/png;base64,") for address in assets.addresses)
    assert not re.search(r"url\(|@import", page)
    assert "script" not in assets.tags
    assert "&lt;script&gt;bad&lt;/script&gt;" in page
    for row in report.rows():
        assert row.metric in page
        assert row.generated in page
        assert row.floor in page
    assert "good.root" in page
    assert pcdiff.__version__ in page


def test_page_names_the_worst_metric_of_a_spoiled_sample_only(report):
    good, bad = report.samples
    assert not good.different
    assert bad.different[0].name in ("w1_total_ptrel", "w1_ptrel", "w1_pt")
    page = (report.output / "index.html").read_text()
    assert page.count("differs from the truth</span>") == 1


def test_figures_are_png_and_pdf_of_every_observable(report):
    figures = report.output / "figures"
    pngs = sorted(path.stem for path in figures.glob("*.png"))
    assert pngs == sorted(path.stem for path in figures.glob("*.pdf")) == sorted(observables("jets"))
    assert (figures / "mass.png").read_bytes().startswith(b"\x89PNG")
    assert not list(report.output.rglob(".*"))


def test_table_is_readable_as_plain_text(report):
    text = str(report)
    assert "\x1b" not in text
    for wanted in ("good (400)", "500 true jets", "W1M, relative jet mass", "truth floor ± error", "pull"):
        assert wanted in text
    rows = list(report.rows())
    assert len(rows) == 2 * 10
    assert all(re.fullmatch(r"[\d.]+ ± [\d.]+", row.generated) for row in rows)


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
    left_out = [observables("jets")[name].title for name in ("mass", "pt", "eta")]
    assert [note.split(" left out")[0] for note in sample.notes] == left_out
    assert all(metric.value == 0 for metric in sample.metrics)


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
