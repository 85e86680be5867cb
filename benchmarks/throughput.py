"""Jets per second of whole generators, from the seed to the file, against Pythia 8 with FastJet and two usual generators.

    python benchmarks/throughput.py --update-readme
    python benchmarks/throughput.py runs/gluon30

What is compared, and how, is described in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from generators import evaluations, load_all
from measuring import conditions, described, ratios, summary
from references import AttentionReference, EpicReference, midpoint
from rich.progress import Progress
from tables import README, bullets, console, digits, markdown_table, show, spread_of, update_readme
from torch import Tensor

import pcdiff
from pcdiff.clouds import PointClouds
from pcdiff.config import FeaturesConfig
from pcdiff.data.pythia import Recipe, selected_jets
from pcdiff.diffusion import CosineSchedule, Denoiser, ddim, uniform_grid
from pcdiff.errors import PcdiffError
from pcdiff.files import write_json
from pcdiff.generator import Generator
from pcdiff.resources import find
from pcdiff.transforms import Transform, cloud_columns

RESULTS = Path(__file__).with_name("results") / "throughput.json"
PYTHIA, EPIC, ATTENTION = "Pythia 8 + FastJet", "EPiC-FM-like", "PC-JeDi-like"
# What the references pad every jet to.
CONSTITUENTS = 30
# One process, whose memory the system tells at its end: the field counts from the start of the program, not of its parent.
_SAMPLE = (
    "import sys; from pcdiff.cli import main; main(sys.argv[1:]); "
    "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
)


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: rounds of measurements.
        generated: jets a round of each generator.
        padded: jets a round of each of the two references, which pass through them together.
        simulated: jets a round of Pythia and FastJet.
        memory: two requests whose peak memory is compared.
    """

    rounds: int
    generated: int
    padded: int
    simulated: int
    memory: tuple[int, int]


FULL = Extent(rounds=5, generated=10_000, padded=128, simulated=500, memory=(10_000, 100_000))
QUICK = Extent(rounds=2, generated=20, padded=2, simulated=4, memory=(20, 40))


class Maker(Protocol):
    """Something that makes jets.

    Attributes:
        evaluations: of its net, for each jet; None without a net.
        jets: how many it makes in a round, at least.
        parallel: whether it uses the threads of torch.
    """

    evaluations: int | None
    jets: int
    parallel: bool

    def pieces(self, seed: int) -> Iterator[PointClouds]:
        """The jets of a round."""


class Generated:
    """A generator of pcdiff, as ``pcdiff sample`` runs it."""

    parallel = True

    def __init__(self, generator: Generator, jets: int) -> None:
        self.generator, self.jets = generator, jets
        self.evaluations = evaluations(generator)

    def pieces(self, seed: int) -> Iterator[PointClouds]:
        return self.generator.iterate(self.jets, seed=seed, device="cpu")


class Simulated:
    """Gluon jets by the recipe of ``pcdiff data make jets``, in this process; the start of Pythia, half a second, is not counted."""

    evaluations = None
    parallel = False

    def __init__(self, jets: int) -> None:
        self.jets = jets
        recipe = Recipe(
            process="g",
            count=jets,
            seed=0,
            radius=0.4,
            pt=(800.0, 1600.0),
            eta=2.0,
            constituents=CONSTITUENTS,
            significant_bits=None,
            shard_size=jets,
        )
        self.made = selected_jets(recipe, recipe.pythia_seed(0))
        next(self.made)

    def pieces(self, seed: int) -> Iterator[PointClouds]:  # noqa: ARG002 - Pythia goes on where it ended
        missing = self.jets
        while missing > 0:
            piece = next(self.made)
            missing -= len(piece)
            yield piece


