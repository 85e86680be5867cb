"""Generated clouds against the truth: metrics with errors and floors, figures, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcdiff import __version__
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.marginals import marginal_metrics, wasserstein
from pcdiff.evaluation.memorisation import repetition_metrics
from pcdiff.evaluation.metric import Metric, Resamples
from pcdiff.evaluation.notes import left_out, parts_taken, unit_notes
from pcdiff.evaluation.published import published_metrics
from pcdiff.evaluation.result import ComparedSet, Evaluation, SampleResult
from pcdiff.evaluation.sliced import sliced_wasserstein_metric
from pcdiff.executors import chosen_executors
from pcdiff.files import require_replaceable
from pcdiff.io import iterate, part
from pcdiff.physics import Measured, measure
from pcdiff.seeds import Purpose, stream

__all__ = ["Evaluation", "Metric", "evaluate", "wasserstein"]

if TYPE_CHECKING:
    from pcdiff.evaluation.classifier import ClassifierTest
    from pcdiff.evaluation.classifiers import Kind

Clouds = PointClouds | Iterator[PointClouds] | str | os.PathLike[str]
"""Point clouds, pieces of them one after the other, or a file or glob to read in pieces."""


# What is replaced by a report, and how it is known.
REPORT = "a report", ("index.html", "metrics.json")


def evaluate(
    truth: Clouds,
    samples: Clouds | Mapping[str, Clouds],
    output: str | os.PathLike[str] | None = None,
    *,
    reference: Clouds | None = None,
    training: Clouds | None = None,
    classifiers: Iterable[Kind] = (),
    fpnd: bool = False,
    draws: int = 20,
    seed: int = 0,
    workers: int = 1,
    dask: str | None = None,
    most: int = 100_000,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compare generated samples with the truth, observable by observable and as whole clouds.

    Observables are derived from whatever columns a set stores, so files of different formats can be compared. One that
    cannot be derived for one of two sets is left out, with a note. A set with a cloud column ``weight`` counts its clouds by it. Of a set of
    more than ``most`` clouds a random part is compared, with a note, so that memory is bounded whatever the size of the files.

    Args:
        truth: point clouds, pieces of them, or a file or glob to read.
        samples: one generated sample, or several by name.
        output: folder for the report (``index.html``, ``metrics.json``, ``figures/``, ...), which replaces an older report;
            none is written without it.
        reference: further true clouds, independent of ``truth`` and at least as many as each sample has, to measure the
            truth-versus-truth floor of W1 instead of estimating it by bootstrap.
        training: what the generator learned from, to see whether it repeats it.
        classifiers: kinds of classifiers to tell the samples from the truth: ``"boosted"``, ``"net"``. They take seconds for thousands of clouds.
        fpnd: the distance from real JetNet jets too, with what ``pcdiff data fetch fpnd`` fetches; five seconds for 1,000 jets.
        draws: number of bootstrap resamples, at least 2.
        seed: same seed, same numbers.
        workers: number of processes that compute the observables.
        dask: a cluster that takes their place (:func:`pcdiff.executors.dask_workers`).
        most: how many clouds of each set are used at most.
        progress: called with what is being done, in words.

    Raises:
        DataError: a file cannot be read, values are not physical, sets are of different kinds, a unit is not the
            expected one, the reference is too small, a number is out of range, or ``output`` holds something else than
            an older report.
        PcdiffError: a worker was killed, or no scheduler answers.
    """
    if seed < 0:
        raise DataError(f"seed is {seed}; expected a whole number from 0")
    if most < 1:
        raise DataError(f"most is {most}; expected at least 1 cloud")
    if output is not None:
        require_replaceable(Path(output), *REPORT)
    named = dict(samples) if isinstance(samples, Mapping) else {_name(samples): samples}
    if not named:
        raise DataError("no generated sample given; expected at least one")
    say = progress or (lambda _: None)
    say("measuring the truth")
    # Each set by a stream of its own, so that the same clouds twice are not the same part twice.
    numbers = iter(range(3 + len(named)))

    def some(clouds: Clouds, name: str, like: Measured | None) -> PointClouds:
        return _read(clouds, name, like, most, stream(seed, Purpose.PART, next(numbers)))

    with _pool(workers, dask) as pool:
        true = measure(some(truth, "truth", None), _where(truth, "truth"), pool)
        further = None
        if reference is not None:
            further = measure(some(reference, "reference", true), _where(reference, "reference"), pool)
        learned = None if training is None else some(training, "training", true)
        measured = {}
        for name, given in named.items():
            say(f"measuring {name}")
            measured[name] = measure(some(given, name, true), _where(given, name), pool)
    results, kinds = [], tuple(dict.fromkeys(classifiers))
    for name, sample in measured.items():
        say(f"comparing {name} with the truth")
        tests, refused = _classified(true, sample, kinds, seed)
        resamples = Resamples.draw(true, sample, draws, seed)
        metrics = [
            *marginal_metrics(true, sample, resamples, reference=further),
            *published_metrics(true, sample, resamples, seed=seed, fpnd=fpnd),
            *sliced_wasserstein_metric(true, sample, resamples, seed=seed),
            *repetition_metrics(true, sample, learned, seed=seed),
            *(test.metric() for test in tests),
        ]
        involved = {"truth": true, name: sample} | ({} if further is None else {"reference": further})
        notes = parts_taken(involved, learned) + left_out(involved) + unit_notes(true, sample) + refused
        results.append(SampleResult(ComparedSet.of(name, sample), tuple(metrics), tests, notes, draws))
    evaluation = Evaluation(
        kind=true.kind,
        truth=ComparedSet.of("truth", true),
        reference=None if further is None else ComparedSet.of("reference", further),
        samples=tuple(results),
        draws=draws,
        seed=seed,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        measured_truth=true,
        measured_samples=measured,
    )
    if output is None:
        return evaluation
    # Matplotlib takes a second to import, which numbers alone do not need.
    from pcdiff.evaluation.report import write_report

    say("writing the report")
    folder = Path(output)
    write_report(evaluation, true, measured, folder)
    return replace(evaluation, output=folder)


