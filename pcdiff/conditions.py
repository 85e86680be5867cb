"""What is known of clouds before their points are made: drawn from the multiplicity model, as asked for, or taken from other clouds.

A request may ask for a type, or several; for a window of a cloud feature or of the number of points; or for a value. What is drawn then
follows p(type, number of points, cloud features | all of these hold), with p the model's own:

- types: drawn from those that are asked for, in their proportions;
- windows, and values of whole numbers: drawn again until they are met, which is exact;
- a value v of any other feature, which no draw meets: drawn again until the feature lies in a narrow window around v, and then set to v.
  With z the normal score of the feature, z = Phi^-1(F(v)) and F its distribution in the training data, the window is z +- 0.1, and at least
  a thousandth of the training data. So all else is that of clouds whose z is off by 0.06 (root mean square), 12 GeV in the pT
  of gluon30-fast's jets around 1 TeV. Something of rank correlation r with the feature is smeared by 0.06 r of its own spread.

A model that is a regression on the features takes a value as it is and draws the rest for it; no window is needed.

Drawn again means: the clouds of a block that are not as asked for take, in their order, the further draws of the block that are. Which of these
draws are computed together never changes, and neither does their rounding. So cloud i depends only on the seed, i and what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, suggest
from pcdiff.multiplicity import Multiplicity
from pcdiff.noise import BLOCK, attempt_noise, cloud_noise
from pcdiff.seeds import Purpose, stream
from pcdiff.transforms import Transform, cloud_columns

__all__ = ["NUMBER", "Asked", "Conditions", "Selection", "Source", "as_text", "conditions_of"]

NUMBER = "number_of_points"
"""The name under which a number of points is asked for."""

Asked = Mapping[str, str | Sequence[str] | float | tuple[float, float]]
"""By name: of ``type`` one name or several; of a cloud feature or ``number_of_points`` a value, or a window (low, high) that holds
both of its ends; an end may be infinite."""

# The window around a value: half its width in the normal score, and the least fraction of the training data on either side.
_NEAR, _LEAST = 0.1, 5e-4
# Of this many draws so many must be as asked for; they are looked at in chunks.
_TRIED, _MET = 1 << 18, 32
_CHUNK = 1 << 12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conditions:
    """What is known of clouds before their points are made.

    Attributes:
        counts: number of points, shape (n,).
        features: cloud features in physical units, each (n,).
        types: positions in the transform's types, shape (n,).
    """

    counts: npt.NDArray[np.int64]
    features: dict[str, npt.NDArray[Any]]
    types: npt.NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Sequence[Conditions]) -> Conditions:
        """Those of one set of clouds after another."""
        return cls(
            counts=np.concatenate([part.counts for part in parts]),
            features={name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
            types=np.concatenate([part.types for part in parts]),
        )


Source = Callable[[int, int, int], Conditions]
"""Gives what is known of clouds of a block, from the number of the first cloud of the block, how many of them, and the seed."""


def conditions_of(clouds: PointClouds, transform: Transform, start: int, size: int, seed: int) -> Conditions:
    """Those of given clouds, as a :data:`Source`; a jet's azimuth is drawn where they have none."""
    part = clouds[start : start + size]
    columns = cloud_columns(part, [scale.name for scale in transform.clouds])
    features = {name: values.astype(np.float32) for name, values in columns.items()}
    if transform.schema.kind == "jets" and "phi" not in features:
        if "phi" in part.schema.cloud_names:
            features["phi"] = part.feature("phi").astype(np.float32)
        else:
            features["phi"] = _azimuth(cloud_noise(seed, start, size, 0)[0][:, 1])
    return Conditions(part.counts, features, transform.type_index(part))


def require_covered(
    multiplicity: Multiplicity, transform: Transform, features: Mapping[str, npt.ArrayLike], where: str
) -> None:
    """Refuse cloud features beyond what the training data cover.

    Args:
        features: one value or several, in physical units, by name.
        where: what the error message starts with.

    Raises:
        DataError: a value is beyond by more than a hundredth of what is covered, or not finite.
    """
    for number, scale in enumerate(transform.clouds, 1):
        known = multiplicity.quantiles(number)
        values = np.ravel(np.asarray(features[scale.name], np.float64))
        slack = 0.01 * (known[-1] - known[0])
        outside = ~((values >= known[0] - slack) & (values <= known[-1] + slack))
        if outside.any():
            raise DataError(
                f"{where}: {scale.name} = {values[outside][0]:g} lies outside of the training data, which cover "
                f"{_covered(multiplicity, transform, number)}"
            )


