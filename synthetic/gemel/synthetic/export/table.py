"""The cohort as one table, a row per virtual patient: what Parquet and CSV hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gemel.synthetic.export.ids import patient_ids
from gemel.synthetic.export.releasing import decision_sha256

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision


def table(cohort: VirtualCohort, *, decision: Decision) -> pa.Table:
    """One row per virtual patient: id, mark, features, then time and event of each outcome, then targets.

    A missing value is null. Fields carry unit and title, the schema the provenance and the decision's hash.
    """
    n = len(cohort)
    columns: list[pa.Array] = [
        pa.array(patient_ids(cohort.release, n), pa.string()),
        # In every row: a table that travels without its manifest still says what it is.
        pa.array(np.ones(n, bool)),
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
    by_name = {target.name: target for target in cohort.programme.targets}
    for j, name in enumerate(cohort.programme.target_names):
        columns.append(pa.array(cohort.targets[:, j], pa.float32(), from_pandas=True))
        fields.append(_field(name, pa.float32(), unit=by_name[name].unit, title=by_name[name].title))
    metadata = {
        "gemel.security": "HTEST",
        "gemel.release": cohort.release,
        "gemel.seed": str(cohort.seed),
        "gemel.decision": decision_sha256(decision),
        "gemel.provenance": json.dumps(cohort.provenance.as_dict(), ensure_ascii=False),
    }
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=metadata))


def _field(name: str, kind: pa.DataType, *, unit: str, title: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "title": title})
