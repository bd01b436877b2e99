"""Rows on their way to facts: kept until it is known which lines newer versions, deletions or missing patients undo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from gemel.data_adapters.meaning import references
from gemel.data_adapters.meaning.account import ConceptFacts
from gemel.data_adapters.meaning.arrow_values import table
from gemel.data_adapters.meaning.facts import Facts

_LINE = [("resource", pa.string()), ("file", pa.int64()), ("line", pa.int64())]
_FROM_LINE = [*_LINE, ("id", pa.string())]
_SCHEMAS = {
    "person": pa.schema(
        [
            *_FROM_LINE,
            ("patient_id", pa.string()),
            ("sex", pa.string()),
            ("birth_day", pa.date32()),
            ("death_day", pa.date32()),
            ("deceased", pa.bool_()),
            ("replaced_by", pa.string()),
        ]
    ),
    "identifier": pa.schema([*_FROM_LINE, ("patient_id", pa.string()), ("identifier", pa.string())]),
    "visit": pa.schema(
        [
            *_FROM_LINE,
            ("patient_id", pa.string()),
            ("encounter_id", pa.string()),
            ("start_day", pa.date32()),
            ("start_at", pa.timestamp("us")),
            ("end_day", pa.date32()),
            ("finished", pa.bool_()),
        ]
    ),
    "fact": pa.schema(
        [
            *_FROM_LINE,
            ("patient_id", pa.string()),
            ("concept", pa.string()),
            ("day", pa.date32()),
            ("at", pa.timestamp("us")),
            ("end_day", pa.date32()),
            ("value", pa.float64()),
            ("bound", pa.string()),
            ("encounter_id", pa.string()),
        ]
    ),
    "subject": pa.schema([("resource", pa.string()), ("patient_id", pa.string()), ("lines", pa.int64())]),
    "gone": pa.schema([*_LINE, ("why", pa.string())]),
}
_NAMES = pa.schema([("resource", pa.string()), ("id", pa.string())])
_MERGED = pa.schema([("patient_id", pa.string()), ("other", pa.string())])
_GONE = "SELECT 1 FROM staged_gone AS g WHERE g.resource = s.resource AND g.file = s.file AND g.line = s.line"
_FACT_COLUMNS = 'patient_id, concept, day, "at", end_day, value, bound'


class Staging:
    """Tables `staged_*` beside the three of `Facts`, in the same database; `finish` moves what holds, and drops them."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        for macro in references.MACROS:
            facts.run(macro)
        for name, schema in _SCHEMAS.items():
            with self._registered(pa.Table.from_batches([], schema)):
                facts.run(f"CREATE TABLE staged_{name} AS SELECT * FROM gemel_rows")
        self._has_medications = False

    @contextmanager
    def _registered(self, rows: pa.Table) -> Iterator[None]:
        self._facts.connection.register("gemel_rows", rows)
        try:
            yield
        finally:
            self._facts.connection.unregister("gemel_rows")

    def add(self, name: str, rows: pa.Table) -> None:
        """Add rows to a staged table."""
        if not rows.num_rows:
            return
        with self._registered(rows):
            if name == "medication" and not self._has_medications:
                # Its concept is a struct, whose type is that of the shapes.
                self._facts.run("CREATE TABLE staged_medication AS SELECT * FROM gemel_rows")
                self._has_medications = True
            else:
                self._facts.run(f"INSERT INTO staged_{name} BY NAME SELECT * FROM gemel_rows")

    def drop_lines(self, lines: pa.Table, why: str) -> None:
        """Undo lines (resource, file, line) because a newer version replaces them, or they are deleted."""
        with self._registered(lines):
            self._facts.run(
                f"""INSERT INTO staged_gone SELECT resource, file, line, '{why}' FROM gemel_rows AS s
                WHERE NOT EXISTS ({_GONE})"""
            )

    def drop_resources(self, ids: Iterable[tuple[str, str]]) -> None:
        """Undo all lines of resources (type, id) that the export deletes."""
        pairs = sorted(ids)
        if not pairs:
            return
        with self._registered(table(_NAMES, pairs)):
            tables = ("person", "visit", "fact", *(("medication",) if self._has_medications else ()))
            lines = " UNION ".join(
                f"SELECT resource, file, line FROM staged_{name} SEMI JOIN gemel_rows USING (resource, id)"
                for name in tables
            )
            self._facts.run(
                f"""INSERT INTO staged_gone SELECT resource, file, line, 'deleted' FROM ({lines}) AS s
                WHERE NOT EXISTS ({_GONE})"""
            )

    def gone(self, why: str) -> dict[str, int]:
        """Lines that were undone, by type."""
        return dict(
            self._facts.run(
                f"SELECT resource, count(*) FROM staged_gone WHERE why = '{why}' GROUP BY 1 ORDER BY 1"
            )
        )

    def resolve(self, batch: pa.Table, subject: str) -> pa.Table:
        """Lines that waited, with the reference for an identifier, and the codes of the medication they refer to."""
        columns = set(batch.column_names)
        with self._registered(batch):
            changes = [
                f"""CASE WHEN fhir_unnamed({subject}) AND i.patient_id IS NOT NULL
                THEN struct_update({subject}, reference := 'Patient/' || i.patient_id) ELSE {subject} END AS {subject}"""
            ]
            joins = f"LEFT JOIN known AS i ON i.identifier = fhir_named_by(b.{subject})"
            if "medicationReference" in columns and self._has_medications:
                changes.append("coalesce(medicationCodeableConcept, m.code) AS medicationCodeableConcept")
                joins += """ LEFT JOIN medicine AS m ON m.medication_id =
                    fhir_key(coalesce(b.medicationReference.reference, b.medication.reference.reference), 'Medication')"""
            medicine = (
                f"""medicine AS (SELECT medication_id, any_value(code) AS code FROM staged_medication AS s
                WHERE NOT EXISTS ({_GONE}) GROUP BY 1),"""
                if self._has_medications
                else ""
            )
            return self._facts.connection.sql(f"""
                WITH {medicine} known AS (
                    SELECT identifier, min(patient_id) AS patient_id FROM staged_identifier AS s
                    WHERE NOT EXISTS ({_GONE}) GROUP BY 1 HAVING min(patient_id) = max(patient_id)
                )
                SELECT b.* REPLACE ({", ".join(changes)}) FROM gemel_rows AS b {joins}""").to_arrow_table()

    def orphans(self) -> dict[str, int]:
        """Accepted lines whose patient is not in the export, by type."""
        return dict(
            self._facts.run(
                """SELECT resource, CAST(sum(lines) AS BIGINT) FROM staged_subject WHERE patient_id IS NULL
                OR patient_id NOT IN (SELECT patient_id FROM staged_person) GROUP BY 1 ORDER BY 1"""
            )
        )

    def merge_patients(self) -> int:
        """Give what replaced patients have to those who replace them; the number of patients who are no longer there.

        A link to nobody in the export, or round in a circle, replaces nobody.
        """
        links = dict(
            self._facts.run(
                f"SELECT patient_id, replaced_by FROM staged_person AS s WHERE replaced_by IS NOT NULL AND NOT EXISTS ({_GONE})"
            )
        )
        if not links:
            return 0
        there = {
            key
            for (key,) in self._facts.run(
                f"SELECT patient_id FROM staged_person AS s WHERE NOT EXISTS ({_GONE})"
            )
        }
        last = {}
        for patient in links:
            seen, now = {patient}, patient
            while (following := links.get(now)) in there and following not in seen:
                seen.add(now := following)
            if now != patient and links.get(now) not in seen:
                last[patient] = now
        if not last:
            return 0
        with self._registered(table(_MERGED, list(last.items()))):
            for name in ("visit", "fact"):
                self._facts.run(
                    f"UPDATE staged_{name} SET patient_id = g.other FROM gemel_rows AS g "
                    f"WHERE staged_{name}.patient_id = g.patient_id"
                )
            self._facts.run(
                "DELETE FROM staged_person WHERE patient_id IN (SELECT patient_id FROM gemel_rows)"
            )
        return len(last)

    def finish(self) -> tuple[dict[str, int], dict[str, int]]:
        """Fill the tables of facts; gives the statements without a date by type, and the duplicates by concept."""
        run = self._facts.run
        run(f"""INSERT INTO person SELECT patient_id, sex, birth_day, death_day, deceased FROM staged_person AS s
            WHERE NOT EXISTS ({_GONE})""")
        run(f"DELETE FROM staged_visit AS s WHERE EXISTS ({_GONE})")
        run("""INSERT INTO visit SELECT patient_id, start_day, end_day, finished FROM staged_visit
            WHERE patient_id IN (SELECT patient_id FROM person) AND coalesce(start_day, end_day) IS NOT NULL""")
        run(
            f"DELETE FROM staged_fact AS s WHERE EXISTS ({_GONE}) OR patient_id IS NULL "
            "OR patient_id NOT IN (SELECT patient_id FROM person)"
        )
        run("""UPDATE staged_fact SET day = v.start_day, "at" = v.start_at
            FROM (SELECT encounter_id, patient_id, min(start_day) AS start_day, min(start_at) AS start_at
                FROM staged_visit GROUP BY ALL) AS v
            WHERE staged_fact.day IS NULL AND v.encounter_id = staged_fact.encounter_id
                AND v.patient_id = staged_fact.patient_id""")
        undated = dict(
            run("SELECT resource, count(*) FROM staged_fact WHERE day IS NULL GROUP BY 1 ORDER BY 1")
        )
        run(f"INSERT INTO fact SELECT DISTINCT {_FACT_COLUMNS} FROM staged_fact WHERE day IS NOT NULL")
        duplicates = dict(
            run("""SELECT concept, staged.n - coalesce(kept.n, 0)
                FROM (SELECT concept, count(*) AS n FROM staged_fact WHERE day IS NOT NULL GROUP BY 1) AS staged
                LEFT JOIN (SELECT concept, count(*) AS n FROM fact GROUP BY 1) AS kept USING (concept)
                WHERE staged.n > kept.n ORDER BY 1""")
        )
        for name in (*_SCHEMAS, *(("medication",) if self._has_medications else ())):
            run(f"DROP TABLE staged_{name}")
        return undated, duplicates


