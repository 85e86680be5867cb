"""What a training run can be told, with units, ranges and defaults."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from pcdiff.config.nets import (
    DEEPEST,
    PERIODIC,
    WIDEST,
    EpicConfig,
    GraphConfig,
    NetConfig,
    PeriodicGraphConfig,
    PeriodicTransformerConfig,
    TransformerConfig,
)
from pcdiff.config.sampling import SAMPLER_FACTS, SamplingConfig
from pcdiff.config.section import Names, Real, Section, Whole, mistake

__all__ = [
    "PERIODIC",
    "SAMPLER_FACTS",
    "Config",
    "DataConfig",
    "DenoiserConfig",
    "EpicConfig",
    "FeaturesConfig",
    "GraphConfig",
    "LossConfig",
    "MultiplicityConfig",
    "NetConfig",
    "OptimConfig",
    "PeriodicGraphConfig",
    "PeriodicTransformerConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TransformerConfig",
]


_ON_TORUS = ("epsilon", "likelihood", "min-snr", "sigmoid", "output")


def _listed(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise mistake(value, "a path or a list of paths")
    return value


Paths = Annotated[
    Names,
    BeforeValidator(_listed),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    ),
]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise mistake(value, "letters, digits and . _ - (it becomes the name of a folder)")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise mistake(value, "auto, cpu, cuda, cuda:N or mps")
    return value


Name = Annotated[str, AfterValidator(_name)]
Device = Annotated[str, AfterValidator(_device)]


def _options(value: dict[str, Any]) -> dict[str, Any]:
    for name in ("format", "drop_empty"):
        if name in value:
            raise mistake(value[name], f"this one as data.{name}", name)
    return value


class DataConfig(Section):
    train: Paths
    """Files or globs to train on: a path, a path relative to this config file, or one that pcdiff ships."""
    validation: Paths
    """Files or globs for the validation loss; found as those of `train` are."""
    format: str | None = None
    """Name of the file format; found from the file when absent."""
    options: Annotated[dict[str, Any], AfterValidator(_options)] = Field(default={})
    """Options of the format's reader, for example the column mapping of a private ROOT tree."""
    max_points: Whole | None = Field(default=None, ge=1)
    """Keep only this many leading points of each cloud."""
    drop_empty: bool = False
    """Leave out clouds without points instead of refusing them."""


class FeaturesConfig(Section):
    points: dict[str, Literal["standard", "log", "normal-score", "categorical", "periodic"]] = Field(
        default={"etarel": "standard", "phirel": "standard", "ptrel": "log"}, min_length=1
    )
    """Point features that the generator makes, and whether each is standardised as it is, or its logarithm is; is brought to a normal distribution
    through its quantiles; is a whole number that stands for a category; or is a position in a periodic box, as x, y and z of halos."""
    clouds: dict[str, Literal["standard", "log"]] = Field(default={"pt": "log", "eta": "standard", "mass": "log"})
    """Cloud features that condition the generator, and whether each is standardised as it is or its logarithm is."""
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


class ScheduleConfig(Section):
    kind: Literal["cosine", "linear", "ddpm", "sub-vp", "ve", "edm", "rectified", "rectified-sqrt", "learned"] = (
        "cosine"
    )
    """How noise grows with time. Variance-preserving: cosine; beta linear in time from 0.1 to 20; the discrete chain of
    DDPM; learned with the net. Others: sub-variance-preserving, variance-exploding, EDM (the time is sigma), and straight lines
    between data and noise (sigma = t, or its square root)."""
    steps: Whole = Field(default=1000, ge=2, le=1_000_000)
    """Length of the chain; read by the kind `ddpm` only."""
    beta_first: Real = Field(default=1e-4, gt=0, lt=1)
    """Share of noise in the chain's first step; read by the kind `ddpm` only."""
    beta_last: Real = Field(default=0.02, gt=0, lt=1)
    """Share of noise in the chain's last step; read by the kind `ddpm` only."""

    log_snr_max: Real = Field(default=12.0, gt=0, le=12)
    """Log-SNR at which diffusion begins and sampling ends; read by all kinds but `ddpm` and `learned`. 12 is noise of 0.0025 of the data's scale, 8
    of 0.018: enough where data have no finer structure."""

    @field_validator("log_snr_max")
    @classmethod
    def _of_free_ends(cls, value: float, info: ValidationInfo) -> float:
        kind = info.data.get("kind")
        if kind in ("ddpm", "learned") and value != cls.model_fields["log_snr_max"].default:
            raise mistake(value, f"another kind with this key than {kind}")
        return value

    @field_validator("steps", "beta_first", "beta_last")
    @classmethod
    def _of_the_chain(cls, value: float, info: ValidationInfo) -> float:
        kind = info.data.get("kind")
        if kind not in (None, "ddpm") and value != cls.model_fields[info.field_name or ""].default:
            raise mistake(value, f"this key with kind: ddpm only, not {kind}")
        return value


