"""A config as YAML, as a hash, as flat parameters, and the layout of all configs as JSON schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pcdiff.config.dialect import dump
from pcdiff.config.distill import RunConfig
from pcdiff.config.models import Config

__all__ = ["config_hash", "flat", "json_schema", "to_yaml"]


def to_yaml(config: RunConfig) -> str:
    """The config with every default written out; :func:`load_any` reads the same config back."""
    return dump(config.model_dump(mode="json"))


def config_hash(config: RunConfig) -> str:
    """SHA-256, in hexadecimal, of the config as JSON without spaces, defaults written out.

    The order of features counts, for it is the order of the net's inputs.
    """
    text = json.dumps(config.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flat(config: RunConfig) -> dict[str, str | int | float | bool | None]:
    """One entry a value, by its key path; lists are comma-separated.

    >>> from pcdiff.config import load_config
    >>> found = flat(load_config({"name": "g", "data": {"train": ["a.h5", "b.h5"], "validation": "v.h5"}}))
    >>> found["net.hidden"], found["data.train"]
    (128, 'a.h5, b.h5')
    """
    return _flat(config.model_dump(mode="json"), "")


def _flat(data: Mapping[str, Any], prefix: str) -> dict[str, str | int | float | bool | None]:
    found: dict[str, str | int | float | bool | None] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return found


def json_schema(kind: type[RunConfig] = Config) -> dict[str, Any]:
    """The layout of a config as JSON schema (draft 2020-12), for editors: they complete keys and mark mistakes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
