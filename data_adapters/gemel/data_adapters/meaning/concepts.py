"""Which concepts of a programme a code stands for."""

from __future__ import annotations

from gemel.core.concepts import ICD_10, LOINC, SNOMED_CT, Concept
from gemel.core.programme import Programme

# The same code systems under the names that messages of HL7 v2 and CDA use.
_SYSTEM_OF_OID = {
    "urn:oid:2.16.840.1.113883.6.1": LOINC,
    "urn:oid:2.16.840.1.113883.6.96": SNOMED_CT,
    "urn:oid:2.16.840.1.113883.6.3": ICD_10,
}


class ConceptIndex:
    """Looks up (system, code); a prefix code takes its children too ("I48" takes "I48.0")."""

    def __init__(self, programme: Programme) -> None:
        self._known: dict[tuple[str, str], tuple[Concept, ...]] = {}
        self._declared = [(code, concept) for concept in programme.concepts for code in concept.codes]

    def find(self, system: str, code: str) -> tuple[Concept, ...]:
        """The concepts of a code, in the programme's order; none when the programme does not know it."""
        key = (system, code)
        if key not in self._known:
            system = _SYSTEM_OF_OID.get(system, system)
            matches = [
                concept
                for declared, concept in self._declared
                if declared.system == system
                and (code == declared.code or (declared.prefix and code.startswith(declared.code)))
            ]
            self._known[key] = tuple(dict.fromkeys(matches))
        return self._known[key]
