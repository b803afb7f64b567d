"""Sphinx configuration."""

import os
import sys
from pathlib import Path

import weight_feedback

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from references import write_inventory  # noqa: E402 - it stands beside this file

project = "weight-feedback"
author = "The weight-feedback authors"
copyright = "The weight-feedback authors"  # noqa: A001 - Sphinx's name for it
release = weight_feedback.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "references",
]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results/*/trials", "torch_names.txt"]

# The notebook is kept without outputs: each build makes them anew, and fails where a cell fails or warns.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 600  # seconds a cell, of which none takes half a minute unless the machine is busy
nb_output_stderr = "warn"
# The kernel's settings are these, and nobody's own. It would log that its sockets, within this machine, aren't
# encrypted; and pooch's progress bar would warn that there are no widgets to draw itself with.
IPYTHON = HERE / "_build" / "ipython"
(IPYTHON / "profile_default").mkdir(parents=True, exist_ok=True)
(IPYTHON / "profile_default" / "ipython_kernel_config.py").write_text('c.IPKernelApp.log_level = "ERROR"\n')
os.environ |= {"IPYTHONDIR": str(IPYTHON), "PYTHONWARNINGS": "ignore:IProgress not found"}

html_theme = "furo"
html_title = "weight-feedback"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Builds use no network: the inventory is made here, from torch_names.txt.
write_inventory(HERE / "_build" / "torch.inv")
intersphinx_mapping = {"torch": ("https://docs.pytorch.org/docs/stable/", "_build/torch.inv")}

# A reference that leads nowhere is a warning, and so an error; but for private names, and, in annotations, Python's
# own and those that could not be evaluated; and, of the lab, for what isn't among its front door's names.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(.*\.)?_[^.]*"),
    ("py:class", r"(collections\.abc|contextlib|pathlib)\..*|\w+"),
    ("py:class", r"weight_feedback\.lab\.\w+\..*|(annotated_types|pydantic|np)\..*|[\d.]+"),
    ("py:exc", r"DataError|StoreError|StudyError"),
]


def setup(app):
    """Run the notebook only where its outputs are shown, and read the lab's attributes as sentences."""

    def run_no_notebooks(app):  # doctest builds have no use for them
        if app.builder.name == "doctest":
            app.config.nb_execution_mode = "off"

    # Napoleon takes what stands before a colon in an attribute's first line for a type: it isn't shown any.
    def replace(old, new):
        def replace_in(_app, what, name, _obj, _options, lines):
            if what in ("attribute", "property") and name.startswith("weight_feedback.lab."):
                lines[:] = [line.replace(old, new) for line in lines]

        return replace_in

    app.connect("autodoc-process-docstring", replace(": ", "\0"), priority=100)
    app.connect("autodoc-process-docstring", replace("\0", ": "), priority=900)
    app.connect("builder-inited", run_no_notebooks, priority=100)  # before myst_nb reads its configuration
