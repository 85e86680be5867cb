"""Figures of classes.py: mass peaks and spectra by rank, with the ratio to the truth below."""

from __future__ import annotations

from collections.abc import Mapping

import hist
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcdiff.clouds import PointClouds
from pcdiff.evaluation.style import STYLE, TRUTH, colour, page, panel
from pcdiff.physics import observables

__all__ = ["masses_figure", "ranks_figure", "spectrum"]

Floats = npt.NDArray[np.float64]
Sets = Mapping[str, tuple[PointClouds, PointClouds]]

CLASSES = {"g": "gluon", "q": "light quark", "t": "top quark", "w": "W boson", "z": "Z boson"}
# Of the masses, in GeV, and of the ratio.
_MASSES = np.linspace(0, 240, 61)
_RATIO = (0.5, 1.5)


def masses_figure(name: str, sets: Sets) -> Figure:
    """Mass of the constituents of true and of generated jets of each class; bars and bands are statistical."""

    def density(jets: PointClouds) -> tuple[Floats, Floats]:
        counts = hist.Hist(hist.axis.Variable(_MASSES)).fill(observables("jets")["mass"].function(jets)).values()
        scale = len(jets) * np.diff(_MASSES)
        return counts / scale, np.sqrt(counts) / scale

    drawn = {type: tuple(map(density, pair)) for type, pair in sets.items()}
    words = ("mass of the constituents [GeV]", "probability density [GeV$^{-1}$]")
    return _columns(name, sets, _MASSES, drawn, words, log=False)


def spectrum(jets: PointClouds, ranks: int) -> tuple[Floats, Floats]:
    """Mean ptrel of the constituents of each rank, from the jets that have so many, and its statistical error; shape (ranks,) each.

    Not a number where fewer than 20 jets have a constituent of the rank.
    """
    rank = np.arange(jets.num_points) - np.repeat(jets.offsets[:-1], jets.counts)
    owners = jets.owners
    # Falling ptrel within each jet.
    ptrel = jets.column("ptrel")[np.lexsort((-jets.column("ptrel"), owners))].astype(np.float64)
    kept = rank < ranks
    count, total, square = (
        np.bincount(rank[kept], weights, ranks) for weights in (None, ptrel[kept], ptrel[kept] ** 2)
    )
    mean, error = np.full(ranks, np.nan), np.full(ranks, np.nan)
    enough = count >= 20
    mean[enough] = total[enough] / count[enough]
    error[enough] = np.sqrt((square[enough] / count[enough] - mean[enough] ** 2) / count[enough])
    return mean, error


def ranks_figure(name: str, sets: Sets) -> Figure:
    """Mean ptrel of true and generated jets by the rank of the constituent, to the 100th where jets have so many."""
    ranks = min(100, max(int(jets.counts.max()) for jets, _ in sets.values()))
    edges = np.arange(ranks + 1) + 0.5
    drawn = {type: tuple(spectrum(jets, ranks) for jets in pair) for type, pair in sets.items()}
    words = ("rank of the constituent", r"mean $p_\mathrm{T}^\mathrm{rel}$")
    return _columns(name, sets, edges, drawn, words, log=True)


def _columns(
    name: str,
    sets: Sets,
    edges: Floats,
    drawn: Mapping[str, tuple[tuple[Floats, Floats], ...]],
    words: tuple[str, str],
    *,
    log: bool,
) -> Figure:
    """A column for each class: contents, and their ratio to the truth."""
    width, left, gap = 2.9, 0.95, 0.25
    with mpl.rc_context(STYLE):
        figure = page(left + len(sets) * (width + gap), 5.1)
        first: list[Axes] = []
        for column, (type, (truth, jets)) in enumerate(sets.items()):
            place = left + column * (width + gap)
            shared = {"sharey": first[0]} if first else {}
            main = panel(figure, place, 2.0, width, 2.6, **shared)
            below = panel(figure, place, 0.65, width, 1.25, sharex=main)
            first.append(main)
            (true, true_error), (made, made_error) = drawn[type]
            label = f"truth ({len(truth):,} jets)"
            main.stairs(true, edges, fill=True, color=TRUTH, alpha=0.25, label=label)
            main.stairs(true, edges, color=TRUTH)
            centres = (edges[1:] + edges[:-1]) / 2
            bars = {"color": colour(0), "linestyle": "none", "marker": "o", "markersize": 2.5, "elinewidth": 0.8}
            main.errorbar(centres, made, made_error, label=f"{name} ({len(jets):,} jets)", **bars)
            # Beyond a third of error a ratio says nothing.
            told = (true > 0) & (np.nan_to_num(true_error, nan=np.inf) < true / 3)
            with np.errstate(divide="ignore", invalid="ignore"):
                band, ratio, error = (np.where(told, v / true, np.nan) for v in (true_error, made, made_error))
            below.stairs(1 + band, edges, baseline=1 - band, fill=True, color=TRUTH, alpha=0.25)
            below.axhline(1, color=TRUTH, linewidth=1)
            below.errorbar(centres, ratio, error, **bars)
            # The highest tick of the ratio would touch the lowest of the contents.
            below.yaxis.set_major_locator(MaxNLocator(4, prune="upper"))
            main.set_title(CLASSES.get(type, type))
            main.tick_params(labelbottom=False, labelleft=not column)
            below.tick_params(labelleft=not column)
            below.set(xlabel=words[0], xlim=(edges[0], edges[-1]), ylim=_RATIO if not log else (0.8, 1.2))
            main.legend(loc="upper right", fontsize=9, handlelength=1.2)
        first[0].set_ylabel(words[1])
        figure.axes[1].set_ylabel("ratio")
        if log:
            first[0].set_yscale("log")
        else:
            first[0].set_ylim(bottom=0, top=first[0].get_ylim()[1] * 1.15)
    return figure
