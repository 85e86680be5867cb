"""The report: one self-contained HTML page, the figures as PNG and PDF, and every number as JSON, CSV and LaTeX."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jinja2
from matplotlib.figure import Figure

from pcdiff.evaluation.definitions import definitions
from pcdiff.evaluation.loss import loss_figure
from pcdiff.evaluation.maps import plane
from pcdiff.evaluation.plots import figure, profile_figure
from pcdiff.evaluation.result import ComparedSet, Evaluation, SampleResult
from pcdiff.evaluation.runs import RunSummary, differing
from pcdiff.evaluation.slices import SLICE, slices
from pcdiff.evaluation.summary_plots import classifier_figure, largest_pulls, ranking_figure
from pcdiff.evaluation.tables import latex_table
from pcdiff.files import atomic_folder, write_json
from pcdiff.physics import Measured, noun, observables, planes, profiles, titles

__all__ = ["write_report"]

Line = TypeVar("Line")

# The page shows an inch of a figure on this many pixels at most, and gives figures wider than so many inches a row.
_PIXELS, _WIDE = 100, 6.5
# Links to the observables that give a sample away, in its verdict.
_MOST_BLAMED = 6


class _Picture(NamedTuple):
    """A figure of the page."""

    name: str
    title: str
    text: str
    image: str
    width: int
    wide: bool


class _Pictures:
    """Saves figures as PNG and PDF and keeps what the page shows of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def add(self, name: str, title: str, text: str, drawn: Figure) -> _Picture:
        """Save a figure once for both formats."""
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png")
        (self._folder / f"{name}.png").write_bytes(buffer.getvalue())
        drawn.savefig(self._folder / f"{name}.pdf", format="pdf")
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        width = float(drawn.get_size_inches()[0])
        return _Picture(
            name, title, text, f"data:image/png;base64,{encoded}", round(_PIXELS * width), bool(width > _WIDE)
        )


def write_report(
    evaluation: Evaluation,
    truth: Measured,
    samples: Mapping[str, Measured],
    folder: Path,
    *,
    runs: Sequence[RunSummary] = (),
) -> None:
    """Write a folder with a report.

    It holds ``index.html``, a page that needs no other file and no network; ``metrics.json`` and ``metrics.csv`` with every
    number; ``table.tex``, the published metrics for a paper; and ``figures/NAME.png`` and ``.pdf``. The folder appears whole or
    not at all.

    Args:
        truth: observables of the true clouds.
        samples: name -> observables of each sample.
        folder: where to; whatever is there is replaced.
        runs: the training runs that the samples come from, for a section about them.

    Raises:
        DataError: the folder cannot be written.
    """
    with atomic_folder(folder) as temporary:
        pictures = _Pictures(temporary / "figures")
        groups = list(_observables(evaluation, truth, samples, pictures))
        page = _environment().get_template("report.html.jinja")
        text = page.render(
            evaluation=evaluation,
            clouds=noun(evaluation.kind),
            several=len(evaluation.samples) > 1,
            verdicts=[_verdict(sample, groups) for sample in evaluation.samples],
            ranking=_ranking(evaluation, pictures),
            rows=_spanned(evaluation.rows(), lambda row: row.metric),
            classifiers=list(_classifiers(evaluation, truth, samples, pictures)),
            marginals=_spanned(_marginals(evaluation, groups), lambda line: line["row"].observable),
            groups=groups,
            runs=_runs(runs, pictures) if runs else None,
            sets=list(_sets(evaluation)),
            definitions=definitions(metric.name for sample in evaluation.samples for metric in sample.metrics),
        )
        (temporary / "index.html").write_text(text, encoding="utf-8")
        write_json(temporary / "metrics.json", evaluation.to_dict())
        _write_csv(temporary / "metrics.csv", evaluation.records())
        (temporary / "table.tex").write_text(latex_table(evaluation), encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pcdiff.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,.0f}"
    return environment


def _observables(
    evaluation: Evaluation, truth: Measured, samples: Mapping[str, Measured], pictures: _Pictures
) -> Iterator[tuple[str, list[_Picture]]]:
    """Groups of figures with a heading: what differs first, the worst first; then the others as tables show them."""
    drawn = dict(_drawn(truth, samples, pictures))
    pulls = [largest_pulls(sample) for sample in evaluation.samples]
    blamed = dict.fromkeys(name for sample in evaluation.samples for name in sample.blamed)
    worst = sorted(blamed, key=lambda name: -max(found.get(name, -1.0) for found in pulls))
    differ = [drawn.pop(name) for name in worst if name in drawn]
    known = observables(truth.kind)
    levels = {name: known[name].level if name in known else "" for name in drawn}
    for heading, found in (
        ("Observables that differ", differ),
        (f"Observables of {noun(truth.kind)}", [drawn[name] for name, level in levels.items() if level == "cloud"]),
        ("Observables of points", [drawn[name] for name, level in levels.items() if level == "point"]),
        ("Profiles and maps", [drawn[name] for name, level in levels.items() if not level]),
    ):
        if found:
            yield heading, found


