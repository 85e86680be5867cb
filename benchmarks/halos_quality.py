"""Generated boxes of the fiducial universe against held-out ones: part `quality` of halos.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from halo_statistics import Estimate, chi_squared, over, pm, pulls, within
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from pcdiff.clouds import PointClouds
from pcdiff.evaluation.style import STYLE, TRUTH, colour, page, panel
from pcdiff.physics import profiles
from pcdiff.physics.halos.kinematic import MASS_EDGES
from pcdiff.physics.halos.neighbours import NEIGHBOURS
from pcdiff.physics.halos.pairs import SEPARATION_EDGES
from pcdiff.physics.halos.spectrum import WAVE_NUMBER_EDGES

Floats = npt.NDArray[np.float64]

# How far ratios may be from 1, and chi^2 per bin from 0.
LIMITS = {"number_of_halos": 0.02, "mass_function": 0.1, "velocity_dispersion": 0.05, "power_spectrum": 0.15}
CHI_SQUARED = 2.0
_TITLES = {
    "number_of_halos": "number of halos",
    "mass_function": "mass function",
    "velocity_dispersion": "velocity dispersion",
    "power_spectrum": "P(k)",
    "two_point_correlation": "ξ(r)",
}
_UNITS = {"mass_function": "log10 M", "power_spectrum": "h/Mpc", "two_point_correlation": "Mpc/h"}
_PULLS = (
    "redshift_space_monopole",
    "redshift_space_quadrupole",
    "pairwise_velocity",
    *(f"nearest_neighbour_{k}" for k in NEIGHBOURS),
)
_DRAWN = ("mass_function", "two_point_correlation", "power_spectrum", "pairwise_velocity")

Three = tuple[PointClouds, PointClouds, PointClouds]


def joined(truth: PointClouds, other: PointClouds) -> Floats:
    """Edges in log10 M: tenths of a decade, joined upwards until the ratio of two sets of true boxes is known to half of the limit."""
    counts = [_per_mass(clouds, MASS_EDGES) for clouds in (truth, other)]
    first = int(np.flatnonzero(counts[0].sum(axis=0) + counts[1].sum(axis=0))[0])
    kept = [first]
    for last in range(first + 1, len(MASS_EDGES)):
        here = slice(kept[-1], last)
        sides = [Estimate.of(each[:, here].sum(axis=1, keepdims=True)) for each in counts]
        if min(side.value[0] for side in sides) > 0 and over(*sides)[1][0] <= LIMITS["mass_function"] / 2:
            kept.append(last)
    # What is left over belongs to the last bin.
    return np.array([*MASS_EDGES[kept[:-1] or kept], MASS_EDGES[-1]])


def _per_mass(clouds: PointClouds, edges: Floats) -> Floats:
    """Halos a decade of mass and box, shape (n, b)."""
    owners = clouds.owners
    cells = np.clip(np.searchsorted(edges, clouds.column("log10_mass"), side="right") - 1, 0, len(edges) - 2)
    found = np.zeros((len(clouds), len(edges) - 1))
    np.add.at(found, (owners, cells), 1)
    return found / np.diff(edges)


def measured(truth: PointClouds, other: PointClouds, sample: PointClouds) -> dict[str, Any]:
    """All numbers of generated boxes against the truth, and of other true boxes against it: the floor."""
    three = truth, other, sample
    masses = joined(truth, other)
    waves = within(WAVE_NUMBER_EDGES, 0.1, 1.0)
    separations = within(SEPARATION_EDGES, 3.0, 30.0)
    single = np.array([0.0, 1.0])
    found: dict[str, Any] = {"boxes": [len(clouds) for clouds in three], "ratios": {}, "pulls": {}}
    for name, edges, sides in (
        ("number_of_halos", single, [Estimate.of_profile("number_of_halos", clouds) for clouds in three]),
        ("velocity_dispersion", single, [Estimate.of_profile("velocity_dispersion", clouds) for clouds in three]),
        ("mass_function", masses, [Estimate.of(_per_mass(clouds, masses)) for clouds in three]),
        ("two_point_correlation", SEPARATION_EDGES, _of(three, "two_point_correlation", separations)),
        ("power_spectrum", WAVE_NUMBER_EDGES, _of(three, "power_spectrum", waves)),
    ):
        bins = {"two_point_correlation": separations, "power_spectrum": waves}.get(name, np.arange(len(edges) - 1))
        true, floor, made = sides
        found["ratios"][name] = {
            "low": edges[bins].tolist(),
            "high": edges[bins + 1].tolist(),
            "truth": true.value.tolist(),
            "sample": _pair(over(made, true)),
            "floor": _pair(over(floor, true)),
        }
        if name == "two_point_correlation":
            found["chi_squared"] = {"sample": chi_squared(made, true), "floor": chi_squared(floor, true)}
    for name in _PULLS:
        sides = _of(three, name, slice(None))
        told = np.all([side.told for side in sides], axis=0)
        found["pulls"][name] = {
            "bins": int(told.sum()),
            "sample": _summed(pulls(sides[2], sides[0]), told),
            "floor": _summed(pulls(sides[1], sides[0]), told),
        }
    return found


def _of(three: Three, name: str, bins: Any) -> list[Estimate]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return [Estimate.of_profile(name, clouds, bins) for clouds in three]


def _pair(values: tuple[Floats, Floats]) -> list[list[float]]:
    return np.transpose(values).tolist()


def _summed(values: Floats, told: npt.NDArray[np.bool_]) -> dict[str, float]:
    return {"rms": float(np.sqrt(np.mean(values[told] ** 2))), "largest": float(np.abs(values[told]).max())}


def met(found: Mapping[str, Any], name: str, side: str) -> list[bool]:
    """Whether each bin of a ratio is within its limit; but for those in which two sets of true boxes have a ratio that is not known to the limit."""
    row = found["ratios"][name]
    return [abs(row[side][at][0] - 1) <= LIMITS[name] for at in judged(found, name)]


def judged(found: Mapping[str, Any], name: str) -> list[int]:
    """The bins whose floor has an error below the limit."""
    return [at for at, (_, error) in enumerate(found["ratios"][name]["floor"]) if error <= LIMITS[name]]


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title: against the limits, bin by bin, as pulls."""
    limits = [["quantity", "limit", "generated", "met", "truth against truth", "met"]]
    for name, limit in LIMITS.items():
        cells = []
        for side in ("sample", "floor"):
            values = [found["ratios"][name][side][at] for at in judged(found, name)]
            value, error = max(values, key=lambda pair: abs(pair[0] - 1), default=(np.nan, np.nan))
            share = "" if len(values) == 1 else f", farthest of {len(values)} bins"
            cells += [pm(value, error) + share, _yes(met(found, name, side))]
        limits.append([_TITLES[name], f"1 ± {limit:g}", *cells])
    for kind, words in (("full", "χ² per bin of ξ(r), full covariance"), ("diagonal", "the same, diagonal alone")):
        values = [found["chi_squared"][side][kind] for side in ("sample", "floor")]
        cells = [cell for value in values for cell in (f"{value:.2f}", "yes" if value < CHI_SQUARED else "no")]
        limits.append([words, f"below {CHI_SQUARED:g}", *cells])
    single = [["quantity", "bin", "truth", "generated / truth", "met", "truth / truth", "met"]]
    for name in ("mass_function", "two_point_correlation", "power_spectrum"):
        row = found["ratios"][name]
        for at, (low, high) in enumerate(zip(row["low"], row["high"], strict=True)):
            cells = []
            for side in ("sample", "floor"):
                ratio, error = row[side][at]
                told = name in LIMITS and at in judged(found, name)
                cells += [pm(ratio, error), ("yes" if abs(ratio - 1) <= LIMITS[name] else "no") if told else "-"]
            single.append([_TITLES[name], f"{low:.3g} to {high:.3g} {_UNITS[name]}", f"{row['truth'][at]:.4g}", *cells])
    known = profiles("halos")
    apart = [["quantity", "bins", "generated: rms pull", "largest", "truth against truth: rms pull", "largest"]]
    for name, row in found["pulls"].items():
        cells = [f"{row[side][kind]:.2f}" for side in ("sample", "floor") for kind in ("rms", "largest")]
        apart.append([known[name].title, str(row["bins"]), *cells])
    return {"against the limits": limits, "bin by bin": single, "differences in units of their errors": apart}


