"""The files that the fuzzer breaks, as small as their formats allow, and what reads them."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import PcdiffError
from pcdiff.resources import find
from pcdiff.schema import halo_schema, jet_schema

__all__ = ["TARGETS", "Base", "Files", "Target"]

Files = dict[str, bytes]


def _as_they_are(files: Files) -> Files:
    return files


@dataclass(frozen=True)
class Base:
    """Files to break, together what one reader reads.

    Attributes:
        files: content by name.
        read: ``read(folder)`` reads them as pcdiff does; what it returns says what was read.
        exact: whether a checksum holds the content, so that whatever is read must be what was written.
        changed: the names of the files that are broken; by default all.
        text: whether they are text.
        seal: makes the files of what was broken: checksums over it and archives around it, so that they do not hide what is behind.
    """

    files: Files
    read: Callable[[Path], object]
    exact: bool = False
    changed: tuple[str, ...] = ()
    text: bool = False
    seal: Callable[[Files], Files] = field(default=_as_they_are)


@dataclass(frozen=True)
class Target:
    """A row of the table."""

    name: str
    bases: Callable[[], list[Base]]


def _jets(size: int = 8) -> PointClouds:
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 6, size)
    total = int(counts.sum())
    points = {
        "etarel": rng.normal(0, 0.1, total).astype(np.float32),
        "phirel": rng.normal(0, 0.1, total).astype(np.float32),
        "ptrel": rng.uniform(0.001, 0.2, total).astype(np.float32),
        "charge": rng.integers(-1, 2, total).astype(np.int8),
    }
    features = {
        "pt": rng.uniform(800, 1200, size).astype(np.float32),
        "eta": rng.normal(size=size),
        "mass": rng.uniform(10, 200, size).astype(np.float32),
        "type": rng.integers(0, 5, size).astype(np.int32),
    }
    schema = jet_schema(tuple(points), tuple(features), axis="all")
    return PointClouds.from_flat(points, np.concatenate([[0], np.cumsum(counts)]), features, schema, {"seed": 2})


def _halos(boxes: int = 2) -> PointClouds:
    rng = np.random.default_rng(5)
    points = {name: rng.uniform(0, 25, 10 * boxes).astype(np.float32) for name in "xyz"}
    points |= {name: rng.normal(0, 250, 10 * boxes).astype(np.float32) for name in ("vx", "vy", "vz")}
    points["log10_mass"] = rng.uniform(12.5, 15, 10 * boxes).astype(np.float32)
    features = {"box_size": np.full(boxes, 25, np.float32), "redshift": np.zeros(boxes, np.float32)}
    schema = halo_schema(tuple(points), tuple(features))
    return PointClouds.from_flat(points, np.arange(boxes + 1) * 10, features, schema, {"seed": 5})


def _in_folder(make: Callable[[Path], object]) -> Files:
    """What ``make(folder)`` writes, with the paths inside the folder as names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _data(
    name: str, make: Callable[[Path], object], *, exact: bool = False, seal: Callable[[Files], Files] = _as_they_are,
    text: bool = False, changed: tuple[str, ...] = (), format: str | None = None, **options: Any
) -> list[Base]:  # fmt: skip
    """A data set read by the format that pcdiff finds, and by the one that is named.

    Args:
        name: the file or folder to read.
        make: ``make(folder)`` writes the files.
        format: the one that is named.
    """

    def read(folder: Path, chosen: str | None) -> object:
        if chosen is None:
            # What cannot be described may be read, and the other way round: both must end in one line.
            with suppress(PcdiffError):
                pcdiff.inspect(folder / name, **options)
        clouds = pcdiff.read(folder / name, format=chosen, **options)
        return json.dumps([clouds.fingerprint(), clouds.schema.to_dict(), clouds.provenance], sort_keys=True)

    files = _in_folder(make)
    return [
        Base(files, lambda folder, chosen=chosen: read(folder, chosen), exact, changed, text, seal)
        for chosen in (None, format)
    ]


def _written(name: str, clouds: PointClouds, format: str, **options: Any) -> list[Base]:
    """What pcdiff writes."""
    return _data(
        name, lambda folder: pcdiff.write(clouds, folder / name, format=format, **options), exact=True, format=format
    )


def _root() -> list[Base]:
    return _written("jets.root", _jets(), "root") + _written("halos.root", _halos(), "root")


def _rntuple() -> list[Base]:
    return _written("jets.root", _jets(), "rntuple") + _written("halos.root", _halos(), "rntuple")


def _nanoaod() -> list[Base]:
    from tests.io.test_nanoaod import make_file

    return [
        base
        for layout, ntuple in (("v15", False), ("pfnano", False), ("v15", True))
        for base in _data(
            "nano.root", lambda folder, a=layout, b=ntuple: make_file(folder / "nano.root", a, ntuple=b), format="nanoaod"
        )
    ]  # fmt: skip


