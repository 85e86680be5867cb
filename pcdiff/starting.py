"""What a run has before its first step: weights that are not its own, and a fitted multiplicity model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcdiff.bundle import Settings
from pcdiff.config import MultiplicityConfig
from pcdiff.encodings import Encoding
from pcdiff.errors import ConfigError, DataError, ModelError
from pcdiff.generator import Generator
from pcdiff.multiplicity import Multiplicity, build_multiplicity
from pcdiff.seeds import Purpose, word

__all__ = ["fit_multiplicity", "functions_of", "load_start"]

_log = logging.getLogger(__name__)


def load_start(
    path: str,
    name: str,
    settings: Settings,
    points: Sequence[tuple[str, str]],
    clouds: Sequence[tuple[str, str]],
) -> Generator:
    """The generator whose weights a run begins from.

    Args:
        path: what the config says, as for :meth:`Generator.load`.
        name: that of the run.
        settings: those of the run, which the generator must share but for its sampler and its multiplicity model.
        points, clouds: features of the run and their functions, in the order of the net's inputs.

    Raises:
        ModelError: there is none.
        ConfigError: it has another net, schedule or features than the run.
    """
    start = Generator.load(path)
    compared: tuple[tuple[str, object, object], ...] = (
        ("net", settings.net, start.settings.net),
        ("schedule", settings.schedule, start.settings.schedule),
        ("denoiser", settings.denoiser, start.settings.denoiser),
        # The order of the features is that of the net's inputs.
        ("features.points", list(points), functions_of(start.transform.points)),
        ("features.clouds", list(clouds), functions_of(start.transform.clouds)),
    )
    for key, ours, theirs in compared:
        if ours != theirs:
            raise ConfigError(f"{name}: start: {path} has {key} {theirs}, expected that of the config, {ours}")
    return start


def functions_of(encodings: Sequence[Encoding]) -> list[tuple[str, str]]:
    """Each feature and its function, as a config has them."""
    return [(encoding.name, encoding.function) for encoding in encodings]


def fit_multiplicity(
    run: Path,
    config: MultiplicityConfig,
    clouds: Callable[[], tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.int64]]],
    types: int,
    seed: int,
    *,
    shown: bool,
) -> Multiplicity:
    """The multiplicity model: the run's own where it has one that is whole, or else fitted, which gives the same one again.

    Args:
        run: run folder.
        config: the model's settings.
        clouds: gives what it learns from: number of points (n,), cloud features (n, K) in physical units, position of the type (n,).
        types: how many types there are.
        seed: of first weights and batches.
        shown: show a progress bar.
    """
    if (run / "generator").is_dir():
        try:
            return Generator.load(run).multiplicity
        except (DataError, ModelError) as error:
            _log.warning("%s; the model of the number of points is fitted again", error)
    counts, features, positions = clouds()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(seed, Purpose.MULTIPLICITY))
        model = build_multiplicity(config, features.shape[1], max(1, types))
        columns = (TextColumn("multiplicity"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), expand=True, disable=not shown) as bar:
            task = bar.add_task("", total=config.steps, visible=config.kind == "flow")
            model.fit(counts, features, positions, seed, progress=lambda: bar.advance(task))
    return model
