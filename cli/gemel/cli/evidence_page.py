"""The evidence pack as one HTML page: no request, no script, fit to print."""

from __future__ import annotations

import jinja2

from gemel.core.signing import SignedDocument


def page(document: SignedDocument) -> str:
    """The page of an evidence document; it says the document's hash, so that paper and file can be compared."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gemel.cli", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("evidence.html.j2")
    return template.render(e=document.payload, sha256=document.payload_sha256)
