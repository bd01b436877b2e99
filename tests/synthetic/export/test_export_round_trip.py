"""The exported cohort goes back through the reading of records and gives the same data set, in either form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dropped_programme import dropped_programme
from pyarrow import csv, parquet
from virtual_patients import (
    PASSED,
    cdm_without_marks,
    cohort_of_codes,
    fhir_with_one_mark,
    unrelated_cohort,
    without_marks,
)

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme, TargetKind
from gemel.data_adapters.dataset.build import build, pseudonym
from gemel.data_adapters.quality.check import check_export
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.domain import domain_of
from gemel.synthetic.export import Format, Visits, verify, write
from gemel.twins.installed import installed

KEY = b"0" * 32
PATIENTS = 200


def same(dataset: Dataset, table: Any, ids: list[str]) -> None:
    """A data set holds the very numbers of the exported table, in the order of its pseudonyms."""
    pseudonyms = [pseudonym(KEY, number) for number in ids]
    order = np.argsort(pseudonyms)
    assert np.array(pseudonyms)[order].tolist() == list(dataset.patient_ids)

    def column(name: str) -> np.ndarray:
        return np.array(table[name].to_pylist(), dtype=np.float32)[order]

    for j, name in enumerate(dataset.features):
        assert np.array_equal(dataset.values[:, j], column(name), equal_nan=True), name
    for j, name in enumerate(dataset.outcomes):
        assert np.array_equal(dataset.time_years[:, j], column(f"{name}_time_years")), name
        assert np.array_equal(dataset.event[:, j], column(f"{name}_event")), name
    for j, name in enumerate(dataset.target_names):
        assert np.array_equal(dataset.targets[:, j], column(name), equal_nan=True), name


def reads_back(cohort: VirtualCohort, folder: Path, visits: Visits | None = None) -> pa.Table:
    """Write a cohort, build from its FHIR and from its OMOP tables, and compare both with its table, which is given back."""
    formats = (Format.FHIR, Format.OMOP, Format.PARQUET)
    document = cohort.provenance.as_dict()
    write(cohort, folder / "cohort", provenance=document, decision=PASSED, formats=formats, visits=visits)
    table = parquet.read_table(folder / "cohort" / "cohort.parquet")
    for source in ("fhir", "omop"):
        with pytest.raises(GemelError, match="GEM211"):
            build(folder / "cohort" / source, cohort.programme, pseudonym_key=KEY)
    lines = without_marks(folder / "cohort" / "fhir", folder / "fhir")
    fhir, _ = build(lines, cohort.programme, pseudonym_key=KEY)
    same(fhir, table, table["virtual_patient"].to_pylist())
    cdm = cdm_without_marks(folder / "cohort" / "omop", folder / "omop")
    tables, _ = build(cdm, cohort.programme, pseudonym_key=KEY)
    same(tables, table, [str(row + 1) for row in range(len(cohort))])
    return table


def document_of(programme: Programme, provenance: dict[str, Any]) -> dict[str, Any]:
    return provenance | {"programme": programme.name, "programme_version": programme.version}


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_fhir_and_omop_of_every_installed_programme_read_back_as_the_table(
    programme: Programme, provenance: dict[str, Any], tmp_path: Path
) -> None:
    document = document_of(programme, provenance)
    reads_back(unrelated_cohort(programme, document, patients=PATIENTS, seed=3), tmp_path)
    report = check_export(tmp_path / "fhir", programme)
    assert (report.synthetic, report.rejected_total, report.patients) == (0, 0, PATIENTS)
    assert (report.unmapped_total, report.orphans, report.undated, report.unit_problems) == (0, {}, {}, {})


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_every_level_of_every_column_reads_back_the_rarest_too(
    programme: Programme, provenance: dict[str, Any], tmp_path: Path
) -> None:
    columns = domain_of(programme).columns
    rows = np.arange(max(column.size for column in columns) * 2)
    # Neighbouring columns in turn at another pace, so that levels do not all meet the same ones.
    codes = {column.name: (rows + rows // column.size * j) % column.size for j, column in enumerate(columns)}
    assert all(len(np.unique(codes[column.name])) == column.size for column in columns)
    reads_back(cohort_of_codes(programme, document_of(programme, provenance), codes), tmp_path)


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_a_cohort_of_one_condition_reads_back(
    programme: Programme, provenance: dict[str, Any], tmp_path: Path
) -> None:
    random, columns = np.random.default_rng(4), domain_of(programme).columns
    given = {column.name: column.size - 1 for column in columns[:3]}
    codes = {c.name: random.integers(0, c.size, 60) for c in columns}
    codes |= {name: np.full(60, level) for name, level in given.items()}
    cohort = cohort_of_codes(programme, document_of(programme, provenance), codes)
    names = {c.name: (c.levels[given[c.name]],) for c in columns[:3]}
    reads_back(dataclasses.replace(cohort, given=names), tmp_path)
    assert verify(tmp_path / "cohort").conditions == {name: list(levels) for name, levels in names.items()}


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_visits_of_a_trajectory_read_back_and_what_they_measured_counts(
    programme: Programme, provenance: dict[str, Any], tmp_path: Path
) -> None:
    cohort = unrelated_cohort(programme, document_of(programme, provenance), patients=80, seed=5)
    random, end = np.random.default_rng(6), np.rint(cohort.time_years[:, 0] * 365.25).astype(int)
    on = [(row, day) for row in range(80) for day in (20, 90, 180, 365, 400) if day <= end[row]]
    rows, days = (np.array([visit[at] for visit in on], np.int64) for at in (0, 1))
    measured = [concept for concept in programme.concepts if concept.unit is not None][:2]
    values = {
        concept.name: np.where(
            random.random(len(rows)) < 0.3,
            np.nan,
            random.uniform(concept.low or 0, concept.high or 9, len(rows)),
        )
        for concept in measured
    }
    table = reads_back(cohort, tmp_path, Visits(rows, days, values))
    encounters = (tmp_path / "cohort" / "fhir" / "Encounter.ndjson").read_bytes().splitlines()
    assert len(encounters) == len(rows) + 80 * (2 + bool(programme.cohort.minimum_look_back_days))
    assert table.num_rows == 80


def test_every_kind_of_endpoint_and_target_reads_back(provenance: dict[str, Any], tmp_path: Path) -> None:
    with dropped_programme(tmp_path / "programmes") as programme:
        assert {target.kind for target in programme.targets} == set(TargetKind)
        cohort = unrelated_cohort(programme, document_of(programme, provenance), patients=PATIENTS, seed=7)
        table = reads_back(cohort, tmp_path)
        for name in programme.target_names:
            assert len(set(table[name].drop_null().to_pylist())) > 1, name


@pytest.mark.parametrize("mark", ["cdm_source", "person", "schema"])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_each_mark_of_a_cdm_alone_is_enough_to_refuse_it(
    exported: Path, drawn: Any, mark: str, form: str, tmp_path: Path
) -> None:
    cdm = cdm_without_marks(exported / "omop", tmp_path / "cdm", keep=mark)
    if form == "csv":
        for path in list(cdm.iterdir()):
            csv.write_csv(parquet.read_table(path), path.with_suffix(".csv"))
            path.unlink()
    if (form, mark) == ("csv", "schema"):
        build(cdm, drawn.programme, pseudonym_key=KEY)  # A CSV file has no schema, so that no mark is left.
        return
    with pytest.raises(GemelError, match="GEM211"):
        build(cdm, drawn.programme, pseudonym_key=KEY)


FHIR_MARKS = [
    *(
        f"{mark} of {kind}"
        for mark in ("tag", "label")
        for kind in ("Patient", "Encounter", "Observation", "Provenance")
    ),
    "identifier",
    "Provenance",
]


@pytest.mark.parametrize("mark", FHIR_MARKS)
def test_each_mark_of_one_fhir_resource_alone_is_enough_to_refuse_the_export(
    exported: Path, drawn: Any, mark: str, tmp_path: Path
) -> None:
    place = fhir_with_one_mark(exported / "fhir", tmp_path / "fhir", keep=mark)
    with pytest.raises(GemelError, match="GEM211"):
        build(place, drawn.programme, pseudonym_key=KEY)
    assert check_export(place, drawn.programme).synthetic == 1


def test_whoever_strips_every_mark_is_not_stopped(exported: Path, drawn: Any, tmp_path: Path) -> None:
    place = fhir_with_one_mark(exported / "fhir", tmp_path / "fhir", keep="")
    dataset, _ = build(place, drawn.programme, pseudonym_key=KEY)
    assert len(dataset.patient_ids) == len(drawn)


def without_meta(entry: dict[str, Any]) -> dict[str, Any]:
    resource = {k: v for k, v in entry["resource"].items() if k not in ("meta", "identifier", "name")}
    return entry | {"resource": resource}


@pytest.mark.parametrize("form", ["lines", "document", "large document"])
@pytest.mark.parametrize("escaped", [False, True])
def test_the_label_of_a_bundle_alone_is_enough_to_refuse_it(
    exported: Path, drawn: Any, form: str, escaped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (exported / "bundles" / "Bundle.ndjson").read_bytes().splitlines()
    bundles = [json.loads(line) for line in lines]
    bundles = [b | {"entry": [without_meta(entry) for entry in b["entry"]]} for b in bundles]
    for bundle in bundles[1:]:
        del bundle["meta"]
    for place, some in (
        ("with", bundles),
        ("without", [{k: v for k, v in b.items() if k != "meta"} for b in bundles]),
    ):
        (tmp_path / place).mkdir()
        texts = [json.dumps(bundle, indent=None if form == "lines" else 1) for bundle in some]
        if escaped:
            texts = [
                text.replace("HTEST", "H\\u0054EST").replace("urn:gemel", "urn\\u003agemel") for text in texts
            ]
        if form == "lines":
            (tmp_path / place / "Bundle.ndjson").write_text("\n".join(texts) + "\n")
        else:
            for number, text in enumerate(texts):
                (tmp_path / place / f"{number}.json").write_text(text)
    if form == "large document":
        monkeypatch.setattr("gemel.data_adapters.sources.documents.SMALL_BYTES", 100)
    with pytest.raises(GemelError, match="GEM211"):
        build(tmp_path / "with", drawn.programme, pseudonym_key=KEY)
    dataset, _ = build(tmp_path / "without", drawn.programme, pseudonym_key=KEY)
    assert len(dataset.patient_ids) == len(drawn)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fhir", "GEM211"),
        ("bundles", "GEM211"),
        ("omop", "GEM211"),
        ("cohort.parquet", "GEM208"),
        ("cohort.csv", "GEM208"),
    ],
)
def test_no_form_of_a_cohort_becomes_a_data_set(exported: Path, drawn: Any, name: str, code: str) -> None:
    with pytest.raises(GemelError, match=code):
        build(exported / name, drawn.programme, pseudonym_key=KEY)
