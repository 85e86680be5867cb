"""Classifiers that tell true from generated clouds, with calibrated probabilities, trained and applied fold by fold.

Both kinds have a fixed size and a fixed budget of training, so that what they find can be compared from sample to sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from pcdiff.errors import DataError, suggest
from pcdiff.evaluation.classifiers.boosted import BoostedTrees, Table
from pcdiff.evaluation.classifiers.net import PointSets, TrainedNet
from pcdiff.evaluation.classifiers.roc import area
from pcdiff.physics import Measured

__all__ = ["Calibrated", "Kind", "Labelled", "area", "inputs_of", "like", "parts"]

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Kind = Literal["boosted", "net"]
Inputs: TypeAlias = Table | PointSets

# Share of the training clouds that are kept for calibration.
_CALIBRATION = 0.2
# Fewer clouds than this in a part say nothing.
_LEAST = 20


def inputs_of(kind: Kind, truth: Measured, sample: Measured) -> tuple[Inputs, Inputs]:
    """What a classifier of this kind sees of two sets.

    Raises:
        DataError: the kind is not known, the sets are of different kinds of clouds, or lack what the classifier needs.
    """
    if kind not in get_args(Kind):
        raise DataError(f"no kind of classifier {kind!r}: {suggest(kind, get_args(Kind))}")
    if truth.kind != sample.kind:
        raise DataError(f"the sample holds {sample.kind}, the truth holds {truth.kind}; they cannot be compared")
    if kind == "boosted":
        return Table.of(truth, sample)
    if truth.clouds is None or sample.clouds is None:
        raise DataError("the net needs the points of the clouds, found only their observables; measure the clouds anew")
    return PointSets.of(truth.clouds, sample.clouds)


def like(inputs: Inputs, measured: Measured) -> Inputs:
    """The same of other clouds.

    Raises:
        DataError: they lack what the classifier needs.
    """
    if isinstance(inputs, Table):
        return inputs.like(measured)
    if measured.clouds is None:
        raise DataError("the net needs the points of the clouds, found only their observables; measure the clouds anew")
    return inputs.like(measured.clouds)


@dataclass(frozen=True)
class Labelled:
    """Clouds of both sets, true ones first.

    Attributes:
        inputs: of all.
        is_true: shape (n + m,).
        weights: shape (n + m,), how much each counts.
    """

    inputs: Inputs
    is_true: npt.NDArray[np.bool_]
    weights: Floats

    @classmethod
    def of(cls, truth: Inputs, sample: Inputs, truth_weights: Floats | None, sample_weights: Floats | None) -> Labelled:
        """From both sets; without weights all count alike."""
        sets = ((truth, truth_weights), (sample, sample_weights))
        weights = [np.ones(len(inputs)) if given is None else given for inputs, given in sets]
        is_true = np.repeat([True, False], [len(truth), len(sample)])
        # Two unions of the same kind: `inputs_of` makes them so.
        return cls(truth + sample, is_true, np.concatenate(weights))  # type: ignore[operator]

    def __len__(self) -> int:
        return len(self.is_true)

    def __getitem__(self, index: Index) -> Labelled:
        """Some of the clouds."""
        return Labelled(self.inputs[index], self.is_true[index], self.weights[index])

    @property
    def balanced(self) -> Floats:
        """Weights with which both sets weigh the same, of mean 1: equal priors, whatever their sizes."""
        true, generated = self.weights[self.is_true].sum(), self.weights[~self.is_true].sum()
        result: Floats = self.weights * np.where(self.is_true, 0.5 / true, 0.5 / generated) * len(self)
        return result


@dataclass(frozen=True)
class Calibrated:
    """A trained classifier, and the straight line that turns its scores into log-odds that can be believed.

    The line is fitted to clouds that were not trained on: Platt, "Probabilistic outputs for support vector machines", 1999, with
    a slope that is not negative, so that the order of the clouds stays. Guo et al., "On Calibration of Modern Neural Networks",
    arXiv 1706.04599, call the slope an inverse temperature.
    """

    classifier: BoostedTrees | TrainedNet
    slope: float
    offset: float

    @classmethod
    def fit(cls, kind: Kind, clouds: Labelled, seed: np.random.SeedSequence) -> Calibrated:
        """Train on a part of the clouds and calibrate on the others."""
        split, training = seed.spawn(2)
        fold = parts(clouds.is_true, round(1 / _CALIBRATION), split)
        learnt, others = clouds[np.flatnonzero(fold > 0)], clouds[np.flatnonzero(fold == 0)]
        word = int(training.generate_state(1)[0])
        trainer = BoostedTrees if kind == "boosted" else TrainedNet
        classifier = trainer.fit(learnt.inputs, learnt.is_true, learnt.balanced, word)  # type: ignore[arg-type]
        slope, offset = _line(classifier.log_odds(others.inputs), others.is_true, others.balanced)  # type: ignore[arg-type]
        return cls(classifier, slope, offset)

    def scores(self, inputs: Inputs) -> Floats:
        """Log-odds of being true as trained, which order the clouds, shape (n,)."""
        return self.classifier.log_odds(inputs)  # type: ignore[arg-type]

    def log_odds(self, scores: Floats) -> Floats:
        """Calibrated log-odds of being true at equal priors, that is log p_true(x) / p_generated(x), shape (n,)."""
        return self.slope * scores + self.offset


def _line(scores: Floats, is_true: npt.NDArray[np.bool_], weights: Floats) -> tuple[float, float]:
    """Slope >= 0 and offset that minimise the weighted log loss."""
    sign = np.where(is_true, 1.0, -1.0)

    def loss(line: Floats) -> tuple[float, Floats]:
        margin = sign * (line[0] * scores + line[1])
        pull = -sign * weights * expit(-margin)
        return float(weights @ np.logaddexp(0, -margin)), np.array([pull @ scores, pull.sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


def parts(is_true: npt.NDArray[np.bool_], folds: int, seed: np.random.SeedSequence) -> Index:
    """The part of each cloud, 0 to folds - 1, at random, with equal shares of each set in each.

    Raises:
        DataError: a set has too few clouds.
    """
    rng = np.random.default_rng(seed)
    result = np.empty(len(is_true), np.int64)
    for name, members in (("truth", np.flatnonzero(is_true)), ("sample", np.flatnonzero(~is_true))):
        if len(members) < _LEAST * folds:
            raise DataError(
                f"the {name} has {len(members)} clouds here; a classifier in {folds} parts needs at least {_LEAST * folds}"
            )
        result[rng.permutation(members)] = np.arange(len(members)) % folds
    return result
