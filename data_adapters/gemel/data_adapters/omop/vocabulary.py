"""From concept ids and local codes of a CDM to the concepts of a programme, by the CDM's own CONCEPT table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from gemel.core.concepts import ATC, ICD_10, ICD_10_CM, ICD_10_GM, LOINC, RXNORM, SNOMED_CT, Concept
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.omop.source import Only
from gemel.data_adapters.omop.stage import Stage
from gemel.data_adapters.omop.tables import CONCEPT, CONCEPT_ANCESTOR, EventTable

# vocabulary_id as OHDSI names them, and the FHIR URI of the same code system. A vocabulary that is not here keeps its
# own name as its system, which a site's mapping may name.
SYSTEM_OF_VOCABULARY: Mapping[str, str] = MappingProxyType(
    {
        "LOINC": LOINC,
        "SNOMED": SNOMED_CT,
        "ICD10": ICD_10,
        "ICD10CM": ICD_10_CM,
        "ICD10GM": ICD_10_GM,
        "ATC": ATC,
        "RxNorm": RXNORM,
    }
)
# The system of a code that is the number of a concept.
CONCEPT_ID = "concept_id"
# Standard concepts of the OHDSI vocabulary (domain "Meas Value Operator"), as published ETLs write them.
BOUND_OF_OPERATOR: Mapping[int, str] = MappingProxyType(
    {4171756: "<", 4171754: "<=", 4172704: ">", 4171755: ">="}
)
EQUAL_OPERATORS = (0, 4172703)
# Standard concepts of domain Gender; others are known by their code in CONCEPT (vocabulary Gender).
MALE, FEMALE = 8507, 8532
SEX_OF_CODE: Mapping[str, str] = MappingProxyType({"M": "male", "F": "female", "O": "other", "U": "unknown"})

# In these systems an ancestor's descendants are other codes, which no prefix of the text tells: SNOMED CT's ids have
# no hierarchy in them, and products (RxNorm) stand below the classes of ATC.
_BY_ANCESTORS = {SNOMED_CT: "SNOMED", ATC: "ATC"}
_ROWS = 16_384


class Vocabulary:
    """The tables `code` (concept_id, vocabulary_id, concept_code) and `descendant` (concept_id, concept)."""

    def __init__(self, stage: Stage, facts: Facts, programme: Programme, index: ConceptIndex) -> None:
        self._facts = facts
        self._index = index
        stage.load_codes(CONCEPT.name, CONCEPT.columns, name="code")
        facts.run("CREATE OR REPLACE TEMP TABLE descendant (concept_id BIGINT, concept VARCHAR)")
        self._load_descendants(stage, programme)

    def map_events(self, event: EventTable, name: str) -> None:
        """Make `standing_for` (concept_id, concepts) and `local_for` (source_value, concepts) of a staged table.

        Only rows without a fault are asked. The concept that the CDM made standard, the source concept and the
        source's own code are each tried, the last under the name of its column as its code system, or under none. The
        site's mapping may name a concept by its number ("concept_id|201826"), also one that CONCEPT does not have.
        """
        used = f"""SELECT DISTINCT unnest([{event.concept}, {event.source_concept}]) AS concept_id FROM {name}
            WHERE fault IS NULL"""
        ids: list[tuple[object, str]] = [
            (concept_id, concept.name)
            for concept_id, vocabulary, code in self._read(
                f"SELECT concept_id, vocabulary_id, concept_code FROM ({used}) LEFT JOIN code USING (concept_id) "
                "WHERE concept_id <> 0"
            )
            for concept in self._find(concept_id, vocabulary, code)
        ]
        texts: list[tuple[object, str]] = [
            (text, concept.name)
            for (text,) in self._read(
                f"SELECT DISTINCT {event.source_value} FROM {name} "
                f"WHERE fault IS NULL AND {event.source_value} IS NOT NULL"
            )
            for concept in self._index.find(event.source_value, text) or self._index.find("", text)
        ]
        self._keep("standing", ("concept_id", pa.int64()), ids)
        self._keep("local_for", ("source_value", pa.string()), texts)
        self._facts.run(f"""
            CREATE OR REPLACE TEMP TABLE standing_for AS
            SELECT concept_id, list(DISTINCT concept ORDER BY concept) AS concepts FROM (
                SELECT concept_id, unnest(concepts) AS concept FROM standing
                UNION ALL SELECT concept_id, concept FROM descendant WHERE concept_id IN ({used})
            ) GROUP BY concept_id""")

    def unknown(self, event: EventTable, name: str) -> int:
        """How many concept ids of a staged table CONCEPT does not have."""
        [(number,)] = self._facts.run(f"""
            SELECT count(*) FROM (
                SELECT DISTINCT unnest([{event.concept}, {event.source_concept}]) AS concept_id FROM {name}
                WHERE fault IS NULL
            ) ANTI JOIN code USING (concept_id) WHERE concept_id <> 0""")
        return int(number)

    def _find(self, concept_id: object, vocabulary: str | None, code: str | None) -> tuple[Concept, ...]:
        """The concepts of a concept_id: by the site's mapping of its number, else by its code in CONCEPT, if any."""
        found = self._index.find(CONCEPT_ID, str(concept_id))
        if found or vocabulary is None or code is None:
            return found
        return self._index.find(SYSTEM_OF_VOCABULARY.get(vocabulary, vocabulary), code)

    def _load_descendants(self, stage: Stage, programme: Programme) -> None:
        """The descendants of declared codes that take their children (`prefix`), by CONCEPT_ANCESTOR."""
        declared = [
            (_BY_ANCESTORS[code.system], code.code, concept.name)
            for concept in programme.concepts
            for code in concept.codes
            if code.prefix and code.system in _BY_ANCESTORS
        ]
        ancestors: list[tuple[object, str]] = [
            (concept_id, concept)
            for vocabulary, code, concept in declared
            for (concept_id,) in self._facts.run(
                "SELECT concept_id FROM code WHERE vocabulary_id = $vocabulary AND concept_code = $code",
                {"vocabulary": vocabulary, "code": code},
            )
        ]
        if not ancestors or not stage.has(CONCEPT_ANCESTOR.name):
            return
        only = Only("ancestor_concept_id", tuple(sorted({int(str(key)) for key, _ in ancestors})))
        stage.load_codes(CONCEPT_ANCESTOR.name, CONCEPT_ANCESTOR.columns, name="ancestry", only=only)
        self._keep("ancestor", ("concept_id", pa.int64()), ancestors)
        self._facts.run("""
            INSERT INTO descendant SELECT DISTINCT descendant_concept_id, unnest(concepts)
            FROM ancestry JOIN ancestor ON concept_id = ancestor_concept_id""")
        self._facts.run("DROP TABLE ancestry")

    def _read(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, a few at a time; nothing else may run on the connection meanwhile."""
        result = self._facts.connection.execute(sql)
        while rows := result.fetchmany(_ROWS):
            yield from rows

    def _keep(self, name: str, key: tuple[str, pa.DataType], pairs: list[tuple[object, str]]) -> None:
        """A table of (key, concepts) from pairs of a key and one concept."""
        keys, concepts = pa.array([k for k, _ in pairs], key[1]), pa.array([c for _, c in pairs], pa.string())
        self._facts.connection.register("gemel_pairs", pa.table({key[0]: keys, "concept": concepts}))
        self._facts.run(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {key[0]}, "
            f"list(DISTINCT concept ORDER BY concept) AS concepts FROM gemel_pairs GROUP BY {key[0]}"
        )
        self._facts.connection.unregister("gemel_pairs")
