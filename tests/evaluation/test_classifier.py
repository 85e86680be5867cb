"""The classifier two-sample test against closed forms, and on jets that were spoiled a little."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import pcdiff
from pcdiff.clouds import PointClouds, offsets_of
from pcdiff.errors import DataError
from pcdiff.evaluation.calibration import calibration_error
from pcdiff.evaluation.classifier import classifier_test
from pcdiff.evaluation.classifiers import Calibrated, Labelled, area, inputs_of, parts
from pcdiff.evaluation.classifiers.net import PointSets, SetClassifier, TrainedNet
from pcdiff.evaluation.classifiers.roc import placements
from pcdiff.physics import Measured, observables
from pcdiff.resources import find
from pcdiff.schema import vector_schema

# Observables of jets that take no time.
QUICK = ("relative_mass", "mass", "pt", "eta", "multiplicity", "total_ptrel")


def measured(clouds, weights=None):
    known = observables(clouds.schema.kind)
    names = QUICK if clouds.schema.kind == "jets" else ("x",)
    values = {name: known[name].function(clouds) for name in names}
    return Measured(clouds.schema.kind, clouds.counts, values, weights=weights, clouds=clouds)


def numbers(x):
    """One number a cloud."""
    return PointClouds.from_flat({"x": x}, np.arange(len(x) + 1), {}, vector_schema(["x"]))


def gluons(split, size):
    return pcdiff.read(find(f"datasets/jets/gluon30_{split}.hdf5"))[:size]


def with_points(clouds, columns, offsets):
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(columns, offsets, features, clouds.schema)


def scaled(clouds, factor=1.02):
    """Each constituent's pT times a factor."""
    columns = {name: clouds.column(name) for name in clouds.schema.point_names}
    return with_points(clouds, columns | {"ptrel": factor * columns["ptrel"]}, clouds.offsets)


def shortened(clouds):
    """Without the softest constituent, which stands last."""
    keep = np.ones(clouds.num_points, bool)
    keep[clouds.offsets[1:] - 1] = False
    columns = {name: clouds.column(name)[keep] for name in clouds.schema.point_names}
    return with_points(clouds, columns, offsets_of(clouds.counts - 1))


# --- the area and its error


def test_area_of_two_gaussians_is_that_of_the_closed_form_and_so_is_its_error():
    """P(x > y) = Phi(d / sqrt 2); 200 repetitions, 5 standard errors of their mean and of their spread."""
    rng = np.random.default_rng(0)
    for d in (0.0, 1.0):
        found = np.array([area(rng.normal(d, 1, 300), rng.normal(0, 1, 200)) for _ in range(200)])
        spread = found[:, 0].std(ddof=1)
        assert abs(found[:, 0].mean() - norm.cdf(d / np.sqrt(2))) < 5 * spread / np.sqrt(200)
        assert abs(found[:, 1].mean() / spread - 1) < 5 / np.sqrt(2 * 200)


def test_error_without_a_difference_is_that_of_the_rank_sum():
    """Of Mann and Whitney: variance (n + m + 1) / (12 n m); DeLong's fluctuates about it as 1 / sqrt(n)."""
    rng = np.random.default_rng(1)
    n, m = 4000, 1000
    _, error = area(rng.normal(size=n), rng.normal(size=m))
    assert error == pytest.approx(np.sqrt((n + m + 1) / (12 * n * m)), rel=5 / np.sqrt(m))


def test_area_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(2)
    truth, sample = np.round(rng.normal(0.5, 1, 300), 1), np.round(rng.normal(0, 1, 200), 1)
    first, second = rng.exponential(size=300), rng.exponential(size=200)
    expected = roc_auc_score(
        np.repeat([1, 0], [300, 200]), np.concatenate([truth, sample]), sample_weight=np.concatenate([first, second])
    )
    assert area(truth, sample, first, second)[0] == pytest.approx(expected, rel=1e-12)
    found = placements(truth, sample, first, second)
    assert found.sample @ found.sample_weights == pytest.approx(expected, rel=1e-12)


def test_error_is_that_of_the_bootstrap_with_weights_too():
    rng = np.random.default_rng(3)
    truth, sample = rng.normal(0.7, 1, 400), rng.normal(0, 1, 300)
    for first, second in ((np.ones(400), np.ones(300)), (rng.exponential(size=400), rng.exponential(size=300))):
        draws = []
        for _ in range(400):
            i, j = rng.integers(400, size=400), rng.integers(300, size=300)
            draws.append(area(truth[i], sample[j], first[i], second[j])[0])
        # 5 standard errors of a standard deviation from 400 draws.
        assert area(truth, sample, first, second)[1] == pytest.approx(np.std(draws, ddof=1), rel=5 / np.sqrt(800))


def test_weights_count_like_copies():
    rng = np.random.default_rng(4)
    truth, sample = rng.normal(0.5, 1, 50), rng.normal(0, 1, 60)
    copies = rng.integers(1, 5, 50)
    weighted = area(truth, sample, copies.astype(np.float64), np.ones(60))[0]
    assert weighted == pytest.approx(area(np.repeat(truth, copies), sample)[0], rel=1e-12)