def _covered(multiplicity: Multiplicity, transform: Transform, column: int) -> str:
    """What the training data cover: of the number of points for column 0, else of a cloud feature."""
    known = multiplicity.quantiles(column)
    name = NUMBER if column == 0 else transform.clouds[column - 1].name
    unit = "" if column == 0 else transform.schema.cloud(name).unit
    return f"{name} from {known[0]:g} to {known[-1]:g}{unit and ' '}{unit}"


class Selection:
    """A model of clouds from which only those are drawn that are as asked for.

    Args:
        asked: see :data:`Asked`; all clouds when empty.
        multiplicity: the model of the number of points and the cloud features.
        transform: names the features and types.
        types: fraction of each of the transform's types.

    Raises:
        DataError: a name or type is not known, a value cannot be, or the model hardly ever draws such clouds.
    """

    def __init__(self, asked: Asked, multiplicity: Multiplicity, transform: Transform, types: Sequence[float]) -> None:
        self._multiplicity = multiplicity
        self._transform = transform
        self._columns = (NUMBER, *(scale.name for scale in transform.clouds))
        self._asked = as_text(asked)
        # By column: 0 is the number of points, then follow the features.
        self._windows: dict[int, tuple[float, float]] = {}
        self._values: dict[int, float] = {}
        # Those that the model itself takes, by the number of the feature.
        self._given: dict[int, float] = {}
        chosen = list(range(max(1, len(types))))
        for name, value in asked.items():
            if name == "type":
                chosen = sorted({self._type(one) for one in _names(value)})
            elif name in self._columns:
                self._ask(self._columns.index(name), value)
            else:
                raise DataError(f"no condition {name!r}: {suggest(name, ['type', *self._columns])}")
        shares = np.asarray(types or [1.0])[chosen]
        self._types = np.array(chosen, np.int64)
        self._cumulative = np.cumsum(shares if len(chosen) == len(types) else shares / shares.sum())[:-1]
        if self._windows:
            self._try()

    def _type(self, name: str) -> int:
        known = self._transform.types
        if name not in known:
            raise DataError(f"the generator knows no type {name!r}: {suggest(name, known)}")
        return known.index(name)

    def _ask(self, column: int, value: Any) -> None:
        """Take the value or the window that is asked for."""
        name, known = self._columns[column], self._multiplicity.quantiles(column)
        low, high = _window(name, value)
        asked = f"{name} = {self._asked[name]}"
        if not low <= high:
            raise DataError(f"{asked}: expected a number, or a window whose low end is not above its high end")
        if high < known[0] or low > known[-1]:
            raise DataError(f"{asked}: lies outside of the training data, which cover {self._range(column)}")
        if isinstance(value, Real):
            if np.any(known != np.rint(known)) and column and self._multiplicity.conditional:
                self._given[column - 1] = low
                return
            if np.any(known != np.rint(known)):
                self._values[column] = low
                low, high = _near(low, known)
            elif low != np.rint(low):
                raise DataError(f"{asked}: expected a whole number, as all are in the training data")
        self._windows[column] = low, high

    def _range(self, column: int) -> str:
        return _covered(self._multiplicity, self._transform, column)

    def _try(self) -> None:
        """See that clouds as asked for are not too rare; which ones are is the same for any seed."""
        rng = np.random.default_rng(stream(0, Purpose.ATTEMPTS))
        tried = met = 0
        while met < _MET and tried < _TRIED:
            rows = self._rows(rng.random(_CHUNK), rng.standard_normal((_CHUNK, len(self._columns))))
            met += int(self._met(rows).sum())
            tried += _CHUNK
        if met < _MET:
            asked = ", ".join(f"{name} = {text}" for name, text in self._asked.items())
            ranges = ", ".join(self._range(column) for column in self._windows)
            raise DataError(
                f"{asked}: only {met} of {tried:,} clouds that the generator draws are so, expected {_MET} at least; "
                f"the training data cover {ranges}"
            )

    def draw(self, start: int, size: int, seed: int) -> Conditions:
        """Those of the first ``size`` clouds of the block that begins at ``start``; what is drawn of cloud i depends only on (seed, i)."""
        uniform, normal = cloud_noise(seed, start, BLOCK, len(self._columns))
        # The whole block, so that rounding too is the same however many are asked for.
        rows = self._rows(uniform[:, 0], normal)
        if self._windows:
            self._draw_again(rows, start, size, seed)
        for column, value in self._values.items():
            rows[:, 1 + column] = value
        types, counts, *values = rows[:size].T
        features = {name: one.astype(np.float32) for name, one in zip(self._columns[1:], values, strict=True)}
        if self._transform.schema.kind == "jets" and "phi" not in features:
            features["phi"] = _azimuth(uniform[:size, 1])
        return Conditions(counts.astype(np.int64), features, types.astype(np.int64))

    def _rows(self, uniform: Floats, normal: Floats) -> Floats:
        """Draws, shape (n, 2 + K): the type, the number of points, the K features."""
        types = self._types[np.searchsorted(self._cumulative, uniform, side="right")]
        return np.column_stack([types, *self._multiplicity.draw(normal, types, self._given)]).astype(np.float64)

    def _met(self, rows: Floats) -> npt.NDArray[np.bool_]:
        """Which draws are in all windows, shape (n,)."""
        met = np.ones(len(rows), bool)
        for column, (low, high) in self._windows.items():
            # As files hold them: rounding must not carry a value over an end.
            values = rows[:, 1 + column].astype(np.float32).astype(np.float64)
            met &= (low <= values) & (values <= high)
        return met

    def _draw_again(self, rows: Floats, start: int, size: int, seed: int) -> None:
        """Put draws as asked for in the place of those that are not, among the first ``size`` rows of a block."""
        unmet = np.flatnonzero(~self._met(rows[:size]))
        noise = attempt_noise(seed, start, len(self._columns))
        while len(unmet):
            drawn = self._rows(*next(noise))
            good = drawn[self._met(drawn)][: len(unmet)]
            rows[unmet[: len(good)]] = good
            unmet = unmet[len(good) :]


