"""YAML as configs are written: numbers such as 1e-3 are numbers, a date is text, and no key stands twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["dump", "parse"]

# YAML 1.1, which PyYAML follows, reads 1e-3 and 1e5 as text.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

# In all of a document, counting what an anchor stands for at each place; a config has a hundred.
_MOST_VALUES = 100_000


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
        _check_anchors(node)
        repeated = list(_repeated(node, ""))
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


def _check_anchors(root: yaml.Node) -> None:
    """Refuse anchors that stand for too many values together, or for themselves: whoever goes through the values would not end.

    Raises:
        ValueError: there is such an anchor.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        """The number of values that a node stands for."""
        if id(node) not in sizes:
            # Until it is known: larger than is allowed, as an anchor inside itself is.
            sizes[id(node)] = _MOST_VALUES + 1
            inside = node.value if isinstance(node, yaml.CollectionNode) else ()
            items = [part for pair in inside for part in pair] if isinstance(node, yaml.MappingNode) else inside
            sizes[id(node)] = 1 + sum(map(size, items))
        return sizes[id(node)]

    if size(root) > _MOST_VALUES:
        raise ValueError(f"its anchors stand for themselves, or for more than {_MOST_VALUES:,} values; expected fewer")


def _repeated(node: yaml.Node, path: str) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, f"{path}{index}.")
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield f"{path}{name}: found twice, on lines {first[name]} and {line}, expected once"
            first.setdefault(name, line)
            yield from _repeated(value, f"{path}{name}.")
