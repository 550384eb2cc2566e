"""How Sphinx builds the site: `make docs`. Nothing is fetched; what is made from the code is made first."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import make_site  # noqa: E402
from linked_words import connect  # noqa: E402

import dpojax  # noqa: E402

project, author, copyright = "dpojax", "the authors of dpojax", "the authors of dpojax"
version = release = dpojax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "examples"]
nitpicky = True
# Types of other projects, and names that only stand in annotations: without a network there is nothing to look them up in.
nitpick_ignore_regex = [("py:.*", r".*")]
default_role = "code"

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # a word of a docstring that several objects are called

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source", ("Options", "params_style"), ("Data", "params_style"), "Value"]

html_theme = "furo"
html_title = f"dpojax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "github-dark"


def setup(app) -> None:
  """Called by Sphinx."""
  make_site.write()
  connect(app)
