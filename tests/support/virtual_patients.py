"""Virtual cohorts of any programme, every column drawn apart from the others: the worst that an export can be given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
    domain, random = domain_of(programme), np.random.default_rng(seed)
    codes = {column.name: random.integers(0, column.size, patients) for column in domain.columns}
    table = domain.decode(codes, seed=seed)
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
    """A FHIR export without the labels by which every node refuses it; only tests can want one."""
    folder.mkdir(parents=True)
    for path in export.glob("*.ndjson"):
        if path.stem != "Provenance":
            resources = [json.loads(line) for line in path.read_bytes().splitlines()]
            lines = [json.dumps({k: v for k, v in r.items() if k != "meta"}) for r in resources]
            (folder / path.name).write_text("\n".join(lines) + "\n")
    return folder


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
