"""Patients, their encounters, and the medications that statements refer to: rules and rows as SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.statements import (
    GENDERS,
    INDEX_ENCOUNTERS,
    MODIFIED,
    UNUSED_ENCOUNTERS,
    Check,
    Dates,
    cases,
    date_checks,
    date_faults,
    labelled,
    partial_mask,
    subject_checks,
    waits_for_subject,
)
from gemel.data_adapters.reading.shape import quote_text


@dataclass(frozen=True)
class Rules:
    """How a resource type is read.

    Attributes:
        sql: A row for each line, with what the counts need.
        checks: The faults by their number.
        dates: Elements that are dates, as (name for the report, SQL).
        rows: The rows to keep, by table, from `said`.
    """

    sql: str
    checks: tuple[Check, ...]
    dates: Dates
    rows: Mapping[str, str]


_MODIFIED = Check("len(modifierExtension) > 0", "GEM215", "$.modifierExtension", MODIFIED)


def person_rules(resource: str, mapping: SiteMapping, *, final: bool) -> Rules:
    """How Patient, Encounter or Medication is read.

    Args:
        resource: The type.
        mapping: The site's words for sexes and statuses.
        final: Whether what a line may wait for is known.
    """
    if resource == "Patient":
        return _patient(mapping)
    if resource == "Encounter":
        return _encounter(mapping, final=final)
    return _MEDICATION


def _texts(texts: tuple[str, ...]) -> str:
    return f"({', '.join(quote_text(text) for text in texts)})"


def _patient(mapping: SiteMapping) -> Rules:
    local = " ".join(
        f"WHEN {quote_text(word)} THEN {quote_text(sex)}" for word, sex in sorted(mapping.genders.items())
    )
    sex = f"CASE gender {local} ELSE gender END" if local else "gender"
    dates = (
        ("Patient.birthDate", "birthDate"),
        ("Patient.deceasedDateTime", "deceasedDateTime"),
    )
    reason = f"not one of {', '.join(GENDERS)}"
    checks = (
        _MODIFIED,
        Check(f"{sex} <> '' AND {sex} NOT IN {_texts(GENDERS)}", "GEM214", "$.gender", reason),
        *date_checks(dates),
    )
    sql = f"""
        SELECT file, line, -1 AS part, id AS patient_id, CAST(CASE {cases(checks)} END AS SMALLINT) AS fault,
            NULL AS excluded, FALSE AS waits, CAST({partial_mask(dates)} AS TINYINT) AS partial,
            NULL AS version, {labelled()} AS synthetic, FALSE AS sampled,
            nullif({sex}, '') AS sex, fhir_written_day(birthDate) AS birth_day,
            fhir_day(nullif(deceasedDateTime, '')) AS death_day,
            coalesce(deceasedBoolean, FALSE) OR coalesce(deceasedDateTime, '') <> '' AS deceased, identifier,
            fhir_key(list_filter(link, lambda l: l.type = 'replaced-by')[1].other.reference, 'Patient') AS replaced_by
        FROM (SELECT *, {date_faults(dates)} FROM batch)"""
    rows = {
        "person": "SELECT 'Patient' AS resource, file, line, patient_id AS id, patient_id, sex, birth_day, death_day, deceased, replaced_by FROM said",
        "identifier": """SELECT 'Patient' AS resource, file, line, patient_id AS id, patient_id, fhir_identifier(i) AS identifier
            FROM (SELECT file, line, patient_id, unnest(identifier) AS i FROM said)
            WHERE fhir_identifier(i) IS NOT NULL""",
    }
    return Rules(sql, checks, dates, rows)


def _encounter(mapping: SiteMapping, *, final: bool) -> Rules:
    period = "coalesce(period, actualPeriod)"
    finished = f"coalesce(status IN {_texts((*INDEX_ENCOUNTERS, *sorted(mapping.finished_statuses)))}, FALSE)"
    if mapping.finished_classes:
        classes = _texts(tuple(sorted(mapping.finished_classes)))
        finished += (
            f" OR (coalesce(status, '') IN ('', 'unknown') AND coalesce(class.code IN {classes}, FALSE))"
        )
    excluded = f"CASE WHEN status IN {_texts(UNUSED_ENCOUNTERS)} THEN 'status ' || status END"
    dates = (
        ("Encounter.period.start", f"{period}.start"),
        ("Encounter.period.end", f"{period}.end"),
    )
    missing = Check(
        f"({finished}) AND coalesce({period}.start, '') = ''",
        "GEM207",
        "$.period.start",
        "a finished encounter has no start",
    )
    ends = Check(
        f"{period}.start <> '' AND {period}.end <> '' AND fhir_ends_before({period}.start, {period}.end)",
        "GEM210",
        "$.period",
        "the period ends before it starts",
    )
    late = (*subject_checks("subject", final=final), missing, *date_checks(dates), ends)
    checks = (_MODIFIED, *late)
    sql = f"""
        SELECT file, line, -1 AS part, fhir_key(subject.reference, 'Patient') AS patient_id,
            NOT fhir_unnamed(subject) AS named, {excluded} AS excluded,
            CAST(CASE {cases((_MODIFIED,))} WHEN excluded IS NOT NULL THEN NULL {cases(late, offset=1)} END
                AS SMALLINT) AS fault,
            {waits_for_subject("subject", final=final)} AS waits,
            CAST({partial_mask(dates)} AS TINYINT) AS partial,
            CASE WHEN actualPeriod IS NOT NULL OR status IN ('completed', 'discharged') THEN 5
                WHEN period IS NOT NULL OR status = 'finished' THEN 4 END AS version,
            {labelled()} AS synthetic, FALSE AS sampled, id AS encounter_id, {finished} AS finished,
            fhir_day(nullif({period}.start, '')) AS start_day, fhir_at(nullif({period}.start, '')) AS start_at,
            coalesce(fhir_day(nullif({period}.end, '')), start_day) AS end_day
        FROM (SELECT *, {date_faults(dates)} FROM batch)"""
    rows = {
        "visit": """SELECT 'Encounter' AS resource, file, line, encounter_id AS id, patient_id, encounter_id, start_day, start_at, end_day,
            finished FROM said WHERE excluded IS NULL""",
        "subject": """SELECT 'Encounter' AS resource, patient_id, count(*) AS lines FROM said WHERE named
            GROUP BY ALL""",
    }
    return Rules(sql, checks, dates, rows)


_MEDICATION = Rules(
    f"""
    SELECT file, line, -1 AS part, NULL::VARCHAR AS patient_id, CAST(CASE {cases((_MODIFIED,))} END AS SMALLINT) AS fault,
        CASE WHEN status = 'entered-in-error' THEN 'status entered-in-error' END AS excluded, FALSE AS waits,
        0 AS partial, NULL AS version, {labelled()} AS synthetic, FALSE AS sampled, id AS medication_id, code
    FROM batch""",
    (_MODIFIED,),
    (),
    {
        "medication": """SELECT 'Medication' AS resource, file, line, medication_id AS id, medication_id, code FROM said
            WHERE excluded IS NULL AND code IS NOT NULL"""
    },
)
