"""How a feature becomes channels of the denoiser, and back: a number by its scale, a category by a code word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from pcdiff.errors import DataError
from pcdiff.kinematics import into_box

__all__ = [
    "Categories",
    "Combinations",
    "Encoding",
    "Function",
    "NormalScore",
    "Periodic",
    "Scale",
    "encoding_of",
    "fit_encoding",
    "leading_scale",
]

Floats = npt.NDArray[np.float32]

Function = Literal["standard", "log", "normal-score", "categorical", "periodic"]

# More than these are no categories but numbers, and each costs a channel.
_MOST_CATEGORIES = 100
# Of the box, in the denoiser's units: at a log-SNR of -9 the noise has 0.9 times the box size, at 12 it has 2e-5 of it.
_PERIOD = 100.0
# Normal scores at which quantiles are kept, of which the last are those of one in 300,000.
_SCORES = np.linspace(-4.5, 4.5, 361)
# Beyond it single precision, in which ONNX files and arrays of several columns hold them, skips whole numbers.
_LARGEST = 2**24
# Values of a column that are copied at once.
_PART = 1 << 21


@dataclass(frozen=True)
class Scale:
    """Standardisation of one feature: ``(f(x) - mean) / std`` with f the identity or the natural logarithm."""

    name: str
    function: Literal["standard", "log"]
    mean: float
    std: float

    @property
    def width(self) -> int:
        """The number of channels."""
        return 1

    @classmethod
    def fit(
        cls, name: str, function: Literal["standard", "log"], values: npt.NDArray[Any], *, signed: bool = False
    ) -> Scale:
        """Mean and standard deviation of the values; a constant feature keeps a scale of 1.

        Args:
            signed: the feature changes sign under a symmetry, so its mean is 0 up to statistics; it is taken as exactly 0,
                so that a change of sign is the same before and after standardising.
        """
        shaped = cls(name, function, 0.0, 1.0)._shape(np.asarray(values, np.float64))
        mean = 0.0 if signed and function == "standard" else float(shaped.mean())
        std = float(np.sqrt(np.mean((shaped - mean) ** 2)))
        return cls(name, function, mean, std if std > 1e-12 else 1.0)

    def _shape(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.function == "standard":
            return values
        if np.any(values <= 0):
            raise DataError(
                f"feature {self.name!r} is {float(values.min())} in {int(np.sum(values <= 0))} of {len(values)} values; "
                "its logarithm is used, so it must be positive"
            )
        return np.log(values)

    def forward(self, values: npt.NDArray[Any]) -> Floats:
        """Standardised values."""
        return ((self._shape(np.asarray(values, np.float64)) - self.mean) / self.std).astype(np.float32)

    def log_slope(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """log of the derivative of :meth:`forward` at values in physical units, of their shape."""
        found = np.full(np.shape(values), -np.log(self.std))
        return found - self._shape(np.asarray(values, np.float64)) if self.function == "log" else found

    def inverse(self, values: npt.NDArray[Any]) -> Floats:
        """Values in physical units; beyond the range of float32 they end at its largest number."""
        shaped = np.asarray(values, np.float64) * self.std + self.mean
        with np.errstate(over="ignore"):
            physical = np.exp(shaped) if self.function == "log" else shaped
        limit = np.finfo(np.float32)
        smallest = limit.tiny if self.function == "log" else limit.min
        return np.clip(physical, smallest, limit.max).astype(np.float32)


@dataclass(frozen=True)
class NormalScore:
    """One feature through its own quantiles: z with Phi(z) the fraction of the training data below it, linear between even z.

    What has a sharp edge or a long tail becomes a normal distribution, and ends where the training data end.

    Attributes:
        name: that of the feature.
        knots: strictly rising values at even z from -4.5 to 4.5.
    """

    name: str
    knots: tuple[float, ...]
    function: Literal["normal-score"] = "normal-score"

    @classmethod
    def fit(cls, name: str, values: npt.NDArray[Any]) -> NormalScore:
        """The quantiles of the values."""
        # The ends are those of the data, whose largest value no quantile of the last score reaches.
        levels = np.concatenate([[0.0], special.ndtr(_SCORES[1:-1]), [1.0]])
        found = np.quantile(np.asarray(values, np.float64), levels)
        # Repeated values have no one score: they are held apart by less than single precision.
        least = 1e-9 * max(1.0, float(np.abs(found).max())) * np.arange(len(found))
        return cls(name, tuple((np.maximum.accumulate(found) + least).tolist()))

    @property
    def width(self) -> int:
        """The number of channels."""
        return 1

    def forward(self, values: npt.NDArray[Any]) -> Floats:
        """Normal scores; those of values beyond the training data are its ends."""
        return np.interp(np.asarray(values, np.float64), self.knots, _SCORES).astype(np.float32)

    def log_slope(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """log of the derivative of :meth:`forward`."""
        knots = np.array(self.knots)
        cell = np.clip(np.searchsorted(knots, np.asarray(values, np.float64), side="right") - 1, 0, len(knots) - 2)
        return np.asarray(np.log(np.diff(_SCORES)[cell] / np.diff(knots)[cell]))

    def inverse(self, values: npt.NDArray[Any]) -> Floats:
        """Values in physical units."""
        return np.interp(np.asarray(values, np.float64), _SCORES, self.knots).astype(np.float32)


@dataclass(frozen=True)
class Periodic:
    """A position along an axis of a periodic box, in units of which the box has 100, whatever its size.

    It is not standardised: on a circle there is neither a mean nor a scale but the box itself (:class:`pcdiff.torus.Torus`).

    Attributes:
        name: that of the feature.
        size: that of the box, in physical units.
    """

    name: str
    size: float
    function: Literal["periodic"] = "periodic"

    @property
    def width(self) -> int:
        """The number of channels."""
        return 1

    @property
    def period(self) -> float:
        """The size of the box in the denoiser's units."""
        return _PERIOD

    def forward(self, values: npt.NDArray[Any]) -> Floats:
        """Positions in the denoiser's units."""
        return (np.asarray(values, np.float64) * (_PERIOD / self.size)).astype(np.float32)

    def log_slope(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """log of the derivative of :meth:`forward`."""
        return np.full(np.shape(values), np.log(_PERIOD / self.size))

    def inverse(self, values: npt.NDArray[Any]) -> Floats:
        """Positions in physical units, from 0 to below the size of the box."""
        return into_box(np.asarray(values, np.float64) * (self.size / _PERIOD), self.size, np.float32)


@dataclass(frozen=True)
class Categories:
    """Whole numbers that stand for categories, each with a code word of C real channels: relaxed one-hot.

    The code word of category k of K is ``(e_k - p) / s``, e_k the unit vector, p the shares of the categories in the training data
    and ``s^2 = sum_k p_k (1 - p_k) / K``: over the training data each channel has mean 0, and all together unit variance. What a
    sampler makes, z, is read as the category whose code word is nearest, which is the largest of ``p + s z``: the right one for any error
    below ``1 / (2 s)`` in each channel; of several features together (:meth:`Combinations.inverse`). What a denoiser says of these channels,
    :mod:`pcdiff.diffusion.categories` reads.

    Attributes:
        name: that of the feature.
        values: the K numbers that the training data hold, rising.
        shares: how large a part of the training data each of them is, shape (K,).
    """

    name: str
    values: tuple[int, ...]
    shares: tuple[float, ...]
    function: Literal["categorical"] = "categorical"

    @classmethod
    def fit(cls, name: str, values: npt.NDArray[Any]) -> Categories:
        """The categories that the values hold.

        Raises:
            DataError: values that are not whole, too large ones, or too many different ones.
        """
        found, counts = np.zeros((0, 1), np.int64), np.zeros(0, np.int64)
        for part in _slices(values):
            whole = np.round(part)
            if np.any(whole != part):
                at = int(np.argmax(whole != part))
                raise DataError(
                    f"feature {name!r} is {part[at]} in one of its values; expected whole numbers, as it is categorical"
                )
            if np.abs(whole).max(initial=0) > _LARGEST:
                raise DataError(
                    f"feature {name!r} has {whole[np.abs(whole).argmax()]:.0f} among its values; expected at most {_LARGEST:,} in size, as it is "
                    "categorical: single precision holds no larger whole numbers"
                )
            found, counts = _counted(found, counts, whole.astype(np.int64)[:, None])
            if len(found) > _MOST_CATEGORIES:
                raise DataError(
                    f"feature {name!r} has {len(found)} different values; expected at most {_MOST_CATEGORIES}, as it is categorical"
                )
        return cls(name, tuple(found[:, 0].tolist()), tuple((counts / counts.sum()).tolist()))

    @property
    def codes(self) -> Floats:
        """The code words, shape (K, C)."""
        shares = np.array(self.shares)
        spread = float(np.sqrt(np.mean(shares * (1 - shares)))) or 1.0
        codes: Floats = ((np.eye(len(shares)) - shares) / spread).astype(np.float32)
        return codes

    @property
    def width(self) -> int:
        """C, the number of channels."""
        return self.codes.shape[1]

    def forward(self, values: npt.NDArray[Any]) -> Floats:
        """Code words, shape (P, C), of values (P,).

        Raises:
            DataError: a value that the training data did not hold.
        """
        known = np.array(self.values)
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        unknown = known[place] != values
        if unknown.any():
            raise DataError(
                f"feature {self.name!r} has values {', '.join(map(str, np.unique(values[unknown])[:5]))}, which the training data "
                f"do not have; expected {', '.join(map(str, self.values))}"
            )
        found: Floats = self.codes[place]
        return found

    def log_slope(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """There is none.

        Raises:
            DataError: always: a category has a probability, not a density, and its code words have none in the denoiser's space.
        """
        raise DataError(
            f"feature {self.name!r} is categorical, so its {len(values)} values have no density; expected a generator of "
            "features that are standard or log"
        )


@dataclass(frozen=True)
class Combinations:
    """Which categories of several features go together.

    Attributes:
        names: the categorical features, in the order of their channels.
        values: the combinations that the training data hold, shape (K, number of features).
        shares: how large a part of the training data each of them is, shape (K,).
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, points: Sequence[Encoding], columns: Mapping[str, npt.NDArray[Any]]) -> Combinations | None:
        """Those of the categorical features among the point features; None without any.

        Raises:
            DataError: too many.
        """
        names = tuple(encoding.name for encoding in points if isinstance(encoding, Categories))
        if not names:
            return None
        found, counts = np.zeros((0, len(names)), np.int64), np.zeros(0, np.int64)
        for parts in zip(*(_slices(columns[name]) for name in names), strict=True):
            found, counts = _counted(found, counts, np.stack([part.astype(np.int64) for part in parts], axis=1))
            if len(found) > _MOST_CATEGORIES:
                raise DataError(
                    f"features {', '.join(names)} have {len(found)} different combinations; expected at most {_MOST_CATEGORIES}; "
                    "leave a feature out"
                )
        return cls(names, tuple(map(tuple, found.tolist())), tuple((counts / counts.sum()).tolist()))

    def words(self, points: Sequence[Encoding]) -> Floats:
        """The code words of the combinations: those of the features side by side, shape (K, C)."""
        known = {encoding.name: encoding for encoding in points}
        columns = zip(self.names, np.array(self.values).T, strict=True)
        return np.concatenate([known[name].forward(values) for name, values in columns], axis=1)

    def inverse(self, points: Sequence[Encoding], values: Floats) -> dict[str, npt.NDArray[np.int32]]:
        """The combination with the nearest code words: a column a feature, shape (P,), for the channels of all of them, (P, C)."""
        words = self.words(points).astype(np.float64)
        # Of |z - c|^2 what depends on the code words c.
        distance = (words**2).sum(axis=1) - 2 * values.astype(np.float64) @ words.T
        nearest = np.array(self.values, np.int32)[distance.argmin(axis=1)]
        return dict(zip(self.names, nearest.T, strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Combinations:
        """From the plain data that ``vars`` gives of one."""
        return cls(tuple(data["names"]), tuple(map(tuple, data["values"])), tuple(data["shares"]))


def _slices(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Consecutive parts of a column, of so many values as are copied at once."""
    return (values[start : start + _PART] for start in range(0, len(values), _PART))


def _counted(
    found: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Different rows (K, D) and how often each was found (K,), with further rows (n, D)."""
    more, repeats = np.unique(rows, axis=0, return_counts=True)
    together, place = np.unique(np.concatenate([found, more]), axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), np.concatenate([counts, repeats])).astype(np.int64)
    return together, total


Encoding = Scale | NormalScore | Categories | Periodic
"""How a feature is encoded."""


def fit_encoding(
    name: str, function: Function, values: npt.NDArray[Any], *, signed: bool = False, size: float | None = None
) -> Encoding:
    """Fit what a function of a config is; arguments as for :meth:`Scale.fit`.

    Args:
        size: of the periodic box, where there is one.
    """
    if function == "categorical":
        return Categories.fit(name, values)
    if function == "normal-score":
        return NormalScore.fit(name, values)
    if function == "periodic":
        if size is None:
            raise DataError(f"feature {name!r} is periodic, but the clouds are in no periodic box")
        return Periodic(name, size)
    return Scale.fit(name, function, values, signed=signed)


def encoding_of(data: Mapping[str, Any]) -> Encoding:
    """From the plain data that ``vars`` gives of one."""
    if data["function"] == "categorical":
        return Categories(data["name"], tuple(data["values"]), tuple(data["shares"]))
    if data["function"] == "normal-score":
        return NormalScore(data["name"], tuple(data["knots"]))
    return Periodic(**data) if data["function"] == "periodic" else Scale(**data)


def leading_scale(points: Sequence[Encoding]) -> tuple[int, Scale] | None:
    """The channel of the point feature that says how hard a constituent is, by which they fall, and its scale; None without one."""
    channel, found = 0, {}
    for encoding in points:
        if isinstance(encoding, Scale):
            found[encoding.name] = channel, encoding
        channel += encoding.width
    return next((found[name] for name in ("ptrel", "pt", "energy") if name in found), None)
