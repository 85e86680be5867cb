"""How good the boxes of `pcdiff data make halos_pm` are: their mass function and correlation function against theory, and their convergence.

    make halos-data
    python benchmarks/halo_boxes.py mass correlation convergence --workers 2 --update-card

What is measured stands in benchmarks/README.md, the tables in the card of the data, datasets/halos_pm/README.md. Needs the extra `halos`. Boxes of other
settings are made in data/halos_convergence and kept there, so a run that is cut off goes on with the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from halo_statistics import FIDUCIAL, Estimate, boxes, numbers, pm, within
from measuring import conditions, described
from scipy.integrate import trapezoid
from tables import bullets, console, markdown_table, show, update_readme

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.data.halos import FIDUCIAL as UNIVERSE
from pcdiff.data.halos import LOWEST_MASS, make_halos
from pcdiff.data.particle_mesh import Mesh
from pcdiff.errors import PcdiffError, optional
from pcdiff.files import read_json, write_json
from pcdiff.physics.halos import log10_mass
from pcdiff.physics.halos.pairs import SEPARATION_EDGES

Floats = npt.NDArray[np.float64]

RESULTS = Path(__file__).with_name("results") / "halo_boxes.json"
CARD = Path(__file__).parents[1] / "datasets" / "halos_pm" / "README.md"
DATA = Path("data")
PARTS = ("mass", "correlation", "convergence")
# Steps and mesh cells a particle along a side; the first is what the data are made with.
SETTINGS = ((10, 2), (5, 2), (20, 2), (40, 2), (10, 3), (20, 3))
_SEED = 45
_EDGES = np.array([np.log10(LOWEST_MASS), *np.arange(13.4, 14.85, 0.1), 15.0, 15.5])
# Steps of integrals over a bin.
_FINE = 41


def universe() -> Any:
    """The fiducial universe in colossus, as the current one there."""
    found = UNIVERSE.colossus()
    optional("colossus.cosmology.cosmology", "halos").setCurrent(found)
    return found


def corrected(log_mass: Floats) -> Floats:
    """log10 of masses of N particles as those of N (1 - N^-0.6): the correction for sampling of Warren et al., arXiv astro-ph/0506395."""
    particles = 10**log_mass / Mesh().particle_mass(UNIVERSE)
    return np.asarray(log_mass + np.log10(1 - particles**-0.6))


def mass(clouds: PointClouds) -> list[dict[str, Any]]:
    """The mass function over that of Watson et al., "The halo mass function through the cosmic ages", arXiv 1212.0095, for friends of friends,
    with masses as they are and corrected.

    Corrected masses are smaller, so no bin lacks what the lower limit of the data took away.
    """
    universe()
    theory = optional("colossus.lss.mass_function", "halos")
    raw = log10_mass(clouds)
    owners = clouds.owners
    volume = float(clouds.feature("box_size")[0]) ** 3
    rows = []
    for low, high in pairwise(_EDGES):
        at = np.linspace(low, high, _FINE)
        density = theory.massFunction(10**at, 0.0, mdef="fof", model="watson13", q_out="dndlnM")
        expected = volume * float(trapezoid(density, at)) * np.log(10)
        row: dict[str, Any] = {"low": float(low), "high": float(high), "expected": expected}
        for name, values in (("raw", raw), ("warren", corrected(raw))):
            inside = (values >= low) & (values < high)
            each = Estimate.of(np.bincount(owners[inside], minlength=len(clouds))[:, None] / expected)
            row[name] = [float(each.value[0]), float(each.error[0])]
        rows.append(row)
    return rows


def box_correlation(power: Any, size: float, waves: int, edges: Floats) -> Floats:
    """Linear xi in shells of r from the waves of a box alone, 1 / V sum_k P(k) sin(kr) / (kr), shape (b,).

    Args:
        power: P(k) in (Mpc/h)^3 of k in h/Mpc.
        size: of the box in Mpc/h.
        waves: at most so many along half of a side.
    """
    along = np.arange(-waves, waves + 1) ** 2
    squared = (along[:, None, None] + along[None, :, None] + along).ravel()
    lengths, counts = np.unique(squared[squared > 0], return_counts=True)
    k = 2 * np.pi / size * np.sqrt(lengths)
    kr = k[:, None] * edges
    # The integral of r^2 sin(kr) / (kr) is (sin(kr) - kr cos(kr)) / k^3.
    shells = 3 * np.diff((np.sin(kr) - kr * np.cos(kr)) / k[:, None] ** 3) / np.diff(edges**3)
    return np.asarray((counts * power(k)) @ shells / size**3)


def correlation(clouds: PointClouds) -> dict[str, Any]:
    """xi against b^2 xi of linear theory, b the mean bias of the halos of Tinker et al., "The large-scale bias of dark matter halos", arXiv 1001.3162.

    Masses by friends of friends are taken for those of a density of 200 times the mean.
    """
    cosmo = universe()
    bias = optional("colossus.lss.bias", "halos")
    each = np.unique(np.round(log10_mass(clouds), 2), return_counts=True)
    b = float(np.average(bias.haloBias(10 ** each[0], 0.0, mdef="200m", model="tinker10"), weights=each[1]))
    bins = within(SEPARATION_EDGES, 3.0, 40.0)
    edges = SEPARATION_EDGES[bins[0] : bins[-1] + 2]
    found = Estimate.of_profile("two_point_correlation", clouds, bins)
    linear = []
    for low, high in pairwise(edges):
        r = np.linspace(low, high, _FINE)
        linear.append(3 * trapezoid(r**2 * cosmo.correlationFunction(r, 0.0), r) / (high**3 - low**3))
    mesh = Mesh()
    own = box_correlation(
        lambda k: cosmo.matterPowerSpectrum(k, model="eisenstein98"), mesh.box_size, mesh.particles // 2, edges
    )
    expected = b**2 * np.array(linear)
    return {
        "bias": b,
        "edges": edges.tolist(),
        "xi": np.transpose([found.value, found.error]).tolist(),
        "linear": expected.tolist(),
        "own_modes": (b**2 * own).tolist(),
    }


def convergence(folder: Path, count: int, workers: int) -> list[dict[str, Any]]:
    """The same phases with other steps and meshes: ratios of numbers of a box to those of the settings of the data, over the same boxes."""
    window = {name: (value, value) for name, value in FIDUCIAL.items()}
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    for steps, refinement in SETTINGS:
        file = folder / f"halos_{count}_boxes_{steps}_steps_{refinement}_cells.parquet"
        if not file.is_file():
            make_halos(
                file,
                count=count,
                seed=_SEED,
                steps=steps,
                refinement=refinement,
                workers=workers,
                progress=False,
                **window,
            )
        made[steps, refinement] = numbers(pcdiff.read(file))
    rows = []
    for (steps, refinement), each in made.items():
        ratios = {
            name: _ratio(Estimate.of(*_columns(values)), Estimate.of(*_columns(made[SETTINGS[0]][name])))
            for name, values in each.items()
        }
        rows.append({"steps": steps, "cells": refinement, "ratios": ratios})
    return rows


def _columns(values: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    contents, totals = values
    return contents[:, None], totals[:, None]


def _ratio(one: Estimate, other: Estimate) -> list[float]:
    """Of two means over the same boxes, with the error of what they do not have in common."""
    ratio = one.value / other.value
    apart = Estimate(ratio, one.influence / other.value - ratio * other.influence / other.value)
    return [float(ratio[0]), float(apart.error[0])]


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title; of those parts that there are."""
    out = {}
    if "mass" in found:
        lines = [["log10 M", "expected in a box", "mass function / Watson13", "with Warren-corrected masses"]]
        for row in found["mass"]["rows"]:
            ratios = [pm(*row[name]) for name in ("raw", "warren")]
            lines.append([f"{row['low']:.2f} to {row['high']:.2f}", f"{row['expected']:.3g}", *ratios])
        out[f"mass function of {found['mass']['boxes']} fiducial boxes"] = lines
    if "correlation" in found:
        rows = found["correlation"]["rows"]
        edges = rows["edges"]
        lines = [["r, Mpc/h", "ξ", "ξ / (b² ξ of linear theory)", "the same of a linear box with its own modes alone"]]
        for at, (value, error) in enumerate(rows["xi"]):
            linear, own = rows["linear"][at], rows["own_modes"][at]
            cells = [pm(value, error), pm(value / linear, error / linear), f"{own / linear:.3f}"]
            lines.append([f"{edges[at]:.1f} to {edges[at + 1]:.1f}", *cells])
        out[f"two-point function of {found['correlation']['boxes']} fiducial boxes, b = {rows['bias']:.3f}"] = lines
    if "convergence" in found:
        rows = found["convergence"]["rows"]
        lines = [["steps", "cells", *rows[0]["ratios"]]]
        for row in rows:
            lines.append([str(row["steps"]), str(row["cells"]), *(pm(*ratio) for ratio in row["ratios"].values())])
        steps, cells = SETTINGS[0]
        title = f"ratio to {steps} steps and {cells} mesh cells a particle, same phases, {found['convergence']['boxes']} boxes"
        out[title] = lines
    return out


