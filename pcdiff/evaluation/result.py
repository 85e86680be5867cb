"""The outcome of an evaluation: every number, and the table that people read."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from pcdiff.evaluation.metrics import Metric
from pcdiff.physics import Measured

__all__ = ["SIGNIFICANT", "ComparedSet", "Evaluation", "Row", "SampleResult"]

# A pull beyond this is called a difference from the truth.
SIGNIFICANT = 3.0


@dataclass(frozen=True)
class ComparedSet:
    """One set of clouds that took part: its name, its size and where it came from."""

    name: str
    clouds: int
    points: int
    provenance: dict[str, Any]

    @classmethod
    def of(cls, name: str, measured: Measured) -> ComparedSet:
        """The description of a set whose observables were measured."""
        return cls(name, len(measured), int(measured.counts.sum()), measured.provenance)


@dataclass(frozen=True)
class SampleResult:
    """One generated sample against the truth.

    Attributes:
        compared: which sample.
        metrics: its distances.
        notes: which observables were left out, and why.
    """

    compared: ComparedSet
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]

    @property
    def different(self) -> tuple[Metric, ...]:
        """The metrics beyond the floor by more than :data:`SIGNIFICANT` standard deviations, the worst first."""
        pulls = {metric: math.inf if metric.pull is None else metric.pull for metric in self.metrics}
        beyond = [metric for metric in self.metrics if pulls[metric] > SIGNIFICANT]
        return tuple(sorted(beyond, key=lambda metric: -pulls[metric]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line that names the metrics for which there are too few clouds; none where there are enough."""
        weak = [metric for metric in self.metrics if metric.warning]
        if not weak:
            return ()
        sizes = f"{weak[0].sample_size:,} generated and {weak[0].truth_size:,} true"
        return (f"too few clouds ({sizes}) to tell a small difference in: {'; '.join(m.title for m in weak)}",)


class Row(NamedTuple):
    """One line of the table, as text: all numbers of a metric in one power of ten."""

    metric: str
    sample: str
    generated: str
    floor: str
    pull: str
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
                    "notes": list(sample.notes),
                }
                for sample in self.samples
            ],
        }

    def rows(self) -> Iterator[Row]:
        """The lines of the table: metric by metric, one line a sample."""
        titles = {metric.name: metric.title for sample in self.samples for metric in sample.metrics}
        for name in titles:
            found = [(s.compared.name, metric) for s in self.samples for metric in s.metrics if metric.name == name]
            exponent = min(_exponent(metric) for _, metric in found)
            for sample, metric in found:
                scale = [f"1e{exponent}"] if exponent else []
                unit = " ".join(scale + ([metric.unit] if metric.unit else []))
                beyond = metric.pull is None or metric.pull > SIGNIFICANT
                yield Row(
                    metric=metric.title + (f" [{unit}]" if unit else ""),
                    sample=sample,
                    generated=_with_error(metric.value, metric.error, exponent),
                    floor=_with_error(metric.floor, metric.floor_error, exponent),
                    pull="∞" if metric.pull is None else f"{metric.pull:+.1f}",
                    different=beyond,
                )

    def table(self) -> Table:
        """The table for a terminal; ``str(evaluation)`` is the same in plain text."""
        several = len(self.samples) > 1
        table = Table(title=self._headline(), title_justify="left", caption=self._explanation(), caption_justify="left")
        table.add_column("metric")
        if several:
            table.add_column("sample")
        for heading in ("generated ± error", "truth floor ± error", "pull"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows():
            cells = [row.metric, *([row.sample] if several else []), row.generated, row.floor, row.pull]
            table.add_row(*cells, style="bold red" if row.different else None)
        return table

    def __repr__(self) -> str:
        """One line: the samples, the number of metrics, and which of them differ from the truth."""
        found = []
        for sample in self.samples:
            names = ", ".join(metric.name for metric in sample.different) or "none"
            found.append(f"{sample.compared.name}: {len(sample.metrics)} metrics, different: {names}")
        return f"<Evaluation {self._headline()}; {'; '.join(found)}>"

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        several = len(self.samples) > 1
        headings = ["metric", *(["sample"] if several else []), "generated ± error", "truth floor ± error", "pull"]
        lines = []
        for row in self.rows():
            cells = [row.metric, *([row.sample] if several else []), row.generated, row.floor, row.pull]
            style = ' style="color: #b3261e; font-weight: bold"' if row.different else ""
            lines.append(f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
        head = "".join(f"<th>{heading}</th>" for heading in headings)
        explanation = "<br>".join(map(html.escape, self._explanation().splitlines()))
        return (
            f"<p>{html.escape(self._headline())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
            f"<p>{explanation}</p>"
        )

    def _headline(self) -> str:
        samples = ", ".join(f"{sample.compared.name} ({sample.compared.clouds:,})" for sample in self.samples)
        return f"{samples} against {self.truth.clouds:,} true {self.kind}"

    def _explanation(self) -> str:
        lines = [
            f"pull = (generated - floor) / combined error; above {SIGNIFICANT:g} the sample differs from the truth"
        ]
        for sample in self.samples:
            lines += [f"{sample.compared.name}: {text}" for text in (*sample.notes, *sample.warnings)]
        return "\n".join(lines)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()


def _exponent(metric: Metric) -> int:
    """A power of ten, a multiple of three and at most 0, in which the floor is at least about 0.01."""
    size = metric.floor or metric.value
    return min(0, 3 * math.floor((math.log10(size) + 2) / 3)) if size > 0 else 0


def _with_error(value: float, error: float, exponent: int) -> str:
    """Value and error in units of 10^exponent, to two digits of the error."""
    value, error = value / 10**exponent, error / 10**exponent
    digits = min(max(0, 1 - math.floor(math.log10(error))), 4) if error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"
