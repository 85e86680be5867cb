"""Posteriors of held-out boxes, and whether they hold the truth as often as they say: part `posterior` of halos.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from halo_statistics import PARAMETERS, SYMBOLS, pm
from matplotlib.figure import Figure
from scipy import optimize, stats

import pcdiff
from pcdiff.allocator import keep_freed_memory
from pcdiff.bundle import pick_device
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.style import STYLE, TRUTH, colour, line, marker, page, panel
from pcdiff.generator import Generator
from pcdiff.inference import Posterior, posteriors
from pcdiff.physics.halos import log10_mass

Floats = npt.NDArray[np.float64]

LEVELS = (0.68, 0.95)
_TABLE = 121
# Of the mass function: log10 M, and degrees of the polynomials in each parameter of the mean and of the logarithm of the variance.
_MASSES = np.array([13.322, 13.5, 13.7, 13.95, 14.25, 16.0])
_MEAN, _VARIANCE = 4, 2
_BINS = 10
METHODS = {"halos": "all halos", "mass_function": "mass function alone", "number": "number of halos alone"}


def told(posterior: Posterior, box: PointClouds) -> dict[str, Any]:
    """What is kept of the posterior of one box."""
    true = {name: float(box.feature(name)[0]) for name in PARAMETERS}
    return {
        "truth": true,
        "halos": int(box.counts[0]),
        "mean": {name: posterior.mean(name) for name in PARAMETERS},
        "std": {name: posterior.std(name) for name in PARAMETERS},
        "rank": {name: posterior.rank(name, value) for name, value in true.items()},
        "credibility": posterior.credibility([true[name] for name in posterior.names]),
    }


def inferred(
    generator: str, file: Path, test: PointClouds, kept: Path, levels: int, workers: int, device: str
) -> list[dict[str, Any]]:
    """The posterior of each box in a file, each added to another file as soon as it is known; what is there is taken from there.

    Raises:
        DataError: the file holds posteriors of another generator, other boxes or levels.
    """
    about = {
        "weights": Generator.load(generator).provenance["files"]["denoiser.safetensors"],
        "levels": levels,
    }
    found: dict[int, dict[str, Any]] = {}
    if kept.is_file():
        # A last line that a kill cut short is made again.
        for text in kept.read_text().splitlines(keepends=True):
            if text.endswith("\n"):
                row = json.loads(text)
                if row["of"] != about:
                    raise DataError(
                        f"{kept}: holds posteriors of {row['of']}, expected {about}; remove it to begin anew"
                    )
                found[row["box"]] = row
    for box, row in found.items():
        if box < len(test) and row["fingerprint"] != test[box : box + 1].fingerprint():
            raise DataError(f"{kept}: box {box} is not that of {file}; remove it to begin anew")
    missing = [box for box in range(len(test)) if box not in found]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(json.dumps(row) + "\n" for row in found.values()))
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (generator, file, len(test), device)) as pool:
        for done in as_completed([pool.submit(_one, box, levels) for box in missing]):
            row = done.result() | {"of": about}
            found[row["box"]] = row
            with kept.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    return [found[box] for box in range(len(test))]


_held: dict[str, Any] = {}


def _prepare(generator: str, file: Path, count: int, device: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    _held["device"] = pick_device(device)
    _held["generator"], _held["boxes"] = Generator.load(generator), pcdiff.read(file)[:count]


def _one(number: int, levels: int) -> dict[str, Any]:
    box = _held["boxes"][number : number + 1]
    device: torch.device = _held["device"]
    (posterior,) = posteriors(
        _held["generator"], box, features=PARAMETERS, levels=levels, seed=number, device=str(device)
    )
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a core ({device.type})"
    return {"box": number, "fingerprint": box.fingerprint(), "on": on, **told(posterior, box)}


class MassFunction:
    """A Gaussian likelihood of the numbers of halos in bins of mass, with means and variances that depend on the universe.

    Of counts n the values y = 2 sqrt(n + 3/8) have a variance near 1 for a Poisson law of any mean (Anscombe, Biometrika 35 (1948) 246). Their
    means are polynomials of (omega_m, sigma_8) by least squares; the logarithms of the variances of the residuals are polynomials of greatest
    likelihood; the correlation of the residuals, in units of their standard deviations, is one matrix.

    Args:
        train: boxes of a hypercube of universes.
    """

    def __init__(self, train: PointClouds) -> None:
        theta = np.stack([train.feature(name) for name in PARAMETERS], axis=1).astype(float)
        self.low, self.high = theta.min(axis=0), theta.max(axis=0)
        y, terms = self.values(train), self._terms(theta, _MEAN)
        self.mean = np.linalg.lstsq(terms, y, rcond=None)[0]
        residual = (y - terms @ self.mean) * np.sqrt(len(y) / (len(y) - terms.shape[1]))
        terms = self._terms(theta, _VARIANCE)
        self.variance = np.stack([_log_variance(terms, column**2) for column in residual.T], axis=1)
        unit = residual / np.exp(terms @ self.variance / 2)
        self.inverse = np.linalg.inv(np.corrcoef(unit.T))

    def _terms(self, theta: Floats, degree: int) -> Floats:
        """Chebyshev polynomials of the universes (n, 2), up to a degree in each parameter, shape (n, terms)."""
        x, y = (2 * (theta - self.low) / (self.high - self.low) - 1).T
        return np.polynomial.chebyshev.chebvander2d(x, y, [degree, degree])

    @staticmethod
    def values(clouds: PointClouds) -> Floats:
        """y of each box, shape (n, bins)."""
        owners = clouds.owners
        counts, *_ = np.histogram2d(owners, log10_mass(clouds), [np.arange(len(clouds) + 1) - 0.5, _MASSES])
        return np.asarray(2 * np.sqrt(counts + 3 / 8))

    def log_likelihood(self, y: Floats, theta: Floats) -> Floats:
        """Of one box (bins,) in each universe (n, 2), shape (n,), but for a constant."""
        half = self._terms(theta, _VARIANCE) @ self.variance / 2
        unit = (y - self._terms(theta, _MEAN) @ self.mean) / np.exp(half)
        return np.asarray(-np.einsum("ni,ij,nj->n", unit, self.inverse, unit) / 2 - half.sum(axis=1))


def _log_variance(terms: Floats, square: Floats) -> Floats:
    """Coefficients c with exp(terms @ c) the variance of greatest likelihood of normal residuals with these squares."""

    def loss(c: Floats) -> tuple[float, Floats]:
        ratio = square * np.exp(-terms @ c)
        return float(np.mean(terms @ c + ratio)), terms.T @ (1 - ratio) / len(ratio)

    start = np.zeros(terms.shape[1])
    start[0] = np.log(square.mean())
    return np.asarray(optimize.minimize(loss, start, jac=True, method="BFGS").x)


def tabulated(log_likelihood: Floats, axes: Sequence[Floats]) -> Posterior:
    """Under a flat prior, from values on the grid of the axes, flat."""
    probability = np.exp(log_likelihood - log_likelihood.max()).reshape([len(axis) for axis in axes])
    return Posterior(PARAMETERS, tuple(axes), probability / probability.sum())


def others(generator: Generator, train: PointClouds, test: PointClouds) -> dict[str, list[dict[str, Any]]]:
    """The posteriors from the mass function alone and from the number of halos alone."""
    known = [scale.name for scale in generator.transform.clouds]
    ends = [generator.multiplicity.quantiles(1 + known.index(name))[[0, -1]] for name in PARAMETERS]
    axes = [np.linspace(low, high, _TABLE) for low, high in ends]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    emulator = MassFunction(train)
    columns = np.stack([theta[:, PARAMETERS.index(name)] for name in known], axis=1)
    none = np.zeros(len(theta), np.int64)
    found: dict[str, list[dict[str, Any]]] = {"mass_function": [], "number": []}
    for at, y in enumerate(emulator.values(test)):
        box = test[at : at + 1]
        found["mass_function"].append(told(tabulated(emulator.log_likelihood(y, theta), axes), box))
        counts = np.repeat(box.counts, len(theta))
        number = generator.multiplicity.log_count(counts, columns, none)
        found["number"].append(told(tabulated(number, axes), box))
    return found


def measured(
    generator: Generator, train: PointClouds, test: PointClouds, lines: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All three posteriors of each box, and their coverage; that of the mass function also in training boxes that were left out of its fit."""
    kept = [{key: row[key] for key in ("truth", "halos", "mean", "std", "rank", "credibility")} for row in lines]
    methods = {"halos": kept, **others(generator, train, test)}
    cut = 4 * len(train) // 5
    left_out = others(generator, train[:cut], train[cut:])["mass_function"]
    return {
        "boxes": methods,
        "summary": {name: summary(rows) for name, rows in methods.items()},
        "left_out": {"boxes": len(left_out), "summary": summary(left_out)},
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often intervals hold the truth, how wide they are, and how far means are off."""
    found: dict[str, Any] = {}
    for name in PARAMETERS:
        rank, width, mean, true = (
            np.array([row[key][name] for row in rows]) for key in ("rank", "std", "mean", "truth")
        )
        found[name] = {
            "coverage": [float(np.mean(np.abs(rank - 0.5) < level / 2)) for level in LEVELS],
            "width": [float(width.mean()), float(width.std(ddof=1) / np.sqrt(len(rows)))],
            "pull": float(np.sqrt(np.mean(((mean - true) / width) ** 2))),
            "uniform": float(stats.kstest(rank, "uniform").pvalue),
        }
    credibility = np.array([row["credibility"] for row in rows])
    found["both"] = {
        "coverage": [float(np.mean(credibility < level)) for level in LEVELS],
        "uniform": float(stats.kstest(credibility, "uniform").pvalue),
    }
    return found


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Coverage and width of each posterior."""
    head = [f"{level:.0%} hold the truth" for level in LEVELS]
    out = [["posterior from", "boxes", "of", *head, "uniform, p", "mean standard deviation", "pull"]]
    count, check = len(found["boxes"]["halos"]), found["left_out"]
    checked = f"{METHODS['mass_function']}, left out of its fit"
    summaries = [(title, count, found["summary"][method]) for method, title in METHODS.items()]
    for title, size, about in [*summaries, (checked, check["boxes"], check["summary"])]:
        for name, row in about.items():
            # The error of the coverage that would be right.
            shares = [
                pm(share, np.sqrt(level * (1 - level) / size))
                for share, level in zip(row["coverage"], LEVELS, strict=True)
            ]
            rest = [pm(*row["width"], 4), f"{row['pull']:.2f}"] if "width" in row else ["-", "-"]
            out.append([title, str(size), name, *shares, f"{row['uniform']:.3f}", *rest])
    return {
        "how often the posterior holds the truth": out,
        "the posterior from all halos in thirds of the universes": _thirds(found["boxes"]["halos"]),
        "root mean square of posterior mean less truth": _errors(found["boxes"]),
    }


def _thirds(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Coverage and pulls of boxes of small, middle and large omega_m: over all of them too wide and too narrow ones cancel."""
    out = [
        ["true omega_m", "boxes", "of", *(f"{level:.0%} hold the truth" for level in LEVELS), "mean pull", "rms pull"]
    ]
    true = np.array([row["truth"]["omega_m"] for row in rows])
    # Means of a part have an error from two boxes on.
    for part in np.array_split(np.argsort(true), min(3, len(true) // 2)):
        for name in PARAMETERS:
            rank, width, mean, truth = (
                np.array([rows[i][key][name] for i in part]) for key in ("rank", "std", "mean", "truth")
            )
            pull = (mean - truth) / width
            shares = [
                pm(float(np.mean(np.abs(rank - 0.5) < level / 2)), np.sqrt(level * (1 - level) / len(part)))
                for level in LEVELS
            ]
            ends = f"{true[part].min():.2f} to {true[part].max():.2f}"
            average = pm(float(pull.mean()), float(pull.std(ddof=1) / np.sqrt(len(part))))
            # The error of the root mean square of normal pulls.
            rms = float(np.sqrt(np.mean(pull**2)))
            out.append([ends, str(len(part)), name, *shares, average, pm(rms, rms / np.sqrt(2 * len(part)))])
    return out


def _errors(methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """How far posterior means are off, whatever width they state; the ratio's error from the differences of both over the boxes."""
    out = [["posterior from", *PARAMETERS, *(f"{name}, over the mass function's" for name in PARAMETERS)]]
    squares = {
        method: {name: np.array([(row["mean"][name] - row["truth"][name]) ** 2 for row in rows]) for name in PARAMETERS}
        for method, rows in methods.items()
    }
    for method, title in METHODS.items():
        values, ratios = [], []
        for name in PARAMETERS:
            one, other = squares[method][name], squares["mass_function"][name]
            values.append(f"{np.sqrt(one.mean()):.4f}")
            ratio = np.sqrt(one.mean() / other.mean())
            influence = one / one.mean() - other / other.mean()
            ratios.append(pm(float(ratio), float(ratio / 2 * influence.std(ddof=1) / np.sqrt(len(one)))))
        out.append([title, *values, *ratios])
    return out


def figure(found: Mapping[str, Any]) -> Figure:
    """Ranks with the band of 95 % of binomial laws, expected coverage, and posteriors against the truth."""
    rows = found["boxes"]
    count = len(rows["halos"])
    width, gap, left = 3.0, 1.0, 0.9
    with mpl.rc_context(STYLE):
        drawn = page(left + 3 * (width + gap), 2 * (width + 0.85) + 0.1)
        upper, lower = width + 1.5, 0.65
        low, high = stats.binom.interval(0.95, count, 1 / _BINS)
        for at, name in enumerate(PARAMETERS):
            axes = panel(drawn, left + at * (width + gap), upper, width, width)
            ranks = np.histogram([row["rank"][name] for row in rows["halos"]], _BINS, (0, 1))[0]
            axes.axhspan(low, high, color=TRUTH, alpha=0.25, linewidth=0)
            axes.stairs(ranks, np.linspace(0, 1, _BINS + 1), color=colour(0), linewidth=1.5)
            axes.set(xlabel=f"rank of the true {SYMBOLS[name]}", ylabel="boxes", xlim=(0, 1), ylim=(0, None))
            axes = panel(drawn, left + at * (width + gap), lower, width, width)
            true, mean, std = (np.array([row[key][name] for row in rows["halos"]]) for key in ("truth", "mean", "std"))
            bars = {"linestyle": "none", "marker": "o", "markersize": 2.5, "elinewidth": 0.8, "color": colour(0)}
            axes.errorbar(true, mean, std, **bars)
            axes.plot([true.min(), true.max()], [true.min(), true.max()], color=TRUTH)
            axes.set(xlabel=f"true {SYMBOLS[name]}", ylabel=f"posterior of {SYMBOLS[name]}")
        axes = panel(drawn, left + 2 * (width + gap), upper, width, width)
        levels = np.linspace(0, 1, 101)
        axes.fill_between(
            levels, *(stats.binom.ppf(q, count, levels) / count for q in (0.025, 0.975)), color=TRUTH, alpha=0.25, lw=0
        )
        for at, (method, title) in enumerate(METHODS.items()):
            values = np.sort([row["credibility"] for row in rows[method]])
            shares = np.searchsorted(values, levels) / count
            axes.plot(levels, shares, line(at), color=colour(at), label=title)
        axes.set(xlabel="credibility", ylabel="share of boxes whose truth is inside", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", fontsize=9)
        axes = panel(drawn, left + 2 * (width + gap), lower, width, width)
        for at, name in enumerate(PARAMETERS):
            ratio = [
                one["std"][name] / other["std"][name]
                for one, other in zip(rows["halos"], rows["mass_function"], strict=True)
            ]
            points = {"marker": marker(at), "linestyle": "none", "markersize": 3, "color": colour(at)}
            axes.plot([row["halos"] for row in rows["halos"]], ratio, label=SYMBOLS[name], **points)
        axes.axhline(1, color=TRUTH, linewidth=1)
        axes.set(xlabel="halos in the box", ylabel="width, all halos / mass function alone")
        axes.legend()
    return drawn
