"""How a sampler turns noise into clouds: its intermediates, as point clouds that can be written, and as a picture."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.conditions import Asked
from pcdiff.diffusion import Prediction
from pcdiff.errors import DataError
from pcdiff.files import atomic_file
from pcdiff.generator import Generator
from pcdiff.schema import Feature

__all__ = ["draw_trajectory", "trajectory"]

# Times shown side by side, and clouds one above the other at most: a taller picture is none to look at, nor one that can be made.
_COLUMNS = 6
_ROWS = 8


def trajectory(
    generator: Generator,
    n: int = 4,
    *,
    seed: int = 0,
    conditions: Asked | None = None,
    device: str = "auto",
    **sampling: Any,
) -> PointClouds:
    """The first clouds of a request at each step of the sampler.

    Args:
        generator: what makes them.
        n: how many clouds.
        seed, conditions, device: as for :meth:`pcdiff.Generator.sample`, which makes the same clouds at its end.
        sampling: overrides of the generator's default sampler, likewise.

    Returns:
        The intermediates in physical units, points in the same order at each step, with three more cloud features: ``cloud``, the number
        of the cloud in the request; ``step``; and ``time``, the t of the schedule. A step's cloud is what the sampler holds before it; the
        last is the result.

    Raises:
        DataError: a setting is out of range.
    """
    if n < 1:
        raise DataError(f"cannot follow {n} clouds; expected at least 1")
    chosen = generator.choose(**sampling)
    where = pick_device(device)
    generator.denoiser.to(where)
    found = generator.conditions(0, n, seed, conditions)
    noise, mask, cond = generator.batch(0, found, seed)
    seen: list[tuple[float, torch.Tensor]] = []

    def look(_: int, t: torch.Tensor, x: torch.Tensor, __: Prediction) -> None:
        seen.append((float(t), x.cpu()))

    end = generator.solve(noise, mask, cond, np.arange(n), seed, chosen, where, callback=look)
    seen.append((float(generator.grid(chosen)[-1]), end.cpu()))
    provenance = generator.metadata(conditions, seed=seed, n=n, **chosen.model_dump(mode="json"))
    stages = [
        _marked(generator.decode(x.numpy()[mask.numpy()], found, provenance), step, time)
        for step, (time, x) in enumerate(seen)
    ]
    return PointClouds.concatenate(stages)


def _marked(clouds: PointClouds, step: int, time: float) -> PointClouds:
    """The clouds with the features that say which and when."""
    marks = {
        "cloud": (np.arange(len(clouds), dtype=np.int32), "number of the cloud in the request"),
        "step": (np.full(len(clouds), step, np.int32), "step of the sampler"),
        "time": (np.full(len(clouds), time, np.float32), "time of the noise schedule"),
    }
    columns = {name: clouds.column(name) for name in clouds.schema.point_names}
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    schema = replace(
        clouds.schema,
        clouds=(*clouds.schema.clouds, *(Feature(name, "", text) for name, (_, text) in marks.items())),
    )
    marked = features | {name: values for name, (values, _) in marks.items()}
    return PointClouds.from_flat(columns, clouds.offsets, marked, schema, clouds.provenance)


def draw_trajectory(clouds: PointClouds, path: str | os.PathLike[str]) -> Path:
    """A picture of :func:`trajectory`: a row for each of the first eight clouds, from noise on the left to the result on the right.

    Points stand at their first two features; the area of a constituent is in proportion to its ptrel where there is one.

    Args:
        clouds: as :func:`trajectory` gives them.
        path: PNG or PDF file to write.
    """
    from matplotlib.figure import Figure

    names = clouds.schema.point_names
    if len(names) < 2:
        raise DataError(f"a picture needs two point features, found {', '.join(names)}")
    step, cloud = clouds.feature("step"), clouds.feature("cloud")
    shown = _stages(clouds)
    rows = min(int(cloud.max()) + 1, _ROWS)
    figure = Figure(figsize=(1.9 * len(shown), 1.9 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, len(shown), squeeze=False, sharex="col", sharey="row")
    limits = [_limit(clouds.column(name)) for name in names[:2]]
    for i in range(rows):
        for j, k in enumerate(shown):
            part = clouds[(step == k) & (cloud == i)]
            x, y = part.column(names[0]), part.column(names[1])
            size = 300 * np.clip(part.column("ptrel"), 0.003, 0.5) if "ptrel" in names else np.full(len(x), 12.0)
            axis = axes[i, j]
            axis.scatter(x, y, s=size, alpha=0.6, linewidths=0, color="C0")
            axis.set_xlim(-limits[0], limits[0])
            axis.set_ylim(-limits[1], limits[1])
            axis.tick_params(labelsize=7, direction="in", top=True, right=True)
            if i == 0:
                axis.set_title(f"t = {float(part.feature('time')[0]):.3g}", fontsize=9)
            if i == rows - 1:
                axis.set_xlabel(_label(clouds.schema.point(names[0])), fontsize=9)
        axes[i, 0].set_ylabel(_label(clouds.schema.point(names[1])), fontsize=9)
    if "ptrel" in names:
        axes[0, 0].text(0.04, 0.96, "area: ptrel", transform=axes[0, 0].transAxes, va="top", fontsize=7)
    target = Path(path)
    with atomic_file(target) as temporary:
        figure.savefig(temporary, dpi=150, format=target.suffix[1:] or "png")
    return target


def _stages(clouds: PointClouds) -> npt.NDArray[np.int64]:
    """Steps between which the clouds move about equally far, the first and the last among them."""
    steps = int(clouds.feature("step").max()) + 1
    columns = [clouds.column(name).astype(np.float64).reshape(steps, -1) for name in clouds.schema.point_names[:2]]
    moved = sum(np.abs(np.diff(column, axis=0)).mean(axis=1) / (column.std() or 1.0) for column in columns)
    way = np.concatenate([[0.0], np.cumsum(moved)])
    even = np.linspace(0, way[-1], _COLUMNS)
    nearest: npt.NDArray[np.int64] = np.unique(np.abs(way[:, None] - even).argmin(axis=0))
    return nearest


def _limit(values: np.ndarray[Any, Any]) -> float:
    """Half the width of an axis that holds nearly all points."""
    return 1.1 * float(np.quantile(np.abs(values), 0.99)) or 1.0


def _label(feature: Feature) -> str:
    return feature.name + (f" [{feature.unit}]" if feature.unit else "")
