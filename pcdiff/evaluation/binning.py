"""Bins that suit the truth, and what clouds put into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pcdiff.physics import Measured, Observable

__all__ = ["Binned", "bins", "comparable"]

Floats = npt.NDArray[np.float64]

_MOST_BINS = 40
_LEAST_ENTRIES = 25
# Small sets have thinner bins: each this share of all entries, but at least so many.
_LEAST_SHARE, _LEAST_OF_FEW = 0.2, 5
# Bins that fewer clouds fill have an error that is not known well enough for a pull, unless these are most of their set.
_LEAST_FILLED = 25
_LEAST_OF_MOST, _MOST = 10, 0.5


@dataclass(frozen=True)
class Binned:
    """The contents of bins, cloud by cloud, and the estimate of their mean.

    With t_c entries of cloud c, h_cb of them in bin b, and weights w_c of the clouds, the content of bin b is

        f_b = sum_c w_c h_cb / sum_c w_c t_c,    var(f_b) = sum_c w_c^2 (h_cb - f_b t_c)^2 / (sum_c w_c t_c)^2.

    For an observable the h_cb are counts: f_b is a share of all entries, and for one entry a cloud and equal weights the variance
    is the binomial f_b (1 - f_b) / n. For a profile t_c = 1, and f_b is a mean over clouds, unless it has totals of its own, of each bin:
    pairs of halos, of which f_b is then a mean. Clouds are independent, the entries of one cloud are not. (Ratio estimator: Cochran,
    "Sampling Techniques", 1977, chapter 6.) Where the totals are 0 so is f_b.

    Attributes:
        contents: h_cb, shape (n, b), sparse.
        totals: t_c, shape (n,), or t_cb, shape (n, b).
        weights: w_c, shape (n,).
    """

    contents: csr_array
    totals: Floats
    weights: Floats

    @classmethod
    def of_observable(cls, observable: Observable, measured: Measured, edges: Floats) -> Binned:
        """How often each cloud is in each bin; what lies outside the edges is counted in the outermost ones.

        Args:
            edges: rising, shape (b + 1,).
        """
        values = measured.values[observable.name]
        count = len(edges) - 1
        where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, count - 1)
        cells, entries = np.unique(measured.owners(observable) * count + where, return_counts=True)
        contents = csr_array(
            (entries.astype(np.float64), (cells // count, cells % count)), shape=(len(measured), count)
        )
        totals = measured.counts.astype(np.float64) if observable.level == "point" else np.ones(len(measured))
        return cls(contents, totals, _weights(measured))

    @classmethod
    def of_profile(cls, name: str, measured: Measured) -> Binned:
        """The bins that each cloud fills in a profile."""
        totals = measured.totals.get(name, np.ones(len(measured)))
        return cls(measured.profiles[name].astype(np.float64), totals, _weights(measured))

    @property
    def mean(self) -> Floats:
        """f_b, shape (b,)."""
        mean: Floats = self.means(self.weights[None])[0]
        return mean

    @property
    def variance(self) -> Floats:
        """Of f_b, shape (b,)."""
        mean, square, totals = self.mean, self.weights**2, self._of_bins
        spread = (
            square @ self.contents.power(2)
            - 2 * mean * (square @ csr_array(self.contents.multiply(totals)))
            + mean**2 * (square @ totals**2)
        )
        return _over(np.maximum(spread, 0.0), (self.weights @ totals) ** 2)

    @property
    def filled(self) -> npt.NDArray[np.int64]:
        """How many clouds have anything in each bin, shape (b,)."""
        return np.bincount(self.contents.indices[self.contents.data != 0], minlength=self.contents.shape[1])

    def means(self, weights: Floats) -> Floats:
        """f_b for other weights (draws, n) of the clouds: shape (draws, b)."""
        return _over(np.asarray(weights @ self.contents), weights @ self._of_bins)

    def part(self, bins: slice) -> Binned:
        """Some of the bins."""
        totals = self.totals[:, bins] if self.totals.ndim == 2 else self.totals
        return Binned(csr_array(self.contents[:, bins]), totals, self.weights)

    @property
    def _of_bins(self) -> Floats:
        """The totals, shape (n, 1) or (n, b)."""
        return self.totals if self.totals.ndim == 2 else self.totals[:, None]


def _over(numerator: Floats, denominator: Floats) -> Floats:
    """The ratio, 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _weights(measured: Measured) -> Floats:
    return np.ones(len(measured)) if measured.weights is None else measured.weights


