"""Observables of the shape of jets against closed forms and against clusterings one jet at a time."""

from __future__ import annotations

import gc
import itertools

import awkward as ak
import numpy as np
import pytest

from pcdiff.physics import jets
from pcdiff.physics.jets import clustering, correlators
from pcdiff.physics.remembered import remembered

TRIANGLE = [(0.0, 0.0, 1 / 3), (0.3, 0.0, 1 / 3), (0.15, 0.15 * np.sqrt(3), 1 / 3)]
# The first two are close, the third is far from both; all at etarel 0, where rapidity and azimuth are plain angles.
CHAIN = [(0.0, 0.0, 0.6), (0.0, 0.05, 0.3), (0.0, 0.5, 0.1)]


def test_angularities_of_two_constituents(build):
    pair = build([[(0.3, 0.4, 0.2), (-0.06, 0.08, 0.6)]])
    for kappa, beta in [(1, 0.5), (1, 1), (1, 2), (2, 0), (0.5, 3)]:
        expected = 0.25**kappa * 0.5**beta + 0.75**kappa * 0.1**beta
        np.testing.assert_allclose(jets.angularity(pair, kappa, beta), expected, rtol=1e-14)
    np.testing.assert_allclose(jets.les_houches_angularity(pair), 0.25 * np.sqrt(0.5) + 0.75 * np.sqrt(0.1))
    np.testing.assert_allclose(jets.girth(pair), 0.25 * 0.5 + 0.75 * 0.1)
    np.testing.assert_allclose(jets.thrust(pair), 0.25 * 0.5**2 + 0.75 * 0.1**2)
    np.testing.assert_allclose(jets.ptd(pair), np.hypot(0.25, 0.75))


