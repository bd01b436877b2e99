"""The demo's twin as a public report: TRIPOD+AI, context of use and released scores, filled in by the code."""

from __future__ import annotations

import json
from pathlib import Path

from gemel.core.certificate import read_certificate
from gemel.core.errors import GemelError
from gemel.server.home import RunFolder
from gemel.twins.definition import TwinDefinition
from gemel.twins.reporting import Audience, report
from gemel.twins.reporting.tripod_ai import ReleasedScores

NAME = "twin_report"


def write_twin_report(
    definition: TwinDefinition, run: RunFolder, released: ReleasedScores, out: Path
) -> list[Path]:
    """Write `twin_report.md` and `twin_report.json` into `out`: released numbers only. Raises GEM504 without a certificate."""
    if run.certificate is None:
        raise GemelError("GEM504", "The run left no certificate.")
    certificate, study = read_certificate(run.certificate)
    found = report(
        definition, audience=Audience.PUBLIC, study=study, certificate=certificate, released=released
    )
    page, data = out / f"{NAME}.md", out / f"{NAME}.json"
    page.write_text(found.to_markdown(), encoding="utf-8")
    data.write_text(
        json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return [page, data]
