"""A spoiled sample is caught and the right observable named; an unspoiled one of the same size is not.

Gluon jets of the embedded data: 6,000 of the test split are the truth, 6,000 of the training split, which come from other collisions, the sample.
"""

from __future__ import annotations

import numpy as np
import pytest

import pcdiff
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.evaluation import Evaluation, evaluate
from pcdiff.resources import find

SIZE = 6000


def with_points(clouds: PointClouds, columns, offsets) -> PointClouds:
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(columns, offsets, features, clouds.schema)


def scaled(clouds: PointClouds) -> PointClouds:
    """Each constituent's pT times 1.02."""
    columns = {name: clouds.column(name) for name in clouds.schema.point_names}
    return with_points(clouds, columns | {"ptrel": 1.02 * columns["ptrel"]}, clouds.offsets)


def shortened(clouds: PointClouds) -> PointClouds:
    """Each jet without its softest constituent, which stands last."""
    keep = np.ones(clouds.num_points, bool)
    keep[clouds.offsets[1:] - 1] = False
    columns = {name: clouds.column(name)[keep] for name in clouds.schema.point_names}
    return with_points(clouds, columns, offsets_of(clouds.counts - 1))


def repeated(clouds: PointClouds) -> PointClouds:
    """The last 2 % of the jets are copies of the first 2 %."""
    copies = len(clouds) // 50
    return clouds[np.concatenate([np.arange(len(clouds) - copies), np.arange(copies)])]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    truth = pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))[:SIZE]
    good = pcdiff.read(find("datasets/jets/gluon30_train.hdf5"))[:SIZE]
    samples = {"good": good, "scaled": scaled(good), "shortened": shortened(good), "repeated": repeated(good)}
    return evaluate(truth, samples)


@pytest.fixture
def results(evaluation):
    return {sample.compared.name: sample for sample in evaluation.samples}


def test_an_unspoiled_sample_raises_no_flag(results):
    assert results["good"].different == ()


def test_a_constituent_pt_scale_of_two_percent_is_caught_and_named(results):
    """Of all observables the sum of ptrel moves most in units of its width."""
    assert results["scaled"].blamed[0] == "total_ptrel"
    distance, good = (results[name].metric("w1_total_ptrel") for name in ("scaled", "good"))
    # All sums of ptrel, which are 0.9 in the mean, move by 2 % of themselves.
    assert abs(distance.value - 0.02 * 0.9) < 4 * good.error


def test_a_lost_constituent_is_caught_and_named(results):
    assert results["shortened"].blamed[0] == "multiplicity"
    assert results["shortened"].metric("w1_multiplicity").value == pytest.approx(1, abs=0.1)


def test_repeated_jets_are_caught_by_what_looks_at_pairs_of_jets_only(results):
    assert [metric.name for metric in results["repeated"].different] == ["duplicates"]


def test_each_metric_of_truth_against_truth_is_at_its_floor_within_its_error(results):
    pulls = {metric.name: metric.pull for metric in results["good"].metrics}
    assert {name for name, pull in pulls.items() if abs(pull) > 3.5} == set()
