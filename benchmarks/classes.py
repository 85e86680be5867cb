"""How near the jets of each class come to the truth, and whether asked conditions are met.

    make jets-data
    python benchmarks/classes.py jets30 jets150 --update-readme

Each class is sampled by `pcdiff sample GENERATOR --set type=CLASS --seed 1` into `data/GENERATOR_CLASS.hdf5`, where such a file is not there
yet, and compared with as many true jets that no training saw, cut to as many constituents as the generator learned from. What is measured,
and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from classes_plots import masses_figure, ranks_figure
from generators import load_all
from measuring import conditions, described
from quality_results import mean_and_spread
from tables import bullets, console, markdown_table, show, update_readme

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.config import Config, load_any
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation import wasserstein
from pcdiff.evaluation.fpnd import FPND_TYPES, fpnd
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.physics import observables
from pcdiff.resources import pretrained

RESULTS = Path(__file__).with_name("results") / "classes.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
DATA = Path("data")
JETS = 20_000
# Of the floors, and jets that are asked for in a window of pT and with a number of constituents.
DRAWS, ASKED = 10, 1_000
WINDOW, NUMBER = (900.0, 1100.0), 25
# A generator is to come within this many floors.
LIMIT = 3.0
FEATURES = ("etarel", "phirel", "ptrel")


@dataclass(frozen=True)
class Values:
    """What is compared of some jets.

    Attributes:
        mass: relative mass of the constituents, shape (n,).
        counts: number of constituents, shape (n,).
        points: etarel, phirel and ptrel, shape (P,) each.
    """

    mass: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    points: Mapping[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, jets: PointClouds) -> Values:
        mass = observables("jets")["relative_mass"].function(jets)
        return cls(mass, jets.counts, {name: jets.column(name) for name in FEATURES})

    def part(self, chosen: npt.NDArray[np.bool_]) -> Values:
        """Those of some jets."""
        inside = np.repeat(chosen, self.counts)
        points = {name: values[inside] for name, values in self.points.items()}
        return Values(self.mass[chosen], self.counts[chosen], points)


def distances(first: Values, second: Values) -> dict[str, float]:
    """W1M, W1P and the W1 distance of the number of constituents."""
    return {
        "w1m": wasserstein(first.mass, second.mass),
        "w1p": float(np.mean([wasserstein(first.points[name], second.points[name]) for name in FEATURES])),
        "w1n": wasserstein(first.counts.astype(float), second.counts.astype(float)),
    }


def floors(truth: PointClouds, reference: PointClouds, draws: int = DRAWS) -> dict[str, list[float]]:
    """The same between random halves of two sets of true jets together, as many in each."""
    pooled = Values.of(PointClouds.concatenate([truth, reference]))
    n = len(truth)
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        chosen = np.zeros(2 * n, np.bool_)
        chosen[np.random.default_rng(draw).permutation(2 * n)[:n]] = True
        for name, value in distances(pooled.part(chosen), pooled.part(~chosen)).items():
            found.setdefault(name, []).append(value)
    return found


def peak(jets: PointClouds) -> tuple[float, float]:
    """Median of the mass of the constituents in GeV and half the width of the central 68 %."""
    low, middle, high = np.quantile(observables("jets")["mass"].function(jets), [0.16, 0.5, 0.84])
    return float(middle), float(high - low) / 2


def constituents_pt(jets: PointClouds) -> npt.NDArray[np.float64]:
    """pT in GeV of all constituents of a jet together, shape (n,)."""
    return observables("jets")["pt"].function(jets)


def constituents_of(name: str, given: str) -> int | None:
    """The largest number of constituents that a generator learned from; None without a limit."""
    config = load_any(pretrained().get(name, Path(given)))
    return config.data.max_points if isinstance(config, Config) else None


def sampled(generator: Generator, name: str, type: str, jets: int, folder: Path) -> PointClouds:
    """Jets of one class, from the file that an earlier run or ``pcdiff sample`` left, or else made and kept there."""
    file = folder / f"{name}_{type}.hdf5"
    if not file.is_file():
        pcdiff.io.write(generator.iterate(jets, seed=1, conditions={"type": type}), file)
    found = pcdiff.read(file)
    if found.provenance.get("generator", {}).get("files") != generator.provenance["files"]:
        raise DataError(f"{file}: expected jets of {name} as it is now; remove the file, and it is made anew")
    if len(found) < jets:
        raise DataError(f"{file}: has {len(found):,} jets, expected at least {jets:,}")
    return found[:jets]


def asked(generator: Generator, type: str, jets: int) -> dict[str, float]:
    """Shares of jets that are as they were asked for: pT within a window, and number of constituents."""
    low, high = WINDOW
    windowed = generator.sample(jets, seed=2, conditions={"type": type, "pt": WINDOW})
    counted = generator.sample(jets // 10, seed=3, conditions={"type": type, "number_of_points": NUMBER})
    pt, summed = windowed.feature("pt"), constituents_pt(windowed)
    return {
        "pt": float(np.mean((pt >= low) & (pt <= high))),
        "summed": float(np.mean(summed / pt)),
        "number": float(np.mean(counted.counts == NUMBER)),
    }


def measured(truth: PointClouds, reference: PointClouds, jets: PointClouds, type: str) -> dict[str, Any]:
    """All of one class but what is asked for."""
    low, high = WINDOW
    inside = truth[(truth.feature("pt") >= low) & (truth.feature("pt") <= high)]
    return {
        "jets": len(jets),
        "distances": distances(Values.of(truth), Values.of(jets)),
        "floors": floors(truth, reference),
        "peak": {"truth": peak(truth), "sample": peak(jets)},
        "summed": float(np.mean(constituents_pt(inside) / inside.feature("pt"))),
        "fpnd": {"truth": fpnd(truth.leading(30), type), "sample": fpnd(jets.leading(30), type)}
        if type in FPND_TYPES
        else None,
    }


def lines(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of distances: a line a generator and class."""
    out = [
        [
            "generator",
            "class",
            "jets",
            "W1M, 10⁻³",
            "in floors",
            "W1P, 10⁻³",
            "in floors",
            "W1 of number",
            "in floors",
            "met",
        ]
    ]
    for name, types in found.items():
        for type, row in types.items():
            cells, met = [], True
            for metric, factor in (("w1m", 1e3), ("w1p", 1e3), ("w1n", 1.0)):
                value, (floor, _) = row["distances"][metric], mean_and_spread(row["floors"][metric])
                cells += [f"{value * factor:.3f}", f"{value / floor:.2f}"]
                met = met and value <= LIMIT * floor
            out.append([name, type, f"{row['jets']:,}", *cells, "yes" if met else "no"])
    return out


