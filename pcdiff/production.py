"""Large samples: made in shards, by batch jobs or on a cluster, and put together.

A shard is some whole windows of clouds (:meth:`pcdiff.generator.Generator.iterate`). The noise of a cloud depends on its number and the seed alone, so shards do not know
of each other, may be made in any order and more than once, and joined are what one process makes, bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from pcdiff import io
from pcdiff.clouds import PointClouds
from pcdiff.conditions import as_text
from pcdiff.errors import DataError, ModelError
from pcdiff.executors import Executors
from pcdiff.files import expand
from pcdiff.generator import WINDOW, Generator, shard_range
from pcdiff.resources import find_generator
from pcdiff.shards import make_shards

__all__ = ["merge", "sample_in_shards"]

# Windows of a shard, where nothing else is said.
_WINDOWS = 8


@dataclass(frozen=True)
class _Request:
    """A sample; the recipe of its shards.

    Attributes:
        generator: folder.
        files: checksums of its files, so that all workers have the same.
        count: number of clouds.
        shards: number of shards.
        settings: further arguments of :meth:`Generator.iterate`.
    """

    generator: str
    files: Mapping[str, str]
    count: int
    shards: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def size(self, shard: int) -> int:
        """Number of clouds in a shard."""
        first, stop = shard_range(self.count, (shard, self.shards))
        return stop - first

    def provenance(self) -> dict[str, Any]:
        """What is asked for, whatever the generator's folder is called."""
        settings = dict(self.settings)
        if settings.get("conditions"):
            settings["conditions"] = as_text(settings["conditions"])
        return {"files": dict(self.files), "count": self.count, "shards": self.shards, **settings}


def sample_in_shards(
    generator: str | os.PathLike[str],
    n: int,
    folder: str | os.PathLike[str],
    *,
    executors: Executors,
    shards: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[Path]:
    """Sample a generator into a folder of shards, Parquet files; those that are there already are kept.

    Args:
        generator: name, run or folder of a generator, which all workers must find under the same path.
        n: number of clouds.
        folder: of the shards, which all workers share.
        executors: where they are made (:mod:`pcdiff.executors`).
        shards: their number; by default one for each 131,072 clouds.
        progress: show a progress bar.
        settings: plain further arguments of :meth:`Generator.iterate`.

    Returns:
        The files, in order.

    Raises:
        DataError: bad settings, or shards of another sample in the folder.
        PcdiffError: workers died, or have another generator.
    """
    path = find_generator(generator)
    loaded = Generator.load(path)
    count = math.ceil(n / (_WINDOWS * WINDOW)) if shards is None else shards
    request = _Request(str(path.absolute()), loaded.provenance["files"], n, count, settings)
    # What is wrong with the request is said here, not by each worker.
    shard_range(n, (0, count))
    next(loaded.iterate(1, **settings))
    return make_shards(
        request, _shard, Path(folder), what="clouds", suffix=".parquet", executors=executors, progress=progress
    )


# A generator's sampler sets how many threads torch uses in the whole process: one shard at a time.
_busy = Lock()


def _shard(request: _Request, number: int) -> Iterator[PointClouds]:
    """The clouds of a shard."""
    with _busy:
        generator = _loaded(request.generator)
        if dict(generator.provenance["files"]) != dict(request.files):
            raise ModelError(
                f"{request.generator}: is another generator on this worker than where the sample was asked for"
            )
        yield from generator.iterate(request.count, shard=(number, request.shards), **request.settings)


@lru_cache(maxsize=1)
def _loaded(path: str) -> Generator:
    return Generator.load(path)


def merge(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    **options: Any,
) -> Path:
    """Join the shards of one sample to one file, in constant memory.

    Args:
        paths: a folder of shards, files or globs, in any order.
        output: the file to write.
        options: of :func:`pcdiff.io.write`.

    Raises:
        DataError: a file is no shard, is of another sample, or one is missing or there twice.
    """
    files = _files(paths)
    numbers: dict[int, Path] = {}
    whole: dict[str, Any] | None = None
    count = 0
    for file in files:
        about = _about(file)
        shard = about.pop("shard")
        if whole is None:
            whole, count = about, shard["of"]
        elif about != whole or shard["of"] != count:
            raise DataError(f"{file}: is a shard of another sample than {files[0]}")
        if shard["number"] in numbers:
            raise DataError(f"{file}: is shard {shard['number']}/{count}, as {numbers[shard['number']]} is")
        numbers[shard["number"]] = file
    missing = [f"{number}/{count}" for number in range(count) if number not in numbers]
    if missing:
        raise DataError(f"{files[0].parent}: {len(missing)} of {count} shards are missing, the first is {missing[0]}")

    def joined() -> Iterator[PointClouds]:
        for number in range(count):
            # In the pieces that one process writes, so that formats without a date give the same file.
            for clouds in io.iterate(numbers[number], step_size=WINDOW):
                del clouds.provenance["shard"]
                yield clouds

    return io.write(joined(), output, **options)


def _files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files of shards; of a folder, all but its recipe and what a worker that was killed left half-written."""
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: list[Path] = []
    for path in paths:
        folder = Path(path)
        if folder.is_dir():
            inside = sorted(
                file
                for file in folder.iterdir()
                if file.is_file() and file.suffix != ".json" and not file.name.startswith(".")
            )
            if not inside:
                raise DataError(f"{folder}: there are no shards in it")
            found += inside
        else:
            found += expand([path])
    return found


def _about(file: Path) -> dict[str, Any]:
    """The provenance of a shard.

    Raises:
        DataError: it is none.
    """
    first = next(io.iterate(file, step_size=1), None)
    about = {} if first is None else dict(first.provenance)
    shard = about.get("shard")
    if not isinstance(shard, dict) or not {"number", "of"} <= shard.keys():
        raise DataError(
            f"{file}: says nothing of a shard; expected a file of `pcdiff sample` with --shard or --dask (other files join with `pcdiff convert`)"
        )
    return about
