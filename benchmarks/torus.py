"""Which noise suits halos in a periodic box: the wrapped diffusion of pcdiff, flow matching on the torus, plain diffusion in R^3.

    make halos-data
    python benchmarks/torus.py --update-readme

All train the net of configs/halos_quick.yaml, from the same weights, with the same batches and optimiser, and make boxes of the sizes and universes of held-out
ones. The processes are those of torus_processes.py. A run that is cut off goes on with the same command; runs are kept in runs/torus.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from halo_statistics import Estimate, boxes, pm
from halos_quality import judged, measured
from measuring import conditions, described
from tables import bullets, console, markdown_table, show, update_readme
from torus_processes import PROCESSES, Process

from pcdiff.allocator import keep_freed_memory
from pcdiff.bundle import Settings, load_denoiser, read_tensors
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, load_config
from pcdiff.denoising import Objective
from pcdiff.diffusion import Denoiser
from pcdiff.errors import PcdiffError
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Loader, batch_of
from pcdiff.multiplicity import build_multiplicity
from pcdiff.resources import DESCRIPTION
from pcdiff.run import describe_run, locked
from pcdiff.seeds import Purpose, word
from pcdiff.training import Task, fit
from pcdiff.training_data import TrainingData

CONFIG = Path(__file__).parents[1] / "configs" / "halos_quick.yaml"
RESULTS = Path(__file__).with_name("results") / "torus.json"
EVALUATIONS = (10, 20, 40)
_AT_A_TIME = 8
_PLACES = 10
# Of standardised positions, for the test of translations.
_LOG_SNR = (0.0, 3.0, 6.0)


def configured(name: str, chosen: argparse.Namespace) -> Config:
    """The config of one process."""
    steps = chosen.steps
    return load_config(
        CONFIG,
        (
            f"name=torus-{name.replace(', ', '-')}",
            f"output={chosen.runs / name.replace(', ', '-')}",
            f"data.train={chosen.data / 'halos_lhc_train.hdf5'}",
            f"data.validation={chosen.data / 'halos_lhc_validation.hdf5'}",
            # A net for a CPU.
            *("net.hidden=96", "net.vectors=32", "net.layers=4", "net.neighbours=12", "optim.ema=0.999"),
            f"training.steps={steps}",
            f"training.points_per_batch={chosen.points}",
            f"training.validate_every={steps}",
            f"training.checkpoint_every={max(1, steps // 10)}",
            "tracking.enabled=false",
        ),
    )


def trained(name: str, config: Config, data: TrainingData) -> tuple[Process, Denoiser]:
    """A process and its net, averaged over the training, from the run's folder where it is finished."""
    settings = Settings(config.net, config.schedule, config.multiplicity, config.sampling, config.denoiser)
    process = PROCESSES[name](settings, data.transform)
    run = Path(config.output or "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(config.seed, Purpose.WEIGHTS))
        model = process.build()
    multiplicity = build_multiplicity(config.multiplicity, len(data.transform.clouds), 1)
    multiplicity.fit(data.train.counts, data.features, data.type_index, config.seed)
    loaders = [Loader(each, config.training.points_per_batch, config.seed) for each in (data.train, data.validation)]

    def validate(ema: Denoiser) -> float:
        rng = torch.Generator().manual_seed(word(config.seed, Purpose.VALIDATION))
        with torch.no_grad():
            losses = [process.losses(ema, process.draw(ema, batch, rng)) for batch in loaders[1].epoch(0)]
        return float(torch.cat(losses).mean())

    task = Task(
        loaders[0],
        objective=Objective(process.draw, process.losses),
        validate=validate,
        generator=lambda ema, about: Generator(ema, multiplicity, data.transform, settings, data.types, about),
        truth=lambda: data.validation_clouds,
        command="train",
    )
    with locked(run):
        describe_run(run, config, data.fingerprint, resume=True)
        fit(run, config, model, task, progress=False)
    folder = run / "generator"
    load_denoiser(model, read_tensors(folder, "denoiser.safetensors", read_json(folder / DESCRIPTION)["files"]))
    return process, model.eval()


@torch.inference_mode()
def generated(process: Process, model: Denoiser, truth: PointClouds, evaluations: int, seed: int) -> PointClouds:
    """Boxes of the sizes and universes of true ones."""
    transform = process.transform
    encoded = transform.encode(truth)
    rng = torch.Generator().manual_seed(seed)
    points = np.zeros_like(encoded.points)
    for first in range(0, len(truth), _AT_A_TIME):
        index = np.arange(first, min(first + _AT_A_TIME, len(truth)))
        batch = batch_of(encoded, index)
        x = process.sample(model, batch, evaluations, rng)
        points[truth.offsets[index[0]] : truth.offsets[index[-1] + 1]] = x[batch.mask].numpy()
    rows = {scale.name: truth.feature(scale.name) for scale in transform.clouds}
    return transform.decode(points, truth.offsets, rows, np.zeros(len(truth), np.int64))


@torch.inference_mode()
def translation_error(process: Process, model: Denoiser, truth: PointClouds, seed: int) -> float:
    """How much what is said of the positions changes when the clouds are moved in their boxes: root mean square over that of what is said."""
    batch = batch_of(process.transform.encode(truth), np.arange(len(truth)))
    # In double precision, so that rounding changes no neighbours.
    model = copy.deepcopy(model).double()
    batch = CloudBatch(batch.x.double(), batch.mask, batch.cond.double())
    rng = torch.Generator().manual_seed(seed)
    moved = process.translated(batch, process.torus.period * torch.rand(len(batch), 3, generator=rng))
    change, size = 0.0, 0.0
    for log_snr in _LOG_SNR:
        noise = torch.randn(batch.x.shape, generator=rng, dtype=batch.x.dtype)
        here, there = (process.pull(model, each, noise, log_snr)[batch.mask] for each in (batch, moved))
        change += float((here - there).square().mean())
        size += float(here.square().mean())
    return float(np.sqrt(change / size)) if size else 0.0


def unevenness(clouds: PointClouds) -> float:
    """chi^2 per bin of the density along the three axes against an even one, from box to box: 1 where no place of the box is preferred."""
    size = float(clouds.feature("box_size")[0])
    owners = clouds.owners
    values = []
    for name in "xyz":
        cells = np.minimum((clouds.column(name) / size * _PLACES).astype(int), _PLACES - 1)
        counts = np.bincount(owners * _PLACES + cells, minlength=len(clouds) * _PLACES).reshape(-1, _PLACES)
        totals = np.repeat(clouds.counts[:, None].astype(float), _PLACES, axis=1)
        each = Estimate.of(counts * float(_PLACES), totals)
        values.append(((each.value - 1) / each.error) ** 2)
    return float(np.mean(values))


def compared(truth: PointClouds, other: PointClouds, sample: PointClouds) -> dict[str, Any]:
    """As part quality of halos.py has it, and how even positions are."""
    found = measured(truth, other, sample)
    out: dict[str, Any] = {"uneven": {"sample": unevenness(sample), "floor": unevenness(other)}}
    for side in ("sample", "floor"):
        out[side] = {"chi_squared": found["chi_squared"][side]}
        for name in ("mass_function", "velocity_dispersion", "power_spectrum"):
            values = [found["ratios"][name][side][at] for at in judged(found, name)]
            out[side][name] = max(values, key=lambda pair: abs(pair[0] - 1), default=[float("nan")] * 2)
    return out


def lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table: a line a process and number of evaluations, and the floor."""
    head = [
        "process",
        "evaluations",
        "χ² per bin of ξ",
        "diagonal alone",
        "mass function",
        "velocity dispersion",
        "P(k)",
    ]
    out = [[*head, "χ² per bin of even density", "change when translated", "training, CPU minutes"]]
    for row in rows:
        for evaluations, found in row["evaluations"].items():
            cells = _cells(found, "sample")
            out.append([row["process"], evaluations, *cells, f"{row['translated']:.1e}", f"{row['minutes']:.1f}"])
    if rows:
        out.append(["true boxes", "-", *_cells(next(iter(rows[0]["evaluations"].values())), "floor"), "-", "-"])
    return out


def _cells(found: Mapping[str, Any], side: str) -> list[str]:
    chi = found[side]["chi_squared"]
    ratios = [pm(*found[side][name]) for name in ("mass_function", "velocity_dispersion", "power_spectrum")]
    return [f"{chi['full']:.2f}", f"{chi['diagonal']:.2f}", *ratios, f"{found['uneven'][side]:.2f}"]


def main() -> None:
    """Train and sample what is not there yet, then show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", default=list(PROCESSES), choices=PROCESSES, help="default: all")
    parser.add_argument("--steps", type=int, default=2400, help="training steps (default: 2400)")
    parser.add_argument("--points", type=int, default=2048, help="most points of a batch (default: 2048)")
    parser.add_argument("--boxes", type=int, default=100, help="fiducial boxes to compare with (default: 100)")
    parser.add_argument(
        "--evaluations", nargs="+", type=int, default=EVALUATIONS, help="even numbers (default: 10 20 40)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is generated (default: 1)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the boxes (default: data)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/torus"), help="folder of the runs (default: runs/torus)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--update-readme", action="store_true", help="write the table into benchmarks/README.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        found = measure_all(chosen)
    except PcdiffError as error:
        raise SystemExit(f"torus.py: {error}") from error
    if chosen.update_readme:
        about = (
            f"{found['asked']['steps']:,} steps of {found['asked']['points']:,} points; {found['asked']['boxes']} held-out boxes. Mass function, velocity "
            f"dispersion and P(k): the ratio to the truth in the bin where it is farthest from 1."
        )
        notes = [about, *described(found["conditions"])]
        update_readme("torus.py", f"{markdown_table(lines(found['rows']))}\n\n{bullets(notes)}")


def measure_all(chosen: argparse.Namespace) -> dict[str, Any]:
    """Each process, kept as soon as it is measured.

    Raises:
        PcdiffError: the results are of other boxes or steps.
    """
    truth, other = (boxes(chosen.data / "halos_fiducial.hdf5", k * chosen.boxes, chosen.boxes) for k in (0, 1))
    asked = {
        **{name: getattr(chosen, name) for name in ("steps", "points", "boxes", "seed")},
        "evaluations": list(chosen.evaluations),
        "truth": truth.fingerprint(),
    }
    found: dict[str, Any] = read_json(chosen.results) if chosen.results.exists() else {"asked": asked, "rows": []}
    if found["asked"] != asked:
        raise PcdiffError(f"{chosen.results}: holds rows of {found['asked']}, not {asked}; remove it to begin anew")
    done = {row["process"] for row in found["rows"]}
    for name in chosen.processes:
        if name in done:
            continue
        config = configured(name, chosen)
        start = time.process_time()
        process, model = trained(name, config, TrainingData.load(config))
        row: dict[str, Any] = {"process": name, "minutes": (time.process_time() - start) / 60, "evaluations": {}}
        row["translated"] = translation_error(process, model, truth[: min(8, len(truth))], chosen.seed)
        for evaluations in chosen.evaluations:
            sample = generated(process, model, truth, evaluations, chosen.seed)
            row["evaluations"][str(evaluations)] = compared(truth, other, sample)
        found["rows"].append(row)
        found["conditions"] = conditions()
        write_json(chosen.results, found)
        show("processes", lines(found["rows"]), console())
    return found


if __name__ == "__main__":
    main()
