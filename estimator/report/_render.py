"""Pages from the templates: everything escaped, style and script inside, no network."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import require
from estimator.report import _charts

if TYPE_CHECKING:
    from jinja2 import Environment


def rendered(template: str, **values: Any) -> bytes:
    """A page as the bytes of its file.

    Args:
        template: "page.html" or "comparison.html".
        values: What the template shows.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    environment = _environment()
    style, script = _asset("page.css"), _asset("page.js")
    # Hashes of the one style and the one script: whatever else gets into the page never runs.
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src 'sha256-{_digest(style)}'",
            f"script-src 'sha256-{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = environment.get_template(template).render(
        style=style, script=script, policy=policy, **values
    )
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return page.encode("utf-8", "replace")


def fragment(name: str, *values: Any) -> str:
    """What one of the shared macros makes of its arguments, with everything escaped.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    macro: Any = getattr(_environment().get_template("parts.html").module, name)
    return str(macro(*values))


@cache
def _environment() -> Environment:
    jinja2 = require("jinja2", "report", "The page of a run")
    environment: Environment = jinja2.Environment(
        loader=jinja2.PackageLoader("estimator.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(geometry=_charts)
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files("estimator.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
