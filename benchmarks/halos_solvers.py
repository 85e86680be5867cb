"""What the ODE solver in tens of steps gives beside the stochastic one: part `solvers` of halos.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from halo_statistics import FIDUCIAL, pm
from halos_quality import LIMITS, measured, met
from matplotlib.figure import Figure

from pcdiff.clouds import PointClouds
from pcdiff.evaluation.style import STYLE, TRUTH, colour, marker, page, panel
from pcdiff.generator import Generator

# The sampler, its steps and other settings; the first is what the others are compared with.
SOLVERS: dict[str, dict[str, Any]] = {
    "sde-dpm, 100 steps": {"sampler": "sde-dpm", "steps": 100},
    "ddim, 40 steps": {"sampler": "ddim", "order": 2, "grid": "log-snr", "steps": 40},
    "ddim, 20 steps": {"sampler": "ddim", "order": 2, "grid": "log-snr", "steps": 20},
}
_DRAWN = {
    "mass_function": ("log10 of the halo mass", "generated / true mass function", "linear"),
    "two_point_correlation": ("separation $r$ [Mpc/$h$]", r"generated / true $\xi(r)$", "log"),
    "power_spectrum": ("wave number $k$ [$h$/Mpc]", "generated / true $P(k)$", "log"),
}


def compared(generator: Generator, truth: PointClouds, other: PointClouds, seed: int) -> dict[str, Any]:
    """As many boxes as there are true ones by each solver, against these, and the seconds of the processor that they took."""
    found: dict[str, Any] = {"boxes": len(truth), "solvers": {}}
    for name, chosen in SOLVERS.items():
        start = time.process_time()
        sample = generator.sample(len(truth), seed=seed, conditions=FIDUCIAL, **chosen)
        seconds = time.process_time() - start
        found["solvers"][name] = {"seconds": seconds, **measured(truth, other, sample)}
    return found


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """A line a solver."""
    out = [
        [
            "solver",
            "time, in that of the first",
            "number of halos",
            "mass function",
            "velocity dispersion",
            "P(k)",
            "χ² per bin of ξ(r)",
        ]
    ]
    first = next(iter(found["solvers"].values()))
    for name, row in found["solvers"].items():
        cells = [name, f"{row['seconds'] / first['seconds']:.2f}"]
        for quantity in LIMITS:
            good = met(row, quantity, "sample")
            cells.append(
                pm(*row["ratios"][quantity]["sample"][0])
                if len(good) == 1
                else f"{sum(good)} of {len(good)} bins within {LIMITS[quantity]:.0%}"
            )
        out.append([*cells, f"{row['chi_squared']['sample']['full']:.2f}"])
    return {f"solvers, {found['boxes']} boxes each, in units of the truth": out}


def figure(found: Mapping[str, Any]) -> Figure:
    """Ratios to the truth, bin by bin."""
    width, gap, left = 3.8, 1.0, 0.9
    with mpl.rc_context(STYLE):
        drawn = page(left + 3 * (width + gap) - gap + 0.15, 3.9)
        for column, (quantity, (across, upwards, scale)) in enumerate(_DRAWN.items()):
            axes = panel(drawn, left + column * (width + gap), 0.65, width, 3.0)
            for at, (name, row) in enumerate(found["solvers"].items()):
                ratios = row["ratios"][quantity]
                low, high = np.array(ratios["low"]), np.array(ratios["high"])
                middle = np.sqrt(low * high) if scale == "log" else (low + high) / 2
                shift = (high - low) * 0.12 * (at - 1)
                value, error = np.transpose(ratios["sample"])
                bars = {
                    "color": colour(at),
                    "marker": marker(at),
                    "markersize": 4,
                    "linestyle": "none",
                    "elinewidth": 1,
                }
                axes.errorbar(middle + shift, value, error, label=name, **bars)
            axes.axhline(1, color=TRUTH, linewidth=1)
            axes.set(xlabel=across, ylabel=upwards, xscale=scale, ylim=(0.5, 1.5))
            if column == 0:
                axes.legend(fontsize=9)
    return drawn
