"""Energy-flow polynomials against EnergyFlow's own single ones and closed forms."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from pcdiff.errors import DataError
from pcdiff.physics import jets

# The graphs that the JetNet library scores as W1EFP: connected, 4 vertices, 4 edges.
PRIME = ["0-1 0-2 0-2 0-3", "0-1 0-2 0-2 1-3", "0-1 0-1 0-2 1-3", "0-1 0-2 1-2 0-3", "0-1 0-2 1-3 2-3"]


def edges(graph):
    return [tuple(map(int, edge.split("-"))) for edge in graph.split()]


def test_each_column_is_the_polynomial_of_its_graph(build, random_jets):
    import energyflow

    found = jets.flow_polynomials(build(random_jets))
    graphs = jets.flow_polynomial_graphs()
    assert found.shape == (40, 36) == (40, len(graphs))
    assert len(set(graphs)) == 36
    for column, graph in enumerate(graphs):
        single = energyflow.EFP(edges(graph), measure="hadr", beta=1, normed=None, coords="ptyphim")
        for row, jet in enumerate(random_jets[:5]):
            massless = np.column_stack([jet[:, [2, 0, 1]], np.zeros(len(jet))])
            np.testing.assert_allclose(found[row, column], single.compute(massless), rtol=1e-10, err_msg=graph)


def test_columns_behind_w1efp():
    graphs = jets.flow_polynomial_graphs()
    prime = [graphs[column] for column in jets.prime_columns()]
    assert prime == PRIME
    for graph in graphs:
        pairs = edges(graph)
        linked = {0}
        for _ in pairs:
            linked |= {v for pair in pairs if linked & set(pair) for v in pair}
        four = len(pairs) == 4 and {v for pair in pairs for v in pair} == linked == set(range(4))
        assert (graph in prime) == four


def test_polynomials_of_two_constituents(build):
    """A vertex sits on one of two points: an edge is their distance or 0."""
    first, second, distance = 0.2, 0.6, 0.5
    found = jets.flow_polynomials(build([[(0.3, 0.0, first), (0.0, 0.4, second)]]))[0]
    values = dict(zip(jets.flow_polynomial_graphs(), found, strict=True))
    np.testing.assert_allclose(values[""], first + second)
    for power in (1, 2, 3, 4):
        np.testing.assert_allclose(values[" ".join(["0-1"] * power)], 2 * first * second * distance**power)
    np.testing.assert_allclose(values["0-1 0-2"], first * second * (first + second) * distance**2)
    assert values["0-1 0-2 1-2"] == 0
    np.testing.assert_allclose(values["0-1 2-3"], values["0-1"] ** 2)
    np.testing.assert_allclose(values["0-1 0-2 1-3 2-3"], 2 * (first * second) ** 2 * distance**4)


def test_one_jet_degrees_and_empty_sets(build, random_jets):
    one = build(random_jets[:1])
    assert jets.flow_polynomials(one).shape == (1, 36)
    np.testing.assert_array_equal(jets.flow_polynomials(one, degree=1)[0], jets.flow_polynomials(one)[0, :2])
    assert jets.flow_polynomials(one[:0]).shape == (0, 36)
    with pytest.raises(DataError, match="degree is 11"):
        jets.flow_polynomials(one, degree=11)


def test_constituents_without_momentum_and_the_seam_of_azimuth_do_not_matter(build, random_jets):
    expected = jets.flow_polynomials(build(random_jets))
    padded = build([np.vstack([jet, (0.0, 0.0, 0.0)]) for jet in random_jets])
    np.testing.assert_allclose(jets.flow_polynomials(padded), expected, rtol=1e-12)
    turned = build(
        [np.column_stack([j[:, 0], (j[:, 1] + 2 * np.pi) % (2 * np.pi) - np.pi, j[:, 2]]) for j in random_jets]
    )
    np.testing.assert_allclose(jets.flow_polynomials(turned), expected, rtol=1e-10)


def test_values_do_not_depend_on_blocks(build, random_jets, monkeypatch):
    clouds = build(random_jets)
    expected = jets.flow_polynomials(clouds)
    # The function of the same name hides the module.
    monkeypatch.setattr(importlib.import_module("pcdiff.physics.jets.flow_polynomials"), "_BLOCK", 7)
    np.testing.assert_array_equal(jets.flow_polynomials(clouds), expected)