def _jetclass() -> list[Base]:
    from tests.io.test_jetclass import make_file

    labels = np.eye(10, dtype=bool)[:4]
    return _data(
        "jets.root", lambda folder: make_file(folder / "jets.root", np.array([3, 1, 2, 4]), labels), format="jetclass"
    )


def _root_mapping() -> list[Base]:
    import awkward as ak
    import uproot

    def write(folder: Path, ntuple: bool, compression: object) -> None:
        tree = {
            "part_pt": ak.Array([[5.0, 4.0], [3.0], [2.0, 1.0, 0.5]]),
            "part_n": ak.Array([[1, 2], [3], [4, 5, 6]]),
            "jet_pt": np.array([9.0, 3.0, 3.5], np.float32),
        }
        with uproot.recreate(folder / "tree.root", compression=compression) as file:
            (file.mkrntuple if ntuple else file.mktree)("t", tree)

    options = {"points": {"pt": "part_pt", "n": {"branch": "part_n", "scale": 2.0}}, "clouds": {"pt": "jet_pt"}}
    return [
        base
        for ntuple in (False, True)
        for compression in (None, uproot.ZLIB(1))
        for base in _data(
            "tree.root", lambda folder, a=ntuple, b=compression: write(folder, a, b), format="root-mapping", **options
        )
    ]


def _jetnet() -> list[Base]:
    import h5py

    def foreign(folder: Path) -> None:
        rng = np.random.default_rng(1)
        particles = rng.uniform(0.01, 0.2, (6, 5, 4)).astype(np.float32)
        particles[..., 3] = rng.uniform(size=(6, 5)) < 0.7
        particles[:, 0, 3] = 1
        with h5py.File(folder / "g.hdf5", "w") as file:
            file["particle_features"] = particles
            file["jet_features"] = rng.uniform(1, 2, (6, 4))

    return _written("jets.hdf5", _jets(), "jetnet") + _data("g.hdf5", foreign, format="jetnet")


def _flat() -> list[Base]:
    return _written("jets.h5", _jets(), "flat") + _written("halos.h5", _halos(), "flat")


def _toptagging() -> list[Base]:
    from tests.io.test_toptagging import LABELS, fixed_layout, momenta, table_layout

    return [
        base
        for layout in (table_layout, fixed_layout)
        for base in _data(
            "top.h5",
            lambda folder, layout=layout: layout(folder / "top.h5", momenta()[:2], LABELS[:2]),
            format="toptagging",
        )
    ]


def _halotools() -> list[Base]:
    from tests.io.test_halotools import write

    return _written("box.hdf5", _halos(1), "halotools") + _data(
        "box.hdf5", lambda folder: write(folder / "box.hdf5"), format="halotools"
    )


def _fof_subhalo() -> list[Base]:
    from tests.io.test_fof_subhalo import groups, write

    def several(folder: Path) -> None:
        for i in range(2):
            write(folder / f"fof_subhalo_tab_090.{i}.hdf5", groups(6, i), 12, 2)

    return _data(
        "groups_090.hdf5", lambda folder: write(folder / "groups_090.hdf5", groups(10), 10), format="fof-subhalo"
    ) + _data("fof_subhalo_tab_090.0.hdf5", several, format="fof-subhalo")


def _parquet() -> list[Base]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def foreign(folder: Path, **how: Any) -> None:
        records = [[{"pt": 1.5, "q": 1}, {"pt": 2.5, "q": -1}], [{"pt": 3.5, "q": 0}]] * 3
        table = pa.table({"parts": records, "flat": [[1.0, 2.0], [3.0]] * 3, "jet": [9.0, 8.0] * 3})
        pq.write_table(table, folder / "jets.parquet", **how)

    options = {"points": {"pt": "parts.pt", "q": "parts.q"}, "clouds": {"jet": "jet"}}
    return [
        *_written("jets.parquet", _jets(), "parquet"),
        *_data("jets.parquet", foreign, format="parquet", **options),
        *_data(
            "jets.parquet",
            lambda folder: foreign(folder, compression="none", data_page_version="2.0", use_dictionary=False),
            format="parquet",
            **options,
        ),
    ]


