"""What each net can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from pcdiff.config.section import Names, Section, Whole, mistake

__all__ = [
    "PERIODIC",
    "EpicConfig",
    "GraphConfig",
    "NetConfig",
    "PeriodicGraphConfig",
    "PeriodicTransformerConfig",
    "TransformerConfig",
]


# Far beyond what is trained; what is read from a file must not ask for more than a machine has.
WIDEST, DEEPEST = 8192, 256


class EpicConfig(Section):
    kind: Literal["epic"] = "epic"
    """Equivariant point cloud layers: cost linear in the number of points; the choice on a CPU."""
    hidden: Whole = Field(default=128, ge=1, le=WIDEST)
    """Width of the point features."""
    layers: Whole = Field(default=4, ge=1, le=DEEPEST)
    """Number of layers."""
    global_size: Whole = Field(default=16, ge=1, le=WIDEST)
    """Width of the vector that the points of a cloud share."""
    heads: Whole = Field(default=0, ge=0, le=WIDEST)
    """Attention heads in each layer, by which points also see each other directly, at a cost that is the square of their number; 0: none,
    as in the paper."""
    value_size: Whole | None = Field(default=None, ge=1, le=WIDEST)
    """Width of what a point shows to those that attend to it, one vector for all heads; all of its features when absent, which costs more."""
    attending: tuple[Whole, ...] | None = None
    """Which layers have the heads, the first being 0; all when absent. On a CPU attention is about half of what a layer costs."""

    @field_validator("value_size", "attending")
    @classmethod
    def _of_attention(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("heads") == 0:
            raise mistake(list(value) if isinstance(value, tuple) else value, "this key with net.heads above 0 only")
        return value

    @field_validator("attending")
    @classmethod
    def _of_layers(cls, attending: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        layers = info.data.get("layers")
        if attending is not None and layers is not None and not set(attending) <= set(range(layers)):
            raise mistake(list(attending), f"numbers of layers, from 0 to {layers - 1}")
        return attending


class _AttentionConfig(Section):
    # Only the default net may leave its kind out; an editor that reads the schema must know.
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    hidden: Whole = Field(default=128, ge=1, le=WIDEST)
    """Width of the point features."""
    layers: Whole = Field(default=4, ge=1, le=DEEPEST)
    """Number of layers."""
    heads: Whole = Field(default=4, ge=1)
    """Attention heads; must divide `hidden`."""

    @field_validator("heads")
    @classmethod
    def _divides_hidden(cls, heads: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden")
        if hidden is not None and hidden % heads:
            raise mistake(heads, f"a divisor of net.hidden = {hidden}")
        return heads


class TransformerConfig(_AttentionConfig):
    kind: Literal["transformer"] = "transformer"
    """Attention between all points of a cloud."""


class GraphConfig(Section):
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["graph"] = "graph"
    """Message passing between each point and its nearest neighbours."""
    hidden: Whole = Field(default=128, ge=1, le=WIDEST)
    """Width of the point features."""
    layers: Whole = Field(default=3, ge=1, le=DEEPEST)
    """Number of layers."""
    neighbours: Whole = Field(default=8, ge=1)
    """Number of nearest neighbours of each point."""
    coordinates: Names = ("etarel", "phirel")
    """Point features that the distance is measured in."""


class PeriodicGraphConfig(Section):
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["periodic-graph"] = "periodic-graph"
    """Message passing of numbers and vectors in a periodic box, between nearest neighbours and through its longest waves."""
    hidden: Whole = Field(default=64, ge=1, le=WIDEST)
    """Width of the point features: so many numbers."""
    vectors: Whole = Field(default=16, ge=1, le=WIDEST)
    """Number of vectors beside them."""
    layers: Whole = Field(default=4, ge=1, le=DEEPEST)
    """Number of layers."""
    neighbours: Whole = Field(default=16, ge=1)
    """Number of nearest neighbours of each point."""
    waves: Whole = Field(default=4, ge=0, le=32)
    """Largest number of wavelengths in the box of the waves through which all points see each other; 0: none."""


class PeriodicTransformerConfig(_AttentionConfig):
    kind: Literal["periodic-transformer"] = "periodic-transformer"
    """Attention between all points of a periodic box, which knows where they are to each other."""
    waves: Whole = Field(default=16, ge=1, le=1024)
    """Largest number of wavelengths in the box by which points are told apart."""

    @field_validator("heads")
    @classmethod
    def _has_pairs(cls, heads: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden")
        if hidden is not None and hidden % (2 * heads):
            raise mistake(heads, f"a number whose double divides net.hidden = {hidden}")
        return heads


NetConfig = EpicConfig | TransformerConfig | GraphConfig | PeriodicGraphConfig | PeriodicTransformerConfig
"""What a net can be."""

PERIODIC = (PeriodicGraphConfig, PeriodicTransformerConfig)
"""Those for points in a periodic box."""