def as_text(asked: Mapping[str, Any]) -> dict[str, str]:
    """What is asked for, as ``pcdiff sample --set`` takes it: plain data for JSON, where numbers may not be infinite.

    Raises:
        DataError: a value is of the wrong kind.

    >>> as_text({"type": ("t", "w"), "pt": (900, float("inf")), "eta": 0.5})
    {'type': 't,w', 'pt': '900:inf', 'eta': '0.5'}
    """
    text = {}
    for name, value in asked.items():
        if name == "type":
            text[name] = ",".join(_names(value))
        else:
            ends = _window(name, value)[: 1 if isinstance(value, Real) else 2]
            text[name] = ":".join(np.format_float_positional(end, trim="-") for end in ends)
    return text


def _names(value: Any) -> list[str]:
    """The types that are asked for."""
    names: Any = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"type = {value!r}: expected a name, or several")
    return list(names)


def _window(name: str, value: Any) -> tuple[float, float]:
    """Both ends of what is asked for, the same for a single value."""
    ends: Any = (value, value) if isinstance(value, Real) else value
    if not isinstance(ends, Sequence) or len(ends) != 2 or not all(isinstance(end, Real) for end in ends):
        raise DataError(f"{name} = {value!r}: expected a number or a window (low, high)")
    return float(ends[0]), float(ends[1])


def _near(value: float, known: Floats) -> tuple[float, float]:
    """The narrow window around a value of a feature with these quantiles."""
    levels = np.linspace(0, 1, len(known))
    level = float(np.interp(value, known, levels))
    score = special.ndtri(level)
    ends = min(level - _LEAST, special.ndtr(score - _NEAR)), max(level + _LEAST, special.ndtr(score + _NEAR))
    low, high = np.interp(ends, levels, known)
    return float(low), float(high)


def _azimuth(uniform: Floats) -> npt.NDArray[np.float32]:
    """The beams are symmetric about their axis. Rounded to float32 the largest value must stay below pi."""
    phi = (2 * np.pi * uniform - np.pi).astype(np.float32)
    return np.clip(phi, -np.float32(3.1415925), np.float32(3.1415925))
