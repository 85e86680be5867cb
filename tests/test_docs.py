"""The pages name all that there is, as the code has it; their examples and links work."""

from __future__ import annotations

import argparse
import doctest
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import pcdiff
from pcdiff.cli.parser import parse
from pcdiff.config import SAMPLER_FACTS, Config, DenoiserConfig, LossConfig, SamplingConfig, ScheduleConfig
from pcdiff.config.dialect import parse as parse_yaml
from pcdiff.io import formats

from .test_density import make
from .test_transforms import jets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "notebooks"} & set(path.relative_to(DOCS).parts))
# Beside the pages, what they show of the rest of the repository.
TEXTS = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"))]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def rows() -> list[list[str]]:
    lines = [line for line in METHODS.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_each_sampler_stands_with_its_orders_and_options() -> None:
    table = {row[0].strip("`"): row for row in rows() if len(row) == 5}
    for name, facts in SAMPLER_FACTS.items():
        assert name in table
        _, order, _, options, _ = table[name]
        for option, default in facts.options.items():
            shown = re.search(rf"`{option}` \(([^)]+)\)", options)
            assert shown, (name, option)
            assert float(shown[1]) == default
        if name in ("ddim", "sde-dpm"):
            assert [int(n) for n in re.findall(r"\d", order)] == sorted(facts.orders)


def test_the_example_of_a_constraint_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of ptrel of each of 1,000 generated jets is 1 to 1e-4."""
    (script,) = blocks(METHODS, "python")
    monkeypatch.chdir(tmp_path)
    make(jets(200)).save("runs/gluon30-teacher")
    made: dict[str, Any] = {}
    exec(script, made)  # noqa: S102
    total = np.add.reduceat(made["jets"].column("ptrel").astype(np.float64), made["jets"].offsets[:-1])
    assert len(total) == 1000
    np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (SamplingConfig, "grid"),
        (ScheduleConfig, "kind"),
        (LossConfig, "objective"),
        (LossConfig, "weight"),
        (LossConfig, "times"),
        (DenoiserConfig, "parametrisation"),
    ],
)
def test_each_choice_of_a_config_is_explained(section: Any, key: str) -> None:
    for value in get_args(section.model_fields[key].annotation):
        assert f"`{value}`" in METHODS or f": {value}`" in METHODS, value


EXAMPLES = [path for path in PAGES if blocks(path.read_text(encoding="utf-8"), "pycon")]


@pytest.mark.parametrize("page", EXAMPLES, ids=named)
def test_the_examples_give_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page follow one another; `folder` is an empty folder."""
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    # Lines outside the blocks become empty ones, so that a failure names the line of the page.
    inside = [False] * (text.count("\n") + 1)
    for block in re.finditer(r"^```pycon\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        first = text.count("\n", 0, block.start(1))
        inside[first : first + block[1].count("\n")] = [True] * block[1].count("\n")
    shown = "\n".join(line if keep else "" for line, keep in zip(text.splitlines(), inside, strict=False))
    test = doctest.DocTestParser().get_doctest(shown, {"folder": tmp_path}, named(page), str(page), 0)
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(report)


def test_no_prompt_stands_outside_of_the_examples_that_are_run() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("\n>>> ") == "".join(f"\n{block}" for block in blocks(text, "pycon")).count("\n>>> "), page


def test_each_command_parses() -> None:
    found = 0
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "(?:bash|sh)"):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.match(r"(?:\w+=\S+ )*(?:srun )?(?:(?:torchrun .*)?-m )?pcdiff ([^#|&>;]+)", line.strip())
                if command:
                    words = [word[0] or word[1] for word in re.findall(r"'([^']*)'|([^\s']+)", command[1])]
                    # What the shell fills in is a number in all of them.
                    parse([re.sub(r'"?\$\{?\w+\}?"?|"?\$\(\(.*?\)\)"?', "1", word) for word in words])
                    found += 1
    assert found >= 25


def test_each_config_shown_is_one() -> None:
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
            settings, repeated = parse_yaml(block)
            assert not repeated
            Config.model_validate({"name": "shown", "data": {"train": "a", "validation": "b"}, **settings})


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target, heading in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        file = (page.parent / target) if target else page
        # Notebooks are stored with output by `make notebooks`.
        assert file.resolve().exists(), f"{target} in {named(page)}"
        if heading and file.suffix == ".md":
            assert heading in anchors(file.read_text(encoding="utf-8")), f"{target}#{heading} in {named(page)}"


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_reference_has_each_command_and_option() -> None:
    text = built().commands()
    found = list(leaves())
    assert {parser.prog for parser in found} >= {"pcdiff train", "pcdiff data make jets", "pcdiff config show"}
    for parser in found:
        section = re.search(rf"^## {parser.prog}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
        assert section, parser.prog
        for action in parser._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"`{option}[ `]", section[1]), (parser.prog, option)


def test_the_reference_shows_the_defaults_of_python() -> None:
    import inspect

    draws = inspect.signature(pcdiff.evaluate).parameters["draws"].default
    row = re.search(r"^\| `--draws N` \|(.*)\|$", built().commands(), flags=re.MULTILINE)
    assert row
    assert row[1].count(f"default: {draws}") == 1


def leaves() -> list[argparse.ArgumentParser]:
    from pcdiff.cli.parser import build_parser

    return list(built()._leaves(build_parser()))


def built() -> Any:
    """The module that the build of the docs uses."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_each_key_of_a_config() -> None:
    text = built().config()
    for name, field in Config.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if hasattr(kind, "model_fields")]
        keys = [f"{name}.{key}" for kind in kinds for key in kind.model_fields] or [name]
        for key in keys:
            assert f"`{key}`" in text or f"`{key}:" in text, key
    assert "| `optim.lr` | number > 0 | `0.001` | Peak learning rate of AdamW. |" in text


def test_each_format_and_reader_option_is_explained() -> None:
    import inspect

    text = (DOCS / "reference" / "formats.md").read_text(encoding="utf-8")
    for name, found in formats().items():
        assert f"| `{name}` | " in text
        parameters = inspect.signature(found.iterate).parameters.values()
        for option in (parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY):
            assert f"| `{name}` | `{option}` |" in text, (name, option)


def test_each_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    for name in pcdiff.__all__:
        assert f"pcdiff.{name} <" in text or f"`pcdiff.{name}`" in text, name


def test_the_citation_names_this_version_and_what_the_format_needs() -> None:
    """The keys that Citation File Format 1.2.0 requires, and the version and licence of the package."""
    import tomllib

    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == pcdiff.__version__
    assert cited["license"] == project["license"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]


def test_each_module_is_in_the_reference() -> None:
    """But for those that are no part of the interface, and the models of the config, whose keys have a page."""
    marks = [re.findall(r"<!-- build: modules (.*) -->", page.read_text(encoding="utf-8")) for page in PAGES]
    shown = {
        name for mark in marks for names in mark for name in re.findall(r"## `(.*)`", built().modules(*names.split()))
    }
    apart = {
        "pcdiff.cli",
        "pcdiff.files",
        "pcdiff.resources",
        "pcdiff.seeds",
        "pcdiff.config.models",
        "pcdiff.config.nets",
        "pcdiff.config.distill",
    }
    inside = {name for name in built()._modules("pcdiff") if not name.startswith("pcdiff.cli.")}
    assert inside - shown - {"pcdiff"} == apart
