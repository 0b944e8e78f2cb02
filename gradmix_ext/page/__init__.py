"""Web pages that are one file: what they look like, and the promise that they load nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

__all__ = ["asset", "document", "templates"]


def asset(package: str, name: str) -> str:
    """The text of a file that lies in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


@cache
def templates(package: str) -> jinja2.Environment:
    """The templates that lie in a package; values are escaped, and an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: asset(package, name)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page.

    Its content security policy forbids every request, and every script but the one given here, so
    nothing that a run folder contains can become code.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS, after the style that all pages share.
        script: JavaScript, run as a module.
    """
    code = f"\n{script}\n"
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        templates(__name__)
        .get_template("document.html.jinja")
        .render(
            title=title,
            body=Markup(body),
            style=Markup(asset(__name__, "base.css") + style),
            script=Markup(code) if script else "",
            script_source=f"'sha256-{digest}'" if script else "'none'",
        )
    )
