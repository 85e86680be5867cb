"""What large_cases.py reckons from and no other benchmark measures: speeds and sizes of one core, all of them of pcdiff's own code."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch
import uproot
from measuring import conditions

from pcdiff import checkpoint, io, production
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, load_config
from pcdiff.denoising import training_objective
from pcdiff.distributed import ALONE
from pcdiff.executors import dask_workers
from pcdiff.files import sha256
from pcdiff.generator import Generator
from pcdiff.io.jetclass import JETCLASS_TYPES
from pcdiff.loader import Loader, batch_of
from pcdiff.optimisers import build_optimiser
from pcdiff.resources import find, pretrained
from pcdiff.stepping import step
from pcdiff.training_data import TrainingData
from pcdiff.transforms import Encoded

# Seconds of the processor, of all threads of this process: other processes on the machine count less than by the clock.
CLOCK = time.process_time
FORMATS = {"parquet": ".parquet", "root": ".root", "rntuple": ".root", "jetnet": ".hdf5", "flat": ".hdf5"}
# The generator whose net and config are reckoned with on JetClass.
NET = "jets150"
# Jets that formats are timed with.
_TIMED = 20_000


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        jets: of each generator, in bfloat16 (where the processor multiplies in it) and in float32.
        shard: jets of each of the two shards that are merged.
        training: jets that are read as a training does.
        order: jets of which the order of an epoch is drawn.
        tasks: tasks of Dask.
    """

    jets: dict[str, tuple[int, int]]
    shard: int
    training: int
    order: int
    tasks: int


FULL = Extent(
    {"gluon30-fast": (65_536, 32_768), "gluon30": (4096, 2048), "jets150": (768, 512)}, 65_536, 16_000, 1_000_000, 1000
)
QUICK = Extent({"gluon30-fast": (64, 64), "gluon30": (8, 8), "jets150": (8, 8)}, 16_384, 200, 1000, 20)


def seconds(work: Callable[[], object]) -> float:
    """Of the processor."""
    start = CLOCK()
    work()
    return CLOCK() - start


def fastest(work: Callable[[], object]) -> float:
    """Of three times, for what is soon done: other processes disturb the caches."""
    return min(seconds(work) for _ in range(3))


