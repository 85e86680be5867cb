"""How good a generator of halo catalogues is: statistics, solvers, response to the universe, posteriors, volumes, waves.

    make halos-data
    python benchmarks/halos.py quality --update-readme
    python benchmarks/halos.py solvers --update-readme
    python benchmarks/halos.py response --update-readme
    python benchmarks/halos.py posterior --workers 2 --update-readme
    python benchmarks/halos.py seam --update-readme
    python benchmarks/halos.py waves --update-readme

Each part is stored by itself in one file of results. What is measured, and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import halos_posterior
import halos_quality
import halos_response
import halos_seam
import halos_solvers
import halos_waves
from halo_statistics import FIDUCIAL, boxes
from matplotlib.figure import Figure
from measuring import conditions, described
from tables import bullets, console, markdown_table, show, update_readme

import pcdiff
from pcdiff.allocator import keep_freed_memory
from pcdiff.errors import PcdiffError
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator

RESULTS = Path(__file__).with_name("results") / "halos.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
DATA = Path("data")
TITLES = {
    "quality": "Generated boxes of the fiducial universe against the truth",
    "solvers": "Solvers",
    "response": "Response to the universe",
    "posterior": "Posteriors of held-out boxes",
    "seam": "Larger volumes and completed boxes",
    "waves": "Flows and masses, as the net leaves them",
}
_PARTS = {
    "quality": halos_quality,
    "solvers": halos_solvers,
    "response": halos_response,
    "posterior": halos_posterior,
    "seam": halos_seam,
    "waves": halos_waves,
}

Found = tuple[dict[str, Any], Callable[[], Figure]]


def quality(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Of so many boxes, each generated with a number of halos of its own."""
    file = chosen.data / "halos_fiducial.hdf5"
    truth, other = (boxes(file, first, chosen.boxes) for first in (0, chosen.boxes))
    sample = generator.sample(chosen.boxes, seed=chosen.seed, conditions=FIDUCIAL)
    return halos_quality.measured(truth, other, sample), lambda: halos_quality.figure(truth, sample)


