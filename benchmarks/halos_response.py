"""Whether generated boxes follow the universe as true ones do: part `response` of halos.py.

A number y of true and of generated boxes depends on theta = (omega_m, sigma_8) and scatters from box to box, and the scatter of the true boxes would pull down
the slope of a straight line through (true, generated). So the slope is that of two-stage least squares,

    slope = sum_i w_i p_i (g_i - g) / sum_i w_i p_i (y_i - y),

p_i the quadratic polynomial in theta that fits y best, less its mean: an instrument that knows theta but not the scatter. It is 1 where the means of
both agree at each theta, but for a constant. Errors are from 400 bootstrap resamples of the universes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from halo_statistics import PARAMETERS, SYMBOLS, numbers, pm
from matplotlib.figure import Figure

from pcdiff.clouds import PointClouds
from pcdiff.evaluation.style import STYLE, TRUTH, page, panel
from pcdiff.generator import Generator

Floats = npt.NDArray[np.float64]

_DRAWS = 400
_CELLS = 3


def sampled(generator: Generator, truth: PointClouds, repeats: int, seed: int) -> list[PointClouds]:
    """For each of so many sets, one generated box for each true one, of its universe, with a number of halos of its own.

    A universe that lies beyond those of the training data, by a part of the finest step of their hypercube, is taken to be the last of these.
    """
    made = []
    known = [scale.name for scale in generator.transform.clouds]
    ends = {name: generator.multiplicity.quantiles(1 + known.index(name))[[0, -1]] for name in PARAMETERS}
    for at in range(len(truth)):
        theta = {name: float(np.clip(truth.feature(name)[at], *ends[name])) for name in PARAMETERS}
        made.append(generator.sample(repeats, seed=seed + at, conditions=theta))
    return [PointClouds.concatenate([each[k : k + 1] for each in made]) for k in range(repeats)]


def measured(truth: PointClouds, sample: Sequence[PointClouds]) -> dict[str, Any]:
    """Slope, scatter and mean ratio of each number, and the mean ratio in cells of the universe."""
    theta = np.stack([truth.feature(name) for name in PARAMETERS], axis=1).astype(float)
    rng = np.random.default_rng(0)
    # The universes as they are, then resamples of them.
    draws = np.vstack([np.ones(len(truth)), rng.multinomial(len(truth), [1 / len(truth)] * len(truth), _DRAWS)])
    true, made = numbers(truth), [numbers(each) for each in sample]
    cells = _cells(theta)
    found: dict[str, Any] = {"boxes": len(truth), "repeats": len(sample), "rows": {}, "cells": {}}
    found["edges"] = {
        name: np.quantile(theta[:, k], np.linspace(0, 1, _CELLS + 1)).tolist() for k, name in enumerate(PARAMETERS)
    }
    for name, (contents, totals) in true.items():
        each = np.array([one[name] for one in made])
        generated = each[:, 0].sum(axis=0), each[:, 1].sum(axis=0)
        found["rows"][name] = {
            "slope": _with_error(_slopes(theta, (contents, totals), generated, draws)),
            "ratio": _with_error(_ratios((contents, totals), generated, draws)),
            "scatter": _scatter((contents, totals), each),
        }
        found["cells"][name] = [
            _with_error(_ratios((contents, totals), generated, draws * (cells == cell))) for cell in range(_CELLS**2)
        ]
    return found


def _cells(theta: Floats) -> npt.NDArray[np.int64]:
    """The cell of each box: thirds of omega_m, and of sigma_8, which run fastest."""
    ranks = theta.argsort(axis=0).argsort(axis=0) * _CELLS // len(theta)
    return ranks[:, 0] * _CELLS + ranks[:, 1]


def _slopes(theta: Floats, true: tuple[Floats, Floats], made: tuple[Floats, Floats], draws: Floats) -> Floats:
    """The slope in each draw; a box counts in proportion to the totals of the true one."""
    x, y = ((theta - theta.mean(axis=0)) / theta.std(axis=0)).T
    terms = np.stack([np.ones(len(x)), x, y, x * x, x * y, y * y], axis=1)
    values, generated = (contents / np.maximum(totals, 1e-12) for contents, totals in (true, made))
    out = []
    for draw in draws:
        weight = draw * true[1]
        root = np.sqrt(weight)
        fitted = terms @ np.linalg.lstsq(root[:, None] * terms, root * values, rcond=None)[0]
        instrument = weight * (fitted - weight @ fitted / weight.sum())
        out.append(instrument @ generated / (instrument @ values))
    return np.array(out)


def _ratios(true: tuple[Floats, Floats], made: tuple[Floats, Floats], draws: Floats) -> Floats:
    """The ratio of the means in each draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = ((draws @ contents) / (draws @ totals) for contents, totals in (true, made))
        return np.asarray(other / one)


