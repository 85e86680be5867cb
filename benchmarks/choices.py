"""What helps most per minute of training, on the way from a plain net to configs/gluon30_teacher.yaml.

    make gluon30-data
    python benchmarks/choices.py --minutes 4 --update-readme

Each row is trained for the same time on one core, on the data of the reference generator, and judged by the variational bound of
validation jets: that of all rows is taken with the same jets, times and noise, so their differences have small errors. A nat less is
a likelihood greater by a factor e for each jet. Rows that are done are kept; a run that was cut off goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import conditions, described
from tables import bullets, console, markdown_table, show, update_readme

from pcdiff.config import Config, load_config
from pcdiff.diffusion.likelihood import variational_bound
from pcdiff.errors import PcdiffError
from pcdiff.files import read_json, write_json
from pcdiff.generator import Generator
from pcdiff.loader import Loader
from pcdiff.training import train
from pcdiff.training_data import TrainingData

CONFIG = Path(__file__).parents[1] / "configs" / "gluon30_teacher.yaml"
RESULTS = Path(__file__).with_name("results") / "choices.json"

# Draws of time and noise for the bound of each jet.
_DRAWS = 32
# Steps that tell how many fit into the time, the first half of which is warm-up.
_PROBE = 100


@dataclass(frozen=True)
class Choice:
    """One row: what is different from the row before it, and all that is different from configs/gluon30_teacher.yaml."""

    name: str
    overrides: tuple[str, ...]


_SMALL = ("training.points_per_batch=3840",)
_ADAMW = ("optim={kind: adamw, lr: 1.0e-3, weight_decay: 0.03}", *_SMALL)
_FOUR = ("net.layers=4",)
CHOICES = (
    Choice("EPiC of 4 layers, even times, AdamW", (*_FOUR, *_ADAMW, "net.heads=0", "loss.times=low-discrepancy")),
    Choice("times by a logit-normal", (*_FOUR, *_ADAMW, "net.heads=0")),
    Choice("and 1 attention head", (*_FOUR, *_ADAMW, "net.heads=1")),
    Choice("2 attention heads", (*_FOUR, *_ADAMW)),
    Choice("and Muon, in batches of 256 jets", _FOUR),
    Choice("and 6 layers: configs/gluon30_teacher.yaml", ()),
    Choice("float32 instead of bfloat16", ("training.precision=float32",)),
    Choice("a transformer of 4 layers instead", ("net={kind: transformer, layers: 4}",)),
)


def measure(choice: Choice, minutes: float, jets: int, folder: Path) -> dict[str, Any]:
    """Train one row and judge it: plain data."""
    quiet = ("training.compare=0", "tracking.enabled=false", "multiplicity.steps=1", "multiplicity.hidden=8")
    # So short a training has no time for the long ones of the config.
    short = ("optim.warmup=50", "optim.ema=0.99", "training.log_every=50")
    settings = (*choice.overrides, *quiet, *short)

    def run(name: str, steps: int) -> tuple[Config, Path]:
        whole = (*settings, f"output={folder / name}", f"training.steps={steps}", f"training.validate_every={steps}")
        config = load_config(CONFIG, [*whole, f"training.checkpoint_every={steps}"])
        return config, train(config, progress=False)

    _, probe = run("probe", _PROBE)
    rate = [json.loads(line)["metrics"] for line in (probe / "metrics.jsonl").read_text().splitlines()][-1]
    steps = max(_PROBE, round(60 * minutes * rate["steps_per_second"]))
    start = time.process_time()
    config, made = run("run", steps)
    seconds = time.process_time() - start
    data = TrainingData.load(config)
    denoiser = Generator.load(made).denoiser
    bounds = []
    for i, batch in enumerate(Loader(data.validation, 250 * 30, 0).epoch(0)):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            found = variational_bound(denoiser, batch.x, batch.mask, batch.cond, generator=generator, draws=_DRAWS)
        bounds.append(found.total.numpy())
        if sum(map(len, bounds)) >= jets:
            break
    clouds = round(steps * Loader(data.train, config.training.points_per_batch, config.seed).mean_batch)
    return {
        "name": choice.name,
        "overrides": list(choice.overrides),
        "parameters": sum(p.numel() for p in denoiser.net.parameters()),
        "steps": steps,
        "jets": clouds,
        "cpu_minutes": seconds / 60,
        "bounds": [round(float(bound), 2) for bound in np.concatenate(bounds)[:jets]],
    }


def lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table: the bound of each row less that of the first, with the error of the mean of the differences."""
    out = [["choice", "parameters", "jets seen", "bound less the first row's, nats a jet"]]
    first = np.asarray(rows[0]["bounds"])
    for row in rows:
        less = np.asarray(row["bounds"]) - first
        error = less.std() / math.sqrt(len(less))
        shown = "0" if row is rows[0] else f"{less.mean():+.2f} ± {error:.2f}"
        out.append([row["name"], f"{row['parameters']:,}", f"{row['jets']:,}", shown])
    return out


def main() -> None:
    """Train the rows that are not there yet, then show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="training of each row; default: 4")
    parser.add_argument("--jets", type=int, default=4000, help="validation jets of the bound; default: 4000")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--update-readme", action="store_true", help="write the table into benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"minutes": options.minutes, "jets": options.jets}
    found = read_json(options.results) if options.results.exists() else {"asked": asked, "rows": []}
    if found["asked"] != asked:
        raise PcdiffError(f"{options.results}: holds rows of {found['asked']}, not {asked}; remove it to begin anew")
    for choice in CHOICES[len(found["rows"]) :]:
        with tempfile.TemporaryDirectory() as folder:
            found["rows"].append(measure(choice, options.minutes, options.jets, Path(folder)))
        found["conditions"] = conditions()
        write_json(options.results, found)
        show("choices", lines(found["rows"]), console())
    notes = [
        f"Each row: {options.minutes:g} minutes on one core; {options.jets:,} validation jets, {_DRAWS} draws each.",
        *described(found["conditions"]),
    ]
    if options.update_readme:
        update_readme("choices.py", f"{markdown_table(lines(found['rows']))}\n\n{bullets(notes)}")


if __name__ == "__main__":
    main()
