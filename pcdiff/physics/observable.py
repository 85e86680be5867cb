"""What an observable is, and the values of all observables of one set of clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pcdiff.clouds import PointClouds

__all__ = ["Measured", "Observable"]


@dataclass(frozen=True)
class Observable:
    """A number that each cloud, or each point, of a set has.

    Attributes:
        name: the field's standard term; key of tables and files.
        title: the same in plain words.
        level: whether there is one value a ``"cloud"``, shape (n,), or one a ``"point"``, shape (P,).
        function: takes :class:`PointClouds`, returns float64 values; raises :class:`pcdiff.errors.DataError` when the
            stored columns do not determine the observable.
        label: text with LaTeX for an axis, without the unit.
        unit: ``"GeV"``, ... or ``""`` for a pure number.
        integer: the values are whole numbers, so bins must be too.
        log_x: a histogram reads best in bins of equal ratio.
        log_y: a histogram reads best with its contents on a logarithmic axis.
    """

    name: str
    title: str
    level: Literal["cloud", "point"]
    function: Callable[[PointClouds], npt.NDArray[np.float64]]
    label: str
    unit: str = ""
    integer: bool = False
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Measured:
    """The observables of one set of n clouds with P points.

    Attributes:
        kind: that of the clouds' schema.
        counts: shape (n,), number of points of each cloud.
        values: observable name -> float64 values, shape (n,) or (P,), all finite.
        missing: observable name -> why the stored columns do not determine it.
        provenance: where the clouds came from.
    """

    kind: str
    counts: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[np.float64]]
    missing: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counts)

    def owners(self, observable: Observable) -> npt.NDArray[np.int64]:
        """Shape of the observable's values: the number of the cloud that each value belongs to."""
        clouds = np.arange(len(self.counts))
        return np.repeat(clouds, self.counts) if observable.level == "point" else clouds
