"""What a distillation can be told: a generator that does in a few steps what another does in many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from pcdiff.config.models import (
    Config,
    Device,
    MultiplicityConfig,
    Name,
    Net,
    OptimConfig,
    Paths,
    TrackingConfig,
    TrainingConfig,
)
from pcdiff.config.section import Real, Section, Whole, mistake

__all__ = ["DistillConfig", "PairsConfig", "RunConfig"]


class PairsConfig(Section):
    train: Whole = Field(default=100_000, ge=1)
    """Number of trajectories of the teacher to learn from."""
    validation: Whole = Field(default=2_000, ge=1)
    """Number of further trajectories for the validation loss."""


class TeacherSampling(Section):
    """What is to be different from the teacher's default sampler; keys of `sampling` in a training's config."""

    sampler: str | None = None
    """The sampler, one of the ODE."""
    order: Whole | None = Field(default=None, ge=1, le=3)
    """Its order."""
    steps: Whole | None = Field(default=None, ge=1)
    """Number of steps."""
    grid: str | None = None
    """Where the times lie."""
    options: dict[str, Real] | None = None
    """The sampler's own settings."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """What the net is computed in."""


class DistillConfig(Section):
    """A distillation."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Name
    """Name of the run and of its folder."""
    output: str | None = None
    """Run folder; `runs/NAME` when absent."""
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    """Seed of everything that is drawn."""
    device: Device = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    teacher: str = Field(min_length=1)
    """Run folder or generator folder to learn from; found as data files are: relative to the working directory or to this file."""
    start: str | None = Field(default=None, min_length=1)
    """A run, a generator's folder or the name of one that comes with pcdiff, of the same net, whose weights the student begins from."""
    steps: Whole = Field(default=1, ge=1, le=8)
    """Number of steps of the student, one evaluation of its net each."""
    pairs: PairsConfig = PairsConfig()
    """How many trajectories the teacher solves."""
    sampling: TeacherSampling = TeacherSampling()
    """How the teacher is sampled, by a sampler of the ODE; what is absent is as it is by default."""
    net: Net | None = None
    """The student's net; the teacher's, with its weights to begin from, when absent."""
    multiplicity: MultiplicityConfig | None = None
    """The student's model of the number of points and the cloud features, fitted to what the teacher's draws; the teacher's own when absent.
    Beside a net of one evaluation it is not cheap."""
    matching: Real = Field(default=0.0, ge=0)
    """Weight of the energy distance between the student's clouds and the teacher's, beside the distance of each cloud to its own
    trajectory; batches of some hundred clouds see it best."""
    truth: Paths | None = None
    """Files of true clouds, those that the teacher learned from, with as many points as it makes; found as data files are. With them `matching` is the
    distance to the truth, one observable at a time."""
    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    training: TrainingConfig = TrainingConfig()
    """Length, batches, and what is written when; the comparison at the end is with clouds of the teacher."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the run is mirrored to."""

    @field_validator("truth")
    @classmethod
    def _of_matching(cls, truth: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if truth is not None and not info.data.get("matching", 1):
            raise mistake(list(truth), "this key with matching above 0 only")
        return truth


RunConfig = Config | DistillConfig
"""What a run folder's config.yaml may be."""
