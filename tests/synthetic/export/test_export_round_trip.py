"""The exported cohort goes back through the reading of records and gives the same data set, in either form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from virtual_patients import PASSED, cdm_without_marks, unrelated_cohort, without_marks

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.build import build, pseudonym
from gemel.synthetic.export import Format, write
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


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_fhir_and_omop_of_every_installed_programme_read_back_as_the_table(
    programme: Programme, provenance: dict[str, Any], tmp_path: Path
) -> None:
    document = provenance | {"programme": programme.name, "programme_version": programme.version}
    cohort = unrelated_cohort(programme, document, patients=PATIENTS, seed=3)
    formats = (Format.FHIR, Format.OMOP, Format.PARQUET)
    write(cohort, tmp_path / "cohort", provenance=document, decision=PASSED, formats=formats)
    table = parquet.read_table(tmp_path / "cohort" / "cohort.parquet")
    for source in ("fhir", "omop"):
        with pytest.raises(GemelError, match="GEM211"):
            build(tmp_path / "cohort" / source, programme, pseudonym_key=KEY)
    fhir, _ = build(
        without_marks(tmp_path / "cohort" / "fhir", tmp_path / "fhir"), programme, pseudonym_key=KEY
    )
    same(fhir, table, table["virtual_patient"].to_pylist())
    cdm, _ = build(
        cdm_without_marks(tmp_path / "cohort" / "omop", tmp_path / "omop"), programme, pseudonym_key=KEY
    )
    same(cdm, table, [str(row + 1) for row in range(PATIENTS)])


@pytest.mark.parametrize("mark", ["cdm_source", "person", "schema"])
def test_each_mark_of_a_cdm_alone_is_enough_to_refuse_it(
    exported: Path, drawn: Any, mark: str, tmp_path: Path
) -> None:
    cdm = cdm_without_marks(exported / "omop", tmp_path / "cdm", keep=mark)
    with pytest.raises(GemelError, match="GEM211"):
        build(cdm, drawn.programme, pseudonym_key=KEY)


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
