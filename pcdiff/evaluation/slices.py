"""Slices through boxes of halos, the truth beside each generated sample."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcdiff.clouds import PointClouds
from pcdiff.evaluation.style import STYLE, TRUTH, colour, page, panel, plain

__all__ = ["SLICE", "chosen", "slices"]

Floats = npt.NDArray[np.float64]

SLICE = 25.0
"""Thickness of a slice in Mpc/h."""
# Area of a marker of 10^14 Msun/h, and of halos whose mass is not known, in square points.
_AREA, _AREA_WITHOUT_MASS = 40.0, 12.0
_SHOWN_MASSES = (13.5, 14.0, 14.5, 15.0)
# Inches: side of a panel, from one to the next, and the margins; panels in a row.
_SIDE, _STEP, _LEFT, _BOTTOM, _ABOVE = 3.9, 4.3, 0.8, 0.6, 0.95
_PANELS_IN_ROW = 3
_FACTS = {"omega_m": r"$\Omega_\mathrm{m}$ =", "sigma_8": r"$\sigma_8$ =", "redshift": "redshift"}


def chosen(clouds: PointClouds, like: PointClouds | None = None) -> int:
    """The number of the box that is shown of a set.

    Without ``like``, that of the median number of halos. With ``like``, a set of one box, the one of the nearest number of halos
    among those whose Omega_m, sigma_8 and redshift are the nearest to its own, where both sets store them.
    """
    counts = clouds.counts
    if like is None:
        return int(np.argsort(counts, kind="stable")[(len(counts) - 1) // 2])
    shared = [name for name in _FACTS if name in clouds.schema.cloud_names and name in like.schema.cloud_names]
    apart = np.zeros(len(clouds))
    for name in shared:
        apart += (clouds.feature(name).astype(np.float64) - float(like.feature(name)[0])) ** 2
    return int(np.lexsort((np.abs(counts - like.counts[0]), apart))[0])


def slices(truth: PointClouds, samples: Mapping[str, PointClouds]) -> Figure:
    """The halos of a slice of 25 Mpc/h, or of a thinner box the whole of it, of one box of each set.

    The slice lies at the bottom of the box along z. The area of a marker is proportional to the halo's mass, on the same scale in all
    panels. Of each sample the box is the most like that of the truth, see :func:`chosen`: structures stand elsewhere, for nothing but
    the universe is the same.

    Args:
        samples: name in the title -> catalogues.
    """
    first = truth[[chosen(truth)]]
    boxes = {"truth": first} | {name: sample[[chosen(sample, first)]] for name, sample in samples.items()}
    columns = min(len(boxes), _PANELS_IN_ROW)
    rows = -(-len(boxes) // columns)
    massive = any("log10_mass" in box.schema.point_names for box in boxes.values())
    with mpl.rc_context(STYLE):
        sheet = page(_LEFT + columns * _STEP - (_STEP - _SIDE) + 0.2, rows * (_BOTTOM + _SIDE + _ABOVE) + 0.4 * massive)
        for place, (name, box) in enumerate(boxes.items()):
            row, column = divmod(place, columns)
            bottom = _BOTTOM + (_BOTTOM + _SIDE + _ABOVE) * (rows - 1 - row)
            axes = panel(sheet, _LEFT + _STEP * column, bottom, _SIDE, _SIDE)
            _draw(axes, box, TRUTH if place == 0 else colour(place - 1))
            axes.set_title(f"{plain(name)}\n{_facts(box)}")
            axes.set_xlabel("$x$ [Mpc/$h$]")
            if column == 0:
                axes.set_ylabel("$y$ [Mpc/$h$]")
        if massive:
            _explain(sheet)
    return sheet


def _draw(axes: Axes, box: PointClouds, shade: str) -> None:
    size = float(box.feature("box_size")[0])
    x, y, z = (np.mod(box.column(name).astype(np.float64), size) for name in ("x", "y", "z"))
    inside = z < SLICE
    areas = np.full(len(x), _AREA_WITHOUT_MASS)
    if "log10_mass" in box.schema.point_names:
        areas = _areas(box.column("log10_mass").astype(np.float64))
    # Near the border a halo is also seen from the other side.
    for shift_x in (-size, 0.0, size):
        for shift_y in (-size, 0.0, size):
            axes.scatter(
                x[inside] + shift_x,
                y[inside] + shift_y,
                s=areas[inside],
                color=shade,
                alpha=0.65,
                linewidths=0.4,
                edgecolors="white",
            )
    axes.set(xlim=(0, size), ylim=(0, size), aspect="equal")


def _areas(log10_mass: Floats) -> Floats:
    return np.asarray(_AREA * 10 ** (log10_mass - 14.0))


def _facts(box: PointClouds) -> str:
    """What the box is: its number of halos and its universe, where it is stored, in a line each."""
    size = min(SLICE, float(box.feature("box_size")[0]))
    z = np.mod(box.column("z").astype(np.float64), float(box.feature("box_size")[0]))
    universe = [
        f"{words} {float(box.feature(name)[0]):.4g}" for name, words in _FACTS.items() if name in box.schema.cloud_names
    ]
    counted = f"{np.count_nonzero(z < size):,} of {box.num_points:,} halos, $z < {size:g}$ Mpc/$h$"
    return "\n".join(filter(None, (", ".join(universe), counted)))


def _explain(sheet: Figure) -> None:
    """A line above the panels with markers of some masses."""
    width, height = sheet.get_size_inches()
    axes = sheet.add_axes((0.0, 1 - 0.42 / height, 1.0, 0.42 / height))
    axes.set_axis_off()
    for mass in _SHOWN_MASSES:
        label = rf"$10^{{{mass:g}}}\,h^{{-1}} M_\odot$"
        axes.scatter([], [], s=_areas(np.array([mass])), color=TRUTH, alpha=0.65, linewidths=0, label=label)
    axes.legend(
        loc="center left",
        bbox_to_anchor=(_LEFT / width, 0.5),
        ncols=len(_SHOWN_MASSES),
        borderaxespad=0,
        handletextpad=0.4,
        columnspacing=1.4,
    )
