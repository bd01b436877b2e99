"""OMOP: the tables and columns that CDM 5.4 requires, keys that hold, and no concept id without a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from gemel.synthetic.export.omop import FEMALE, FIRST_LOCAL_CONCEPT, MALE

# The columns that OMOP_CDMv5.4_Field_Level.csv of OHDSI's CommonDataModel requires (isRequired = Yes).
REQUIRED = {
    "person": "person_id gender_concept_id year_of_birth race_concept_id ethnicity_concept_id",
    "observation_period": "observation_period_id person_id observation_period_start_date "
    "observation_period_end_date period_type_concept_id",
    "visit_occurrence": "visit_occurrence_id person_id visit_concept_id visit_start_date visit_end_date "
    "visit_type_concept_id",
    "condition_occurrence": "condition_occurrence_id person_id condition_concept_id condition_start_date "
    "condition_type_concept_id",
    "drug_exposure": "drug_exposure_id person_id drug_concept_id drug_exposure_start_date "
    "drug_exposure_end_date drug_type_concept_id",
    "procedure_occurrence": "procedure_occurrence_id person_id procedure_concept_id procedure_date "
    "procedure_type_concept_id",
    "measurement": "measurement_id person_id measurement_concept_id measurement_date measurement_type_concept_id",
    "death": "person_id death_date",
    "cdm_source": "cdm_source_name cdm_source_abbreviation cdm_holder source_release_date cdm_release_date "
    "cdm_version_concept_id vocabulary_version",
    "concept": "concept_id concept_name domain_id vocabulary_id concept_class_id concept_code valid_start_date "
    "valid_end_date",
}


@pytest.fixture
def tables(exported: Path) -> dict[str, pa.Table]:
    return {path.stem: parquet.read_table(path) for path in (exported / "omop").iterdir()}


def column(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table[name].to_pylist()
    return found


def test_every_table_has_the_columns_that_the_model_requires_without_a_gap(
    tables: dict[str, pa.Table],
) -> None:
    assert tables.keys() == REQUIRED.keys()
    for name, columns in REQUIRED.items():
        for required in columns.split():
            assert tables[name][required].null_count == 0, (name, required)


def test_keys_are_unique_and_every_row_is_about_a_person(tables: dict[str, pa.Table]) -> None:
    people = set(column(tables["person"], "person_id"))
    for name, columns in REQUIRED.items():
        key = columns.split()[0]
        if key.endswith("_id") and key != "cdm_source_name":
            assert len(set(column(tables[name], key))) == tables[name].num_rows
        if "person_id" in tables[name].column_names:
            assert set(column(tables[name], "person_id")) <= people


def test_no_standard_concept_is_invented(tables: dict[str, pa.Table]) -> None:
    local = set(column(tables["concept"], "concept_id"))
    assert min(local) == FIRST_LOCAL_CONCEPT
    assert set(column(tables["concept"], "standard_concept")) == {None}
    for name, table in tables.items():
        for concept in (c for c in table.column_names if c.endswith("_concept_id")):
            allowed = {0}
            if concept == "gender_concept_id":
                allowed = {0, MALE, FEMALE}
            elif concept.endswith("_source_concept_id"):
                allowed = local
            assert set(column(table, concept)) <= allowed, (name, concept)


def test_each_code_stands_once_in_concept_with_its_vocabulary(tables: dict[str, pa.Table]) -> None:
    concept = tables["concept"]
    pairs = list(zip(column(concept, "vocabulary_id"), column(concept, "concept_code"), strict=True))
    assert len(set(pairs)) == len(pairs)
    code_of = dict(zip(column(concept, "concept_id"), column(concept, "concept_code"), strict=True))
    for table, stem in (("condition_occurrence", "condition"), ("measurement", "measurement")):
        ids, values = (column(tables[table], f"{stem}_source_{part}") for part in ("concept_id", "value"))
        assert [code_of[i] for i in ids] == values


def test_observation_periods_hold_every_visit_and_end_with_death(
    tables: dict[str, pa.Table], drawn: Any
) -> None:
    period = tables["observation_period"]
    start, end = (column(period, f"observation_period_{part}_date") for part in ("start", "end"))
    visits = tables["visit_occurrence"]
    for person, day in zip(column(visits, "person_id"), column(visits, "visit_start_date"), strict=True):
        assert start[person - 1] <= day <= end[person - 1]
    death = tables["death"]
    assert [p - 1 for p in column(death, "person_id")] == np.flatnonzero(drawn.event[:, 0] == 1).tolist()
    assert all(
        end[p - 1] == day
        for p, day in zip(column(death, "person_id"), column(death, "death_date"), strict=True)
    )


def test_cdm_source_says_that_it_is_synthetic_and_names_study_and_report(
    tables: dict[str, pa.Table], provenance: dict[str, Any]
) -> None:
    (row,) = tables["cdm_source"].to_pylist()
    assert row["cdm_version"] == "v5.4"
    assert "HTEST" in row["cdm_source_name"]
    assert "synthetic" in row["source_description"]
    assert provenance["study_sha256"] in row["source_description"]
    assert "report SHA-256" in row["source_description"]
    for table in tables.values():
        assert table.schema.metadata[b"gemel.security"] == b"HTEST"
