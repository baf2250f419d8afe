# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration of the site: ``make docs``. It needs no network, and every warning is an error."""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from reference import add_returns, plain_docstring, write_pages  # noqa: E402

from cryogem_scipion import __version__  # noqa: E402

write_pages(HERE / "generated")

project, version, release = "CryoGEM for Scipion", __version__, __version__
copyright = "GPL-3.0-or-later"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generated/readme.md", "generated/manifest.md"]

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "undoc-members": False, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # those of Scipion's classes are written in another markup
autodoc_preserve_defaults = True
add_module_names = False
napoleon_google_docstring = False
# Sections like the others': a heading, then one line for each name.
napoleon_use_rtype = False
nitpicky = False

html_theme = "furo"
html_title = "CryoGEM for Scipion"
html_logo = "../cryogem_scipion/logo.png"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
# Fonts of the reader's own machine; nothing is fetched from elsewhere.
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif", "color-brand-primary": "#1f5f8b",
                                              "color-brand-content": "#1f5f8b"}}


def setup(app):
    """Register what is changed of docstrings."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("autodoc-process-docstring", add_returns, priority=600)
