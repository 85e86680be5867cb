"""How near the jets of each class come to the truth, and whether asked conditions are met.

    make jets-data
    pcdiff data fetch fpnd
    python benchmarks/classes.py jets30 --update-readme
    python benchmarks/classes.py jets150 --jets 5000 --update-readme

Each class is sampled by `pcdiff sample GENERATOR --set type=CLASS --seed 1` into `data/GENERATOR_CLASS.hdf5`, where such a file is not there
yet, and compared with as many true jets that no training saw, cut to as many constituents as the generator learned from. What is measured,
and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from classes_plots import masses_figure, ranks_figure
from generators import load_all
from measuring import conditions, described
from quality import half, part, w1m, w1p
from quality_results import mean_and_spread
from tables import bullets, console, markdown_table, show, update_readme

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError, PcdiffError
from pcdiff.evaluation import wasserstein
from pcdiff.evaluation.fpnd import FPND_TYPES, fpnd
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.physics import Measured, observables
from pcdiff.resources import pretrained

RESULTS = Path(__file__).with_name("results") / "classes.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
DATA = Path("data")
JETS = 20_000
DRAWS = 10
# Jets that are asked for in a window of pT, and with a number of constituents.
ASKED, COUNTED = 1_000, 100
WINDOW, NUMBER = (900.0, 1100.0), 25
# A generator is to come within this many floors.
LIMIT = 3.0
COMPARED = ("relative_mass", "etarel", "phirel", "ptrel")


def compared(jets: PointClouds) -> Measured:
    """As far as :data:`DISTANCES` look at jets."""
    known = observables("jets")
    return Measured("jets", jets.counts, {name: known[name].function(jets) for name in COMPARED})


def w1n(truth: Measured, sample: Measured) -> float:
    """W1 of the number of constituents."""
    return wasserstein(truth.counts.astype(float), sample.counts.astype(float))


DISTANCES = {"w1m": w1m, "w1p": w1p, "w1n": w1n}


def distances(truth: Measured, sample: Measured) -> dict[str, float]:
    """All of them."""
    return {name: distance(truth, sample) for name, distance in DISTANCES.items()}


def floors(truth: PointClouds, reference: PointClouds, draws: int = DRAWS) -> dict[str, list[float]]:
    """The same between random halves of two sets of true jets together, as many in each."""
    pooled = compared(PointClouds.concatenate([truth, reference]))
    halves = [half(len(truth), draw) for draw in range(draws)]
    found = [distances(part(pooled, chosen), part(pooled, ~chosen)) for chosen in halves]
    return {name: [each[name] for each in found] for name in DISTANCES}


def peak(jets: PointClouds) -> tuple[float, float]:
    """Median of the mass of the constituents in GeV and half the width of the central 68 %."""
    low, middle, high = np.quantile(observables("jets")["mass"].function(jets), [0.16, 0.5, 0.84])
    return float(middle), float(high - low) / 2


def constituents_pt(jets: PointClouds) -> npt.NDArray[np.float64]:
    """pT in GeV of all constituents of a jet together, shape (n,)."""
    return observables("jets")["pt"].function(jets)


def true_jets(folder: Path, type: str, split: str, jets: int, largest: int) -> PointClouds:
    """The first jets of a file of ``make jets-data``, each with at most its ``largest`` leading constituents.

    Raises:
        DataError: the file is not there or has too few.
    """
    file = folder / f"jets150_{type}_{split}.hdf5"
    found = pcdiff.read(file)
    if len(found) < jets:
        raise DataError(f"{file}: has {len(found):,} jets, expected at least {jets:,}")
    return found[:jets].leading(largest)


def sampled(generator: Generator, name: str, type: str, jets: int, folder: Path) -> PointClouds:
    """Jets of one class, from the file that an earlier run or ``pcdiff sample`` left, or else made and kept there.

    Raises:
        DataError: the file holds jets of another generator, sampler, seed or class.
    """
    file = folder / f"{name}_{type}.hdf5"
    conditions = {"type": type}
    if not file.is_file():
        pcdiff.io.write(generator.iterate(jets, seed=1, conditions=conditions), file)
    found = pcdiff.read(file)
    chosen = generator.settings.sampling.resolved().model_dump(mode="json", exclude={"precision"})
    expected = {"files": generator.provenance["files"], "seed": 1, "conditions": conditions, **chosen}
    said = found.provenance.get("generator", {}) | found.provenance.get("sampling", {})
    for key, value in expected.items():
        if said.get(key) != value:
            raise DataError(
                f"{file}: was made with {key} {said.get(key)}, expected {value}; remove it, and it is made anew"
            )
    if len(found) < jets:
        raise DataError(f"{file}: has {len(found):,} jets, expected {jets:,}; remove it, and it is made anew")
    return found[:jets]


def asked(generator: Generator, type: str) -> dict[str, float]:
    """Shares of jets that are as they were asked for: pT within a window, and number of constituents."""
    low, high = WINDOW
    windowed = generator.sample(ASKED, seed=2, conditions={"type": type, "pt": WINDOW})
    counted = generator.sample(COUNTED, seed=3, conditions={"type": type, "number_of_points": NUMBER})
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
        "distances": distances(compared(truth), compared(jets)),
        "floors": floors(truth, reference),
        "peak": {"truth": peak(truth), "sample": peak(jets)},
        "summed": float(np.mean(constituents_pt(inside) / inside.feature("pt"))),
        "fpnd": {"truth": fpnd(truth.leading(30), type), "sample": fpnd(jets.leading(30), type)}
        if type in FPND_TYPES
        else None,
    }


def in_floors(row: Mapping[str, Any]) -> dict[str, float]:
    """Each distance of a class over its floor."""
    return {name: value / mean_and_spread(row["floors"][name])[0] for name, value in row["distances"].items()}


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
    for name, results in found.items():
        for type, row in results["classes"].items():
            cells, ratios = [], in_floors(row)
            for metric, factor in (("w1m", 1e3), ("w1p", 1e3), ("w1n", 1.0)):
                cells += [f"{row['distances'][metric] * factor:.3f}", f"{ratios[metric]:.2f}"]
            met = max(ratios.values()) <= LIMIT
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
    for name, results in found.items():
        for type, row in results["classes"].items():
            sample, truth = (f"{row['peak'][of][0]:.1f} ± {row['peak'][of][1]:.1f}" for of in ("sample", "truth"))
            distance = ["-", "-"] if row["fpnd"] is None else [f"{row['fpnd'][of]:.3f}" for of in ("sample", "truth")]
            conditioned = row["asked"]
            cells = [f"{conditioned['pt']:.2%}", f"{conditioned['summed']:.4f}", f"{row['summed']:.4f}"]
            out.append([name, type, sample, truth, *cells, f"{conditioned['number']:.2%}", *distance])
    return out


def _markdown(found: Mapping[str, Any]) -> str:
    notes = [f"{name}: {note}" for name, results in found.items() for note in described(results["conditions"])]
    return "\n\n".join([markdown_table(lines(found)), markdown_table(further_lines(found)), bullets(notes)])


def missed(found: Mapping[str, Any]) -> Iterator[str]:
    """What is beyond the limit, or was asked for in vain."""
    for name, results in found.items():
        for type, row in results["classes"].items():
            for metric, ratio in in_floors(row).items():
                if ratio > LIMIT:
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
    stored: dict[str, Any] = read_json(chosen.output) if chosen.output.is_file() else {}
    try:
        for name, generator in load_all(chosen.generators).items():
            largest = int(generator.multiplicity.quantiles(0).max())
            types = generator.transform.types
            true = {
                type: [true_jets(chosen.data, type, split, chosen.jets, largest) for split in ("test", "train")]
                for type in types
            }
            stored[name] = {"classes": {}, "conditions": conditions()}
            sets: dict[str, tuple[PointClouds, PointClouds]] = {}
            for type in types:
                jets = sampled(generator, name, type, chosen.jets, chosen.data)
                row = measured(*true[type], jets, type) | {"asked": asked(generator, type)}
                stored[name]["classes"][type] = row
                sets[type] = true[type][0], jets
                out.print(f"{name} {type}: {row['distances']}", highlight=False)
            write_json(chosen.output, stored)
            if chosen.update_readme:
                masses_figure(name, sets).savefig(IMAGES / f"{name}_masses.png")
                ranks_figure(name, sets).savefig(IMAGES / f"{name}_ranks.png")
    except PcdiffError as error:
        raise SystemExit(f"classes.py: {error}") from error
    found = {Path(name).name: stored[Path(name).name] for name in chosen.generators}
    show("against the truth", lines(found), out)
    show("peaks, asked conditions, FPND", further_lines(found), out)
    if chosen.update_readme:
        update_readme("classes.py", _markdown(stored))
        for name, folder in pretrained().items():
            # By its name, and not a run of the same name.
            if name in chosen.generators:
                update_readme("classes.py", _markdown({name: stored[name]}), folder / "README.md")
    failed = list(missed(found))
    if failed:
        raise SystemExit(f"beyond the limit: {', '.join(failed)}")


if __name__ == "__main__":
    main()
