"""Boosted decision trees on the observables of whole clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcdiff.errors import DataError
from pcdiff.physics import Measured, observables

__all__ = ["BoostedTrees", "Table"]

Floats = npt.NDArray[np.float64]

# Shallow trees and few of them: a difference worth finding is a smooth one, and more trees learn the noise of some thousand
# clouds. The budget is the same for all sizes.
_TREES = 60
_LEARNING_RATE = 0.08
_LEAVES = 12
_CLOUDS_IN_LEAF = 40


@dataclass(frozen=True)
class Table:
    """The observables of n clouds.

    Attributes:
        names: of the columns.
        values: shape (n, columns).
    """

    names: tuple[str, ...]
    values: Floats

    @classmethod
    def of(cls, truth: Measured, sample: Measured) -> tuple[Table, Table]:
        """Those that both sets have a value of for each cloud; in clouds of one point, those of the point too.

        Raises:
            DataError: there are none.
        """
        single = all((measured.counts == 1).all() for measured in (truth, sample))
        names = tuple(
            name
            for name, observable in observables(truth.kind).items()
            if (observable.level == "cloud" or single) and name in truth.values and name in sample.values
        )
        if not names:
            raise DataError(
                f"no observable has one value a cloud in both sets of {truth.kind}, which boosted trees need; use the net"
            )
        return cls._with(names, truth), cls._with(names, sample)

    @classmethod
    def _with(cls, names: tuple[str, ...], measured: Measured) -> Table:
        return cls(names, np.stack([measured.values[name] for name in names], axis=1))

    def like(self, measured: Measured) -> Table:
        """The same observables of other clouds.

        Raises:
            DataError: one of them is not known.
        """
        absent = [name for name in self.names if name not in measured.values]
        if absent:
            raise DataError(f"these clouds lack the observable {absent[0]!r}, which the classifier was trained with")
        return self._with(self.names, measured)

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Table) -> Table:
        """The clouds of one after those of the other."""
        return Table(self.names, np.concatenate([self.values, other.values]))

    def __getitem__(self, index: npt.NDArray[np.int64]) -> Table:
        """Some of the clouds."""
        return Table(self.names, self.values[index])

    def shuffled(self, column: int, rng: np.random.Generator) -> Table:
        """The same with one column dealt out anew among the clouds."""
        values = self.values.copy()
        values[:, column] = rng.permutation(values[:, column])
        return Table(self.names, values)


@dataclass(frozen=True)
class BoostedTrees:
    """A trained classifier."""

    model: Any

    @classmethod
    def fit(cls, table: Table, is_true: npt.NDArray[np.bool_], weights: Floats, seed: int) -> BoostedTrees:
        """Train on clouds, each counting by its weight."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        model = HistGradientBoostingClassifier(
            learning_rate=_LEARNING_RATE,
            max_iter=_TREES,
            max_leaf_nodes=_LEAVES,
            min_samples_leaf=_CLOUDS_IN_LEAF,
            early_stopping=False,
            random_state=seed,
        )
        return cls(model.fit(table.values, is_true, sample_weight=weights))

    def log_odds(self, table: Table) -> Floats:
        """Of being true, not calibrated, shape (n,)."""
        return np.asarray(self.model.decision_function(table.values), np.float64)
