"""FHIR dates as SQL: what is a date, which day and hour it names, and what a time zone changes.

A date without a day stands for the middle of its month or year. The day is the one that the hospital wrote: the offset
of a dateTime moves no day, unless the site names its time zone; then a time with an offset is told by its clock.
"""

from __future__ import annotations

from gemel.data_adapters.reading.shape import quote_text

# Outside lie the placeholders for "open" and "not known" (9999-12-31, 0001-01-01). Years to come stay in:
# de-identified records are shifted by centuries.
FIRST_YEAR, LAST_YEAR = "1850", "2299"

_FORM = (
    r"\d{4}(-\d{2}(-\d{2}(T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
    r"(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?)?)?"
)
_OFFSET = r"(Z|[+-]\d\d:\d\d)$"

NOT_A_DATE, PLACEHOLDER = 1, 2
DATE_REASONS = {
    NOT_A_DATE: "not a FHIR date",
    PLACEHOLDER: f"the year is a placeholder or an error: not in {FIRST_YEAR} to {LAST_YEAR}",
}

MACROS = (
    # The day written, or the middle of the month or year.
    """CREATE OR REPLACE TEMP MACRO fhir_written_day(t) AS CASE length(t)
        WHEN 4 THEN TRY_CAST(t || '-07-02' AS DATE)
        WHEN 7 THEN TRY_CAST(t || '-16' AS DATE)
        ELSE TRY_CAST(left(t, 10) AS DATE) END""",
    f"""CREATE OR REPLACE TEMP MACRO fhir_date_fault(t) AS CASE
        WHEN t IS NULL OR t = '' THEN 0
        WHEN NOT regexp_full_match(t, {quote_text(_FORM)}) OR left(t, 4) = '0000'
            OR fhir_written_day(t) IS NULL THEN {NOT_A_DATE}
        WHEN left(t, 4) < '{FIRST_YEAR}' OR left(t, 4) > '{LAST_YEAR}' THEN {PLACEHOLDER}
        ELSE 0 END""",
    # An end without a day is compared by what both say.
    """CREATE OR REPLACE TEMP MACRO fhir_ends_before(a, b) AS
        left(b, least(length(a), length(b), 10)) < left(a, least(length(a), length(b), 10))""",
)


def clock_macros(time_zone: str | None) -> tuple[str, ...]:
    """`fhir_at(text)`, the local time of a text that is a FHIR date, and `fhir_day(text)`.

    Args:
        time_zone: IANA name of the site's zone, into which times with an offset are converted; None takes the
            time as it was written.
    """
    written = f"""CASE WHEN length(t) <= 10 THEN CAST(fhir_written_day(t) AS TIMESTAMP)
        WHEN substr(t, 17, 1) = ':' AND substr(t, 20, 1) <> '.' THEN TRY_CAST(left(t, 19) AS TIMESTAMP)
        ELSE TRY_CAST(regexp_replace(t, '{_OFFSET}', '') AS TIMESTAMP) END"""
    if time_zone is None:
        return (
            f"CREATE OR REPLACE TEMP MACRO fhir_at(t) AS {written}",
            "CREATE OR REPLACE TEMP MACRO fhir_day(t) AS fhir_written_day(t)",
        )
    zone = quote_text(time_zone)
    return (
        f"""CREATE OR REPLACE TEMP MACRO fhir_at(t) AS
        CASE WHEN length(t) > 10 AND regexp_matches(t, '{_OFFSET}')
            THEN timezone({zone}, TRY_CAST(t AS TIMESTAMPTZ)) ELSE {written} END""",
        "CREATE OR REPLACE TEMP MACRO fhir_day(t) AS CAST(fhir_at(t) AS DATE)",
    )