def solvers(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Of so many boxes by each."""
    file = chosen.data / "halos_fiducial.hdf5"
    truth, other = (boxes(file, first, chosen.boxes) for first in (0, chosen.boxes))
    found = halos_solvers.compared(generator, truth, other, chosen.seed)
    return found, lambda: halos_solvers.figure(found)


def response(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Over the universes of the hypercube."""
    truth = boxes(chosen.data / "halos_lhc_test.hdf5", 0, chosen.boxes)
    sample = halos_response.sampled(generator, truth, chosen.repeats, chosen.seed)
    return halos_response.measured(truth, sample), lambda: halos_response.figure(truth, sample)


def posterior(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Of the first boxes of the hypercube; those that are in the file of an earlier run are taken from there."""
    file = chosen.data / "halos_lhc_test.hdf5"
    test = boxes(file, 0, chosen.count)
    train = pcdiff.read(chosen.data / "halos_lhc_train*.hdf5")
    name = Path(chosen.generator).name
    kept = chosen.kept or chosen.data / f"halos_posterior_{name}.jsonl"
    lines = halos_posterior.inferred(chosen.generator, file, test, kept, chosen.levels, chosen.workers, chosen.device)
    found = halos_posterior.measured(generator, train, test, lines)
    return found | {
        "levels": chosen.levels,
        "on": sorted({line["on"] for line in lines}),
    }, lambda: halos_posterior.figure(found)


def seam(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Of so many volumes and completed boxes."""
    truth = boxes(chosen.data / "halos_fiducial.hdf5", 0, chosen.boxes)
    volumes = halos_seam.grown(generator, chosen.volumes, chosen.grow_steps, chosen.seed)
    single = halos_seam.single(generator, 2 * chosen.volumes, chosen.grow_steps, chosen.seed)
    completed = halos_seam.completed(generator, truth, chosen.steps, chosen.repeats, chosen.seed)
    found = halos_seam.measured(truth, volumes, single, completed)
    return found, lambda: halos_seam.figure(found)


def waves(chosen: argparse.Namespace, generator: Generator) -> Found:
    """Of so many noised true boxes."""
    truth = boxes(chosen.data / "halos_fiducial.hdf5", 0, chosen.boxes)
    found = halos_waves.measured(generator, truth, chosen.seed)
    return found, lambda: halos_waves.figure(found)


_RUN = {
    "quality": quality,
    "solvers": solvers,
    "response": response,
    "posterior": posterior,
    "seam": seam,
    "waves": waves,
}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    counts: dict[str, dict[str, tuple[int, str]]] = {
        "quality": {"boxes": (100, "to generate, and true ones on either side")},
        "solvers": {"boxes": (100, "to generate by each, and true ones on either side")},
        "response": {"boxes": (140, "true boxes"), "repeats": (1, "generated boxes for each of them")},
        "posterior": {
            "count": (100, "held-out boxes"),
            "workers": (1, "processes"),
            "levels": (12, "of noise, of the posterior"),
        },
        "seam": {
            "volumes": (40, "volumes of two boxes"),
            "grow-steps": (20, "of their sampler"),
            "boxes": (40, "boxes to complete"),
            "steps": (30, "of the sampler of completions"),
            "repeats": (16, "of each step of a completion"),
        },
        "waves": {"boxes": (100, "true boxes")},
    }
    for name, options in counts.items():
        part = parts.add_parser(name, help=TITLES[name])
        for option, (default, text) in options.items():
            part.add_argument(f"--{option}", type=int, default=default, help=f"{text} (default: {default})")
        part.add_argument("--generator", default="halos", help="name, run or folder of the generator (default: halos)")
        part.add_argument("--seed", type=int, default=1, help="of what is generated (default: 1)")
        part.add_argument("--data", type=Path, default=DATA, help="folder of the true boxes (default: data)")
        part.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
        part.add_argument("--images", type=Path, default=IMAGES, help="folder for the figure (default: %(default)s)")
        part.add_argument("--update-readme", action="store_true", help="write tables and figure into the documentation")
    parts.choices["posterior"].add_argument(
        "--kept", type=Path, help="file to which each box is added (default: DATA/halos_posterior_GENERATOR.jsonl)"
    )
    parts.choices["posterior"].add_argument(
        "--device", default="cpu", help="where posteriors are computed that are not kept yet (default: cpu)"
    )
    return parser.parse_args()


def markdown(stored: Mapping[str, Any]) -> str:
    """All parts that there are."""
    out = []
    for part, title in TITLES.items():
        if part not in stored:
            continue
        found = stored[part]
        out += [f"#### {title}", f"![{title}](../docs/images/halos_{part}.png)"]
        for heading, lines in _PARTS[part].tables(found).items():
            out += [f"{heading[0].upper()}{heading[1:]}:", markdown_table(lines)]
        on = [f"posteriors on {' and '.join(found['on'])}"] if "on" in found else []
        out.append(bullets([*found["about"], *on, *described(found["conditions"])]))
    return "\n\n".join(out)


def main() -> None:
    """Measure one part, print, store."""
    chosen = parsed()
    at = conditions()
    keep_freed_memory()
    out = console()
    try:
        generator = Generator.load(chosen.generator)
        found, figure = _RUN[chosen.part](chosen, generator)
        of = (
            f"{generator.provenance.get('name', chosen.generator)} after {generator.provenance.get('steps', 0):,} steps"
        )
        found |= {"about": [of], "files": generator.provenance["files"], "seed": chosen.seed, "conditions": at}
        stored: dict[str, Any] = read_json(chosen.output) if chosen.output.is_file() else {}
        stored[chosen.part] = found
        write_json(chosen.output, stored)
        for heading, lines in _PARTS[chosen.part].tables(found).items():
            show(heading, lines, out)
        figure().savefig(chosen.images / f"halos_{chosen.part}.png")
        if chosen.update_readme:
            update_readme("halos.py", markdown(stored))
    except PcdiffError as error:
        raise SystemExit(f"halos.py: {error}") from error


if __name__ == "__main__":
    main()
