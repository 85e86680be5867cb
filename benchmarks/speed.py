"""Training and sampling speed of the nets, as ratios to a reference that is measured in the same run.

    make bench
    python benchmarks/speed.py --threads 1 --update-readme

What is compared, and how, is described in benchmarks/README.md. A shared machine drifts by more than many of the
differences: so everything is timed in turns, round after round, and a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import pcdiff
from pcdiff import training
from pcdiff.checkpoint import Counters
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, EpicConfig, GraphConfig, MultiplicityConfig, SamplingConfig, TransformerConfig
from pcdiff.data import jets as jets_recipe
from pcdiff.diffusion import GRIDS, Denoiser, ddim
from pcdiff.files import atomic_file, write_json
from pcdiff.generator import Generator, Settings, build_denoiser
from pcdiff.loader import CloudBatch, Loader, batch_of
from pcdiff.multiplicity import build_multiplicity
from pcdiff.schema import jet_schema
from pcdiff.transforms import Transform, cloud_columns

README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).with_name("results") / "speed.json"

NETS = (EpicConfig(), TransformerConfig(), GraphConfig())
REFERENCE = "reference"
REFERENCE_SAMPLING = SamplingConfig(order=1, steps=100, grid="uniform")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        clouds: clouds of a data set; a request of this many is sorted by size and cut into blocks.
        block: clouds that pass through the sampler together.
        strata: number of blocks that stand for all of a request, by the largest number of constituents.
        steps: training steps a round, spread evenly over the sizes of an epoch's batches.
        rounds: rounds of measurements.
        seconds: least duration of one sampling measurement.
        points_per_batch: most points in a batch, padding included.
        jets: jets a round of the Pythia and FastJet measurement.
    """

    clouds: int
    block: int
    strata: dict[int, int]
    steps: int
    rounds: int
    seconds: float
    points_per_batch: int
    jets: int


FULL = Extent(
    # A generator sorts 16 blocks of 1,024 at a time.
    clouds=16_384,
    block=1024,
    strata={30: 1, 150: 3},
    steps=8,
    rounds=5,
    seconds=1.0,
    # 128 jets of 30 constituents, as in the configs that are shipped.
    points_per_batch=3840,
    jets=200,
)
QUICK = Extent(clouds=64, block=4, strata={30: 1, 150: 1}, steps=1, rounds=1, seconds=0.0, points_per_batch=300, jets=2)