def measure(extent: Extent) -> dict[str, Any]:
    """All numbers, on one thread: plain data."""
    torch.set_num_threads(1)
    at = conditions()
    found: dict[str, Any] = {"conditions": at, "generators": {}, "formats": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for generator, (many, some) in extent.jets.items():
            rates, jets = {}, None
            for precision, count in (("auto", many), ("float32", some)):
                rate, made = sampled(generator, count, precision, folder)
                rates[made.provenance["sampling"]["precision"]] = rate
                jets = made if jets is None else jets
            assert jets is not None
            found["generators"][generator] = {"jets": [many, some], "jets_per_second": rates}
            found["formats"][generator] = formats(jets, folder)
        # Counted before what only this script imports.
        found["files"] = sum(getattr(module, "__file__", None) is not None for module in list(sys.modules.values()))
        found["shards"] = merged(extent.shard, folder)
        found["training"] = training(extent, folder)
    found["dask"] = tasks(extent.tasks)
    return found


def sampled(name: str, count: int, precision: str, folder: Path) -> tuple[float, PointClouds]:
    """Jets a second from the seed to the Parquet file, and the jets."""
    generator = Generator.load(name)
    # The first piece of work makes what all others use.
    generator.sample(1, device="cpu", precision=precision)
    path = folder / f"{name}.parquet"
    took = seconds(lambda: io.write(generator.iterate(count, seed=1, precision=precision, device="cpu"), path))
    return count / took, io.read(path)


def formats(jets: PointClouds, folder: Path) -> dict[str, Any]:
    """Bytes of a jet, what a file has whatever its size taken off, and jets a second in each format."""
    sizes, written, read = {}, {}, {}
    # Repeated, they are enough to time, but would be smaller than as many different ones.
    many = PointClouds.concatenate([jets] * max(1, _TIMED // len(jets)))
    for name, suffix in FORMATS.items():
        path = folder / f"formats{suffix}"
        for some in (jets[:1], jets):
            io.write(some, path, format=name)
            sizes[name] = path.stat().st_size - sizes.get(name, 0)
        sizes[name] /= len(jets) - 1
        written[name] = len(many) / fastest(lambda path=path, name=name: io.write(many, path, format=name))
        read[name] = len(many) / fastest(lambda path=path, name=name: exhaust(io.iterate(path, format=name)))
    return {
        "jets": len(jets),
        "timed": len(many),
        "constituents": jets.num_points / len(jets),
        "bytes": sizes,
        "written": written,
        "read": read,
        "in_memory": jets.nbytes / len(jets),
    }


def merged(shard: int, folder: Path) -> dict[str, Any]:
    """Joining two shards: jets a second, and what looking into one to see whose it is costs."""
    generator, parts = Generator.load("gluon30-fast"), folder / "shards"
    for number in range(2):
        pieces = generator.iterate(2 * shard, seed=1, shard=(number, 2), device="cpu")
        io.write(pieces, parts / f"{number}.parquet")
    looked = fastest(lambda: production._about(parts / "0.parquet"))
    rates = {
        name: 2 * shard / (fastest(lambda name=name: production.merge(parts, folder / f"merged.{name}")) - 2 * looked)
        for name in ("parquet", "root")
    }
    size = (parts / "0.parquet").stat().st_size
    return {
        "jets": 2 * shard,
        "seconds_to_look": looked,
        "jets_per_second": rates,
        "sha256": size / fastest(lambda: sha256(parts / "0.parquet")),
    }


def training(extent: Extent, folder: Path) -> dict[str, Any]:
    """What a training on JetClass asks of each process but for the net: the embedded jets stand in, in the layout of JetClass."""
    path = folder / "jetclass.root"
    constituents = in_the_layout_of_jetclass(path, extent.training)
    config = load_config(pretrained()[NET] / "config.yaml")
    data = config.data.model_copy(update={"train": (str(path),), "validation": (str(path),)})
    config = config.model_copy(update={"data": data})
    read = fastest(lambda: exhaust(io.iterate(path, step_size=1 << 14)))
    start = CLOCK()
    loaded = TrainingData.load(config, folder=folder)
    # The same jets twice, to train and to validate.
    load, n = (CLOCK() - start) / 2, extent.training
    columns = loaded.validation_clouds
    return {
        "jets": n,
        "constituents": constituents,
        "read": n / read,
        "loaded": n / load,
        "columns": columns.nbytes / n,
        "encoded": (loaded.train.points.nbytes + loaded.train.cond.nbytes) / n,
        "fingerprint": columns.nbytes / fastest(columns.fingerprint),
        "order": order(extent.order, config.training.points_per_batch),
        **steps(config, loaded, folder),
    }


def in_the_layout_of_jetclass(path: Path, count: int) -> float:
    """A file of embedded jets with the branches of JetClass that pcdiff reads by default; their mean number of constituents."""
    jets = io.read(find("datasets/jets/gluon30_train.hdf5"))[:count]
    momenta, total = jets.momenta(), ak.sum(jets.momenta(), axis=1)
    names = {"px": "px", "py": "py", "pz": "pz", "energy": "E"}
    branches = {f"part_{name}": ak.values_astype(getattr(momenta, own), np.float32) for name, own in names.items()}
    branches |= {
        f"jet_{name}": np.asarray(getattr(total, own), np.float32)
        for name, own in {"pt": "pt", "eta": "eta", "phi": "phi", "energy": "E"}.items()
    }
    kinds = np.arange(count) % len(JETCLASS_TYPES)
    branches |= {f"label_{name}": kinds == number for number, name in enumerate(JETCLASS_TYPES)}
    with uproot.recreate(path) as file:
        file.mktree("tree", branches)
    return jets.num_points / count


def order(count: int, points: int) -> dict[str, Any]:
    """The order of an epoch: seconds and bytes of memory a jet."""
    sizes = np.random.default_rng(0).integers(20, 60, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    nothing = np.broadcast_to(np.float32(0), (int(offsets[-1]), 1))
    loader = Loader(Encoded(nothing, offsets, np.zeros((count, 0), np.float32)), points, 0)
    took = fastest(lambda: loader.order(1))
    tracemalloc.start()
    loader.order(2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"jets": count, "seconds": took / count, "bytes": peak / count}


def steps(config: Config, data: TrainingData, folder: Path) -> dict[str, Any]:
    """What a step asks of a process beside its share of the net's work, and what a run keeps.

    Each process puts whole batches together and draws their noise, whatever its share; that is in milliseconds a batch.
    """
    settings = Settings(config.net, config.schedule, config.multiplicity, config.sampling, config.denoiser)
    model, objective = build_denoiser(settings, data.transform), training_objective(config, data.transform)
    loader, number = Loader(data.train, config.training.points_per_batch, 0), 8
    rng = torch.Generator().manual_seed(0)
    indices = list(itertools.islice(itertools.cycle(loader.order(0)), number))
    together = fastest(lambda: [batch_of(data.train, index) for index in indices])
    some = [batch_of(data.train, index) for index in indices]
    drawn = fastest(lambda: [objective.draw(model, batch, rng) for batch in some])
    # One step on a few jets, which gives the optimiser its state.
    batch = next(Loader(data.train, 300, 0).epoch(0))
    ema, optimiser = copy.deepcopy(model).requires_grad_(False), build_optimiser(model, config.optim)
    counters = checkpoint.Counters()
    step(model, ema, optimiser, batch, len(batch), objective, config, ALONE, [], counters)
    saved = checkpoint.save(folder / "run", counters, model, ema, optimiser, keep=1)
    return {
        "points": sum(batch.mask.sum().item() for batch in some) / number,
        "together_ms": 1e3 * together / number,
        "drawn_ms": 1e3 * drawn / number,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checkpoint": sum(file.stat().st_size for file in saved.iterdir()),
    }


def tasks(count: int) -> dict[str, Any]:
    """What Dask's scheduler and client take of a processor for tasks that do nothing; the worker is another process."""
    request = production._Request(str(pretrained()["gluon30"]), Generator.load("gluon30").provenance["files"], 1, 1)
    path = Path("/a/folder/that/all/see/00000.parquet")
    sent = len(pickle.dumps((production._shard, request, 0, path)))
    with dask_workers("local:1")(count) as pool:
        pool.submit(abs, -1).result()
        start = CLOCK()
        for future in as_completed([pool.submit(abs, number) for number in range(count)]):
            future.result()
        took = CLOCK() - start
    return {"tasks": count, "seconds": took / count, "bytes": sent}


def exhaust(items: Iterable[object]) -> None:
    """Take all and keep none."""
    for _ in items:
        pass
