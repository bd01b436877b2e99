"""The sides of `fhir_read.py`, each in a process of its own: `python _fhir_sides.py SIDE FOLDER VIEWS`.

The task: the tables Patient, Observation (a row for each component), Condition and MedicationRequest of an export, as
Arrow tables (validators give none). For each line on standard input the task is done once; the answer is one line of
JSON with the CPU seconds of this process and the rows of each table. What a side imports is not counted.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPES = ("Patient", "Observation", "Condition", "MedicationRequest")
COLUMNS = {
    "Patient": ("id", "gender", "birth", "death", "state"),
    "Observation": ("id", "pat", "enc", "status", "sys", "code", "num", "unit", "txt", "time"),
    "Condition": ("id", "pat", "sys", "code", "onset", "abate", "status"),
    "MedicationRequest": ("id", "pat", "sys", "code", "when", "status"),
}
Task = Callable[[], dict[str, int]]


def gemel(folder: Path, views: Path) -> Task:
    """Our own: four views in one pass."""
    from gemel.data_adapters.views.run import load_view, run_views

    loaded = [load_view(path) for path in sorted(views.glob("*.json"))]
    resources = {view.name: view.resource for view in loaded}
    return lambda: {resources[name]: table.num_rows for name, table in run_views(loaded, folder).items()}


CC = 'STRUCT(coding STRUCT("system" VARCHAR, code VARCHAR)[], text VARCHAR)'
QUANTITY = 'STRUCT("value" DOUBLE, unit VARCHAR, code VARCHAR)'
REFERENCE = "STRUCT(reference VARCHAR)"
VALUES = {"code": CC, "valueQuantity": QUANTITY, "valueCodeableConcept": CC, "valueString": "VARCHAR"}
COMPONENT = f"STRUCT({', '.join(f'{name} {kind}' for name, kind in VALUES.items())})"
DUCKDB_COLUMNS = {
    "Patient": {
        "id": "VARCHAR",
        "gender": "VARCHAR",
        "birthDate": "VARCHAR",
        "deceasedDateTime": "VARCHAR",
        "address": "STRUCT(state VARCHAR)[]",
    },
    "Observation": {
        "id": "VARCHAR",
        "status": "VARCHAR",
        "subject": REFERENCE,
        "encounter": REFERENCE,
        "effectiveDateTime": "VARCHAR",
        **VALUES,
        "component": f"{COMPONENT}[]",
    },
    "Condition": {
        "id": "VARCHAR",
        "subject": REFERENCE,
        "code": CC,
        "onsetDateTime": "VARCHAR",
        "abatementDateTime": "VARCHAR",
        "clinicalStatus": CC,
    },
    "MedicationRequest": {
        "id": "VARCHAR",
        "subject": REFERENCE,
        "medicationCodeableConcept": CC,
        "authoredOn": "VARCHAR",
        "status": "VARCHAR",
    },
}
_HOLDER = ", ".join(f"{name} := {name}" for name in VALUES)
DUCKDB_SQL = {
    "Patient": "SELECT id, gender, birthDate, deceasedDateTime, address[1].state FROM {read}",
    "Observation": f"""SELECT id, pat, enc, status, t, q.code.coding[1].system, q.code.coding[1].code,
        q.valueQuantity.value, coalesce(q.valueQuantity.code, q.valueQuantity.unit),
        coalesce(q.valueCodeableConcept.coding[1].code, q.valueString)
        FROM (SELECT id, subject.reference AS pat, encounter.reference AS enc, status, effectiveDateTime AS t,
            unnest(CASE WHEN len(component) > 0 THEN component ELSE [struct_pack({_HOLDER})] END) AS q
            FROM {{read}})""",
    "Condition": """SELECT id, subject.reference, code.coding[1].system, code.coding[1].code, onsetDateTime,
        abatementDateTime, clinicalStatus.coding[1].code FROM {read}""",
    "MedicationRequest": """SELECT id, subject.reference, medicationCodeableConcept.coding[1].system,
        medicationCodeableConcept.coding[1].code, authoredOn, status FROM {read}""",
}


def duckdb(folder: Path, _: Path, *, inferred: bool = False) -> Task:
    """DuckDB, hand-written: the schema given, or found by reading everything first."""
    import duckdb as engine

    connection = engine.connect()
    connection.execute(
        "SET threads = 1; SET preserve_insertion_order = false; SET enable_progress_bar = false"
    )

    def once() -> dict[str, int]:
        rows = {}
        for name in TYPES:
            columns = "sample_size = -1"
            if not inferred:
                listed = ", ".join(f"'{key}': '{kind}'" for key, kind in DUCKDB_COLUMNS[name].items())
                columns = f"columns = {{{listed}}}"
            read = f"read_ndjson('{folder / name}.ndjson', {columns}, maximum_object_size = 67108864)"
            rows[name] = connection.execute(DUCKDB_SQL[name].format(read=read)).to_arrow_table().num_rows
        return rows

    return once


def _tables(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, int]:
    import pyarrow as pa

    counts = {}
    for name, found in rows.items():
        columns = zip(*found, strict=True)
        table = pa.table({key: list(column) for key, column in zip(COLUMNS[name], columns, strict=True)})
        counts[name] = table.num_rows
    return counts


def orjson(folder: Path, _: Path) -> Task:
    """Loops over dictionaries."""
    import orjson as parser

    def coding(concept: dict[str, Any] | None) -> tuple[Any, Any]:
        codings = (concept or {}).get("coding")
        return (codings[0].get("system"), codings[0].get("code")) if codings else (None, None)

    def value(holder: dict[str, Any]) -> tuple[Any, Any, Any]:
        quantity = holder.get("valueQuantity")
        if quantity is not None:
            number = quantity.get("value")
            return (
                None if number is None else float(number),
                quantity.get("code") or quantity.get("unit"),
                None,
            )
        concept = holder.get("valueCodeableConcept")
        if concept is not None:
            return None, None, coding(concept)[1] or concept.get("text")
        return None, None, holder.get("valueString")

    def reference(resource: dict[str, Any], element: str) -> Any:
        found = resource.get(element)
        return found.get("reference") if found else None

    def row(name: str, r: dict[str, Any]) -> list[tuple[Any, ...]]:
        if name == "Patient":
            address = r.get("address")
            state = address[0].get("state") if address else None
            return [(r["id"], r.get("gender"), r.get("birthDate"), r.get("deceasedDateTime"), state)]
        patient = reference(r, "subject")
        if name == "Condition":
            status = coding(r.get("clinicalStatus"))[1]
            return [
                (
                    r["id"],
                    patient,
                    *coding(r.get("code")),
                    r.get("onsetDateTime"),
                    r.get("abatementDateTime"),
                    status,
                )
            ]
        if name == "MedicationRequest":
            drug = coding(r.get("medicationCodeableConcept"))
            return [(r["id"], patient, *drug, r.get("authoredOn"), r.get("status"))]
        head = (r["id"], patient, reference(r, "encounter"), r.get("status"))
        when = r.get("effectiveDateTime")
        return [(*head, *coding(h.get("code")), *value(h), when) for h in r.get("component") or (r,)]

    def once() -> dict[str, int]:
        rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TYPES}
        for name in TYPES:
            for line in (folder / f"{name}.ndjson").read_bytes().splitlines():
                rows[name] += row(name, parser.loads(line))
        return _tables(rows)

    return once


def _msgspec_kinds(parser: Any) -> dict[str, Any]:
    def struct(name: str, **fields: Any) -> Any:
        return parser.defstruct(name, [(key, kind | None, None) for key, kind in fields.items()], gc=False)

    coding = struct("Coding", system=str, code=str)
    concept = struct("Concept", coding=list[coding], text=str)
    reference = struct("Reference", reference=str)
    quantity = struct("Quantity", value=float, unit=str, code=str)
    values = {"code": concept, "valueQuantity": quantity, "valueCodeableConcept": concept, "valueString": str}
    component = struct("Component", **values)
    return {
        "Patient": struct(
            "Patient",
            id=str,
            gender=str,
            birthDate=str,
            deceasedDateTime=str,
            address=list[struct("A", state=str)],
        ),
        "Observation": struct(
            "Observation",
            id=str,
            status=str,
            subject=reference,
            encounter=reference,
            effectiveDateTime=str,
            component=list[component],
            **values,
        ),
        "Condition": struct(
            "Condition",
            id=str,
            subject=reference,
            code=concept,
            onsetDateTime=str,
            abatementDateTime=str,
            clinicalStatus=concept,
        ),
        "MedicationRequest": struct(
            "Request",
            id=str,
            subject=reference,
            medicationCodeableConcept=concept,
            authoredOn=str,
            status=str,
        ),
    }


def msgspec(folder: Path, _: Path) -> Task:
    """Typed structs, which skip what they do not name."""
    import msgspec as parser

    kinds = _msgspec_kinds(parser)
    decoders = {name: parser.json.Decoder(kind).decode for name, kind in kinds.items()}

    def first(found: Any) -> tuple[Any, Any]:
        return (
            (found.coding[0].system, found.coding[0].code)
            if found is not None and found.coding
            else (None, None)
        )

    def value(holder: Any) -> tuple[Any, Any, Any]:
        if holder.valueQuantity is not None:
            return holder.valueQuantity.value, holder.valueQuantity.code or holder.valueQuantity.unit, None
        if holder.valueCodeableConcept is not None:
            return None, None, first(holder.valueCodeableConcept)[1] or holder.valueCodeableConcept.text
        return None, None, holder.valueString

    def named(found: Any) -> Any:
        return found.reference if found is not None else None

    def row(name: str, r: Any) -> list[tuple[Any, ...]]:
        if name == "Patient":
            return [
                (r.id, r.gender, r.birthDate, r.deceasedDateTime, r.address[0].state if r.address else None)
            ]
        if name == "Condition":
            status = first(r.clinicalStatus)[1]
            return [(r.id, named(r.subject), *first(r.code), r.onsetDateTime, r.abatementDateTime, status)]
        if name == "MedicationRequest":
            return [(r.id, named(r.subject), *first(r.medicationCodeableConcept), r.authoredOn, r.status)]
        head = (r.id, named(r.subject), named(r.encounter), r.status)
        return [(*head, *first(h.code), *value(h), r.effectiveDateTime) for h in r.component or (r,)]

    def once() -> dict[str, int]:
        rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TYPES}
        for name in TYPES:
            decode = decoders[name]
            for line in (folder / f"{name}.ndjson").read_bytes().splitlines():
                rows[name] += row(name, decode(line))
        return _tables(rows)

    return once


def _polars_schemas(pl: Any) -> dict[str, dict[str, Any]]:
    text = pl.String
    concept = pl.Struct({"coding": pl.List(pl.Struct({"system": text, "code": text})), "text": text})
    quantity = pl.Struct({"value": pl.Float64, "unit": text, "code": text})
    reference = pl.Struct({"reference": text})
    values: dict[str, Any] = {
        "code": concept,
        "valueQuantity": quantity,
        "valueCodeableConcept": concept,
        "valueString": text,
    }
    return {
        "Patient": {"id": text, "gender": text, "birthDate": text, "deceasedDateTime": text}
        | {"address": pl.List(pl.Struct({"state": text}))},
        "Observation": {"id": text, "status": text, "subject": reference, "encounter": reference}
        | {"effectiveDateTime": text, **values, "component": pl.List(pl.Struct(values))},
        "Condition": {"id": text, "subject": reference, "code": concept, "onsetDateTime": text}
        | {"abatementDateTime": text, "clinicalStatus": concept},
        "MedicationRequest": {"id": text, "subject": reference, "medicationCodeableConcept": concept}
        | {"authoredOn": text, "status": text},
    }


def polars(folder: Path, _: Path) -> Task:
    """Polars with the schema given."""
    import polars as pl

    schemas = _polars_schemas(pl)

    def first(element: str, field: str) -> Any:
        codings = pl.col(element).struct.field("coding").list.get(0, null_on_oob=True)
        return codings.struct.field(field).alias(f"{element}_{field}")

    def select(name: str, frame: Any) -> Any:
        if name == "Patient":
            state = pl.col("address").list.get(0, null_on_oob=True).struct.field("state")
            return frame.select("id", "gender", "birthDate", "deceasedDateTime", state)
        patient = pl.col("subject").struct.field("reference").alias("pat")
        if name == "Condition":
            codes = (first("code", "system"), first("code", "code"), first("clinicalStatus", "code"))
            return frame.select("id", patient, *codes, "onsetDateTime", "abatementDateTime")
        if name == "MedicationRequest":
            drug = (first("medicationCodeableConcept", key) for key in ("system", "code"))
            return frame.select("id", patient, *drug, "authoredOn", "status")
        alone = pl.concat_list(pl.struct(*VALUES))
        some = pl.col("component").list.len().fill_null(0) > 0
        holders = pl.when(some).then(pl.col("component")).otherwise(alone).alias("component")
        encounter = pl.col("encounter").struct.field("reference").alias("enc")
        exploded = frame.select("id", patient, encounter, "status", "effectiveDateTime", holders).explode(
            "component"
        )
        units = (pl.col("valueQuantity").struct.field(key) for key in ("code", "unit"))
        return exploded.unnest("component").select(
            *(
                "id",
                "pat",
                "enc",
                "status",
                "effectiveDateTime",
                first("code", "system"),
                first("code", "code"),
            ),
            pl.col("valueQuantity").struct.field("value"),
            pl.coalesce(*units).alias("unit"),
            pl.coalesce(first("valueCodeableConcept", "code"), "valueString").alias("txt"),
        )

    def once() -> dict[str, int]:
        frames = {name: pl.scan_ndjson(folder / f"{name}.ndjson", schema=schemas[name]) for name in TYPES}
        return {name: select(name, frame).collect().to_arrow().num_rows for name, frame in frames.items()}

    return once


def pandas(folder: Path, _: Path) -> Task:
    """`json_normalize`: flat frames, and no codes or values taken out yet."""
    import pandas as pd

    def once() -> dict[str, int]:
        rows = {}
        for name in TYPES:
            lines = (folder / f"{name}.ndjson").read_bytes().splitlines()
            rows[name] = len(pd.json_normalize([json.loads(line) for line in lines]))
        return rows

    return once


def fhir_resources(folder: Path, _: Path) -> Task:
    """The pydantic models of R4B: parsed and validated, and no table yet."""
    from fhir.resources.R4B import get_fhir_model_class

    models = {name: get_fhir_model_class(name).model_validate_json for name in TYPES}

    def once() -> dict[str, int]:
        rows = {}
        for name, validate in models.items():
            lines = (folder / f"{name}.ndjson").read_bytes().splitlines()
            rows[name] = sum(validate(line) is not None for line in lines)
        return rows

    return once


def fhirpathpy(folder: Path, _: Path) -> Task:
    """Compiled FHIRPath expressions, a resource at a time; components are not exploded."""
    import fhirpathpy as library

    paths = {
        "Patient": ("id", "gender", "birthDate", "deceasedDateTime", "address.state.first()"),
        "Observation": (
            "id",
            "subject.reference",
            "encounter.reference",
            "status",
            "code.coding.first().system",
            "code.coding.first().code",
            "valueQuantity.value",
            "valueQuantity.code",
            "effectiveDateTime",
        ),
        "Condition": (
            "id",
            "subject.reference",
            "code.coding.first().code",
            "onsetDateTime",
            "abatementDateTime",
        ),
        "MedicationRequest": (
            "id",
            "subject.reference",
            "medicationCodeableConcept.coding.first().code",
            "status",
        ),
    }
    compiled = {name: [library.compile(path) for path in found] for name, found in paths.items()}

    def once() -> dict[str, int]:
        rows = {}
        for name, expressions in compiled.items():
            lines = (folder / f"{name}.ndjson").read_bytes().splitlines()
            rows[name] = len([[run(json.loads(line)) for run in expressions] for line in lines])
        return rows

    return once


def fhir4ds(folder: Path, views: Path) -> Task:
    """The nearest library: the same views over lines that DuckDB reads as JSON."""
    import fhir4ds as library

    connection = library.create_connection()
    connection.execute("SET threads = 1; SET enable_progress_bar = false")
    loaded = [json.loads(path.read_bytes()) for path in sorted(views.glob("*.json"))]
    for view in loaded:
        del view["resourceType"]  # The plain one that the official cases have is refused.
    queries = {view["resource"]: library.generate_view_sql(json.dumps(view)) for view in loaded}

    def once() -> dict[str, int]:
        rows = {}
        for name, query in queries.items():
            connection.execute("DROP TABLE IF EXISTS resources")
            connection.execute(
                "CREATE TABLE resources AS SELECT json AS resource, json->>'resourceType' AS resourceType, "
                f"json->>'id' AS id FROM read_ndjson_objects('{folder / name}.ndjson')"
            )
            rows[name] = connection.execute(query).fetch_arrow_table().num_rows
        return rows

    return once


SIDES: dict[str, Callable[[Path, Path], Task]] = {
    "gemel": gemel,
    "duckdb": duckdb,
    "duckdb, schema inferred": lambda folder, views: duckdb(folder, views, inferred=True),
    "msgspec": msgspec,
    "orjson": orjson,
    "polars": polars,
    "pandas json_normalize": pandas,
    "fhir4ds-v2": fhir4ds,
    "fhirpathpy": fhirpathpy,
    "fhir.resources": fhir_resources,
}


def main() -> None:
    """Answer one line for each line that comes in."""
    once = SIDES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    for _ in sys.stdin:
        gc.collect()
        start = time.process_time()
        rows = once()
        print(json.dumps({"cpu_s": time.process_time() - start, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