def _drawn(truth: Measured, samples: Mapping[str, Measured], pictures: _Pictures) -> Iterator[tuple[str, _Picture]]:
    """Each plane, observable and profile that the truth and some sample have."""
    for first, second in planes(truth.kind):
        if all(_known(name, truth, samples) for name in (first.name, second.name)):
            name, title = f"{first.name}_{second.name}", f"{second.title} against {first.title}"
            yield (
                name,
                pictures.add(
                    name, title, f"{title}: points of truth and samples", plane(first, second, truth, samples)
                ),
            )
    if truth.kind == "halos" and truth.clouds is not None:
        drawn = {name: sample.clouds for name, sample in samples.items() if sample.clouds is not None}
        title = f"A slice of {SLICE:g} Mpc/h through one box of each set"
        text = f"{title}: halos of truth and samples, the area of a marker proportional to the mass"
        yield "slices", pictures.add("slices", title, text, slices(truth.clouds, drawn))
    for name, observable in observables(truth.kind).items():
        if _known(name, truth, samples):
            text = f"Distribution of {observable.title} in truth and samples, and their ratio"
            yield name, pictures.add(name, observable.title, text, figure(observable, truth, samples))
    for name, profile in profiles(truth.kind).items():
        if _known(name, truth, samples):
            text = f"{profile.title} of truth and samples, and how they differ"
            yield name, pictures.add(name, profile.title, text, profile_figure(profile, truth, samples))


def _known(name: str, truth: Measured, samples: Mapping[str, Measured]) -> bool:
    have = [name in measured.values or name in measured.profiles for measured in (truth, *samples.values())]
    return have[0] and any(have[1:])


def _verdict(sample: SampleResult, groups: Sequence[tuple[str, list[_Picture]]]) -> dict[str, Any]:
    """A sample, and the titles of what gives it away by the name of its figure."""
    drawn = {picture.name: picture.title for _, pictures in groups for picture in pictures}
    blamed = {name: drawn[name] for name in sample.blamed if name in drawn}
    shown = dict(list(blamed.items())[:_MOST_BLAMED])
    elsewhere = [metric for metric in sample.different if not metric.about][:_MOST_BLAMED]
    return {"sample": sample, "blamed": shown, "more": len(blamed) - len(shown), "elsewhere": elsewhere}


def _ranking(evaluation: Evaluation, pictures: _Pictures) -> _Picture | None:
    if not any(metric.about for sample in evaluation.samples for metric in sample.metrics):
        return None
    text = "Largest pull of each observable, the worst first: " + "; ".join(
        f"{sample.compared.name}: {', '.join(list(largest_pulls(sample))[:3])}" for sample in evaluation.samples
    )
    drawn = ranking_figure(evaluation.samples, titles(evaluation.kind))
    return pictures.add("ranking", "The largest pull of each observable, the worst first", text, drawn)


def _classifiers(
    evaluation: Evaluation, truth: Measured, samples: Mapping[str, Measured], pictures: _Pictures
) -> Iterator[_Picture]:
    """One figure for each kind of classifier."""
    for kind in dict.fromkeys(test.kind for sample in evaluation.samples for test in sample.classifiers):
        tests = {s.compared.name: test for s in evaluation.samples for test in s.classifiers if test.kind == kind}
        found = "; ".join(f"{name}: AUC {test.auc:.3f} ± {test.error:.3f}" for name, test in tests.items())
        drawn = classifier_figure(tests, truth, samples, titles(evaluation.kind))
        title = "Boosted trees on observables" if kind == "boosted" else "Net on points"
        yield pictures.add(f"classifier_{kind}", title, f"ROC curves and calibration of {title}: {found}", drawn)


def _marginals(evaluation: Evaluation, groups: Sequence[tuple[str, list[_Picture]]]) -> Iterator[dict[str, Any]]:
    """The lines of the table of observables, each with the name of its figure and which pulls are differences."""
    drawn = {picture.name for _, pictures in groups for picture in pictures}
    different = {sample.compared.name: {metric.name for metric in sample.different} for sample in evaluation.samples}
    for row in evaluation.marginals():
        pulls = {("w1",): row.pull, ("triangular", "deviation"): row.triangular, ("chi2",): row.chi_squared}
        marked = [
            (pull, any(f"{metric}_{row.name}" in different[row.sample] for metric in metrics))
            for metrics, pull in pulls.items()
        ]
        yield {"row": row, "figure": row.name if row.name in drawn else None, "pulls": marked}


def _spanned(lines: Iterable[Line], key: Callable[[Line], str]) -> list[tuple[Line, int]]:
    """Each line with the number of lines, from this one on, that its first cell stands for; 0 where one before does."""
    groups = [list(group) for _, group in itertools.groupby(lines, key)]
    return [(line, len(group) if place == 0 else 0) for group in groups for place, line in enumerate(group)]


def _runs(runs: Sequence[RunSummary], pictures: _Pictures) -> dict[str, Any]:
    settings = {
        key: ["" if value is None else str(value) for value in values] for key, values in differing(runs).items()
    }
    text = "Training and validation loss of each run against the optimiser step"
    return {
        "all": runs,
        "settings": settings,
        "other_loss": any(key.startswith(("loss.", "schedule.", "features.", "denoiser.")) for key in settings),
        "picture": pictures.add("losses", "Loss curves", text, loss_figure({run.name: run.losses for run in runs})),
    }


def _sets(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """All sets of clouds that took part, with their provenance as pairs of text."""
    involved: list[tuple[str, ComparedSet]] = [("truth", evaluation.truth)]
    if evaluation.reference:
        involved.append(("reference", evaluation.reference))
    involved += [("generated", sample.compared) for sample in evaluation.samples]
    for role, compared in involved:
        provenance = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            for key, value in compared.provenance.items()
        }
        yield {"role": role, "set": compared, "provenance": provenance}


def _write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(records[0]) if records else [])
        writer.writeheader()
        writer.writerows(records)