def describe_facts(facts: Facts, concepts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Numbers, patients and the distribution of each concept's facts, by nearest rank."""
    ranks = {"low": "1", "p5": "ceil(0.05 * n)", "p50": "ceil(0.5 * n)", "p95": "ceil(0.95 * n)", "high": "n"}
    picks = ", ".join(f"max(value) FILTER (place = {rank}) AS {name}" for name, rank in ranks.items())
    rows = facts.run(f"""
        WITH counted AS (
            SELECT concept, count(*) FILTER (bound IS NULL) AS said, count(*) FILTER (bound IS NOT NULL) AS bounds,
                count(DISTINCT patient_id) AS patients FROM fact GROUP BY 1
        ), ranked AS (
            SELECT concept, value, row_number() OVER (PARTITION BY concept ORDER BY value) AS place,
                count(*) OVER (PARTITION BY concept) AS n
            FROM fact WHERE value IS NOT NULL AND bound IS NULL
        )
        SELECT concept, said, bounds, patients, {", ".join(ranks)} FROM counted
        LEFT JOIN (SELECT concept, {picks} FROM ranked GROUP BY 1) USING (concept)""")
    names = ("values", "bounds", "patients", *ranks)
    found = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    return {name: found.get(name, {}) for name in concepts}


def concept_facts(name: str, described: dict[str, Any], **counts: Any) -> ConceptFacts:
    """The account of one concept."""
    return ConceptFacts(concept=name, **described, **counts)
