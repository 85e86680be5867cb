"""Where work that comes in independent parts is done: processes of this machine, or a Dask cluster.

What Dask sends between its processes is pickled, so whoever reaches a scheduler may run code on its workers. That is Dask's own wire, which is trusted
here; no file is ever unpickled.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pcdiff.allocator import keep_freed_memory
from pcdiff.errors import DataError, PcdiffError, one_line, optional

__all__ = ["Executors", "chosen_executors", "dask_workers", "done", "processes", "start_worker"]

P = TypeVar("P")
R = TypeVar("R")

Executors = Callable[[int], AbstractContextManager[Executor]]
"""Called with the number of parts that there are to do; gives what does them."""

# Seconds to reach a scheduler, and failures of a part on workers that live on until it is given up.
_PATIENCE, _RETRIES = 30, 2
_QUEUES = {"slurm": "SLURMCluster", "htcondor": "HTCondorCluster"}


def chosen_executors(workers: int | None, dask: str | None) -> Executors:
    """Processes of this machine, or workers of Dask; arguments as for :func:`processes` and :func:`dask_workers`.

    Raises:
        DataError: both are given.
    """
    if dask is None:
        return processes(workers)
    if workers is not None:
        raise DataError("workers are processes of this machine, dask names a cluster; expected one of them")
    return dask_workers(dask)


def processes(workers: int | None) -> Executors:
    """Processes of this machine.

    Args:
        workers: their number; by default one for each CPU core.

    Raises:
        DataError: ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers is {workers}; expected at least 1")

    @contextmanager
    def opened(parts: int) -> Iterator[Executor]:
        count = max(1, min(workers or os.cpu_count() or 1, parts))
        # Spawned, because a fork would copy the threads' locks of whatever the caller has loaded.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(count, mp_context=context, initializer=start_worker) as pool:
                yield pool
        except BrokenProcessPool as error:
            raise PcdiffError(
                "a worker process ended early (no memory, killed, or called from a script without "
                "`if __name__ == '__main__':`); the same command goes on from the finished shards, where it makes any"
            ) from error

    return opened


def dask_workers(where: str) -> Executors:
    """Workers of Dask, which start anew what a worker that died had begun.

    Args:
        where: the address of a scheduler (``tcp://node:8786``), its file (``scheduler.json``), or what is started for this work alone: ``local:4``, four
            processes here; ``slurm:20`` or ``htcondor:20``, so many jobs as the configuration of dask-jobqueue has them.

    Raises:
        DataError: ``where`` is none of these.
        PcdiffError: Dask is not installed.
    """
    kind, _, number = where.partition(":")
    started = kind in ("local", *_QUEUES)
    if started and (not number.isdecimal() or int(number) < 1):
        raise DataError(f"Dask cluster {where!r}: expected a number of workers, such as {kind}:4")
    if not started and "://" not in where and not where.endswith(".json"):
        raise DataError(
            f"Dask cluster {where!r}: expected the address of a scheduler (tcp://HOST:PORT), its file (*.json), local:N, slurm:N or htcondor:N"
        )
    distributed = optional("distributed", "dask")

    @contextmanager
    def opened(parts: int) -> Iterator[Executor]:  # noqa: ARG001
        cluster = _started(where, kind, int(number)) if started else None
        try:
            with (
                _client(distributed, cluster or where) as client,
                client.get_executor(pure=False, retries=_RETRIES) as pool,
            ):
                yield pool
        except distributed.KilledWorker as error:
            raise PcdiffError(
                f"{where}: several workers died over one part ({error}); the same command goes on from the finished shards, where it makes any"
            ) from error
        except CancelledError as error:
            raise PcdiffError(
                f"{where}: the scheduler is gone, or was told to drop the work; the same command goes on from the finished shards, where it makes any"
            ) from error
        finally:
            if cluster is not None:
                cluster.close()

    return opened


def done(
    pool: Executor, function: Callable[[P], R], parts: Sequence[P], finished: Callable[[P], None] = lambda _: None
) -> list[R]:
    """What a function makes of each part, in their order; when one fails, or at Ctrl-C, those not begun are dropped.

    Args:
        finished: called here with each part as soon as it is done.
    """
    futures = {pool.submit(function, part): part for part in parts}
    try:
        for future in as_completed(futures):
            future.result()
            finished(futures[future])
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _started(where: str, kind: str, workers: int) -> Any:
    """A cluster of this work alone.

    Raises:
        PcdiffError: the configuration of dask-jobqueue does not do.
    """
    if kind == "local":
        # One thread each: what runs in a worker has its own idea of how many cores to use.
        return optional("distributed", "dask").LocalCluster(workers, threads_per_worker=1, dashboard_address=None)
    try:
        cluster = getattr(optional("dask_jobqueue", "dask"), _QUEUES[kind])()
    except (ValueError, TypeError, RuntimeError) as error:
        raise PcdiffError(
            f"{where}: dask-jobqueue takes cores, memory and all else of a job from `jobqueue: {kind}:` in ~/.config/dask/jobqueue.yaml, "
            f"and says: {one_line(error, 300)}"
        ) from error
    cluster.scale(jobs=workers)
    return cluster


def _client(distributed: Any, where: Any) -> Any:
    """A client of a cluster, an address or a file.

    Raises:
        PcdiffError: nobody answers.
    """
    file = isinstance(where, str) and where.endswith(".json")
    if file and not Path(where).is_file():
        raise PcdiffError(f"{where}: no such file; start a scheduler with: dask scheduler --scheduler-file {where}")
    try:
        return distributed.Client(**{"scheduler_file" if file else "address": where}, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise PcdiffError(f"{where}: no Dask scheduler answers ({error})") from error


def start_worker() -> None:
    """What a process of a pool does first: it says nothing at Ctrl-C, ends when its parent has ended, and keeps the memory that it frees."""
    # At Ctrl-C the parent says what there is to say; the default action ends a worker without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    keep_freed_memory()
    # Of a parent that was killed a worker hears nothing: it would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
