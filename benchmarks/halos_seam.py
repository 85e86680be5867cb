"""Whether larger volumes have seams, and whether completed boxes fit to what was known: part `seam` of halos.py.

The windows of a volume of two boxes along x have borders at each half of a box. A pair of halos at a separation (dx, dy, dz) straddles a border,
wherever it lies, with the probability |dx| / spacing. So pairs elsewhere, each with the weight |dx| / (spacing - |dx|), stand for as many pairs of the same
orientations as those that straddle one. n halos without correlation in a volume V would have

    planes * area * n (n - 1) / V^2 * pi / 4 (r_2^4 - r_1^4)

straddling pairs of separations from r_1 to r_2. The same formula with 2 n_1 n_2 in place of n (n - 1) is that of pairs of n_1 halos in one half of a box and
n_2 in the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from halo_statistics import FIDUCIAL, Estimate, chi_squared_of, pm
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.spatial import cKDTree

from pcdiff.clouds import PointClouds
from pcdiff.completion import complete
from pcdiff.evaluation.style import STYLE, TRUTH, colour, marker, page, panel
from pcdiff.generator import Generator
from pcdiff.schema import POSITION
from pcdiff.volumes import grow

Floats = npt.NDArray[np.float64]

# In Mpc/h, of equal ratio; near a border there are few close pairs.
EDGES = np.geomspace(3.2, 20.0, 6)
# Halos heavier than this log10 mass are known where light ones are added.
MASSIVE = 13.7
_SHELLS = 4 / 3 * np.pi * np.diff(EDGES**3)
_SLOPES = np.pi / 4 * np.diff(EDGES**4)
_PLACES = 10
# Boxes that are completed at a time.
_AT_A_TIME = 4


def grown(generator: Generator, volumes: int, steps: int, seed: int) -> list[PointClouds]:
    """Volumes of two boxes along x, of the fiducial universe."""
    return [grow(generator, (2, 1, 1), FIDUCIAL, steps=steps, seed=seed + k) for k in range(volumes)]


def completed(generator: Generator, truth: PointClouds, steps: int, repeats: int, seed: int) -> dict[str, PointClouds]:
    """The true boxes with their light halos made anew, and with those of the half of larger x."""
    size = float(truth.feature("box_size")[0])
    cases = {
        "light": (truth.column("log10_mass") >= MASSIVE, {"below": MASSIVE}),
        "half": (truth.column("x") < size / 2, {"region": [(size / 2, size), (0.0, size), (0.0, size)]}),
    }
    found = {}
    for name, (known, where) in cases.items():
        given = truth.points_where(known)
        parts = []
        for first in range(0, len(truth), _AT_A_TIME):
            at = slice(first, first + _AT_A_TIME)
            options: dict[str, Any] = where | {"steps": steps, "repeats": repeats, "seed": seed + first}
            parts.append(complete(generator, given[at], truth.counts[at], **options))
        found[name] = PointClouds.concatenate(parts)
    return found


def straddling(place: Floats, sides: Floats, spacing: float) -> tuple[Floats, Floats, Floats]:
    """Pairs of halos (n, 3) across a border, weighted ones elsewhere, and those without correlation, shape (b,) each."""
    pairs = cKDTree(place, boxsize=sides).query_pairs(EDGES[-1], output_type="ndarray")
    apart = place[pairs[:, 1]] - place[pairs[:, 0]]
    apart -= sides * np.round(apart / sides)
    dx = apart[:, 0]
    start = np.where(dx >= 0, place[pairs[:, 0], 0], place[pairs[:, 1], 0])
    crossing = np.mod(start, spacing) + np.abs(dx) >= spacing
    weight = np.abs(dx) / (spacing - np.abs(dx))
    bins = np.searchsorted(EDGES, np.linalg.norm(apart, axis=1), side="right") - 1
    inside = (bins >= 0) & (bins < len(_SHELLS))
    across, elsewhere = (
        np.bincount(bins[inside], each[inside], len(_SHELLS)) for each in (crossing, ~crossing * weight)
    )
    n, planes = len(place), sides[0] / spacing
    volume = np.prod(sides)
    return across, elsewhere, planes * sides[1] * sides[2] * n * (n - 1) / volume**2 * _SLOPES


def _boxes(clouds: PointClouds) -> Iterator[tuple[Floats, Floats]]:
    """Places (n, 3) and sides (3,) of each, positions wrapped once more in double precision."""
    place = np.stack([clouds.column(name) for name in POSITION], axis=1).astype(float)
    volume = "size_x" in clouds.schema.cloud_names
    names = [f"size_{name}" for name in POSITION] if volume else ["box_size"] * 3
    sides = np.stack([clouds.feature(name) for name in names], axis=1).astype(float)
    for at, (first, last) in enumerate(zip(clouds.offsets[:-1], clouds.offsets[1:], strict=True)):
        yield np.mod(place[first:last], sides[at]), sides[at]


def _sides_of_borders(sets: Sequence[PointClouds], spacing: float) -> dict[str, Estimate]:
    """xi across borders and elsewhere, their difference, and the density beside the borders."""
    rows = [(straddling(place, sides, spacing), place) for clouds in sets for place, sides in _boxes(clouds)]
    across, elsewhere, expected = (np.array([row[0][k] for row in rows]) for k in range(3))
    cells = [np.histogram(np.mod(place[:, 0], spacing), _PLACES, (0, spacing))[0] for _, place in rows]
    numbers = np.array([[len(place)] * _PLACES for _, place in rows], float)
    return {
        "across": Estimate.of(across - expected, expected),
        "elsewhere": Estimate.of(elsewhere - expected, expected),
        "difference": Estimate.of(across - elsewhere, expected),
        "density": Estimate.of(np.array(cells) * float(_PLACES), numbers),
    }


def cross(clouds: PointClouds, first: npt.NDArray[np.bool_], halves: bool) -> Estimate:
    """xi between some halos of each box, kept (P,), and the others; in halves of the box where it is said."""
    contents, totals = [], []
    for at, (place, sides) in enumerate(_boxes(clouds)):
        kept = first[clouds.offsets[at] : clouds.offsets[at + 1]]
        one, other = place[kept], place[~kept]
        near = cKDTree(one, boxsize=sides).count_neighbors(cKDTree(other, boxsize=sides), EDGES)
        each, volume = len(one) * len(other), float(np.prod(sides))
        # Both planes between the halves; n_1 and n_2 are twice as dense there.
        shape = 2 * sides[1] * sides[2] * 4 / volume**2 * _SLOPES if halves else _SHELLS / volume
        contents.append(np.diff(near) - each * shape)
        totals.append(each * shape)
    return Estimate.of(np.array(contents), np.array(totals))


def measured(
    truth: PointClouds, volumes: Sequence[PointClouds], single: PointClouds, finished: Mapping[str, PointClouds]
) -> dict[str, Any]:
    """Of volumes, of generated and true boxes with borders where there are none, and of completed boxes."""
    size = float(truth.feature("box_size")[0])
    spacing = size / 2
    found: dict[str, Any] = {"volumes": len(volumes), "single": len(single), "boxes": len(truth)}
    borders = {
        "volumes": _sides_of_borders(volumes, spacing),
        "single": _sides_of_borders([single], spacing),
        "truth": _sides_of_borders([truth], spacing),
    }
    found["borders"] = {
        name: {key: _stored(each) for key, each in of.items()} | {"chi_squared": chi_squared_of(of["difference"])}
        for name, of in borders.items()
    }
    cases = {
        "light": lambda clouds: cross(clouds, clouds.column("log10_mass") >= MASSIVE, halves=False),
        "half": lambda clouds: cross(clouds, clouds.column("x") < spacing, halves=True),
    }
    found["completed"] = {}
    for name, function in cases.items():
        true, made = function(truth), function(finished[name])
        apart = made.minus(true)
        found["completed"][name] = {
            "truth": _stored(true),
            "completed": _stored(made),
            "difference": _stored(apart),
            "chi_squared": chi_squared_of(apart),
        }
    return found


def _stored(each: Estimate) -> list[list[float]]:
    return np.transpose([each.value, each.error]).tolist()


_KNOWN = {
    "light": f"light halos with given ones above 10^{MASSIVE}",
    "half": "halos of one half with the given other half",
}


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title: borders of windows, density beside them, completed boxes."""
    ranges = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(EDGES)]
    borders = [["ξ of", "r, Mpc/h", "across a border", "elsewhere", "difference", "in errors", "χ² per bin"]]
    titles = {
        "volumes": f"{found['volumes']} volumes",
        "single": f"{found['single']} generated boxes, where there are no borders",
        "truth": f"{found['boxes']} true boxes, likewise",
    }
    for name, title in titles.items():
        row = found["borders"][name]
        for at, text in enumerate(ranges):
            value, error = row["difference"][at]
            cells = [pm(*row[key][at]) for key in ("across", "elsewhere", "difference")]
            summed = f"{row['chi_squared']['full']:.2f}" if at == 0 else ""
            borders.append([title, text, *cells, f"{value / error:.1f}", summed])
    density = [["distance behind a border", *titles.values()]]
    for at in range(_PLACES):
        cells = [pm(*found["borders"][name]["density"][at]) for name in titles]
        density.append([f"{at / _PLACES:g} to {(at + 1) / _PLACES:g} of the spacing", *cells])
    rows = [["ξ of", "r, Mpc/h", "completed", "truth", "difference", "in errors", "χ² per bin"]]
    for name, title in _KNOWN.items():
        row = found["completed"][name]
        for at, text in enumerate(ranges):
            value, error = row["difference"][at]
            cells = [pm(*row[key][at]) for key in ("completed", "truth", "difference")]
            summed = f"{row['chi_squared']['full']:.2f}" if at == 0 else ""
            rows.append([title, text, *cells, f"{value / error:.1f}", summed])
    return {
        "pairs across a border of windows": borders,
        "number of halos over its mean, by the distance from a border": density,
        f"added halos with known ones, {found['boxes']} boxes": rows,
    }


