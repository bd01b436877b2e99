"""The records of an OMOP CDM as facts: the same three tables that FHIR resources give."""

from __future__ import annotations

import functools
import re
from collections.abc import Container
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.dates import FIRST_YEAR, LAST_YEAR
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.opt_out import Entry, OptOutList
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.omop.account import OmopAccount
from gemel.data_adapters.omop.events import EventReader
from gemel.data_adapters.omop.source import OmopSource, open_source
from gemel.data_adapters.omop.stage import WITHHELD, Stage, missing
from gemel.data_adapters.omop.tables import CDM_SOURCE, DEATH, EVENTS, PERSON, VISIT_OCCURRENCE
from gemel.data_adapters.omop.vocabulary import FEMALE, MALE, SEX_OF_CODE, Vocabulary
from gemel.data_adapters.reading.intake import Fault
from gemel.data_adapters.reading.shape import quote_name
from gemel.data_adapters.sources.bundles import LABEL

_ROWS = 16_384


def read_omop(
    source: Path | str,
    programme: Programme,
    facts: Facts,
    *,
    mapping: SiteMapping = NO_MAPPING,
    withheld: Container[str] | OptOutList = frozenset(),
) -> OmopAccount:
    """Fill `person`, `visit` and `fact` from a CDM (v5.3 or v5.4).

    Args:
        source: A folder with one CSV or Parquet file for each table, or the URL of a PostgreSQL database.
        programme: Whose concepts to look for.
        facts: Where the rows go.
        mapping: The site's own words: local codes stand under the name of their column
            (`measurement_source_value`), concept ids under `concept_id`. Where a column holds codes of a standard
            system, `systems` says so: `"condition_source_value" = "ICD-10"`. Units in `unit_source_value`.
        withheld: Who must not be read: by `person_id`, or by `person_source_value`. Of an opt-out list the account says
            which entries named nobody; as a CDM says of no identifier which system it is of, whoever may be meant is
            out.

    Raises:
        GemelError: GEM211 when the CDM says that it is synthetic, GEM250 when it is none of these versions, GEM252 when a database cannot be reached. Rows
            at fault are counted, not raised.
    """
    account = OmopAccount()
    with open_source(source, time_zone=mapping.time_zone) as opened:
        account.unread = list(opened.unread)
        account.cdm_version = _version(opened)
        _refuse_labelled(opened)
        stage = Stage(opened, facts, account)
        vocabulary = Vocabulary(stage, facts, programme, ConceptIndex(programme, mapping))
        _read_people(stage, facts, account, withheld)
        _read_visits(stage, facts, account)
        events = EventReader(stage, facts, account, programme, vocabulary, mapping)
        for event in EVENTS:
            if stage.has(event.name):
                events.read(event)
        account.people = events.people()
    _forget(facts)
    return account


def _forget(facts: Facts) -> None:
    """Drop what only the reading needed: nothing that is built on the facts may reach the rows themselves."""
    temporary = facts.run("SELECT table_name FROM duckdb_tables() WHERE temporary")
    for name in ("staged", "staged_person", "code", "ancestry", *(name for (name,) in temporary)):
        facts.run(f"DROP TABLE IF EXISTS {quote_name(name)}")


def _version(source: OmopSource) -> str:
    """What CDM_SOURCE says; GEM250 for a version of another structure (6 has no DEATH: everybody would live on)."""
    columns = source.columns(CDM_SOURCE.name)
    if columns is None or "cdm_version" not in columns:
        return ""
    versions = {
        str(text).strip()
        for batch in source.batches(CDM_SOURCE.name, ["cdm_version"])
        for text in batch.column(0).to_pylist()
        if text
    }
    for version in versions:
        number = re.search(r"\d+", version)
        if number is not None and number[0] != "5":
            raise GemelError("GEM250", f"CDM_SOURCE says version {version[:20]}; 5.3 and 5.4 are read.")
    return ", ".join(sorted(versions))


def _refuse_labelled(source: OmopSource) -> None:
    """GEM211 when the CDM says that it is synthetic: of itself in CDM_SOURCE, or of its persons by their own ids."""
    for table in (CDM_SOURCE, PERSON):
        present = source.columns(table.name) or ()
        names = [column.name for column in table.columns if column.kind == "text" and column.name in present]
        batches = source.batches(table.name, names) if names else ()
        labelled = sum(pc.sum(_labelled(batch)).as_py() or 0 for batch in batches)
        if labelled:
            raise GemelError(
                "GEM211", f"{labelled} rows of {source.place(table.name)} carry the {LABEL} label."
            )


def _labelled(batch: pa.RecordBatch) -> pa.Array:
    """Which rows have the label as a word of any of their texts."""
    found = [
        pc.fill_null(pc.match_substring_regex(column, rf"\b{LABEL}\b"), False) for column in batch.columns
    ]
    return functools.reduce(pc.or_, found)


