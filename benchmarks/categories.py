r"""Which code words for categories: charge and class of constituents, generated with their momenta.

    pcdiff data make jets --process g -n 10000 --seed 11 --labels -o data/labelled_train.hdf5
    pcdiff data make jets --process g -n 6000 --seed 12 --labels -o data/labelled_test.hdf5
    python benchmarks/categories.py --update-readme

The net and the training of `configs/quickstart.yaml`, but for fewer steps on half as many jets, with the same jets, times and noise for each encoding, on one core.
Generated are the test jets once more: as many constituents, and pT, eta and mass, so that the multiplicity model has no part in it. Each
training has other first weights; the table shows means over the trainings. Those that are done are kept; a run that was cut off goes on
with the next.

They differ in the code word of category k of K, of share p_k in the training data:

- one-hot, what pcdiff has: (e_k - p) / s with one s for all channels, of mean square 1 over channels and training data;
- analog bits (Chen, Zhang, Hinton, "Analog Bits", arXiv 2208.04202): the binary digits of k, with one s;

and in what the net puts out for them: further evidence beside the noisy code word (:mod:`pcdiff.diffusion.categories`), or, "plain
output", what it puts out for numbers too.

All are read as the category whose code word is nearest.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from measuring import conditions, described
from tables import bullets, console, digits, markdown_table, show, update_readme
from torch import Tensor

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.config import load_config
from pcdiff.diffusion import Denoiser, Prediction
from pcdiff.encodings import Categories
from pcdiff.errors import PcdiffError
from pcdiff.evaluation.marginals import weighted_wasserstein
from pcdiff.evaluation.metric import Resamples
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.physics import Measured, observables
from pcdiff.schema import PARTICLE_CLASSES
from pcdiff.training import train

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
RESULTS = Path(__file__).with_name("results") / "categories.json"

_LABELS = ("charge", "particle_class")
# Electrons and muons: one in 400 and in 2,000 constituents, too few for a spectrum.
_RARE = (3, 4)
_DRAWS = 50

Codes = npt.NDArray[np.float64]


def analog_bits(encoding: Categories) -> npt.NDArray[np.float32]:
    """The code words of analog bits, shape (K, digits): the binary digits of 0 to K - 1, of mean 0 and together of unit variance."""
    shares = np.array(encoding.shares)
    digits = np.arange(len(shares))[:, None] >> np.arange((len(shares) - 1).bit_length()) & 1
    centred = digits - shares @ digits
    return (centred / np.sqrt((shares @ centred**2).mean())).astype(np.float32)


@dataclass(frozen=True)
class Contender:
    """One column.

    Attributes:
        codes: code words; None without categories.
        head: whether the denoiser has a head for categories, or takes the net's output as it is.
    """

    codes: property | None
    head: bool = True


CONTENDERS = {
    "no categories": Contender(None),
    "one-hot": Contender(Categories.codes),
    "analog bits": Contender(property(analog_bits)),
    "one-hot, plain output": Contender(Categories.codes, head=False),
}


@contextmanager
def as_in(contender: Contender) -> Iterator[None]:
    """Categories as a contender has them."""
    with ExitStack() as stack:
        if contender.codes is not None:
            stack.enter_context(mock.patch.object(Categories, "codes", contender.codes))
        if not contender.head:
            stack.enter_context(mock.patch.object(Denoiser, "forward", _plain))
        yield


def _plain(model: Denoiser, x_t: Tensor, t: Tensor, mask: Tensor, cond: Tensor) -> Prediction:
    """The prediction of a denoiser without a head."""
    level = model.schedule.level(t)
    return Prediction(x_t, model.net(x_t / level.r, level.log_snr.flatten(), mask, cond), level)


def generated(name: str, seed: int, steps: int, files: Sequence[Path], test: PointClouds) -> tuple[PointClouds, float]:
    """The test jets as one training makes them, and the minutes that it took."""
    contender = CONTENDERS[name]
    with tempfile.TemporaryDirectory() as folder, as_in(contender):
        labels = "" if contender.codes is None else "".join(f", {label}: categorical" for label in _LABELS)
        overrides = (
            f"output={folder}/run",
            f"data.train={files[0]}",
            f"data.validation={files[1]}",
            f"features.points={{etarel: standard, phirel: standard, ptrel: log{labels}}}",
            f"seed={seed}",
            f"training.steps={steps}",
            f"training.validate_every={steps}",
            f"training.checkpoint_every={steps}",
            "training.points_per_batch=1920",
            "training.compare=0",
            "training.precision=float32",
            "tracking.enabled=false",
            "multiplicity={steps: 1, hidden: 8}",
        )
        start = time.process_time()
        run = train(load_config(CONFIG, overrides), progress=False)
        minutes = (time.process_time() - start) / 60
        return Generator.load(run).sample(given=test, seed=seed), minutes


def shuffled(clouds: PointClouds) -> PointClouds:
    """The same jets, the labels of each constituent those of any other: what a generator makes that knows their shares alone."""
    order = np.random.default_rng(0).permutation(clouds.num_points)
    names, features = clouds.schema.point_names, clouds.schema.cloud_names
    columns = {name: clouds.column(name)[order] if name in _LABELS else clouds.column(name) for name in names}
    rows = {name: clouds.feature(name) for name in features}
    return PointClouds.from_flat(columns, clouds.offsets, rows, clouds.schema)


def numbers(clouds: PointClouds) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """What W1 is taken of: name, values and the jet of each value."""
    known, jets, points = observables("jets"), np.arange(len(clouds)), clouds.owners
    for name in ("relative_mass", "etarel", "phirel", "ptrel"):
        level = known[name].level
        yield f"W1 {name}", known[name].function(clouds), points if level == "point" else jets
    if "particle_class" not in clouds.schema.point_names:
        return
    yield "W1 jet charge", known["jet_charge"].function(clouds), jets
    for number, name in enumerate(PARTICLE_CLASSES):
        chosen = clouds.column("particle_class") == number
        if number not in _RARE:
            yield f"W1 ptrel, {name}s", clouds.column("ptrel")[chosen], points[chosen]
        yield f"W1 number of {name}s", np.bincount(points[chosen], minlength=len(clouds)).astype(float), jets


def shares(clouds: PointClouds) -> Iterator[tuple[str, Codes]]:
    """What the total variation distance is taken of: name, and how often each jet has each case, shape (n, cases)."""
    if "particle_class" not in clouds.schema.point_names:
        return
    kind, charge = clouds.column("particle_class"), clouds.column("charge") + 1
    for name, case, count in (("class", kind, 5), ("class and charge", 3 * kind + charge, 15)):
        cells = np.bincount(clouds.owners * count + case, minlength=len(clouds) * count)
        yield f"total variation, {name}", cells.reshape(-1, count).astype(float)


def contradicting(clouds: PointClouds) -> Codes:
    """How many constituents of each jet have a charge that their class does not have, shape (n,)."""
    charged = ~np.isin(
        clouds.column("particle_class"), [PARTICLE_CLASSES.index(n) for n in ("neutral hadron", "photon")]
    )
    wrong = charged != (clouds.column("charge") != 0)
    return np.bincount(clouds.owners, wrong, minlength=len(clouds))


def compared(truth: PointClouds, sample: PointClouds) -> dict[str, tuple[float, float]]:
    """Each measure and its error, from bootstrap resamples of the jets."""
    resamples = Resamples.draw(*(Measured("jets", each.counts, {}) for each in (truth, sample)), _DRAWS, 0)
    first, second = resamples.pooled()
    found = {}
    real = {name: rest for name, *rest in numbers(truth)}
    for name, *(generated, of) in numbers(sample):
        values, jets = np.concatenate([real[name][0], generated]), np.concatenate([real[name][1], of + len(truth)])
        found[name] = weighted_wasserstein(values, jets, first, second)
    known = dict(shares(truth))
    for name, cells in shares(sample):
        one, other = first[:, : len(truth)] @ known[name], second[:, len(truth) :] @ cells
        one, other = (each / each.sum(axis=1, keepdims=True) for each in (one, other))
        found[name] = 0.5 * np.abs(one - other).sum(axis=1)
    if known and "particle_class" in sample.schema.point_names:
        weights = second[:, len(truth) :]
        found["share of contradicting charges"] = weights @ contradicting(sample) / (weights @ sample.counts)
    return {name: (float(values[0]), float(values[1:].std(ddof=1))) for name, values in found.items()}


def lines(found: dict[str, Any]) -> list[list[str]]:
    """The table: a line a measure, a column an encoding, and last what true jets have with labels shuffled and as they are."""
    columns = {name: [row["measures"] for row in found["rows"] if row["encoding"] == name] for name in CONTENDERS}
    columns |= {"labels shuffled": [found["shuffled"]], "true jets": [found["true"]]}
    out = [["measure, 10⁻³", *columns]]
    for measure in found["true"]:
        out.append([measure, *(_shown([row[measure] for row in rows if measure in row]) for rows in columns.values())])
    minutes = {name: [row["minutes"] for row in found["rows"] if row["encoding"] == name] for name in CONTENDERS}
    return [
        *out,
        ["CPU minutes of a training", *(digits(float(np.mean(m))) if m else "-" for m in minutes.values()), "-", "-"],
    ]


def _shown(values: Sequence[tuple[float, float]]) -> str:
    """The mean over the trainings, with an error from their own errors and from how they scatter."""
    if not values:
        return "-"
    mean, own = np.mean([value for value, _ in values]), np.mean([error**2 for _, error in values])
    scatter = np.var([value for value, _ in values], ddof=1) if len(values) > 1 else 0.0
    return f"{1e3 * mean:.3g} ± {1e3 * math.sqrt((own + scatter) / len(values)):.2g}"


def main() -> None:
    """Train what is not there yet, then show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, default=Path("data/labelled_train.hdf5"), help="jets to learn from")
    parser.add_argument("--truth", type=Path, default=Path("data/labelled_test.hdf5"), help="jets to compare with")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of 64 jets; default: 3000")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each encoding; default: 2")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--update-readme", action="store_true", help="write the table into benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned, test = pcdiff.read(options.training), pcdiff.read(options.truth)
    asked = {"steps": options.steps, "training": learned.fingerprint(), "truth": test.fingerprint()}
    found = read_json(options.results) if options.results.exists() else {"asked": asked, "rows": []}
    if found["asked"] != asked:
        raise PcdiffError(f"{options.results}: holds rows of {found['asked']}, not {asked}; remove it to begin anew")
    found |= {"true": compared(test, learned[: len(test)]), "shuffled": compared(test, shuffled(learned[: len(test)]))}
    found["jets"] = [len(learned), len(test)]
    done = {(row["encoding"], row["seed"]) for row in found["rows"]}
    for seed in range(options.seeds):
        for name in CONTENDERS:
            if (name, seed) in done:
                continue
            sample, minutes = generated(name, seed, options.steps, (options.training, options.truth), test)
            found["rows"].append(
                {"encoding": name, "seed": seed, "minutes": minutes, "measures": compared(test, sample)}
            )
            found["conditions"] = conditions()
            write_json(options.results, found)
            show("categories", lines(found), console())
    learned_from, compared_with = found["jets"]
    sizes = f"{learned_from:,} training jets, {compared_with:,} jets compared, {options.steps:,} steps a training"
    trained = [[row["encoding"] for row in found["rows"]].count(name) for name in CONTENDERS]
    about = f"{sizes}; trainings, in the order of the columns: {', '.join(map(str, trained))}; true jets: the first of the training jets, as many."
    notes = [about, *described(found["conditions"])]
    if options.update_readme:
        update_readme("categories.py", f"{markdown_table(lines(found))}\n\n{bullets(notes)}")


if __name__ == "__main__":
    main()
