"""The documentation as a site: `make docs` writes it to site/ and fails on a broken reference."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

from gradmix_ext import __version__

project = "gradmix_ext"
author = "The gradmix_ext authors"
release = version = __version__

extensions = [
    "myst_parser",  # pages are Markdown
    "sphinx.ext.autodoc",  # the reference comes from the docstrings,
    "sphinx.ext.napoleon",  # which have Google's sections
    "sphinx.ext.viewcode",
    "sphinx_click",  # the command line, from its own help
]
html_theme = "furo"
html_title = f"gradmix_ext {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

smartquotes = False  # they turn the -- of a flag into a dash
myst_heading_anchors = 3
autodoc_mock_imports = ["avalanche", "lightning", "transformers"]  # no page needs them
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False

# `name` in a docstring is a link where there is such a name, and code where there is none. What is
# called a reference, by :func: and its like or by a type, must exist, here or in another package.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"(torch|numpy|collections|contextlib|pathlib|types|abc|nn|dist)\..*"),
    # signatures name these, by aliases or from inside the package
    ("py:class", r"(.*\.)?(Estimate|Feed|GradMix|ModelSource|\w+Factory|Path|Samples|T|Tensor)"),
]


def unlink_sources(app: Sphinx, page: str, text: list[str]) -> None:
    """Print links to files of the repository that are no pages as plain text."""

    def plain(match: re.Match[str]) -> str:
        if not Path(app.srcdir, match[2]).exists():
            raise ValueError(f"docs/{page}.md links to {match[2]}, which does not exist")
        return match[1]

    text[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)\)", plain, text[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", unlink_sources)
