"""Configuration: YAML with ``key.path=value`` overrides in, one typed and frozen :class:`Config` out.

Every section forbids unknown keys. :func:`load_config` reports all mistakes at once, each with its file and key.
"""

from __future__ import annotations

from pcdiff.config.distill import DistillConfig, PairsConfig, RunConfig
from pcdiff.config.load import load_any, load_as, load_config
from pcdiff.config.models import (
    PERIODIC,
    SAMPLER_FACTS,
    Config,
    DataConfig,
    DenoiserConfig,
    EpicConfig,
    FeaturesConfig,
    GraphConfig,
    LossConfig,
    MultiplicityConfig,
    NetConfig,
    OptimConfig,
    PeriodicGraphConfig,
    PeriodicTransformerConfig,
    SamplingConfig,
    ScheduleConfig,
    TrackingConfig,
    TrainingConfig,
    TransformerConfig,
)
from pcdiff.config.store import config_hash, flat, json_schema, to_yaml

__all__ = [
    "PERIODIC",
    "SAMPLER_FACTS",
    "Config",
    "DataConfig",
    "DenoiserConfig",
    "DistillConfig",
    "EpicConfig",
    "FeaturesConfig",
    "GraphConfig",
    "LossConfig",
    "MultiplicityConfig",
    "NetConfig",
    "OptimConfig",
    "PairsConfig",
    "PeriodicGraphConfig",
    "PeriodicTransformerConfig",
    "RunConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TransformerConfig",
    "config_hash",
    "flat",
    "json_schema",
    "load_any",
    "load_as",
    "load_config",
    "to_yaml",
]
