"""Each method of pcdiff learns the spiral: `make spiral`.

Every trainable method gets at most two minutes on two cores; what it then makes is compared with the truth by the sliced
Wasserstein distance (the mean of the 1-D distances along 64 directions), in the units of the data, whose standard deviation is about 1 a
coordinate. The floor is that distance between two samples of the truth. Results go to benchmarks/results/spiral.json, and as a table to
docs/spiral.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from measuring import processor
from scipy.stats import wasserstein_distance

import pcdiff
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.clouds import PointClouds
from pcdiff.data import toy
from pcdiff.diffusion import (
    BankDenoiser,
    CosineSchedule,
    SqrtRectifiedSchedule,
    ddim,
    log_snr_grid,
    pair_loss,
    sample_yukawa,
    unipc,
)
from pcdiff.flows import RealNVP
from pcdiff.transforms import Transform

ROOT = Path(__file__).parents[1]
SAMPLES = 10_000
DIRECTIONS = 64
SEED = 1
# What each method must reach; the standard deviation of the data is about 1.
BOUND = 0.1
RESULTS = ROOT / "benchmarks" / "results" / "spiral.json"
TABLE = ROOT / "docs" / "spiral.md"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """A training config by its overrides, and how to sample it."""

    text: str
    overrides: tuple[str, ...] = ()
    sampler: str = "ddim"
    steps: int = 50


@dataclass(frozen=True)
class Result:
    """What a method reached.

    Attributes:
        text: what it is.
        sampled_by: the sampler and its steps.
        distance: sliced Wasserstein distance of its samples to the truth.
        seconds: of training.
        steps: of the optimiser.
    """

    text: str
    sampled_by: str
    distance: float
    seconds: float
    steps: int


_SLOW = ("net.hidden=64", "net.layers=3", "loss.weight=epsilon")
_RECTIFIED = ("schedule.kind=rectified", "denoiser.parametrisation=velocity", "loss.weight=flow-matching")
_EDM = ("schedule.kind=edm", "loss.times=logit-normal")

METHODS = {
    "ddpm": Method(
        "DDPM: discrete chain of 1,000 steps, the net's output is epsilon",
        ("schedule.kind=ddpm", "denoiser.parametrisation=epsilon", "loss.weight=epsilon"),
        "ancestral",
        250,
    ),
    "epsilon": Method("epsilon loss, preconditioned, cosine schedule", ("loss.weight=epsilon",)),
    "velocity": Method("error of the net's own output, cosine schedule (the shipped configs)"),
    "v": Method("v prediction, linear schedule", ("schedule.kind=linear", "denoiser.parametrisation=v")),
    "x0": Method("x0 prediction, x0 loss", ("denoiser.parametrisation=x0", "loss.weight=x0")),
    "score": Method(
        "denoising score matching: the net's output is the score, sub-VP schedule",
        ("schedule.kind=sub-vp", "denoiser.parametrisation=score", "loss.weight=epsilon"),
        "euler-maruyama",
        250,
    ),
    "ve": Method("variance-exploding schedule", ("schedule.kind=ve",), "predictor-corrector", 125),
    "edm": Method("EDM: sigma schedule, log-normal times", _EDM, "edm-churn", 40),
    "flow-matching": Method("flow matching: straight lines, velocity prediction", _RECTIFIED, "heun", 25),
    "sqrt": Method("straight mean, sigma = sqrt(t)", ("schedule.kind=rectified-sqrt",), "unipc"),
    "vlb": Method(
        "variational bound, importance-sampled times", ("loss.weight=likelihood", "loss.times=importance"), "unipc"
    ),
    "learned": Method(
        "variational diffusion: the schedule is learned with the net",
        ("schedule.kind=learned", "loss.weight=likelihood", "training.steps=2000"),
        "unipc",
    ),
    "min-snr": Method("min-SNR weight", ("loss.weight=min-snr",), "sde-dpm"),
    "sigmoid": Method(
        "sigmoid weight, importance-sampled times", ("loss.weight=sigmoid", "loss.times=importance"), "restart"
    ),
    "implicit": Method(
        "implicit score matching, exact divergence", ("loss.objective=implicit-score", *_SLOW), "langevin", 100
    ),
    "sliced": Method("sliced score matching", ("loss.objective=sliced-score", *_SLOW), "ddim"),
    "action": Method("Action Matching", ("loss.objective=action", "denoiser.potential=true", *_SLOW), "ddim"),
    "pfgm++": Method("PFGM++ of D = 64", (*_EDM, "denoiser.dimension=64"), "heun", 25),
    "pfgm": Method("Poisson flow (PFGM): D = 1", (*_EDM, "denoiser.dimension=1"), "unipc"),
}


def points(clouds: PointClouds) -> Floats:
    """Coordinates, shape (n, 2)."""
    return np.stack([clouds.column("x"), clouds.column("y")], axis=1).astype(np.float64)


def distance(a: Floats, b: Floats) -> float:
    """The sliced Wasserstein distance of two samples (n, 2)."""
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    lines = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.mean([wasserstein_distance(a @ line, b @ line) for line in lines.T]))


def truth() -> Floats:
    """The sample that all are compared with; neither trained on nor validated with."""
    return points(toy("spiral", SAMPLES, seed=100))


def floor(draws: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the distance of further true samples to the truth."""
    found = [distance(truth(), points(toy("spiral", SAMPLES, seed=101 + k))) for k in range(draws)]
    return float(np.mean(found)), float(np.std(found, ddof=1))


