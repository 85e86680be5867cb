"""What an optimiser step costs each of several processes that train together.

    python benchmarks/processes.py --config configs/quickstart.yaml
    torchrun --nproc-per-node 2 benchmarks/processes.py --config configs/quickstart.yaml

Prints milliseconds a step of process 0: by the clock, and of its processor, which counts its own work alone however busy the machine is; and keeps them, beside
those of other numbers of processes with the same config, in results/processes.json. The run lies in a temporary folder. It is fed by
`training.points_per_batch` of the config, for all processes together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import conditions

from pcdiff import training
from pcdiff.config import load_config
from pcdiff.distributed import World
from pcdiff.files import read_json, write_json

RESULTS = Path(__file__).with_name("results") / "processes.json"

# Steps before the clocks start.
_BEFORE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml", metavar="CONFIG")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="steps that are timed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the numbers (default: %(default)s)")
    chosen = parser.parse_args()
    world, last = World.joined(), _BEFORE + chosen.steps
    clocks: dict[int, tuple[float, float]] = {}
    plain = training.step

    def timed(*arguments: Any) -> tuple[float, list[int]]:
        found = plain(*arguments)
        clocks[arguments[-1].step] = time.perf_counter(), time.process_time()
        return found

    training.step = timed
    # The same on all processes, which belong to one config; process 0 makes it.
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            chosen.config,
            (
                f"output={Path(world.sent(folder)) / 'run'}",
                f"training.steps={last}",
                f"training.validate_every={last}",
                f"training.checkpoint_every={last}",
                "training.compare=0",
                "multiplicity.kind=empirical",
                "multiplicity.steps=1",
                "tracking.enabled=false",
            ),
        )
        training.train(config, progress=False)
    wall, work = (1e3 * (clocks[last][i] - clocks[_BEFORE][i]) / chosen.steps for i in (0, 1))
    if world.main:
        print(f"{world.size} processes: {wall:.2f} ms a step by the clock, {work:.2f} ms of the processor of process 0")
        row = {"processes": world.size, "milliseconds": wall, "processor_milliseconds": work, "steps": chosen.steps}
        keep(chosen.output, chosen.config, row)


def keep(path: Path, config: str, row: dict[str, Any]) -> None:
    """Put a row in the place of an older one of as many processes; rows of another config go."""
    found = read_json(path) if path.is_file() else {}
    older = found["rows"] if found.get("config") == config else []
    rows = [row | {"conditions": conditions()}, *(one for one in older if one["processes"] != row["processes"])]
    rows.sort(key=lambda one: int(one["processes"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config, "rows": rows})


if __name__ == "__main__":
    main()
