"""Long data sets made in shards by several processes: the result does not depend on how many, and a rerun goes on where the last one ended."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pcdiff import io
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.files import read_json, write_json

__all__ = ["make_in_shards"]


class _Recipe(Protocol):
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
        """The whole recipe as plain data: what is stored with the clouds."""


R = TypeVar("R", bound=_Recipe)


def make_in_shards(
    recipe: R,
    make: Callable[[R, int], PointClouds],
    output: str | os.PathLike[str],
    *,
    what: str,
    suffix: str,
    workers: int | None,
    progress: bool,
    derived: str = "versions",
) -> Path:
    """Make a data set and write it to one file. Finished shards wait in the folder ``OUTPUT.parts`` until all are there.

    Args:
        recipe: of the data set.
        make: makes the clouds of a shard from the recipe and the number of the shard; a function of a module, which worker
            processes import.
        output: the file to write; the suffix decides the format.
        what: a word for what is made, for people: ``"jets"``.
        suffix: of the files that hold shards.
        workers: number of processes; by default one for each CPU core.
        progress: show a progress bar.
        derived: keys of the provenance that begin so follow from the others, so they are not named in an error.

    Raises:
        DataError: ``workers`` is below 1, or there are shards of other settings in ``OUTPUT.parts``.
        PcdiffError: a worker process was killed.
    """
    if workers is not None and workers < 1:
        raise DataError(f"make {what}: workers is {workers}; expected at least 1")
    target = Path(output)
    parts = target.with_name(f"{target.name}.parts")
    _claim(parts, recipe, derived)
    paths = [parts / f"{shard:05d}{suffix}" for shard in range(recipe.shards)]
    missing = [shard for shard, path in enumerate(paths) if not path.exists()]
    done = recipe.count - sum(map(recipe.size, missing))
    # Spawned, because a fork would copy the threads' locks of whatever the caller has loaded.
    context = multiprocessing.get_context("spawn")
    count = max(1, min(workers or os.cpu_count() or 1, len(missing)))
    with (
        _bar(what, recipe.count, done, shown=progress) as advance,
        ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker) as pool,
    ):
        futures = {pool.submit(_make_shard, recipe, make, shard, paths[shard]): shard for shard in missing}
        try:
            for future in as_completed(futures):
                future.result()
                advance(recipe.size(futures[future]))
        except BrokenProcessPool as error:
            raise PcdiffError(
                f"make {what}: a worker process ended early (no memory, killed, or called from a script without "
                "`if __name__ == '__main__':`); the same command goes on from the finished shards"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    io.write((io.read(path) for path in paths), target)
    shutil.rmtree(parts)
    return target


def _claim(parts: Path, recipe: _Recipe, derived: str) -> None:
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


def _start_worker() -> None:
    # At Ctrl-C the parent says what there is to say; the default action ends a worker without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _make_shard(recipe: R, make: Callable[[R, int], PointClouds], shard: int, path: Path) -> None:
    """Make and write the clouds of one shard."""
    clouds = make(recipe, shard)
    clouds.provenance.update(recipe.provenance())
    io.write(clouds, path)
