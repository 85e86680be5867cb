"""Reading a config: a file, overrides, and one line for each mistake in either."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pcdiff.config.dialect import parse
from pcdiff.config.distill import DistillConfig, RunConfig
from pcdiff.config.models import (
    Config,
    EpicConfig,
    GraphConfig,
    PeriodicGraphConfig,
    PeriodicTransformerConfig,
    TransformerConfig,
)
from pcdiff.errors import ConfigError, DataError, suggest
from pcdiff.resources import find

__all__ = ["load_any", "load_as", "load_config"]

_Path = tuple[str, ...]

# pydantic puts the kind of net that it tried into the place of an error.
_NETS: dict[str, type[BaseModel]] = {
    net.model_fields["kind"].default: net
    for net in (EpicConfig, TransformerConfig, GraphConfig, PeriodicGraphConfig, PeriodicTransformerConfig)
}

_Kind = TypeVar("_Kind", Config, DistillConfig)


def load_config(config: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Read a config.

    Args:
        config: a YAML file, the name of a shipped one (``gluon30``), a run folder (its ``config.yaml``, with the folder as
            ``output``), or the content of such a file.
        overrides: ``key.path=value``, values in YAML, for example ``optim.lr=1e-3``; a later one wins.

    Returns:
        The config. Data paths that are found beside the file, and not from the working directory, are absolute.

    Raises:
        ConfigError: one line for each mistake: ``FILE: key.path: what was found, what was expected``, or with the override
            in the place of the file.
        DataError: there is no such file.

    >>> data = {"train": "train.h5", "validation": "validation.h5"}
    >>> load_config({"name": "gluons", "data": data}, ["optim.lr=3e-4"]).optim.lr
    0.0003
    >>> load_config({"name": "gluons", "data": data, "net": {"hiden": 64}})
    Traceback (most recent call last):
    ...
    pcdiff.errors.ConfigError: config: net.hiden: unknown key; did you mean 'hidden'?
    """
    return load_as(Config, config, overrides)


