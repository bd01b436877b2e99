"""Clinical concepts: one idea, the codes by which hospitals record it, its unit and its public bounds."""

from __future__ import annotations

import msgspec

LOINC = "http://loinc.org"
SNOMED_CT = "http://snomed.info/sct"
ICD_10 = "http://hl7.org/fhir/sid/icd-10"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD_10_GM = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code of a terminology.

    `system` is the FHIR URI. `prefix` makes the code match its children too ("I48" takes "I48.0").
    `verified` says whether the code was checked against a source; an unverified one supports no claim alone.
    """

    system: str
    code: str
    verified: bool
    source: str
    prefix: bool = False


class Concept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One clinical idea and the codes by which hospitals record it.

    A measured concept has a UCUM `unit` and public clinical bounds `low` and `high` in that unit; a diagnosis has none.
    `molar_mass_g_mol` allows mass/molar conversion (mg/dL to mmol/L).
    """

    name: str
    title: str
    codes: tuple[Code, ...]
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    molar_mass_g_mol: float | None = None
    source: str = ""
