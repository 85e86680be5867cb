"""What 10^9 generated jets and a training on 10^8 JetClass jets cost on a cluster, reckoned from measured numbers of one machine.

    OMP_NUM_THREADS=1 python benchmarks/large_cases.py --measure --update-docs
    python benchmarks/large_cases.py --update-docs

The first measures anew what no other benchmark does, in three minutes of one core; both write the tables of docs/scaling.md from all results that there are.
large_cases_measuring.py measures, large_cases_model.py has the assumptions and the arithmetic, large_cases_sampling.py and large_cases_training.py the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import large_cases_sampling as of_sampling
import large_cases_training as of_training
from large_cases_measuring import FULL, QUICK, measure
from large_cases_model import Facts
from tables import bullets, console, markdown_table, show, update_readme

from pcdiff.errors import PcdiffError
from pcdiff.files import read_json, write_json

RESULTS = Path(__file__).with_name("results") / "large_cases.json"
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"

# The tables by the names in the marks of the page.
PARTS = {
    "assumptions": of_sampling.assumptions,
    "measurements": of_sampling.measurements,
    "sampling": of_sampling.sampling,
    "files": of_sampling.files,
    "afterwards": of_sampling.afterwards,
    "enough": of_sampling.enough,
    "load": of_sampling.load,
    "failures": of_sampling.failures,
    "data": of_training.data,
    "steps": of_training.steps,
    "processes": of_training.processes,
    "checkpoints": of_training.checkpoints,
    "bottlenecks of sampling": of_sampling.bottlenecks,
    "bottlenecks of training": of_training.bottlenecks,
    "changes": of_training.changes,
}


def main() -> None:
    """Measure, reckon, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="measure anew what no other benchmark does")
    parser.add_argument(
        "--quick", action="store_true", help="tiny samples, to see that it works: the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for what is measured (default: %(default)s)")
    parser.add_argument("--update-docs", action="store_true", help="put the tables into docs/scaling.md")
    chosen, out = parser.parse_args(), console()
    try:
        if chosen.measure:
            write_json(chosen.output, measure(QUICK if chosen.quick else FULL))
        facts = Facts.read(RESULTS.parent, read_json(chosen.output))
        for name, table in PARTS.items():
            lines = table(facts)
            show(name, lines, out)
            if chosen.update_docs:
                said = bullets(of_sampling.notes(facts)) if name == "measurements" else ""
                update_readme(f"large_cases.py, {name}", f"{markdown_table(lines)}\n\n{said}".rstrip(), PAGE)
    except PcdiffError as error:
        raise SystemExit(f"large_cases.py: {error}") from error


if __name__ == "__main__":
    main()