def load_any(config: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """As :func:`load_config` for the config of a training or of a distillation, which names a teacher."""
    data, _ = _read(_file(Path(config).expanduser()))
    if "teacher" in data:
        return load_as(DistillConfig, config, overrides)
    return load_as(Config, config, overrides)


def load_as(
    kind: type[_Kind], config: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> _Kind:
    """As :func:`load_config` for a config of this kind."""
    mistakes: list[str] = []
    if isinstance(config, Mapping):
        source, data = "config", dict(config)
    else:
        name = Path(config).expanduser()
        file = _file(name)
        source = str(file)
        data, mistakes = _read(file)
        if name.is_dir():
            data["output"] = str(name)
    origins: dict[_Path, str] = {}
    for override in overrides:
        try:
            path, value = _override(override)
            data = _with(data, path, value)
            origins[path] = override
        except ValueError as error:
            mistakes.append(f"override {override!r}: {error}")
    try:
        found = kind.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            path, text = _describe(detail, data, kind)
            mistakes.append(f"{_origin(path, origins, source)}: {'.'.join(path)}: {text}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return found if isinstance(config, Mapping) else _beside(found, file.parent)


def _file(name: Path) -> Path:
    """The file that a name, a path or a run folder stands for."""
    if name.is_dir():
        if not (name / "config.yaml").is_file():
            raise ConfigError(f"{name}: is a folder without config.yaml, expected a YAML file or a run folder")
        return name / "config.yaml"
    if name.is_file() or name.suffix:
        return find(str(name))
    return find(f"{name}.yaml" if name.parts[:1] == ("configs",) else f"configs/{name}.yaml")


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of a config file, and a line for each key that stands in it twice."""
    try:
        data, repeated = parse(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    if data is None:
        raise ConfigError(f"{file}: is empty, expected keys such as name and data")
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: found {_shown(data)}, expected keys such as name and data")
    return data, [f"{file}: {line}" for line in repeated]


def _override(text: str) -> tuple[_Path, Any]:
    """Key path and value of ``key.path=value``."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ValueError("expected KEY.PATH=VALUE, for example optim.lr=1e-3")
    # Nothing can be anchored in a single value: a leading star is a glob.
    found, repeated = (value, []) if value.startswith("*") else parse(value)
    if repeated:
        raise ValueError(repeated[0])
    return path, found


def _with(data: Mapping[str, Any], path: _Path, value: Any) -> dict[str, Any]:
    """``data`` with one value replaced; what an anchor shares with another place is not touched there."""
    key, *rest = path
    if rest:
        below = data.get(key)
        if below is not None and not isinstance(below, Mapping):
            raise ValueError(f"{key}: found {_shown(below)}, which has no keys below it")
        value = _with(below or {}, tuple(rest), value)
    return {**data, key: value}


def _origin(path: _Path, origins: Mapping[_Path, str], source: str) -> str:
    """The last override that set this value, a part of it, or the section that it is in; else the file."""
    for key in reversed(list(origins)):
        if key == path[: len(key)] or path == key[: len(path)]:
            return f"override {origins[key]!r}"
    return source


def _describe(error: ErrorDetails, data: Any, root: type[BaseModel]) -> tuple[_Path, str]:
    """Where a mistake is, in the words of the file, and what it is."""
    kind, context = error["type"], error.get("ctx", {})
    path = _path(error["loc"], data)
    if kind == "mistake":
        path += (context["key"],) if context["key"] else ()
        return path, f"found {_shown(context['found'])}, expected {context['expected']}"
    if kind == "union_tag_invalid":
        return (*path, "kind"), f"found {_shown(context['tag'])}, expected {context['expected_tags']}"
    if kind == "extra_forbidden":
        return path, f"unknown key; {_nearest(path[-1], _section(error['loc'][:-1], root), root)}"
    if kind == "missing":
        return path, "found nothing, expected a value"
    if kind == "model_type":
        keys = ", ".join(_section(error["loc"], root).model_fields)
        return path, f"found {_shown(error['input'])}, expected keys below it: {keys}"
    return path, f"found {_shown(error['input'])}, expected {_expected(error['msg'])}"


def _path(loc: Sequence[str | int], data: Any) -> _Path:
    """The place without what pydantic adds to it: only keys that are in the data, and a last one that is missing there."""
    path: list[str] = []
    for index, part in enumerate(loc):
        here = part in data if isinstance(data, Mapping) else isinstance(data, (list, tuple)) and isinstance(part, int)
        if here:
            data = data[part]
        elif part in _NETS or part == "[key]" or index + 1 < len(loc):
            continue
        path.append(str(part))
    return tuple(path)


def _section(loc: Sequence[str | int], root: type[BaseModel]) -> type[BaseModel]:
    """The model that describes the section at a place."""
    section = root
    for part in map(str, loc):
        section = _NETS.get(part) or _below(section.model_fields[part]) or section
    return section


def _below(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, or a section or nothing."""
    choices = [choice for choice in (get_args(field.annotation) or (field.annotation,)) if choice is not type(None)]
    (only,) = choices if len(choices) == 1 else (None,)
    return only if isinstance(only, type) and issubclass(only, BaseModel) else None


def _nearest(key: str, section: type[BaseModel], root: type[BaseModel]) -> str:
    """The key that was meant: another one of this section, or this one in another section."""
    sections = {name: below for name, field in root.model_fields.items() if (below := _below(field)) is not None}
    elsewhere = [f"{name}.{key}" for name, below in sections.items() if key in below.model_fields]
    elsewhere += ["net." + key] if any(key in net.model_fields for net in _NETS.values()) else []
    if section is root and elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return suggest(key, section.model_fields)


def _expected(message: str) -> str:
    """What pydantic expected, as the end of a sentence."""
    text = re.sub(r"^\w+ should (be |have )?|, (unable|got|not) .*$| after validation", "", message)
    for theirs, ours in (("a valid string", "text"), ("a valid dictionary", "keys below it"), ("strings", "text")):
        text = text.replace(theirs, ours)
    return text.replace("a valid ", "a ").replace("a integer", "a whole number").replace("a boolean", "true or false")


def _shown(value: object) -> str:
    """A value of the file, short enough for one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _beside(config: _Kind, folder: Path) -> _Kind:
    """The config with paths that are found beside its file made absolute; globs remain globs."""

    def place(name: str) -> str:
        try:
            found = find(name, beside=folder.absolute())
        except DataError:
            # Whoever reads the data says so; a config can be looked at without them.
            return name
        return str(found) if found == folder.absolute() / name else name

    start = None if config.start is None else place(config.start)
    if isinstance(config, DistillConfig):
        truth = None if config.truth is None else tuple(map(place, config.truth))
        return config.model_copy(update={"teacher": place(config.teacher), "start": start, "truth": truth})
    data = config.data
    paths = {"train": tuple(map(place, data.train)), "validation": tuple(map(place, data.validation))}
    return config.model_copy(update={"data": data.model_copy(update=paths), "start": start})