def _read_people(
    stage: Stage, facts: Facts, account: OmopAccount, withheld: Container[str] | OptOutList
) -> None:
    stage.load(PERSON.name, PERSON.columns, checks=_PERSON_CHECKS, name="staged_person")
    _withhold(facts, account, withheld)
    facts.run("""
        CREATE OR REPLACE TEMP TABLE known AS SELECT person_id FROM staged_person
        WHERE fault IS NULL AND person_id NOT IN (SELECT person_id FROM withheld)""")
    [(account.patients, partial)] = facts.run("""
        SELECT count(*), count(*) FILTER (year_of_birth IS NOT NULL AND (month_of_birth IS NULL OR day_of_birth IS NULL))
        FROM staged_person SEMI JOIN known USING (person_id)""")
    if partial:
        account.partial_dates["person.birth"] = int(partial)
    if stage.has(DEATH.name):
        stage.load(DEATH.name, DEATH.columns, checks=(missing("person_id"),), name="staged")
        stage.note_orphans(DEATH.name, "staged")
    else:
        facts.run("CREATE OR REPLACE TABLE staged (person_id BIGINT, death_date DATE, fault INTEGER)")
    codes = " ".join(f"WHEN '{code}' THEN '{sex}'" for code, sex in SEX_OF_CODE.items())
    # A death whose day is at fault is a death all the same: nobody lives on by a typing error.
    facts.run(f"""
        INSERT INTO person
        WITH gender AS (SELECT concept_id, concept_code FROM code WHERE vocabulary_id = 'Gender'),
        died AS (
            SELECT person_id, min(death_date) FILTER (fault IS NULL) AS death_day FROM staged GROUP BY person_id
        )
        SELECT CAST(p.person_id AS VARCHAR),
            CASE p.gender_concept_id WHEN {MALE} THEN 'male' WHEN {FEMALE} THEN 'female'
                ELSE CASE gender.concept_code {codes} END END,
            {_BIRTH_DAY}, died.death_day, died.person_id IS NOT NULL
        FROM staged_person p SEMI JOIN known ON known.person_id = p.person_id
            LEFT JOIN gender ON gender.concept_id = p.gender_concept_id
            LEFT JOIN died ON died.person_id = p.person_id
        WHERE p.fault IS NULL""")


def _withhold(facts: Facts, account: OmopAccount, withheld: Container[str] | OptOutList) -> None:
    """Note who is withheld, by either id; PERSON itself was judged before, by its form only."""
    result = facts.connection.execute(
        "SELECT DISTINCT person_id, person_source_value FROM staged_person WHERE person_id IS NOT NULL"
    )
    found: list[int] = []
    matched: set[Entry] = set()
    while rows := result.fetchmany(_ROWS):
        if isinstance(withheld, OptOutList):
            for key, own in rows:
                if named := withheld.entries_of(str(key), own):
                    found.append(key)
                    matched |= named
        else:
            found += [
                key for key, own in rows if str(key) in withheld or (own is not None and own in withheld)
            ]
    if isinstance(withheld, OptOutList):
        account.opt_out_unmatched = len(withheld) - len(matched)
        account.opt_out_unmatched_lines = list(withheld.lines_without(matched))
    people = pa.table({"person_id": pa.array(sorted(set(found)), pa.int64())})
    account.withheld = len(people)
    facts.connection.register("gemel_people", people)
    facts.run(f"INSERT INTO {WITHHELD} SELECT person_id FROM gemel_people")
    facts.connection.unregister("gemel_people")


def _read_visits(stage: Stage, facts: Facts, account: OmopAccount) -> None:
    checks = (
        missing("visit_occurrence_id"),
        missing("person_id"),
        missing("visit_start_date"),
        (
            "visit_end_date < visit_start_date",
            Fault("GEM210", "visit_end_date", "the visit ends before it starts"),
        ),
    )
    stage.load(VISIT_OCCURRENCE.name, VISIT_OCCURRENCE.columns, checks=checks, name="staged")
    stage.note_orphans(VISIT_OCCURRENCE.name, "staged")
    # A visit without an end still goes on: it is a contact, and no finished one.
    facts.run("""
        INSERT INTO visit
        SELECT CAST(person_id AS VARCHAR), visit_start_date, coalesce(visit_end_date, visit_start_date),
            visit_end_date IS NOT NULL
        FROM staged SEMI JOIN known USING (person_id) WHERE fault IS NULL""")


# Of a birth without a day the middle of the month or year, as of any partial date.
_BIRTH_DAY = """CASE
    WHEN p.year_of_birth IS NULL THEN CAST(p.birth_datetime AS DATE)
    WHEN p.month_of_birth IS NULL THEN make_date(p.year_of_birth, 7, 2)
    WHEN p.day_of_birth IS NULL THEN make_date(p.year_of_birth, p.month_of_birth, 16)
    ELSE make_date(p.year_of_birth, p.month_of_birth, p.day_of_birth) END"""
_PERSON_CHECKS = (
    missing("person_id"),
    (
        f"year_of_birth NOT BETWEEN {FIRST_YEAR} AND {LAST_YEAR}",
        Fault("GEM210", "year_of_birth", f"a placeholder or an error: not in {FIRST_YEAR} to {LAST_YEAR}"),
    ),
    ("month_of_birth NOT BETWEEN 1 AND 12", Fault("GEM210", "month_of_birth", "no month of the calendar")),
    (
        "day_of_birth IS NOT NULL AND month_of_birth IS NOT NULL AND TRY_CAST("
        "printf('%04d-%02d-%02d', coalesce(year_of_birth, 2000), month_of_birth, day_of_birth) AS DATE) IS NULL",
        Fault("GEM210", "day_of_birth", "no day of the month"),
    ),
)
