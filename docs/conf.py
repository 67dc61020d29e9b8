"""Settings of the documentation site; build it with Sphinx.

sphinx-build --fail-on-warning docs site
"""

from pathlib import Path

from sphinx.ext import apidoc

from dbtransform_lobes import __version__

HERE = Path(__file__).parent

project = "DB-Transform"
release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
highlight_language = "none"  # of indented commands
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_use_ivar = True
nb_execution_timeout = 120
nb_output_stderr = "remove"
nb_execution_raise_on_error = True
myst_heading_anchors = 3

apidoc.main(
    [
        "--force",
        "--no-toc",
        f"--output-dir={HERE / 'api'}",
        str(HERE.parent / "dbtransform_lobes"),
        str(HERE.parent / "dbtransform_lobes/bundled"),
    ]
)


def show_examples_as_written(_app, _what, _name, _object, _options, lines):
    """Make the examples of a command, which are its help, a literal block."""
    if "examples:" in lines:
        place = lines.index("examples:")
        lines[place : place + 1] = ["examples::", ""]


def setup(app):
    """Called by Sphinx; Napoleon would take the examples for a section."""
    event = "autodoc-process-docstring"
    app.connect(event, show_examples_as_written, priority=400)
