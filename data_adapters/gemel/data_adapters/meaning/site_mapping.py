"""A hospital's own words: local codes, units, genders and statuses, said in a file, without touching code.

A mapping is a TOML file (below, every key there is; all are optional), or a FHIR ConceptMap (R4 or R5, JSON) for codes.
Several files make one mapping; they may not contradict each other.

    title = "St. Elsewhere, laboratory and patient administration, 2026"
    time_zone = "Europe/Berlin"          # of times recorded without a zone (IANA name)
    preliminary = false                  # whether preliminary observations count
    dates_shifted = false                # whether dates were moved to hide them: else what lies after today is left out
    require = "consent"                  # only patients with an active permission; without this, all who did not object

    [codes]                              # "system|code", or "code" for one recorded without a system
    "https://lab.example/codes|HDLC" = "http://loinc.org|2085-9"       # a code of a standard terminology,
    "https://lab.example/codes|BPSYS" = "systolic_blood_pressure"      # or a concept by its name
    "BMI" = "body_mass_index"

    [texts]                              # a display, or the text of a code, exactly as recorded
    "Fettleber" = "ICD-10-GM|K76.0"

    [systems]                            # a local name of a standard code system
    "https://lab.example/loinc" = "http://loinc.org"

    [units]                              # recorded spellings = UCUM, never a factor
    "MG%" = "mg/dL"

    [units_of.leukocytes]                # the same for one concept
    "TSD" = "10*3/uL"

    [default_units]                      # of quantities without a unit, by concept or by "system|code"
    body_mass_index = "kg/m2"
    "https://lab.example/codes|HDLC" = "mmol/L"

    [genders]
    "W" = "female"

    [encounters]
    finished_statuses = ["discharged"]   # local statuses that mean "finished"
    finished_classes = ["AMB"]           # classes that count as finished when the status is missing or "unknown"
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gemel.data_adapters.meaning.code_systems import standard_system
from gemel.data_adapters.meaning.units import COMMON_ALIASES

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class SiteMapping:
    """What one hospital says in its own words.

    Attributes:
        title: What the mapping is of.
        codes: From (system, code) as recorded to targets; the system is "" for a code recorded without one.
        texts: From a display or CodeableConcept.text, exactly as recorded, to targets.
            A target is "system|code" of a standard terminology, or the name of a concept.
        systems: From a local name of a code system to its FHIR URI.
        units: From recorded spellings to UCUM, for all concepts.
        concept_units: The same for one concept, by its name.
        default_units: UCUM units of quantities that have none, by concept name or local "system|code".
        time_zone: IANA name of the zone of times recorded without one; None when not said.
        genders: From local gender codes to FHIR's.
        finished_statuses: Local encounter statuses that mean "finished".
        finished_classes: Encounter classes that count as finished when the status says nothing.
        preliminary: Whether preliminary observations count.
        dates_shifted: Whether dates were moved to hide them, so that one after today is no error.
        require_consent: Whether only patients with an active permission are in (opt-in).
        skipped: Entries of ConceptMaps that map nothing, with the reason.
        places: Where each entry stands ("file:line"), by section and key.
    """

    title: str = ""
    codes: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    concept_units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    default_units: Mapping[str, str] = field(default_factory=dict)
    time_zone: str | None = None
    genders: Mapping[str, str] = field(default_factory=dict)
    finished_statuses: frozenset[str] = frozenset()
    finished_classes: frozenset[str] = frozenset()
    preliminary: bool = False
    dates_shifted: bool = False
    require_consent: bool = False
    skipped: tuple[str, ...] = ()
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def aliases(self, concept: str) -> Mapping[str, str]:
        """The spellings of units known for a concept: common ones, the site's, and the site's for this concept."""
        return {**self._all_aliases, **self.concept_units.get(concept, _NOTHING)}

    @functools.cached_property
    def _all_aliases(self) -> Mapping[str, str]:
        return {**COMMON_ALIASES, **self.units}

    def default_unit(self, concept: str, system: str = "", code: str = "") -> str | None:
        """The UCUM unit of a quantity recorded without one; None when the site has not said it."""
        return self.default_units.get(f"{system}|{code}") or self.default_units.get(concept)

    def is_finished(self, status: str | None, class_code: str | None = None) -> bool:
        """Whether an encounter took place and is over.

        >>> NO_MAPPING.is_finished("finished"), NO_MAPPING.is_finished("discharged")
        (True, False)
        """
        if status == "finished" or status in self.finished_statuses:
            return True
        return status in (None, "", "unknown") and class_code in self.finished_classes

    def concept_names(self) -> Iterator[tuple[str, str]]:
        """The concepts that the mapping names, each with the place of the entry."""
        for section, targets in (
            *((("codes", "|".join(key)), targets) for key, targets in self.codes.items()),
            *((("texts", key), targets) for key, targets in self.texts.items()),
        ):
            for target in targets:
                if "|" not in target:
                    yield self.place(*section), target
        for name in self.concept_units:
            yield self.place("units_of", name), name
        for name in self.default_units:
            if "|" not in name:
                yield self.place("default_units", name), name

    def concept_unit_entries(self) -> Iterator[tuple[str, str, str]]:
        """The units that the mapping gives to values of a concept: the place of the entry, the concept, the unit."""
        for name, unit in self.default_units.items():
            if "|" not in name:
                yield self.place("default_units", name), name, unit
        for name, units in self.concept_units.items():
            for spelling, unit in units.items():
                yield self.place(name, spelling), name, unit

    def place(self, section: str, key: str) -> str:
        """Where an entry stands, for messages."""
        return self.places.get((section, key), f"the mapping's {section} {key!r}")


NO_MAPPING = SiteMapping()


def split_token(token: str) -> tuple[str, str]:
    """The system and the code of a "system|code"; a code alone has the system "".

    A version of the system may stand between ("system|version|code").

    >>> split_token("https://lab.example|HDL"), split_token("HDL"), split_token("http://snomed.info/sct|2026|1")
    (('https://lab.example', 'HDL'), ('', 'HDL'), ('http://snomed.info/sct', '1'))
    """
    system, _, code = token.rpartition("|")
    if system and (known := standard_system(system)) != system:
        return known, code
    return system, code


def load_mapping(*paths: Path) -> SiteMapping:
    """Read a site's mapping from TOML files and FHIR ConceptMaps (.json); without a path, no mapping.

    Raises:
        GemelError: GEM240 when a file cannot be read; GEM241 for an entry that cannot hold; GEM242 when two entries
            contradict each other. The message names the file and the line.
    """
    # Here, because the readers of files make what this module defines.
    from gemel.data_adapters.meaning.mapping_files import read_mappings

    return read_mappings(paths)
