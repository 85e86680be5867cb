"""Where a file name in a config or on the command line points: the user's own files first, then those pcdiff ships."""

from __future__ import annotations

import difflib
import glob
import os
from pathlib import Path

from pcdiff.errors import DataError, suggest

__all__ = ["find", "shipped"]

_FOLDERS = ("configs", "datasets")


def shipped() -> dict[str, Path]:
    """All files that come with pcdiff by name, for example ``datasets/jets/gluon30_test.hdf5``.

    >>> "datasets/jets/README.md" in shipped()
    True
    """
    root = _root()
    files = (path for folder in _FOLDERS for path in sorted((root / folder).rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path for path in files}


def find(name: str | os.PathLike[str], beside: Path | None = None) -> Path:
    """The path of a file, folder or glob that a user named.

    Looked up relative to the working directory, then to ``beside``, then among what pcdiff ships, where the leading
    ``configs/`` or ``datasets/`` may be left out. A glob is returned as a glob, below the first of these places where it
    matches anything.

    Args:
        beside: the folder of the config file that holds the name.

    Raises:
        DataError: it is in none of these places; says which shipped or neighbouring name is nearest.

    >>> find("jets/gluon30_test.hdf5").name
    'gluon30_test.hdf5'
    """
    given = Path(name).expanduser()
    root = _root()
    # Only names that begin with a shipped folder: a checkout's root also holds what its user left there.
    whole = [root] if given.parts[:1] and given.parts[0] in _FOLDERS else []
    places = [Path(), *([beside] if beside is not None else []), *whole, *(root / folder for folder in _FOLDERS)]
    candidates = [given] if given.is_absolute() else [place / given for place in places]
    for candidate in candidates:
        if candidate.exists() or (glob.has_magic(str(given)) and glob.glob(str(candidate), recursive=True)):
            return candidate
    folder = candidates[0].parent
    beside_it = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    # There are many shipped files; they help only someone who meant one of them.
    near = [*(str(given.parent / name) for name in beside_it), *difflib.get_close_matches(str(given), shipped())]
    where = "" if given.is_absolute() else f", nor beside {beside}" if beside is not None else ""
    looked = "" if given.is_absolute() else f" in {Path.cwd()}{where}, nor among what pcdiff ships"
    kind = "file matches this pattern" if glob.has_magic(str(given)) else "such file"
    raise DataError(f"{os.fspath(name)}: no {kind}{looked}; {suggest(str(given), near)}")


def _root() -> Path:
    """The folder that holds ``configs`` and ``datasets``: in the wheel, or in a checkout of the source."""
    package = Path(__file__).parent
    checkout = package.parent
    # A folder "datasets" beside an installed pcdiff would be another package's.
    return checkout if (checkout / "pyproject.toml").is_file() else package / "_resources"