def comparable(truth: Binned, sample: Binned) -> npt.NDArray[np.bool_]:
    """The bins in which two sets can be compared, shape (b,): enough clouds fill them, and they fluctuate.

    Enough are 25 clouds of either set, or 10 that are half of either.
    """
    enough = [
        side.filled >= min(_LEAST_FILLED, max(_LEAST_OF_MOST, _MOST * len(side.weights))) for side in (truth, sample)
    ]
    return np.asarray((enough[0] | enough[1]) & (truth.variance + sample.variance > 0))


def bins(observable: Observable, truth: Floats) -> Floats:
    """Bin edges that suit the truth, rising, shape (b + 1,).

    Bins of equal width (equal ratio where the observable asks for it, whole numbers where it is one) cover the central
    99 % of the truth by the Rice rule, 2 n^(1/3) bins but at most 40. They go on outside while there is truth, by half
    that range at most (by all of it where the axis is logarithmic). Thin bins are joined with the next one inwards
    until each holds at least 25 entries of the truth, or a fifth of them where these are fewer than 125, but at least 5.

    Args:
        truth: shape (n,), at least one value.
    """
    if observable.integer:
        low, high = truth.min(), truth.max()
        width = np.ceil((high - low + 1) / _MOST_BINS)
        edges = np.arange(low, high + width + 1, width) - 0.5
    elif observable.log_x and (truth > 0).any():
        edges = np.exp(_even(np.log(truth[truth > 0]), reach=1.0))
    else:
        edges = _even(truth, reach=0.5)
    return _joined(edges, np.clip(truth, edges[0], edges[-1]))


def _even(values: Floats, reach: float) -> Floats:
    """Edges of equal width over the central 99 % of the values, and by at most ``reach`` of that beyond."""
    low, high = np.quantile(values, (0.005, 0.995))
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    count = int(np.clip(np.ceil(2 * len(values) ** (1 / 3)), 5, _MOST_BINS))
    width = (high - low) / count
    before = min(int(np.ceil((low - values.min()) / width)), int(reach * count))
    after = min(int(np.ceil((values.max() - high) / width)), int(reach * count))
    return np.asarray(low + width * np.arange(-before, count + after + 1), np.float64)


def _joined(edges: Floats, values: Floats) -> Floats:
    """Fewer bins: neighbours joined, from either end towards the fullest bin, until each holds enough of the values."""
    counts = np.histogram(values, edges)[0]
    least = int(np.clip(_LEAST_SHARE * len(values), _LEAST_OF_FEW, _LEAST_ENTRIES))
    peak = int(np.argmax(counts))
    left = _filled(edges[: peak + 1], counts[:peak], least)
    right = _filled(edges[:peak:-1], counts[:peak:-1], least)
    return np.array([*left, *reversed(right)])


def _filled(edges: Floats, counts: npt.NDArray[np.int64], least: int) -> list[float]:
    """The first edge, and each further one once enough entries lie between it and the one kept before."""
    kept, entries = [float(edges[0])], 0
    for edge, count in zip(edges[1:], counts, strict=True):
        entries += count
        if entries >= least:
            kept.append(float(edge))
            entries = 0
    # What is left over goes to the bin before, not to the fullest one, where it would be lost to sight.
    return [*kept[:-1], float(edges[-1])] if entries and len(kept) > 1 else kept
