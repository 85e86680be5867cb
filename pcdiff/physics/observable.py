"""What an observable is, and the values of all observables of one set of clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.clouds import PointClouds

__all__ = ["Measured", "Observable", "Profile", "noun"]

Floats = npt.NDArray[np.float64]

# What is counted where the kind of clouds names their points.
_NOUNS = {"halos": "boxes"}


def noun(kind: str) -> str:
    """What clouds of a kind are called where they are counted.

    >>> noun("jets"), noun("halos")
    ('jets', 'boxes')
    """
    return _NOUNS.get(kind, kind)


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
        columns: stored point columns without which there is no such observable.
    """

    name: str
    title: str
    level: Literal["cloud", "point"]
    function: Callable[[PointClouds], Floats]
    label: str
    unit: str = ""
    integer: bool = False
    log_x: bool = False
    log_y: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A histogram in one or two variables that each cloud fills, of which a set has the mean over its clouds.

    A cloud may fill it many times and with weights, such as once for each pair of its points: what would be too many numbers to
    keep is kept as the contents of fixed bins, a sparse row a cloud. Where the mean is one over other things, such as pairs, a cloud also
    has their number in each bin, and a set the sum of contents over the sum of these.

    Attributes:
        name: key of tables and files.
        title: the same in plain words.
        function: takes :class:`PointClouds`, returns the contents (n, b), b the number of all bins; in two variables those of
            the second run fastest. Raises :class:`pcdiff.errors.DataError` when the stored columns do not determine it.
        edges: bin edges, rising, one array a variable.
        labels: text with LaTeX for the axis of each variable.
        content: text with LaTeX for what a bin holds.
        log_x: a picture reads best with the first variable on a logarithmic axis.
        log_y: a picture reads best with the contents on a logarithmic axis (or colour scale).
        columns: stored point columns without which there is no such profile.
        categories: names of the bins, where these are no ranges of a number.
        totals: takes :class:`PointClouds`, returns what the contents are a mean over, float64 (n, b), not negative; None for clouds.
        distribution: the contents are never negative and add up, as those of a histogram do; those of a correlation do not.
    """

    name: str
    title: str
    function: Callable[[PointClouds], csr_array]
    edges: tuple[Floats, ...]
    labels: tuple[str, ...]
    content: str
    log_x: bool = False
    log_y: bool = False
    columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    totals: Callable[[PointClouds], Floats] | None = None
    distribution: bool = True


@dataclass(frozen=True)
class Measured:
    """The observables of one set of n clouds with P points.

    Attributes:
        kind: that of the clouds' schema.
        counts: shape (n,), number of points of each cloud.
        values: observable name -> float64 values, shape (n,) or (P,), all finite.
        profiles: profile name -> contents, shape (n, b), sparse.
        missing: name of an observable or profile -> why the stored columns do not determine it; without those of which a needed column
            is not stored at all, such as the charge of constituents.
        provenance: where the clouds came from.
        weights: shape (n,), how much each cloud counts, of mean 1; None when all count alike.
        polynomials: energy-flow polynomials, shape (n, 36); None where they are not known.
        clouds: what was measured; None where only values are known.
        totals: profile name -> what its contents are a mean over, shape (n, b), of those that are not means over clouds.
    """

    kind: str
    counts: npt.NDArray[np.int64]
    values: dict[str, Floats]
    profiles: dict[str, csr_array] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    weights: Floats | None = None
    polynomials: Floats | None = None
    clouds: PointClouds | None = None
    totals: dict[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counts)

    def owners(self, observable: Observable) -> npt.NDArray[np.int64]:
        """Shape of the observable's values: the number of the cloud that each value belongs to."""
        clouds = np.arange(len(self.counts))
        return np.repeat(clouds, self.counts) if observable.level == "point" else clouds

    @property
    def effective_size(self) -> float:
        """Number of clouds of equal weight that tell as much: (sum w)^2 / sum w^2, after Kish, "Survey Sampling", 1965."""
        return float(len(self)) if self.weights is None else float(self.weights.sum() ** 2 / (self.weights**2).sum())