class DenoiserConfig(Section):
    parametrisation: Literal["preconditioned", "epsilon", "x0", "v", "score", "velocity"] = "preconditioned"
    """What the net puts out. Preconditioned: such that the untrained net is the exact denoiser of Gaussian data."""
    potential: bool = False
    """Let the net's output be the gradient of a scalar, so that the score is exactly a gradient field."""
    dimension: Real | None = Field(default=None, ge=1)
    """Number of augmented dimensions D of a Poisson flow (PFGM++; 1 is PFGM); Gaussian noise when absent."""
    drop_conditions: Real = Field(default=0.0, ge=0, lt=1)
    """Share of training clouds whose conditions are hidden, but for the number of points; classifier-free guidance needs it."""


class LossConfig(Section):
    objective: Literal["denoising", "implicit-score", "sliced-score", "action"] = "denoising"
    """Denoising, or score matching with the exact divergence or with random projections, or Action Matching."""
    weight: Literal["epsilon", "velocity", "x0", "flow-matching", "likelihood", "min-snr", "sigmoid", "output"] = (
        "epsilon"
    )
    """Weight of denoising over time: the squared error of the noise as it is, of the preconditioned output (that of EDM), of the
    clean cloud, of the flow's velocity, the variational bound, min-SNR with gamma 5, the sigmoid of the log-SNR, or the squared error of what the net puts
    out, alike in each unit of log-SNR."""
    times: Literal["uniform", "low-discrepancy", "logit-normal", "importance", "log-snr"] = "low-discrepancy"
    """How times are drawn: independently, spread evenly over each batch, with a logit-normal noise level, or in proportion
    to the weight or evenly in log-SNR, with that density divided out."""


class OptimConfig(Section):
    kind: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices within the net's layers and AdamW for the rest."""
    lr: Real = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    hidden_lr: Real = Field(default=0.02, gt=0)
    """Peak learning rate of Muon; read by the kind `muon` only."""
    weight_decay: Real = Field(default=0.0, ge=0)
    """Weight decay."""
    warmup: Whole = Field(default=200, ge=0)
    """Steps of linear warm-up; a cosine to zero follows."""
    clip: Real = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: Real = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights per step, itself warmed up."""

    @field_validator("hidden_lr")
    @classmethod
    def _of_muon(cls, hidden_lr: float, info: ValidationInfo) -> float:
        kind = info.data.get("kind")
        if kind not in (None, "muon") and hidden_lr != cls.model_fields["hidden_lr"].default:
            raise mistake(hidden_lr, f"this key with kind: muon only, not {kind}")
        return hidden_lr


class TrainingConfig(Section):
    steps: Whole = Field(default=20_000, ge=1)
    """Number of optimiser steps."""
    points_per_batch: Whole = Field(default=4096, ge=1)
    """Most points in a batch, padding included; batches hold clouds of similar size. A batch is that of all processes together."""
    accumulate: Whole = Field(default=1, ge=1)
    """Pieces that each process computes its share of a batch in, one after the other, for less memory; nothing but rounding depends on it."""
    log_every: Whole = Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    validate_every: Whole = Field(default=1000, ge=1)
    """Steps between two validations."""
    checkpoint_every: Whole = Field(default=1000, ge=1)
    """Steps between two checkpoints."""
    keep: Whole = Field(default=2, ge=1)
    """Number of newest checkpoints kept."""
    compare: Whole = Field(default=2000, ge=0)
    """At the end generate as many clouds as there are validation clouds, at most this many, and compare them; 0: do not."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """What the net is computed in; weights stay float32. Auto: bfloat16 where the hardware multiplies in it, which halves the time."""
    max_skipped: Whole = Field(default=20, ge=1)
    """Stop after this many steps in a row whose loss or gradient is not finite."""


class MultiplicityConfig(Section):
    kind: Literal["flow", "regression", "empirical"] = "flow"
    """Normalising flow of (number of points, cloud features | type); a polynomial regression of the number of points on the features, for features that
    were designed, such as universes; or a draw from the training clouds' own values."""
    coupling: Literal["spline", "affine"] = "spline"
    """The flow's transforms: a neural spline flow, or RealNVP, which needs at least one cloud feature."""
    layers: Whole = Field(default=3, ge=1, le=DEEPEST)
    """Number of coupling transforms of the flow."""
    hidden: Whole = Field(default=64, ge=1, le=WIDEST)
    """Width of the flow's networks."""
    steps: Whole = Field(default=2000, ge=1)
    """Optimiser steps for the flow."""
    lr: Real = Field(default=2e-3, gt=0)
    """Learning rate for the flow."""


class TrackingConfig(Section):
    enabled: bool = True
    """Mirror the run to MLflow."""
    uri: str | None = None
    """Tracking store; the environment's MLFLOW_TRACKING_URI, or else a local sqlite file, when absent."""
    experiment: str = Field(default="pcdiff", min_length=1)
    """Name of the MLflow experiment."""
    interval: Real = Field(default=5.0, gt=0)
    """Seconds between two transfers."""


def _default_net(value: object) -> object:
    if isinstance(value, dict):
        return {"kind": "epic", **value}
    if not isinstance(value, BaseModel):
        raise mistake(value, "keys below it such as kind: epic, hidden: 128")
    return value


