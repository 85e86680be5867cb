"""The nets that speed.py and scaling.py compare: each of them and the reference, with its batches and blocks."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from references import AttentionReference
from torch import Tensor, nn

from pcdiff import stepping
from pcdiff.bundle import NetConfig, Settings, build_denoiser
from pcdiff.checkpoint import Counters
from pcdiff.clouds import PointClouds
from pcdiff.config import (
    Config,
    DataConfig,
    EpicConfig,
    GraphConfig,
    SamplingConfig,
    TransformerConfig,
)
from pcdiff.denoising import training_objective
from pcdiff.diffusion import GRIDS, Denoiser, build_schedule, ddim
from pcdiff.distributed import ALONE
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Loader, batch_of
from pcdiff.multiplicity import build_multiplicity
from pcdiff.optimisers import build_optimiser
from pcdiff.schema import jet_schema
from pcdiff.transforms import Transform

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
    """

    clouds: int
    block: int
    strata: dict[int, int]
    steps: int
    rounds: int
    seconds: float
    points_per_batch: int


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
)
QUICK = Extent(clouds=64, block=4, strata={30: 1, 150: 1}, steps=1, rounds=1, seconds=0.0, points_per_batch=300)


def synthetic_jets(size: int, constituents: int, seed: int = 0) -> PointClouds:
    """Jets with the multiplicities of JetNet's gluons, which are what speed depends on; nothing else is physical.

    The number of constituents is normal with mean 66.6 and standard deviation 22, within 1 to 150; the leading ones are kept.
    """
    rng = np.random.default_rng(seed)
    counts = rng.normal(66.6, 22.0, size).round().clip(1, 150).astype(np.int64)
    return jets_of(counts.clip(max=constituents), rng)


def jets_of(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> PointClouds:
    """Jets of so many constituents each, in which nothing else is physical."""
    size, total = len(counts), int(counts.sum())
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


class Contender(ABC):
    """A model with the batches that it is trained on, and how it samples.

    Attributes:
        sampled: clouds that a measurement of sampling takes.
        evaluations: evaluations of the net that it takes for each of them.
    """

    sampled: int

    def __init__(
        self,
        name: str,
        model: Denoiser,
        config: Config,
        transform: Transform,
        batches: Sequence[Callable[[], CloudBatch]],
        mean_batch: float,
    ) -> None:
        self.name = name
        self.model = model
        self.config = config
        self.objective = training_objective(config, transform)
        self.batches = batches
        self.mean_batch = mean_batch
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = build_optimiser(model, config.optim)
        self.counters = Counters()
        self.evaluations = 1

    @abstractmethod
    def _sample(self, sampling: SamplingConfig) -> None:
        """Sample standardised points of the clouds."""

    def train(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Seconds a cloud: making the batch, augmentation, forward, backward, clipping, AdamW, moving average."""
        start = clock()
        clouds = 0
        for make in self.batches:
            batch = make()
            clouds += len(batch)
            stepping.step(
                self.model,
                self.ema,
                self.optimiser,
                batch,
                self.mean_batch,
                self.objective,
                self.config,
                ALONE,
                [],
                self.counters,
            )
        return (clock() - start) / clouds

    def sample(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Seconds a cloud and evaluation, drawing the noise and the sampler's own arithmetic included."""
        sampling = self.config.sampling.model_copy(update={"steps": self.evaluations})
        start = clock()
        self._sample(sampling)
        return (clock() - start) / (self.evaluations * self.sampled)

    def warm_up(self, seconds: float) -> None:
        """Train and sample once, and choose how many evaluations a measurement takes so that it lasts long enough."""
        self.train()
        evaluation = self.sample() * self.sampled
        self.evaluations = min(max(1, round(seconds / evaluation)), self.config.sampling.steps)


class Ours(Contender):
    """A net of the library: batches by its loader, sampling by its generator."""

    def __init__(
        self, name: str, config: Config, transform: Transform, loader: Loader, steps: int, given: PointClouds
    ) -> None:
        encoded = loader.encoded
        epoch = sorted(loader.order(0), key=lambda index: int(encoded.counts[index].max()))
        batches = [partial(batch_of, encoded, index) for index in _spread(epoch, steps)]
        settings = settings_of(config)
        model = build_denoiser(settings, transform)
        super().__init__(name, model, config, transform, batches, loader.mean_batch)
        self.sampled = len(given)
        self.given = given
        self.generator = Generator(
            self.ema, build_multiplicity(config.multiplicity, len(transform.clouds), 1), transform, settings
        )

    def _sample(self, sampling: SamplingConfig) -> None:
        self.generator.sample(given=self.given, steps=sampling.steps, device="cpu")


class Padded(Contender):
    """A net on jets that are all padded to the largest that there can be, as JetNet's files hold them.

    Args:
        sampled: clouds that it samples at once; as many as a batch of training holds when absent.
    """

    def __init__(
        self,
        name: str,
        model: Denoiser,
        config: Config,
        transform: Transform,
        loader: Loader,
        steps: int,
        constituents: int,
        sampled: int | None = None,
    ) -> None:
        size = round(loader.mean_batch)
        index = np.random.default_rng(0).permutation(len(loader.encoded))[: size * steps]
        padded = _pad(batch_of(loader.encoded, index), constituents)
        parts = torch.arange(len(index)).chunk(steps)
        super().__init__(name, model, config, transform, [partial(_rows, padded, part) for part in parts], size)
        self.batch = _rows(padded, parts[0][:sampled])
        self.sampled = len(self.batch)

    @torch.inference_mode()
    def _sample(self, sampling: SamplingConfig) -> None:
        noise = torch.randn(self.batch.x.shape)
        grid = GRIDS[sampling.grid](self.ema.schedule, sampling.steps)
        ddim(self.ema, noise, grid, self.batch.mask, self.batch.cond, order=sampling.resolved().order)


def contenders(constituents: int, extent: Extent) -> tuple[list[Ours], Padded]:
    """The three nets and the reference on jets of up to so many constituents."""
    torch.manual_seed(0)
    clouds = synthetic_jets(extent.clouds, constituents)
    configs = [config_of(net) for net in NETS]
    transform = Transform.fit(clouds, configs[0].features.points, configs[0].features.clouds)
    loader = Loader(transform.encode(clouds), extent.points_per_batch, seed=0)
    blocks = np.split(np.argsort(clouds.counts, kind="stable"), extent.clouds // extent.block)
    sampled = np.concatenate(_spread(blocks, extent.strata[constituents]))
    ours = [Ours(config.net.kind, config, transform, loader, extent.steps, clouds[sampled]) for config in configs]
    config = config_of(NETS[0], REFERENCE_SAMPLING)
    model = padded_attention(config, transform)
    return ours, Padded(REFERENCE, model, config, transform, loader, extent.steps, constituents)


def padded_attention(config: Config, transform: Transform) -> Denoiser:
    """The usual transformer, as wide and as deep as the net of a config."""
    net = AttentionReference(len(transform.channels), transform.conditions, config.net.hidden, config.net.layers)
    return Denoiser(net, build_schedule(config.schedule))


def settings_of(config: Config) -> Settings:
    """What a generator is built from."""
    return Settings(config.net, config.schedule, config.multiplicity, config.sampling)


def config_of(net: NetConfig, sampling: SamplingConfig | None = None) -> Config:
    """A run with default settings but for these."""
    return Config(
        name=net.kind,
        data=DataConfig(train=("-",), validation=("-",)),
        net=net,
        sampling=sampling or SamplingConfig(),
    )


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