class Padded:
    """A usual net with its solver: every jet padded to 30; sizes and conditions are those of true jets, as in the papers.

    Args:
        solve: noise (n, 30, F), mask (n, 30) and conditions (n, C) to standardised points.
    """

    parallel = True

    def __init__(
        self,
        solve: Callable[[Tensor, Tensor, Tensor], Tensor],
        evaluations: int,
        transform: Transform,
        given: PointClouds,
    ) -> None:
        self.solve, self.evaluations, self.transform = solve, evaluations, transform
        self.given, self.jets = given, len(given)

    @torch.inference_mode()
    def pieces(self, seed: int) -> Iterator[PointClouds]:
        given, transform = self.given, self.transform
        rows = cloud_columns(given, [scale.name for scale in transform.clouds])
        types = transform.type_index(given)
        cond = torch.from_numpy(transform.encode_conditions(given.counts, rows, types))
        mask = torch.from_numpy(np.arange(CONSTITUENTS) < given.counts[:, None])
        noise = torch.randn(*mask.shape, len(transform.channels), generator=torch.Generator().manual_seed(seed))
        x = self.solve(noise * mask[..., None], mask, cond)
        # The axis of a jet may point anywhere; what generators draw for it is drawn here too.
        rows["phi"] = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(given))
        yield transform.decode(x[mask].numpy(), given.offsets, rows, types)


def references(jets: int) -> dict[str, Padded]:
    """The two usual generators, with weights as drawn: speed does not depend on them."""
    torch.manual_seed(0)
    given = pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))[:jets]
    features = FeaturesConfig()
    transform = Transform.fit(given, features.points, features.clouds)
    flow = EpicReference(len(transform.channels)).eval()
    denoiser = Denoiser(AttentionReference(len(transform.channels), transform.conditions), CosineSchedule()).eval()

    def by_flow(noise: Tensor, mask: Tensor, cond: Tensor) -> Tensor:  # noqa: ARG001 - it has no conditions but the size
        return midpoint(lambda x, t: flow(x, t, mask), noise, 100)

    def by_attention(noise: Tensor, mask: Tensor, cond: Tensor) -> Tensor:
        return ddim(denoiser, noise, uniform_grid(denoiser.schedule, 100), mask, cond, order=1)

    return {
        EPIC: Padded(by_flow, 200, transform, given),
        ATTENTION: Padded(by_attention, 100, transform, given),
    }


def seconds(maker: Maker, seed: int, folder: Path) -> float:
    """Seconds a jet, its ROOT file included."""
    made = 0

    def counted() -> Iterator[PointClouds]:
        nonlocal made
        for piece in maker.pieces(seed):
            made += len(piece)
            yield piece

    start = time.perf_counter()
    pcdiff.write(counted(), folder / "jets.root")
    return (time.perf_counter() - start) / made


