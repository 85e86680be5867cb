"""Put the generator of a finished run into the package, where ``pcdiff sample NAME`` finds it.

    python benchmarks/ship.py runs/gluon30 gluon30 --card card.md --sampling grid=fitted steps=12 precision=auto

writes ``pcdiff/pretrained/NAME``, whole or not at all:

    generator.json, denoiser.safetensors, multiplicity.safetensors    the generator
    README.md           its card: what it makes, from what data, how good it is
    config.yaml         what it was trained with
    training_log.csv    step, losses, learning rate

The weights of the net are rounded to half precision (11 binary digits), which halves their size; they are computed with in single
precision. On a gluon net of 6,000 steps this changed the net's output by 3.5e-4 of its size, and the mass of a jet of the same
noise by 0.007 GeV, where 20 in place of 40 steps of the sampler change it by 0.55 GeV. Take the figures of the card from what
was shipped nevertheless: ``pcdiff sample NAME``.

How it is sampled by default is decided here, once its grids are fitted (``pcdiff grid``) and its quality is known.

A run that was stopped early, when its validation loss no longer fell, say, is taken only where its step is named: --stopped-at 16000.

What belongs to the machine of the run stays there: its name, the paths of data and output, the tracking store.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from pcdiff import resources
from pcdiff.config import Config, RunConfig, TrackingConfig, load_any, to_yaml
from pcdiff.errors import PcdiffError
from pcdiff.files import atomic_folder
from pcdiff.generator import Generator

# The most that the weights of a generator may take, in bytes: each one is in every installation.
LARGEST = 3_000_000

ROOT = Path(__file__).resolve().parents[1]

_PROVENANCE = ("name", "created", "config_hash", "data_fingerprint", "versions", "steps", "teacher", "start")
_LOGGED = {"loss/train": "training_loss", "loss/validation": "validation_loss", "lr": "learning_rate"}


def ship(
    run: Path, name: str, card: Path, sampling: Mapping[str, Any] | None = None, *, stopped_at: int | None = None
) -> Path:
    """Put the generator of a run into the package.

    Args:
        run: folder of a finished run.
        name: what users will call it: small letters, digits, hyphens and underscores, for example ``gluon30``.
        card: Markdown file that becomes its README.md; the first line is its title, ``# What it generates``.
        sampling: what is to be different in its default sampler, keys of :class:`pcdiff.config.SamplingConfig`.
        stopped_at: the step at which the run was stopped early; it stands in the provenance of the generator.

    Returns:
        The folder that was made.

    Raises:
        PcdiffError: the run is not finished, the name or the card will not do, there is a generator of that name, or its weights
            are too large.
    """
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name):
        raise PcdiffError(f"{name!r}: not a name for a generator; expected small letters, digits, hyphens, underscores")
    folder = resources.PRETRAINED / name
    if folder.exists():
        raise PcdiffError(f"{folder}: there is a generator of this name; remove it first")
    if not card.read_text(encoding="utf-8").startswith("# "):
        raise PcdiffError(f"{card}: begins without a title; expected '# ' and what the generator makes")
    generator, config = Generator.load(run), load_any(run)
    steps = generator.provenance.get("steps", 0)
    if steps < config.training.steps and steps != stopped_at:
        wanted = "a finished run" if stopped_at is None else f"one that was stopped at step {stopped_at:,}"
        raise PcdiffError(f"{run}: trained for {steps:,} of {config.training.steps:,} steps; expected {wanted}")
    generator.settings = replace(generator.settings, sampling=generator.choose(**(sampling or {})))
    _halve(generator.denoiser.net, run)
    generator.provenance = _portable_provenance(generator.provenance) | {"name": name}
    with atomic_folder(folder) as temporary:
        generator.save(temporary)
        size = sum(file.stat().st_size for file in temporary.glob("*.safetensors"))
        if size > LARGEST:
            raise PcdiffError(f"{run}: its weights take {size:,} bytes; expected at most {LARGEST:,}")
        shutil.copyfile(card, temporary / "README.md")
        (temporary / "config.yaml").write_text(to_yaml(_portable_config(config, name)), encoding="utf-8")
        _write_log(run / "metrics.jsonl", temporary / "training_log.csv", steps)
    return folder


def _halve(net: nn.Module, run: Path) -> None:
    """Round the weights; buffers, such as the frequencies of an embedding, stay as they are."""
    for parameter in net.parameters():
        parameter.data = parameter.data.half()
    if not all(torch.isfinite(parameter).all() for parameter in net.parameters()):
        raise PcdiffError(f"{run}: has weights beyond 65504, the largest number of half precision")


def _portable_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Of a generator and of those that it learned from, only what says nothing of a machine; of a start, not what that began from."""
    found = {key: value for key, value in provenance.items() if key in _PROVENANCE}
    others = {key: _portable_provenance(found[key]) for key in ("teacher", "start") if key in found}
    if "start" in others:
        others["start"].pop("start", None)
    return found | others


def _portable_config(config: RunConfig, name: str) -> RunConfig:
    """The config without output, device and tracking store; of paths elsewhere than in this checkout, the last part."""
    here: dict[str, Any] = {"name": name, "output": None, "device": "auto", "tracking": TrackingConfig()}
    if isinstance(config, Config):
        data = config.data
        paths = {"train": tuple(map(_portable, data.train)), "validation": tuple(map(_portable, data.validation))}
        here["data"] = data.model_copy(update=paths)
    else:
        here["teacher"] = _portable(config.teacher)
    here["start"] = None if config.start is None else _portable(config.start)
    return config.model_copy(update=here)


def _portable(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_absolute():
        return name
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _write_log(metrics: Path, output: Path, steps: int) -> None:
    """What the run logged up to the step that is shipped."""
    with metrics.open(encoding="utf-8") as lines, output.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["step", *_LOGGED.values()])
        for line in map(json.loads, lines):
            if line["step"] > steps:
                break
            values = [line["metrics"].get(key) for key in _LOGGED]
            if not any(value is not None for value in values):
                # That of the comparison at the end.
                continue
            table.writerow([line["step"], *("" if value is None else f"{value:.6g}" for value in values)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put the generator of a finished run into the package.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("name", help="what users call it, for example gluon30")
    parser.add_argument("--card", type=Path, required=True, help="Markdown file: what it makes, from what, how good")
    parser.add_argument(
        "--sampling", nargs="+", default=[], metavar="KEY=VALUE", help="of the default sampler, for example steps=12"
    )
    parser.add_argument(
        "--stopped-at", type=int, metavar="STEP", help="take a run that was stopped early, at this step"
    )
    args = parser.parse_args(argv)
    try:
        pairs = (text.partition("=") for text in args.sampling)
        sampling = {key: yaml.safe_load(value) for key, _, value in pairs}
        print(ship(args.run, args.name, args.card, sampling, stopped_at=args.stopped_at))
    except (PcdiffError, OSError, TypeError) as error:
        sys.stderr.write(f"ship.py: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
