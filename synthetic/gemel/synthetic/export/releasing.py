"""On whose word a cohort leaves, as each of its files says it: the report, the verdict, and who answers for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision


def check_decision(cohort: VirtualCohort, decision: Decision) -> None:
    """Refuse (GEM742) a decision about another model, or one by which rows stand against a release and nobody answers."""
    if not cohort.model_sha256 or decision.model_sha256 != cohort.model_sha256:
        raise GemelError(
            "GEM742",
            f"The decision is about model {decision.model_sha256}, the cohort is drawn from "
            f"{cohort.model_sha256 or 'a model that it does not name'}.",
        )
    if bool(decision.failed or decision.untested) != (decision.override is not None):
        raise GemelError(
            "GEM742",
            "The decision is none: rows stand against a release exactly where somebody overrides them.",
        )


def decision_document(decision: Decision) -> dict[str, Any]:
    """The decision as JSON."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(decision.as_dict()))
    return document


def decision_sha256(decision: Decision) -> str:
    """What each file names the decision by."""
    return document_hash(decision_document(decision))


def in_words(decision: Decision) -> str:
    """The verdict, and where it is an override, whose, when, why and over what."""
    override = decision.override
    if override is None:
        return "Released: the report passed."
    stands = [f"{word}: {'; '.join(rows)}" for word, rows in _against(decision) if rows]
    return (
        f"Released by {override.by} on {override.at} though the report did not pass ({'. '.join(stands)}). "
        f"Reason given: {override.reason}"
    )


def condition_in_words(cohort: VirtualCohort) -> str:
    """Which patients were asked for; empty for all."""
    parts = [f"{name}: {' or '.join(levels)}" for name, levels in cohort.given.items()]
    return f"Only patients of {'; '.join(parts)}." if parts else ""


def _against(decision: Decision) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("failed", decision.failed), ("not tested", decision.untested)
