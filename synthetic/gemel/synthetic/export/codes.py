"""The code by which a virtual record says a concept: one that means as little else as possible."""

from __future__ import annotations

import functools
from enum import StrEnum

from gemel.core.concepts import ATC, ICD_10, ICD_10_CM, ICD_10_GM, Code
from gemel.core.programme import Feature, IndexKind, OutcomeKind, Programme


class Kind(StrEnum):
    """As what hospitals record a concept."""

    MEASUREMENT = "measurement"
    DRUG = "drug"
    PROCEDURE = "procedure"
    CONDITION = "condition"


@functools.lru_cache(maxsize=4096)
def meaning_of(programme: Programme, code: Code) -> frozenset[str]:
    """The names of a programme's concepts that a code stands for."""
    return frozenset(
        concept.name
        for concept in programme.concepts
        for known in concept.codes
        if known.system == code.system
        and (known.code == code.code or (known.prefix and code.code.startswith(known.code)))
    )


@functools.lru_cache(maxsize=4096)
def chosen_code(programme: Programme, concept: str) -> Code:
    """Of the verified codes (of all, where none is) the first of those that stand for the fewest concepts."""
    codes = programme.concept(concept).codes
    return min(codes, key=lambda code: (not code.verified, len(meaning_of(programme, code))))


def own_concept(programme: Programme, feature: Feature) -> str:
    """The concept by which a history is recorded: the first that means no other feature, else the first.

    A history of several diagnoses does not say which one it was; nothing finer is modelled.
    """
    others = {c for f in programme.columns if f.name != feature.name for c in f.concepts}
    return next((c for c in feature.concepts if c not in others), feature.concepts[0])


def kind_of(programme: Programme, concept: str, code: Code) -> Kind:
    """A measured concept, a drug by its code, a procedure that treats, else a diagnosis."""
    if programme.concept(concept).unit is not None:
        return Kind.MEASUREMENT
    if code.system == ATC:
        return Kind.DRUG
    return Kind.PROCEDURE if concept in _procedures(programme) else Kind.CONDITION


@functools.lru_cache(maxsize=64)
def _procedures(programme: Programme) -> frozenset[str]:
    """What is done to a patient and is no drug: the concepts of treatments that have no code of a drug or a diagnosis."""
    given = {treatment.feature for treatment in programme.treatments}
    names = {c for feature in programme.columns if feature.name in given for c in feature.concepts}
    names |= {c for o in programme.outcomes if o.kind is OutcomeKind.FIRST_TREATMENT for c in o.concepts}
    if programme.cohort.index.kind is IndexKind.TREATMENT:
        names |= set(programme.cohort.index.concepts)
    others = {ATC, ICD_10, ICD_10_CM, ICD_10_GM}
    return frozenset(n for n in names if not others & {code.system for code in programme.concept(n).codes})
