"""A twin's report, as JSON and as Markdown: TRIPOD+AI, context of use, performance, subgroups, claims.

Two kinds. An internal report holds exact numbers of one hospital's patients: no noise protects them, so it stays at that hospital, and
says so. A public report holds released numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gemel.core.errors import GemelError
from gemel.twins.claims import CheckedClaim
from gemel.twins.reporting.audience import NOTES, Audience
from gemel.twins.reporting.credibility import Credibility, credibility
from gemel.twins.reporting.markdown import report_markdown
from gemel.twins.reporting.model_card_fields import card_fields
from gemel.twins.reporting.tripod_ai import FilledItem, Known, ReleasedScores, Status, tripod_ai

if TYPE_CHECKING:
    from gemel.core.certificate_form import Certificate
    from gemel.core.study import Study
    from gemel.twins.definition import TwinDefinition
    from gemel.twins.evaluation.evaluation import Evaluation
    from gemel.twins.uncertainty.coverage import Coverage

SCHEMA = "gemel/twin-report/1"


@dataclass(frozen=True)
class Report:
    """See the module."""

    audience: Audience
    known: Known
    items: tuple[FilledItem, ...]
    credibility: Credibility
    claims: tuple[CheckedClaim, ...]
    coverage: tuple[Coverage, ...]

    def count(self, status: Status) -> int:
        """How many TRIPOD+AI items are so filled."""
        return sum(filled.status is status for filled in self.items)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        known, programme = self.known, self.known.programme
        return {
            "schema": SCHEMA,
            "audience": str(self.audience),
            "note": NOTES[self.audience],
            "programme": {"name": programme.name, "version": programme.version, "title": programme.title},
            "tripod_ai": [
                {**asdict(filled.item), "status": str(filled.status), "text": filled.text}
                for filled in self.items
            ],
            "card": card_fields(known.definition, claims=self.claims),
            "evaluation": known.evaluation.to_json() if known.evaluation is not None else None,
            "released_scores": known.released,
            "coverage": [asdict(part) for part in self.coverage],
        }

    def to_markdown(self) -> str:
        """For people."""
        return report_markdown(self)


def report(
    definition: TwinDefinition,
    *,
    audience: Audience,
    study: Study | None = None,
    certificate: Certificate | None = None,
    evaluation: Evaluation | None = None,
    released: ReleasedScores | None = None,
    claims: Sequence[CheckedClaim] = (),
    coverage: Sequence[Coverage] = (),
) -> Report:
    """Put a report together from what there is.

    Raises GEM633 for exact local numbers (an evaluation, a coverage) in a public report, and for parts of another programme.
    """
    if audience is Audience.PUBLIC and (evaluation is not None or coverage):
        raise GemelError(
            "GEM633", "An evaluation and its coverage are exact: they belong into an internal report."
        )
    name, version = definition.programme.name, definition.programme.version
    others = [(study.programme, study.programme_version)] if study is not None else []
    others += [(evaluation.programme, evaluation.version)] if evaluation is not None else []
    others += [(certificate.programme.split("@")[0], version)] if certificate is not None else []
    if any(other != (name, version) for other in others):
        raise GemelError("GEM633", f"Not all parts are of {name} {version}.")
    known = Known(definition, study, certificate, evaluation, released)
    return Report(
        audience,
        known,
        tripod_ai(known),
        credibility(definition.context, claims=claims),
        tuple(claims),
        tuple(coverage),
    )
