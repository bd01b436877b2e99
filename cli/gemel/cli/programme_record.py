"""A programme's definition as plain values: what `gemel programme` prints and docs/programmes.md tabulates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from gemel.core.programme import Programme
from gemel.twins.claims import CheckedClaim, Claim, Gate, Verdict
from gemel.twins.definition import TwinDefinition
from gemel.twins.physiology import OdePhysiology, Physiology

_CLAIM = ("name", "statement", "gate", "value", "low", "high", "unit", "source", "mark", "needs")
_BASELINE = ("name", "title", "source", "mark", "endpoint")


def listed(definition: TwinDefinition) -> dict[str, Any]:
    """One line of the list: grade, the number of claims for each gate, and what is missing for more."""
    programme, validation = definition.programme, definition.validation
    supporting = Counter(claim.gate for claim in definition.claims)
    return {
        "name": programme.name,
        "version": programme.version,
        "title": programme.title,
        "grade": validation.grade.value,
        "gates": {gate.value: supporting[gate] for gate in Gate},
        "data": validation.data,
        "missing": list(validation.missing),
    }


def record_of(definition: TwinDefinition) -> dict[str, Any]:
    """All that a programme declares."""
    programme = definition.programme
    twin = definition.twin(programme)
    return {
        **listed(definition),
        "question": programme.question,
        "cohort": msgspec.to_builtins(programme.cohort),
        "times_years": list(programme.times_years),
        "concepts": msgspec.to_builtins(programme.concepts),
        "features": msgspec.to_builtins(programme.features),
        "outcomes": msgspec.to_builtins(programme.outcomes),
        "targets": msgspec.to_builtins(programme.targets),
        "endpoints": msgspec.to_builtins(programme.endpoints),
        "treatments": msgspec.to_builtins(programme.treatments),
        "observables": dict(twin.observables),
        "parameters_learned": sum(parameter.numel() for parameter in twin.parameters()),
        "physiology": [_physiology(each) for each in definition.physiology],
        "baselines": [{key: _plain(getattr(b, key)) for key in _BASELINE} for b in definition.baselines],
        "claims": [claim_line(claim) for claim in definition.claims],
        "context": {**asdict(definition.context), "credibility": dict(definition.context.credibility)},
        "validation": {**asdict(definition.validation), "grade": definition.validation.grade.value},
        "training": asdict(definition.training),
        "open_data": {
            name: getattr(definition.open_data, name)
            for name in ("title", "file", "licence", "simulated_title")
        },
        "example": definition.example.title,
    }


def claim_line(claim: Claim) -> dict[str, Any]:
    """A claim without the code that computes it."""
    return {name: _plain(getattr(claim, name)) for name in _CLAIM}


def checked_line(checked: CheckedClaim) -> dict[str, Any]:
    """A claim, what was computed (None for no number), and the verdict."""
    known = checked.computed is not None and math.isfinite(checked.computed)
    return {
        **claim_line(checked.claim),
        "computed": checked.computed if known else None,
        "verdict": checked.verdict.value,
    }


def gate_lines(claims: Sequence[CheckedClaim]) -> dict[str, dict[str, int]]:
    """By gate, how many of its claims came to which verdict."""
    return {
        gate.value: {
            verdict.value: sum(c.claim.gate is gate and c.verdict is verdict for c in claims)
            for verdict in Verdict
        }
        for gate in Gate
    }


def codes_of(programme: Programme, concepts: Sequence[str]) -> list[str]:
    """The codes of some concepts, each once: `I48` of every ICD-10 is said once."""
    codes = [code.code for name in concepts for code in programme.concept(name).codes]
    return list(dict.fromkeys(codes))


def _physiology(physiology: Physiology) -> dict[str, Any]:
    return {
        "kind": "differential equation" if isinstance(physiology, OdePhysiology) else "Markov chain",
        "name": type(physiology).__name__,
        "states": [asdict(state) for state in physiology.states],
        "parameters": [
            {name: _plain(value) for name, value in asdict(parameter).items()}
            for parameter in physiology.parameters
        ],
        "inputs": list(physiology.inputs),
    }


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
