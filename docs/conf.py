"""Builds the site: `uv run sphinx-build -W -c docs . site`.

The source is the whole repository, so that a link between two files works on the site as it works
in the repository.
"""

import re
from importlib import metadata

from sphinx.application import Sphinx

project = "fer_jax"
release = metadata.version("fer_jax")
root_doc = "README"
include_patterns = ["README.md", "docs/**", "benchmarks/**"]
exclude_patterns = [".*", "data", "dist", "runs", "site"]  # Not worth walking through.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

highlight_language = "text"  # Of blocks that name none.
myst_heading_anchors = 3  # Links to headings, as GitHub names them.

# Docstrings: Google's style, with `code` in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "fer_jax"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "index.html"}  # Leads to the README.

PAGES = """

```{toctree}
:hidden:
:caption: Use

docs/install
docs/data
docs/train
docs/evaluate
docs/predict
docs/workdir
```

```{toctree}
:hidden:
:caption: Understand

docs/results
docs/speed
docs/design
docs/extend
docs/api
```

```{toctree}
:hidden:
:caption: Measurements
:glob:

benchmarks/**
```
"""


def _add_pages(app: Sphinx, page: str, content: list[str]) -> None:
    """Appends the table of contents to the README, which GitHub shows without it."""
    if page == root_doc:
        content[0] += PAGES


def _escape(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]):
    """Keeps docstrings plain text: only `code`, lists and sections mean something in them."""
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    parts[::2] = [re.sub(r"\||_(?!\w)|\*(?! )", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app: Sphinx) -> None:
    """Connects both."""
    app.connect("source-read", _add_pages)
    app.connect("autodoc-process-docstring", _escape, priority=1)  # Before napoleon.
