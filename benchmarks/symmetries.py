"""How far nets for a periodic box are from the 48 symmetries of the cube: by construction, and learned.

    python benchmarks/symmetries.py --update-docs

Trains a net of each kind on the embedded boxes as configs/halos_quick.yaml says, the transformer with `features.reflect: true`, and turns noised held-out boxes in
all 48 ways. A net f with a symmetry R has f(R x) = R f(x). What is measured is the root mean square of f(R x) - R f(x): for positions over that of f(x),
where f is the preconditioned output, and for velocities over the root mean square of the error of f(x), where f is the expected clean velocity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import conditions, described
from tables import bullets, console, markdown_table, show, update_readme
from torch import Tensor

import pcdiff
from pcdiff.allocator import keep_freed_memory
from pcdiff.config import load_config
from pcdiff.files import write_json
from pcdiff.generator import Generator
from pcdiff.loader import batch_of
from pcdiff.resources import find
from pcdiff.torus import AXES, Torus
from pcdiff.training import train

RESULTS = Path(__file__).with_name("results") / "symmetries.json"
METHODS = Path(__file__).parents[1] / "docs" / "methods.md"
NETS: dict[str, tuple[str, ...]] = {
    "periodic-graph": (),
    "periodic-transformer": ("net={kind: periodic-transformer}", "features.reflect=true"),
}
_LOG_SNR = (-6.0, -3.0, 0.0, 3.0, 6.0)
_SYMMETRIES = tuple(product(AXES, product((1, -1), repeat=3)))


def turned(x: Tensor, torus: Torus, order: tuple[int, int, int], signs: tuple[int, ...]) -> Tensor:
    """Positions and vectors (B, N, F) with their axes in another order, and mirrored."""
    out = x.clone()
    for vector in (torus.positions, *torus.vectors):
        out[..., list(vector)] = x[..., [vector[axis] for axis in order]] * torch.tensor(signs, dtype=x.dtype)
    return out


@torch.inference_mode()
def departures(generator: Generator, boxes: pcdiff.PointClouds, seed: int) -> list[list[float]]:
    """Of positions and of velocities at each log-SNR."""
    torus, denoiser = generator.transform.torus, generator.denoiser.double()
    assert torus is not None
    encoded = generator.transform.encode(boxes)
    batch = batch_of(encoded, np.arange(len(boxes)))
    x, cond, mask = batch.x.double(), batch.cond.double(), batch.mask
    places, flows = list(torus.positions), list(torus.vectors[0])
    rng = torch.Generator().manual_seed(seed)
    found = []
    for log_snr in _LOG_SNR:
        t = denoiser.schedule.time(torch.full((len(x),), log_snr, dtype=torch.float64))
        level = denoiser.schedule.level(t)
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype) * mask[..., None]
        x_t = (level.alpha * x + level.sigma * noise) * mask[..., None]
        here = denoiser(x_t, t, mask, cond)
        change = np.zeros(2)
        for order, signs in _SYMMETRIES:
            there = denoiser(turned(x_t, torus, order, signs), t, mask, cond)
            apart = (
                (there.output - turned(here.output, torus, order, signs))[mask][:, places],
                (there.x0 - turned(here.x0, torus, order, signs))[mask][:, flows],
            )
            change += [float(each.square().mean()) for each in apart]
        size = here.output[mask][:, places].square().mean(), (here.x0 - x)[mask][:, flows].square().mean()
        found.append(np.sqrt(change / len(_SYMMETRIES) / np.array([float(each) for each in size])).tolist())
    return found


def lines(rows: dict[str, Any]) -> list[list[str]]:
    """A line a net and noise level."""
    out = [["`net.kind`", "log-SNR", "positions: change over size", "velocities: change over error of the net"]]
    for name, row in rows.items():
        for log_snr, (place, flow) in zip(_LOG_SNR, row["departures"], strict=True):
            out.append([f"`{name}`", f"{log_snr:g}", f"{place:.2g}", f"{flow:.2g}"])
    return out


def main() -> None:
    """Train, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="of training (default: 1200)")
    parser.add_argument("--boxes", type=int, default=20, help="held-out boxes (default: 20)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for all numbers (default: %(default)s)")
    parser.add_argument("--update-docs", action="store_true", help="write the table into docs/methods.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    at, rows = conditions(), {}
    held_out = pcdiff.read(find("datasets/halos_pm/lhc_validation.hdf5"))[: chosen.boxes]
    for name, overrides in NETS.items():
        with tempfile.TemporaryDirectory() as folder:
            steps = (f"training.steps={chosen.steps}", f"training.validate_every={chosen.steps}")
            place = (f"output={Path(folder) / 'run'}", "tracking.enabled=false")
            start = time.process_time()
            run = train(load_config("halos_quick", (*overrides, *steps, *place)), progress=False)
            minutes = (time.process_time() - start) / 60
            rows[name] = {"minutes": minutes, "departures": departures(Generator.load(run), held_out, seed=0)}
    show("symmetries of the cube", lines(rows), console())
    write_json(chosen.output, {"steps": chosen.steps, "boxes": chosen.boxes, "nets": rows, "conditions": at})
    if chosen.update_docs:
        minutes = " and ".join(f"{row['minutes']:.1f}" for row in rows.values())
        about = f"{chosen.steps:,} steps each, {minutes} minutes of one core; {len(held_out)} held-out boxes, one training and one draw of noise."
        text = f"{markdown_table(lines(rows))}\n\n{bullets([about, *described(at)])}"
        update_readme("symmetries.py", text, METHODS)


if __name__ == "__main__":
    main()
