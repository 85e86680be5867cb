"""YAML as configs are written: numbers such as 1e-3 are numbers, a date is text, and no key stands twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["dump", "parse"]

# YAML 1.1, which PyYAML follows, reads 1e-3 and 1e5 as text.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
# The dumper must quote the text "1e5". It also quotes dates, for other readers.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(content: str | bytes) -> tuple[Any, list[str]]:
    """The content of a YAML document, and one line for each key that stands twice.

    Raises:
        ValueError: not YAML; the message is one line with the place.
    """
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None, []
        repeated = list(_repeated(node, "", set()))
        return loader.construct_document(node), repeated
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from error


def dump(data: Any) -> str:
    """Plain data as YAML; :func:`parse` gives them back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    # An anchor can be met again, even inside itself.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, f"{path}{index}.", seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield f"{path}{name}: found twice, on lines {first[name]} and {line}, expected once"
            first.setdefault(name, line)
            yield from _repeated(value, f"{path}{name}.", seen)