def trained(name: str, extra: tuple[str, ...] = ()) -> Result:
    """Train by a config, sample, compare."""
    method = METHODS[name]
    with tempfile.TemporaryDirectory() as folder:
        config = pcdiff.load_config(
            "configs/toys/spiral.yaml",
            [
                f"output={folder}/run",
                "tracking.enabled=false",
                "training.compare=0",
                "training.steps=4000",
                "training.validate_every=1000000",
                *method.overrides,
                *extra,
            ],
        )
        start = time.perf_counter()
        generator = pcdiff.Generator.load(pcdiff.train(config, progress=False))
        seconds = time.perf_counter() - start
    made = generator.sample(SAMPLES, seed=SEED, sampler=method.sampler, steps=method.steps)
    return Result(
        method.text,
        f"{method.sampler}, {method.steps} steps",
        distance(truth(), points(made)),
        seconds,
        config.training.steps,
    )


def realnvp() -> Result:
    """RealNVP on the plain vectors."""
    data = points(pcdiff.read("datasets/toys/spiral_train.parquet"))
    torch.manual_seed(SEED)
    flow = RealNVP(2, layers=12, hidden=128)
    start = time.perf_counter()
    flow.fit(data, steps=4000, batch=512, lr=1e-3, seed=SEED)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        made = flow.sample(torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(SEED)))
    text = "RealNVP: 12 affine couplings, maximum likelihood"
    return Result(text, "itself", distance(truth(), made.double().numpy()), seconds, 4000)


def _bank() -> tuple[Transform, BankDenoiser]:
    """The training-free score of the embedded sample."""
    clouds = pcdiff.read("datasets/toys/spiral_train.parquet")[:5000]
    transform = Transform.fit(clouds, {"x": "standard", "y": "standard"}, {})
    bank = torch.from_numpy(transform.encode(clouds).points)[:, None]
    return transform, BankDenoiser(bank, torch.ones(len(bank), 1, dtype=torch.bool), SqrtRectifiedSchedule())


def _physical(transform: Transform, x: torch.Tensor) -> Floats:
    """Coordinates in the units of the data, shape (n, 2)."""
    flat = x[:, 0].numpy()
    return np.stack([scale.inverse(flat[:, i]) for i, scale in enumerate(transform.points)], axis=1).astype(np.float64)