def figure(found: Mapping[str, Any]) -> Figure:
    """xi across borders, density beside them, and xi between what is added and what is known."""
    width, gap, left = 3.4, 1.0, 0.9
    volumes, single, truth = (found["borders"][name] for name in ("volumes", "single", "truth"))
    with mpl.rc_context(STYLE):
        drawn = page(left + 4 * (width + gap) - gap + 0.15, width + 1.1)
        axes = [panel(drawn, left + k * (width + gap), 0.65, width, width) for k in range(4)]
        sets = {
            "across a border": volumes["across"],
            "elsewhere": volumes["elsewhere"],
            "generated boxes": single["elsewhere"],
            "true boxes": truth["elsewhere"],
        }
        _correlations(axes[0], sets, "volumes of two boxes")
        places = (np.arange(_PLACES) + 0.5) / _PLACES
        for at, (name, row) in enumerate({"volumes": volumes, "true boxes": truth}.items()):
            value, error = np.transpose(row["density"])
            axes[1].errorbar(places + 0.02 * at, value, error, label=name, **_bars(at))
        axes[1].axhline(1, color=TRUTH, linewidth=1)
        axes[1].set(xlabel="distance from a border, in spacings", ylabel="density / mean", title="beside borders")
        axes[1].legend()
        for panel_of, (name, title) in zip(axes[2:], _KNOWN.items(), strict=True):
            row = found["completed"][name]
            _correlations(panel_of, {"completed": row["completed"], "truth": row["truth"]}, title.split(" with ")[0])
    return drawn


def _bars(at: int) -> dict[str, Any]:
    return {"color": colour(at), "marker": marker(at), "markersize": 4, "linestyle": "none", "elinewidth": 1}


def _correlations(axes: Axes, sets: Mapping[str, list[list[float]]], title: str) -> None:
    middle = np.sqrt(EDGES[1:] * EDGES[:-1])
    for at, (name, values) in enumerate(sets.items()):
        value, error = np.transpose(values)
        axes.errorbar(middle * 1.02 ** (at - 1), value, error, label=name, **_bars(at))
    axes.set(xlabel="separation $r$ [Mpc/$h$]", ylabel=r"$\xi(r)$", xscale="log", yscale="log", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend()
