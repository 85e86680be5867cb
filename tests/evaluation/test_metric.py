"""Values, floors and pulls; resamples."""

from __future__ import annotations

import numpy as np
import pytest

from pcdiff.errors import DataError
from pcdiff.evaluation.metric import Resamples, estimate
from pcdiff.physics import Measured


def measured(n, weights=None):
    return Measured("jets", np.ones(n, np.int64), {}, weights=weights)


def made(value, resampled, null, **chosen):
    return estimate(
        "made",
        "made",
        group="clouds",
        sizes=(10, 20),
        value=value,
        resampled=np.array(resampled),
        null=np.array(null),
        **chosen,
    )


def test_pull_is_the_excess_over_the_floor_in_units_of_both_errors():
    metric = made(10.0, [7.0, 13.0], [1.0, 9.0])
    assert (metric.error, metric.floor, metric.floor_error) == (
        pytest.approx(np.sqrt(18)),
        5,
        pytest.approx(np.sqrt(32)),
    )
    assert metric.pull == pytest.approx(5 / np.sqrt(50))
    assert made(10.0, [7.0, 13.0], [1.0, 9.0], error=1.0).error == 1.0


def test_a_metric_that_falls_when_samples_differ_has_its_pull_turned():
    low = made(0.3, [0.25, 0.35], [0.45, 0.55], larger_is_worse=False)
    assert low.pull == pytest.approx(0.2 / 0.1)
    assert made(0.3, [0.25, 0.35], [0.45, 0.55]).pull == pytest.approx(-low.pull)


def test_what_does_not_fluctuate_has_a_pull_of_zero_or_none():
    assert made(1.0, [1.0, 1.0], [1.0, 1.0]).pull == 0.0
    assert made(2.0, [2.0, 2.0], [1.0, 1.0]).pull is None


def test_too_few_clouds_are_called_so():
    assert made(1.0, [0.9, 1.1], [0.9, 1.1], tellable=5.0).warning == ""
    assert "10 true ones a distance below" in made(1.0, [0.9, 1.1], [0.9, 1.1], tellable=1.1).warning


def test_resamples_have_the_size_of_their_set_and_its_weights():
    weights = np.linspace(0.1, 1.9, 40)
    drawn = Resamples.draw(measured(30), measured(40, weights), 6, 0)
    assert len(drawn) == 6
    assert (drawn.truth.sum(axis=1) == 30).all()
    np.testing.assert_allclose(drawn.sample / weights, np.round(drawn.sample / weights), atol=1e-12)
    assert ((drawn.sample / weights).sum(axis=1)).tolist() == pytest.approx([40] * 6)
    # The floor is that of as many true clouds as the weighted sample is worth: (sum w)^2 / sum w^2.
    assert (drawn.null_sample.sum(axis=1) == round(weights.sum() ** 2 / (weights**2).sum())).all()


def test_pooled_weights_begin_with_the_sets_as_they_are():
    drawn = Resamples.draw(measured(3), measured(2), 4, 0)
    first, second = drawn.pooled()
    assert first.shape == second.shape == (5, 5)
    assert first[0].tolist() == [1, 1, 1, 0, 0]
    assert second[0].tolist() == [0, 0, 0, 1, 1]
    assert (first[1:, :3] == drawn.truth).all()
    assert (second[1:, 3:] == drawn.sample).all()


def test_one_draw_is_refused():
    with pytest.raises(DataError, match="draws is 1; expected at least 2"):
        Resamples.draw(measured(3), measured(3), 1, 0)
