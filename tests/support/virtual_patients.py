"""Virtual cohorts of any programme, every column drawn apart from the others: the worst that an export can be given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet

from gemel.core.programme import Programme
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.domain import domain_of
from gemel.synthetic.provenance import read_provenance
from gemel.synthetic.report.gate import Decision, Outcome, Override

# The model that cohorts of tests are drawn from, and what lets them leave.
MODEL = "c0" * 32
PASSED = Decision("ee" * 32, MODEL, Outcome.PASSED)
OVERRIDDEN = Decision(
    "ee" * 32,
    MODEL,
    Outcome.OVERRIDDEN,
    ("singling out: all columns",),
    ("membership",),
    Override("Dr. Ada Example", "teaching, inside the hospital only", "2026-11-26T10:00:00Z"),
)


def unrelated_cohort(
    programme: Programme, provenance: Mapping[str, Any], *, patients: int, seed: int = 0
) -> VirtualCohort:
    """Levels drawn at random and independently, so that many rows contradict themselves."""
    random = np.random.default_rng(seed)
    codes = {
        column.name: random.integers(0, column.size, patients) for column in domain_of(programme).columns
    }
    return cohort_of_codes(programme, provenance, codes, seed=seed)


def cohort_of_codes(
    programme: Programme,
    provenance: Mapping[str, Any],
    codes: Mapping[str, NDArray[np.int64]],
    *,
    seed: int = 0,
) -> VirtualCohort:
    """Patients of these levels, by column of the programme's domain."""
    table, patients = domain_of(programme).decode(codes, seed=seed), len(next(iter(codes.values())))
    return VirtualCohort(
        programme,
        table.values,
        table.time_years,
        table.event,
        table.targets,
        seed,
        read_provenance(provenance),
        float(patients),
        model_sha256=MODEL,
    )


def without_marks(export: Path, folder: Path) -> Path:
    """A FHIR export without the marks by which every node refuses it; only tests can want one."""
    return fhir_with_one_mark(export, folder, keep="")


def cdm_without_marks(cdm: Path, folder: Path, *, keep: str = "") -> Path:
    """A CDM without its marks, but the one that is kept: "cdm_source", "person" or "schema"."""
    folder.mkdir(parents=True)
    for path in cdm.glob("*.parquet"):
        table = parquet.read_table(path)
        if keep != "schema":
            table = table.replace_schema_metadata(None)
        if path.stem == "cdm_source" and keep != "cdm_source":
            table = table.select(["cdm_version"])
        if path.stem == "person" and keep != "person":
            table = table.drop_columns(["person_source_value"])
        parquet.write_table(table, folder / path.name)
    return folder


def fhir_with_one_mark(export: Path, folder: Path, *, keep: str) -> Path:
    """A FHIR export without its marks, but one: a "tag" or the "label" of one resource, "identifier", or "Provenance"."""
    folder.mkdir(parents=True)
    for path in export.glob("*.ndjson"):
        resources = [json.loads(line) for line in path.read_bytes().splitlines()]
        for number, resource in enumerate(resources):
            meta, last = resource.pop("meta"), number == len(resources) - 1
            if last and keep == f"tag of {path.stem}":
                resource["meta"] = {"tag": meta["tag"][:1]}
            if last and keep == f"label of {path.stem}":
                resource["meta"] = {"security": meta["security"]}
            if path.stem == "Patient" and not (last and keep == "identifier"):
                del resource["identifier"], resource["name"]
        if path.stem != "Provenance" or "Provenance" in keep:
            (folder / path.name).write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    return folder
