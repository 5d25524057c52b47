"""Sphinx configuration; `make docs` builds strictly."""

from fisherscope import __version__

project = "fisherscope"
author = "the fisherscope developers"
copyright = "2026, the fisherscope developers"  # noqa: A001 (Sphinx's name)
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "fisherscope"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autoclass_content = "class"
nitpicky = False