def _pool(workers: int, dask: str | None) -> AbstractContextManager[Executor | None]:
    """What computes observables, None where this process does."""
    if dask is None and workers == 1:
        return nullcontext()
    # Each process is started when there is work for it.
    return chosen_executors(None if workers == 1 else workers, dask)(workers)


def _classified(
    truth: Measured, sample: Measured, kinds: Sequence[Kind], seed: int
) -> tuple[tuple[ClassifierTest, ...], tuple[str, ...]]:
    """What classifiers find, and a note for each kind that cannot look at these sets."""
    if not kinds:
        return (), ()
    # Imports torch, which takes seconds.
    from pcdiff.evaluation.classifier import classifier_test

    tests, refused = [], []
    for kind in kinds:
        try:
            tests.append(classifier_test(truth, sample, kind=kind, seed=seed))
        except DataError as error:
            refused.append(f"classifier {kind} left out: {error}")
    return tuple(tests), tuple(refused)


def _name(sample: Clouds) -> str:
    return Path(sample).stem if isinstance(sample, (str, os.PathLike)) else "generated"


def _read(clouds: Clouds, name: str, truth: Measured | None, most: int, seed: np.random.SeedSequence) -> PointClouds:
    """Clouds that are given or read, or a part of them; refused when of another kind than the truth."""
    where = _where(clouds, name)
    if isinstance(clouds, PointClouds):
        found = clouds if len(clouds) <= most else part(iter([clouds]), most, seed)
    else:
        found = part(iterate(clouds) if isinstance(clouds, (str, os.PathLike)) else clouds, most, seed)
    if truth is not None and found.schema.kind != truth.kind:
        raise DataError(f"{where}: holds {found.schema.kind}, the truth holds {truth.kind}; they cannot be compared")
    return found


def _where(clouds: Clouds, name: str) -> str:
    return f"{name} ({os.fspath(clouds)})" if isinstance(clouds, (str, os.PathLike)) else name