Net = Annotated[NetConfig, Field(discriminator="kind"), BeforeValidator(_default_net)]


class Config(Section):
    """A training run."""

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
    start: str | None = Field(default=None, min_length=1)
    """A run, a generator's folder or the name of one that comes with pcdiff, whose weights and scales training begins from."""
    data: DataConfig
    """What to learn from."""
    features: FeaturesConfig = FeaturesConfig()
    """Which columns are generated and which condition them."""
    net: Net = EpicConfig()
    """The net of the denoiser; `kind` chooses among them, `epic` when absent."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How noise is added with time."""
    denoiser: DenoiserConfig = DenoiserConfig()
    """How the net's output is read."""
    loss: LossConfig = Field(default=LossConfig(), validate_default=True)
    """What is minimised."""
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

    @field_validator("denoiser")
    @classmethod
    def _fits_the_features(cls, denoiser: DenoiserConfig, info: ValidationInfo) -> DenoiserConfig:
        features = info.data.get("features")
        if features is not None and denoiser.potential and "categorical" in features.points.values():
            raise mistake(
                True, "false, for features.points holds categories, whose expectation is no gradient", "potential"
            )
        return denoiser

    @field_validator("loss")
    @classmethod
    def _fits_the_denoiser(cls, loss: LossConfig, info: ValidationInfo) -> LossConfig:
        # What an objective does not read must not be set for it.
        unread = {"denoising": (), "action": ("weight", "times")}.get(loss.objective, ("weight",))
        for name in unread:
            value = getattr(loss, name)
            read = name == "weight" and loss.times == "importance" and loss.objective != "action"
            if value != LossConfig.model_fields[name].default and not read:
                raise mistake(value, f"this key with loss.objective: denoising only, not {loss.objective}", name)
        denoiser, schedule, net = (info.data.get(name) for name in ("denoiser", "schedule", "net"))
        if denoiser is None or schedule is None or net is None:
            return loss
        if loss.objective != "denoising" and isinstance(net, GraphConfig):
            # Their divergence misses what happens where a point's nearest neighbours change.
            raise mistake(loss.objective, "denoising, for the output of net.kind: graph has jumps", "objective")
        if loss.objective == "action" and not denoiser.potential:
            raise mistake(loss.objective, "denoiser.potential: true with it", "objective")
        if loss.objective == "action" and denoiser.parametrisation != "preconditioned":
            raise mistake(loss.objective, "denoiser.parametrisation: preconditioned with it", "objective")
        if loss.objective != "denoising" and denoiser.dimension is not None:
            raise mistake(loss.objective, "denoising, for denoiser.dimension is given", "objective")
        if schedule.kind == "learned" and (loss.objective, loss.weight) != ("denoising", "likelihood"):
            raise mistake(loss.weight, "likelihood, the one weight under which a schedule can be learned", "weight")
        features = info.data.get("features")
        if features is not None and "periodic" in features.points.values():
            if loss.objective != "denoising":
                raise mistake(loss.objective, "denoising, for features.points are periodic", "objective")
            if loss.weight not in _ON_TORUS:
                # The others count the noise of a position beyond all bounds where there is no signal.
                raise mistake(loss.weight, f"{', '.join(_ON_TORUS)}, for features.points are periodic", "weight")
        return loss

    @field_validator("multiplicity")
    @classmethod
    def _has_what_it_couples(cls, multiplicity: MultiplicityConfig, info: ValidationInfo) -> MultiplicityConfig:
        features = info.data.get("features")
        affine = multiplicity.kind == "flow" and multiplicity.coupling == "affine"
        if affine and features is not None and not features.clouds:
            raise mistake(
                "affine", "spline, for there are no features.clouds to couple the number of points with", "coupling"
            )
        return multiplicity

    @field_validator("sampling")
    @classmethod
    def _grid_is_there(cls, sampling: SamplingConfig) -> SamplingConfig:
        if sampling.grid == "fitted":
            raise mistake(sampling.grid, "another one: a grid is fitted after training, by `pcdiff grid`", "grid")
        return sampling

    @field_validator("net")
    @classmethod
    def _knows_coordinates(cls, net: NetConfig, info: ValidationInfo) -> NetConfig:
        features = info.data.get("features")
        if features is not None:
            periodic = [name for name, function in features.points.items() if function == "periodic"]
            if bool(periodic) != isinstance(net, PERIODIC):
                wanted = (
                    "periodic-graph or periodic-transformer, as features.points are periodic"
                    if periodic
                    else ("another kind, as none of features.points are periodic")
                )
                raise mistake(net.kind, wanted, "kind")
        if isinstance(net, GraphConfig) and features is not None:
            # Between code words of categories there is no distance.
            known = [name for name, function in features.points.items() if function != "categorical"]
            unknown = [name for name in net.coordinates if name not in known]
            if unknown:
                raise mistake(unknown[0], f"only names in features.points: {', '.join(known)}", "coordinates")
        return net