def measure(
    makers: dict[str, Maker], rounds: int, threads: Sequence[int], advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rounds of all makers with each number of threads: plain data, one entry a maker and number of threads.

    Rates are those of one core: with several threads, of all divided by their number. Ratios are of rates of one core, each
    within its round, to whatever of the references is there.
    """
    took: dict[tuple[int, str], list[float]] = {}
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, rounds):
            for count in threads:
                torch.set_num_threads(count)
                for name, maker in makers.items():
                    if count > 1 and not maker.parallel:
                        continue
                    found = seconds(maker, 1 + max(turn, 0), Path(folder)) * count
                    # The first turn warms up.
                    if turn >= 0:
                        took.setdefault((count, name), []).append(found)
                    advance(f"{name}, {count} thread{'s' if count > 1 else ''}")
    torch.set_num_threads(before)
    against = [name for name in (PYTHIA, EPIC, ATTENTION) if name in makers]
    return [
        {
            "name": name,
            "threads": count,
            "evaluations": makers[name].evaluations,
            "jets_a_round": makers[name].jets,
            "jets_per_second_and_core": summary([1 / each for each in own]),
            "ratios": {other: ratios(took[count if makers[other].parallel else 1, other], own) for other in against},
        }
        for (count, name), own in took.items()
    ]


def memory(generator: str, sizes: tuple[int, int]) -> dict[str, Any] | None:
    """Peak memory in MB of ``pcdiff sample`` for two requests, each in a process of its own; None where the system does not tell."""
    if not Path("/proc/self/status").is_file():
        return None
    peaks, took = [], []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            start = time.perf_counter()
            command = [sys.executable, "-c", _SAMPLE, "sample", generator, "-n", str(n), "-o", f"{folder}/jets.root"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PcdiffError(f"pcdiff sample {generator}: {done.stderr.strip()}")
            took.append(time.perf_counter() - start)
            peaks.append(int(done.stdout.split()[-1]) / 1024)
    return {"jets": list(sizes), "megabytes": peaks, "seconds": took, "ratio": peaks[1] / peaks[0]}


def speed_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    against = list(rows[0]["ratios"])
    lines = [["", "threads", "evaluations", "jets/s and core", *(f"ratio to {name}" for name in against)]]
    for row in rows:
        lines.append(
            [
                row["name"],
                str(row["threads"]),
                "-" if row["evaluations"] is None else str(row["evaluations"]),
                spread_of(row["jets_per_second_and_core"]),
                *("1" if name == row["name"] else spread_of(row["ratios"][name]) for name in against),
            ]
        )
    return lines


def memory_table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and lines."""
    few, many = next(iter(found.values()))["jets"]
    lines = [["`pcdiff sample`", f"MB for {few:,} jets", f"MB for {many:,} jets", "ratio", f"s for {many:,} jets"]]
    for name, one in found.items():
        lines.append(
            [name, *(f"{peak:.0f}" for peak in one["megabytes"]), f"{one['ratio']:.2f}", digits(one["seconds"][1])]
        )
    return lines


def notes(result: dict[str, Any]) -> list[str]:
    """What must stand beside the numbers."""
    jets = ", ".join({row["name"]: f"{row['name']} {row['jets_a_round']:,}" for row in result["rows"]}.values())
    return [
        *described(result["conditions"], threads=False),
        f"Median of {result['rounds']} rounds, in brackets the lowest and the highest; ratios are taken within a round. Jets a round: {jets}.",
    ]


def tables(result: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Each table by its title."""
    found = {"From the seed to the file": speed_table(result["rows"])}
    if result["memory"]:
        found["Peak memory"] = memory_table(result["memory"])
    return found


def markdown(result: dict[str, Any]) -> str:
    """As in benchmarks/README.md."""
    parts = [f"#### {title}\n\n{markdown_table(lines)}" for title, lines in tables(result).items()]
    return "\n\n".join([*parts, bullets(notes(result))])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "generators", nargs="*", help="runs, folders of generators, or names (default: all that come with pcdiff)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    extent = QUICK if chosen.quick else FULL
    at, out = conditions(), console()
    try:
        generators = load_all(chosen.generators)
        makers: dict[str, Maker] = {name: Generated(one, extent.generated) for name, one in generators.items()}
        makers |= {PYTHIA: Simulated(extent.simulated), **references(extent.padded)}
        threads = sorted({1, os.cpu_count() or 1})
        work = (1 + extent.rounds) * sum(len(threads) if maker.parallel else 1 for maker in makers.values())
        with Progress(console=out) as progress:
            bar = progress.add_task("starting", total=work)
            rows = measure(
                makers, extent.rounds, threads, lambda what: progress.update(bar, advance=1, description=what)
            )
        names = dict(zip(generators, chosen.generators or generators, strict=True))
        used = {name: memory(given, extent.memory) for name, given in names.items()}
    except PcdiffError as error:
        raise SystemExit(f"throughput.py: {error}") from error
    result = {
        "conditions": at,
        "rounds": extent.rounds,
        "rows": rows,
        "memory": {name: one for name, one in used.items() if one is not None},
    }
    for title, lines in tables(result).items():
        show(title, lines, out)
    for note in notes(result):
        out.print(note, highlight=False)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, result)
    out.print(f"all numbers: {chosen.output}")
    if chosen.update_readme:
        update_readme("throughput.py", markdown(result))
        out.print(f"tables: {README}")


if __name__ == "__main__":
    main()
