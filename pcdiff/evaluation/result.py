"""The outcome of an evaluation: every number, and the table that people read."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from scipy.stats import t

from pcdiff.errors import DataError, suggest
from pcdiff.evaluation.metric import Metric
from pcdiff.physics import Measured, noun, observables, profiles, titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcdiff.evaluation.classifier import ClassifierTest

__all__ = ["ComparedSet", "Evaluation", "Marginal", "Row", "SampleResult", "common_exponent", "with_error"]

# The chance that a sample of the truth is called different at all, whatever the number of metrics.
_FALSE_ALARM = 0.01
# Numbers from here on are written with a power of ten of their own.
_LONG = 1e6


@dataclass(frozen=True)
class ComparedSet:
    """One set of clouds that took part: its name, its size and where it came from.

    Attributes:
        name: in tables and legends.
        clouds: their number.
        points: number of points of all clouds together.
        effective: number of clouds of equal weight that tell as much; that of the clouds when they have no weights.
        provenance: plain data.
    """

    name: str
    clouds: int
    points: int
    effective: float
    provenance: dict[str, Any]

    @classmethod
    def of(cls, name: str, measured: Measured) -> ComparedSet:
        """The description of a set whose observables were measured."""
        return cls(name, len(measured), int(measured.counts.sum()), measured.effective_size, measured.provenance)


@dataclass(frozen=True)
class SampleResult:
    """One generated sample against the truth.

    Attributes:
        compared: which sample.
        metrics: its comparisons with the truth.
        classifiers: how well classifiers tell it from the truth, if they were asked.
        notes: which observables were left out, and why.
        draws: number of bootstrap resamples.
    """

    compared: ComparedSet
    metrics: tuple[Metric, ...]
    classifiers: tuple[ClassifierTest, ...]
    notes: tuple[str, ...]
    draws: int

    @property
    def threshold(self) -> float:
        """A pull beyond this is called a difference: of samples of the truth one in a hundred would have any pull beyond it.

        For as many pulls as there are metrics (Bonferroni), each following Student's t distribution, since the errors that it is
        made with are themselves known only as well as ``draws`` resamples tell.
        """
        return float(t.isf(_FALSE_ALARM / max(len(self.metrics), 1), self.draws - 1))

    @property
    def different(self) -> tuple[Metric, ...]:
        """The metrics whose pull is beyond :attr:`threshold`, the worst first."""
        beyond = [metric for metric in self.metrics if _size(metric) > self.threshold]
        return tuple(sorted(beyond, key=lambda metric: -_size(metric)))

    @property
    def blamed(self) -> tuple[str, ...]:
        """The observables and profiles that differ, by their largest pull: what gives the sample away, the worst first."""
        return tuple(dict.fromkeys(metric.about for metric in self.different if metric.about))

    def metric(self, name: str) -> Metric | None:
        """The metric of this name, if there is one."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line that names the metrics for which there are too few clouds; none where there are enough."""
        weak = [metric for metric in self.metrics if metric.warning]
        if not weak:
            return ()
        sizes = f"{weak[0].sample_size:,} generated and {weak[0].truth_size:,} true"
        return (f"too few clouds ({sizes}) to tell a small difference in: {'; '.join(m.title for m in weak)}",)


def _size(metric: Metric) -> float:
    return math.inf if metric.pull is None else metric.pull


class Row(NamedTuple):
    """One line of the table of metrics, as text: all numbers of a metric in one power of ten."""

    metric: str
    sample: str
    generated: str
    floor: str
    pull: str
    different: bool


class Marginal(NamedTuple):
    """One line of the table of observables, as text: its W1 as in :class:`Row`, and the pulls of what compares it in bins."""

    name: str
    observable: str
    sample: str
    generated: str
    floor: str
    pull: str
    triangular: str
    chi_squared: str
    different: bool


