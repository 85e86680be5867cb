"""How near the jets of generators come to the truth, beside what chance leaves between two samples of the truth: `make quality`.

    python benchmarks/quality.py gluon30 gluon30-fast --truth data/gluon30_test.hdf5 --training data/gluon30_train.hdf5

It takes an hour and more. Each number is kept in benchmarks/results/quality.json as it comes; the same command goes on from there. What is
measured, and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from generators import load_all
from quality_results import LIMITS, Store, judged, markdown, notes, tables
from tables import README, console, show, update_readme

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation import wasserstein
from pcdiff.evaluation.classifier import classifier_test
from pcdiff.evaluation.fpnd import activations, fpnd, frechet_from_real
from pcdiff.evaluation.memorisation import memorisation
from pcdiff.evaluation.physics_distances import frechet_physics_distance
from pcdiff.generator import Generator
from pcdiff.physics import Measured, measure, observables
from pcdiff.physics.jets import prime_columns
from pcdiff.resources import find, pretrained

RESULTS = Path(__file__).with_name("results") / "quality.json"
JETS, QUICK_JETS = 50_000, 600
# Of the jets behind the memorisation check: those looked at of either set, and those of the training data.
LOOKED_AT, BANK = 2_000, 100_000


def w1m(truth: Measured, sample: Measured) -> float:
    """W1 of the relative jet mass."""
    return wasserstein(truth.values["relative_mass"], sample.values["relative_mass"])


def w1p(truth: Measured, sample: Measured) -> float:
    """Mean W1 of the three features of a constituent."""
    return float(
        np.mean([wasserstein(truth.values[name], sample.values[name]) for name in ("etarel", "phirel", "ptrel")])
    )


def w1efp(truth: Measured, sample: Measured) -> float:
    """Mean W1 of the energy-flow polynomials that papers quote."""
    assert truth.polynomials is not None
    assert sample.polynomials is not None
    return float(np.mean([wasserstein(truth.polynomials[:, c], sample.polynomials[:, c]) for c in prime_columns()]))


def fpd(truth: Measured, sample: Measured) -> float:
    """Fréchet physics distance."""
    assert truth.polynomials is not None
    assert sample.polynomials is not None
    return frechet_physics_distance(truth.polynomials, sample.polynomials)[0]


DISTANCES: dict[str, Callable[[Measured, Measured], float]] = {"w1m": w1m, "w1p": w1p, "w1efp": w1efp, "fpd": fpd}
CLASSIFIERS = ("boosted", "net")


class Truth:
    """Two sets of true jets, of the same number and without a jet in common, measured when first needed.

    Args:
        halves: the truth, which generated jets are compared with, and the reference.
        workers: processes for the energy-flow polynomials.
    """

    def __init__(self, halves: tuple[PointClouds, PointClouds], workers: int) -> None:
        self.halves = halves
        self.workers = workers

    @classmethod
    def read(cls, truth: str, reference: str | None, jets: int, workers: int) -> Truth:
        """From two files, or from the first and the second jets of one.

        Raises:
            DataError: a file cannot be read or has too few jets.
        """
        found = pcdiff.read(find(truth))
        further = found[jets:] if reference is None else pcdiff.read(find(reference))
        for name, clouds in ((truth, found), (reference or f"{truth}, after the first {jets:,}", further)):
            if len(clouds) < jets:
                raise DataError(f"{name}: has {len(clouds):,} jets, expected at least {jets:,}")
        return cls((found[:jets], further[:jets]), workers)

    @cached_property
    def measured(self) -> tuple[Measured, Measured]:
        first, second = (measure(clouds, "truth", self.workers) for clouds in self.halves)
        return first, second

    @cached_property
    def pooled(self) -> Measured:
        """Both sets together, as far as :data:`DISTANCES` look at them."""
        first, second = self.measured
        assert first.polynomials is not None
        assert second.polynomials is not None
        values = {
            name: np.concatenate([first.values[name], second.values[name]])
            for name in ("relative_mass", "etarel", "phirel", "ptrel")
        }
        polynomials = np.concatenate([first.polynomials, second.polynomials])
        return Measured(first.kind, np.concatenate([first.counts, second.counts]), values, polynomials=polynomials)

    @cached_property
    def activations(self) -> npt.NDArray[np.float64]:
        """Of ParticleNet, of both sets together."""
        return activations(PointClouds.concatenate(list(self.halves)))

    def cut(self, draw: int) -> npt.NDArray[np.bool_]:
        """Which of the jets of both sets, shuffled and cut into halves again, come first; shape (2 n,)."""
        return half(len(self.halves[0]), draw)

    def distance(self, metric: str, draw: int) -> float:
        """Of the two halves of a draw."""
        first = self.cut(draw)
        return DISTANCES[metric](part(self.pooled, first), part(self.pooled, ~first))

    def classifier(self, kind: str, seed: int) -> float:
        """AUC of the two sets."""
        return classifier_test(*self.measured, kind=kind, seed=seed).auc

    def fpnd(self, draw: int) -> float:
        """Of the first half of a draw, from real JetNet."""
        return float(frechet_from_real(self.activations, self.cut(draw)[None].astype(np.float64), "g")[0])


def half(n: int, draw: int) -> npt.NDArray[np.bool_]:
    """A random half of two sets of n clouds together, shape (2 n,)."""
    chosen = np.zeros(2 * n, np.bool_)
    chosen[np.random.default_rng(draw).permutation(2 * n)[:n]] = True
    return chosen


def part(measured: Measured, chosen: npt.NDArray[np.bool_]) -> Measured:
    """Some of the clouds."""
    known = observables(measured.kind)
    values = {name: found[chosen[measured.owners(known[name])]] for name, found in measured.values.items()}
    polynomials = None if measured.polynomials is None else measured.polynomials[chosen]
    return Measured(measured.kind, measured.counts[chosen], values, polynomials=polynomials)


class Sample:
    """What a generator makes of one seed, measured when first needed."""

    def __init__(self, generator: Generator, jets: int, seed: int, workers: int) -> None:
        self.generator, self.jets, self.seed, self.workers = generator, jets, seed, workers

    @cached_property
    def clouds(self) -> PointClouds:
        return self.generator.sample(self.jets, seed=self.seed)

    @cached_property
    def measured(self) -> Measured:
        return measure(self.clouds, f"the sample of seed {self.seed}", self.workers)


def run(
    generators: dict[str, Generator],
    truth: Truth,
    store: Store,
    *,
    seeds: int = 5,
    draws: int = 10,
    classifier_seeds: int = 1,
    with_fpnd: bool = True,
    training: PointClouds | None = None,
) -> None:
    """All that is not in the store yet.

    Args:
        seeds: sampling seeds, from 1 on.
        draws: of the floors.
        classifier_seeds: how many of the sampling seeds the classifiers look at.
        training: what the generators learned from, for the memorisation check.
    """
    store.part("truth", "")
    for metric in DISTANCES:
        for draw in range(draws):
            store.once("truth", metric, draw, partial(truth.distance, metric, draw))
    for kind in CLASSIFIERS:
        store.once("truth", f"auc_{kind}", 0, partial(truth.classifier, kind, 0))
    for draw in range(draws if with_fpnd else 0):
        store.once("truth", "fpnd", draw, partial(truth.fpnd, draw))
    for name, generator in generators.items():
        store.part(name, identity_of(generator))
        for seed in range(1, seeds + 1):
            sample = Sample(generator, len(truth.halves[0]), seed, truth.workers)
            for metric, distance in DISTANCES.items():
                store.once(name, metric, seed, lambda d=distance, s=sample: d(truth.measured[0], s.measured))
            for kind in CLASSIFIERS if seed <= classifier_seeds else ():
                store.once(name, f"auc_{kind}", seed, partial(_auc, truth, sample, kind))
            if with_fpnd:
                store.once(name, "fpnd", seed, lambda s=sample: fpnd(s.clouds, "g"))
            if seed == 1 and training is not None:
                store.once(name, "memorisation", seed, partial(_memorisation, truth, sample, training))


def _auc(truth: Truth, sample: Sample, kind: str) -> float:
    return classifier_test(truth.measured[0], sample.measured, kind=kind, seed=sample.seed).auc


def _memorisation(truth: Truth, sample: Sample, training: PointClouds) -> list[dict[str, Any]]:
    """Of a random part of the training jets, as far as there are more than can be searched."""
    chosen = np.random.default_rng(0).permutation(len(training))[:BANK]
    found = memorisation(sample.clouds, training[np.sort(chosen)], truth.halves[0], clouds=LOOKED_AT)
    return [metric.to_dict() for metric in found]


def identity_of(generator: Generator) -> str:
    """Changes with the weights, the default sampler and the fitted grids."""
    sampling = generator.settings.sampling.resolved().model_dump(mode="json")
    about = [generator.weights, sampling, {str(steps): times for steps, times in generator.grids.items()}]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Measure, print, store; fails where a limit that must be met is not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "generators",
        nargs="*",
        default=list(LIMITS),
        help=f"runs, folders of generators, or names (default: {' '.join(LIMITS)})",
    )
    parser.add_argument("--truth", required=True, help="file of true jets that no training saw")
    parser.add_argument("--reference", help="file of as many others (default: the next ones of --truth)")
    parser.add_argument("--training", help="what the generators learned from: looks for copies of it")
    parser.add_argument("--jets", type=int, help=f"of each sample (default: {JETS:,})")
    parser.add_argument("--seeds", type=int, default=5, help="sampling seeds (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=10, help="of the floors (default: %(default)s)")
    parser.add_argument(
        "--all-classifiers", action="store_true", help="classifiers look at all seeds and not at the first"
    )
    parser.add_argument(
        "--without-fpnd", action="store_true", help="leave out FPND, which needs: pcdiff data fetch fpnd"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--quick", action="store_true", help="a few jets, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument(
        "--update-readme",
        action="store_true",
        help="put the tables into benchmarks/README.md, and those of each generator that comes with pcdiff into its card",
    )
    chosen = parser.parse_args()
    out = console()
    try:
        generators = load_all(chosen.generators)
        jets = chosen.jets or (QUICK_JETS if chosen.quick else JETS)
        truth = Truth.read(chosen.truth, chosen.reference, jets, chosen.workers)
        identity = {
            "jets": jets,
            "truth": Path(chosen.truth).name,
            "fingerprints": [half.fingerprint() for half in truth.halves],
        }
        store = Store(chosen.output, identity, lambda text: out.print(text, highlight=False))
        run(
            generators,
            truth,
            store,
            seeds=chosen.seeds,
            draws=chosen.draws,
            classifier_seeds=chosen.seeds if chosen.all_classifiers else 1,
            with_fpnd=not chosen.without_fpnd,
            training=None if chosen.training is None else pcdiff.read(find(chosen.training)),
        )
    except PcdiffError as error:
        raise SystemExit(f"quality.py: {error}") from error
    names = list(generators)
    for title, lines in tables(store, names).items():
        show(title, lines, out)
    for note in notes(store):
        out.print(note, highlight=False)
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("quality.py", markdown(store, names))
        out.print(f"tables: {README}")
        for name, folder in pretrained().items():
            # By its name, and not a run of the same name.
            if name in chosen.generators:
                update_readme("quality.py", markdown(store, [name]), folder / "README.md")
                out.print(f"tables: {folder / 'README.md'}")
    missed = [f"{name}: {one.metric}" for name in names for one in judged(store, name) if one.met is False]
    if missed:
        raise SystemExit(f"beyond the limit: {', '.join(missed)}")


if __name__ == "__main__":
    main()
