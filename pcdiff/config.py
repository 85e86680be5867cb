"""Typed configuration: what a training run can be told, with units, ranges and defaults.

Every model forbids unknown keys and is frozen. :func:`load_config` reads YAML with ``key.path=value`` overrides and reports
all mistakes at once, each with its file and key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Config"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(_Section):
    train: str | tuple[str, ...]
    """Files or globs to train on: a path, a path relative to this config file, or one that pcdiff ships."""
    validation: str | tuple[str, ...]
    """Files or globs for the validation loss."""
    format: str | None = None
    """Name of the file format; found from the file when absent."""
    options: dict[str, Any] = {}
    """Options of the format's reader, for example the column mapping of a private ROOT tree."""
    max_points: int | None = Field(None, ge=1)
    """Keep only this many leading points of each cloud."""
    drop_empty: bool = False
    """Leave out clouds without points instead of refusing them."""


class FeaturesConfig(_Section):
    points: dict[str, Literal["standard", "log"]] = {"etarel": "standard", "phirel": "standard", "ptrel": "log"}
    """Point features that the generator makes, and whether each is standardised as it is or its logarithm is."""
    clouds: dict[str, Literal["standard", "log"]] = {"pt": "log", "eta": "standard", "mass": "log"}
    """Cloud features that condition the generator, likewise."""
    type: bool = True
    """Condition on the cloud feature `type` where the data have it."""
    reflect: bool = True
    """Augment training data by the reflections that the schema names as symmetries."""


class EpicConfig(_Section):
    kind: Literal["epic"] = "epic"
    """Equivariant point cloud layers: cost linear in the number of points; the choice on a CPU."""
    hidden: int = Field(128, ge=1)
    """Width of the point features."""
    layers: int = Field(4, ge=1)
    """Number of layers."""
    global_size: int = Field(16, ge=1)
    """Width of the vector that the points of a cloud share."""


class TransformerConfig(_Section):
    kind: Literal["transformer"] = "transformer"
    """Attention between all points of a cloud."""
    hidden: int = Field(128, ge=1)
    """Width of the point features."""
    layers: int = Field(4, ge=1)
    """Number of layers."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide `hidden`."""


class GraphConfig(_Section):
    kind: Literal["graph"] = "graph"
    """Message passing between each point and its nearest neighbours."""
    hidden: int = Field(128, ge=1)
    """Width of the point features."""
    layers: int = Field(3, ge=1)
    """Number of layers."""
    neighbours: int = Field(8, ge=1)
    """Number of nearest neighbours of each point."""
    coordinates: tuple[str, ...] = ("etarel", "phirel")
    """Point features that the distance is measured in."""


class ScheduleConfig(_Section):
    kind: Literal["cosine", "linear"] = "cosine"
    """Variance-preserving noise schedule: cosine, or beta linear in time from 0.1 to 20."""


class LossConfig(_Section):
    weight: Literal["epsilon", "velocity"] = "epsilon"
    """Weight over time: |eps - eps_hat|^2 as it is, or divided by alpha^2 (the error of the net's own output)."""
    times: Literal["uniform", "low-discrepancy"] = "low-discrepancy"
    """How times are drawn: independently, or spread evenly over each batch."""


class OptimConfig(_Section):
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    warmup: int = Field(200, ge=0)
    """Steps of linear warm-up; a cosine to zero follows."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of the weights per step, itself warmed up."""


class TrainingConfig(_Section):
    steps: int = Field(20_000, ge=1)
    """Number of optimiser steps."""
    points_per_batch: int = Field(4096, ge=1)
    """Most points in a batch, padding included; batches hold clouds of similar size."""
    log_every: int = Field(50, ge=1)
    """Steps between two lines of metrics."""
    validate_every: int = Field(1000, ge=1)
    """Steps between two validations."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints."""
    keep: int = Field(2, ge=1)
    """Number of newest checkpoints kept."""
    max_skipped: int = Field(20, ge=1)
    """Stop after this many steps in a row whose loss or gradient is not finite."""


class MultiplicityConfig(_Section):
    kind: Literal["flow", "empirical"] = "flow"
    """Normalising flow of (number of points, cloud features | type), or a draw from the training clouds' own values."""
    layers: int = Field(3, ge=1)
    """Number of coupling transforms of the flow."""
    hidden: int = Field(64, ge=1)
    """Width of the flow's networks."""
    steps: int = Field(2000, ge=1)
    """Optimiser steps for the flow."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate for the flow."""


class SamplingConfig(_Section):
    sampler: Literal["ddim"] = "ddim"
    """The ODE sampler: DDIM and its multistep forms."""
    order: Literal[1, 2] = 2
    """1 is DDIM; 2 is its two-step form, DPM-Solver++(2M)."""
    steps: int = Field(20, ge=1)
    """Number of steps; one evaluation of the net each."""
    grid: Literal["log-snr", "uniform", "quadratic"] = "log-snr"
    """How the times are spread: evenly in log-SNR, in t, or in sqrt(t)."""


class TrackingConfig(_Section):
    enabled: bool = True
    """Mirror the run to MLflow."""
    uri: str | None = None
    """Tracking store; the environment's MLFLOW_TRACKING_URI, or else a local sqlite file, when absent."""
    experiment: str = "pcdiff"
    """Name of the MLflow experiment."""
    interval: float = Field(5.0, gt=0)
    """Seconds between two transfers."""


class Config(_Section):
    """A training run."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: str
    """Name of the run and of its folder."""
    output: str | None = None
    """Run folder; `runs/NAME` when absent."""
    seed: int = Field(0, ge=0)
    """Seed of everything that is drawn."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    data: DataConfig
    features: FeaturesConfig = FeaturesConfig()
    net: Annotated[EpicConfig | TransformerConfig | GraphConfig, Field(discriminator="kind")] = EpicConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    training: TrainingConfig = TrainingConfig()
    multiplicity: MultiplicityConfig = MultiplicityConfig()
    sampling: SamplingConfig = SamplingConfig()
    tracking: TrackingConfig = TrackingConfig()
