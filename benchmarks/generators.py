"""The generators that are measured: those that are named, or those that come with pcdiff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcdiff.errors import DataError
from pcdiff.generator import Generator
from pcdiff.resources import pretrained


def load_all(given: Sequence[str]) -> dict[str, Generator]:
    """Generators by the last part of what they are called; all that come with pcdiff, possibly none, when none is given.

    Args:
        given: folders of runs or generators, or names of those that come with pcdiff.

    Raises:
        ModelError: one of them is not there.
        DataError: two have the same last part.
    """
    names = [Path(name).name for name in given or pretrained()]
    if len(set(names)) < len(names):
        raise DataError(f"generators {', '.join(given)}: expected different names at the end of each")
    return {name: Generator.load(path) for name, path in zip(names, given or pretrained(), strict=True)}


def evaluations(generator: Generator, **sampling: Any) -> int:
    """How often the net is evaluated for one cloud, by the default sampler but for what is named."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = generator.denoiser.net.register_forward_hook(count)
    generator.sample(1, device="cpu", **sampling)
    hook.remove()
    return calls
