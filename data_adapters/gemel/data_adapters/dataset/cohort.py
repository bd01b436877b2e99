"""Cohorts: who is in, from which day to which, and how many are left out for which reason."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.core.programme import (
    CohortDefinition,
    Criterion,
    IndexEvent,
    IndexKind,
    Missing,
    Occurrence,
    Programme,
)
from gemel.data_adapters.dataset.conditions import meets, of_concepts, within
from gemel.data_adapters.dataset.features import feature_query, series_query
from gemel.data_adapters.meaning.facts import Facts

_PSEUDONYM_DIGITS = 32
_AT_ONCE = 65_536


class CohortCounts(msgspec.Struct, frozen=True):
    """Patients read, patients in, and those left out by the first reason that applies."""

    patients: int
    included: int
    excluded: dict[str, int]


def pseudonym(key: bytes, patient_id: str) -> str:
    """HMAC-SHA-256 of the patient's id under the hospital's key, 32 hex digits (128 bits)."""
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()[:_PSEUDONYM_DIGITS]


def select_cohort(facts: Facts, programme: Programme, *, pseudonym_key: bytes) -> CohortCounts:
    """Make the tables `member` and `record` of a programme's cohort, and count who is out.

    `member`: position (0 to n - 1 in the order of the pseudonyms), pseudonym, patient_id, sex, birth_day, index_day,
    death_day, follow_days (from the index date to the end of follow-up).
    `record`: the members' statements, each once however often it was recorded: position, concept, day and last_day
    (from the index date), moment, value, bound.

    Raises:
        GemelError: GEM245 when a patient stands in the facts twice.
    """
    _name_persons(facts, pseudonym_key)
    _find_index(facts, programme.cohort)
    facts.run(
        "CREATE OR REPLACE TABLE member AS "
        "SELECT * EXCLUDE (reason), 0 AS position FROM candidate WHERE reason IS NULL"
    )
    _number_members(facts)
    facts.run(
        """
        CREATE OR REPLACE TABLE record AS
        SELECT position, concept, day, moment, value, bound, max(last_day) AS last_day FROM (
            SELECT position, concept, fact.day - index_day AS day,
                greatest(coalesce(fact.end_day, fact.day), fact.day) - index_day AS last_day,
                coalesce(fact."at", CAST(fact.day AS TIMESTAMP)) AS moment,
                -- Only numbers count, and there is one zero.
                CASE WHEN isfinite(value) THEN value + 0.0 END AS value, bound
            FROM fact JOIN member USING (patient_id) WHERE fact.day IS NOT NULL
        ) GROUP BY position, concept, day, moment, value, bound"""
    )
    counts = dict(
        facts.run(
            "SELECT reason, count(*) FROM candidate WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
        )
    )
    counts |= _leave_out(facts, programme)
    [(patients,)] = facts.run("SELECT count(*) FROM person")
    return CohortCounts(patients, patients - sum(counts.values()), counts)


def _name_persons(facts: Facts, key: bytes) -> None:
    """Make the table `named` (patient_id, pseudonym)."""
    [(rows, patients)] = facts.run("SELECT count(*), count(DISTINCT patient_id) FROM person")
    if rows != patients:
        raise GemelError("GEM245", f"{rows} persons have {patients} different ids.")
    facts.run("CREATE OR REPLACE TABLE named (patient_id VARCHAR, pseudonym VARCHAR)")
    with facts.connection.cursor() as reader:
        reader.execute("SELECT patient_id FROM person")
        while rows := reader.fetchmany(_AT_ONCE):
            ids = [row[0] for row in rows]
            names = pa.table(
                {"patient_id": ids, "pseudonym": [pseudonym(key, patient_id) for patient_id in ids]}
            )
            facts.connection.register("gemel_rows", names)
            facts.run("INSERT INTO named SELECT * FROM gemel_rows")
            facts.connection.unregister("gemel_rows")


def _find_index(facts: Facts, cohort: CohortDefinition) -> None:
    """Make the table `candidate`: every person with index date and end of follow-up, or with the reason to be out."""
    at_visits = cohort.index.kind is IndexKind.VISIT
    late = cohort.index.which in (Occurrence.LAST, Occurrence.ONE)
    usable = "old_enough AND young_enough AND looked_back" + (" AND followed" if late else "")
    pick = {
        Occurrence.LAST: f"max(day) FILTER ({usable})",
        Occurrence.ONE: f"min({{'draw': sha256(pseudonym || ':' || day), 'day': day}}) FILTER ({usable})",
    }.get(cohort.index.which, f"min(day) FILTER ({usable})")
    facts.run(f"""
        CREATE OR REPLACE TABLE candidate AS
        WITH contact AS (
            SELECT patient_id, min(start_day) AS first_day, max(coalesce(end_day, start_day)) AS last_day
            FROM visit GROUP BY patient_id
        ), known AS (
            SELECT person.*, pseudonym, first_day, coalesce(death_day, last_day) AS end_day
            FROM person JOIN named USING (patient_id) LEFT JOIN contact USING (patient_id)
        ), happening AS ({_events(cohort.index)}
        ), judged AS (
            SELECT patient_id, pseudonym, day,
                day >= birth_day + to_months({round(cohort.minimum_age_years * 12)}) AS old_enough,
                day <= birth_day + to_months({round(cohort.maximum_age_years * 12)}) AS young_enough,
                day - first_day >= {cohort.minimum_look_back_days:d} AS looked_back,
                end_day - day >= {cohort.minimum_follow_up_days:d} AS followed
            FROM happening JOIN known USING (patient_id)
        ), seen AS (
            SELECT patient_id, bool_or(old_enough) AS old, bool_or(old_enough AND young_enough) AS of_age,
                bool_or(old_enough AND young_enough AND looked_back) AS looked_back, {pick} AS picked
            FROM judged GROUP BY patient_id
        ), dated AS (
            SELECT known.*, seen.patient_id IS NOT NULL AS has_event, old, of_age, looked_back,
                {"picked.day" if cohort.index.which is Occurrence.ONE else "picked"} AS index_day
            FROM known LEFT JOIN seen USING (patient_id)
        )
        SELECT patient_id, pseudonym, sex, birth_day, index_day, death_day, end_day - index_day AS follow_days,
            CASE
                WHEN birth_day IS NULL THEN 'no birth date'
                WHEN NOT has_event THEN '{"no finished encounter" if at_visits else "no index event"}'
                WHEN NOT old THEN 'too young at every {"encounter" if at_visits else "index event"}'
                WHEN NOT of_age THEN 'too old at the index date'
                WHEN NOT coalesce(looked_back, FALSE) THEN 'look-back too short'
                WHEN deceased AND death_day IS NULL THEN 'death without a date'
                WHEN death_day < index_day THEN 'death before the index date'
                WHEN coalesce(end_day - index_day, -1) < {cohort.minimum_follow_up_days:d}
                    THEN 'follow-up too short'
            END AS reason
        FROM dated""")


def _events(index: IndexEvent) -> str:
    """SQL for the days (patient_id, day) that may set the index date."""
    if index.kind is IndexKind.VISIT:
        events = "SELECT patient_id, start_day AS day FROM visit WHERE finished AND start_day IS NOT NULL"
    else:
        value = " AND value IS NOT NULL" if index.kind is IndexKind.MEASUREMENT else ""
        events = (
            f"SELECT patient_id, day FROM fact WHERE {of_concepts(index.concepts)} AND day IS NOT NULL{value} "
            f"AND {meets(index.threshold)}"
        )
    if index.which is Occurrence.FIRST_EVER:
        return f"SELECT patient_id, min(day) AS day FROM ({events}) GROUP BY patient_id"
    return events


def _leave_out(facts: Facts, programme: Programme) -> dict[str, int]:
    """Take members out by criteria, then by features that exclude, in their order; the counts by reason."""
    cohort = programme.cohort
    rules = [(criterion.name, _matching(criterion), "ANTI") for criterion in cohort.required]
    rules += [(criterion.name, _matching(criterion), "SEMI") for criterion in cohort.exclusions]
    for feature in programme.features:
        if feature.missing_policy is Missing.EXCLUDE:
            query = (
                series_query(feature)
                if feature not in programme.columns
                else feature_query(programme, feature)
            )
            having = f"SELECT position FROM ({query}) WHERE value IS NOT NULL"
            rules.append((f"no value: {feature.name}", having, "ANTI"))
    counts = {}
    for name, query, join in rules:
        facts.run(
            f"CREATE OR REPLACE TABLE leaving AS SELECT member.position FROM member {join} JOIN ({query}) AS found "
            "ON member.position = found.position"
        )
        facts.run("DELETE FROM member WHERE position IN (SELECT position FROM leaving)")
        [(number,)] = facts.run("SELECT count(*) FROM leaving")
        if number:
            counts[name] = number
    if counts:
        facts.run("CREATE OR REPLACE TABLE before AS SELECT position AS old, pseudonym FROM member")
        _number_members(facts)
        facts.run(
            """
            CREATE OR REPLACE TABLE record AS SELECT record.* REPLACE (member.position AS position)
            FROM record JOIN before ON record.position = before.old JOIN member USING (pseudonym)"""
        )
    return counts


def _matching(criterion: Criterion) -> str:
    """SQL for the positions of those for whom something is recorded, or lasts, within a criterion's window."""
    return (
        f"SELECT position FROM record WHERE {of_concepts(criterion.concepts)} "
        f"AND {within(criterion.from_days, criterion.to_days, last='last_day')} AND {meets(criterion.threshold)} "
        f"GROUP BY position HAVING count(*) >= {criterion.minimum_count:d}"
    )


def _number_members(facts: Facts) -> None:
    facts.run(
        """
        CREATE OR REPLACE TABLE member AS
        SELECT * REPLACE (CAST(row_number() OVER (ORDER BY pseudonym) - 1 AS INTEGER) AS position) FROM member"""
    )