def _yes(good: list[bool]) -> str:
    if len(good) == 1:
        return "yes" if good[0] else "no"
    return f"{'yes' if all(good) else 'no'}: {sum(good)} of {len(good)}"


def figure(truth: PointClouds, sample: PointClouds) -> Figure:
    """Mass function, correlation function, power spectrum and pairwise velocity, with the ratio to the truth below; bands and bars are
    errors from box to box."""
    width, left, gap = 3.3, 0.9, 0.95
    with mpl.rc_context(STYLE):
        drawn = page(left + len(_DRAWN) * (width + gap) - gap + 0.15, 4.8)
        for column, name in enumerate(_DRAWN):
            profile = profiles("halos")[name]
            with np.errstate(divide="ignore", invalid="ignore"):
                true, made = (Estimate.of_profile(name, clouds) for clouds in (truth, sample))
            used = np.flatnonzero(true.told & np.isfinite(true.value) & np.isfinite(made.value))
            edges = profile.edges[0][used[0] : used[-1] + 2]
            bins = slice(used[0], used[-1] + 1)
            place = left + column * (width + gap)
            main = panel(drawn, place, 2.0, width, 2.6)
            below = panel(drawn, place, 0.65, width, 1.25, sharex=main)
            _draw(main, below, edges, [(each.value[bins], each.error[bins]) for each in (true, made)])
            if profile.log_x:
                main.set_xscale("log")
                below.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                below.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                below.xaxis.set_minor_formatter(NullFormatter())
            if profile.log_y:
                main.set_yscale("log")
                shown = true.value[bins][true.value[bins] > 2 * true.error[bins]]
                main.set_ylim(shown.min() / 3, 3 * shown.max())
            main.set_ylabel(profile.content, fontsize="medium")
            main.tick_params(labelbottom=False)
            below.set(xlabel=profile.labels[0], xlim=(edges[0], edges[-1]), ylim=(0.7, 1.3))
            below.yaxis.set_major_locator(MaxNLocator(4, prune="upper"))
            if column == 0:
                below.set_ylabel("ratio")
                handles, _ = main.get_legend_handles_labels()
                main.legend(
                    handles, [f"truth ({len(truth)} boxes)", f"generated ({len(sample)} boxes)"], loc="lower left"
                )
    return drawn


