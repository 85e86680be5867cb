"""What the build writes into pages: the commands, the keys of a config, the modules, and files from outside this folder.

A line ``<!-- build: NAME ARGUMENTS -->`` of a page stands for what the function of that name returns, so nothing that the code
knows is written twice.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent

_MARK = re.compile(r"^<!-- build: (\w+)(?: (.*?))? -->$", re.MULTILINE)
# An option in the text of a help, whose hyphens are no dashes.
_OPTION = re.compile(r"(?<![\w`-])(--[a-z][\w-]*)")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")

# Pages that show a file from outside this folder, by the file.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "datasets/jets/README.md": "reference/data_jets.md",
    "datasets/toys/README.md": "reference/data_toys.md",
}

# The width of a usage line, whatever the terminal of the build.
_COLUMNS = "90"


def fill(app: Any, docname: str, source: list[str]) -> None:  # noqa: ARG001
    """Replace the marks of a page; for Sphinx's event source-read."""
    builders = {"commands": commands, "config": config, "modules": modules}

    def built(mark: re.Match[str]) -> str:
        return builders[mark[1]](*(mark[2] or "").split())

    source[0] = _MARK.sub(built, source[0])


def rebase(app: Any, path: Path, docname: str, content: list[str]) -> None:
    """Let the links of an included file work from the page that includes it; for Sphinx's event include-read."""
    file = (Path(app.srcdir) / path).resolve()
    if DOCS in file.parents:
        return
    page = (DOCS / f"{docname}.md").parent

    def link(found: re.Match[str]) -> str:
        target = (file.parent / found[1]).resolve()
        shown = PAGES.get(os.path.relpath(target, ROOT))
        stored = DOCS / "notebooks" / f"{target.stem}.ipynb"
        if shown is not None:
            target = DOCS / shown
        elif target.parent == ROOT / "notebooks" and stored.is_file():
            target = stored
        return f"]({Path(os.path.relpath(target, page)).as_posix()}{found[2] or ''})"

    content[0] = _LINK.sub(link, content[0])


def commands() -> str:
    """Each command of ``pcdiff``: its usage, and a table of its words and options, in Markdown."""
    from pcdiff.cli.parser import build_parser

    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), _COLUMNS
    try:
        return "\n".join(part for parser in _leaves(build_parser()) for part in _command(parser))
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands that do something, in the order of the help."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for below in group.choices.values():
            yield from _leaves(below)


def _command(parser: argparse.ArgumentParser) -> list[str]:
    # The help puts Python's defaults into the texts of the options.
    parser.format_help()
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    usage = re.sub(r"^ {7}", "", usage, flags=re.MULTILINE)
    lines = [f"## {parser.prog}", "", f"{parser.description}", "", "```text", usage, "```", ""]
    lines += ["| word or option | meaning |", "| --- | --- |"]
    for action in parser._actions:
        if "--help" not in action.option_strings:
            meaning = _OPTION.sub(r"`\1`", _cell(action.help or ""))
            lines.append(f"| {_spelling(action)} | {meaning} |")
    return [*lines, ""]


def _spelling(action: argparse.Action) -> str:
    """How an option is written, as code."""
    value = "" if action.nargs == 0 else str(action.metavar)
    if not action.option_strings:
        return f"`{value}`"
    shown = {"?": f"[{value}]", "+": f"{value} [{value} ...]"}.get(str(action.nargs), value)
    return ", ".join(f"`{option} {shown}`" if shown else f"`{option}`" for option in action.option_strings)


def config(model: str = "Config") -> str:
    """Each key of a config by section: type, range, default and meaning, in Markdown.

    Args:
        model: of the config, a name in :mod:`pcdiff.config`.
    """
    import pcdiff.config

    schema = pcdiff.config.json_schema(getattr(pcdiff.config, model))
    sections = schema["$defs"]
    top = {name: value for name, value in schema["properties"].items() if not _below(value)}
    lines = ["## The top level", "", *_keys("", top, schema)]
    for name, value in schema["properties"].items():
        below = _below(value)
        if below:
            lines += [f"## `{name}`", "", f"{value['description']}", ""]
        for kind in below:
            section = sections[kind]
            properties = dict(section["properties"])
            if len(below) > 1:
                chosen = properties.pop("kind")
                lines += [f"### `{name}.kind: {chosen['const']}`", "", f"{chosen['description']}", ""]
            lines += _keys(f"{name}.", properties, section)
    return "\n".join(lines)


def _below(value: Mapping[str, Any]) -> list[str]:
    """Names of the sections that a key may hold; none for a plain value."""
    either = [value, *value.get("anyOf", ())]
    choices = [choice for part in either for choice in (part, *part.get("oneOf", ()))]
    return [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]


def _keys(prefix: str, properties: Mapping[str, Mapping[str, Any]], section: Mapping[str, Any]) -> list[str]:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, value in properties.items():
        default = "needed" if name in section.get("required", ()) else _plain(value.get("default"))
        lines.append(f"| `{prefix}{name}` | {_type(value)} | {default} | {_cell(value.get('description', ''))} |")
    return [*lines, ""]


def _plain(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return f"`{{{', '.join(f'{key}: {item}' for key, item in value.items())}}}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(value: Mapping[str, Any]) -> str:
    """What a key may hold, in plain words."""
    if "anyOf" in value:
        return " or ".join(_type(part) for part in value["anyOf"] if part.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    kind = value.get("type")
    if kind == "array":
        return f"list of {_type(value['items'])}"
    if kind == "object":
        items = value.get("additionalProperties")
        return f"keys with {_type(items)}" if isinstance(items, dict) else "keys with values"
    signs = {
        "ge": "≥",
        "minimum": "≥",
        "gt": ">",
        "exclusiveMinimum": ">",
        "lt": "<",
        "exclusiveMaximum": "<",
        "le": "≤",
        "maximum": "≤",
    }
    bounds = [f"{sign} {_bound(value[key])}" for key, sign in signs.items() if key in value]
    return " ".join([names[str(kind)], ", ".join(bounds)]).rstrip()


def _bound(value: float) -> str:
    """A bound of a number; one that a computer's words set as the power of two that it is."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 32 and value == 1 << power else f"{value:g}"


def _cell(text: str) -> str:
    """Text of a table's cell: one line, and a bar is no border."""
    return " ".join(text.split()).replace("|", r"\|")


def modules(*names: str) -> str:
    """The documentation of modules and of all below them, but for those given with a minus before their name."""
    left_out = {name[1:] for name in names if name.startswith("-")}
    found = [
        module for name in names if not name.startswith("-") for module in _modules(name) if module not in left_out
    ]
    return "\n".join(f"## `{name}`\n\n```{{eval-rst}}\n{_automodule(name)}\n```\n" for name in found)


def _modules(name: str) -> Iterator[str]:
    """A module and, below a package, its modules; none is imported."""
    yield name
    for below in pkgutil.iter_modules([str(_folder(name))]):
        if not below.name.startswith("_"):
            yield from _modules(f"{name}.{below.name}")


def _automodule(name: str) -> str:
    # A package exports what is documented where it is defined.
    package = "\n   :ignore-module-all:" if _folder(name).is_dir() else ""
    return f".. automodule:: {name}{package}"


def _folder(name: str) -> Path:
    """Where the modules of a package are."""
    return ROOT.joinpath(*name.split("."))
