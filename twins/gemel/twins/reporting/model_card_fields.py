"""What a model card says of the programme behind a model, read off its definition: nothing is typed in twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gemel.twins.claims import CheckedClaim
from gemel.twins.reporting.credibility import credibility

if TYPE_CHECKING:
    from gemel.twins.definition import TwinDefinition


def card_fields(definition: TwinDefinition, *, claims: Sequence[CheckedClaim] = ()) -> dict[str, Any]:
    """JSON values: context of use, credibility, validation, baselines, physiology, treatments; claims as far as computed."""
    context, validation = definition.context, definition.validation
    found = credibility(context, claims=claims)
    return {
        "context_of_use": {
            "question": context.question,
            "role": context.role,
            "users": context.users,
            "not_for": list(context.not_for),
            "influence": found.influence,
            "consequence": found.consequence,
            "risk": found.risk,
        },
        "credibility": [asdict(factor) for factor in found.factors],
        "validation": {
            "grade": str(validation.grade),
            "data": validation.data,
            "missing": list(validation.missing),
            "limits": list(validation.limits),
        },
        "baselines": [
            {
                "name": baseline.name,
                "title": baseline.title,
                "endpoint": baseline.endpoint,
                "source": baseline.source,
                "mark": str(baseline.mark),
            }
            for baseline in definition.baselines
        ],
        "physiology": [
            {
                "states": [state.title for state in physiology.states],
                "parameters": [
                    {
                        "name": parameter.name,
                        "value": parameter.value,
                        "unit": parameter.unit,
                        "source": parameter.source,
                        "mark": str(parameter.mark),
                    }
                    for parameter in physiology.parameters
                ],
            }
            for physiology in definition.physiology
        ],
        "claims": claim_rows(claims),
    }


def claim_rows(claims: Sequence[CheckedClaim]) -> list[dict[str, Any]]:
    """Each claim with what was computed and its verdict."""
    return [
        {
            "name": checked.claim.name,
            "statement": checked.claim.statement,
            "gate": str(checked.claim.gate),
            "published": checked.claim.value,
            "low": checked.claim.low,
            "high": checked.claim.high,
            "computed": checked.computed,
            "unit": checked.claim.unit,
            "source": checked.claim.source,
            "mark": str(checked.claim.mark),
            "verdict": str(checked.verdict),
        }
        for checked in claims
    ]
