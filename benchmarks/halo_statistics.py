"""What the benchmarks of halos share: means with errors from box to box, how far two of them are apart, and the numbers of a box."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.data.halos import FIDUCIAL as UNIVERSE
from pcdiff.errors import DataError
from pcdiff.physics import observables, profiles
from pcdiff.physics.halos import expected_pairs, log10_mass, two_point_correlation, velocity_dispersion
from pcdiff.physics.halos.pairs import SEPARATION_EDGES

Floats = npt.NDArray[np.float64]

FIDUCIAL = asdict(UNIVERSE)
PARAMETERS = ("omega_m", "sigma_8")
SYMBOLS = {"omega_m": r"$\Omega_m$", "sigma_8": r"$\sigma_8$"}
# Numbers of a box: of halos above these log10 masses, and xi between these of the edges of separation.
MASSES = (13.6, 14.0, 14.4)
_WIDE = (5, 8, 11, 14)


@dataclass(frozen=True)
class Estimate:
    """A mean over n boxes in b bins: the sum of contents over that of totals.

    Attributes:
        value: shape (b,).
        influence: n times how far each box moves it, shape (n, b): the residuals of a ratio estimator (Cochran, "Sampling Techniques",
            1977, chapter 6).
    """

    value: Floats
    influence: Floats

    @classmethod
    def of(cls, contents: Floats, totals: Floats | None = None) -> Estimate:
        """From what each box has in each bin, shape (n, b) each; a plain mean without totals."""
        of = np.ones_like(contents) if totals is None else totals
        value = contents.sum(axis=0) / of.sum(axis=0)
        return cls(value, (contents - value * of) / of.mean(axis=0))

    @classmethod
    def of_profile(cls, name: str, clouds: PointClouds, bins: Any = slice(None)) -> Estimate:
        """A profile of halos, or the mean of an observable that each box has once."""
        if name in observables("halos"):
            return cls.of(observables("halos")[name].function(clouds)[:, None])
        profile = profiles("halos")[name]
        totals = None if profile.totals is None else profile.totals(clouds)[:, bins]
        return cls.of(profile.function(clouds).toarray()[:, bins], totals)

    @property
    def covariance(self) -> Floats:
        """Shape (b, b)."""
        n = len(self.influence)
        return self.influence.T @ self.influence / (n * (n - 1))

    @property
    def error(self) -> Floats:
        """Standard error, shape (b,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def told(self) -> npt.NDArray[np.bool_]:
        """The bins, shape (b,), in which at least half of the boxes, or 25, differ from the mean: those whose error is known."""
        return (np.abs(self.influence) > 1e-12).sum(axis=0) >= min(25, len(self.influence) / 2)

    def minus(self, other: Estimate) -> Estimate:
        """The difference to another mean over the same boxes, whose fluctuations it has in common."""
        return Estimate(self.value - other.value, self.influence - other.influence)


def over(one: Estimate, other: Estimate) -> tuple[Floats, Floats]:
    """The ratio of two independent means and its error, shape (b,)."""
    ratio = one.value / other.value
    return ratio, np.abs(ratio) * np.hypot(one.error / one.value, other.error / other.value)


def pulls(one: Estimate, other: Estimate) -> Floats:
    """Differences of two independent means in units of their error; not a number where there is no error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((one.value - other.value) / np.hypot(one.error, other.error))


def chi_squared(one: Estimate, other: Estimate) -> dict[str, float]:
    """chi^2 per bin of two independent means: with the covariance of both together, and with its diagonal alone.

    The inverse of an estimated covariance is too large by nu / (nu - b - 1), which is divided out (Hartlap et al., "Why your model parameter
    confidences might be too optimistic", arXiv astro-ph/0608064, for nu = n - 1). Both sets together have nu = n_1 + n_2 - 2 degrees of freedom if they
    fluctuate alike.
    """
    apart = one.value - other.value
    bins, nu = len(apart), len(one.influence) + len(other.influence) - 2
    return _chi_squared(apart, one.covariance + other.covariance, nu, bins)


def chi_squared_of(difference: Estimate) -> dict[str, float]:
    """The same of the difference of two means over the same boxes."""
    return _chi_squared(difference.value, difference.covariance, len(difference.influence) - 1, len(difference.value))


def _chi_squared(apart: Floats, covariance: Floats, nu: int, bins: int) -> dict[str, float]:
    if nu <= bins + 1:
        raise DataError(f"chi^2 of {bins} bins from {nu} degrees of freedom; expected more than {bins + 1}: more boxes")
    full = (nu - bins - 1) / nu * apart @ np.linalg.solve(covariance, apart)
    return {"full": float(full / bins), "diagonal": float(np.mean(apart**2 / np.diag(covariance))), "bins": bins}


def within(edges: Floats, low: float, high: float) -> npt.NDArray[np.int64]:
    """The bins whose middle in the logarithm lies between two values."""
    middle = np.sqrt(edges[:-1] * edges[1:])
    return np.flatnonzero((middle >= low) & (middle <= high))


def numbers(clouds: PointClouds) -> dict[str, tuple[Floats, Floats]]:
    """What a box is told by in a few numbers: the contents and totals of each, shape (n,).

    The number of halos, that above some masses, the two-point correlation in three wide bins, the velocity dispersion.
    """
    one = np.ones(len(clouds))
    owners, mass = clouds.owners, log10_mass(clouds)
    found = {"number of halos": (clouds.counts.astype(float), one)}
    for least in MASSES:
        found[f"number above 10^{least}"] = np.bincount(owners[mass > least], minlength=len(clouds)).astype(float), one
    pairs = two_point_correlation(clouds).toarray(), expected_pairs(clouds)
    for first, last in pairwise(_WIDE):
        low, high = SEPARATION_EDGES[[first, last]]
        contents, totals = (each[:, first:last].sum(axis=1) for each in pairs)
        found[f"ξ, {low:.1f} to {high:.1f} Mpc/h"] = contents, totals
    return found | {"velocity dispersion": (velocity_dispersion(clouds), one)}


def boxes(file: Path, first: int, count: int) -> PointClouds:
    """Boxes of a file of ``make halos-data``.

    Raises:
        DataError: the file is not there or has too few.
    """
    found = pcdiff.read(file)
    if len(found) < first + count:
        raise DataError(f"{file}: has {len(found):,} boxes, expected at least {first + count:,}")
    return found[first : first + count]


def pm(value: float, error: float, digits: int = 3) -> str:
    """A value and its error."""
    return f"{value:.{digits}f} ± {error:.{digits}f}"
