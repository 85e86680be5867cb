"""The notebooks run, and what the docs show of them is what they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "notebooks" / "execute.py"
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
# The others are what pcdiff is used for every day; the first of these takes five minutes of a core without AVX-512.
SLOW = ("diffusion_from_first_principles", "halos", "reweight_and_classify")
# Of one notebook: so that one that hangs fails and not the job around it.
SECONDS = 900
MEGABYTES = 1.5

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the notebooks are not here")


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def images(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.fixture
def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_the_docs_show_the_notebook_as_it_is(name: str, stored: nbformat.NotebookNode) -> None:
    source = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    assert cells(stored) == cells(source), f"docs/notebooks/{name}.ipynb is not of the present source: make notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_stored_output_is_whole_and_says_nothing_of_the_machine(name: str, stored: nbformat.NotebookNode) -> None:
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(stored) if output.output_type == "error" or output.get("name") == "stderr"]
    assert images(stored) >= 1
    assert all(set(cell.metadata) <= {"tags"} for cell in stored.cells)
    file = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
    assert file.stat().st_size < MEGABYTES * 1e6
    for output in outputs(stored):
        output.get("data", {}).pop("image/png", None)
    text = nbformat.writes(stored)
    for trace in (str(ROOT), str(Path.home()), "/tmp/", "ipykernel_", "site-packages"):
        assert trace not in text


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_the_notebook_runs(name: str, stored: nbformat.NotebookNode, tmp_path: Path) -> None:
    """Each cell, and the assertions in them; in a process of its own, as `make notebooks` does it."""
    done = subprocess.run(
        [sys.executable, SCRIPT, name, "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert cells(made) == cells(stored)
    assert images(made) == images(stored)
    assert not [output for output in outputs(made) if output.get("name") == "stderr"]