@dataclass(frozen=True)
class Evaluation:
    """Generated samples against the truth.

    Attributes:
        kind: ``"jets"``, ...
        truth: the true clouds.
        reference: further true clouds that gave the floor, if any.
        samples: one result a generated sample.
        draws: number of bootstrap resamples.
        seed: of the resampling.
        version: that of pcdiff.
        created: date and time, ISO 8601, UTC.
        output: folder of the report, if one was written.
        measured_truth: the observables of the true clouds, which figures are made from.
        measured_samples: those of each sample, by name.
    """

    kind: str
    truth: ComparedSet
    reference: ComparedSet | None
    samples: tuple[SampleResult, ...]
    draws: int
    seed: int
    version: str
    created: str
    output: Path | None = None
    measured_truth: Measured | None = field(default=None, repr=False, compare=False)
    measured_samples: Mapping[str, Measured] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain data for JSON."""
        return {
            "pcdiff": self.version,
            "created": self.created,
            "kind": self.kind,
            "draws": self.draws,
            "seed": self.seed,
            "truth": asdict(self.truth),
            "reference": asdict(self.reference) if self.reference else None,
            "samples": [
                {
                    **asdict(sample.compared),
                    "metrics": {metric.name: metric.to_dict() for metric in sample.metrics},
                    "threshold": sample.threshold,
                    "different": [metric.name for metric in sample.different],
                    "blamed": list(sample.blamed),
                    "classifiers": [test.to_dict() for test in sample.classifiers],
                    "notes": list(sample.notes),
                }
                for sample in self.samples
            ],
        }

    def records(self) -> list[dict[str, Any]]:
        """One flat record a sample and metric, for a CSV file or ``pandas.DataFrame(evaluation.records())``."""
        return [
            {"sample": sample.compared.name, **metric.to_dict(), "different": _size(metric) > sample.threshold}
            for sample in self.samples
            for metric in sample.metrics
        ]

    def rows(self) -> Iterator[Row]:
        """The lines of the table of metrics: those of the literature, then others of whole clouds; one line a sample."""
        for group in ("published", "clouds"):
            names = [metric.name for metric in self._all() if metric.group == group]
            for name in dict.fromkeys(names):
                found = [
                    (sample, metric) for sample in self.samples for metric in sample.metrics if metric.name == name
                ]
                exponent = min(common_exponent(metric) for _, metric in found)
                for sample, metric in found:
                    yield Row(
                        _with_unit(metric.title, exponent, metric.unit),
                        sample.compared.name,
                        *_numbers(metric, exponent),
                        different=metric in sample.different,
                    )

    def marginals(self) -> Iterator[Marginal]:
        """The lines of the table of observables: one line a sample."""
        for name, title in titles(self.kind).items():
            found = [sample for sample in self.samples if any(metric.about == name for metric in sample.metrics)]
            distances = [metric for sample in found if (metric := sample.metric(f"w1_{name}"))]
            exponent = min(map(common_exponent, distances), default=0)
            unit = distances[0].unit if distances else ""
            for sample in found:
                distance = sample.metric(f"w1_{name}")
                yield Marginal(
                    name,
                    _with_unit(title, exponent, unit),
                    sample.compared.name,
                    *(("", "", "") if distance is None else _numbers(distance, exponent)),
                    triangular=_pull(sample.metric(f"triangular_{name}") or sample.metric(f"deviation_{name}")),
                    chi_squared=_pull(sample.metric(f"chi2_{name}")),
                    different=name in sample.blamed,
                )

    def _all(self) -> Iterator[Metric]:
        for sample in self.samples:
            yield from sample.metrics

    def figure(self, name: str) -> Figure:
        """The picture of one observable or profile, with all samples: ``evaluation.figure("mass")``.

        Raises:
            DataError: there is none of this name, or the truth does not have it.
        """
        from pcdiff.evaluation.plots import figure, profile_figure

        truth, samples = self.measured_truth, self.measured_samples
        if truth is not None and name in truth.values:
            return figure(observables(self.kind)[name], truth, samples)
        if truth is not None and name in truth.profiles:
            return profile_figure(profiles(self.kind)[name], truth, samples)
        known = [] if truth is None else [*truth.values, *truth.profiles]
        raise DataError(f"no figure of {name!r}: {suggest(name, known)}")

    def tables(self) -> tuple[Table, Table]:
        """The tables of metrics and of observables for a terminal; ``str(evaluation)`` is the same in plain text."""
        found = []
        for rows, headings, caption in self._plain_tables():
            table = Table(title=self._headline(), title_justify="left", caption=caption, caption_justify="left")
            for number, heading in enumerate(headings):
                is_text = number < len(headings) - (3 if rows and isinstance(rows[0], Row) else 5)
                table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
            for row in rows:
                table.add_row(*self._cells(row), style="bold red" if row.different else None)
            found.append(table)
        return found[0], found[1]

    def _plain_tables(self) -> Iterator[tuple[list[Row] | list[Marginal], list[str], str]]:
        """Lines, headings and caption of both tables."""
        sample = ["sample"] if len(self.samples) > 1 else []
        numbers = ["generated ± error", "truth floor ± error", "pull"]
        yield list(self.rows()), ["metric", *sample, *numbers], ""
        headings = ["W1 of", *sample, *numbers, "pull of triangular\nor deviation", "of chi-squared"]
        yield list(self.marginals()), headings, self._explanation()

    def _cells(self, row: Row | Marginal) -> list[str]:
        """The cells of a line; the name of the sample only where there are several."""
        cells = [str(cell) for cell in (row[1:-1] if isinstance(row, Marginal) else row[:-1])]
        return cells if len(self.samples) > 1 else [cells[0], *cells[2:]]

    def __repr__(self) -> str:
        """One line: the samples, the number of metrics, and what gives them away."""
        found = []
        for sample in self.samples:
            names = ", ".join(metric.name for metric in sample.different[:5]) or "none"
            more = f" and {len(sample.different) - 5} more" if len(sample.different) > 5 else ""
            found.append(f"{sample.compared.name}: {len(sample.metrics)} metrics, different: {names}{more}")
        return f"<Evaluation {self._headline()}; {'; '.join(found)}>"

    def _repr_html_(self) -> str:
        """The tables for a notebook."""
        parts = [f"<p>{html.escape(self._headline())}</p>"]
        for rows, headings, caption in self._plain_tables():
            lines = []
            for row in rows:
                style = ' style="color: #b3261e; font-weight: bold"' if row.different else ""
                lines.append(f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in self._cells(row))}</tr>")
            head = "".join(f"<th>{heading}</th>" for heading in headings)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>")
            parts.append(f"<p>{'<br>'.join(map(html.escape, caption.splitlines()))}</p>" if caption else "")
        return "".join(parts)

    def _headline(self) -> str:
        samples = ", ".join(f"{sample.compared.name} ({sample.compared.clouds:,})" for sample in self.samples)
        return f"{samples} against {self.truth.clouds:,} true {noun(self.kind)}"

    def _explanation(self) -> str:
        lines = ["pull = (generated - floor) / combined error, positive where the sample is worse than truth"]
        for sample in self.samples:
            name, verdict = sample.compared.name, "no difference from the truth found"
            if sample.different:
                verdict = f"differs from the truth, first in {sample.different[0].title}"
            lines.append(f"{name}: {verdict} (pulls above {sample.threshold:.1f} of {len(sample.metrics)} count)")
            lines += [f"{name}: {text}" for text in (*sample.notes, *sample.warnings)]
        return "\n".join(lines)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(*self.tables(), sep="\n\n")
        return captured.get()


def _with_unit(title: str, exponent: int, unit: str) -> str:
    scale = " ".join(([f"1e{exponent}"] if exponent else []) + ([unit] if unit else []))
    return f"{title} [{scale}]" if scale else title


def _numbers(metric: Metric, exponent: int) -> tuple[str, str, str]:
    return (
        with_error(metric.value, metric.error, exponent),
        with_error(metric.floor, metric.floor_error, exponent),
        _pull(metric),
    )


def _pull(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return "∞" if metric.pull is None else f"{metric.pull:+.1f}"


def common_exponent(metric: Metric) -> int:
    """A power of ten, a multiple of three and at most 0, in which the floor is at least about 0.01."""
    size = abs(metric.floor) or abs(metric.value)
    return min(0, 3 * math.floor((math.log10(size) + 2) / 3)) if size > 0 else 0


def with_error(value: float, error: float, exponent: int) -> str:
    """Value and error in units of 10^exponent, to two digits of the error; the value alone where it has none.

    >>> with_error(0.01234, 0.00056, -3)
    '12.34 ± 0.56'
    """
    value, error = value / 10**exponent, error / 10**exponent
    if error == 0:
        return f"{value:.4g}"
    if max(abs(value), error) >= _LONG:
        return f"{value:.2g} ± {error:.2g}"
    digits = min(max(0, 1 - math.floor(math.log10(error))), 4)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
