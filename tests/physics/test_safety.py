"""What jet observables do not depend on: soft and collinear constituents, order, azimuth and unit of momentum."""

from __future__ import annotations

import numpy as np
import pytest

from pcdiff.clouds import PointClouds
from pcdiff.physics import jets, measure, observables, profiles
from pcdiff.schema import jet_schema

# What is about columns that only some files store is tested with these columns.
ALL = {name: about for name, about in {**observables("jets"), **profiles("jets")}.items() if not about.columns}
SAFE = sorted(jets.INFRARED_AND_COLLINEAR_SAFE)
UNSAFE = sorted(set(ALL) - jets.INFRARED_AND_COLLINEAR_SAFE)


def value(name, clouds):
    found = ALL[name].function(clouds)
    return found if isinstance(found, np.ndarray) else found.toarray()


def with_soft(random_jets, fraction):
    return [np.vstack([jet, (0.11, -0.07, fraction)]) for jet in random_jets]


def with_split(random_jets):
    """The leading constituent of each jet as two of the same direction."""
    found = []
    for jet in random_jets:
        lead = np.argmax(jet[:, 2])
        parts = np.vstack([jet, jet[lead]])
        parts[lead, 2] *= 0.4
        parts[-1, 2] *= 0.6
        found.append(parts)
    return found


def test_unsafe_observables_are_those_that_count_or_name_constituents():
    assert (
        sorted(
            [
                "etarel",
                "leading_ptrel",
                "multiplicity",
                "phirel",
                "ptd",
                "ptrel",
                "rank_spectrum",
                "second_ptrel",
                "third_ptrel",
            ]
        )
        == UNSAFE
    )
    assert set(SAFE) < set(ALL)


@pytest.mark.parametrize("name", SAFE)
def test_a_soft_constituent_changes_safe_observables_in_proportion_to_its_momentum(name, build, random_jets):
    before = value(name, build(random_jets))
    scale = np.abs(before).max()
    changes = [
        np.abs(value(name, build(with_soft(random_jets, fraction))) - before).max() / scale for fraction in (1e-7, 1e-9)
    ]
    assert changes[0] < 1e-5
    # Rounding in the masses of FastJet's sums leaves 1e-12 of the squared energy.
    assert changes[1] < 0.02 * changes[0] + 1e-10


@pytest.mark.parametrize("name", SAFE)
def test_a_collinear_splitting_does_not_change_safe_observables(name, build, random_jets):
    before = value(name, build(random_jets))
    after = value(name, build(with_split(random_jets)))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-10 * np.abs(before).max())


@pytest.mark.parametrize("name", UNSAFE)
def test_a_collinear_splitting_changes_unsafe_observables(name, build, random_jets):
    before, after = value(name, build(random_jets)), value(name, build(with_split(random_jets)))
    assert before.shape != after.shape or np.abs(after - before).max() > 0.01 * np.abs(before).max()


def test_flow_polynomials_are_safe(build, random_jets):
    before = jets.flow_polynomials(build(random_jets))
    np.testing.assert_allclose(jets.flow_polynomials(build(with_split(random_jets))), before, rtol=1e-10)
    one, other = (jets.flow_polynomials(build(with_soft(random_jets, fraction))) - before for fraction in (1e-5, 1e-7))
    np.testing.assert_allclose(one, 100 * other, rtol=0.01, atol=1e-12)


def absolute(random_jets, turn=0.0, factor=1.0, order=None):
    """The same jets as (pt, eta, phi) without columns for the jets, whose axis is then the sum of their constituents."""
    flat = np.concatenate([jet if order is None else jet[order] for jet in random_jets])
    columns = {
        "pt": 500.0 * factor * flat[:, 2],
        "eta": 0.7 + flat[:, 0],
        "phi": (2.0 + turn + flat[:, 1] + np.pi) % (2 * np.pi) - np.pi,
    }
    return PointClouds.from_flat(columns, np.arange(0, len(flat) + 1, 12), {}, jet_schema(list(columns), []))


@pytest.mark.parametrize("name", list(ALL))
def test_azimuth_does_not_matter_across_its_seam_either(name, random_jets):
    before = value(name, absolute(random_jets))
    for turn in (np.pi - 2.0, 2.5):
        turned = absolute(random_jets, turn)
        assert np.ptp(turned.column("phi")) > (6 if turn < 2 else 0)
        np.testing.assert_allclose(
            value(name, turned), before, rtol=1e-9, atol=1e-9 * np.abs(before).max(), err_msg=name
        )


@pytest.mark.parametrize("name", [name for name in ALL if getattr(ALL[name], "level", "cloud") == "cloud"])
def test_the_order_of_constituents_does_not_matter(name, random_jets):
    order = np.random.default_rng(1).permutation(12)
    before = value(name, absolute(random_jets))
    after = value(name, absolute(random_jets, order=order))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9 * np.abs(before).max())


@pytest.mark.parametrize("name", list(ALL))
def test_observables_scale_with_the_unit_of_momentum(name, random_jets):
    power = 1 if getattr(ALL[name], "unit", "") == "GeV" else 0
    before = value(name, absolute(random_jets))
    after = value(name, absolute(random_jets, factor=7.0))
    np.testing.assert_allclose(after, 7.0**power * before, rtol=1e-9, atol=1e-9 * np.abs(before).max())


@pytest.mark.parametrize("name", ["relative_mass", "tau1", "tau2", "tau3", "c2", "d2", "energy_energy_correlator"])
def test_shapes_without_an_axis_do_not_depend_on_where_the_stored_phirel_begins(name, build, random_jets):
    turned = [np.column_stack([j[:, 0], (j[:, 1] + 2 * np.pi) % (2 * np.pi) - np.pi, j[:, 2]]) for j in random_jets]
    before = value(name, build(random_jets))
    np.testing.assert_allclose(value(name, build(turned)), before, rtol=1e-9, atol=1e-12)


def test_single_and_momentumless_constituents_give_finite_values(build, random_jets):
    lone, zero = (0.05, -0.02, 1.0), (0.1, 0.2, 0.0)
    clouds = build([[lone], [lone, zero], [zero], [*random_jets[0], zero], random_jets[0]])
    measured = measure(clouds)
    assert not measured.missing
    for name in measured.values.keys() | measured.profiles.keys():
        found = value(name, clouds)
        assert np.isfinite(found).all(), name
        if name in jets.INFRARED_AND_COLLINEAR_SAFE:
            np.testing.assert_allclose(found[1], found[0], atol=1e-12, err_msg=name)
            np.testing.assert_allclose(found[3], found[4], rtol=1e-9, atol=1e-12, err_msg=name)
    for name in ("tau1", "tau2", "tau3", "tau21", "tau32", "c2", "d2", "girth"):
        assert measured.values[name][2] == 0.0
    assert measured.profiles["lund_plane"][[0]].sum() == measured.profiles["energy_energy_correlator"][[0]].sum() == 0
