"""Which concepts of a programme a code stands for."""

from __future__ import annotations

from gemel.core.programme import Concept, Programme


class ConceptIndex:
    """Looks up (system, code); a prefix code takes its children too ("I48" takes "I48.0")."""

    def __init__(self, programme: Programme) -> None:
        self._known: dict[tuple[str, str], tuple[Concept, ...]] = {}
        self._declared = [(code, concept) for concept in programme.concepts for code in concept.codes]

    def find(self, system: str, code: str) -> tuple[Concept, ...]:
        """The concepts of a code, in the programme's order; none when the programme does not know it."""
        key = (system, code)
        if key not in self._known:
            matches = [
                concept
                for declared, concept in self._declared
                if declared.system == system
                and (code == declared.code or (declared.prefix and code.startswith(declared.code)))
            ]
            self._known[key] = tuple(dict.fromkeys(matches))
        return self._known[key]
