"""What a training run can be told, with units, ranges and defaults."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "Config",
    "DataConfig",
    "EpicConfig",
    "FeaturesConfig",
    "GraphConfig",
    "LossConfig",
    "MultiplicityConfig",
    "OptimConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TransformerConfig",
]


def _mistake(found: object, expected: str, key: str = "") -> PydanticCustomError:
    """A refusal in the words of the config; ``key`` is the part of a section that it is about."""
    return PydanticCustomError("mistake", "expected {expected}", {"found": found, "expected": expected, "key": key})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _no_flag(value: object) -> object:
    # Python counts true as 1, so `steps: true` would train for one step.
    if isinstance(value, bool):
        raise _mistake(value, "a number")
    return value


_Whole = Annotated[int, BeforeValidator(_no_flag)]
_Real = Annotated[float, BeforeValidator(_no_flag)]


def _listed(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise _mistake(value, "a path or a list of paths")
    return value


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's own length check speaks up again about an item that was refused.
    if not value:
        raise _mistake([], "at least 1 item")
    return value


_Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_some)]
_Paths = Annotated[
    _Names,
    BeforeValidator(_listed),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    ),
]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise _mistake(value, "letters, digits and . _ - (it becomes the name of a folder)")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise _mistake(value, "auto, cpu, cuda, cuda:N or mps")
    return value


def _options(value: dict[str, Any]) -> dict[str, Any]:
    for name in ("format", "drop_empty"):
        if name in value:
            raise _mistake(value[name], f"this one as data.{name}", name)
    return value


class DataConfig(_Section):
    train: _Paths
    """Files or globs to train on: a path, a path relative to this config file, or one that pcdiff ships."""
    validation: _Paths
    """Files or globs for the validation loss; found as those of `train` are."""
    format: str | None = None
    """Name of the file format; found from the file when absent."""
    options: Annotated[dict[str, Any], AfterValidator(_options)] = {}
    """Options of the format's reader, for example the column mapping of a private ROOT tree."""
    max_points: _Whole | None = Field(default=None, ge=1)
    """Keep only this many leading points of each cloud."""
    drop_empty: bool = False
    """Leave out clouds without points instead of refusing them."""


class FeaturesConfig(_Section):
    points: dict[str, Literal["standard", "log"]] = Field(
        default={"etarel": "standard", "phirel": "standard", "ptrel": "log"}, min_length=1
    )
    """Point features that the generator makes, and whether each is standardised as it is or its logarithm is."""
    clouds: dict[str, Literal["standard", "log"]] = {"pt": "log", "eta": "standard", "mass": "log"}
    """Cloud features that condition the generator, likewise."""
    type: bool = True
    """Condition on the cloud feature `type` where the data have it."""
    reflect: bool = True
    """Augment training data by the reflections that the schema names as symmetries."""

    @field_validator("clouds")
    @classmethod
    def _type_is_apart(cls, clouds: dict[str, str]) -> dict[str, str]:
        if "type" in clouds:
            raise ValueError("'type' is not a number; condition on it with features.type")
        return clouds


class EpicConfig(_Section):
    kind: Literal["epic"] = "epic"
    """Equivariant point cloud layers: cost linear in the number of points; the choice on a CPU."""
    hidden: _Whole = Field(default=128, ge=1)
    """Width of the point features."""
    layers: _Whole = Field(default=4, ge=1)
    """Number of layers."""
    global_size: _Whole = Field(default=16, ge=1)
    """Width of the vector that the points of a cloud share."""