def test_the_error_of_a_difference_of_areas_knows_that_the_clouds_are_the_same():
    rng = np.random.default_rng(5)
    truth, sample = rng.normal(0.5, 1, 50), rng.normal(0, 1, 60)
    same = placements(truth, sample, np.ones(50), np.ones(60)) - placements(
        3 * truth, 3 * sample, np.ones(50), np.ones(60)
    )
    assert (same.mean, same.variance) == (0.0, 0.0)


# --- calibration


def test_calibration_error_of_known_probabilities():
    rng = np.random.default_rng(6)
    n = 200_000
    p = rng.uniform(0.3, 0.7, n)
    is_true = rng.uniform(size=n) < p
    # Chance gives about 0.4 sqrt(bins / n) = 0.003.
    assert calibration_error(is_true, p, np.ones(n)) < 0.006
    # Probabilities that are 0.1 too high are wrong by 0.1 in each bin; 5 standard errors of a mean.
    assert calibration_error(is_true, p + 0.1, np.ones(n)) == pytest.approx(0.1, abs=5 * 0.5 / np.sqrt(n))
    # A classifier that knows nothing says 0.5 of all, and is right, in whatever order the clouds stand.
    assert calibration_error(np.arange(10) < 5, np.full(10, 0.5), np.ones(10)) == 0.0


@pytest.mark.parametrize("kind", ["boosted", "net"])
def test_probabilities_are_those_of_two_gaussians(kind):
    """log p_true / p_generated = d x - d^2 / 2, whatever the sizes of the sets."""
    d, rng = 1.0, np.random.default_rng(7)
    truth, sample = numbers(rng.normal(d, 1, 6000)), numbers(rng.normal(0, 1, 3000))
    test = classifier_test(measured(truth), measured(sample), kind=kind, folds=2)
    # A classifier of finite training is a little below the best one: 0.01, and 4 errors.
    assert norm.cdf(d / np.sqrt(2)) - 0.01 - 4 * test.error < test.auc < norm.cdf(d / np.sqrt(2)) + 4 * test.error
    exact = expit(d * sample.column("x") - d**2 / 2)
    assert np.sqrt(np.mean((test.sample_scores - exact) ** 2)) < 0.06
    assert test.calibration_error < 0.03
    # Entropy of the class given x.
    odds = d * np.concatenate([truth.column("x"), sample.column("x")]) - d**2 / 2
    weights = np.repeat([1 / 6000, 1 / 3000], [6000, 3000]) / 2
    best = weights @ np.logaddexp(0, -odds * np.repeat([1, -1], [6000, 3000]))
    # Of what x tells about the class, log 2 - best, most is found: the trees, which have steps, find nine tenths.
    assert 0.8 < (np.log(2) - test.log_loss) / (np.log(2) - best) < 1


def test_calibration_keeps_the_order_of_the_clouds():
    rng = np.random.default_rng(8)
    labelled = Labelled.of(
        *inputs_of("boosted", *(measured(numbers(rng.normal(size=500))) for _ in range(2))), None, None
    )
    for seed in range(5):
        assert Calibrated.fit("boosted", labelled, np.random.SeedSequence(seed)).slope >= 0


# --- the net


def test_padding_and_order_of_the_points_change_nothing():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SetClassifier(4, 3).double()
    x, cond = torch.randn(5, 6, 4, generator=generator).double(), torch.randn(5, 3, generator=generator).double()
    mask = torch.arange(6) < torch.tensor([6, 5, 3, 1, 2])[:, None]
    expected = net(x, mask, cond)
    order = torch.randperm(6, generator=generator)
    padded = torch.cat([x, torch.full((5, 4, 4), 7.0).double()], dim=1)
    for other, real in ((x[:, order], mask[:, order]), (padded, torch.nn.functional.pad(mask, (0, 4)))):
        torch.testing.assert_close(net(other, real, cond), expected, rtol=1e-12, atol=1e-12)
    spoilt = x.masked_fill(~mask[..., None], 1e6)
    torch.testing.assert_close(net(spoilt, mask, cond), expected, rtol=0, atol=0)


def test_scores_of_a_cloud_do_not_depend_on_the_clouds_beside_it(toy_jets):
    sets, _ = PointSets.of(toy_jets(200, 0), toy_jets(200, 1))
    net = TrainedNet.fit(sets, np.arange(200) % 2 == 0, np.ones(200), 0)
    together = net.log_odds(sets)
    single = np.concatenate([net.log_odds(sets[np.array([i])]) for i in range(20)])
    np.testing.assert_allclose(single, together[:20], rtol=1e-4, atol=1e-4)


def test_the_net_sees_the_jet(toy_jets):
    """The same constituents in jets of other pT are another sample."""
    truth, sample = toy_jets(1500, 0), toy_jets(1500, 1)
    features = {"pt": sample.feature("pt") * 1.2, "eta": sample.feature("eta")}
    columns = {name: sample.column(name) for name in sample.schema.point_names}
    other = PointClouds.from_flat(columns, sample.offsets, features, sample.schema)
    assert classifier_test(measured(truth), measured(other), kind="net").auc > 0.8