class ReferenceNet(nn.Module):
    """The usual transformer: ``nn.TransformerEncoder``, thus padded ``nn.MultiheadAttention``, conditions beside each point.

    Width, layers, heads and feed-forward are those of :class:`pcdiff.nets.transformer.TransformerNet` by default.
    """

    def __init__(self, features: int, conditions: int, hidden: int = 128, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.entry = nn.Linear(features + 1 + conditions, hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.exit = nn.Linear(hidden, features)

    def forward(self, x: Tensor, log_snr: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        """Shapes as for :class:`pcdiff.nets.base.PointNet`."""
        beside = torch.cat([log_snr[:, None], cond], dim=1)[:, None].expand(-1, x.shape[1], -1)
        h = self.layers(self.entry(torch.cat([x, beside], dim=2)), src_key_padding_mask=~mask)
        y: Tensor = self.exit(h)
        return y


def synthetic_jets(size: int, constituents: int, seed: int = 0) -> PointClouds:
    """Jets with the multiplicities of JetNet's gluons, which are what speed depends on; nothing else is physical.

    The number of constituents is normal with mean 66.6 and standard deviation 22, within 1 to 150; the leading ones are kept.
    """
    rng = np.random.default_rng(seed)
    counts = rng.normal(66.6, 22.0, size).round().clip(1, 150).astype(np.int64)
    counts = counts.clip(max=constituents)
    total = int(counts.sum())
    points = {
        "etarel": rng.normal(0, 0.077, total).astype(np.float32),
        "phirel": rng.normal(0, 0.077, total).astype(np.float32),
        "ptrel": rng.lognormal(-4.5, 1.0, total).astype(np.float32),
    }
    clouds = {
        "pt": rng.normal(1130, 100, size).clip(800, 1600).astype(np.float32),
        "eta": rng.uniform(-2, 2, size).astype(np.float32),
        "mass": rng.lognormal(4.5, 0.4, size).astype(np.float32),
    }
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PointClouds.from_flat(points, offsets, clouds, jet_schema(list(points), list(clouds), axis="all"))


class Contender:
    """A model with the batches that it is trained on and the blocks that it samples."""

    def __init__(
        self,
        name: str,
        model: Denoiser,
        config: Config,
        transform: Transform,
        batches: Sequence[Callable[[], CloudBatch]],
        typical_batch: float,
        blocks: Sequence[CloudBatch],
    ) -> None:
        self.name = name
        self.model = model
        self.config = config
        self.transform = transform
        self.batches = batches
        self.typical_batch = typical_batch
        self.blocks = blocks
        self.noise = [torch.randn(block.x.shape) for block in blocks]
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
        self.counters = Counters()
        self.evaluations = 1

    def train(self) -> float:
        """Seconds a cloud: making the batch, augmentation, forward, backward, clipping, AdamW, moving average."""
        start = time.perf_counter()
        clouds = 0
        for make in self.batches:
            batch = make()
            clouds += len(batch)
            training._step(
                self.model,
                self.ema,
                self.optimiser,
                batch,
                self.typical_batch,
                self.transform,
                self.config,
                self.counters,
            )
        return (time.perf_counter() - start) / clouds

    @torch.inference_mode()
    def sample(self) -> float:
        """Seconds a cloud and evaluation, the sampler's own arithmetic included."""
        sampling = self.config.sampling
        grid = GRIDS[sampling.grid](self.ema.schedule, self.evaluations)
        start = time.perf_counter()
        for block, noise in zip(self.blocks, self.noise, strict=True):
            ddim(self.ema, noise, grid, block.mask, block.cond, order=sampling.order)
        return (time.perf_counter() - start) / (self.evaluations * sum(map(len, self.blocks)))

    def warm_up(self, seconds: float) -> None:
        """Train and sample once, and choose how many evaluations a measurement takes so that it lasts long enough."""
        self.train()
        evaluation = self.sample() * sum(map(len, self.blocks))
        self.evaluations = min(max(1, round(seconds / evaluation)), self.config.sampling.steps)


def contenders(constituents: int, extent: Extent) -> list[Contender]:
    """The three nets and the reference on jets of up to so many constituents."""
    torch.manual_seed(0)
    clouds = synthetic_jets(extent.clouds, constituents)
    configs = [_config(net) for net in NETS]
    transform = Transform.fit(clouds, configs[0].features.points, configs[0].features.clouds)
    encoded = transform.encode(clouds)
    loader = Loader(encoded, extent.points_per_batch, seed=0)
    epoch = sorted(loader.order(0), key=lambda index: int(encoded.counts[index].max()))
    by_size = np.split(np.argsort(encoded.counts, kind="stable"), extent.clouds // extent.block)
    batches = [partial(batch_of, encoded, index) for index in _spread(epoch, extent.steps)]
    blocks = [batch_of(encoded, index) for index in _spread(by_size, extent.strata[constituents])]
    ours = [
        Contender(
            config.net.kind,
            build_denoiser(_settings(config), transform),
            config,
            transform,
            batches,
            loader.typical_batch,
            blocks,
        )
        for config in configs
    ]

    # As JetNet's files hold them: every jet padded to the largest that there can be.
    typical = round(loader.typical_batch)
    index = np.random.default_rng(0).permutation(len(encoded))[: typical * extent.steps]
    padded = _pad(batch_of(encoded, index), constituents)
    rows = [torch.arange(start, start + typical) for start in range(0, len(index), typical)]
    model = Denoiser(ReferenceNet(len(transform.points), transform.conditions), ours[0].model.schedule)
    config = configs[0].model_copy(update={"sampling": REFERENCE_SAMPLING})
    batches = [partial(_rows, padded, row) for row in rows]
    return [*ours, Contender(REFERENCE, model, config, transform, batches, typical, [_rows(padded, rows[0])])]


def _config(net: EpicConfig | TransformerConfig | GraphConfig) -> Config:
    return Config.model_validate({"name": net.kind, "data": {"train": "-", "validation": "-"}, "net": net})


def _settings(config: Config) -> Settings:
    return Settings(config.net, config.schedule, config.multiplicity, config.sampling)


def _spread(items: Sequence[npt.NDArray[np.int64]], number: int) -> list[npt.NDArray[np.int64]]:
    """The middles of so many equal parts."""
    return [items[int((i + 0.5) / number * len(items))] for i in range(number)]


def _pad(batch: CloudBatch, size: int) -> CloudBatch:
    missing = size - batch.x.shape[1]
    return CloudBatch(
        nn.functional.pad(batch.x, (0, 0, 0, missing)), nn.functional.pad(batch.mask, (0, missing)), batch.cond
    )


def _rows(batch: CloudBatch, rows: Tensor) -> CloudBatch:
    return CloudBatch(batch.x[rows], batch.mask[rows], batch.cond[rows])


class PythiaJets:
    """Gluon jets by the library's recipe with Pythia 8 and FastJet, in this process.

    Attributes:
        start_seconds: what the first events took longer than the next: the start of Pythia.
    """

    def __init__(self, jets: int) -> None:
        self.jets = jets
        recipe = jets_recipe._Recipe("g", jets, 0, 0.4, (800.0, 1600.0), 2.0, None, None)
        self.pieces = jets_recipe._selected(recipe, recipe.pythia_seed(0))
        first, second = (self._piece() for _ in range(2))
        self.start_seconds = max(0.0, first - second)

    def _piece(self) -> float:
        start = time.perf_counter()
        next(self.pieces)
        return time.perf_counter() - start

    def make(self) -> float:
        """Seconds a jet: events, clustering, selection, all constituents relative to the jet."""
        start = time.perf_counter()
        made = 0
        while made < self.jets:
            made += len(next(self.pieces))
        return (time.perf_counter() - start) / made


def measure(
    constituents: int, extent: Extent, pythia: PythiaJets | None, advance: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Rounds of everything at one number of constituents: plain data, one entry a net, and jets/s of Pythia and FastJet.

    Args:
        pythia: what the nets replace, where it is installed.
        advance: told what has just been measured.
    """
    field = contenders(constituents, extent)
    for contender in field:
        contender.warm_up(extent.seconds)
        advance(f"{constituents} constituents: warm-up, {contender.name}")
    train: dict[str, list[float]] = {contender.name: [] for contender in field}
    sample: dict[str, list[float]] = {contender.name: [] for contender in field}
    made: list[float] = []
    for _ in range(extent.rounds):
        for kind, seconds in (("training", train), ("sampling", sample)):
            for contender in field:
                seconds[contender.name].append(contender.train() if kind == "training" else contender.sample())
                advance(f"{constituents} constituents: {kind}, {contender.name}")
        if pythia is not None:
            made.append(pythia.make())
            advance(f"{constituents} constituents: Pythia and FastJet")

    rows = []
    for contender in field:
        steps = contender.config.sampling.steps
        whole = [steps * seconds for seconds in sample[contender.name]]
        reference = [REFERENCE_SAMPLING.steps * seconds for seconds in sample[REFERENCE]]
        rows.append(
            {
                "constituents": constituents,
                "net": contender.name,
                "parameters": sum(p.numel() for p in contender.model.parameters()),
                "training": {
                    "clouds_per_step": contender.typical_batch,
                    "clouds_per_second": _summary([1 / seconds for seconds in train[contender.name]]),
                    "ratio": _ratio(train[REFERENCE], train[contender.name]),
                },
                "evaluation": {
                    "clouds": sum(map(len, contender.blocks)),
                    "evaluations": contender.evaluations,
                    "milliseconds_per_cloud": _summary([1e3 * seconds for seconds in sample[contender.name]]),
                    "ratio": _ratio(sample[REFERENCE], sample[contender.name]),
                },
                "sampling": {
                    "evaluations": steps,
                    "clouds_per_second": _summary([1 / seconds for seconds in whole]),
                    "ratio": _ratio(reference, whole),
                    "ratio_to_pythia": _ratio(made, whole) if made else None,
                },
            }
        )
    return rows, _summary([1 / seconds for seconds in made]) if made else None


def whole_call(extent: Extent) -> dict[str, float]:
    """``Generator.sample`` of one block of 30 constituents by EPiC, beside its evaluations alone, in seconds.

    What the call adds (multiplicity flow, noise, sorting, decoding to physical units) is what the tables leave out when they
    take the time of a jet as evaluations times the time of one.
    """
    contender = contenders(30, extent)[0]
    clouds = synthetic_jets(extent.block, 30)
    # A single step: trained or not, a flow takes the same time.
    settings = replace(_settings(contender.config), multiplicity=MultiplicityConfig(steps=1))
    columns = cloud_columns(clouds, [scale.name for scale in contender.transform.clouds])
    multiplicity = build_multiplicity(settings.multiplicity, len(columns), 1)
    multiplicity.fit(clouds.counts, np.stack(list(columns.values()), axis=1), np.zeros(len(clouds), np.int64), seed=0)
    generator = Generator(contender.ema, multiplicity, contender.transform, settings)
    contender.warm_up(extent.seconds)
    evaluations = contender.sample() * settings.sampling.steps * extent.block
    start = time.perf_counter()
    generator.sample(extent.block, device="cpu")
    return {"call": time.perf_counter() - start, "evaluations": evaluations}


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": values}


def _ratio(reference: list[float], seconds: list[float]) -> dict[str, Any]:
    """How many times faster than the reference, each round by itself."""
    return _summary([a / b for a, b in zip(reference, seconds, strict=True)])


def conditions(threads: int, extent: Extent) -> dict[str, Any]:
    """What the numbers depend on: date, machine, versions, sample sizes."""
    packages = ["torch", "torch-geometric", "numpy", "awkward", "pythia8mc", "fastjet"]
    present = [name for name in packages if importlib.util.find_spec(name.replace("-", "_"))]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average_at_start": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "pcdiff": pcdiff.__version__,
            **{name: version(name) for name in present},
        },
        "rounds": extent.rounds,
        "training_steps_a_round": extent.steps,
        "points_per_batch": extent.points_per_batch,
        "block": extent.block,
        "request": extent.clouds,
        "pythia_jets_a_round": extent.jets,
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def training_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["constituents", "net", "parameters", "jets a step", "jets/s", "ratio"]]
    for row in rows:
        part = row["training"]
        lines.append(
            [
                str(row["constituents"]),
                row["net"],
                f"{row['parameters']:,}",
                f"{part['clouds_per_step']:.0f}",
                _spread_of(part["clouds_per_second"]),
                _spread_of(part["ratio"]),
            ]
        )
    return lines


def sampling_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    lines = [["constituents", "net", "ms/evaluation", "ratio", "evaluations", "jets/s", "ratio", "ratio to Pythia"]]
    for row in rows:
        one, whole = row["evaluation"], row["sampling"]
        lines.append(
            [
                str(row["constituents"]),
                row["net"],
                _spread_of(one["milliseconds_per_cloud"]),
                _spread_of(one["ratio"]),
                str(whole["evaluations"]),
                _spread_of(whole["clouds_per_second"]),
                _spread_of(whole["ratio"]),
                _spread_of(whole["ratio_to_pythia"]) if whole["ratio_to_pythia"] else "not installed",
            ]
        )
    return lines


def _spread_of(summary: dict[str, Any]) -> str:
    if summary["low"] == summary["high"]:
        return _digits(summary["median"])
    return f"{_digits(summary['median'])} ({_digits(summary['low'])}-{_digits(summary['high'])})"


def _digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def notes(result: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    at, whole, pythia = result["conditions"], result["whole_call"], result["pythia"]
    machine = [at["cpu"], f"{at['cores']} cores", at["capability"], at["system"]]
    load = f"load average at the start {at['load_average_at_start']:.1f}"
    versions = ", ".join(f"{name} {number}" for name, number in at["versions"].items())
    extent = (
        f"Training: {at['training_steps_a_round']} steps a round, at most {at['points_per_batch']} points in a batch. "
        f"Sampling: blocks of {at['block']:,} jets of a request for {at['request']:,}."
    )
    call = (
        f"`Generator.sample` of {at['block']:,} jets of 30 constituents with EPiC took {_digits(whole['call'])} s, its "
        f"evaluations alone {_digits(whole['evaluations'])} s."
    )
    if pythia is None:
        made = "Pythia 8 and FastJet are not installed (extra `pythia`)."
    else:
        speeds = " and ".join(_spread_of(speed) for speed in pythia["jets_per_second"])
        made = (
            f"Pythia 8 and FastJet, one process, {at['pythia_jets_a_round']} jets a round: {speeds} jets/s, beside 30 and "
            f"150 constituents; its start of {_digits(pythia['start_seconds'])} s is not counted."
        )
    return [
        f"{at['date']}; {', '.join(machine)}; torch threads: {at['threads']}; {load}.",
        f"{versions}.",
        f"Median of {at['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round.",
        extent,
        call,
        made,
    ]


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    for title, lines in (("Training", training_table(result["rows"])), ("Sampling", sampling_table(result["rows"]))):
        table = Table(title=title)
        for name in lines[0]:
            table.add_column(name, justify="left" if name == "net" else "right")
        for i, line in enumerate(lines[1:]):
            table.add_row(*line, end_section=(i + 1) % (len(NETS) + 1) == 0)
        console.print(table)
    for note in notes(result):
        console.print(note, highlight=False)


def markdown(result: dict[str, Any]) -> str:
    """The tables and notes as in benchmarks/README.md."""
    parts = []
    for title, (head, *body) in (
        ("Training", training_table(result["rows"])),
        ("Sampling", sampling_table(result["rows"])),
    ):
        lines = [head, ["---"] * len(head), *body]
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {note}" for note in notes(result)))
    return "\n\n".join(parts)


def update_readme(result: dict[str, Any]) -> None:
    """Replace what stands between the two marks in benchmarks/README.md."""
    begin, end = "<!-- results: written by speed.py -->", "<!-- end of results -->"
    text = README.read_text(encoding="utf-8")
    head, tail = text.partition(begin)[0], text.partition(end)[2]
    with atomic_file(README) as temporary:
        temporary.write_text(f"{head}{begin}\n\n{markdown(result)}\n\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch (default: all cores)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    extent = QUICK if chosen.quick else FULL
    at = conditions(chosen.threads, extent)
    console = Console(width=None if Console().is_terminal else 160)
    installed = all(importlib.util.find_spec(name) for name in ("pythia8mc", "fastjet"))
    pythia = PythiaJets(extent.jets) if installed else None

    with Progress(console=console) as progress:
        work = len(extent.strata) * ((len(NETS) + 1) * (1 + 2 * extent.rounds) + extent.rounds * installed)
        bar = progress.add_task("starting", total=work)
        rows: list[dict[str, Any]] = []
        speeds = []
        for constituents in extent.strata:
            nets, speed = measure(
                constituents, extent, pythia, lambda what: progress.update(bar, advance=1, description=what)
            )
            rows += nets
            speeds.append(speed)
        progress.update(bar, description="a whole call")
        whole = whole_call(extent)

    result = {
        "conditions": at,
        "rows": rows,
        "whole_call": whole,
        "pythia": {"start_seconds": pythia.start_seconds, "jets_per_second": speeds} if pythia else None,
    }
    show(result, console)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, result)
    console.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme(result)
        console.print(f"tables: {README}")


if __name__ == "__main__":
    main()
