"""Judging lines by the thousand: each resource type's rules as SQL over a batch of its lines.

Whatever is decided of codes and units is decided once for each that is new, and joined. Python sees the lines at fault
and the counts, never the lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from gemel.core.programme import Programme
from gemel.data_adapters.meaning import dates, references
from gemel.data_adapters.meaning.arrow_values import table
from gemel.data_adapters.meaning.consent import Withheld
from gemel.data_adapters.meaning.people import person_rules
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.statements import (
    BOUNDS,
    COMPONENT_CHECKS,
    HOLDS,
    TEXT_ONLY,
    Check,
    Statement,
    cases,
    date_faults,
    labelled,
    partial_mask,
    statements,
    unit_of,
    waits_for_subject,
)
from gemel.data_adapters.meaning.tallies import MAX_EXAMPLES, Tallies
from gemel.data_adapters.meaning.verdicts import Key, Verdicts
from gemel.data_adapters.reading.intake import Fault

_MEMORY_LIMIT = "64MB"
_LINE = pa.schema([("file", pa.int64()), ("line", pa.int64())])
_IDS = pa.schema([("id", pa.string())])


@dataclass
class Judged:
    """What a batch of lines of one resource type says.

    Attributes:
        resource: The type.
        faults: The lines at fault: (file, line, fault).
        waiting: Lines that another resource must be known for, as they came; judged again at the end.
        rows: Rows for the tables of `staging`, by table.
        tallies: Everything counted.
    """

    resource: str
    faults: list[tuple[int, int, Fault]] = field(default_factory=list)
    waiting: pa.Table | None = None
    rows: dict[str, pa.Table] = field(default_factory=dict)
    tallies: Tallies = field(default_factory=Tallies)


class Judge:
    """Judges batches on a database of its own: one for each thread."""

    def __init__(self, programme: Programme | None, mapping: SiteMapping, withheld: Withheld) -> None:
        self._mapping = mapping
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        for statement in (
            "SET TimeZone = 'UTC'",
            "SET enable_progress_bar = false",
            f"SET memory_limit = '{_MEMORY_LIMIT}'",
            *dates.MACROS,
            *dates.clock_macros(mapping.time_zone),
            *references.MACROS,
        ):
            self._run(statement)
        self._withheld = self._withheld_condition(withheld)
        for setting in ("enable_external_access = false", "lock_configuration = true"):
            self._run(f"SET {setting}")
        self._verdicts = Verdicts(self._connection, programme, mapping)
        self._statements = statements(mapping)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def judge(self, resource: str, batch: pa.Table, *, final: bool = False) -> Judged:
        """Judge lines of one type.

        Args:
            resource: The type.
            batch: `file`, `line` and the elements of `elements.fact_shapes`, a column each.
            final: Whether what the lines may wait for is known: then none waits any more.
        """
        judged = Judged(resource)
        self._connection.register("batch", batch)
        try:
            if resource in self._statements:
                self._judge_statement(self._statements[resource], batch, judged, final=final)
            else:
                self._judge_person(resource, batch, judged, final=final)
        finally:
            self._connection.unregister("batch")
        return judged

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return rows

    def _arrow(self, sql: str) -> pa.Table:
        return self._connection.sql(sql).to_arrow_table()

    def _withheld_condition(self, withheld: Withheld) -> str | None:
        """SQL that is true for the id of a patient who must not be seen; None when there is none."""
        conditions = []
        for name, ids, operator in (("refused", withheld.ids, "IN"), ("allowed", withheld.only, "NOT IN")):
            if ids or (ids is not None and name == "allowed"):
                self._connection.register("gemel_rows", table(_IDS, [(key,) for key in sorted(ids)]))
                self._run(f"CREATE TEMP TABLE {name} AS SELECT id FROM gemel_rows")
                self._connection.unregister("gemel_rows")
                conditions.append(f"patient_id {operator} (SELECT id FROM {name})")
        return " OR ".join(conditions) or None

    # --- Patients, encounters, medications -------------------------------------------------------

    def _judge_person(self, resource: str, batch: pa.Table, judged: Judged, *, final: bool) -> None:
        rules = person_rules(resource, self._mapping, final=final)
        self._run(f"CREATE OR REPLACE TEMP TABLE said AS {rules.sql}")
        self._withhold(judged)
        self._count_lines(judged, rules.checks, rules.dates)
        self._set_aside(judged, batch)
        for name, sql in rules.rows.items():
            judged.rows[name] = self._arrow(sql)

    # --- Statements about patients ---------------------------------------------------------------

    def _judge_statement(self, rules: Statement, batch: pa.Table, judged: Judged, *, final: bool) -> None:
        early, late = rules.checks(final=final)
        self._run(f"CREATE OR REPLACE TEMP TABLE said AS {self._said(rules, early, late, final=final)}")
        self._withhold(judged)
        has_components = "component" in batch.column_names and _has_items(batch["component"])
        if has_components:
            self._add_components(offset=len(early) + len(late))
        checks = (*early, *late, *(COMPONENT_CHECKS if has_components else ()))
        self._count_lines(judged, checks, rules.dates)
        self._set_aside(judged, batch)
        mapped = self._map_codes(judged)
        if mapped:
            self._run(_MAPPED)
            self._decide_units(judged)
        problems = list(self._without_unit(mapped)) if rules.is_measured else []
        if mapped and rules.is_measured:
            problems += self._unit_problems()
        if problems:
            self._reject(judged, problems)
        if mapped:
            judged.rows["fact"] = self._facts(rules, judged)
        judged.rows["subject"] = self._arrow(
            f"SELECT '{rules.resource}' AS resource, patient_id, count(*) AS lines FROM said "
            "WHERE part < 0 AND fault IS NULL AND named GROUP BY ALL"
        )

    def _said(self, rules: Statement, early: Sequence[Check], late: Sequence[Check], *, final: bool) -> str:
        """A row for each line: the patient, the dates' texts, the code and the value."""
        concept, quantity = rules.concept, rules.quantity
        late_cases = cases(late, offset=len(early))
        observation = rules.resource == "Observation"
        return f"""
        WITH judged AS (
            SELECT *, CAST(CASE {cases(early)} WHEN excluded IS NOT NULL THEN NULL {late_cases} END AS SMALLINT)
                AS fault
            FROM (SELECT *, {rules.excluded} AS excluded, {date_faults(rules.dates)} FROM batch)
        )
        SELECT file, line, id, CAST(-1 AS SMALLINT) AS part,
            fhir_key({rules.subject}.reference, 'Patient') AS patient_id,
            NOT fhir_unnamed({rules.subject}) AS named,
            excluded, fault,
            {waits_for_subject(rules.subject, rules.waits, final=final)} AS waits,
            {HOLDS if observation else "TRUE"} AND fault IS NULL AND excluded IS NULL AND NOT waits AS usable,
            CAST({partial_mask(rules.dates)} AS TINYINT) AS partial,
            CAST(CASE WHEN {rules.r5} THEN 5 WHEN {rules.r4} THEN 4 END AS TINYINT) AS version,
            {labelled()} AS synthetic, coalesce({_SAMPLED if observation else "FALSE"}, FALSE) AS sampled,
            {rules.start} AS start_text, {rules.end} AS end_text,
            fhir_key({rules.encounter}, 'Encounter') AS encounter_id,
            {self._key(concept)},
            {f"{quantity}.value" if quantity else "NULL::DOUBLE"} AS value,
            {unit_of(quantity) if quantity else "''"} AS unit,
            {f"{quantity}.comparator" if quantity else "NULL"} AS comparator,
            {_OTHER.format("") if observation else "NULL"} AS other
        FROM judged"""

    def _key(self, concept: str) -> str:
        """The columns of `Key` for a CodeableConcept."""
        codings = f"{concept}.coding"
        label = "''"
        if self._mapping.texts:
            displays = f"coalesce(list_transform({codings}, lambda c: c.display), [])"
            label = f"to_json([{concept}.text] || {displays})::VARCHAR"
        return f"""
            coalesce({codings}[1].system, '') AS system,
            CASE WHEN coalesce(len({codings}), 0) = 0 THEN '{TEXT_ONLY}' ELSE coalesce({codings}[1].code, '') END AS code,
            CASE WHEN len({codings}) > 1 THEN to_json({codings}[2:])::VARCHAR ELSE '' END AS more,
            {label} AS label"""

    def _add_components(self, *, offset: int) -> None:
        """Add a row to `said` for each component of the lines that count."""
        self._run(f"""
            INSERT INTO said BY NAME
            SELECT s.file, s.line, s.id, CAST(i - 1 AS SMALLINT) AS part, s.patient_id, s.named, NULL AS excluded, s.waits,
                CASE {cases(COMPONENT_CHECKS, offset=offset)} END AS fault, fault IS NULL AS usable,
                0 AS partial, NULL AS version, FALSE AS synthetic, FALSE AS sampled, s.start_text, s.end_text, s.encounter_id,
                {self._key("c.code")},
                c.valueQuantity.value AS value, {unit_of("c.valueQuantity")} AS unit,
                c.valueQuantity.comparator AS comparator, {_OTHER.format("c.")} AS other
            FROM (
                SELECT file, line, unnest(component) AS c, generate_subscripts(component, 1) AS i
                FROM batch WHERE len(component) > 0
            ) AS b JOIN said AS s USING (file, line)
            WHERE s.fault IS NULL AND s.excluded IS NULL AND NOT s.waits""")

    def _withhold(self, judged: Judged) -> None:
        """Drop the lines of withheld patients before anything is counted."""
        if self._withheld is None:
            return
        [(number,)] = self._run(f"SELECT count(*) FROM said WHERE {self._withheld}")
        if number:
            judged.tallies.withheld[judged.resource] += number
            self._run(f"DELETE FROM said WHERE {self._withheld}")

    def _count_lines(self, judged: Judged, checks: Sequence[Check], dated: Sequence[tuple[str, str]]) -> None:
        """Count what lines say of themselves, and take out those at fault."""
        tallies, kind = judged.tallies, judged.resource
        at_fault = False
        for excluded, partial, version, synthetic, sampled, waits, fault, number in self._run(
            "SELECT excluded, partial, version, synthetic, sampled, waits, fault IS NOT NULL, count(*) FROM said GROUP BY ALL"
        ):
            at_fault |= fault
            if waits:
                continue
            tallies.synthetic += number if synthetic else 0
            if version is not None:
                tallies.versions["R5" if version == 5 else "R4", kind] += number
            if fault:
                continue
            if excluded is not None:
                tallies.excluded[kind, excluded] += number
                continue
            tallies.sampled += number if sampled else 0
            for i, (name, _) in enumerate(dated):
                if partial >> i & 1:
                    tallies.partial_dates[name] += number
        if at_fault:
            self._take_out(judged, checks)

    def _take_out(self, judged: Judged, checks: Sequence[Check]) -> None:
        found: dict[tuple[int, int], Fault] = {}
        for file, line, part, fault in self._run(
            "SELECT file, line, part, fault FROM said WHERE fault IS NOT NULL ORDER BY ALL"
        ):
            found.setdefault((file, line), checks[fault].fault(part))
        for (file, line), fault in found.items():
            if fault.code == "GEM213":
                judged.tallies.versions["STU3", judged.resource] += 1
            judged.faults.append((file, line, fault))
        self._delete(found)

    def _delete(self, lines: Mapping[tuple[int, int], object]) -> None:
        self._connection.register("gemel_rows", table(_LINE, list(lines)))
        self._run("DELETE FROM said USING gemel_rows AS g WHERE said.file = g.file AND said.line = g.line")
        self._connection.unregister("gemel_rows")

    def _set_aside(self, judged: Judged, batch: pa.Table) -> None:
        """Keep the lines that wait as they came, and take them out."""
        [(number,)] = self._run("SELECT count(*) FROM said WHERE waits")
        if number:
            judged.waiting = self._arrow(
                "SELECT batch.* FROM batch JOIN said USING (file, line) WHERE said.waits"
            )
            self._run("DELETE FROM said WHERE waits")

    def _map_codes(self, judged: Judged) -> bool:
        """Decide the codes of the batch, and count those that the programme does not know; whether any is known."""
        rows = self._run(
            f"SELECT {', '.join(Key._fields)}, count(*) FROM said WHERE usable GROUP BY ALL ORDER BY ALL"
        )
        keys = [(Key(*row[:4]), row[4]) for row in rows]
        self._verdicts.decide_codes(key for key, _ in keys)
        mapped = False
        for key, number in keys:
            if self._verdicts.is_mapped(key):
                mapped = True
            elif self._verdicts.has_programme:
                judged.tallies.unmapped[key.system, key.code] += number
        return mapped

    def _without_unit(self, mapped: bool) -> Iterator[tuple[int, int, int, Check, str, str]]:
        """Values without a unit in lines that say nothing of a concept: (file, line, part, fault, concept, unit).

        Beside a statement that counts, a value of no concept is passed over: a panel is not lost for it.
        """
        known = "AND NOT EXISTS (SELECT 1 FROM mapped AS m WHERE m.file = said.file AND m.line = said.line)"
        for file, line, part in self._run(
            "SELECT file, line, part FROM said WHERE usable AND value IS NOT NULL AND unit = '' "
            f"{known if mapped else ''}"
        ):
            yield file, line, part, _no_unit(part, ""), "", ""

    def _decide_units(self, judged: Judged) -> None:
        pairs = self._run(
            "SELECT concept, recorded, unit, count(*) FROM mapped WHERE measured AND value IS NOT NULL GROUP BY ALL"
        )
        for concept, recorded, unit, number in pairs:
            judged.tallies.units[concept, recorded] += number
            if unit and not recorded:
                judged.tallies.default_units[concept] += number
        self._verdicts.decide_units((concept, unit) for concept, _, unit, _ in pairs if unit)

    def _unit_problems(self) -> Iterator[tuple[int, int, int, Check, str, str]]:
        for file, line, part, concept, value, unit, other in self._run(
            """SELECT file, line, part, concept, value, unit, other
            FROM mapped LEFT JOIN unit_verdict USING (concept, unit)
            WHERE (measured AND value IS NULL AND other IS NOT NULL) OR (value IS NOT NULL AND unit = '')
                OR (measured AND value IS NOT NULL AND factor IS NULL)
            ORDER BY file, line, part, unit <> '', place"""
        ):
            place = "$" if part < 0 else f"$.component[{part}]"
            if value is None:
                reason = f"{other} has no unit: {concept} needs a valueQuantity"
                yield file, line, part, Check("", "GEM202", f"{place}.{other}", reason), concept, ""
            elif not unit:
                yield file, line, part, _no_unit(part, concept), concept, ""
            else:
                target = self._verdicts.concept(concept).unit
                reason = f"{unit!r} cannot become {target} ({concept})"
                check = Check("", "GEM203", f"{place}.valueQuantity.code", reason)
                yield file, line, part, check, concept, unit

    def _reject(self, judged: Judged, problems: Sequence[tuple[int, int, int, Check, str, str]]) -> None:
        """Reject each line for the first of its problems."""
        found: dict[tuple[int, int], Fault] = {}
        for file, line, _, check, concept, unit in sorted(problems, key=lambda problem: problem[:3]):
            if (file, line) not in found:
                found[file, line] = fault = check.fault()
                judged.tallies.unit_problems[fault.code, concept, unit, fault.reason] += 1
                judged.faults.append((file, line, fault))
        self._delete(found)

    def _facts(self, rules: Statement, judged: Judged) -> pa.Table:
        """The rows for the table of facts; what gives none is counted."""
        takes = "TRUE" if rules.quantity is not None else "NOT measured"
        about = "measured" if rules.is_measured else takes
        self._run(f"""
            CREATE OR REPLACE TEMP TABLE stated AS
            SELECT m.*, value * factor + shift AS amount,
                fhir_day(start_text) AS day, fhir_at(start_text) AS "at",
                CASE WHEN fhir_date_fault(end_text) = 0 THEN fhir_day(nullif(end_text, '')) END AS last_day,
                fhir_date_fault(end_text) <> 0 OR last_day < day AS odd_end,
                CASE WHEN NOT ({about}) THEN 'unused'
                    WHEN measured AND amount IS NULL AND {rules.is_measured} THEN 'absent'
                    WHEN amount < low OR amount > high THEN 'implausible'
                    WHEN comparator NOT IN {BOUNDS} THEN 'unused' END AS lost
            FROM mapped AS m LEFT JOIN unit_verdict USING (concept, unit)
            SEMI JOIN said ON said.file = m.file AND said.line = m.line""")
        tallies = judged.tallies
        for concept, lost, odd_end, number in self._run(
            "SELECT concept, lost, coalesce(odd_end, FALSE), count(*) FROM stated GROUP BY ALL"
        ):
            if odd_end and lost is None:
                tallies.odd_ends[judged.resource] += number
            if lost == "unused":
                tallies.unused[judged.resource, concept] += number
            elif lost is not None:
                getattr(tallies, lost)[concept] += number
        if tallies.implausible:
            for concept, amount in self._run(
                "SELECT DISTINCT concept, amount FROM stated WHERE lost = 'implausible' "
                f"ORDER BY ALL LIMIT {MAX_EXAMPLES}"
            ):
                tallies.examples.append(f"{concept} = {amount:.6g} {self._verdicts.concept(concept).unit}")
        return self._arrow(
            """SELECT resource, file, line, id, patient_id, concept, day, "at",
                CASE WHEN NOT coalesce(odd_end, FALSE) THEN last_day END AS end_day,
                amount AS value, CASE WHEN amount IS NOT NULL THEN comparator END AS bound, encounter_id
            FROM (SELECT *, $resource AS resource FROM stated) WHERE lost IS NULL""".replace(
                "$resource", f"'{judged.resource}'"
            )
        )