class TransformerConfig(_Section):
    # Only the default net may leave its kind out; an editor that reads the schema must know.
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["transformer"] = "transformer"
    """Attention between all points of a cloud."""
    hidden: _Whole = Field(default=128, ge=1)
    """Width of the point features."""
    layers: _Whole = Field(default=4, ge=1)
    """Number of layers."""
    heads: _Whole = Field(default=4, ge=1)
    """Attention heads; must divide `hidden`."""

    @field_validator("heads")
    @classmethod
    def _divides_hidden(cls, heads: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden")
        if hidden is not None and hidden % heads:
            raise _mistake(heads, f"a divisor of net.hidden = {hidden}")
        return heads


class GraphConfig(_Section):
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["graph"] = "graph"
    """Message passing between each point and its nearest neighbours."""
    hidden: _Whole = Field(default=128, ge=1)
    """Width of the point features."""
    layers: _Whole = Field(default=3, ge=1)
    """Number of layers."""
    neighbours: _Whole = Field(default=8, ge=1)
    """Number of nearest neighbours of each point."""
    coordinates: _Names = ("etarel", "phirel")
    """Point features that the distance is measured in."""


class ScheduleConfig(_Section):
    kind: Literal["cosine", "linear"] = "cosine"
    """Variance-preserving noise schedule: cosine, or beta linear in time from 0.1 to 20."""


class LossConfig(_Section):
    weight: Literal["epsilon", "velocity"] = "epsilon"
    """Weight over time: the squared error of the noise as it is, or divided by alpha^2 (the error of the net's own output)."""
    times: Literal["uniform", "low-discrepancy"] = "low-discrepancy"
    """How times are drawn: independently, or spread evenly over each batch."""


class OptimConfig(_Section):
    lr: _Real = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: _Real = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    warmup: _Whole = Field(default=200, ge=0)
    """Steps of linear warm-up; a cosine to zero follows."""
    clip: _Real = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: _Real = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights per step, itself warmed up."""


class TrainingConfig(_Section):
    steps: _Whole = Field(default=20_000, ge=1)
    """Number of optimiser steps."""
    points_per_batch: _Whole = Field(default=4096, ge=1)
    """Most points in a batch, padding included; batches hold clouds of similar size."""
    log_every: _Whole = Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    validate_every: _Whole = Field(default=1000, ge=1)
    """Steps between two validations."""
    checkpoint_every: _Whole = Field(default=1000, ge=1)
    """Steps between two checkpoints."""
    keep: _Whole = Field(default=2, ge=1)
    """Number of newest checkpoints kept."""
    compare: _Whole = Field(default=2000, ge=0)
    """At the end generate as many clouds as there are validation clouds, at most this many, and compare them; 0: do not."""
    max_skipped: _Whole = Field(default=20, ge=1)
    """Stop after this many steps in a row whose loss or gradient is not finite."""


class MultiplicityConfig(_Section):
    kind: Literal["flow", "empirical"] = "flow"
    """Normalising flow of (number of points, cloud features | type), or a draw from the training clouds' own values."""
    layers: _Whole = Field(default=3, ge=1)
    """Number of coupling transforms of the flow."""
    hidden: _Whole = Field(default=64, ge=1)
    """Width of the flow's networks."""
    steps: _Whole = Field(default=2000, ge=1)
    """Optimiser steps for the flow."""
    lr: _Real = Field(default=2e-3, gt=0)
    """Learning rate for the flow."""


class SamplingConfig(_Section):
    sampler: Literal["ddim"] = "ddim"
    """The ODE sampler: DDIM and its multistep forms."""
    order: Literal[1, 2] = 2
    """1 is DDIM; 2 is its two-step form, DPM-Solver++(2M)."""
    steps: _Whole = Field(default=20, ge=1)
    """Number of steps; one evaluation of the net each."""
    grid: Literal["log-snr", "uniform", "quadratic"] = "log-snr"
    """How the times are spread: evenly in log-SNR, in t, or in sqrt(t)."""


class TrackingConfig(_Section):
    enabled: bool = True
    """Mirror the run to MLflow."""
    uri: str | None = None
    """Tracking store; the environment's MLFLOW_TRACKING_URI, or else a local sqlite file, when absent."""
    experiment: str = Field(default="pcdiff", min_length=1)
    """Name of the MLflow experiment."""
    interval: _Real = Field(default=5.0, gt=0)
    """Seconds between two transfers."""


def _default_net(value: object) -> object:
    if isinstance(value, dict):
        return {"kind": "epic", **value}
    if not isinstance(value, BaseModel):
        raise _mistake(value, "keys below it such as kind: epic, hidden: 128")
    return value


class Config(_Section):
    """A training run."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Annotated[str, AfterValidator(_name)]
    """Name of the run and of its folder."""
    output: str | None = None
    """Run folder; `runs/NAME` when absent."""
    seed: _Whole = Field(default=0, ge=0, lt=2**63)
    """Seed of everything that is drawn."""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    data: DataConfig
    """What to learn from."""
    features: FeaturesConfig = FeaturesConfig()
    """Which columns are generated and which condition them."""
    net: Annotated[
        EpicConfig | TransformerConfig | GraphConfig, Field(discriminator="kind"), BeforeValidator(_default_net)
    ] = EpicConfig()
    """The net of the denoiser; `kind` chooses among them, `epic` when absent."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How noise is added with time."""
    loss: LossConfig = LossConfig()
    """The denoising loss."""
    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    training: TrainingConfig = TrainingConfig()
    """Length, batches, and what is written when."""
    multiplicity: MultiplicityConfig = MultiplicityConfig()
    """The model of the number of points and the cloud features."""
    sampling: SamplingConfig = SamplingConfig()
    """The sampler that the generator uses unless told otherwise."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the run is mirrored to."""

    @field_validator("net")
    @classmethod
    def _knows_coordinates(
        cls, net: EpicConfig | TransformerConfig | GraphConfig, info: ValidationInfo
    ) -> EpicConfig | TransformerConfig | GraphConfig:
        features = info.data.get("features")
        if isinstance(net, GraphConfig) and features is not None:
            unknown = [name for name in net.coordinates if name not in features.points]
            if unknown:
                raise _mistake(
                    unknown[0], f"only names in features.points: {', '.join(features.points)}", "coordinates"
                )
        return net