def _one_point(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, mask and no conditions of clouds of one point."""
    noise = torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(seed))
    return noise, torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 0)


@torch.no_grad()
def training_free() -> Result:
    """The Monte-Carlo score over a bank of 5,000 points, and the ODE on it."""
    transform, denoiser = _bank()
    noise, mask, cond = _one_point(SAMPLES, SEED)
    made = unipc(denoiser, noise, log_snr_grid(denoiser.schedule, 50), mask, cond)
    text = "training-free score over 5,000 points"
    return Result(text, "unipc, 50 steps", distance(truth(), _physical(transform, made)), 0.0, 0)


def pairs() -> Result:
    """A net trained on pairs of noise and ODE solution of the training-free score; one evaluation a sample."""
    transform, teacher = _bank()
    noise, mask, cond = _one_point(20_000, SEED + 1)
    config = pcdiff.load_config("configs/toys/spiral.yaml")
    start = time.perf_counter()
    with torch.no_grad():
        grid = log_snr_grid(teacher.schedule, 30)
        ends = torch.cat(
            [unipc(teacher, noise[k : k + 4000], grid, mask[:4000], cond[:4000]) for k in range(0, len(noise), 4000)]
        )
    torch.manual_seed(SEED)
    student = build_denoiser(Settings(config.net, config.schedule, config.multiplicity, config.sampling), transform)
    steps = 3000
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(SEED + 2)
    for _ in range(steps):
        index = torch.randint(len(noise), (512,), generator=generator)
        # the count is the one condition, standardised: that of all clouds alike is zero
        loss = pair_loss(student, noise[index], ends[index], mask[:512], torch.zeros(512, 1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - start
    fresh, mask, _ = _one_point(SAMPLES, SEED)
    with torch.no_grad():
        once = log_snr_grid(CosineSchedule(), 1)
        made = ddim(student, fresh, once, mask, torch.zeros(SAMPLES, 1), order=1)
    text = "a net trained on 20,000 pairs (noise, ODE solution) of the training-free score"
    return Result(text, "one evaluation", distance(truth(), _physical(transform, made)), seconds, steps)


def yukawa() -> Result:
    """The Yukawa flow over a bank of 1,000 points."""
    data = torch.from_numpy(points(pcdiff.read("datasets/toys/spiral_train.parquet"))[:1000])
    rng = torch.Generator().manual_seed(SEED)
    ends, weights = sample_yukawa(data, 3000, mass=0.5, generator=rng)
    chosen = torch.multinomial(weights, SAMPLES, replacement=True, generator=rng)
    text = "Yukawa flow (GenPhys) of mass 0.5 over 1,000 points, no training"
    return Result(text, "80 Runge-Kutta steps", distance(truth(), ends[chosen].numpy()), 0.0, 0)


OTHERS: dict[str, Callable[[], Result]] = {
    "realnvp": realnvp,
    "training-free": training_free,
    "pairs": pairs,
    "yukawa": yukawa,
}


def measure(name: str) -> Result:
    """One method by its name."""
    return OTHERS[name]() if name in OTHERS else trained(name)


def write(results: dict[str, Result], mean: float, spread: float) -> None:
    """The results as JSON, and as the table of the docs."""
    about = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, torch threads: {torch.get_num_threads()}",
        "samples": SAMPLES,
        "floor": {"mean": mean, "std": spread},
        "results": {name: asdict(result) for name, result in results.items()},
    }
    RESULTS.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    heading = (
        f"{about['date']}, {about['machine']}; {SAMPLES:,} samples each. Floor, the distance between two samples of the truth: "
        f"{mean:.4f} ± {spread:.4f} (mean and standard deviation of ten)."
    )
    lines = [
        heading,
        "",
        "| method | sampled by | distance | in floors | training, s | optimiser steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in sorted(results.values(), key=lambda result: result.distance):
        lines.append(
            f"| {result.text} | {result.sampled_by} | {result.distance:.4f} | {result.distance / mean:.1f} | "
            f"{result.seconds:.0f} | {result.steps:,} |"
        )
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measure all, or some, and write the results; fails where a method is far from the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="methods; all when absent")
    names = parser.parse_args().names or [*METHODS, *OTHERS]
    mean, spread = floor()
    results: dict[str, Result] = {}
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
        results = {name: Result(**entry) for name, entry in stored.items()}
    for name in names:
        results[name] = measure(name)
        print(
            f"{name}: {results[name].distance:.4f} after {results[name].seconds:.0f} s (floor {mean:.4f} ± {spread:.4f})"
        )
        write(results, mean, spread)
    missed = [name for name in names if results[name].distance > BOUND]
    if missed:
        raise SystemExit(f"farther than {BOUND} from the truth: {', '.join(missed)}")


if __name__ == "__main__":
    main()