def _draw(main: Axes, below: Axes, edges: Floats, sides: list[tuple[Floats, Floats]]) -> None:
    """Contents and ratios of the truth, as a band, and of a sample, as bars and a band of its own in the ratio."""
    (true, true_error), (made, made_error) = sides
    middle = np.sqrt(edges[1:] * edges[:-1])
    main.stairs(true + true_error, edges, baseline=true - true_error, fill=True, color=TRUTH, alpha=0.45, label="truth")
    bars = {"color": colour(0), "linestyle": "none", "marker": "o", "markersize": 3, "elinewidth": 1}
    main.errorbar(middle, made, made_error, label="generated", **bars)
    # Where the truth is within two of its errors of 0, a ratio says nothing.
    told = np.abs(true) > 2 * true_error
    band, ratio, error = (
        np.where(told, v / np.where(told, true, 1), np.nan) for v in (true_error, made, np.abs(made_error))
    )
    band, error = np.abs(band), np.abs(error)
    below.stairs(1 + band, edges, baseline=1 - band, fill=True, color=TRUTH, alpha=0.35)
    below.stairs(ratio + error, edges, baseline=ratio - error, fill=True, color=colour(0), alpha=0.25)
    below.axhline(1, color=TRUTH, linewidth=1)
    below.errorbar(middle, ratio, error, **bars)
