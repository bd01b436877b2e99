"""Records as tables of the OMOP CDM 5.4, with a CONCEPT table of their own codes and nothing of the OHDSI vocabularies.

Those have licences of their own. Standard concepts are 0 (no matching concept), but for what is published in the CDM's
documentation; source concepts are local ones, from 2,000,000,001 on, as the CDM leaves to each site: their vocabulary and
code stand in CONCEPT, so that whoever has the vocabularies can map them by a join.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from gemel.core.concepts import ATC, ICD_10, ICD_10_CM, ICD_10_GM, LOINC, RXNORM, SNOMED_CT, Code
from gemel.synthetic.export.codes import Kind
from gemel.synthetic.export.ids import patient_ids
from gemel.synthetic.export.records import INDEX_DATE, Days, Records
from gemel.synthetic.export.releasing import decision_sha256, in_words

if TYPE_CHECKING:
    from gemel.synthetic.report.gate import Decision

# Concepts of the domain Gender, as the field-level documentation of PERSON in the CDM names them.
MALE, FEMALE = 8507, 8532
FIRST_LOCAL_CONCEPT = 2_000_000_001
VOCABULARIES = {
    LOINC: "LOINC",
    SNOMED_CT: "SNOMED",
    ICD_10: "ICD10",
    ICD_10_CM: "ICD10CM",
    ICD_10_GM: "ICD10GM",
    ATC: "ATC",
    RXNORM: "RxNorm",
}
MARK = "HTEST"
# In every file: a table that travels alone still says what it is.
METADATA = {"gemel.security": MARK}


def omop_tables(
    records: Records, *, created: str, study_sha256: str, decision: Decision
) -> dict[str, pa.Table]:
    """The tables of the CDM by name.

    Args:
        records: Of all virtual patients.
        created: RFC 3339 instant.
        study_sha256: Of the study whose releases the cohort was sampled from, for CDM_SOURCE.
        decision: On whose word it leaves, for CDM_SOURCE too.
    """
    concepts = _Concepts()
    tables = {
        "person": _person(records),
        "observation_period": _observation_period(records),
        "visit_occurrence": _visit_occurrence(records),
        "death": _death(records),
        **{names.table: _events(records, kind, concepts) for kind, names in _EVENTS.items()},
        "cdm_source": _cdm_source(records, created, study_sha256, decision),
    }
    tables["concept"] = concepts.table()
    return {name: table.replace_schema_metadata(METADATA) for name, table in tables.items()}


class _Names(NamedTuple):
    table: str
    key: str
    stem: str
    dates: tuple[str, ...]


_EVENTS = {
    Kind.CONDITION: _Names(
        "condition_occurrence", "condition_occurrence_id", "condition", ("condition_start_date",)
    ),
    Kind.DRUG: _Names(
        "drug_exposure", "drug_exposure_id", "drug", ("drug_exposure_start_date", "drug_exposure_end_date")
    ),
    Kind.PROCEDURE: _Names(
        "procedure_occurrence", "procedure_occurrence_id", "procedure", ("procedure_date",)
    ),
    Kind.MEASUREMENT: _Names("measurement", "measurement_id", "measurement", ("measurement_date",)),
}


class _Concepts:
    """Local concepts of the codes that were used, numbered in the order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._titles: list[tuple[str, str]] = []

    def number(self, code: Code, title: str, domain: str) -> int:
        key = (VOCABULARIES[code.system], code.code)
        if key not in self._numbers:
            self._numbers[key] = FIRST_LOCAL_CONCEPT + len(self._numbers)
            self._titles.append((title, domain))
        return self._numbers[key]

    def table(self) -> pa.Table:
        """CONCEPT: valid from the first to the last day that the CDM knows, and standard for nothing."""
        n = len(self._numbers)
        return pa.table(
            {
                "concept_id": pa.array(list(self._numbers.values()), pa.int64()),
                "concept_name": pa.array([title for title, _ in self._titles], pa.string()),
                "domain_id": pa.array([domain for _, domain in self._titles], pa.string()),
                "vocabulary_id": pa.array([vocabulary for vocabulary, _ in self._numbers], pa.string()),
                "concept_class_id": pa.array(["Undefined"] * n, pa.string()),
                "standard_concept": pa.nulls(n, pa.string()),
                "concept_code": pa.array([code for _, code in self._numbers], pa.string()),
                "valid_start_date": pa.array([datetime.date(1970, 1, 1)] * n, pa.date32()),
                "valid_end_date": pa.array([datetime.date(2099, 12, 31)] * n, pa.date32()),
                "invalid_reason": pa.nulls(n, pa.string()),
            }
        )


def _dates(days: Days) -> pa.Array:
    index = np.datetime64(INDEX_DATE, "D")
    return pa.array(index + days.astype("timedelta64[D]"), pa.date32())


def _zeros(n: int) -> pa.Array:
    return pa.array(np.zeros(n, np.int32))


def _numbers(n: int) -> pa.Array:
    return pa.array(np.arange(1, n + 1))


