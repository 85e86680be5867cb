"""Observables of halos against closed forms, sums over all pairs, the symmetries of a periodic box, and halotools."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from scipy.stats import binom

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.physics import halos, measure, observables, profiles
from pcdiff.physics.halos.boxes import distortion
from pcdiff.physics.halos.kinematic import MASS_EDGES
from pcdiff.physics.halos.neighbours import COUNT_EDGES, NEIGHBOURS, RADIUS_EDGES
from pcdiff.physics.halos.pairs import SEPARATION_EDGES
from pcdiff.physics.halos.spectrum import WAVE_NUMBER_EDGES
from pcdiff.schema import POSITION, VELOCITY, Feature, Schema

from ..thomas import Thomas, catalogues

NAMES = [*observables("halos"), *profiles("halos")]
WITH_VELOCITY = {
    "velocity_dispersion",
    "bulk_flow",
    "speed",
    "vx",
    "redshift_space_monopole",
    "redshift_space_quadrupole",
    "pairwise_velocity",
}
WITH_MASS = {"log10_mass", "mass_function"}
MIDDLES = np.sqrt(SEPARATION_EDGES[1:] * SEPARATION_EDGES[:-1])


def columns_of(clouds):
    return {name: clouds.column(name).astype(np.float64) for name in clouds.schema.point_names}


def like(clouds, columns):
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(columns, clouds.offsets, features, clouds.schema)


def without(clouds, names):
    kept = {name: values for name, values in columns_of(clouds).items() if name not in names}
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(kept, clouds.offsets, features, clouds.schema.select(points=tuple(kept)))


def estimates(name, clouds):
    """The profile of the set and its error: the scatter from box to box of the ratio of sums."""
    profile = profiles("halos")[name]
    contents = profile.function(clouds).toarray()
    totals = np.ones_like(contents) if profile.totals is None else profile.totals(clouds)
    total = totals.sum(axis=0)
    mean = np.divide(contents.sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    error = np.sqrt(((contents - mean * totals) ** 2).sum(axis=0))
    return mean, np.divide(error, total, out=np.zeros_like(total), where=total > 0)


@pytest.fixture(scope="module")
def process():
    return Thomas()


@pytest.fixture(scope="module")
def boxes(process):
    return process.draw(60, seed=1)


@pytest.fixture(scope="module")
def uniform():
    rng = np.random.default_rng(2)
    counts = rng.integers(150, 400, 60)
    columns = dict(zip(POSITION, rng.uniform(0, 125, (3, counts.sum())), strict=True))
    columns |= dict(zip(VELOCITY, rng.normal(0, 300, (3, counts.sum())), strict=True))
    return catalogues(columns, counts)


def assert_same(one, other, names):
    for name in names:
        if name in one.values:
            np.testing.assert_allclose(other.values[name], one.values[name], rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            found, expected = (each.profiles[name].toarray() for each in (other, one))
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def test_where_the_box_begins_changes_nothing(boxes):
    """Pairs across the border are counted once, with their nearest images, wherever it lies."""
    some = boxes[:3]
    expected = measure(some)
    assert not expected.missing
    assert [*expected.values, *expected.profiles] == NAMES
    for seed in range(3):
        shift = np.random.default_rng(seed).uniform(0, 125, 3)
        columns = columns_of(some)
        columns |= {name: np.mod(columns[name] + by, 125.0) for name, by in zip(POSITION, shift, strict=True)}
        assert_same(expected, measure(like(some, columns)), NAMES)


def test_no_axis_and_no_direction_is_special(boxes):
    some = boxes[:1]
    expected = measure(some)
    columns = columns_of(some)
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)):
        turned = dict(columns)
        for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
            turned[POSITION[axis]] = np.mod(sign * columns[POSITION[source]], 125.0)
            turned[VELOCITY[axis]] = sign * columns[VELOCITY[source]]
        assert_same(expected, measure(like(some, turned)), [name for name in NAMES if name != "vx"])


def test_pairs_are_those_of_all_images():
    rng = np.random.default_rng(3)
    size, number = 90.0, 30
    x, v = rng.uniform(0, size, (number, 3)), rng.normal(0, 100, (number, 3))
    clouds = catalogues(dict(zip((*POSITION, *VELOCITY), np.hstack([x, v]).T, strict=True)), [number], size)
    counts, radial = np.zeros(16), np.zeros(16)
    for i, j in itertools.combinations(range(number), 2):
        images = np.array(list(itertools.product((-size, 0.0, size), repeat=3)))
        apart = min(x[i] - x[j] + images, key=np.linalg.norm)
        distance = np.linalg.norm(apart)
        place = np.searchsorted(SEPARATION_EDGES, distance, side="right") - 1
        if 0 <= place < 16:
            counts[place] += 1
            radial[place] += (v[i] - v[j]) @ apart / distance
    np.testing.assert_array_equal(halos.pair_counts(clouds)[0], counts)
    np.testing.assert_allclose(halos.pairwise_velocity(clouds).toarray()[0], radial, rtol=1e-12, atol=1e-9)


def test_clusters_have_the_correlation_function_of_the_closed_form(process, boxes):
    """Means over shells of the closed form; all bins within 4 errors from box to box."""
    xi, error = estimates("two_point_correlation", boxes)
    fine = [np.linspace(low, high, 200) for low, high in itertools.pairwise(SEPARATION_EDGES)]
    expected = [np.average(process.correlation(r), weights=r**2) for r in fine]
    assert (np.abs(xi - expected) < 4 * error).all()
    assert xi[8] > 10 * error[8]


def test_clusters_have_the_power_spectrum_of_the_closed_form(process, boxes):
    power, error = estimates("power_spectrum", boxes)
    waves = np.array(list(itertools.product(range(-20, 21), repeat=3)))
    k = 2 * np.pi / process.size * np.linalg.norm(waves, axis=1)
    k = k[(k > 0) & (k < 2 * np.pi / process.size * 20.000001)]
    numbers, _ = np.histogram(k, WAVE_NUMBER_EDGES)
    total, _ = np.histogram(k, WAVE_NUMBER_EDGES, weights=process.power(k))
    held = numbers > 0
    assert held.sum() == 13
    assert (power[~held] == 0).all()
    assert (np.abs(power[held] - total[held] / numbers[held]) < 4 * error[held]).all()


def test_halos_without_correlation_have_none(uniform):
    """Whatever the number of halos: no correlation, no power beyond shot noise, no infall; 4 errors in 16 to 30 bins each."""
    for name in ("two_point_correlation", "redshift_space_monopole", "redshift_space_quadrupole", "power_spectrum"):
        found, error = estimates(name, uniform)
        assert (error > 0).sum() >= 13
        assert (np.abs(found) <= 4 * error).all(), name
    v12, error = estimates("pairwise_velocity", uniform)
    assert (np.abs(v12) <= 4 * error).all()


def test_neighbours_and_counts_of_halos_without_correlation_are_binomial(uniform):
    radii = np.sqrt(RADIUS_EDGES[1:] * RADIUS_EDGES[:-1])
    inside = 4 / 3 * np.pi * radii**3 / 125.0**3
    # Spheres that reach around the box are more than their share of it.
    fits = radii < 125 / 2
    for k in NEIGHBOURS:
        found, error = estimates(f"nearest_neighbour_{k}", uniform)
        expected = np.mean([binom.sf(k - 1, n, inside) for n in uniform.counts], axis=0)
        # From one box to the next the number of halos differs too, which is known, so the error is on the large side.
        assert (np.abs(found - expected)[fits] < 4 * error[fits] + 1e-4).all(), k
    for radius, edges in COUNT_EDGES.items():
        found, error = estimates(f"counts_in_spheres_{radius}", uniform)
        share = 4 / 3 * np.pi * radius**3 / 125.0**3
        below = np.mean([binom.cdf(np.floor(edges), n, share) for n in uniform.counts], axis=0)
        below[-1] = 1.0
        np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-12)
        assert (np.abs(found - np.diff(below)) < 4 * error + 1e-4).all(), radius


def test_waves_of_a_lattice_are_those_of_its_spacing():
    """5^3 halos on a grid: N^2 in each wave that is a multiple of 5 along each axis, 0 in all others, less N."""
    grid = np.array(list(itertools.product(range(5), repeat=3))) * 25.0 + 3.0
    found = halos.power_spectrum(catalogues(dict(zip(POSITION, grid.T, strict=True)), [125])).toarray()[0]
    waves = np.array(list(itertools.product(range(-20, 21), repeat=3)))
    waves = waves[((waves**2).sum(axis=1) <= 400) & waves.any(axis=1)]
    place = np.searchsorted(WAVE_NUMBER_EDGES, 2 * np.pi / 125 * np.linalg.norm(waves, axis=1), side="right") - 1
    power = 125.0**3 * np.where((waves % 5 == 0).all(axis=1), 125.0**2 - 125, -125.0)
    # 20 waves along a side are a little more than 1 h/Mpc.
    inside = place < 30
    numbers = np.bincount(place[inside], minlength=30)
    expected = np.bincount(place[inside], power[inside], minlength=30) / np.maximum(numbers, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-3)


def test_halos_that_fall_towards_a_point_approach_each_other():
    """v = -10 (km/s)/(Mpc/h) r: v12 = -10 r, which in a bin lies between those of its edges."""
    x = np.random.default_rng(4).normal(60, 12, (300, 3))
    x = x[(x > 25).all(axis=1) & (x < 100).all(axis=1)]
    columns = dict(zip((*POSITION, *VELOCITY), np.hstack([x, -10 * (x - 60)]).T, strict=True))
    clouds = catalogues(columns, [len(x)], size=300.0)
    v12 = halos.pairwise_velocity(clouds).toarray()[0] / np.maximum(halos.pair_counts(clouds)[0], 1)
    known = halos.pair_counts(clouds)[0] > 0
    assert known.sum() > 12
    assert (v12[known] <= -10 * SEPARATION_EDGES[:-1][known]).all()
    assert (v12[known] >= -10 * SEPARATION_EDGES[1:][known]).all()


def test_redshift_space_displaces_along_the_line_of_sight_by_velocity_over_expansion():
    """At z = 1 and Omega_m = 0.3, H / (100 h) = sqrt(0.3 * 8 + 0.7): 1 Mpc/h is 88.03 km/s."""
    columns = dict(zip((*POSITION, *VELOCITY), np.array([[1.0, 2.0, 124.0, -200.0, 0.0, 200.0]]).T, strict=True))
    clouds = catalogues(columns, [1], redshift=1.0)
    shift = 200.0 * 2 / (100 * np.sqrt(0.3 * 8 + 0.7))
    np.testing.assert_allclose(distortion(clouds, 0)[0], [1 - shift + 125, 2, 124], rtol=1e-12)
    np.testing.assert_allclose(distortion(clouds, 1)[0], [1, 2, 124], rtol=1e-12)
    np.testing.assert_allclose(distortion(clouds, 2)[0], [1, 2, 124 + shift - 125], rtol=1e-12)


def test_halos_at_rest_have_the_monopole_of_real_space_and_no_quadrupole(boxes):
    """The sum of L_2 over three lines of sight at right angles is zero for each pair."""
    rest = like(boxes, columns_of(boxes) | {name: np.zeros(boxes.num_points) for name in VELOCITY})
    monopole = halos.redshift_space_monopole(rest).toarray() / MIDDLES**2
    np.testing.assert_allclose(monopole, halos.two_point_correlation(rest).toarray(), rtol=1e-9, atol=1e-9)
    assert np.abs(halos.redshift_space_quadrupole(rest).toarray() / MIDDLES**2).max() < 1e-9


@pytest.mark.parametrize(("name", "order"), [("redshift_space_monopole", 0), ("redshift_space_quadrupole", 2)])
def test_random_velocities_stretch_clusters_along_the_line_of_sight(process, boxes, name, order):
    """Fingers of god. Two halos of a cluster are normally apart, with variance 2 s^2, and along the line of sight 2 s^2 + 2 (200 / 100)^2."""
    across, along = 2 * process.spread**2, 2 * process.spread**2 + 2 * 2.0**2
    mu = np.linspace(0, 1, 401)[:, None]
    weight = np.full(401, 1.0)
    weight[[0, -1]] = 0.5
    legendre = 1.0 if order == 0 else (3 * mu**2 - 1) / 2

    def multipole(s):
        density = (
            np.exp(-(s**2) * ((1 - mu**2) / across + mu**2 / along) / 2) / (2 * np.pi) ** 1.5 / across / along**0.5
        )
        same = process.size**3 * (process.members - 1) * (2 * order + 1) * np.average(density * legendre, 0, weight)
        return (same + ((process.clusters - 1) * process.members if order == 0 else 0)) / (process.halos - 1) - (
            order == 0
        )

    fine = [np.linspace(low, high, 200) for low, high in itertools.pairwise(SEPARATION_EDGES)]
    expected = MIDDLES**2 * [np.average(multipole(s), weights=s**2) for s in fine]
    found, error = estimates(name, boxes)
    assert (np.abs(found - expected) < 4 * error).all()
    assert (np.abs(expected) > 10 * error).any()


def test_masses_and_velocities_are_those_of_their_definitions():
    v = np.array([[300.0, 0.0, 0.0], [-100.0, 0.0, 40.0], [0.0, 30.0, 0.0]])
    columns = dict(zip(POSITION, np.ones((3, 3)), strict=True)) | dict(zip(VELOCITY, v.T, strict=True))
    columns["log10_mass"] = np.array([13.55, 14.25, 13.52])
    clouds = catalogues(columns, [2, 1], size=100.0)
    np.testing.assert_allclose(halos.number_of_halos(clouds), [2, 1])
    np.testing.assert_allclose(halos.speed(clouds), [300, np.hypot(100, 40), 30])
    np.testing.assert_allclose(halos.bulk_flow(clouds), [np.hypot(100, 20), 30])
    np.testing.assert_allclose(halos.velocity_dispersion(clouds), [np.sqrt((200**2 + 20**2) / 3), 0])
    function = halos.mass_function(clouds).toarray()
    np.testing.assert_allclose(function.sum(axis=1) * np.diff(MASS_EDGES).mean(), [2 / 100**3, 1 / 100**3])
    np.testing.assert_allclose(function[:, 35], [1e-5, 1e-5])


def test_observables_that_need_velocities_or_masses_are_missing_without_them(boxes):
    assert set(measure(without(boxes[:2], VELOCITY)).missing) == WITH_VELOCITY
    assert set(measure(without(boxes[:2], ["log10_mass"])).missing) == WITH_MASS
    bare = measure(without(boxes[:2], [*VELOCITY, "log10_mass"]))
    assert set(bare.missing) == WITH_VELOCITY | WITH_MASS
    assert {*bare.values, *bare.profiles} == set(NAMES) - WITH_VELOCITY - WITH_MASS
    assert "vx" in bare.missing["speed"]
    assert bare.polynomials is None


def test_bins_beyond_half_of_a_small_box_are_empty():
    rng = np.random.default_rng(5)
    columns = dict(zip(POSITION, rng.uniform(0, 40, (3, 50)), strict=True))
    small = catalogues(columns, [50], size=40.0)
    beyond = SEPARATION_EDGES[1:] > 20
    assert (halos.expected_pairs(small)[0] > 0).tolist() == (~beyond).tolist()
    assert (halos.two_point_correlation(small).toarray()[0][beyond] == 0).all()
    found = measure(small)
    assert found.missing["counts_in_spheres_25"] == "a box of 40 Mpc/h, expected at least 50"
    tiny = catalogues(dict(zip(POSITION, np.full((3, 2), 0.5), strict=True)), [2], size=1.5)
    assert not halos.two_point_correlation(tiny).toarray().any()


def test_a_box_of_one_halo_has_no_pairs_and_no_eighth_neighbour():
    one = measure(catalogues(dict(zip(POSITION, np.full((3, 1), 124.99999), strict=True)), [1]))
    assert not one.totals["two_point_correlation"].any()
    assert not one.totals["power_spectrum"].any()
    assert not one.profiles["nearest_neighbour_8"].toarray().any()
    # The share of the box in a sphere, up to the places of the grid that lie on its surface.
    radii = np.sqrt(RADIUS_EDGES[1:] * RADIUS_EDGES[:-1])
    near = one.profiles["nearest_neighbour_1"].toarray()[0]
    np.testing.assert_allclose(near, 4 / 3 * np.pi * radii**3 / 125**3, atol=0.01)


def test_catalogues_in_other_units_or_without_a_box_are_refused(boxes):
    some = boxes[:2]
    columns, schema = columns_of(some), some.schema
    points = tuple(Feature(f.name, "kpc/h" if f.name == "x" else f.unit) for f in schema.points)
    features = {name: some.feature(name) for name in schema.cloud_names}
    kiloparsecs = PointClouds.from_flat(columns, some.offsets, features, Schema("halos", points, schema.clouds))
    with pytest.raises(DataError, match=r"a\.hdf5: point feature 'x' is in 'kpc/h', expected 'Mpc/h'"):
        measure(kiloparsecs, "a.hdf5")
    boundless = PointClouds.from_flat(columns, some.offsets, {}, Schema("halos", schema.points))
    with pytest.raises(DataError, match=r"a\.hdf5: halo catalogue: no cloud column 'box_size'"):
        measure(boundless, "a.hdf5")


@pytest.mark.slow
def test_correlations_and_infall_are_those_of_halotools(boxes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = pytest.importorskip("halotools.mock_observables")
    box = boxes[:1]
    x, v = (np.stack([box.column(name) for name in names], axis=1) for names in (POSITION, VELOCITY))
    expected = halos.expected_pairs(box)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xi = observed.tpcf(x, SEPARATION_EDGES, period=125.0)
        infall = observed.mean_radial_velocity_vs_r(x, v, rbins_absolute=SEPARATION_EDGES, period=125.0)
        multipoles = []
        for axis in range(3):
            s = np.roll(distortion(box, axis), 2 - axis, axis=1)
            of_mu = observed.s_mu_tpcf(s, SEPARATION_EDGES, np.linspace(0, 1, 401), period=125.0)
            multipoles.append([observed.tpcf_multipole(of_mu, np.linspace(0, 1, 401), order=order) for order in (0, 2)])
    # halotools counts each pair twice and divides by N^2.
    number = box.counts[0]
    ours = halos.two_point_correlation(box).toarray()[0] / expected
    np.testing.assert_allclose((1 + ours) * (number - 1) / number, 1 + xi, rtol=1e-9)
    # Its velocities are sums over pairs too.
    v12 = halos.pairwise_velocity(box).toarray()[0] / halos.pair_counts(box)[0]
    np.testing.assert_allclose(v12, infall, rtol=1e-6)
    monopole, quadrupole = np.mean(multipoles, axis=0)
    scale = (number - 1) / number
    np.testing.assert_allclose(
        (1 + halos.redshift_space_monopole(box).toarray()[0] / expected / MIDDLES**2) * scale, 1 + monopole, atol=0.01
    )
    # 400 bins in mu stand for the cosine of each pair: 5 L_2 is off by 15 mu / 800 at most.
    off = np.abs(halos.redshift_space_quadrupole(box).toarray()[0] / expected / MIDDLES**2 * scale - quadrupole)
    assert (off < 15 / 800 * (1 + monopole)).all()
