"""The loss curves of runs."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pcdiff.evaluation.style import (
    LEGEND_LINE,
    STYLE,
    colour,
    legend_above,
    legend_rows,
    line,
    marker,
    page,
    panel,
    plain,
)
from pcdiff.files import atomic_file
from pcdiff.records import read_metrics

__all__ = ["Losses", "loss_curve", "loss_figure"]

# Of the steps, those at the start that do not decide how far up the axis goes: they are many times higher.
_START = 20


@dataclass(frozen=True)
class Losses:
    """The losses of a run.

    Attributes:
        training: optimiser step -> mean loss since the point before.
        validation: optimiser step -> loss of the validation clouds under the averaged weights.
    """

    training: dict[int, float]
    validation: dict[int, float]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Losses:
        """Of a run, from its ``metrics.jsonl``, or of a generator that comes with pcdiff, from its ``training_log.csv``.

        A last line that has no end is left out, for it is still being written.
        """
        metrics, log = Path(folder) / "metrics.jsonl", Path(folder) / "training_log.csv"
        if log.is_file():
            with log.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            training, validation = (
                {int(row["step"]): float(row[name]) for row in rows if row[name]}
                for name in ("training_loss", "validation_loss")
            )
            return cls(training, validation)
        lines = read_metrics(metrics)
        return cls(
            *(
                {each.step: each.metrics[key] for each in lines if key in each.metrics}
                for key in ("loss/train", "loss/validation")
            )
        )


def loss_figure(runs: Mapping[str, Losses]) -> Figure:
    """Training and validation loss of one or more runs against the step: lines and points of one colour a run.

    Args:
        runs: name in the legend -> losses.
    """
    several = len(runs) > 1
    labels = [
        f"{f'{plain(name)}, ' if several else ''}{what}"
        for name in runs
        for what in ("training", "validation (averaged weights)")
    ]
    above = LEGEND_LINE * legend_rows(labels) + 0.1
    with mpl.rc_context(STYLE):
        sheet = page(6.3, 4.1 + above)
        axes = panel(sheet, 0.95, 0.62, 5.05, 3.4)
        for place, losses in enumerate(runs.values()):
            style: dict[str, Any] = {"color": colour(place), "linewidth": 1.0}
            axes.plot(*_points(losses.training), line(place), alpha=0.5, label=labels[2 * place], **style)
            dots: dict[str, Any] = {"marker": marker(place), "markersize": 4}
            axes.plot(*_points(losses.validation), line(place), label=labels[2 * place + 1], **dots, **style)
        _zoom(axes, list(runs.values()))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.yaxis.set_label_coords(-0.135, 0.5)
        legend_above(axes)
    return sheet


def loss_curve(run: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Draw training and validation loss against the step.

    Args:
        run: its folder.
        output: a PNG file.
    """
    with atomic_file(output) as temporary:
        loss_figure({"": Losses.read(run)}).savefig(temporary, format="png")


def _points(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())


def _zoom(axes: Any, runs: list[Losses]) -> None:
    """Cut off the first steps of long runs, which would flatten the rest."""
    tops = []
    for losses in runs:
        late = sorted(list(losses.training.values())[len(losses.training) // _START :])
        if len(late) <= _START:
            return
        tops.append(1.02 * late[int(0.99 * len(late))])
    axes.set_ylim(top=max(tops))
