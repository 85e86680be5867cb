"""What is said of the training runs whose samples a report compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pcdiff.evaluation.loss import Losses

__all__ = ["RunSummary", "differing"]

Value = str | int | float | bool | None


@dataclass(frozen=True)
class RunSummary:
    """One training run.

    Attributes:
        name: that of its sample.
        folder: the run folder.
        settings: the values of its config by key path.
        parameters: of the net.
        steps: optimiser steps that its generator was trained for.
        losses: those of training and validation.
        seconds_per_cloud: that sampling took.
        device: the kind of machine that it sampled on.
    """

    name: str
    folder: str
    settings: Mapping[str, Value]
    parameters: int
    steps: int
    losses: Losses
    seconds_per_cloud: float
    device: str

    @property
    def final_validation(self) -> float | None:
        """The last validation loss."""
        return next(reversed(self.losses.validation.values()), None)

    @property
    def best_validation(self) -> tuple[int, float] | None:
        """Step and value of the smallest validation loss."""
        return min(self.losses.validation.items(), key=lambda item: item[1], default=None)

    @property
    def final_training(self) -> float | None:
        """The last training loss."""
        return next(reversed(self.losses.training.values()), None)


def differing(runs: Sequence[RunSummary]) -> dict[str, list[Value]]:
    """The settings that are not the same in all runs: key path -> value of each run, None where it has no such key.

    What is never the same, the names and folders of runs, is left out.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in ("name", "output"))
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}
