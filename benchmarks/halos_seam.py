"""Whether larger volumes have lost correlation, and whether completed boxes fit to what was known: part `seam` of halos.py.

The windows of a volume of two boxes along x begin elsewhere in each evaluation, so what they lose is lost alike everywhere in it. But along x alone: along y
and z each window is periodic as the volume is. So pairs are counted by their direction, those along x with |dx| > r / 2 and those across x, half of all
directions each. n halos without correlation in a volume V would have

    n (n - 1) / (2 V) * 4 pi / 3 (r_2^3 - r_1^3) / 2

of separations from r_1 to r_2 in each half. Between n_1 halos in one half of a box and n_2 in the other, without correlation, there would be

    planes * area * 2 n_1 n_2 / V^2 * pi / 4 (r_2^4 - r_1^4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from halo_statistics import FIDUCIAL, Estimate, chi_squared, chi_squared_of, pm, pulls
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.spatial import cKDTree

from pcdiff.clouds import PointClouds
from pcdiff.completion import complete
from pcdiff.evaluation.style import STYLE, colour, marker, page, panel
from pcdiff.generator import Generator
from pcdiff.schema import POSITION
from pcdiff.volumes import grow

Floats = npt.NDArray[np.float64]

# In Mpc/h, of equal ratio.
EDGES = np.geomspace(3.2, 20.0, 6)
# Halos heavier than this log10 mass are known where light ones are added.
MASSIVE = 13.7
_SHELLS = 4 / 3 * np.pi * np.diff(EDGES**3)
_SLOPES = np.pi / 4 * np.diff(EDGES**4)
# Boxes that are completed at a time.
_AT_A_TIME = 4


def grown(generator: Generator, volumes: int, steps: int, seed: int) -> list[PointClouds]:
    """Volumes of two boxes along x, of the fiducial universe."""
    return [grow(generator, (2, 1, 1), FIDUCIAL, steps=steps, seed=seed + k) for k in range(volumes)]


def single(generator: Generator, count: int, steps: int, seed: int) -> PointClouds:
    """Boxes of the fiducial universe, by the sampler of volumes."""
    chosen: dict[str, Any] = {"sampler": "ddim", "order": 2, "grid": "log-snr", "steps": steps}
    return generator.sample(count, seed=seed, conditions=FIDUCIAL, **chosen)


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


def directed(place: Floats, sides: Floats) -> tuple[Floats, Floats, Floats]:
    """Pairs of halos (n, 3) along x and across it, shape (b,) each, and those of n halos without correlation in either, shape (b,)."""
    pairs = cKDTree(place, boxsize=sides).query_pairs(EDGES[-1], output_type="ndarray")
    apart = place[pairs[:, 1]] - place[pairs[:, 0]]
    apart -= sides * np.round(apart / sides)
    separation = np.linalg.norm(apart, axis=1)
    bins = np.searchsorted(EDGES, separation, side="right") - 1
    inside, along = (bins >= 0) & (bins < len(_SHELLS)), np.abs(apart[:, 0]) > separation / 2
    counts = [np.bincount(bins[inside & way], minlength=len(_SHELLS)).astype(float) for way in (along, ~along)]
    return counts[0], counts[1], len(place) * (len(place) - 1) / 4 * _SHELLS / np.prod(sides)


def _boxes(clouds: PointClouds) -> Iterator[tuple[Floats, Floats]]:
    """Places (n, 3) and sides (3,) of each, positions wrapped once more in double precision."""
    place = np.stack([clouds.column(name) for name in POSITION], axis=1).astype(float)
    volume = "size_x" in clouds.schema.cloud_names
    names = [f"size_{name}" for name in POSITION] if volume else ["box_size"] * 3
    sides = np.stack([clouds.feature(name) for name in names], axis=1).astype(float)
    for at, (first, last) in enumerate(zip(clouds.offsets[:-1], clouds.offsets[1:], strict=True)):
        yield np.mod(place[first:last], sides[at]), sides[at]


def _by_direction(sets: Sequence[PointClouds]) -> dict[str, Estimate]:
    """xi along x, across it, the difference of both, and of all pairs."""
    rows = [directed(place, sides) for clouds in sets for place, sides in _boxes(clouds)]
    along, across, expected = (np.array([row[k] for row in rows]) for k in range(3))
    return {
        "along": Estimate.of(along - expected, expected),
        "across": Estimate.of(across - expected, expected),
        "difference": Estimate.of(along - across, expected),
        "all": Estimate.of(along + across - 2 * expected, 2 * expected),
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
    """Of volumes, of generated and true boxes beside them, and of completed boxes."""
    size = float(truth.feature("box_size")[0])
    found: dict[str, Any] = {"volumes": len(volumes), "single": len(single), "boxes": len(truth)}
    sets = {
        "volumes": _by_direction(volumes),
        "single": _by_direction([single]),
        "truth": _by_direction([truth]),
    }
    found["directions"] = {
        name: {key: _stored(each) for key, each in of.items()} | {"chi_squared": chi_squared_of(of["difference"])}
        for name, of in sets.items()
    }
    found["against"] = {
        name: {
            "pulls": pulls(sets["volumes"]["all"], sets[name]["all"]).tolist(),
            "chi_squared": chi_squared(sets["volumes"]["all"], sets[name]["all"]),
        }
        for name in ("single", "truth")
    }
    cases = {
        "light": lambda clouds: cross(clouds, clouds.column("log10_mass") >= MASSIVE, halves=False),
        "half": lambda clouds: cross(clouds, clouds.column("x") < size / 2, halves=True),
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
    """By title: pairs by their direction, all pairs, completed boxes."""
    ranges = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(EDGES)]
    directions = [["ξ of", "r, Mpc/h", "along x", "across x", "difference", "in errors", "χ² per bin"]]
    titles = {
        "volumes": f"{found['volumes']} volumes",
        "single": f"{found['single']} generated boxes",
        "truth": f"{found['boxes']} true boxes",
    }
    for name, title in titles.items():
        row = found["directions"][name]
        for at, text in enumerate(ranges):
            value, error = row["difference"][at]
            cells = [pm(*row[key][at]) for key in ("along", "across", "difference")]
            summed = f"{row['chi_squared']['full']:.2f}" if at == 0 else ""
            directions.append([title, text, *cells, f"{value / error:.1f}", summed])
    against = [f"volumes less {name}, in errors" for name in ("generated", "true")]
    everything = [["r, Mpc/h", *titles.values(), *against]]
    for at, text in enumerate(ranges):
        cells = [pm(*found["directions"][name]["all"][at]) for name in titles]
        apart = [f"{found['against'][name]['pulls'][at]:.1f}" for name in ("single", "truth")]
        everything.append([text, *cells, *apart])
    summed = [f"{found['against'][name]['chi_squared']['full']:.2f}" for name in ("single", "truth")]
    everything.append(["χ² per bin", "", "", "", *summed])
    rows = [["ξ of", "r, Mpc/h", "completed", "truth", "difference", "in errors", "χ² per bin"]]
    for name, title in _KNOWN.items():
        row = found["completed"][name]
        for at, text in enumerate(ranges):
            value, error = row["difference"][at]
            cells = [pm(*row[key][at]) for key in ("completed", "truth", "difference")]
            summed = f"{row['chi_squared']['full']:.2f}" if at == 0 else ""
            rows.append([title, text, *cells, f"{value / error:.1f}", summed])
    return {
        "pairs along x, where volumes have two boxes, and across x": directions,
        "ξ of all pairs": everything,
        f"added halos with known ones, {found['boxes']} boxes": rows,
    }


def figure(found: Mapping[str, Any]) -> Figure:
    """xi along and across the long side of volumes, that of all pairs beside boxes, and xi between what is added and what is known."""
    width, gap, left = 3.4, 1.0, 0.9
    volumes, single, truth = (found["directions"][name] for name in ("volumes", "single", "truth"))
    with mpl.rc_context(STYLE):
        drawn = page(left + 4 * (width + gap) - gap + 0.15, width + 1.1)
        axes = [panel(drawn, left + k * (width + gap), 0.65, width, width) for k in range(4)]
        ways = {"along their long side": volumes["along"], "across it": volumes["across"]}
        _correlations(axes[0], ways, "volumes of two boxes, by direction")
        sets = {"volumes": volumes["all"], "generated boxes": single["all"], "true boxes": truth["all"]}
        _correlations(axes[1], sets, "all pairs")
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
