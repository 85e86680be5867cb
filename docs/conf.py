"""Sphinx configuration."""

from __future__ import annotations

import pcdiff

project = "pcdiff"
author = "The pcdiff developers"
copyright = "2026, The pcdiff developers"
version = release = pcdiff.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pcdiff"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
