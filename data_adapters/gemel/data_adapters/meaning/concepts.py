"""Which concepts of a programme a code stands for: the site's mapping first, then the standard terminologies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from gemel.core.concepts import Concept, load_concepts
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.code_systems import is_child, standard_code, standard_system
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping, split_token
from gemel.data_adapters.meaning.units import find_conversion


class ConceptIndex:
    """Looks up (system, code); a prefix code takes its children too ("I48" takes "I48.0").

    What the site's mapping says of a code or a text holds alone: so a site can also correct a code that it misuses.

    Raises:
        GemelError: GEM241 when the mapping names a concept that neither the programme nor the library has, or gives
            its values a unit that cannot become the concept's.
    """

    def __init__(self, programme: Programme, mapping: SiteMapping = NO_MAPPING) -> None:
        self._mapping = mapping
        self._concepts = {concept.name: concept for concept in programme.concepts}
        self._known: dict[tuple[str, str], tuple[Concept, ...]] = {}
        self._exact: defaultdict[tuple[str, str], list[Concept]] = defaultdict(list)
        self._prefixes: defaultdict[str, list[tuple[str, Concept]]] = defaultdict(list)
        for concept in programme.concepts:
            for code in concept.codes:
                system = standard_system(code.system)
                written = standard_code(system, code.code)
                self._exact[system, written].append(concept)
                if code.prefix:
                    self._prefixes[system].append((written, concept))
        self._refuse_unknown_concepts()
        self._refuse_wrong_units()

    def find(self, system: str, code: str) -> tuple[Concept, ...]:
        """The concepts of a code, in the programme's order; none when neither mapping nor programme knows it."""
        key = (system, code)
        if key not in self._known:
            targets = self._mapping.codes.get((system, code))
            if targets is None:
                targets = self._mapping.codes.get((system.strip(), code.strip()))
            self._known[key] = self._standard(system, code) if targets is None else self._resolve(targets)
        return self._known[key]

    def find_text(self, text: str) -> tuple[Concept, ...]:
        """The concepts that the site's mapping gives to a display or a CodeableConcept.text, exactly as recorded."""
        return self._resolve(self._mapping.texts.get(text, ()))

    def _standard(self, system: str, code: str) -> tuple[Concept, ...]:
        system = standard_system(self._mapping.systems.get(system, system))
        code = standard_code(system, code)
        found = list(self._exact.get((system, code), ()))
        found += [
            concept for prefix, concept in self._prefixes.get(system, ()) if is_child(system, code, prefix)
        ]
        return self._in_order(concept.name for concept in found) if found else ()

    def _resolve(self, targets: tuple[str, ...]) -> tuple[Concept, ...]:
        names: list[str] = []
        for target in targets:
            if "|" in target:
                names += [concept.name for concept in self._standard(*split_token(target))]
            else:
                names.append(target)
        return self._in_order(names)

    def _in_order(self, names: Iterable[str]) -> tuple[Concept, ...]:
        wanted = set(names)
        return tuple(concept for name, concept in self._concepts.items() if name in wanted)

    def _refuse_unknown_concepts(self) -> None:
        for place, name in self._mapping.concept_names():
            # A mapping serves all programmes of a hospital: a concept of another one is no error.
            if name not in self._concepts and name not in load_concepts():
                raise GemelError(
                    "GEM241",
                    f"{place}: there is no concept {name!r}. This programme has {', '.join(sorted(self._concepts))}.",
                )

    def _refuse_wrong_units(self) -> None:
        for place, name, unit in self._mapping.concept_unit_entries():
            concept = self._concepts.get(name) or load_concepts()[name]
            if concept.unit is None:
                raise GemelError("GEM241", f"{place}: {name} is not measured: it has no unit.")
            # Units of one entry may be spelt as another explains them.
            if find_conversion(unit, concept, aliases=self._mapping.aliases(name)) is None:
                raise GemelError(
                    "GEM241",
                    f"{place}: {unit!r} cannot become {concept.unit}, the unit of {name} ({concept.title}).",
                )
