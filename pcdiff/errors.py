"""Errors that a user can act on: one line that names the place, what was found and what was expected."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = ["ConfigError", "DataError", "ModelError", "PcdiffError", "one_line", "optional", "suggest"]


class PcdiffError(Exception):
    """Base of all errors about the user's input; the command line prints its one line and exits with code 2."""


class DataError(PcdiffError, ValueError):
    """A data file, or the values in it, are not what they should be."""


class ConfigError(PcdiffError, ValueError):
    """A configuration file or an override has an unknown key or a bad value."""


class ModelError(PcdiffError, ValueError):
    """A stored generator or checkpoint cannot be used."""


def suggest(name: str, options: Iterable[str]) -> str:
    """The end of an error message: the nearest of ``options``, or all of them when none is near.

    >>> suggest("Jet_ptt", ["Jet_pt", "Jet_eta"])
    "did you mean 'Jet_pt'?"
    """
    options = sorted({str(option) for option in options})
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if not options:
        return "there are none to choose from"
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return f"there are: {shown}"


def one_line(error: BaseException, most: int | None = None) -> str:
    """The text of an error of another library on one line, cut after so many characters; the name of its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def optional(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of pcdiff brings it.

    Raises:
        PcdiffError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PcdiffError(
            f"this needs the package {module!r}, which is not installed: pip install 'pcdiff[{extra}]'"
        ) from error
