"""The particle mesh against linear theory, closed forms and other codes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import integrate

from pcdiff.data.particle_mesh import Cosmology, Mesh, evolve, fall, friends_of_friends

needs_halos = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("colossus", "numba")),
    reason="the extra halos is not installed",
)
COSMOLOGIES = [Cosmology(0.3175, 0.834), Cosmology(0.1, 0.6), Cosmology(0.5, 1.0)]
SCALES = np.array([0.05, 0.1, 0.3, 0.7, 1.0])


def seed(number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(number)


@pytest.mark.parametrize("cosmology", COSMOLOGIES)
def test_growth_is_heaths_integral(cosmology: Cosmology) -> None:
    """D is proportional to E int_0^a da' / (a' E)^3."""

    def heath(a: float) -> float:
        return float(cosmology.expansion(a)) * integrate.quad(lambda x: (x * cosmology.expansion(x)) ** -3, 1e-9, a)[0]

    np.testing.assert_allclose(cosmology.growth(SCALES), [heath(a) / heath(1.0) for a in SCALES], rtol=1e-6)


@pytest.mark.parametrize("cosmology", COSMOLOGIES)
@pytest.mark.parametrize(
    ("function", "slope"),
    [
        ("growth", "growth_slope"),
        ("second_growth", "second_growth_slope"),
        ("momentum_growth", "momentum_growth_slope"),
    ],
)
def test_slopes_are_derivatives(cosmology: Cosmology, function: str, slope: str) -> None:
    """The last of the three is the equation of linear growth."""
    step = 1e-4
    found = getattr(cosmology, function)
    numerical = (found(SCALES * (1 + step)) - found(SCALES * (1 - step))) / (2 * step * SCALES)
    np.testing.assert_allclose(getattr(cosmology, slope)(SCALES), numerical, rtol=2e-6)


def test_a_universe_of_matter_grows_as_its_scale() -> None:
    np.testing.assert_allclose(Cosmology(1.0, 0.8).growth(SCALES), SCALES, rtol=1e-12)


@needs_halos
def test_growth_is_that_of_colossus() -> None:
    from colossus.cosmology import cosmology as universes

    for own in COSMOLOGIES:
        other = universes.Cosmology(
            name="test",
            flat=True,
            H0=67.11,
            Om0=own.omega_m,
            Ob0=0.049,
            sigma8=own.sigma_8,
            ns=0.96,
            relspecies=False,
            persistence="",
        )
        np.testing.assert_allclose(own.growth(SCALES), other.growthFactor(1 / SCALES - 1), rtol=2e-4)


@needs_halos
def test_power_spectrum_has_the_asked_fluctuations_in_spheres() -> None:
    """sigma_8^2 = int k^2 dk / (2 pi^2) P(k) W(8 k)^2, W the transform of a sphere."""
    for cosmology in COSMOLOGIES:
        k = np.geomspace(1e-4, 50, 4000)
        x = 8 * k
        window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        variance = integrate.trapezoid(k**3 / (2 * np.pi**2) * cosmology.power()(k) * window**2, np.log(k))
        assert np.sqrt(variance) == pytest.approx(cosmology.sigma_8, rel=2e-3)


@needs_halos
def test_assignment_keeps_the_number_of_particles_and_is_the_adjoint_of_interpolation() -> None:
    from pcdiff.data.mesh_kernels import assign, interpolate

    rng = np.random.default_rng(0)
    x = (10 * rng.random((500, 3))).astype(np.float32)
    density = np.empty((8, 8, 8), np.float32)
    assign(x, 0.8, density)
    assert density.sum(dtype=np.float64) == pytest.approx(500, rel=1e-6)
    field = rng.standard_normal((3, 8, 8, 8)).astype(np.float32)
    p = np.zeros_like(x)
    interpolate(x, 0.8, field, np.float32(2.0), p)
    for axis in range(3):
        assert p[:, axis].sum() == pytest.approx(2 * float((density * field[axis]).sum()), abs=2e-2)


@needs_halos
def test_interpolation_is_exact_for_what_is_linear_between_cells() -> None:
    from pcdiff.data.mesh_kernels import interpolate

    grid = np.arange(8, dtype=np.float32)
    a, b, c = np.meshgrid(grid, grid, grid, indexing="ij")
    field = np.stack([a + 2 * b, b - c, 3 * c]).astype(np.float32)
    x = (7 * np.random.default_rng(1).random((200, 3))).astype(np.float32)
    p = np.zeros_like(x)
    interpolate(x, 1.0, field, np.float32(1.0), p)
    np.testing.assert_allclose(p, np.stack([x[:, 0] + 2 * x[:, 1], x[:, 1] - x[:, 2], 3 * x[:, 2]], axis=1), atol=1e-4)


@needs_halos
@pytest.mark.parametrize("amplitude", [0.5, 0.8])
def test_a_plane_wave_falls_as_zeldovich_says(amplitude: float) -> None:
    """Before trajectories cross, x = q + D(a) psi(q) is exact in one dimension (Zel'dovich, A&A 5 (1970) 84), with the velocity H f D psi."""
    cosmology = Cosmology(0.3175, 0.8)
    mesh = Mesh(box_size=64.0, particles=32, refinement=3)
    lattice = mesh.lattice()
    k = 2 * np.pi / mesh.box_size
    first = np.zeros_like(lattice)
    # Trajectories cross where k times the amplitude is 1.
    first[:, 0] = -amplitude / k * np.sin(k * lattice[:, 0])
    x, v = fall(mesh, cosmology, first, np.zeros_like(first))
    moved = np.mod(x - lattice + 32, 64) - 32
    slope = float((moved * first).sum() / (first**2).sum())
    assert slope == pytest.approx(1.0, abs=0.02)
    # Waves as short as a cell, where particles are densest, are not resolved.
    assert np.abs(moved - first).max() < 0.15 * np.abs(first).max()
    rate = 100 * float(cosmology.growth_slope(1.0))
    assert float((v * first).sum() / (first**2).sum()) == pytest.approx(rate, rel=0.05)


@needs_halos
def test_no_momentum_arises() -> None:
    _, v = evolve(Mesh(particles=16, box_size=31.25), COSMOLOGIES[0], seed(1))
    assert np.abs(v.mean(axis=0)).max() < 0.02 * v.std()


def test_groups_reach_across_the_border_and_small_ones_are_left_out() -> None:
    rng = np.random.default_rng(2)
    corner = np.mod(0.2 * rng.random((30, 3)) - 0.1, 10.0)
    middle = 5 + 0.2 * rng.random((20, 3))
    alone = np.array([[2.0, 2.0, 2.0]])
    x = np.concatenate([middle, alone, corner]).astype(np.float32)
    v = np.arange(len(x) * 3, dtype=np.float32).reshape(-1, 3)
    found = friends_of_friends(x, v, 10.0, 0.2, 5)
    assert found.sizes.tolist() == [30, 20]
    offset = np.mod(found.positions[0] + 5, 10) - 5
    np.testing.assert_allclose(offset, (np.mod(corner + 5, 10) - 5).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.velocities[1], v[:20].mean(axis=0), rtol=1e-6)
    assert np.all((found.positions >= 0) & (found.positions < 10))


def test_moving_all_particles_moves_the_groups() -> None:
    rng = np.random.default_rng(3)
    x = (10 * rng.random((3000, 3)) ** 2).astype(np.float32) % 10
    v = rng.standard_normal(x.shape).astype(np.float32)
    shift = np.array([3.7, 9.1, 5.5])
    one = friends_of_friends(x, v, 10.0, 0.3, 10)
    moved = np.mod(x + shift, 10).astype(np.float32)
    moved[moved >= 10] = 0
    two = friends_of_friends(moved, v, 10.0, 0.3, 10)
    assert one.sizes.tolist() == two.sizes.tolist()
    order_1, order_2 = (np.lexsort(g.velocities.T) for g in (one, two))
    difference = two.positions[order_2] - one.positions[order_1] - shift
    np.testing.assert_allclose(difference - 10 * np.round(difference / 10), 0, atol=1e-4)


def test_groups_are_those_of_halotools() -> None:
    halotools = pytest.importorskip("halotools.mock_observables", exc_type=ImportError)
    rng = np.random.default_rng(4)
    x = (10 * rng.random((2000, 3))).astype(np.float32)
    length = 0.5
    found = friends_of_friends(x, np.zeros_like(x), 10.0, length, 1)
    mean_spacing = 10 / 2000 ** (1 / 3)
    groups = halotools.FoFGroups(x.astype(np.float64), length / mean_spacing, length / mean_spacing, period=10.0)
    sizes = np.bincount(groups.group_ids)
    # halotools links across and along the line of sight apart: pairs within a cylinder are a superset of those in the sphere.
    assert found.sizes.sum() == sizes.sum() == 2000
    assert found.sizes.max() <= sizes.max()
    assert len(found.sizes) >= np.count_nonzero(sizes)