def _person(records: Records) -> pa.Table:
    n = len(records)
    born = np.datetime64(INDEX_DATE, "D") - records.born_days.astype("timedelta64[D]")
    years, months = born.astype("datetime64[Y]"), born.astype("datetime64[M]")
    said = records.male
    return pa.table(
        {
            "person_id": _numbers(n),
            "gender_concept_id": pa.array(
                np.where(said == 1, MALE, np.where(said == 0, FEMALE, 0)).astype(np.int32)
            ),
            "year_of_birth": pa.array((years.astype(np.int64) + 1970).astype(np.int32)),
            "month_of_birth": pa.array((months.astype(np.int64) % 12 + 1).astype(np.int32)),
            "day_of_birth": pa.array(((born - months).astype(np.int64) + 1).astype(np.int32)),
            "race_concept_id": _zeros(n),
            "ethnicity_concept_id": _zeros(n),
            "person_source_value": pa.array(
                [f"{MARK}-{number}" for number in patient_ids(records.release, n)]
            ),
            "gender_source_value": pa.array(np.array(["U", "F", "M"])[said + 1]),
        }
    )


def _observation_period(records: Records) -> pa.Table:
    n = len(records)
    first = np.full(n, -records.look_back_days)
    for statement in records.statements:
        np.minimum.at(first, statement.rows, statement.days)
    return pa.table(
        {
            "observation_period_id": _numbers(n),
            "person_id": _numbers(n),
            "observation_period_start_date": _dates(first),
            "observation_period_end_date": _dates(records.end_days),
            "period_type_concept_id": _zeros(n),
        }
    )


def _visit_occurrence(records: Records) -> pa.Table:
    everybody = np.arange(len(records))
    parts = [(everybody, np.zeros(len(records), np.int64), "first"), (everybody, records.end_days, "last")]
    if records.look_back_days:
        parts.append((everybody, np.full(len(records), -records.look_back_days), "before"))
    parts.append((records.visit_rows, records.visit_days, "visit"))
    rows, days = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    n = len(rows)
    return pa.table(
        {
            "visit_occurrence_id": _numbers(n),
            "person_id": pa.array(rows + 1),
            "visit_concept_id": _zeros(n),
            "visit_start_date": _dates(days),
            "visit_end_date": _dates(days),
            "visit_type_concept_id": _zeros(n),
            "visit_source_value": pa.array(
                [name for part, _, name in parts for _ in range(len(part))], pa.string()
            ),
        }
    )


def _death(records: Records) -> pa.Table:
    rows = np.flatnonzero(records.died)
    return pa.table(
        {
            "person_id": pa.array(rows + 1),
            "death_date": _dates(records.end_days[rows]),
            "death_type_concept_id": _zeros(len(rows)),
        }
    )


def _events(records: Records, kind: Kind, concepts: _Concepts) -> pa.Table:
    """The statements of a kind as rows of their table."""
    names = _EVENTS[kind]
    said = [statement for statement in records.statements if statement.kind is kind]
    lengths = [len(statement.rows) for statement in said]
    n, domain = sum(lengths), kind.value.capitalize()
    sources = [concepts.number(statement.code, statement.title, domain) for statement in said]
    codes = [statement.code.code for statement in said]
    days = _dates(np.concatenate([np.zeros(0, np.int64), *(statement.days for statement in said)]))
    rows = np.concatenate([np.zeros(0, np.int64), *(statement.rows for statement in said)])
    columns = {
        names.key: _numbers(n),
        "person_id": pa.array(rows + 1),
        f"{names.stem}_concept_id": _zeros(n),
        **dict.fromkeys(names.dates, days),
        f"{names.stem}_type_concept_id": _zeros(n),
        f"{names.stem}_source_value": pa.array(np.repeat(np.array(codes, object), lengths), pa.string()),
        f"{names.stem}_source_concept_id": pa.array(np.repeat(np.array(sources, np.int64), lengths)),
    }
    if kind is Kind.MEASUREMENT:
        units = np.array([statement.concept.unit for statement in said], object)
        values = [statement.values for statement in said if statement.values is not None]
        columns |= {
            "value_as_number": pa.array(np.concatenate([np.zeros(0), *values])),
            "unit_concept_id": _zeros(n),
            "unit_source_value": pa.array(np.repeat(units, lengths), pa.string()),
        }
    return pa.table(columns)


def _cdm_source(records: Records, created: str, study_sha256: str, decision: Decision) -> pa.Table:
    day = datetime.date.fromisoformat(created[:10])
    texts = {
        "cdm_source_name": f"Gemel virtual cohort {records.release} ({MARK}: synthetic)",
        "cdm_source_abbreviation": f"{MARK} {records.release}",
        "cdm_holder": "whoever generated it",
        "source_description": f"{MARK}: synthetic. Virtual patients, none of whom exists; not for training. Study SHA-256 "
        f"{study_sha256}, model SHA-256 {decision.model_sha256}, report SHA-256 {decision.report_sha256}, decision SHA-256 "
        f"{decision_sha256(decision)}. {in_words(decision)}",
        "source_documentation_reference": "cohort.json beside this folder",
        "cdm_etl_reference": "Gemel",
    }
    return pa.table(
        {
            **{name: pa.array([text], pa.string()) for name, text in texts.items()},
            "source_release_date": pa.array([day], pa.date32()),
            "cdm_release_date": pa.array([day], pa.date32()),
            "cdm_version": pa.array(["v5.4"], pa.string()),
            "cdm_version_concept_id": _zeros(1),
            "vocabulary_version": pa.array(["none: local source concepts only"], pa.string()),
        }
    )
