"""Sphinx configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pcdiff

sys.path.insert(0, str(Path(__file__).parent))
import pages

project = "pcdiff"
author = "The pcdiff developers"
copyright = "2026, The pcdiff developers"
version = release = pcdiff.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
# spiral.md is a part of methods.md.
exclude_patterns = ["_build", "spiral.md"]
# Files from outside this folder have headings of their own.
suppress_warnings = ["myst.header"]
html_theme = "furo"
html_title = "pcdiff"
html_static_path = ["_static"]
html_css_files = ["pcdiff.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]

# The notebooks are shown with their stored output; `make notebooks` makes it.
nb_execution_mode = "off"


def _as_they_stand(app, what, name, obj, options, lines):  # noqa: ARG001
    """Docstrings are written to be read in the code: let formulas be literal blocks, and |x| and bool_ be no references."""
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
        escaped = "".join(
            part if part.startswith("``") else re.sub(r"\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts
        )
        shown.append(line if literal else escaped)
    lines[:] = shown


def _no_type(app, what, name, obj, options, lines):  # noqa: ARG001
    """The words before a colon in the first line about a property are not its type, as napoleon would have it."""
    if what in ("attribute", "property"):
        # An empty comment, for napoleon looks at the first line that is not empty.
        lines[:0] = ["..", ""]


def _skip(app, what, name, obj, skip, options):  # noqa: ARG001
    """Whether to pass over a member: the fields of a named tuple are described with the tuple."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _no_type, priority=100)
    # After napoleon, which has turned the sections of functions into field lists by then.
    app.connect("autodoc-process-docstring", _as_they_stand, priority=900)
    app.connect("source-read", pages.fill)
    app.connect("include-read", pages.rebase)
