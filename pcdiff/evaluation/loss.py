"""The loss curve of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pcdiff.files import atomic_file

__all__ = ["loss_curve"]


def loss_curve(metrics: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Draw training and validation loss against the step.

    Args:
        metrics: a run's ``metrics.jsonl``.
        output: a PNG file.
    """
    lines = [json.loads(line) for line in Path(metrics).read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("loss/train", "training (mean since the point before)", {"color": "#9ecae1", "linewidth": 1}),
        ("loss/validation", "validation (averaged weights)", {"color": "#d95f02", "marker": "o", "markersize": 4}),
    )
    for key, label, style in curves:
        points = [(line["step"], line["metrics"][key]) for line in lines if key in line["metrics"]]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    shown = sorted(
        line["metrics"]["loss/train"] for line in lines[len(lines) // 20 :] if "loss/train" in line["metrics"]
    )
    if len(shown) > 20:
        # The first steps are many times higher and would flatten the rest.
        axes.set_ylim(top=shown[int(0.99 * len(shown))] * 1.02)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    with atomic_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
