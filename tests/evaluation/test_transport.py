from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError
from pcdiff.evaluation.transport import coverage_and_mmd, energy_movers_distances, matched_batches
from pcdiff.schema import jet_schema


def jets_of(*jets: list[tuple[float, float, float]]) -> PointClouds:
    """Jets from lists of (etarel, phirel, ptrel)."""
    flat = np.array(list(itertools.chain(*jets)), np.float64).reshape(-1, 3)
    names = ["etarel", "phirel", "ptrel"]
    offsets = offsets_of([len(jet) for jet in jets])
    return PointClouds.from_flat(dict(zip(names, flat.T, strict=True)), offsets, {}, jet_schema(names, []))


def test_distances_in_closed_form() -> None:
    one = [(0.1, 0.0, 0.5), (0.0, 0.2, 0.5)]
    found = energy_movers_distances(
        jets_of(one),
        jets_of(
            one,
            [(0.1 + 0.03, 0.04, 0.5), (0.03, 0.24, 0.5)],  # moved as a whole by 0.05
            [(0.1, 0.0, 0.5)],  # half of the momentum is missing
            [(0.0, 0.0, 1.0)],  # all moved to the axis
        ),
    )
    np.testing.assert_allclose(found, [[0.0, 0.05, 0.5, 0.5 * 0.1 + 0.5 * 0.2]], atol=1e-12)


def test_distance_is_the_minimum_of_its_linear_programme(toy_jets) -> None:
    clouds = toy_jets(6, seed=1)
    found = energy_movers_distances(clouds[:3], clouds[3:])
    for i, j in itertools.product(range(3), range(3)):
        one, two = (
            (clouds[k].column("ptrel"), np.stack([clouds[k].column(n) for n in ("etarel", "phirel")], 1))
            for k in ([i], [3 + j])
        )
        cost = cdist(one[1], two[1])
        n, m = cost.shape
        at_most = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
        least = linprog(
            cost.ravel(),
            A_ub=at_most,
            b_ub=np.concatenate([one[0], two[0]]),
            A_eq=np.ones((1, n * m)),
            b_eq=[min(one[0].sum(), two[0].sum())],
        ).fun
        assert found[i, j] == pytest.approx(least + abs(one[0].sum() - two[0].sum()), rel=1e-8)


def test_it_is_a_metric(toy_jets) -> None:
    clouds = toy_jets(40, seed=2)
    distances = energy_movers_distances(clouds, clouds)
    np.testing.assert_allclose(distances, distances.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-12)
    assert (distances[:, :, None] <= distances[:, None, :] + distances.T[None, :, :] + 1e-12).all()


def test_order_of_constituents_and_empty_momenta_do_not_matter(toy_jets) -> None:
    clouds = toy_jets(5, seed=3)
    turned = jets_of(
        *[
            [*zip(*(jet.column(n)[::-1] for n in ("etarel", "phirel", "ptrel")), strict=True), (3.0, 3.0, 0.0)]
            for jet in clouds.split(1)
        ]
    )
    np.testing.assert_allclose(
        energy_movers_distances(turned, clouds), energy_movers_distances(clouds, clouds), atol=1e-12
    )


def test_coverage_and_mmd_in_closed_form() -> None:
    # Two kinds of jets, of which the generator makes one: each batch covers one real jet of that kind, unless ties cover none more.
    axis, wide = [(0.0, 0.0, 1.0)], [(0.0, 0.0, 0.5), (0.4, 0.0, 0.5)]
    real, generated = jets_of(*[axis, wide] * 50), jets_of(axis)
    coverage, mmd = matched_batches(real, generated, size=50, batches=20, seed=4)
    np.testing.assert_allclose(coverage, 1 / 50)
    # A batch has a binomial number of wide jets, each 0.2 away from the nearest generated one.
    assert mmd.mean() == pytest.approx(0.1, abs=4 * 0.2 * 0.5 / np.sqrt(50 * 20))
    (mean, error), _ = coverage_and_mmd(real, generated, size=50, batches=20, seed=4)
    assert (mean, error) == (pytest.approx(1 / 50), pytest.approx(0, abs=1e-12))


def test_weights_choose_the_jets() -> None:
    axis, wide = [(0.0, 0.0, 1.0)], [(0.0, 0.0, 0.5), (0.4, 0.0, 0.5)]
    _, mmd = matched_batches(
        jets_of(axis, wide),
        jets_of(axis, wide),
        size=20,
        real_weights=np.array([0.0, 1.0]),
        generated_weights=np.array([1.0, 0]),
    )
    np.testing.assert_allclose(mmd, 0.2, atol=1e-12)


def test_same_seed_same_numbers(toy_jets) -> None:
    clouds = toy_jets(60, seed=5)
    one, again, other = (coverage_and_mmd(clouds[:30], clouds[30:], size=10, batches=3, seed=s) for s in (1, 1, 2))
    assert one == again != other


def test_bad_jets_are_refused() -> None:
    good, negative, empty = (
        jets_of([(0.0, 0.0, 1.0)]),
        jets_of([(0.0, 0.0, 1.0)], [(0.0, 0.0, -0.1)]),
        jets_of([], [(0.0, 0.0, 1.0)]),
    )
    with pytest.raises(DataError, match=r"ptrel: 1 values are negative, the first in jet 1"):
        energy_movers_distances(good, negative)
    with pytest.raises(DataError, match=r"jet 0 has no constituents"):
        energy_movers_distances(empty, good)
    with pytest.raises(DataError, match=r"found 1 batches of 100 from 1 real and 1 generated jets"):
        coverage_and_mmd(good, good, batches=1)
