"""Sphinx configuration."""

import weight_feedback

project = "weight-feedback"
author = "The weight-feedback authors"
copyright = "The weight-feedback authors"  # noqa: A001 - Sphinx's name for it
release = weight_feedback.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results/*/trials"]
html_theme = "furo"
html_title = "weight-feedback"

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
