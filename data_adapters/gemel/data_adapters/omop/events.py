"""Event tables of a CDM (diagnoses, procedures, drugs, measurements, observations) as facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from gemel.core.programme import Programme
from gemel.data_adapters.meaning.dates import LAST_YEAR
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.units import find_conversion
from gemel.data_adapters.omop.account import OmopAccount, OmopUnitProblem, OmopUnmapped
from gemel.data_adapters.omop.stage import Stage, missing
from gemel.data_adapters.omop.tables import EventTable
from gemel.data_adapters.omop.vocabulary import (
    BOUND_OF_OPERATOR,
    CONCEPT_ID,
    EQUAL_OPERATORS,
    SYSTEM_OF_VOCABULARY,
    Vocabulary,
)
from gemel.data_adapters.reading.intake import Fault
from gemel.data_adapters.reading.shape import quote_text

_MOST_FREQUENT = 50
_MAX_EXAMPLES = 20
# Kept in the database's file, not in memory as temporary tables are; gone with the table that they were made of.
_WORKING_TABLES = ("staged", "hit", "measure", "unit_map", "refused", "usable")


class EventReader:
    """Reads event tables one after the other: stage, map codes, convert units, add facts, keep the account."""

    def __init__(
        self,
        stage: Stage,
        facts: Facts,
        account: OmopAccount,
        programme: Programme,
        vocabulary: Vocabulary,
        mapping: SiteMapping,
    ) -> None:
        self._stage = stage
        self._facts = facts
        self._account = account
        self._programme = programme
        self._vocabulary = vocabulary
        self._mapping = mapping
        facts.run("CREATE OR REPLACE TEMP TABLE unmapped (system VARCHAR, code VARCHAR, rows BIGINT)")
        self._table(
            "concept_unit",
            {"concept": pa.string(), "unit": pa.string(), "low": pa.float64(), "high": pa.float64()},
            [(c.name, c.unit, c.low, c.high) for c in programme.concepts],
        )

    def read(self, event: EventTable) -> None:
        """Read one table to its end."""
        self._stage.load(event.name, event.columns, checks=_checks(event), name="staged")
        if not self._account.files[-1].accepted:
            return
        self._stage.note_orphans(event.name, "staged")
        self._note_odd_dates(event)
        self._vocabulary.map_events(event, "staged")
        if unknown := self._vocabulary.unknown(event, "staged"):
            self._account.unread.append(f"concept: it lacks {unknown} concept ids that {event.name} names")
        self._make_hits(event)
        self._note_unmapped(event)
        self._add_statements(event)
        if event.measured:
            self._add_values(event)
        for name in _WORKING_TABLES:
            self._facts.run(f"DROP TABLE IF EXISTS {name}")

    def people(self) -> dict[str, int]:
        """Persons with any fact, by concept; and the most frequent unmapped codes go into the account."""
        rows = self._facts.run(
            "SELECT system, code, sum(rows) AS n FROM unmapped GROUP BY system, code "
            f"ORDER BY n DESC, system, code LIMIT {_MOST_FREQUENT}"
        )
        self._account.unmapped = [OmopUnmapped(system, code, int(number)) for system, code, number in rows]
        [(total,)] = self._facts.run("SELECT coalesce(sum(rows), 0) FROM unmapped")
        self._account.unmapped_total = int(total)
        counted = self._facts.run(
            "SELECT concept, count(DISTINCT patient_id) FROM fact GROUP BY concept ORDER BY concept"
        )
        return {concept: int(number) for concept, number in counted}

    def _note_odd_dates(self, event: EventTable) -> None:
        odd = f"odd_end OR NOT {_sound_end(event)}" if event.end_day is not None else "FALSE"
        [(other, ends)] = self._facts.run(f"""
            SELECT count(*) FILTER (CAST({event.time} AS DATE) <> {event.day}), count(*) FILTER ({odd})
            FROM staged WHERE fault IS NULL""")
        if other:
            self._account.other_days[event.name] = int(other)
        if ends:
            self._account.odd_ends[event.name] = int(ends)

    def _make_hits(self, event: EventTable) -> None:
        """A row for each usable row of the table and concept of the programme that one of its codes stands for."""
        value = ", value_as_number AS number, unit_concept_id, unit_source_value" if event.measured else ""
        bound = _bound(event.operator) if event.operator is not None else "CAST(NULL AS VARCHAR)"
        end_day = (
            f"CASE WHEN {_sound_end(event)} THEN {event.end_day} END"
            if event.end_day is not None
            else "CAST(NULL AS DATE)"
        )
        others = [f"coalesce({event.coded_value}, 0) <> 0"] if event.coded_value is not None else []
        others += [f"{name} IS NOT NULL" for name in event.texts]
        others += ["value_as_number IS NOT NULL"] if event.measured else []
        self._facts.run(f"""
            CREATE OR REPLACE TABLE hit AS
            SELECT staged.row, person_id, {event.day} AS day,
                CASE WHEN CAST({event.time} AS DATE) = {event.day} THEN {event.time}
                    ELSE CAST({event.day} AS TIMESTAMP) END AS "at",
                {end_day} AS end_day, {event.source_value} AS source_value{value},
                {bound} AS bound, {" OR ".join(others) or "FALSE"} AS has_value,
                unnest({_CONCEPTS}) AS concept
            FROM staged SEMI JOIN known USING (person_id) {_joined(event)}
            WHERE fault IS NULL""")

    def _note_unmapped(self, event: EventTable) -> None:
        """Codes of rows that no concept takes: of the standard concept, else the source's, else the source's own code.

        A concept that CONCEPT does not have is passed over for what says more, and told by its number at last.
        """
        systems = " ".join(f"WHEN '{name}' THEN '{uri}'" for name, uri in SYSTEM_OF_VOCABULARY.items())
        self._facts.run(f"""
            INSERT INTO unmapped
            SELECT CASE WHEN vocabulary_id IS NOT NULL THEN CASE vocabulary_id {systems} ELSE vocabulary_id END
                    WHEN local_code IS NULL AND asked > 0 THEN '{CONCEPT_ID}' ELSE '{event.source_value}' END,
                coalesce(concept_code, local_code, CASE WHEN asked > 0 THEN CAST(asked AS VARCHAR) END, ''), rows
            FROM (
                SELECT coalesce(s.vocabulary_id, o.vocabulary_id) AS vocabulary_id,
                    coalesce(s.concept_code, o.concept_code) AS concept_code,
                    coalesce(nullif({event.concept}, 0), nullif({event.source_concept}, 0), 0) AS asked,
                    CASE WHEN coalesce(s.vocabulary_id, o.vocabulary_id) IS NULL THEN {event.source_value} END AS local_code, count(*) AS rows
                FROM staged SEMI JOIN known USING (person_id) {_joined(event)}
                    LEFT JOIN code s ON s.concept_id = nullif(staged.{event.concept}, 0)
                    LEFT JOIN code o ON o.concept_id = nullif(staged.{event.source_concept}, 0)
                WHERE fault IS NULL AND len({_CONCEPTS}) = 0 GROUP BY ALL
            )""")

    def _add_statements(self, event: EventTable) -> None:
        """Facts of concepts that have no value: a row says that something is so."""
        usable = "NOT has_value" if event.stated else "FALSE"
        rows = "hit JOIN concept_unit USING (concept) WHERE unit IS NULL"
        self._exclude(event, "a value beside a concept that has none", f"{rows} AND NOT ({usable})")
        if not event.measured:
            self._exclude(
                event,
                "no value of a measured concept",
                "hit JOIN concept_unit USING (concept) WHERE unit IS NOT NULL",
            )
        self._count(self._account.values, f"{rows} AND {usable}")
        self._facts.run(f"""
            INSERT INTO fact SELECT CAST(person_id AS VARCHAR), concept, day, "at", end_day, NULL, NULL
            FROM {rows} AND {usable}""")

    def _add_values(self, event: EventTable) -> None:
        """Facts of measured concepts, in the concept's unit and within its bounds."""
        self._facts.run("""
            CREATE OR REPLACE TABLE measure AS
            SELECT hit.* EXCLUDE (unit_concept_id, unit_source_value), low, high,
                coalesce(code.concept_code, unit_source_value,
                    CASE WHEN unit_concept_id > 0 THEN 'concept ' || unit_concept_id END) AS recorded,
                CASE WHEN recorded IS NULL THEN source_value END AS unitless
            FROM hit JOIN concept_unit USING (concept)
                LEFT JOIN code ON code.concept_id = unit_concept_id AND code.vocabulary_id = 'UCUM'
            WHERE unit IS NOT NULL""")
        self._map_units(event)
        self._refuse_units(event)
        self._count(self._account.absent, "measure WHERE number IS NULL")
        self._facts.run("""
            CREATE OR REPLACE TABLE usable AS
            SELECT measure.*, number * factor + shift AS value,
                (low IS NULL OR value >= low) AND (high IS NULL OR value <= high) AS plausible
            FROM measure JOIN unit_map ON unit_map.concept = measure.concept
                AND unit_map.recorded IS NOT DISTINCT FROM measure.recorded
                AND unit_map.unitless IS NOT DISTINCT FROM measure.unitless
            ANTI JOIN refused USING (row) WHERE number IS NOT NULL""")
        self._note_implausible()
        self._count(self._account.values, "usable WHERE plausible")
        self._count(self._account.bounds, "usable WHERE plausible AND bound IS NOT NULL")
        self._facts.run("""
            INSERT INTO fact SELECT CAST(person_id AS VARCHAR), concept, day, "at", end_day, value, bound
            FROM usable WHERE plausible""")

    def _map_units(self, event: EventTable) -> None:
        """Make `unit_map`: how each recorded unit of each concept becomes the concept's; without a row, it cannot."""
        found: list[tuple[object, ...]] = []
        for name, recorded, unitless in self._facts.run(
            "SELECT DISTINCT concept, recorded, unitless FROM measure WHERE number IS NOT NULL"
        ):
            concept = self._programme.concept(name)
            unit = recorded or self._mapping.default_unit(name, event.source_value, unitless or "")
            conversion = find_conversion(unit, concept, aliases=self._mapping.aliases(name)) if unit else None
            if conversion is not None:
                found.append((name, recorded, unitless, *conversion))
        columns = {"concept": pa.string(), "recorded": pa.string(), "unitless": pa.string()}
        self._table("unit_map", columns | {"factor": pa.float64(), "shift": pa.float64()}, found)

    def _refuse_units(self, event: EventTable) -> None:
        """Reject rows with a number that is in no unit, or in one that cannot become the concept's."""
        self._facts.run("""
            CREATE OR REPLACE TABLE refused AS
            SELECT row, measure.concept, measure.recorded
            FROM measure ANTI JOIN unit_map ON unit_map.concept = measure.concept
                AND unit_map.recorded IS NOT DISTINCT FROM measure.recorded
                AND unit_map.unitless IS NOT DISTINCT FROM measure.unitless
            WHERE number IS NOT NULL""")
        problems = self._facts.run("""
            SELECT concept, recorded, count(*) AS n, min(row) FROM refused GROUP BY concept, recorded
            ORDER BY n DESC, concept, recorded""")
        for concept, recorded, number, first in problems[:_MOST_FREQUENT]:
            if recorded is None:
                fault = Fault("GEM202", "unit_concept_id", f"the number has no unit ({concept})")
            else:
                target = self._programme.concept(concept).unit
                fault = Fault("GEM203", "unit_concept_id", f"{recorded!r} cannot become {target} ({concept})")
            same = "recorded IS NULL" if recorded is None else f"recorded = {quote_text(recorded)}"
            rule = f"row IN (SELECT row FROM refused WHERE concept = '{concept}' AND {same})"
            self._stage.reject(event.name, "staged", fault, rule)
            example = f"{self._stage.place(event.name)}:{first}"
            problem = OmopUnitProblem(fault.code, concept, recorded or "", int(number), example)
            self._account.unit_problems.append(problem)
        others = Fault("GEM203", "unit_concept_id", "a rarer unit that cannot become the concept's")
        self._stage.reject(event.name, "staged", others, "row IN (SELECT row FROM refused)")

    def _note_implausible(self) -> None:
        self._count(self._account.implausible, "usable WHERE NOT plausible")
        room = _MAX_EXAMPLES - len(self._account.implausible_examples)
        rows = self._facts.run(
            "SELECT concept, value FROM usable WHERE NOT plausible ORDER BY concept, row "
            f"LIMIT {max(room, 0)}"
        )
        self._account.implausible_examples += [
            f"{concept} = {value:.6g} {self._programme.concept(concept).unit}" for concept, value in rows
        ]

    def _exclude(self, event: EventTable, reason: str, rows: str) -> None:
        [(number,)] = self._facts.run(f"SELECT count(DISTINCT row) FROM {rows}")
        if number:
            self._account.excluded[f"{event.name}: {reason}"] = int(number)

    def _count(self, counts: dict[str, int], rows: str) -> None:
        for concept, number in self._facts.run(
            f"SELECT concept, count(*) FROM {rows} GROUP BY concept ORDER BY concept"
        ):
            counts[concept] = counts.get(concept, 0) + int(number)

    def _table(
        self, name: str, columns: Mapping[str, pa.DataType], rows: Sequence[tuple[object, ...]]
    ) -> None:
        """Make a small table."""
        arrays = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(columns.values())]
        self._facts.connection.register("gemel_small", pa.table(dict(zip(columns, arrays, strict=True))))
        self._facts.run(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM gemel_small")
        self._facts.connection.unregister("gemel_small")


# The concepts of a row: by its standard concept, its source concept and its own code, each once.
_CONCEPTS = """list_distinct(list_concat(list_concat(coalesce(a.concepts, []), coalesce(b.concepts, [])),
    coalesce(local_for.concepts, [])))"""


def _joined(event: EventTable) -> str:
    return f"""LEFT JOIN standing_for a ON a.concept_id = staged.{event.concept}
        LEFT JOIN standing_for b ON b.concept_id = staged.{event.source_concept}
        LEFT JOIN local_for ON local_for.source_value = staged.{event.source_value}"""


def _bound(operator: str) -> str:
    cases = " ".join(f"WHEN {number} THEN '{sign}'" for number, sign in BOUND_OF_OPERATOR.items())
    return f"CASE {operator} {cases} END"


def _sound_end(event: EventTable) -> str:
    """SQL: there is no end, or it is not before the start and no placeholder ("9999-12-31")."""
    end = event.end_day
    return f"coalesce({end} >= {event.day} AND year({end}) <= {LAST_YEAR}, TRUE)"


def _checks(event: EventTable) -> tuple[tuple[str, Fault], ...]:
    checks = [missing(event.key), missing("person_id"), missing(event.day)]
    if event.operator is not None:
        known = ", ".join(str(number) for number in (*EQUAL_OPERATORS, *BOUND_OF_OPERATOR))
        checks.append(
            (f"{event.operator} NOT IN ({known})", Fault("GEM214", event.operator, "none of <, <=, =, >=, >"))
        )
    return tuple(checks)
