"""Execute the notebooks and store them with their output, which is what the docs show: `make notebooks`.

A notebook's source is notebooks/NAME.py (jupytext, percent format); docs/notebooks/NAME.ipynb is made from it and never edited. Stored are the cells, their output and
what a viewer needs, and nothing of the machine or of the time they ran at.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "notebooks"
STORED = ROOT / "docs" / "notebooks"

# Of one cell, so that one that hangs fails and not the job around it.
SECONDS = 600

COLOURS = 128


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source file, with output.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = jupytext.read(source)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
    )
    # inline, whatever the environment asks for: figures are to be in the output
    client.execute(env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    return _stripped(notebook)


def _stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same without what differs from one machine or run to the next, other than the output itself."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                # Only the picture: the text beside it names the object that drew it.
                output.data = nbformat.from_dict({"image/png": _smaller(output.data["image/png"])})
    return notebook


def _smaller(png: str) -> str:
    """A picture in base64 in a palette of its own, which shows no difference and takes half the space."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = io.BytesIO()
    picture.save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main() -> None:
    """Execute all, or some, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks without their suffix; all when absent")
    parser.add_argument("--output", type=Path, default=STORED, help="folder to write to")
    arguments = parser.parse_args()
    for name in arguments.names or sorted(path.stem for path in SOURCES.glob("*.py")):
        notebook = execute(SOURCES / f"{name}.py")
        nbformat.validate(notebook)
        target = arguments.output / f"{name}.ipynb"
        target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
