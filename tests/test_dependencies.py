"""What pyproject.toml asks for is what the docs explain, what is tested, and what the package imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pcdiff.config.dialect import parse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIRED = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["project"]["optional-dependencies"].items()
}
PAGE = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
# Modules that have another name than the package that brings them.
PACKAGES = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "abacusnbody": "abacusutils",
    # Its own half of pydantic, of the one version that fits.
    "pydantic_core": "pydantic",
}
# What no module of the package imports, and why it is asked for all the same.
NOT_IMPORTED = {
    # Opens the catalogues that are written for it.
    "halotools",
}


def table(heading: str) -> list[list[str]]:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shown(requirement: Requirement) -> str:
    """As the tables have it; packaging puts the upper bound first."""
    return ",".join(sorted(map(str, requirement.specifier), reverse=True))


def lowest(requirement: Requirement) -> str:
    (bound,) = [one.version for one in requirement.specifier if one.operator in {">=", "=="}]
    return bound


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    found = {canonicalize_name(package): version for package, version in pairs}
    assert len(found) == len(pairs)
    return found


def test_the_table_has_what_is_required_with_a_reason_each() -> None:
    rows = table("Required")
    assert [(row[0], row[1]) for row in rows] == [(f"`{one.name}`", f"`{shown(one)}`") for one in REQUIRED]
    assert all(len(row) == 3 and len(row[2]) > 5 for row in rows)


def test_the_table_has_the_extras() -> None:
    rows = table("Extras")
    assert [(row[0], row[1]) for row in rows] == [
        (f"`{name}`", ", ".join(f"`{one.name}{shown(one)}`" for one in requirements))
        for name, requirements in EXTRAS.items()
    ]
    assert all(len(row) == 3 and len(row[2]) > 5 for row in rows)


def test_the_oldest_versions_allowed_are_those_that_make_minimum_installs() -> None:
    assert pins("constraints-minimum.txt") == {canonicalize_name(one.name): lowest(one) for one in REQUIRED}


def test_what_ci_installs_is_allowed_and_said_in_full() -> None:
    """One version of each direct dependency, of the extras and of development too."""
    pinned = pins("constraints.txt")
    groups = [
        Requirement(line) for group in PROJECT["dependency-groups"].values() for line in group if isinstance(line, str)
    ]
    for one in [*REQUIRED, *(one for extra in EXTRAS.values() for one in extra), *groups]:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


def test_no_bound_of_an_extra_is_above_what_ci_installs() -> None:
    pinned = pins("constraints.txt")
    for one in (one for extra in EXTRAS.values() for one in extra):
        assert Version(lowest(one)) <= Version(pinned[canonicalize_name(one.name)]), one


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, by statement or, extras, by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
        elif isinstance(node, (ast.Expr, ast.Assign, ast.Return, ast.For)) and "optional(" in ast.unparse(node):
            words = [
                one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
            yield from (word for word in words if re.fullmatch(r"[a-z0-9_.]+", word) and word not in EXTRAS)


def test_what_is_imported_is_asked_for_and_what_is_asked_for_is_imported() -> None:
    modules = {name.split(".")[0] for path in (ROOT / "pcdiff").rglob("*.py") for name in imports(path)}
    others = modules - set(sys.stdlib_module_names) - {"pcdiff"}
    packages = {canonicalize_name(PACKAGES.get(name, name)) for name in others}
    asked = {canonicalize_name(one.name) for one in [*REQUIRED, *(one for extra in EXTRAS.values() for one in extra)]}
    assert packages | NOT_IMPORTED == asked


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_nothing_that_is_required_anyway(extra: str) -> None:
    assert not {one.name for one in EXTRAS[extra]} & {one.name for one in REQUIRED}


def test_what_holds_bounds_and_advisories_runs_once_a_week() -> None:
    workflow = parse((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))[0]
    commands = {
        step["run"]: job.get("if", "") for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    }
    assert {"make lint", "make test", "make minimum", "make audit"} <= commands.keys()
    assert "schedule" in commands["make minimum"]
    assert "schedule" in commands["make audit"]
    # In YAML 1.1 the key "on" is true.
    (weekly,) = workflow[True]["schedule"]
    minute, hour, day, month, weekday = weekly["cron"].split()
    assert (day, month, len(weekday)) == ("*", "*", 1)
    assert int(minute) + 60 * int(hour) > 0
