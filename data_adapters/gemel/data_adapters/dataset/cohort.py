"""Cohorts: who is in, from which day to which, and how many are left out for which reason."""

from __future__ import annotations

import duckdb
import msgspec

from gemel.core.programme import CohortDefinition
from gemel.data_adapters.meaning.clinical import INDEX_ENCOUNTERS, UNUSED_ENCOUNTERS
from gemel.data_adapters.reading.store import run

# A date without a day stands for the middle of its month or year. Days are those that the hospital wrote:
# the time zone of a dateTime moves no day.
DATE_MACRO = """
    CREATE OR REPLACE TEMP MACRO fhir_day(text) AS CASE length(text)
        WHEN 4 THEN TRY_CAST(text || '-07-02' AS DATE)
        WHEN 7 THEN TRY_CAST(text || '-16' AS DATE)
        ELSE TRY_CAST(left(text, 10) AS DATE) END"""


class CohortCounts(msgspec.Struct, frozen=True):
    """Patients read, patients in, and those left out by the first reason that applies."""

    patients: int
    included: int
    excluded: dict[str, int]


def select_cohort(connection: duckdb.DuckDBPyConnection, definition: CohortDefinition) -> CohortCounts:
    """Make the table `cohort` (patient_id, gender, birth_day, index_day, end_day, death_day) from the standard views.

    The index date is the start of the first finished encounter at `minimum_age_years` or older; follow-up ends at
    death, else at the end (or start) of the last encounter.
    """
    run(connection, DATE_MACRO)
    index_statuses = ", ".join(f"'{status}'" for status in INDEX_ENCOUNTERS)
    unused_statuses = ", ".join(f"'{status}'" for status in UNUSED_ENCOUNTERS)
    minimum_months = round(definition.minimum_age_years * 12)
    maximum_months = round(definition.maximum_age_years * 12)
    run(
        connection,
        f"""
        CREATE TABLE candidate AS
        WITH person AS (
            SELECT id, gender, deceased, fhir_day(birth_date) AS birth_day, fhir_day(death_date) AS death_day
            FROM view_patient
        ), visit AS (
            SELECT patient_id, status IN ({index_statuses}) AS finished, fhir_day(period_start) AS start_day,
                coalesce(fhir_day(period_end), fhir_day(period_start)) AS end_day
            FROM view_encounter WHERE status IS NULL OR status NOT IN ({unused_statuses})
        ), seen AS (
            SELECT person.id,
                count(*) FILTER (finished AND start_day IS NOT NULL) AS finished_visits,
                min(start_day) FILTER (finished AND start_day >= birth_day + to_months({minimum_months}))
                    AS index_day,
                max(end_day) AS last_day
            FROM person JOIN visit ON visit.patient_id = person.id GROUP BY person.id
        )
        SELECT person.id AS patient_id, gender, birth_day, index_day, death_day,
            coalesce(death_day, last_day) AS end_day,
            CASE
                WHEN birth_day IS NULL THEN 'no birth date'
                WHEN coalesce(finished_visits, 0) = 0 THEN 'no finished encounter'
                WHEN index_day IS NULL THEN 'too young at every encounter'
                WHEN index_day > birth_day + to_months({maximum_months}) THEN 'too old at the index date'
                WHEN deceased AND death_day IS NULL THEN 'death without a date'
                WHEN death_day < index_day THEN 'death before the index date'
                WHEN coalesce(death_day, last_day) - index_day < $minimum_days THEN 'follow-up too short'
            END AS reason
        FROM person LEFT JOIN seen USING (id)""",
        {"minimum_days": definition.minimum_follow_up_days},
    )
    run(connection, "CREATE TABLE cohort AS SELECT * EXCLUDE (reason) FROM candidate WHERE reason IS NULL")
    rows = run(connection, "SELECT reason, count(*) FROM candidate GROUP BY reason ORDER BY reason")
    counts = {reason: int(number) for reason, number in rows}
    included = counts.pop(None, 0)
    return CohortCounts(included + sum(counts.values()), included, counts)