def further_lines(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of mass peaks, asked conditions and FPND."""
    window = f"{WINDOW[0]:.0f} to {WINDOW[1]:.0f} GeV"
    head = [
        "generator",
        "class",
        "mass, GeV",
        "true",
        f"pT {window} met",
        "summed pT / pT",
        "true",
        f"{NUMBER} constituents met",
    ]
    out = [[*head, "FPND", "of true jets"]]
    for name, types in found.items():
        for type, row in types.items():
            sample, truth = (f"{row['peak'][of][0]:.1f} ± {row['peak'][of][1]:.1f}" for of in ("sample", "truth"))
            distance = ["-", "-"] if row["fpnd"] is None else [f"{row['fpnd'][of]:.3f}" for of in ("sample", "truth")]
            conditioned = row["asked"]
            cells = [f"{conditioned['pt']:.2%}", f"{conditioned['summed']:.4f}", f"{row['summed']:.4f}"]
            out.append([name, type, sample, truth, *cells, f"{conditioned['number']:.2%}", *distance])
    return out


def _markdown(found: Mapping[str, Any], notes: str) -> str:
    return "\n\n".join([markdown_table(lines(found)), markdown_table(further_lines(found)), notes])


def missed(found: Mapping[str, Any]) -> Iterator[str]:
    """What is beyond the limit, or was asked for in vain."""
    for name, types in found.items():
        for type, row in types.items():
            for metric, value in row["distances"].items():
                if value > LIMIT * mean_and_spread(row["floors"][metric])[0]:
                    yield f"{name} {type}: {metric}"
            if row["asked"]["pt"] < 0.99 or row["asked"]["number"] < 1:
                yield f"{name} {type}: asked conditions"


def main() -> None:
    """Sample what is not there yet, measure, print, store; fails where a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generators", nargs="*", default=["jets30", "jets150"], help="default: jets30 jets150")
    parser.add_argument("--jets", type=int, default=JETS, help=f"of each class (default: {JETS:,})")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of the true jets and of samples (default: data)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="write tables and figures into the documentation")
    chosen = parser.parse_args()
    out = console()
    found: dict[str, Any] = read_json(chosen.output)["generators"] if chosen.output.is_file() else {}
    try:
        for given, (name, generator) in zip(chosen.generators, load_all(chosen.generators).items(), strict=True):
            largest = constituents_of(name, given)
            sets: dict[str, tuple[PointClouds, PointClouds]] = {}
            found[name] = {}
            for type in generator.transform.types:
                jets = sampled(generator, name, type, chosen.jets, chosen.data)
                truth, reference = (
                    pcdiff.read(chosen.data / f"jets150_{type}_{split}.hdf5")[: len(jets)]
                    for split in ("test", "train")
                )
                if largest is not None:
                    truth, reference = truth.leading(largest), reference.leading(largest)
                row = measured(truth, reference, jets, type)
                row["asked"] = asked(generator, type, min(ASKED, chosen.jets))
                found[name][type] = row
                sets[type] = truth, jets
                write_json(chosen.output, {"generators": found, "conditions": conditions()})
                out.print(f"{name} {type}: {row['distances']}", highlight=False)
            if chosen.update_readme:
                masses_figure(name, sets).savefig(IMAGES / f"{name}_masses.png")
                ranks_figure(name, sets).savefig(IMAGES / f"{name}_ranks.png")
    except PcdiffError as error:
        raise SystemExit(f"classes.py: {error}") from error
    show("distances", lines(found), out)
    show("further", further_lines(found), out)
    if chosen.update_readme:
        notes = bullets(described(read_json(chosen.output)["conditions"]))
        update_readme("classes.py", _markdown(found, notes))
        for name, folder in pretrained().items():
            if name in found:
                update_readme("classes.py", _markdown({name: found[name]}, notes), folder / "README.md")
    failed = list(missed(found))
    if failed:
        raise SystemExit(f"beyond the limit: {', '.join(failed)}")


if __name__ == "__main__":
    main()
