"""Weights that make generated clouds follow the truth, from a classifier that tells the two apart.

With C(x) the calibrated probability that cloud x is true, both sets weighing the same,

    w(x) = C(x) / (1 - C(x)) = p_true(x) / p_generated(x).

Andreassen and Nachman, "Neural Networks for Full Phase-space Reweighting and Parameter Tuning", arXiv 1907.08209; for samples of
generative models Diefenbacher et al., "DCTRGAN: Improving the Precision of Generative Models with Reweighting", arXiv 2009.03796.
Weights cannot make what a generator never makes, and the more they spread the less a cloud tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pcdiff import __version__
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation.classifiers import Calibrated, Inputs, Kind, Labelled, inputs_of, like
from pcdiff.physics import Measured, measure
from pcdiff.schema import Feature

if TYPE_CHECKING:
    from pcdiff.evaluation.result import Evaluation

__all__ = ["Reweighted", "Reweighter", "fit_reweighter", "reweight"]

Floats = npt.NDArray[np.float64]

_WEIGHT = Feature("weight", "", "how much the cloud counts, mean 1")


@dataclass(frozen=True)
class Reweighter:
    """The ratio of the densities of true and generated clouds, learnt from both.

    Attributes:
        kind: of classifier.
    """

    kind: Kind
    _classifier: Calibrated = field(repr=False)
    _seen: Inputs = field(repr=False)

    def weights(self, clouds: PointClouds) -> Floats:
        """p_true(x) / p_generated(x) of new generated clouds, shape (n,), positive; of mean 1 up to statistics.

        Of clouds that have a column ``weight``, p_generated is the density of the weighted ones, so both factors multiply.

        Raises:
            DataError: the clouds lack what the classifier was trained on.
        """
        inputs = like(self._seen, _prepared(self.kind, clouds, "clouds"))
        return _ratio(self._classifier, inputs)


def fit_reweighter(truth: PointClouds, sample: PointClouds, *, kind: Kind = "net", seed: int = 0) -> Reweighter:
    """Learn to weigh clouds that will be generated as the sample was; for the clouds of the sample itself use :func:`reweight`.

    Args:
        truth: true clouds.
        sample: generated clouds.
        kind: ``"net"``, on the points and, of jets, the stored pt and eta; or ``"boosted"``, trees on the observables of whole
            clouds, which restore those alone.
        seed: of the training.

    Raises:
        DataError: too few clouds, sets of different kinds, or without what the classifier needs.
    """
    true, generated = _prepared(kind, truth, "truth"), _prepared(kind, sample, "sample")
    inputs = inputs_of(kind, true, generated)
    labelled = Labelled.of(*inputs, true.weights, generated.weights)
    classifier = Calibrated.fit(kind, labelled, _seeds(seed, 1)[0])
    return Reweighter(kind, classifier, inputs[0][np.arange(0)])


@dataclass(frozen=True)
class Reweighted:
    """A generated sample with weights.

    Attributes:
        sample: the generated clouds with a cloud column ``weight``, of mean 1.
        original: the same as they were.
        held_out: true clouds that no weight depends on, to judge the weighted sample by.
        clipped: share of the clouds whose weight was cut.
    """

    sample: PointClouds
    original: PointClouds
    held_out: PointClouds
    clipped: float

    @property
    def effective_size(self) -> float:
        """Number of clouds of equal weight that tell as much: (sum w)^2 / sum w^2, after Kish, "Survey Sampling", 1965."""
        weights = self.sample.feature("weight")
        return float(weights.sum() ** 2 / (weights**2).sum())

    @property
    def largest(self) -> float:
        """The largest weight; the mean is 1."""
        return float(self.sample.feature("weight").max())

    def __str__(self) -> str:
        cut = f", {self.clipped:.2%} of them cut" if self.clipped else ""
        return (
            f"{len(self.sample):,} weighted clouds, which tell as much as {self.effective_size:,.0f} of equal weight; "
            f"the largest weight is {self.largest:.3g}{cut}"
        )

    def closure(self, output: str | os.PathLike[str] | None = None, *, draws: int = 20, seed: int = 0) -> Evaluation:
        """Compare the sample with the truth that was held out, before (``generated``) and after (``reweighted``).

        The weights also carry the chance fluctuations of the true clouds that they were learnt from, which the errors of this
        comparison do not know of: where these are three times as many as those held out, pulls are up to 1.15 times too wide.

        Args:
            output: folder for a report.
            draws: number of bootstrap resamples.
            seed: of the resampling.
        """
        from pcdiff.evaluation import evaluate

        return evaluate(
            self.held_out,
            {"generated": self.original, "reweighted": self.sample},
            output,
            draws=draws,
            seed=seed,
        )


def reweight(
    truth: PointClouds,
    sample: PointClouds,
    *,
    kind: Kind = "net",
    folds: int = 3,
    held_out: float = 0.25,
    clip: float | None = None,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> Reweighted:
    """Weigh each cloud of a sample by a classifier that was trained on other clouds.

    A part of the truth is set aside first, and no classifier sees it. It would not do to compare each fold of the sample with a fold
    of the truth that its classifier did not see, and to join the folds: what the weights of one fold take from the truth of another
    would cancel in the union, and the sample would agree with the truth better than two samples of the truth do.

    Args:
        truth: true clouds.
        sample: generated clouds; where they have a column ``weight``, it is replaced by its product with the weights found.
        kind: of classifier, see :func:`fit_reweighter`.
        folds: number of parts of the sample, at least 2.
        held_out: share of the true clouds set aside, between 0 and 1.
        clip: the largest weight in units of the mean, above 1; larger ones are cut to it. Cutting trades a bias for less spread.
        seed: of the parts and the training.
        progress: called when a fold is done.

    Raises:
        DataError: too few clouds or folds, sets of different kinds or without what the classifier needs, or a number out of
            range.
    """
    if folds < 2 or not 0 < held_out < 1 or (clip is not None and clip <= 1):
        raise DataError(
            f"folds is {folds}, held_out {held_out}, clip {clip}; expected at least 2, a share between 0 and 1, above 1"
        )
    splitting, folding, *training = _seeds(seed, 2 + folds)
    order = np.random.default_rng(splitting).permutation(len(truth))
    aside = round(held_out * len(truth))
    held, known = np.sort(order[:aside]), np.sort(order[aside:])
    true, generated = _prepared(kind, truth[known], "truth"), _prepared(kind, sample, "sample")
    real, made = inputs_of(kind, true, generated)
    before = np.ones(len(sample)) if generated.weights is None else generated.weights
    fold = np.random.default_rng(folding).permutation(np.arange(len(sample)) % folds)
    weights = np.empty(len(sample))
    for k, own_seed in enumerate(training):
        inside, outside = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        learnt = Labelled.of(real, made[outside], true.weights, before[outside])
        found = before[inside] * _ratio(Calibrated.fit(kind, learnt, own_seed), made[inside])
        weights[inside] = found / found.mean()
        if progress is not None:
            progress()
    clipped = 0.0
    if clip is not None:
        clipped = float((weights > clip).mean())
        weights = np.minimum(weights, clip)
    about: dict[str, Any] = {
        "classifier": kind,
        "folds": folds,
        "held_out": held_out,
        "clip": clip,
        "seed": seed,
        "pcdiff": __version__,
    }
    about["truth"] = list(map(str, truth.provenance.get("sources", ())))
    return Reweighted(_weighted(sample, weights / weights.mean(), about), sample, truth[held], clipped)


def _seeds(seed: int, count: int) -> list[np.random.SeedSequence]:
    if seed < 0:
        raise DataError(f"seed is {seed}; expected a whole number from 0")
    return np.random.SeedSequence(seed).spawn(count)


def _ratio(classifier: Calibrated, inputs: Inputs) -> Floats:
    """C / (1 - C), shape (n,)."""
    return np.exp(classifier.log_odds(classifier.scores(inputs)))


def _prepared(kind: Kind, clouds: PointClouds, where: str) -> Measured:
    """What a classifier needs of clouds; the net does without the observables, which take longer than all else."""
    if kind == "boosted":
        return measure(clouds, where)
    clouds.validate(where)
    weights = clouds.feature("weight").astype(np.float64) if "weight" in clouds.schema.cloud_names else None
    return Measured(clouds.schema.kind, clouds.counts, {}, weights=weights, clouds=clouds)


def _weighted(clouds: PointClouds, weights: Floats, about: dict[str, Any]) -> PointClouds:
    """The clouds with a column of weights, and how they came about in the provenance."""
    kept = tuple(feature for feature in clouds.schema.clouds if feature.name != _WEIGHT.name)
    return PointClouds.from_flat(
        {name: clouds.column(name) for name in clouds.schema.point_names},
        clouds.offsets,
        {feature.name: clouds.feature(feature.name) for feature in kept} | {_WEIGHT.name: weights},
        replace(clouds.schema, clouds=(*kept, _WEIGHT)),
        {**clouds.provenance, "reweighted": about},
    )