def test_thrust_is_the_squared_relative_mass_to_second_order_in_the_angles(build, random_jets):
    errors = []
    for scale in (0.2, 0.1):
        centred = [np.column_stack([scale * (j[:, :2] - j[:, 2] @ j[:, :2]), j[:, 2]]) for j in random_jets]
        narrow = build(centred)
        errors.append(np.abs(jets.thrust(narrow) / jets.relative_mass(narrow) ** 2 - 1).mean())
    assert errors[0] < 0.01
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_constituents_by_rank(build):
    clouds = build([[(0, 0, 0.2), (0, 0, 0.5), (0, 0, 0.3)], [(0, 0, 1.0)]])
    assert [jets.ranked_ptrel(clouds, rank).tolist() for rank in (1, 2, 3)] == [[0.5, 1.0], [0.3, 0.0], [0.2, 0.0]]
    spectrum = jets.rank_spectrum(clouds)
    assert spectrum.shape == (2, 30)
    assert spectrum.toarray()[:, :4].tolist() == [[0.5, 0.3, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_one_subjettiness_of_two_constituents(build):
    first, second, angle = 0.7, 0.3, 0.4
    axis = np.arctan2(second * np.sin(angle), first + second * np.cos(angle))
    clouds = build([[(0, 0, first), (0, angle, second)]])
    np.testing.assert_allclose(jets.tau1(clouds), first * axis + second * (angle - axis), rtol=1e-12)


def test_n_subjettiness_of_at_most_n_constituents_is_zero(build, random_jets):
    for size in (1, 2, 3):
        few = build([jet[:size] for jet in random_jets])
        for prongs, tau in enumerate((jets.tau1, jets.tau2, jets.tau3), 1):
            assert (np.abs(tau(few)) < 1e-12).all() == (size <= prongs)
    assert not jets.tau21(build([random_jets[0][:2]])).any()
    assert not jets.tau32(build([random_jets[0][:2], random_jets[0][:3]])).any()


def test_n_subjettiness_vanishes_with_the_width_of_its_prongs(build, random_jets):
    """Each of three prongs twice as narrow: tau_3 half as large, tau_1 and tau_2 as they were."""
    centres = np.array([[0.3, 0.0], [-0.2, 0.25], [-0.1, -0.3]])

    def pronged(width):
        prong = np.arange(12) % 3
        return build([np.column_stack([centres[prong] + width * jet[:, :2], jet[:, 2]]) for jet in random_jets])

    wide, narrow = pronged(0.02), pronged(0.01)
    np.testing.assert_allclose(jets.tau3(wide) / jets.tau3(narrow), 2.0, rtol=0.02)
    assert np.abs(jets.tau2(wide) / jets.tau2(narrow) - 1).mean() < 0.05
    assert (jets.tau32(narrow) < jets.tau32(wide)).all()
    np.testing.assert_allclose(jets.tau21(wide) * jets.tau1(wide), jets.tau2(wide))


def pseudojets(clouds, jet):
    fastjet = pytest.importorskip("fastjet")
    r = clouds.relative()[jet]
    pt, eta, phi = (np.asarray(r[name], np.float64) for name in ("ptrel", "etarel", "phirel"))
    columns = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
    return [fastjet.PseudoJet(*map(float, p)) for p in zip(*columns, strict=True)]


def separation(a_rapidity, a_phi, b_rapidity, b_phi):
    turn = np.abs(a_phi - b_phi) % (2 * np.pi)
    return np.hypot(a_rapidity - b_rapidity, np.minimum(turn, 2 * np.pi - turn))


def test_n_subjettiness_of_gluon_jets_is_that_of_their_exclusive_kt_axes(gluons):
    import fastjet

    taus = np.stack([jets.tau1(gluons), jets.tau2(gluons), jets.tau3(gluons)], axis=1)
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 1000.0)
    for jet in range(40):
        particles = pseudojets(gluons, jet)
        sequence = fastjet._swig.ClusterSequence(particles, definition)
        pt, rapidity, phi = np.array([[p.pt(), p.rap(), p.phi()] for p in particles]).T
        for prongs in (1, 2, 3):
            axes = np.array([[a.rap(), a.phi()] for a in sequence.exclusive_jets(prongs)])
            nearest = separation(rapidity[:, None], phi[:, None], axes[:, 0], axes[:, 1]).min(axis=1)
            np.testing.assert_allclose(taus[jet, prongs - 1], pt @ nearest / pt.sum(), rtol=1e-9)


def test_correlations_of_three_constituents(build):
    """An equilateral triangle of side d and equal momenta: e2 = d / 3, e3 = d^3 / 27."""
    clouds = build([TRIANGLE, TRIANGLE[:2], TRIANGLE[:1]])
    np.testing.assert_allclose(jets.c2(clouds), [0.3 / 3, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(jets.d2(clouds), [1, 0, 0], rtol=1e-12)


def test_correlations_are_the_sums_over_pairs_and_triples(build, random_jets):
    e2, e3 = np.zeros(40), np.zeros(40)
    for k, jet in enumerate(random_jets):
        z = jet[:, 2] / jet[:, 2].sum()
        distance = np.hypot(*(jet[:, None, :2] - jet[None, :, :2]).transpose(2, 0, 1))
        e2[k] = sum(z[i] * z[j] * distance[i, j] for i, j in itertools.combinations(range(12), 2))
        e3[k] = sum(
            z[i] * z[j] * z[m] * distance[i, j] * distance[j, m] * distance[m, i]
            for i, j, m in itertools.combinations(range(12), 3)
        )
    clouds = build(random_jets)
    np.testing.assert_allclose(jets.c2(clouds), e3 / e2**2, rtol=1e-11)
    np.testing.assert_allclose(jets.d2(clouds), e3 / e2**3, rtol=1e-11)


def test_energy_energy_correlator_of_two_constituents_fills_one_bin(build):
    contents = jets.energy_energy_correlator(build([[(0.03, 0.04, 0.2), (0.0, 0.0, 0.6)]]))
    (bin_,) = contents.indices
    assert correlators.CORRELATOR_EDGES[bin_] < 0.05 < correlators.CORRELATOR_EDGES[bin_ + 1]
    np.testing.assert_allclose(contents.data, 2 * 0.25 * 0.75)


def test_energy_energy_correlator_adds_up_to_one_with_the_pairs_of_a_constituent_with_itself(build, random_jets):
    clouds = build(random_jets)
    total = jets.energy_energy_correlator(clouds).sum(axis=1)
    np.testing.assert_allclose(total + jets.ptd(clouds) ** 2, 1.0, rtol=1e-12)


def test_images_hold_the_momentum_where_it_is(build, random_jets):
    clouds = build([*random_jets, [(0.11, -0.79, 0.4), (0.81, 0.0, 0.6)]])
    images = jets.jet_images(clouds)
    assert images.shape == (41, 32, 32)
    np.testing.assert_allclose(images[:-1].sum(axis=(1, 2)), jets.total_ptrel(clouds)[:-1], rtol=1e-12)
    assert images[-1, 18, 0] == images[-1].sum() == 0.4
    np.testing.assert_array_equal(jets.sparse_images(clouds).toarray().reshape(images.shape), images)


def massless_mass(*constituents):
    """Of massless constituents at the axis' rapidity, from the pairs' opening angles, in GeV."""
    pairs = itertools.combinations(constituents, 2)
    return 1000.0 * np.sqrt(sum(4 * a[2] * b[2] * np.sin((a[1] - b[1]) / 2) ** 2 for a, b in pairs))


@pytest.mark.parametrize(("soft", "kept"), [(0.0999, 2), (0.1001, 3)])
def test_soft_drop_removes_a_wide_branch_below_a_tenth(build, soft, kept):
    chain = [*CHAIN[:2], (0.0, 0.5, 0.0)]
    first_two = sum(p * np.exp(1j * angle) for _, angle, p in CHAIN[:2])
    # z is the share of the two branches' own pT, which add up to less than that of their constituents.
    chain[2] = (0.0, 0.5, abs(first_two) * soft / (1 - soft))
    clouds = build([[(eta - 0.4, phi, pt) for eta, phi, pt in chain]])
    np.testing.assert_allclose(jets.soft_drop_mass(clouds), massless_mass(*chain[:kept]), rtol=1e-9)
    np.testing.assert_allclose(jets.mass(clouds), massless_mass(*chain), rtol=1e-9)


def test_soft_drop_of_collinear_fragments_leaves_a_single_constituent(build):
    clouds = build([[(0.0, 0.0, 0.95), (0.0, 0.3, 0.05)], [(0.1, 0.0, 1.0)]])
    assert (jets.soft_drop_mass(clouds) < 1e-3).all()


def test_lund_emissions_of_a_known_jet(build):
    emissions = jets.lund_emissions(build([CHAIN, CHAIN[:1], CHAIN[:2]]))
    assert ak.num(emissions).to_list() == [2, 0, 1]
    inner = np.arctan2(0.3 * np.sin(0.05), 0.6 + 0.3 * np.cos(0.05))
    np.testing.assert_allclose(emissions[0].delta, [0.5 - inner, 0.05], rtol=1e-12)
    np.testing.assert_allclose(emissions[0].kt, [0.1 * (0.5 - inner), 0.3 * 0.05], rtol=1e-12)
    plane = jets.lund_plane(build([CHAIN])).toarray().reshape(32, 48)
    filled = {
        (int(np.log(1 / delta) / 0.25), int((np.log(kt) + 12) / 0.25))
        for delta, kt in ((0.5 - inner, 0.1 * (0.5 - inner)), (0.05, 0.015))
    }
    assert {tuple(map(int, place)) for place in np.argwhere(plane == 1)} == filled
    assert plane.sum() == 2


def test_declusterings_of_gluon_jets_are_those_of_one_jet_at_a_time(gluons):
    """FastJet's own tree, walked along the branch of larger pT."""
    import fastjet

    emissions, groomed = jets.lund_emissions(gluons), jets.soft_drop_mass(gluons)
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0)
    for jet in range(60):
        sequence = fastjet._swig.ClusterSequence(pseudojets(gluons, jet), definition)
        (branch,) = sequence.exclusive_jets(1)
        found, mass = [], None
        harder, softer = fastjet.PseudoJet(), fastjet.PseudoJet()
        while branch.has_parents(harder, softer):
            if harder.pt() < softer.pt():
                harder, softer = softer, harder
            delta = separation(harder.rap(), harder.phi(), softer.rap(), softer.phi())
            found.append((delta, softer.pt() * delta))
            if mass is None and softer.pt() / (softer.pt() + harder.pt()) > 0.1:
                mass = branch.m()
            branch, harder, softer = harder, fastjet.PseudoJet(), fastjet.PseudoJet()
        np.testing.assert_allclose(emissions[jet].delta, [delta for delta, _ in found], rtol=1e-7)
        np.testing.assert_allclose(emissions[jet].kt, [kt for _, kt in found], rtol=1e-7)
        # Relative to the jet: its mass is in units of the jet's pT.
        expected = (mass or 0.0) * gluons.feature("pt")[jet]
        np.testing.assert_allclose(groomed[jet], expected, rtol=1e-4, atol=1e-3)


def test_soft_drop_never_adds_mass(gluons):
    assert (jets.soft_drop_mass(gluons) <= jets.mass(gluons) * (1 + 1e-6) + 1e-3).all()


def test_results_do_not_depend_on_the_pieces_they_are_computed_in(gluons, monkeypatch):
    functions = (
        jets.tau2,
        jets.c2,
        jets.soft_drop_mass,
        lambda clouds: jets.lund_plane(clouds).toarray(),
        lambda clouds: jets.energy_energy_correlator(clouds).toarray(),
    )
    whole = [function(gluons[:]) for function in functions]
    monkeypatch.setattr(clustering, "_CONSTITUENTS", 100)
    monkeypatch.setattr(correlators, "_PAIRS", 1000)
    for function, expected in zip(functions, whole, strict=True):
        np.testing.assert_array_equal(function(gluons[:]), expected)


def test_fastjet_prints_no_greeting(build, capfd):
    jets.tau1(build([TRIANGLE]))
    assert capfd.readouterr() == ("", "")


def test_a_remembered_result_is_computed_once_and_goes_with_its_clouds(build):
    calls = []

    @remembered
    def sizes(clouds):
        calls.append(len(clouds))
        return clouds.counts.astype(float)

    clouds = build([TRIANGLE])
    assert sizes(clouds) is sizes(clouds)
    assert sizes(build([TRIANGLE])) is not sizes(clouds)
    assert calls == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        sizes(clouds)[0] = 5.0
    (cache,) = (cell.cell_contents for cell in sizes.__closure__ if hasattr(cell.cell_contents, "keyrefs"))
    del clouds
    gc.collect()
    assert len(cache) == 0
