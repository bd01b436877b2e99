"""What a virtual cohort must be able to say of itself before it may exist: its sources and their privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism


class PrivacyStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The differential-privacy guarantee of one released source.

    `noise` says where randomness came from: "secure" (the operating system) or "test" (a seed; no guarantee).
    """

    epsilon: float
    delta: float
    mechanisms: tuple[Mechanism, ...]
    unit: Literal["patient"]
    neighbouring: Literal["add or remove one patient"]
    noise: Literal["secure", "test"]


class CohortProvenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a virtual cohort comes from. All of it is public.

    `synthesis` is what the cohort is drawn from; `twin` is the study's twin, which may simulate what is not in it; `whole`
    composes both with everything else that the study released (metrics, counts). `synthesis` holds for a person who is a
    patient at `sites_of_a_person` of the hospitals at once, and is the same in the ledger of each of them. `created` is an RFC 3339 instant. `certificate_sha256` names the run's
    certificate where there is one.
    """

    study: str
    study_sha256: str
    programme: str
    programme_version: str
    sites: int
    created: str
    synthesis: PrivacyStatement
    twin: PrivacyStatement
    whole: PrivacyStatement
    sites_of_a_person: int
    certificate_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return document


def read_provenance(document: Mapping[str, Any]) -> CohortProvenance:
    """Check a provenance document. GEM702 unless both sources and the whole carry a privacy statement."""
    try:
        provenance = msgspec.convert(dict(document), CohortProvenance)
    except msgspec.ValidationError as error:
        raise GemelError("GEM702", f"The provenance is not complete: {error}.") from error
    for source in ("synthesis", "twin", "whole"):
        statement: PrivacyStatement = getattr(provenance, source)
        if not (0 < statement.epsilon < math.inf and 0 < statement.delta < 1 and statement.mechanisms):
            raise GemelError("GEM702", f"The privacy statement of the {source} does not bound anything.")
        if any(m.noise_multiplier <= 0 for m in statement.mechanisms):
            raise GemelError("GEM702", f"A mechanism of the {source} adds no noise.")
    parts = max(provenance.synthesis.epsilon, provenance.twin.epsilon)
    if provenance.whole.epsilon < parts * (1 - 1e-9):
        raise GemelError("GEM702", "The whole study cannot have cost less than one of its parts.")
    return provenance


def check_covers(provenance: CohortProvenance, *, precision: float) -> None:
    """Refuse (GEM702) a statement about other tables than those that a model was fitted to.

    Args:
        provenance: What is stated.
        precision: Of the model's tables, the sum of 1/σ²: with less noise than stated it would be more than stated.
    """
    stated = sum(m.count / m.noise_multiplier**2 for m in provenance.synthesis.mechanisms)
    if precision > stated * (1 + 1e-9):
        raise GemelError(
            "GEM702",
            f"The privacy statement is about tables of precision {stated:.4g} in all; the model was fitted to tables "
            f"of {precision:.4g}.",
        )


def posterior_from_even_odds(epsilon: float) -> float:
    """The most that an even suspicion ("is this person in?") can rise to: e^ε / (1 + e^ε).

    >>> round(posterior_from_even_odds(3.0), 3)
    0.953
    """
    return 1.0 / (1.0 + math.exp(-epsilon))


def release_id(
    provenance: CohortProvenance,
    *,
    seed: int,
    patients: int,
    given: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The name of one virtual cohort: equal for equal sources, seed, size and condition, different otherwise."""
    of: dict[str, Any] = {"study": provenance.study_sha256, "seed": seed, "patients": patients}
    if given:
        of["given"] = {name: list(levels) for name, levels in given.items()}
    return document_hash(of)[:16]
