"""A virtual cohort as files: FHIR NDJSON in the Bulk Data layout, Parquet, CSV, and a manifest that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import csv, parquet

from gemel.core.errors import GemelError
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.fhir import FHIR_VERSION, patient_ids, resources
from gemel.synthetic.fhir_check import check_resources
from gemel.synthetic.provenance import read_provenance

MANIFEST = "cohort.json"


def write(cohort: VirtualCohort, folder: Path, *, provenance: Mapping[str, Any]) -> list[Path]:
    """Write the cohort under `folder`; returns the files, the manifest last.

    `fhir/TYPE.ndjson` for each resource type, `cohort.parquet` and `cohort.csv` with one row per virtual
    patient, `cohort.json` with provenance, units and the SHA-256 of each file. Equal cohorts give equal bytes.
    `provenance` must be the document that the cohort was sampled under. Raises GEM702 when it is another,
    GEM703 when a resource fails its checks; then nothing is written.
    """
    if read_provenance(provenance) != cohort.provenance:
        raise GemelError("GEM702", "The provenance is not the one that this cohort was sampled under.")
    lines: dict[str, list[bytes]] = {}
    for resource in check_resources(resources(cohort)):
        lines.setdefault(resource["resourceType"], []).append(orjson.dumps(resource))
    rows = table(cohort)
    (folder / "fhir").mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for kind in sorted(lines):
        files.append(folder / "fhir" / f"{kind}.ndjson")
        files[-1].write_bytes(b"\n".join(lines[kind]) + b"\n")
    files += [folder / "cohort.parquet", folder / "cohort.csv"]
    parquet.write_table(rows, files[-2])
    csv.write_csv(rows, files[-1])
    manifest = _manifest(cohort, folder, files)
    files.append(folder / MANIFEST)
    files[-1].write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def table(cohort: VirtualCohort) -> pa.Table:
    """One row per virtual patient: id, marks, features, then time and event of each outcome, then targets.

    A missing value is null. Fields carry unit and title, the schema the provenance.
    """
    columns: list[pa.Array] = [
        pa.array(patient_ids(cohort), pa.string()),
        # In every row: a table that travels without its manifest still says what it is.
        pa.array([True] * len(cohort), pa.bool_()),
    ]
    fields = [pa.field("virtual_patient", pa.string()), pa.field("synthetic", pa.bool_())]
    for j, feature in enumerate(cohort.programme.columns):
        columns.append(pa.array(cohort.values[:, j], pa.float32(), from_pandas=True))
        fields.append(_field(feature.name, pa.float32(), unit=feature.unit, title=feature.title))
    for j, outcome in enumerate(cohort.programme.outcomes):
        columns.append(pa.array(cohort.time_years[:, j], pa.float32()))
        fields.append(_field(f"{outcome.name}_time_years", pa.float32(), unit="a", title=outcome.title))
        columns.append(pa.array(cohort.event[:, j], pa.int8()))
        fields.append(_field(f"{outcome.name}_event", pa.int8(), unit="1", title=outcome.title))
    targets = [t for t in cohort.programme.targets if t.name in cohort.programme.target_names]
    for j, target in enumerate(targets):
        columns.append(pa.array(cohort.targets[:, j], pa.float32(), from_pandas=True))
        fields.append(_field(target.name, pa.float32(), unit=target.unit, title=target.title))
    metadata = {
        "gemel.security": "HTEST",
        "gemel.release": cohort.release,
        "gemel.seed": str(cohort.seed),
        "gemel.provenance": json.dumps(cohort.provenance.as_dict(), ensure_ascii=False),
    }
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=metadata))


def _field(name: str, kind: pa.DataType, *, unit: str, title: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "title": title})


def _manifest(cohort: VirtualCohort, folder: Path, files: list[Path]) -> dict[str, Any]:
    programme = cohort.programme
    return {
        "synthetic": True,
        "security": "HTEST",
        "release": cohort.release,
        "seed": cohort.seed,
        "virtual_patients": len(cohort),
        "fhir_version": FHIR_VERSION,
        "units": {
            **{feature.name: feature.unit for feature in programme.columns},
            **{target.name: target.unit for target in programme.targets},
        },
        "event_codes": {"1": "occurred", "0": "censored", "-1": "prevalent at the index date"},
        "not_for": "training of twins, decisions about a person, or estimates of rare subgroups",
        "provenance": cohort.provenance.as_dict(),
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }
