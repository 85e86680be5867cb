"""A check that columns of standard names have the units that observables are in."""

from __future__ import annotations

from pcdiff.errors import DataError
from pcdiff.schema import Schema

__all__ = ["require_standard_units"]


def require_standard_units(found: Schema, standard: Schema, where: str) -> None:
    """Refuse columns in another unit than the standard one of their name.

    Args:
        standard: the same columns with their standard units; one without a unit may have any.
        where: what the error message starts with.

    Raises:
        DataError: names the column, its unit and the expected one.
    """
    for level, have, want in (("point", found.points, standard.points), ("cloud", found.clouds, standard.clouds)):
        for column, expected in zip(have, want, strict=True):
            if expected.unit and column.unit != expected.unit:
                raise DataError(
                    f"{where}: {level} feature {column.name!r} is in {column.unit or 'no unit'!r}, "
                    f"expected {expected.unit!r}"
                )