# --- the test


@pytest.mark.parametrize("kind", ["boosted", "net"])
def test_a_scale_of_two_percent_is_seen(kind):
    test = classifier_test(measured(gluons("test", 6000)), measured(scaled(gluons("train", 6000))), kind=kind, folds=2)
    assert test.metric().pull == test.pull > 5
    if kind == "boosted":
        # Scaling moves no angle: the sum of ptrel gives it away, and eta knows nothing.
        assert test.ranking[0].observable == "total_ptrel"
        assert test.ranking[0].importance > 5 * test.ranking[0].error
        by_name = {one.observable: one for one in test.ranking}
        assert abs(by_name["eta"].importance) < 4 * by_name["eta"].error
        assert abs(by_name["eta"].alone - 0.5) < 4 * by_name["eta"].alone_error
        assert by_name["total_ptrel"].alone - 0.5 > 5 * by_name["total_ptrel"].alone_error


def test_a_missing_constituent_is_seen_and_copies_are_not():
    truth, good = gluons("test", 4000), gluons("train", 4000)
    test = classifier_test(measured(truth), measured(shortened(good)), folds=2)
    assert test.pull is None or test.pull > 5
    assert test.ranking[0].observable == "multiplicity"
    copies = good[np.concatenate([np.arange(3920), np.arange(80)])]
    assert abs(classifier_test(measured(truth), measured(copies), folds=2).pull) < 4


def test_pulls_of_the_truth_against_itself_are_not_wider_than_normal():
    """30 independent pairs of samples of one distribution; 5 standard errors of the mean and of the spread."""
    rng = np.random.default_rng(9)
    pulls = []
    for seed in range(30):
        first, second = (measured(numbers(rng.normal(size=400))) for _ in range(2))
        pulls.append(classifier_test(first, second, folds=3, seed=seed).pull)
    pulls = np.array(pulls)
    assert abs(pulls.mean()) < 5 / np.sqrt(30)
    assert np.sqrt(np.mean(pulls**2)) < 1 + 5 / np.sqrt(60)
    assert np.sqrt(np.mean(pulls**2)) > 0.3


def test_exact_weights_make_a_sample_true():
    d, rng = 0.7, np.random.default_rng(10)
    x = rng.normal(0, 1, 6000)
    weights = np.exp(d * x - d**2 / 2)
    truth = measured(numbers(rng.normal(d, 1, 6000)))
    assert classifier_test(truth, measured(numbers(x)), folds=2).pull > 5
    weighted = classifier_test(truth, measured(numbers(x), weights / weights.mean()), folds=2)
    assert abs(weighted.pull) < 4
    assert abs(weighted.log_loss - np.log(2)) < 0.01


@pytest.mark.parametrize("kind", ["boosted", "net"])
def test_one_seed_one_result_and_nothing_else_changes(kind, toy_jets):
    truth, sample = measured(toy_jets(300, 0)), measured(toy_jets(300, 1))
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    calls = []
    first = classifier_test(truth, sample, kind=kind, folds=2, seed=1, progress=lambda: calls.append(None))
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    again = classifier_test(truth, sample, kind=kind, folds=2, seed=1)
    assert again == first
    assert (again.truth_scores == first.truth_scores).all()
    assert (again.sample_scores == first.sample_scores).all()
    other = classifier_test(truth, sample, kind=kind, folds=2, seed=2)
    assert (other.truth_scores != first.truth_scores).any()
    plain = json.loads(json.dumps(first.to_dict()))
    assert plain["auc"] == first.auc
    assert "truth_scores" not in plain


def test_folds_hold_equal_shares_of_both_sets():
    is_true = np.repeat([True, False], [100, 253])
    fold = parts(is_true, 4, np.random.SeedSequence(0))
    assert np.bincount(fold[is_true]).tolist() == [25] * 4
    assert sorted(np.bincount(fold[~is_true])) == [63, 63, 63, 64]


def test_bad_input_is_named(toy_jets):
    truth, sample = measured(toy_jets(300, 0)), measured(toy_jets(300, 1))
    with pytest.raises(DataError, match="boosted"):
        classifier_test(truth, sample, kind="boost")
    with pytest.raises(DataError, match="folds is 1"):
        classifier_test(truth, sample, folds=1)
    with pytest.raises(DataError, match="seed from 0"):
        classifier_test(truth, sample, seed=-1)
    with pytest.raises(DataError, match="holds vectors, the truth holds jets"):
        classifier_test(truth, measured(numbers(np.zeros(300))))
    with pytest.raises(DataError, match="only their observables"):
        classifier_test(truth, replace(sample, clouds=None), kind="net")
    with pytest.raises(DataError, match="the sample has 30 clouds"):
        classifier_test(truth, measured(toy_jets(30, 1)), folds=2)
    with pytest.raises(DataError, match="no observable"):
        classifier_test(replace(truth, values={}), sample)
