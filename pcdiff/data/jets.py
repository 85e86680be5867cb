"""Data sets of jets made with Pythia 8 and FastJet, whose gluon jets come close to those of JetNet.

A data set is made in shards of 2,000 jets (see :mod:`pcdiff.data.pythia` for the physics). The random numbers of a shard follow
from the seed, the process and the number of the shard alone, so that the result does not depend on how many worker processes
there are, and a rerun goes on where the last one ended.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pcdiff import io
from pcdiff.clouds import PointClouds
from pcdiff.data.pythia import Recipe, selected_jets
from pcdiff.errors import DataError, PcdiffError, optional
from pcdiff.files import read_json, write_json

__all__ = ["make_jets"]

_SHARD = 2_000


def make_jets(
    output: str | os.PathLike[str],
    *,
    process: str = "g",
    count: int,
    seed: int = 0,
    radius: float = 0.4,
    pt: tuple[float, float] = (800.0, 1600.0),
    eta: float = 2.0,
    constituents: int | None = 30,
    significant_bits: int | None = None,
    max_ctau: float | None = Recipe.max_ctau,
    labels: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make jets with Pythia 8 and write them to one file; needs the extra ``pythia``.

    Point columns: etarel, phirel (rad), ptrel relative to the jet of *all* constituents, by falling ptrel. Cloud columns: pt and
    mass (GeV), eta and num_constituents of all constituents, and type. The same arguments give the same file, bit for bit, with
    any number of workers. Finished shards wait in the folder ``OUTPUT.parts`` until all are there: after an
    interruption the same call goes on from them.

    Args:
        output: the file to write; the suffix decides the format (JetNet HDF5 for ``.hdf5``).
        process: what starts the jets, ``g``, ``q``, ``t``, ``w`` or ``z``; see :data:`pcdiff.data.pythia.PROCESSES`. Except for gluons, a jet is
            kept only if such a parton or boson lies within delta R < ``radius`` of its axis.
        count: number of jets.
        seed: other seeds give independent jets.
        radius: R of anti-kT.
        pt: window of the jet's transverse momentum in GeV. Hard collisions are made with a pT in the middle eighth of it.
        eta: largest absolute pseudorapidity of a jet.
        constituents: how many leading constituents are kept; None keeps all.
        significant_bits: round etarel, phirel and ptrel to so many binary digits (14: to 6e-5 of the value), which makes
            compressed files smaller; None keeps all 24 of float32.
        max_ctau: particles whose mean c tau is longer, in mm, do not decay. At 10, where the LHC experiments draw the line, K-short
            and hyperons stay whole. With None all decay that Pythia lets decay, whose own limit is 1 m.
        labels: store with each constituent its ``charge`` in units of e and its ``particle_class``: electrons, muons and photons by
            their PDG number, all other particles as charged or neutral hadrons. The jets are the same with and without.
        workers: number of processes; by default one for each CPU core.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        DataError: a bad argument, cuts that no jet passes, or shards of other settings in ``OUTPUT.parts``.
        PcdiffError: Pythia or FastJet is not installed, or a worker process was killed.
    """
    recipe = Recipe(
        process=process,
        count=count,
        seed=seed,
        radius=radius,
        pt=(float(pt[0]), float(pt[1])),
        eta=eta,
        constituents=constituents,
        significant_bits=significant_bits,
        shard_size=_SHARD,
        max_ctau=max_ctau,
        labels=labels,
    )
    if workers is not None and workers < 1:
        raise DataError(f"make jets: workers is {workers}; expected at least 1")
    for module in ("pythia8mc", "fastjet"):
        optional(module, "pythia")
    target = Path(output)
    parts = target.with_name(f"{target.name}.parts")
    _claim(parts, recipe)
    paths = [parts / f"{shard:05d}.hdf5" for shard in range(recipe.shards)]
    _make_shards(recipe, paths, workers or os.cpu_count() or 1, shown=progress)
    io.write((io.read(path) for path in paths), target)
    shutil.rmtree(parts)
    return target


def _claim(parts: Path, recipe: Recipe) -> None:
    """Start the folder of shards, or check that those in it are of this recipe."""
    wanted = recipe.provenance()
    record = parts / "recipe.json"
    if not record.exists():
        write_json(record, wanted)
        return
    stored = read_json(record)
    found = stored if isinstance(stored, dict) else {}
    differing = sorted(key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key))
    # Settings and seeds follow from the plain arguments, which say more.
    named = [key for key in differing if not key.startswith("pythia_")] or differing
    if named:
        shown = "; ".join(f"{key} {found.get(key)}, now {wanted.get(key)}" for key in named)
        raise DataError(
            f"{parts}: holds shards made with other settings ({shown}); finish that command or remove the folder"
        )


def _make_shards(recipe: Recipe, paths: list[Path], workers: int, *, shown: bool) -> None:
    missing = [shard for shard, path in enumerate(paths) if not path.exists()]
    done = recipe.count - sum(map(recipe.size, missing))
    # Spawned, because a fork would copy the threads' locks of whatever the caller has loaded.
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(missing)))
    with (
        _bar(recipe, done, shown=shown) as advance,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool,
    ):
        futures = {pool.submit(_make_shard, recipe, shard, paths[shard]): shard for shard in missing}
        try:
            for future in as_completed(futures):
                future.result()
                advance(recipe.size(futures[future]))
        except BrokenProcessPool as error:
            raise PcdiffError(
                "make jets: a worker process ended early (no memory, killed, or called from a script without "
                "`if __name__ == '__main__':`); the same command goes on from the finished shards"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _bar(recipe: Recipe, done: int, *, shown: bool) -> Iterator[Any]:
    """A progress bar with rate and time left; gives the function to call with the number of new jets."""
    columns = (
        TextColumn("making {task.fields[process]} jets"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} jets/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task("", total=recipe.count, completed=done, process=recipe.process, rate="-", left="-")
        start, made = time.monotonic(), 0

        def advance(jets: int) -> None:
            nonlocal made
            made += jets
            # Not rich's estimate: shards end several at a time, and the pauses between them are what counts.
            rate = made / (time.monotonic() - start)
            left = timedelta(seconds=round((recipe.count - done - made) / rate))
            bar.update(task, advance=jets, rate=f"{rate:.0f}", left=left)

        yield advance


def _start_worker() -> None:
    # At Ctrl-C the parent says what there is to say; the default action ends a worker without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fastjet = optional("fastjet", "pythia")
    fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)


def _make_shard(recipe: Recipe, shard: int, path: Path) -> None:
    """Make and write the jets of one shard."""
    size = recipe.size(shard)
    pieces: list[PointClouds] = []
    found = 0
    for piece in selected_jets(recipe, recipe.pythia_seed(shard)):
        pieces.append(piece)
        found += len(piece)
        if found >= size:
            break
    jets = PointClouds.concatenate(pieces)[:size]
    jets.provenance.update(recipe.provenance())
    io.write(jets, path)
