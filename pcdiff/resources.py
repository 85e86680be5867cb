"""Where a name in a config or on the command line points: the user's own files first, then those that come with pcdiff.

Files are configs and data sets; generators lie in ``pcdiff/pretrained``, a folder each (:func:`find_generator`).
"""

from __future__ import annotations

import difflib
import glob
import os
from pathlib import Path

from pcdiff.errors import DataError, ModelError, suggest

__all__ = [
    "DESCRIPTION",
    "PRETRAINED",
    "find",
    "find_generator",
    "named_folder",
    "pretrained",
    "require_own",
    "shipped",
]

DESCRIPTION = "generator.json"
"""The file that makes a folder a generator."""

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where the generators that come with pcdiff lie, a folder each."""

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
    try:
        for candidate in candidates:
            if candidate.exists() or (glob.has_magic(str(given)) and glob.glob(str(candidate), recursive=True)):
                return candidate
    except OSError as error:
        raise DataError(f"{os.fspath(name):.200}: cannot be looked up ({error.strerror})") from error
    if str(given) in pretrained():
        raise DataError(
            f"{given}: is a generator, expected a file; make one: pcdiff sample {given} -n 10000 -o {given}.root"
        )
    folder = candidates[0].parent
    beside_it = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    # There are many shipped files; they help only someone who meant one of them.
    near = [*(str(given.parent / name) for name in beside_it), *difflib.get_close_matches(str(given), shipped())]
    where = "" if given.is_absolute() else f", nor beside {beside}" if beside is not None else ""
    looked = "" if given.is_absolute() else f" in {Path.cwd()}{where}, nor among what pcdiff ships"
    kind = "file matches this pattern" if glob.has_magic(str(given)) else "such file"
    raise DataError(f"{os.fspath(name)}: no {kind}{looked}; {suggest(str(given), near)}")


def pretrained() -> dict[str, Path]:
    """The folders of the generators that come with pcdiff, by name.

    Each holds, beside what :meth:`pcdiff.Generator.load` reads, a card ``README.md``, the ``config.yaml`` that it was trained
    with, and the ``training_log.csv`` of its losses.
    """
    # A folder that a kill left half-written has a name that begins with a dot.
    return {file.parent.name: file.parent for file in sorted(PRETRAINED.glob(f"[!.]*/{DESCRIPTION}"))}


def named_folder(name: str | os.PathLike[str]) -> Path:
    """What the name of a run or a generator stands for: a path that exists wins, then a generator that comes with pcdiff."""
    given = Path(name)
    return given if given.exists() else pretrained().get(str(given), given)


def find_generator(name: str | os.PathLike[str]) -> Path:
    """The folder of the generator that a user named.

    A path that exists wins: a generator's folder, or a run folder that holds it as ``generator/``. Else it is the name of one that
    comes with pcdiff. A path that exists and holds no generator is refused, even where one of its name comes with pcdiff: it
    may be a run that is not as far yet, and nobody should take the jets of another generator for its own.

    Raises:
        ModelError: it is none of these; says which name is nearest.
    """
    given = named_folder(name)
    for folder in (given / "generator", given):
        if (folder / DESCRIPTION).is_file():
            return folder
    known = pretrained()
    if given.exists():
        found = f"there is no {DESCRIPTION} in it"
        if given.name in known:
            found += f"; the generator {given.name} that comes with pcdiff is {known[given.name]}"
    else:
        found = f"there is no such folder, nor does one of this name come with pcdiff; {suggest(str(given), known)}"
    raise ModelError(f"{name}: not a generator or a finished run: {found}")


def require_own(folder: Path) -> None:
    """Refuse to change a generator that comes with pcdiff.

    Raises:
        ModelError: it does.
    """
    if folder.resolve() in {path.resolve() for path in pretrained().values()}:
        raise ModelError(f"{folder.name}: comes with pcdiff and stays as it is; copy {folder} and change the copy")


def _root() -> Path:
    """The folder that holds ``configs`` and ``datasets``: in the wheel, or in a checkout of the source."""
    package = Path(__file__).parent
    checkout = package.parent
    # A folder "datasets" beside an installed pcdiff would be another package's.
    return checkout if (checkout / "pyproject.toml").is_file() else package / "_resources"
