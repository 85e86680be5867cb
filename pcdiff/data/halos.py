"""Catalogues of dark-matter haloes in periodic boxes, of one universe or of a Latin hypercube of them.

A box is made with :mod:`pcdiff.data.particle_mesh`. Its random numbers follow from the seed and its own number, so a data set
does not depend on how many worker processes there are, and a rerun goes on where the last one ended.

The mass of a group of N particles is (N + u) particle masses, u uniform between -1/2 and 1/2: a particle's mass depends on
Omega_m, which masses that are whole multiples of it would give away to any model. One lower limit holds for all boxes, for
the same reason: no box holds groups of fewer particles than twenty.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.data.particle_mesh import BARYONS, HUBBLE, TILT, Cosmology, Mesh, evolve, friends_of_friends
from pcdiff.errors import DataError, optional
from pcdiff.executors import chosen_executors
from pcdiff.kinematics import into_box
from pcdiff.schema import halo_schema
from pcdiff.seeds import Purpose, stream
from pcdiff.shards import make_in_shards

__all__ = ["FIDUCIAL", "LOWEST_MASS", "HaloRecipe", "make_halos"]

FIDUCIAL = Cosmology(0.3175, 0.834)
"""The fiducial universe of the Quijote simulations (arXiv 1909.05273), within whose hypercube ours is, too."""

LOWEST_MASS = 2.1e13
"""Lower limit of the mass of a halo in Msun/h: twenty particles where Omega_m is 0.5."""

_SHARD = 20
_LINKING = 0.2
_FEWEST = 20
_POINTS = ("x", "y", "z", "vx", "vy", "vz", "log10_mass")
_CLOUDS = ("box_size", "redshift", "omega_m", "sigma_8")


@dataclass(frozen=True)
class HaloRecipe:
    """A data set of catalogues; arguments as for :func:`make_halos`."""

    count: int
    seed: int
    omega_m: tuple[float, float]
    sigma_8: tuple[float, float]
    shard_size: int
    mesh: Mesh = field(default_factory=Mesh)

    def __post_init__(self) -> None:
        for name, value, good, wanted in (
            ("count", self.count, self.count >= 1, "at least 1"),
            ("seed", self.seed, self.seed >= 0, "a whole number from 0"),
            ("omega_m", self.omega_m, 0.1 <= self.omega_m[0] <= self.omega_m[1] <= 0.5, "rising values in 0.1 to 0.5"),
            ("sigma_8", self.sigma_8, 0.3 <= self.sigma_8[0] <= self.sigma_8[1] <= 1.2, "rising values in 0.3 to 1.2"),
            ("steps", self.mesh.steps, self.mesh.steps >= 1, "at least 1"),
            ("refinement", self.mesh.refinement, self.mesh.refinement >= 1, "at least 1"),
        ):
            if not good:
                raise DataError(f"make halos: {name} is {value}; expected {wanted}")

    @property
    def shards(self) -> int:
        return math.ceil(self.count / self.shard_size)

    def size(self, shard: int) -> int:
        """Number of boxes in a shard: the last one may be smaller."""
        return min(self.shard_size, self.count - shard * self.shard_size)

    def cosmologies(self) -> list[Cosmology]:
        """That of each box: a Latin hypercube of the windows, in which each parameter falls once into each of ``count`` equal parts."""
        unit = qmc.LatinHypercube(2, rng=np.random.default_rng(stream(self.seed, Purpose.COSMOLOGY))).random(self.count)
        low, high = np.transpose([self.omega_m, self.sigma_8])
        # As they are stored, so that a reader finds the universe that was simulated.
        return [Cosmology(*map(float, row)) for row in (low + unit * (high - low)).astype(np.float32)]

    def provenance(self) -> dict[str, Any]:
        """The whole recipe as plain data: what is stored with the boxes."""
        return {
            "recipe": "pcdiff.data.make_halos",
            "count": self.count,
            "seed": self.seed,
            "omega_m": list(self.omega_m),
            "sigma_8": list(self.sigma_8),
            "simulation": asdict(self.mesh),
            "halos": f"friends of friends, linking length {_LINKING}, M > {LOWEST_MASS:g} Msun/h",
            "universe": {"h": HUBBLE, "n_s": TILT, "omega_b": BARYONS},
            "versions": {name: version(name) for name in ("colossus", "numba", "scipy")},
        }


def make_halos(
    output: str | os.PathLike[str],
    *,
    count: int,
    seed: int = 0,
    omega_m: tuple[float, float] = (0.1, 0.5),
    sigma_8: tuple[float, float] = (0.6, 1.0),
    steps: int = 10,
    refinement: int = 2,
    workers: int | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> Path:
    """Make catalogues of haloes with a particle mesh and write them to one file; needs the extra ``halos``.

    Boxes of 125 Mpc/h with 64^3 particles at redshift 0, which is the resolution of the Quijote simulations. Point columns: x, y, z in
    Mpc/h in [0, 125), peculiar vx, vy, vz in km/s, log10_mass (Msun/h) from log10 of 2.1e13, by falling mass. Cloud columns: box_size (Mpc/h),
    redshift, omega_m, sigma_8. The same arguments give the same boxes with any number of workers.

    Args:
        output: the file to write; the suffix decides the format.
        count: number of boxes.
        seed: other seeds give independent boxes and another hypercube.
        omega_m: window of the density of matter; a single universe where both ends are the same.
        sigma_8: window of the fluctuations, likewise.
        steps: of the simulation.
        refinement: mesh cells along a side for each particle.
        workers: number of processes; by default one for each CPU core.
        dask: a cluster that takes their place (:func:`pcdiff.executors.dask_workers`).
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        DataError: a bad argument, or shards of other settings in ``OUTPUT.parts``.
        PcdiffError: colossus or numba is not installed, or a worker was killed.
    """
    recipe = HaloRecipe(
        count=count,
        seed=seed,
        omega_m=(float(omega_m[0]), float(omega_m[1])),
        sigma_8=(float(sigma_8[0]), float(sigma_8[1])),
        shard_size=_SHARD,
        mesh=Mesh(steps=steps, refinement=refinement),
    )
    for module in ("colossus", "numba"):
        optional(module, "halos")
    executors = chosen_executors(workers, dask)
    return make_in_shards(
        recipe, _shard, output, what="halos", suffix=".parquet", executors=executors, progress=progress
    )


def _shard(recipe: HaloRecipe, shard: int) -> PointClouds:
    """Make the boxes of one shard."""
    universes = recipe.cosmologies()
    first = shard * recipe.shard_size
    return PointClouds.concatenate(
        [_box(recipe, universes[box], box) for box in range(first, first + recipe.size(shard))]
    )


def _box(recipe: HaloRecipe, universe: Cosmology, number: int) -> PointClouds:
    """Make one box."""
    phases, rounding = stream(recipe.seed, Purpose.HALOS, number).spawn(2)
    mesh = recipe.mesh
    particles = evolve(mesh, universe, phases)
    groups = friends_of_friends(*particles, mesh.box_size, _LINKING * mesh.spacing, _FEWEST)
    unit = np.random.default_rng(rounding).random(len(groups.sizes)) - 0.5
    mass = (groups.sizes + unit) * mesh.particle_mass(universe)
    order = np.argsort(-mass, kind="stable")
    order = order[mass[order] > LOWEST_MASS]
    position = into_box(groups.positions[order], mesh.box_size, np.float32)
    columns = (*position.T, *groups.velocities[order].astype(np.float32).T, np.log10(mass[order]).astype(np.float32))
    rows = (mesh.box_size, 0.0, universe.omega_m, universe.sigma_8)
    return PointClouds.from_flat(
        dict(zip(_POINTS, map(np.ascontiguousarray, columns), strict=True)),
        offsets_of([len(order)]),
        {name: np.array([value], np.float32) for name, value in zip(_CLOUDS, rows, strict=True)},
        halo_schema(_POINTS, _CLOUDS),
    )
