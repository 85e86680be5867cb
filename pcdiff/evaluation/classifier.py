"""The classifier two-sample test: how well a classifier tells generated from true clouds that it was not trained on.

If both follow one distribution no classifier can, and the area under its ROC curve (AUC) is 0.5 up to chance. Lopez-Paz and Oquab,
"Revisiting Classifier Two-Sample Tests", arXiv 1610.06545; for fast simulation Krause and Shih, "CaloFlow: Fast and Accurate
Generation of Calorimeter Showers with Normalizing Flows", arXiv 2106.05285. An AUC depends on the classifier and on how many clouds
it learns from: compare only those of one kind and like sizes. No classifier can see that a sample repeats itself: copies of good
clouds are good clouds.

The clouds are cut into folds, and those of each are scored by a classifier that was trained on the others. The AUC is the mean of
those of the folds, within which all scores come from one classifier. For its error: each fold has DeLong's variance; but the folds
are not independent. If both sets follow one distribution, a classifier finds the chance differences of its training clouds. Write d_k
for that of fold k in the features that matter. To leading order the AUC of fold k is 0.5 plus a multiple of d_k . sum_{j != k} d_j, so
each pair of folds enters twice, and the variance of the mean is at most twice what independent folds would give. The error stated is

    error = sqrt(2 sum_k var AUC_k) / folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from pcdiff.errors import DataError
from pcdiff.evaluation.calibration import calibration_error
from pcdiff.evaluation.classifiers import Calibrated, Kind, Labelled, inputs_of, parts
from pcdiff.evaluation.classifiers.boosted import Table
from pcdiff.evaluation.classifiers.roc import Placements, placements
from pcdiff.evaluation.metric import Metric
from pcdiff.physics import Measured

__all__ = ["ClassifierTest", "Ranked", "classifier_test"]

Floats = npt.NDArray[np.float64]

# Chosen by their cost: of 6,000 + 6,000 jets both take well below a minute on one core.
_FOLDS: dict[Kind, int] = {"boosted": 5, "net": 2}
_TITLES: dict[Kind, str] = {"boosted": "AUC, boosted trees on observables", "net": "AUC, net on constituents"}
# How often each observable is shuffled in each fold.
_SHUFFLES = 3
# Bins of equal content that one observable alone is judged in.
_BINS = 20


@dataclass(frozen=True)
class Ranked:
    """How much one observable gives the sample away.

    Attributes:
        observable: its name.
        importance: by how much the AUC falls when the observable is dealt out anew among the clouds that are scored. Observables
            that say the same share it.
        error: of the importance.
        alone: AUC of the observable alone, its histogram of the training clouds being the classifier.
        alone_error: of that AUC.
    """

    observable: str
    importance: float
    error: float
    alone: float
    alone_error: float


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells a generated sample from the truth.

    Attributes:
        kind: of classifier, ``"boosted"`` or ``"net"``.
        auc: chance that a true cloud scores higher than a generated one: 0.5 if they cannot be told apart, 1 if always.
        error: of the AUC, see the head of this module.
        truth_scores: shape (n,), calibrated probability of each true cloud to be true, both sets weighing the same, from a
            classifier that was not trained on it.
        sample_scores: shape (m,), the same of each generated cloud.
        calibration_error: expected calibration error, see :func:`pcdiff.evaluation.calibration.calibration_error`.
        log_loss: mean of -log(probability of what a cloud is); log 2 = 0.693 knows nothing.
        ranking: what gives the sample away, the worst first; only of boosted trees.
        truth_size: number of true clouds.
        sample_size: number of generated clouds.
        folds: number of parts.
    """

    kind: Kind
    auc: float
    error: float
    truth_scores: Floats = field(repr=False, compare=False)
    sample_scores: Floats = field(repr=False, compare=False)
    calibration_error: float
    log_loss: float
    ranking: tuple[Ranked, ...]
    truth_size: int
    sample_size: int
    folds: int

    @property
    def pull(self) -> float | None:
        """(auc - 0.5) / error; None where all clouds are told apart, which leaves no error."""
        if self.error > 0:
            return (self.auc - 0.5) / self.error
        return None if self.auc > 0.5 else 0.0

    def metric(self) -> Metric:
        """The AUC as one of the metrics of an evaluation."""
        return Metric(
            name=f"auc_{self.kind}",
            title=_TITLES[self.kind],
            unit="",
            group="clouds",
            about="",
            value=self.auc,
            error=self.error,
            resampled=self.auc,
            floor=0.5,
            floor_error=0.0,
            pull=self.pull,
            truth_size=self.truth_size,
            sample_size=self.sample_size,
            draws=self.folds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the scores."""
        return {k: v for k, v in asdict(self).items() if k not in ("truth_scores", "sample_scores")} | {
            "pull": self.pull
        }


def classifier_test(
    truth: Measured,
    sample: Measured,
    *,
    kind: Kind = "boosted",
    folds: int | None = None,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> ClassifierTest:
    """Let a classifier tell a sample from the truth.

    Args:
        truth: the true clouds; a set with weights counts its clouds by them.
        sample: the generated clouds, of any number: in training both sets weigh the same.
        kind: ``"boosted"``, decision trees on the observables of whole clouds, which says what gives the sample away; or ``"net"``, a
            permutation-invariant net on the points and, of jets, the stored pt and eta, which sees all there is.
        folds: number of parts, at least 2; 5 for trees and 2 for the net by default.
        seed: of the parts and the training: on one machine the same numbers for the same seed.
        progress: called when a fold is done.

    Raises:
        DataError: too few clouds or folds, sets of different kinds, or without what the classifier needs.
    """
    labelled = Labelled.of(*inputs_of(kind, truth, sample), truth.weights, sample.weights)
    count = _FOLDS[kind] if folds is None else folds
    if count < 2 or seed < 0:
        raise DataError(f"folds is {count} and seed is {seed}; expected at least 2 folds and a seed from 0")
    splitting, shuffling, *training = np.random.SeedSequence(seed).spawn(2 + count)
    fold = parts(labelled.is_true, count, splitting)
    rng = np.random.default_rng(shuffling)
    odds = np.empty(len(labelled))
    areas: list[Placements] = []
    drops: list[list[Placements]] = []
    alone: list[list[Placements]] = []
    for k, own_seed in enumerate(training):
        inside = np.flatnonzero(fold == k)
        learnt, held = labelled[np.flatnonzero(fold != k)], labelled[inside]
        classifier = Calibrated.fit(kind, learnt, own_seed)
        scores = classifier.scores(held.inputs)
        odds[inside] = classifier.log_odds(scores)
        areas.append(_placements(scores, held))
        if isinstance(held.inputs, Table):
            drops.append([areas[-1] - _shuffled(classifier, held, i, rng) for i in range(len(held.inputs.names))])
            alone.append([_alone(learnt, held, i) for i in range(len(held.inputs.names))])
        if progress is not None:
            progress()
    auc, error = _mean(areas)
    weights = labelled.balanced
    margin = np.where(labelled.is_true, odds, -odds)
    return ClassifierTest(
        kind=kind,
        auc=auc,
        error=error,
        truth_scores=expit(odds[labelled.is_true]),
        sample_scores=expit(odds[~labelled.is_true]),
        calibration_error=calibration_error(labelled.is_true, expit(odds), weights),
        log_loss=float(weights @ np.logaddexp(0, -margin) / weights.sum()),
        ranking=_ranking(labelled.inputs.names, drops, alone) if isinstance(labelled.inputs, Table) else (),
        truth_size=len(truth),
        sample_size=len(sample),
        folds=count,
    )


def _placements(scores: Floats, held: Labelled) -> Placements:
    true = held.is_true
    return placements(scores[true], scores[~true], held.weights[true], held.weights[~true])


def _mean(folds: list[Placements]) -> tuple[float, float]:
    """Mean over folds, and its error; see the head of this module."""
    value = float(np.mean([found.mean for found in folds]))
    return value, float(np.sqrt(2 * sum(found.variance for found in folds)) / len(folds))


def _shuffled(classifier: Calibrated, held: Labelled, column: int, rng: np.random.Generator) -> Placements:
    """Placements after one observable was shuffled, mean over several times."""
    assert isinstance(held.inputs, Table)
    found = [_placements(classifier.scores(held.inputs.shuffled(column, rng)), held) for _ in range(_SHUFFLES)]
    truth, sample = (np.mean([getattr(one, side) for one in found], axis=0) for side in ("truth", "sample"))
    return Placements(truth, sample, found[0].truth_weights, found[0].sample_weights)


def _alone(learnt: Labelled, held: Labelled, column: int) -> Placements:
    """Placements when the score is the log of the ratio of the histograms of one observable of the training clouds."""
    assert isinstance(learnt.inputs, Table)
    assert isinstance(held.inputs, Table)
    values = learnt.inputs.values[:, column]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    found = np.searchsorted(edges, values, "right")
    true, generated = (
        np.bincount(found[which], learnt.balanced[which], len(edges) + 1) for which in (learnt.is_true, ~learnt.is_true)
    )
    # One more in each bin, so that an empty one has a logarithm.
    scores = np.log((true + 1) / (generated + 1))
    return _placements(scores[np.searchsorted(edges, held.inputs.values[:, column], "right")], held)


def _ranking(
    names: tuple[str, ...], drops: list[list[Placements]], alone: list[list[Placements]]
) -> tuple[Ranked, ...]:
    """Of each observable, from its placements in each fold."""
    ranked = [
        Ranked(name, *_mean([fold[i] for fold in drops]), *_mean([fold[i] for fold in alone]))
        for i, name in enumerate(names)
    ]
    return tuple(sorted(ranked, key=lambda one: -one.importance))
