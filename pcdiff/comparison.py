"""Compare training runs: sample from each, hold all samples against one truth, and report them side by side."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, RunConfig, flat, load_any
from pcdiff.errors import DataError
from pcdiff.evaluation import REPORT, Evaluation, evaluate
from pcdiff.evaluation.classifiers import Kind
from pcdiff.evaluation.loss import Losses
from pcdiff.evaluation.report import write_report
from pcdiff.evaluation.runs import RunSummary
from pcdiff.files import require_replaceable
from pcdiff.generator import Generator
from pcdiff.records import read_run
from pcdiff.resources import named_folder
from pcdiff.training_data import read_clouds

__all__ = ["compare_runs"]


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    truth: PointClouds | str | os.PathLike[str] | None = None,
    count: int = 10_000,
    classifiers: Iterable[Kind] = (),
    fpnd: bool = False,
    draws: int = 20,
    seed: int = 0,
    device: str = "auto",
    workers: int = 1,
    dask: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Sample from the generator of each run with one seed and evaluate all samples against one truth.

    The report is that of :func:`pcdiff.evaluation.evaluate` with a section about the runs: the settings in which they differ,
    their sizes and losses, and how long sampling took.

    Args:
        runs: at least two run folders, or names of generators that come with pcdiff (:func:`pcdiff.resources.pretrained`), whose
            truth must be named; a sample is called by the name of its folder, with folders above it where names are equal.
        output: folder for the report, which replaces an older report.
        truth: point clouds, or a file or glob to read; the validation clouds of the runs that were trained on data when absent.
        count: number of clouds to sample from each run.
        classifiers, fpnd, draws, workers, dask: as in :func:`~pcdiff.evaluation.evaluate`.
        seed: of sampling and of resampling.
        device: to sample on; see :func:`pcdiff.bundle.pick_device`.
        progress: called now and then with the number of clouds made since the last call.

    Raises:
        DataError: fewer than two runs, or one named twice; runs without a truth that have other validation data than one another, or
            none, or whose validation data have changed; and all that :func:`~pcdiff.evaluation.evaluate` raises.
        ModelError: a folder without a generator.
    """
    folders = [named_folder(run) for run in runs]
    names = _names(folders)
    require_replaceable(Path(output), *REPORT)
    configs = [load_any(folder) for folder in folders]
    generators = [Generator.load(folder) for folder in folders]
    if truth is None:
        truth = _common_validation(folders, configs)
    samples, summaries = {}, []
    for name, folder, config, generator in zip(names, folders, configs, generators, strict=True):
        start = time.monotonic()
        samples[name] = generator.sample(count, seed=seed, device=device, progress=progress)
        took = time.monotonic() - start
        summaries.append(
            RunSummary(
                name=name,
                folder=str(folder),
                settings=flat(config),
                parameters=sum(parameter.numel() for parameter in generator.denoiser.net.parameters()),
                steps=generator.provenance.get("steps", 0),
                losses=Losses.read(folder),
                seconds_per_cloud=took / count,
                device=pick_device(device).type,
            )
        )
    evaluation = evaluate(
        truth, samples, classifiers=classifiers, fpnd=fpnd, draws=draws, seed=seed, workers=workers, dask=dask
    )
    assert evaluation.measured_truth is not None
    write_report(evaluation, evaluation.measured_truth, evaluation.measured_samples, Path(output), runs=summaries)
    return replace(evaluation, output=Path(output))


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make all names different."""
    parts = [folder.resolve().parts for folder in folders]
    if len(folders) < 2:
        raise DataError(f"found {len(folders)} runs; expected at least two, since one is compared by pcdiff evaluate")
    twice = next((str(folder) for i, folder in enumerate(folders) if parts[i] in parts[:i]), None)
    if twice is not None:
        raise DataError(f"{twice}: is named twice; expected different runs")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _common_validation(folders: Sequence[Path], configs: Sequence[RunConfig]) -> PointClouds:
    """The validation clouds that all runs had; distilled ones had none of their own."""
    trained = [(folder, config) for folder, config in zip(folders, configs, strict=True) if isinstance(config, Config)]
    if not trained:
        raise DataError(
            f"{folders[0]}: was distilled, as all others were, so there are no validation data; name a truth"
        )
    alone = next((folder for folder, _ in trained if not (folder / "run.json").is_file()), None)
    if alone is not None:
        raise DataError(f"{alone}: has no run.json that tells its validation data from others; name a truth")
    expected = [read_run(folder).get("data_fingerprint", {}).get("validation") for folder, _ in trained]
    files = [", ".join(config.data.validation) for _, config in trained]
    (first, chosen), *others = trained
    for (folder, _), fingerprint, file in zip(others, expected[1:], files[1:], strict=True):
        if fingerprint != expected[0]:
            raise DataError(
                f"{folder}: its validation data ({file}) are not those of {first} ({files[0]}); name a truth for all of them"
            )
    found = read_clouds(chosen, chosen.data.validation, Path(tempfile.gettempdir()))
    if found.fingerprint() != expected[0]:
        raise DataError(f"{files[0]}: has changed since {first} was trained; name a truth for all runs")
    return found
