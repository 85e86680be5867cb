"""Generated clouds against the truth: metrics with errors and floors, figures, and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pcdiff import __version__
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.metrics import Metric, compare, unit_notes, wasserstein
from pcdiff.evaluation.result import ComparedSet, Evaluation, SampleResult
from pcdiff.io import read
from pcdiff.physics import Measured, measure, observables

__all__ = ["Evaluation", "Metric", "compare", "evaluate", "wasserstein"]

Clouds = PointClouds | str | os.PathLike[str]


def evaluate(
    truth: Clouds,
    samples: Clouds | Mapping[str, Clouds],
    output: str | os.PathLike[str] | None = None,
    *,
    reference: Clouds | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Evaluation:
    """Compare generated samples with the truth, observable by observable.

    Observables are derived from whatever columns a set stores, so files of different formats can be compared. One that
    cannot be derived for one of two sets is left out, with a note.

    Args:
        truth: point clouds, or a file or glob to read.
        samples: one generated sample, or several by name.
        output: folder for the report (``index.html``, ``metrics.json``, ``figures/``), which replaces an older report;
            none is written without it.
        reference: further true clouds, independent of ``truth`` and at least as many as each sample has, to measure the
            truth-versus-truth floor instead of estimating it by bootstrap.
        draws: number of bootstrap resamples, at least 2.
        seed: same seed, same numbers.

    Raises:
        DataError: a file cannot be read, values are not physical, sets are of different kinds, a unit is not the
            expected one, the reference is too small, a number is out of range, or ``output`` holds something else than
            an older report.
    """
    if seed < 0:
        raise DataError(f"seed is {seed}; expected a whole number from 0")
    if output is not None:
        _require_replaceable(Path(output))
    named = dict(samples) if isinstance(samples, Mapping) else {_name(samples): samples}
    if not named:
        raise DataError("no generated sample given; expected at least one")
    true = _measure(truth, "truth", None)
    further = None if reference is None else _measure(reference, "reference", true)
    measured = {name: _measure(sample, name, true) for name, sample in named.items()}
    evaluation = Evaluation(
        kind=true.kind,
        truth=ComparedSet.of("truth", true),
        reference=None if further is None else ComparedSet.of("reference", further),
        samples=tuple(
            SampleResult(
                ComparedSet.of(name, sample),
                tuple(compare(true, sample, reference=further, draws=draws, seed=seed)),
                _left_out({"truth": true, name: sample} | ({} if further is None else {"reference": further}))
                + unit_notes(true, sample),
            )
            for name, sample in measured.items()
        ),
        draws=draws,
        seed=seed,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if output is None:
        return evaluation
    # Matplotlib takes a second to import, which numbers alone do not need.
    from pcdiff.evaluation.report import write_report

    folder = Path(output)
    write_report(evaluation, true, measured, folder)
    return replace(evaluation, output=folder)


def _require_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything but a report, before hours are spent on one that cannot be put there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder for the report")
    if folder.resolve() == Path.cwd():
        raise DataError(f"{folder}: is the working directory, which cannot be replaced; name a folder inside it")
    found = {path.name for path in folder.iterdir()}
    if found and not {"index.html", "metrics.json"} <= found:
        raise DataError(f"{folder}: is a folder with other things than a report, expected a new or an empty one")


def _name(sample: Clouds) -> str:
    return "generated" if isinstance(sample, PointClouds) else Path(sample).stem


def _measure(clouds: Clouds, name: str, truth: Measured | None) -> Measured:
    """Observables of clouds that are given or read; refused when of another kind than the truth."""
    where = name if isinstance(clouds, PointClouds) else f"{name} ({os.fspath(clouds)})"
    found = clouds if isinstance(clouds, PointClouds) else read(clouds)
    if truth is not None and found.schema.kind != truth.kind:
        raise DataError(f"{where}: holds {found.schema.kind}, the truth holds {truth.kind}; they cannot be compared")
    return measure(found, where)


def _left_out(sets: Mapping[str, Measured]) -> tuple[str, ...]:
    """One note for each observable that one of the sets lacks."""
    kind = next(iter(sets.values())).kind
    return tuple(
        f"{observable.title} left out: {name} has {measured.missing[observable.name]}"
        for observable in observables(kind).values()
        for name, measured in sets.items()
        if observable.name in measured.missing
    )
