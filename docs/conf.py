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
include_patterns = ["README.md", "docs/**", "benchmarks/**", "launch/*.md"]
include_patterns += ["fer_jax/weights/README.md"]
exclude_patterns = [".*", "data", "dist", "runs", "site"]  # Not worth walking through.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

highlight_language = "text"  # For blocks without a language.
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
docs/audit
docs/train
docs/transfer
launch/README
docs/evaluate
docs/predict
docs/demo
docs/export
docs/workdir
docs/remote
docs/reliability
```

```{toctree}
:hidden:
:caption: Understand

docs/results
fer_jax/weights/README
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


_LISTS = re.compile(
    r"^(?!(?:Args|Attributes|Example|Raises|Returns|Yields):)(\S.*:)\n((?: +\S.*\n?)+)",
    re.MULTILINE,
)


def _to_rst(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Converts a docstring's plain text to reStructuredText, before napoleon reads its sections.

    All text is literal, except `code` and bullets. A line that ends in a colon starts a list of the
    indented entries below it.
    """
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    parts[::2] = [re.sub(r"\||_(?!\w)|\*(?! )", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = _LISTS.sub(_to_bullets, "".join(parts)).split("\n")


def _to_bullets(found: re.Match[str]) -> str:
    entries = re.sub(r"^ {2}(?=\S)", "* ", found[2], flags=re.MULTILINE)
    return f"{found[1]}\n\n" + re.sub(r"^ {4,}", "  ", entries, flags=re.MULTILINE) + "\n"


def setup(app: Sphinx) -> None:
    """Connects the functions of this file to Sphinx."""
    app.connect("source-read", _add_pages)
    app.connect("autodoc-process-docstring", _to_rst, priority=1)
