"""Work in shards, on several processes or a cluster: the result does not depend on how many, and a rerun goes on where the last one ended."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pcdiff import io
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.executors import Executors, done
from pcdiff.files import read_json, remove_folder, sweep, write_json

__all__ = ["Recipe", "make_in_shards", "make_shards"]


class Recipe(Protocol):
    """What all clouds of a data set follow from; plain data, so that it can be sent to another process."""

    @property
    def count(self) -> int:
        """Number of clouds."""

    @property
    def shards(self) -> int:
        """Number of shards."""

    def size(self, shard: int) -> int:
        """Number of clouds in a shard."""

    def provenance(self) -> dict[str, Any]:
        """The whole recipe as plain data."""


R = TypeVar("R", bound=Recipe)
Clouds = PointClouds | Iterable[PointClouds]


def make_in_shards(
    recipe: R,
    make: Callable[[R, int], PointClouds],
    output: str | os.PathLike[str],
    *,
    what: str,
    suffix: str,
    executors: Executors,
    progress: bool,
    derived: str = "versions",
) -> Path:
    """Make a data set and write it to one file. Finished shards wait in the folder ``OUTPUT.parts`` until all are there.

    Args:
        recipe: of the data set; its provenance is stored with the clouds.
        output: the file to write; the suffix decides the format.
        make, what, suffix, executors, progress, derived: as for :func:`make_shards`.

    Raises:
        DataError: there are shards of other settings in ``OUTPUT.parts``.
        PcdiffError: a worker was killed.
    """
    target = Path(output)
    parts = target.with_name(f"{target.name}.parts")
    sweep(target.parent, glob.escape(parts.name))
    paths = make_shards(
        recipe, make, parts, what=what, suffix=suffix, executors=executors, progress=progress, derived=derived
    )
    provenance = recipe.provenance()

    def whole() -> Iterator[PointClouds]:
        for path in paths:
            clouds = io.read(path)
            clouds.provenance.update(provenance)
            yield clouds

    io.write(whole(), target)
    # At once, for a part of it without its recipe could be taken for the beginning of another data set.
    remove_folder(parts)
    return target


def make_shards(
    recipe: R,
    make: Callable[[R, int], Clouds],
    folder: Path,
    *,
    what: str,
    suffix: str,
    executors: Executors,
    progress: bool,
    derived: str = "versions",
) -> list[Path]:
    """Make the shards that are not in a folder yet, each a file.

    Args:
        recipe: of all shards.
        make: makes the clouds of a shard from the recipe and the number of the shard, possibly piece by piece; a function of a module, which worker
            processes import.
        folder: where they go, with the recipe. Workers of other machines must see it under the same name.
        what: a word for what is made, for people: ``"jets"``.
        suffix: of the files, which decides their format.
        executors: where they are made.
        progress: show a progress bar.
        derived: keys of the provenance that begin so follow from the others, so they are not named in an error.

    Raises:
        DataError: there are shards of another recipe in the folder.
        PcdiffError: a worker was killed, or its files do not appear here.
    """
    folder = folder.absolute()
    _claim(folder, recipe, derived)
    paths = [folder / f"{shard:05d}{suffix}" for shard in range(recipe.shards)]
    missing = [shard for shard, path in enumerate(paths) if not path.exists()]
    kept = recipe.count - sum(map(recipe.size, missing))
    if missing:
        with _bar(what, recipe.count, kept, shown=progress) as advance, executors(len(missing)) as pool:
            parts = [(shard, paths[shard]) for shard in missing]
            done(pool, partial(_make_shard, recipe, make), parts, lambda part: advance(recipe.size(part[0])))
    unseen = [path for path in paths if not path.exists()]
    if unseen:
        raise PcdiffError(
            f"{unseen[0]}: a worker has written it, but it is not here; expected a folder that all workers share, of the same name on each"
        )
    # Of workers that were killed: all shards are whole, so nobody writes any more.
    sweep(folder, f"*{suffix}")
    return paths


def _claim(parts: Path, recipe: Recipe, derived: str) -> None:
    """Start the folder of shards, or check that those in it are of this recipe."""
    wanted = recipe.provenance()
    record = parts / "recipe.json"
    if not record.exists():
        write_json(record, wanted)
        return
    found = read_json(record)
    differing = sorted(key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key))
    # What follows from the plain arguments says less than they do.
    named = [key for key in differing if not key.startswith(derived)] or differing
    if named:
        shown = "; ".join(f"{key} {found.get(key)}, now {wanted.get(key)}" for key in named)
        raise DataError(
            f"{parts}: holds shards made with other settings ({shown}); finish that command or remove the folder"
        )


@contextmanager
def _bar(what: str, total: int, done: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left; gives the function to call with the number of new clouds."""
    columns = (
        TextColumn(f"making {what}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task("", total=total, completed=done, rate="-", left="-")
        start, made = time.monotonic(), 0

        def advance(clouds: int) -> None:
            nonlocal made
            made += clouds
            # Not rich's estimate: shards end several at a time, and the pauses between them are what counts.
            rate = made / (time.monotonic() - start)
            left = timedelta(seconds=round((total - done - made) / rate))
            bar.update(task, advance=clouds, rate=f"{rate:.3g}", left=left)

        yield advance


def _make_shard(recipe: R, make: Callable[[R, int], Clouds], part: tuple[int, Path]) -> None:
    """Make and write the clouds of one shard, which is given by its number and file."""
    shard, path = part
    io.write(make(recipe, shard), path)