def markdown(found: Mapping[str, Any]) -> str:
    """The tables, and where they come from."""
    out = []
    for heading, lines in tables(found).items():
        out += [f"{heading[0].upper()}{heading[1:]}:", markdown_table(lines)]
    notes = [f"{part}: {note}" for part in PARTS if part in found for note in described(found[part]["conditions"])]
    return "\n\n".join([*out, bullets(notes)])


def main() -> None:
    """Measure what is asked for, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what is measured")
    parser.add_argument("--count", type=int, default=200, help="fiducial boxes against theory (default: 200)")
    parser.add_argument("--boxes", type=int, default=20, help="boxes of each of the other settings (default: 20)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make them (default: 1)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the boxes (default: data)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--card", type=Path, default=CARD, help="card of the data (default: %(default)s)")
    parser.add_argument("--update-card", action="store_true", help="write the tables into the card")
    chosen = parser.parse_args()
    stored: dict[str, Any] = read_json(chosen.output) if chosen.output.is_file() else {}
    try:
        for part in chosen.parts:
            at = conditions()
            if part == "convergence":
                rows: Any = convergence(chosen.data / "halos_convergence", chosen.boxes, chosen.workers)
                count = chosen.boxes
            else:
                clouds = boxes(chosen.data / "halos_fiducial.hdf5", 0, chosen.count)
                rows, count = (mass if part == "mass" else correlation)(clouds), chosen.count
            stored[part] = {"boxes": count, "rows": rows, "conditions": at}
            write_json(chosen.output, stored)
        out = console()
        for heading, lines in tables({part: stored[part] for part in chosen.parts}).items():
            show(heading, lines, out)
        if chosen.update_card:
            update_readme("halo_boxes.py", markdown(stored), chosen.card)
    except PcdiffError as error:
        raise SystemExit(f"halo_boxes.py: {error}") from error


if __name__ == "__main__":
    main()
