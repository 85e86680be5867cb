"""The report: its page, its files, and its folder: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pcdiff.data import toy
from pcdiff.errors import DataError
from pcdiff.evaluation import evaluate
from pcdiff.evaluation.definitions import definitions
from pcdiff.evaluation.loss import Losses
from pcdiff.evaluation.report import write_report
from pcdiff.evaluation.runs import RunSummary, differing
from pcdiff.evaluation.tables import latex, latex_table
from pcdiff.physics import titles

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags, anchors, addresses and the nesting of a page."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.sources, self.open = Counter(), [], [], [], []
        self.images, self.headings = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags[tag] += 1
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.sources += [found[name] for name in ("src", "srcset", "data") if name in found]
        self.sources += [found["href"]] if tag == "link" else []
        self.images += [found] if tag == "img" else []
        self.headings += [found] if tag == "th" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def summary(name, **settings):
    return RunSummary(
        name, f"runs/{name}", settings, 1234, 60, Losses({1: 2.0, 9: 1.0}, {5: 1.5, 9: 1.25}), 0.0021, "cpu"
    )


@pytest.fixture(scope="module")
def evaluation(toy_jets):
    samples = {"good": toy_jets(600, 2), "<script>bad_1 & $2</script>": toy_jets(500, 3, scale=1.3)}
    return evaluate(toy_jets(700, 1), samples, draws=5, classifiers=["boosted"])


@pytest.fixture(scope="module")
def report(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "report"
    runs = [summary("good", **{"net.hidden": 16, "seed": 3}), summary("other", **{"net.hidden": 32, "seed": 3})]
    write_report(evaluation, evaluation.measured_truth, evaluation.measured_samples, folder, runs=runs)
    return folder


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere(report):
    text = (report / "index.html").read_text()
    page = Page(text)
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"url\(|@import|https?:", re.sub(r"data:image/png;base64,[^\"]*", "", text))
    assert page.tags["script"] == 0
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(text) < 8_000_000


def test_the_page_can_be_read_aloud(report):
    page = Page((report / "index.html").read_text())
    assert page.images
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert page.headings
    assert all(heading["scope"] in ("col", "row", "rowgroup") for heading in page.headings)


def test_the_page_has_every_number_of_the_tables_and_the_verdicts(report, evaluation):
    text = (report / "index.html").read_text()
    for row in (*evaluation.rows(), *evaluation.marginals()):
        assert all(cell in text for cell in (row.generated, row.floor, row.pull))
    good, bad = evaluation.samples
    assert not good.different
    assert "&lt;script&gt;bad_1 &amp; $2&lt;/script&gt;" in text
    assert text.count("differs from the truth</span>") == 1
    verdicts = text[text.index('class="verdict"') : text.index('id="ranking"')]
    linked = re.findall(r'href="#figure-(\w+)"', verdicts)
    assert linked == list(bad.blamed)[:6]


def test_figures_that_differ_come_first_the_worst_first(report, evaluation):
    text = (report / "index.html").read_text()
    shown = re.findall(r'<figure id="figure-(\w+)"', text[text.index('id="figures"') :])
    blamed = list(evaluation.samples[1].blamed)
    assert shown[: len(blamed)] == blamed
    assert sorted(shown) == sorted(titles("jets"))


def test_each_figure_is_there_as_png_and_pdf(report):
    names = {*titles("jets"), "ranking", "classifier_boosted", "losses"}
    assert {path.name for path in report.iterdir()} == {
        "index.html",
        "metrics.json",
        "metrics.csv",
        "table.tex",
        "figures",
    }
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        found = {path.stem: path.read_bytes() for path in (report / "figures").glob(f"*{suffix}")}
        assert found.keys() == names
        assert all(content.startswith(start) for content in found.values())


def test_the_csv_file_is_the_records(report, evaluation):
    with (report / "metrics.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    records = evaluation.records()
    assert len(found) == len(records)
    for line, record in zip(found, records, strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in record.items()}
        assert math.isclose(float(line["value"]), record["value"], rel_tol=0)


def test_the_runs_show_only_settings_that_differ(report):
    runs = [
        summary("a", **{"net.hidden": 16, "seed": 3, "x": 1}),
        summary("b", **{"net.hidden": 32, "seed": 3, "output": "b"}),
    ]
    assert differing(runs) == {"net.hidden": [16, 32], "x": [1, None]}
    assert (runs[0].final_training, runs[0].final_validation, runs[0].best_validation) == (1.0, 1.25, (9, 1.25))
    text = (report / "index.html").read_text()
    section = text[text.index('id="runs"') : text.index('id="observables"')]
    assert re.findall(r"<td>(\d+)</td>", section) == ["16", "32"]
    assert all(wanted in section for wanted in ("1,234", "1.2500 (9)", ">2.1<", "figure-losses"))


def test_every_metric_is_defined(evaluation):
    for metric in evaluation.samples[0].metrics:
        (found,) = definitions([metric.name])
        assert found.text


def test_the_latex_table_has_the_numbers_of_the_metrics_and_is_well_formed(evaluation):
    text = latex_table(evaluation)
    metrics = [m for m in evaluation.samples[0].metrics if m.group == "published" or m.name.startswith("auc_")]
    tabulars = re.findall(r"\\begin\{tabular\}\{l(r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert sum(len(columns) for columns, _ in tabulars) == len(metrics)
    place = 0
    for columns, body in tabulars:
        rules = re.findall(r"\\(top|mid|bottom)rule", body)
        assert rules == ["top", "mid", "bottom"]
        lines = [line for line in body.split("\n") if line.endswith(r" \\")]
        # Names, units, two floors (the samples differ in size), two samples.
        assert len(lines) == 6
        assert all(len(re.split(r"(?<!\\)&", line)) == 1 + len(columns) for line in lines)
        for column in range(len(columns)):
            metric = metrics[place + column]
            power = re.search(r"10\^\{(-\d+)\}", re.split(r"(?<!\\)&", lines[1])[1 + column])
            scale = 10.0 ** int(power.group(1)) if power else 1.0
            value, error = re.findall(r"-?[\d.]+", re.split(r"(?<!\\)&", lines[4])[1 + column])
            assert abs(float(value) * scale - metric.value) <= 0.06 * metric.error
            assert float(error) * scale == pytest.approx(metric.error, rel=0.06)
        place += len(columns)
    stripped = re.sub(r"\\[{}\\]", "", text)
    assert stripped.count("{") == stripped.count("}")
    assert text.count("$") % 2 == text.count(r"\$") % 2
    assert r"\textless{}script\textgreater{}bad\_1 \& \$2" in text
    assert "700 true ones: good (600)" in text
    assert text.isascii()


def test_latex_shows_each_special_character():
    assert latex("a_b{c}\\d~e^f#g") == r"a\_b\{c\}\textbackslash{}d\textasciitilde{}e\textasciicircum{}f\#g"


def browse(address, profile, *options):
    """What a headless browser makes of a page: its document, and what it complained about."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--allow-file-access-from-files", "--virtual-time-budget=15000"]
    command += ["--enable-logging=stderr", "--dump-dom", *options, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_errors_or_requests_at_any_width(report, tmp_path):
    shutil.copy(report / "index.html", tmp_path / "index.html")
    (tmp_path / "check.html").write_text(
        """<body><script>
        const found = {};
        async function look(width) {
          const frame = document.createElement("iframe");
          frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = 0; frame.src = "index.html";
          document.body.append(frame);
          await new Promise(done => frame.onload = done);
          const inside = frame.contentDocument, images = [...inside.images];
          found[width] = {
            overflow: inside.documentElement.scrollWidth - inside.documentElement.clientWidth,
            images: images.length,
            drawn: images.filter(image => image.naturalWidth > 0).length,
            requests: frame.contentWindow.performance.getEntriesByType("resource")
              .filter(entry => !entry.name.startsWith("data:")).length,
          };
        }
        look(400).then(() => look(1280)).then(() => { document.title = JSON.stringify(found); });
        </script></body>"""
    )
    document, complaints = browse((tmp_path / "check.html").as_uri(), tmp_path / "profile")
    found = json.loads(re.search(r"<title>(.*?)</title>", document).group(1))
    images = len(Page((report / "index.html").read_text()).images)
    for width in ("400", "1280"):
        assert found[width] == {"overflow": 0, "images": images, "drawn": images, "requests": 0}
    assert complaints == []


def test_a_full_disk_leaves_no_part_and_keeps_the_older_report(tmp_path, monkeypatch):
    evaluate(toy("spiral", 60, seed=1), toy("spiral", 50, seed=2), tmp_path / "report", seed=1)
    save, saved = Figure.savefig, []

    def full(self, *args, **options):
        saved.append(args)
        if len(saved) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", full)
    for name in ("new", "report"):
        saved.clear()
        with pytest.raises(DataError, match=rf"{name}: not enough disk"):
            evaluate(toy("spiral", 60, seed=1), toy("spiral", 50, seed=2), tmp_path / name, seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["seed"] == 1


def test_an_older_report_or_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "report").mkdir()
    for seed in (1, 2):
        evaluate(toy("spiral", 60, seed=1), toy("spiral", 50, seed=2), tmp_path / "report", seed=seed)
        assert json.loads((tmp_path / "report" / "metrics.json").read_text())["seed"] == seed
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_anything_else_is_left_alone(tmp_path, monkeypatch):
    truth = toy("spiral", 20, seed=1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.json").touch()
    with pytest.raises(DataError, match="thesis: is a folder with other things than a report"):
        evaluate(truth, truth, tmp_path / "thesis")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        evaluate(truth, truth, tmp_path / "thesis" / "metrics.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is the working directory"):
        evaluate(truth, truth, ".")
    assert [str(path) for path in Path().rglob("*")] == ["thesis", "thesis/metrics.json"]


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="seed is -1; expected a whole number from 0"):
        evaluate(toy("spiral", 20, seed=1), toy("spiral", 20, seed=2), seed=-1)