def _scatter(true: tuple[Floats, Floats], each: Floats) -> float | None:
    """Root mean square of (first generated - true) over that of two generated boxes of one universe: 1 where true boxes are such as these.

    None where there is one generated box for each.
    """
    if len(each) < 2:
        return None
    weight = true[1] / true[1].sum()
    values = [contents / np.maximum(totals, 1e-12) for contents, totals in (true, *each[:2])]
    return float(np.sqrt(weight @ (values[1] - values[0]) ** 2 / (weight @ (values[1] - values[2]) ** 2)))


def _with_error(draws: Floats) -> list[float] | None:
    """The first draw, and the standard deviation of the others; None where there are too few boxes or halos for it."""
    kept = draws[1:][np.isfinite(draws[1:])]
    return [float(draws[0]), float(kept.std(ddof=1))] if len(kept) > 0.9 * _DRAWS and np.isfinite(draws[0]) else None


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title: all universes, and cells of them."""
    lines = [["quantity", "slope", "scatter", "mean ratio"]]
    for name, row in found["rows"].items():
        scatter = "-" if row["scatter"] is None else f"{row['scatter']:.2f}"
        lines.append([name, _shown(row["slope"], 3), scatter, _shown(row["ratio"], 3)])
    first, second = (found["edges"][name] for name in PARAMETERS)
    parts = [["omega_m", "sigma_8", *found["cells"]]]
    for cell in range(_CELLS**2):
        i, j = divmod(cell, _CELLS)
        ends = [f"{edges[k]:.2f} to {edges[k + 1]:.2f}" for edges, k in ((first, i), (second, j))]
        parts.append([*ends, *(_shown(values[cell], 2) for values in found["cells"].values())])
    about = f"{found['boxes']} true boxes, {found['repeats']} generated for each"
    return {f"generated against true, {about}": lines, "mean ratio in cells of the universe": parts}


def _shown(value: list[float] | None, digits: int) -> str:
    return "-" if value is None else pm(*value, digits)


def figure(truth: PointClouds, sample: Sequence[PointClouds]) -> Figure:
    """Each number of generated boxes, their mean, against that of the true one of the same universe."""
    true, made = numbers(truth), [numbers(each) for each in sample]
    columns, width, gap = 4, 2.7, 0.75
    rows = -(-len(true) // columns)
    with mpl.rc_context(STYLE):
        drawn = page(1.3 + columns * (width + gap), 0.35 + rows * (width + 0.85))
        for at, (name, (contents, totals)) in enumerate(true.items()):
            i, j = divmod(at, columns)
            axes = panel(
                drawn, 0.75 + j * (width + gap), 0.65 + (rows - 1 - i) * (width + 0.85), width, width, box_aspect=1
            )
            generated = [np.sum([one[name][k] for one in made], axis=0) for k in (0, 1)]
            x, y = contents / np.maximum(totals, 1e-12), generated[0] / np.maximum(generated[1], 1e-12)
            points = axes.scatter(x, y, c=truth.feature("sigma_8"), s=9, cmap="viridis")
            # Of boxes of few halos xi says nothing: their points would set the scale.
            low, high = np.quantile(np.concatenate([x, y]), [0.01, 0.99])
            ends = low - 0.05 * (high - low), high + 0.05 * (high - low)
            axes.plot(ends, ends, color=TRUTH, linewidth=1)
            axes.set(xlim=ends, ylim=ends, title=name)
            axes.set_xlabel("true")
            axes.set_ylabel("generated" if j == 0 else "")
        bar = panel(drawn, 0.8 + columns * (width + gap) - 0.6, 0.65, 0.12, width)
        drawn.colorbar(points, cax=bar, label=SYMBOLS["sigma_8"])
    return drawn
