"""The audit's report as one HTML page: no request, no script."""

from __future__ import annotations

from typing import Any

import jinja2


def page(result: dict[str, Any]) -> str:
    """The page of what `gemel audit --format json` prints."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gemel.cli", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html.j2").render(r=result)