def _zipped(files: Files) -> Files:
    """The arrays in one archive, whose own checksums fit."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return {"jets.npz": stream.getvalue()}


def _energyflow() -> list[Base]:
    from tests.io.test_energyflow import flat, padded, save

    def arrays(content: Mapping[str, np.ndarray]) -> Callable[[Path], None]:
        return lambda folder: [np.save(folder / f"{name}.npy", values) for name, values in content.items()]  # type: ignore[return-value]

    return [
        *_data("jets.npz", lambda folder: save(folder / "jets.npz", padded()), format="energyflow"),
        *_data("jets.npz", lambda folder: save(folder / "jets.npz", flat(), False), format="energyflow"),
        *_data("jets.npz", arrays(padded()), seal=_zipped, format="energyflow"),
        *_data("jets.npz", arrays(flat()), seal=_zipped, format="energyflow"),
    ]


def _abacus() -> list[Base]:
    import asdf

    from tests.io.test_abacus import HEADER, slab, write

    name = "sim/halos/z0.500/halo_info"

    def compressed(folder: Path) -> None:
        target = folder / name / "halo_info_000.asdf"
        target.parent.mkdir(parents=True)
        asdf.AsdfFile({"header": HEADER, "data": slab(8, 0)}).write_to(target, all_array_compression="zlib")

    return _data(name, lambda folder: write(folder / name, [slab(8, 0)]), format="abacus") + _data(
        f"{name}/halo_info_000.asdf", compressed, format="abacus"
    )


def _rockstar() -> list[Base]:
    from tests.io.test_rockstar import HLIST, OUT, table, write_hlist, write_out

    return _data(
        "out_1.list", lambda folder: write_out(folder / "out_1.list", table(OUT, 8)), text=True, format="rockstar"
    ) + _data(
        "hlist_1.list", lambda folder: write_hlist(folder / "hlist_1.list", table(HLIST, 8)), text=True, format="rockstar"
    )  # fmt: skip


def _quijote() -> list[Base]:
    from tests.io.test_quijote import OPTIONS, content, groups, write_parts

    return _data(
        "group_tab_004.0",
        lambda folder: (folder / "group_tab_004.0").write_bytes(content(groups(5), 5, 1)),
        format="quijote",
        **OPTIONS,
    ) + _data("group_tab_004.0", lambda folder: write_parts(folder, [4, 3]), format="quijote", **OPTIONS)


@cache
def _generator(kind: str = "empirical") -> Any:
    """A generator as small as they are, untrained."""
    import torch

    from pcdiff.bundle import Settings, build_denoiser
    from pcdiff.config import EpicConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
    from pcdiff.generator import Generator
    from pcdiff.multiplicity import build_multiplicity
    from pcdiff.transforms import Transform

    jets = _jets(30)
    transform = Transform.fit(
        jets, {"etarel": "standard", "phirel": "standard", "ptrel": "log"}, {"pt": "log", "mass": "log"}
    )
    settings = Settings(
        EpicConfig(hidden=4, layers=1, global_size=2),
        ScheduleConfig(),
        MultiplicityConfig.model_validate({"kind": kind, "layers": 1, "hidden": 2}),
        SamplingConfig(steps=2),
    )
    torch.manual_seed(0)
    types = transform.type_index(jets)
    multiplicity = build_multiplicity(settings.multiplicity, 2, len(transform.types))
    if kind == "empirical":
        features = np.stack([jets.feature("pt"), jets.feature("mass")], 1).astype(np.float64)
        multiplicity.fit(jets.counts, features, types, 0)
    return Generator(
        build_denoiser(settings, transform),
        multiplicity,
        transform,
        settings,
        (0.2,) * 5,
        {"name": "small"},
        {2: (1, 0.5, 0)},
    )


def _signed(files: Files) -> Files:
    """A generator whose checksums fit, as someone who means harm would have them."""
    try:
        about = json.loads(files["generator.json"])
        about.pop("sha256", None)
        about["files"] = {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name.endswith(".safetensors")
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True, separators=(",", ":"))
        about["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return {**files, "generator.json": json.dumps(about).encode()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return files


def _load_generator(folder: Path) -> object:
    from pcdiff.generator import Generator

    found = Generator.load(folder)
    tensors = sorted((name, value.sum().item()) for name, value in found.denoiser.state_dict().items())
    return str([tensors, found.settings, found.transform, found.types, found.provenance, found.grids])


def _checkpoint_models() -> tuple[Any, Any, Any]:
    import copy

    from pcdiff.config import OptimConfig
    from pcdiff.optimisers import build_optimiser

    net = copy.deepcopy(_generator().denoiser.net)
    return net, copy.deepcopy(net), build_optimiser(net, OptimConfig())


def _load_checkpoint(folder: Path) -> object:
    from pcdiff.checkpoint import load_newest

    return str(load_newest(folder, *_checkpoint_models()))


def _signed_checkpoint(files: Files) -> Files:
    tensors, about = (f"checkpoints/step_00000003/state.{suffix}" for suffix in ("safetensors", "json"))
    content = json.loads(files[about]) | {"sha256": hashlib.sha256(files[tensors]).hexdigest()}
    return {**files, about: json.dumps(content).encode()}


def _checkpoint() -> Files:
    from pcdiff.checkpoint import Counters, save

    return _in_folder(lambda folder: save(folder, Counters(step=3, epoch=1), *_checkpoint_models(), keep=2))


def _pairs() -> list[Base]:
    import safetensors.numpy

    from pcdiff.pairs import _checksum, read_pairs

    tensors = {
        "states": np.ones((6, 8), np.float32),
        "counts": np.array([1, 2, 3]),
        "cond": np.ones((3, 2), np.float32),
    }

    def read(folder: Path) -> object:
        found = read_pairs(folder, "train", 3)
        return [found.points.tolist(), found.counts.tolist(), found.cond.tolist()]

    def signed(files: Files) -> Files:
        try:
            ((name, content),) = files.items()
            tensors = safetensors.numpy.load(content)
            return {name: safetensors.numpy.save(tensors, {"sha256": _checksum(tensors)})}
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
            return files

    whole = signed({"train_000000.safetensors": safetensors.numpy.save(tensors)})
    return [Base(whole, read, exact=True), Base(whole, read, seal=signed)]


def _safetensors() -> list[Base]:
    generators = [_in_folder(_generator(kind).save) for kind in ("empirical", "flow")]
    tensors = ("denoiser.safetensors", "multiplicity.safetensors")
    checkpoint = _checkpoint()
    return [
        *(Base(files, _load_generator, exact=True, changed=tensors) for files in generators),
        *(Base(files, _load_generator, changed=tensors, seal=_signed) for files in generators),
        Base(checkpoint, _load_checkpoint, changed=("checkpoints/step_00000003/state.safetensors",)),
        Base(
            checkpoint,
            _load_checkpoint,
            changed=("checkpoints/step_00000003/state.safetensors",),
            seal=_signed_checkpoint,
        ),
        *_pairs(),
    ]


def _run() -> Files:
    from pcdiff.config import load_config
    from pcdiff.run import Metrics, describe_run

    def make(folder: Path) -> None:
        config = load_config({"name": "run", "data": {"train": "a.h5", "validation": "b.h5"}})
        describe_run(folder, config, {"train": "0" * 64, "validation": "1" * 64}, resume=False)
        metrics = Metrics(folder / "metrics.jsonl")
        for step in (1, 2):
            metrics.append(step, {"loss/train": 0.5 / step, "loss/validation": 0.6 / step})
        metrics.close()

    return _in_folder(make)


def _read_run(folder: Path) -> object:
    from pcdiff.cli.facts import about
    from pcdiff.evaluation.loss import Losses
    from pcdiff.run import Metrics

    with suppress(PcdiffError):
        about(folder)
    with suppress(PcdiffError):
        Losses.read(folder)
    metrics = Metrics(folder / "metrics.jsonl")
    metrics.close()
    return metrics.last


def _json() -> list[Base]:
    generators = [_in_folder(_generator(kind).save) for kind in ("empirical", "flow")]
    return [
        *(Base(files, _load_generator, exact=True, changed=("generator.json",), text=True) for files in generators),
        *(Base(files, _load_generator, changed=("generator.json",), text=True, seal=_signed) for files in generators),
        Base(_run(), _read_run, changed=("run.json", "metrics.jsonl"), text=True),
        Base(_checkpoint(), _load_checkpoint, changed=("checkpoints/step_00000003/state.json",), text=True),
    ]


def _yaml() -> list[Base]:
    from pcdiff.config import load_any, to_yaml

    def read(folder: Path) -> object:
        return to_yaml(load_any(folder / "config.yaml"))

    def shipped(name: str) -> bytes:
        return find(f"configs/{name}.yaml").read_bytes()

    return [
        *(Base({"config.yaml": shipped(name)}, read, text=True) for name in ("quickstart", "halos_quick", "gluon30")),
        Base({"config.yaml": _run()["config.yaml"]}, read, text=True),
    ]


TARGETS = (
    Target("root", _root),
    Target("rntuple", _rntuple),
    Target("nanoaod", _nanoaod),
    Target("jetclass", _jetclass),
    Target("root-mapping", _root_mapping),
    Target("jetnet", _jetnet),
    Target("flat", _flat),
    Target("toptagging", _toptagging),
    Target("halotools", _halotools),
    Target("fof-subhalo", _fof_subhalo),
    Target("parquet", _parquet),
    Target("energyflow", _energyflow),
    Target("abacus", _abacus),
    Target("rockstar", _rockstar),
    Target("quijote", _quijote),
    Target("safetensors", _safetensors),
    Target("json", _json),
    Target("yaml", _yaml),
)