_OTHER = "CASE WHEN {0}valueInteger IS NOT NULL THEN 'valueInteger' WHEN {0}valueString IS NOT NULL THEN 'valueString' END"
_SAMPLED = "valueSampledData IS NOT NULL OR len(list_filter(component, lambda c: c.valueSampledData IS NOT NULL)) > 0"
_MAPPED = """
    CREATE OR REPLACE TEMP TABLE mapped AS
    SELECT s.file, s.line, s.id, s.part, s.patient_id, s.start_text, s.end_text, s.encounter_id, s.value, s.comparator,
        s.other, s.unit AS recorded, CASE WHEN s.unit = '' THEN coalesce(v.default_unit, '') ELSE s.unit END AS unit,
        v.concept, v.measured, v.low, v.high, v.place
    FROM said AS s JOIN code_verdict AS v USING (system, code, more, label) WHERE s.usable"""


def _has_items(column: pa.ChunkedArray) -> bool:
    return any(len(chunk.flatten()) > 0 for chunk in column.chunks)


def _no_unit(part: int, concept: str) -> Check:
    place = "$" if part < 0 else f"$.component[{part}]"
    reason = f"the quantity has a value and no unit{f' ({concept})' if concept else ''}"
    return Check("", "GEM202", f"{place}.valueQuantity", reason)
