r"""Dark-matter haloes of one random seed, on a CPU in seconds: Lagrangian perturbation theory, a particle mesh, friends of friends.

A flat LCDM universe with the linear power spectrum of Eisenstein and Hu (astro-ph/9709112; colossus, arXiv 1712.04512). Particles on
a lattice are displaced to second order (2LPT; Bouchet et al., astro-ph/9406013) at a scale factor of 0.1 and from there on fall
under the gravity of a mesh: cloud-in-cell assignment, forces by Fourier transform with one window of it taken out, and leapfrog steps whose factors make linear
growth exact for any number of steps (FastPM; Feng et al., arXiv 1603.00476). Groups of particles no farther apart than 0.2 of their mean
spacing are haloes.

Time is the scale factor a, in units of the Hubble time today: with E(a) = H(a) / H_0, momentum is p = a^3 E dx/da, and

    dx/da = p / (a^3 E),        dp/da = -grad phi / (a^2 E),        lap phi = 3/2 Omega_m delta.

Linear growth D is a hypergeometric function (Heath, MNRAS 179 (1977) 351), of which all other factors follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, special
from scipy.interpolate import CubicSpline
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pcdiff.errors import optional
from pcdiff.kinematics import into_box

__all__ = [
    "BARYONS",
    "CRITICAL_DENSITY",
    "HUBBLE",
    "TILT",
    "Cosmology",
    "Groups",
    "Mesh",
    "evolve",
    "fall",
    "friends_of_friends",
]

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

HUBBLE = 0.6711
"""The Hubble constant h in units of 100 km/s/Mpc."""
TILT = 0.9624
"""The spectral index n_s of the primordial fluctuations."""
BARYONS = 0.049
"""The density of baryons Omega_b."""
CRITICAL_DENSITY = 2.77536627e11
"""In Msun/h per (Mpc/h)^3."""

# Wave numbers in h/Mpc between which the power spectrum is tabulated.
_LOWEST, _HIGHEST = 1e-4, 1e2


@dataclass(frozen=True)
class Cosmology:
    """A flat universe of matter and a cosmological constant; h, n_s and Omega_b are those of this module.

    Attributes:
        omega_m: density of matter today.
        sigma_8: linear root-mean-square fluctuation today in spheres of 8 Mpc/h.
    """

    omega_m: float
    sigma_8: float

    def expansion(self, a: Any) -> Any:
        """E(a) = H(a) / H_0."""
        return np.sqrt(self.omega_m / a**3 + 1 - self.omega_m)

    def growth(self, a: Any) -> Any:
        """D(a), linear growth, 1 today."""
        return self._growth(a) / self._growth(1.0)

    def growth_slope(self, a: Any) -> Any:
        """dD/da."""
        e = self.expansion(a)
        return (self._growth(a) * self._expansion_slope(a) / e + 2.5 * self.omega_m / (a**3 * e**2)) / self._growth(1.0)

    def second_growth(self, a: Any) -> Any:
        """Growth of the second-order displacement, -3/7 D^2 Omega_m(a)^(-1/143) (Bouchet et al., astro-ph/9406013)."""
        return -3 / 7 * self.growth(a) ** 2 * self._matter(a) ** (-1 / 143)

    def second_growth_slope(self, a: Any) -> Any:
        """The derivative in a of :meth:`second_growth`."""
        log_matter = -3 / a - 2 * self._expansion_slope(a) / self.expansion(a)
        return self.second_growth(a) * (2 * self.growth_slope(a) / self.growth(a) - log_matter / 143)

    def momentum_growth(self, a: Any) -> Any:
        """G(a) = a^3 E dD/da, growth of linear momenta."""
        return a**3 * self.expansion(a) * self.growth_slope(a)

    def momentum_growth_slope(self, a: Any) -> Any:
        """dG/da = 3/2 Omega_m D / (a^2 E): the equation of linear growth."""
        return 1.5 * self.omega_m * self.growth(a) / (a**2 * self.expansion(a))

    def colossus(self) -> Any:
        """The same universe in colossus; needs the extra ``halos``."""
        parameters = {"H0": 100 * HUBBLE, "Om0": self.omega_m, "Ob0": BARYONS, "sigma8": self.sigma_8, "ns": TILT}
        return optional("colossus.cosmology.cosmology", "halos").Cosmology(
            name="pcdiff", flat=True, relspecies=False, persistence="", **parameters
        )

    def power(self) -> Callable[[Singles], Singles]:
        """The linear power spectrum today, (Mpc/h)^3, of wave numbers in h/Mpc; needs the extra ``halos``."""
        return _power(self.omega_m, self.sigma_8)

    def _growth(self, a: Any) -> Any:
        return a * special.hyp2f1(1 / 3, 1, 11 / 6, -(1 - self.omega_m) / self.omega_m * a**3)

    def _expansion_slope(self, a: Any) -> Any:
        return -1.5 * self.omega_m / a**4 / self.expansion(a)

    def _matter(self, a: Any) -> Any:
        return self.omega_m / a**3 / self.expansion(a) ** 2


@lru_cache(maxsize=4)
def _power(omega_m: float, sigma_8: float) -> Callable[[Singles], Singles]:
    universe = Cosmology(omega_m, sigma_8).colossus()
    k = np.geomspace(_LOWEST, _HIGHEST, 800)
    table = CubicSpline(np.log(k), np.log(universe.matterPowerSpectrum(k, model="eisenstein98")))
    return lambda wave: np.exp(table(np.log(wave))).astype(np.float32)


@dataclass(frozen=True)
class Mesh:
    """What is simulated, and how finely.

    Attributes:
        box_size: side of the periodic box in Mpc/h.
        particles: number of particles along a side.
        refinement: mesh cells along a side for each of these.
        steps: leapfrog steps, even in a, from ``start`` to 1.
        start: scale factor of the displaced lattice.
    """

    box_size: float = 125.0
    particles: int = 64
    refinement: int = 2
    steps: int = 10
    start: float = 0.1

    @property
    def spacing(self) -> float:
        """Mean distance of particles in Mpc/h."""
        return self.box_size / self.particles

    def lattice(self) -> Singles:
        """Where particles are before they are displaced, in Mpc/h, shape (P, 3)."""
        side = (np.arange(self.particles, dtype=np.float32) + np.float32(0.5)) * np.float32(self.spacing)
        found: Singles = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
        return found

    def particle_mass(self, cosmology: Cosmology) -> float:
        """In Msun/h."""
        return CRITICAL_DENSITY * cosmology.omega_m * self.spacing**3


def evolve(mesh: Mesh, cosmology: Cosmology, seed: np.random.SeedSequence) -> tuple[Singles, Singles]:
    """Particles at a = 1: positions in [0, box size) in Mpc/h and peculiar velocities in km/s, shape (P, 3) each."""
    first, second = _displacements(mesh, cosmology.power(), np.random.default_rng(seed))
    return fall(mesh, cosmology, first, second)


def fall(mesh: Mesh, cosmology: Cosmology, first: Singles, second: Singles) -> tuple[Singles, Singles]:
    """The same for a lattice that is displaced.

    Args:
        first, second: displacements of first and second order today, in Mpc/h, shape (P, 3) each; what they are multiplied by,
            :class:`Cosmology` says.
    """
    kernels = optional("pcdiff.data.mesh_kernels", "halos")
    start, length = mesh.start, np.float32(mesh.box_size)
    x = mesh.lattice()
    x += np.float32(cosmology.growth(start)) * first + np.float32(cosmology.second_growth(start)) * second
    slopes = cosmology.growth_slope(start), cosmology.second_growth_slope(start)
    p = np.float32(start**3 * cosmology.expansion(start)) * (
        np.float32(slopes[0]) * first + np.float32(slopes[1]) * second
    )

    cells = mesh.particles * mesh.refinement
    waves, squared = _waves(cells, mesh.box_size)
    # Of the potential, from the number of particles in each cell. Assignment and interpolation smooth forces by the window of cloud
    # in cell each. To take out one of the two brings the masses on two cells a particle near to those on four; to take out both
    # amplifies what is aliased.
    half = np.float32(mesh.box_size / cells / 2 / np.pi)
    window = np.prod([np.sinc(wave * half) for wave in np.broadcast_arrays(*waves)], axis=0) ** 2
    green = -1.5 * cosmology.omega_m * np.float32(mesh.refinement**3) / (squared * window)
    green[0, 0, 0] = 0
    density = np.empty((cells,) * 3, np.float32)
    force = np.empty((3, *density.shape), np.float32)

    def kick(a: float, b: float, at: float) -> None:
        """Momenta from a to b under the forces at a scale factor between."""
        kernels.assign(x, cells / mesh.box_size, density)
        potential = fft.rfftn(density, workers=1) * green
        for axis in range(3):
            force[axis] = fft.irfftn(-1j * waves[axis] * potential, s=density.shape, overwrite_x=True, workers=1)
        change = cosmology.momentum_growth(b) - cosmology.momentum_growth(a)
        factor = change / cosmology.momentum_growth_slope(at) / (at**2 * cosmology.expansion(at))
        kernels.interpolate(x, cells / mesh.box_size, force, np.float32(factor), p)

    def drift(a: float, b: float, at: float) -> None:
        """Positions from a to b under the momenta at a scale factor between."""
        change = (cosmology.growth(b) - cosmology.growth(a)) / cosmology.growth_slope(at)
        x[:] += np.float32(change / (at**3 * cosmology.expansion(at))) * p
        np.mod(x, length, out=x)

    np.mod(x, length, out=x)
    times = np.linspace(start, 1.0, mesh.steps + 1)
    middles = (times[1:] + times[:-1]) / 2
    kick(times[0], middles[0], times[0])
    for i, middle in enumerate(middles):
        drift(times[i], times[i + 1], middle)
        kick(middle, middles[i + 1] if i + 1 < mesh.steps else times[i + 1], times[i + 1])
    # Rounding takes tiny negative positions to the box size itself.
    x[x >= length] = 0
    # At a = 1 the peculiar velocity is p H_0 with H_0 = 100 km/s h/Mpc.
    return x, p * np.float32(100)


def _waves(cells: int, box_size: float) -> tuple[list[Singles], Singles]:
    """Components of the wave vectors of a real mesh, and their squared lengths, that of the zero vector replaced by 1."""
    full = (2 * np.pi * fft.fftfreq(cells, box_size / cells)).astype(np.float32)
    half = (2 * np.pi * fft.rfftfreq(cells, box_size / cells)).astype(np.float32)
    waves = [full[:, None, None], full[None, :, None], half[None, None, :]]
    squared = waves[0] ** 2 + waves[1] ** 2 + waves[2] ** 2
    squared[0, 0, 0] = 1
    return waves, squared


def _displacements(
    mesh: Mesh, power: Callable[[Singles], Singles], rng: np.random.Generator
) -> tuple[Singles, Singles]:
    """First- and second-order displacements of the lattice today, in Mpc/h, shape (P, 3).

    delta = -div first, and second is the gradient of the potential whose source is the sum of the minors of the tidal tensor; it is
    multiplied by a negative growth.
    """
    n = mesh.particles
    shape = (n, n, n)
    waves, squared = _waves(n, mesh.box_size)
    delta = fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    delta *= np.sqrt(power(np.sqrt(squared)) * np.float32((n / mesh.box_size) ** 3))
    delta[0, 0, 0] = 0
    potential = -delta / squared

    def derivatives(field: npt.NDArray[Any], *axes: int) -> Singles:
        for axis in axes:
            field = 1j * waves[axis] * field
        found: Singles = fft.irfftn(field, s=shape)
        return found

    first = [-derivatives(potential, axis) for axis in range(3)]
    tidal = {(i, j): derivatives(potential, i, j) for i in range(3) for j in range(i, 3)}
    source = tidal[0, 0] * (tidal[1, 1] + tidal[2, 2]) + tidal[1, 1] * tidal[2, 2]
    source -= tidal[0, 1] ** 2 + tidal[0, 2] ** 2 + tidal[1, 2] ** 2
    potential = -fft.rfftn(source) / squared
    potential[0, 0, 0] = 0
    second = [derivatives(potential, axis) for axis in range(3)]
    return _columns(first), _columns(second)


def _columns(field: list[Singles]) -> Singles:
    """The components of a field on a lattice as the columns of a table."""
    found: Singles = np.stack([component.ravel() for component in field], axis=1).astype(np.float32)
    return found


@dataclass(frozen=True)
class Groups:
    """Groups of particles, the largest first.

    Attributes:
        positions: centres of mass in [0, box size) in Mpc/h, shape (n, 3).
        velocities: mean velocities of their particles in km/s, shape (n, 3).
        sizes: numbers of their particles, shape (n,).
    """

    positions: Floats
    velocities: Floats
    sizes: npt.NDArray[np.int64]


def friends_of_friends(positions: Singles, velocities: Singles, box_size: float, length: float, fewest: int) -> Groups:
    """Groups of particles that a chain of steps no longer than ``length`` joins across the periodic box.

    Davis, Efstathiou, Frenk, White, ApJ 292 (1985) 371.

    Args:
        positions: in [0, box size), shape (P, 3).
        velocities: shape (P, 3).
        box_size: in the unit of the positions.
        length: the linking length, likewise.
        fewest: groups of fewer particles are left out.
    """
    pairs = cKDTree(positions, boxsize=box_size).query_pairs(length, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(positions),) * 2)
    _, labels = connected_components(links, directed=False)
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes >= fewest)
    kept = kept[np.argsort(-sizes[kept], kind="stable")]
    place = np.full(len(sizes), -1)
    place[kept] = np.arange(len(kept))
    group = place[labels]
    x, v = positions[group >= 0].astype(np.float64), velocities[group >= 0]
    group = group[group >= 0]
    # Any member is an origin from which the others lie in the same image of the box.
    origin = np.zeros((len(kept), 3))
    origin[group] = x
    steps = x - origin[group]
    steps -= box_size * np.round(steps / box_size)
    mean = [
        np.stack([np.bincount(group, column, len(kept)) for column in field.T], axis=1) / sizes[kept, None]
        for field in (steps, v)
    ]
    return Groups(into_box(origin + mean[0], box_size), mean[1], sizes[kept])
