"""Sphinx configuration."""

from __future__ import annotations

import re

import pcdiff

project = "pcdiff"
author = "The pcdiff developers"
copyright = "2026, The pcdiff developers"
version = release = pcdiff.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
# spiral.md is a part of methods.md.
exclude_patterns = ["_build", "spiral.md"]
html_theme = "furo"
html_title = "pcdiff"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

# The notebooks are shown with their stored output; `make notebooks` makes it.
nb_execution_mode = "off"


def _as_they_stand(app, what, name, obj, options, lines):  # noqa: ARG001
    """Docstrings are written to be read in the code: let formulas be literal blocks, and |x| be no substitution."""
    shown = []
    literal = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if what == "module" and indented and not literal and not (number and lines[number - 1].strip()):
            shown += ["::", ""]
            literal = True
        elif line.strip() and not indented:
            literal = False
        parts = re.split(r"(``.+?``)", line)
        escaped = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)
        shown.append(line if literal else escaped)
    lines[:] = shown


def setup(app):
    # After napoleon, which has turned the sections of functions into field lists by then.
    app.connect("autodoc-process-docstring", _as_they_stand, priority=900)
