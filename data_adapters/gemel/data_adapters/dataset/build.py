"""From an export to a data set: standard views, cohort, features, outcomes, pseudonyms, and the data set's card."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Outcome, OutcomeKind, Programme
from gemel.data_adapters.dataset.cohort import CohortCounts, select_cohort
from gemel.data_adapters.meaning.clinical import USABLE_OBSERVATIONS, ClinicalRules
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.units import COMMON_ALIASES, UCUM_SYSTEMS, find_conversion
from gemel.data_adapters.reading.intake import FileCount, Intake
from gemel.data_adapters.reading.store import Store, run
from gemel.data_adapters.views.run import load_views_into, standard_views

DAYS_PER_YEAR = 365.25
_MINIMUM_KEY_BYTES = 16
_PSEUDONYM_DIGITS = 32
_MOST_FREQUENT = 50


class DatasetCard(msgspec.Struct, frozen=True, kw_only=True):
    """What went in and what was left out. It holds exact counts of patients: it stays inside the hospital.

    Attributes:
        cohort: Patients read, in, and out by reason.
        files: Lines read, accepted, rejected by file; `rejects` by code.
        excluded_resources: Accepted lines that do not count, as "Type: reason"; `superseded` older versions by type.
        orphans: Resources whose patient is not in the export, by type.
        coverage: Patients with a value, by feature; `events` of each outcome: occurred, censored, prevalent.
        values, implausible, comparators, absent: Numbers of values used or left out, by concept (in all lines).
        unmapped: The most frequent codes that the programme does not know, as "system|code"; all are in the total.
        partial_dates: Dates without a day, by element.
        unread: Entries of the export's folder that are no NDJSON, as "name: reason".
    """

    programme: str
    programme_version: str
    snapshot: str
    cohort: CohortCounts
    files: list[FileCount]
    rejects: dict[str, int]
    excluded_resources: dict[str, int]
    superseded: dict[str, int]
    orphans: dict[str, int]
    coverage: dict[str, int]
    events: dict[str, dict[str, int]]
    values: dict[str, int]
    implausible: dict[str, int]
    comparators: dict[str, int]
    absent: dict[str, int]
    unmapped: dict[str, int]
    unmapped_total: int
    partial_dates: dict[str, int]
    unread: list[str]


def build(
    export: Path,
    programme: Programme,
    *,
    pseudonym_key: bytes,
    aliases: Mapping[str, str] = COMMON_ALIASES,
) -> tuple[Dataset, DatasetCard]:
    """Build a programme's data set from an export, one row per patient of its cohort.

    Args:
        export: Folder of FHIR R4 NDJSON files (plain or .gz), or one file.
        programme: What to build.
        pseudonym_key: The hospital's secret, at least 16 bytes; the same key gives the same pseudonyms.
        aliases: The site's table from recorded unit spellings to UCUM.

    Raises:
        GemelError: GEM208 unreadable, GEM213 of another FHIR version, GEM211 synthetic records,
            GEM205 without patients, GEM212 with nobody in the cohort.
    """
    if len(pseudonym_key) < _MINIMUM_KEY_BYTES:
        raise ValueError(f"pseudonym_key needs at least {_MINIMUM_KEY_BYTES} bytes")
    rules = ClinicalRules(programme, aliases=aliases)
    with Store() as store:
        intake = load_views_into(store, standard_views(), export, judge=rules.judge)
        _refuse(intake, rules)
        connection = store.connection
        counts = select_cohort(connection, programme.cohort)
        if not counts.included:
            raise GemelError("GEM212", f"None of {counts.patients} patients is in: {counts.excluded}.")
        _map_codes(connection, programme, aliases)
        dataset = _assemble(connection, programme, pseudonym_key)
        orphans = _orphans(connection)
        superseded = {name: number for name, number in store.superseded.items() if number}
    return dataset, _card(dataset, intake, rules, counts, orphans, superseded)


def _refuse(intake: Intake, rules: ClinicalRules) -> None:
    """Stop before anything is computed on an export that must not train a twin."""
    if rules.other_versions:
        raise GemelError("GEM213", f"Lines of other FHIR versions: {dict(rules.other_versions)}.")
    if rules.synthetic:
        raise GemelError("GEM211", f"{rules.synthetic} resources carry the HTEST label.")
    if not sum(file.types.get("Patient", 0) for file in intake.files):
        raise GemelError(
            "GEM205",
            f"No Patient in {len(intake.files)} files; rejects: {dict(intake.by_code)}; "
            f"entries not read: {len(intake.unread)}.",
        )


def _map_codes(
    connection: duckdb.DuckDBPyConnection, programme: Programme, aliases: Mapping[str, str]
) -> None:
    """Make the tables `diagnosis` (patient_id, concept, day) and `measured` (…, value) in the concepts' units."""
    index = ConceptIndex(programme)
    pairs = run(
        connection,
        "SELECT DISTINCT system, code FROM view_observation UNION SELECT DISTINCT system, code FROM view_condition",
    )
    mapped = [(s, c, concept) for s, c in pairs for concept in index.find(s or "", c or "")]
    _register(connection, "code_map", ("system", "code", "concept"), [(s, c, k.name) for s, c, k in mapped])
    run(
        connection,
        """
        CREATE TABLE diagnosis AS
        SELECT patient_id, concept, coalesce(fhir_day(onset), fhir_day(onset_start), fhir_day(recorded)) AS day
        FROM view_condition JOIN code_map USING (system, code) WHERE NOT negated""",
    )
    usable = ", ".join(f"'{status}'" for status in USABLE_OBSERVATIONS)
    ucum = ", ".join(f"'{system}'" for system in UCUM_SYSTEMS)
    run(
        connection,
        f"""
        CREATE TABLE recorded AS
        SELECT id, patient_id, concept, value,
            CASE WHEN unit_code <> '' AND coalesce(nullif(unit_system, '') IN ({ucum}), TRUE)
                THEN unit_code ELSE coalesce(nullif(unit_text, ''), unit_code) END AS unit,
            coalesce(effective, effective_instant, effective_start) AS effective
        FROM view_observation JOIN code_map USING (system, code)
        WHERE status IN ({usable}) AND value IS NOT NULL AND comparator IS NULL""",
    )
    units = run(connection, "SELECT DISTINCT concept, unit FROM recorded WHERE unit IS NOT NULL")
    factors = []
    for name, unit in units:
        concept = programme.concept(name)
        conversion = find_conversion(unit, concept, aliases=aliases)
        if conversion is not None:
            factors.append((name, unit, *conversion, concept.low, concept.high))
    _register(connection, "unit_map", ("concept", "unit", "factor", "shift", "low", "high"), factors)
    run(
        connection,
        """
        CREATE TABLE measured AS
        SELECT id, patient_id, concept, effective, fhir_day(effective) AS day, value * factor + shift AS value
        FROM recorded JOIN unit_map USING (concept, unit)
        WHERE (low IS NULL OR value * factor + shift >= low)
            AND (high IS NULL OR value * factor + shift <= high)""",
    )


def _register(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Make a small table of texts and numbers."""
    numbers = ("factor", "shift", "low", "high")
    arrays = [
        pa.array([row[i] for row in rows], pa.float64() if column in numbers else pa.string())
        for i, column in enumerate(columns)
    ]
    connection.register("gemel_rows", pa.table(dict(zip(columns, arrays, strict=True))))
    run(connection, f"CREATE TABLE {name} AS SELECT * FROM gemel_rows")
    connection.unregister("gemel_rows")


def _assemble(connection: duckdb.DuckDBPyConnection, programme: Programme, key: bytes) -> Dataset:
    ids: list[str] = [row[0] for row in run(connection, "SELECT patient_id FROM cohort")]
    pseudonyms = [pseudonym(key, patient_id) for patient_id in ids]
    order = sorted(range(len(ids)), key=pseudonyms.__getitem__)
    ordered = pa.table({"patient_id": [ids[i] for i in order], "position": range(len(ids))})
    connection.register("gemel_rows", ordered)
    run(connection, "CREATE TABLE member AS SELECT * FROM cohort JOIN gemel_rows USING (patient_id)")
    connection.unregister("gemel_rows")
    values = np.full((len(ids), len(programme.features)), np.nan, dtype=np.float32)
    for column, feature in enumerate(programme.features):
        positions, found = _columns(connection, *_feature_query(feature))
        if feature.kind is FeatureKind.PRESENT:
            values[:, column] = 0.0
        values[positions, column] = found["value"]
    time_years = np.zeros((len(ids), len(programme.outcomes)), dtype=np.float32)
    event = np.zeros((len(ids), len(programme.outcomes)), dtype=np.int8)
    for column, outcome in enumerate(programme.outcomes):
        positions, found = _columns(connection, *_outcome_query(outcome))
        time_years[positions, column] = found["days"] / DAYS_PER_YEAR
        event[positions, column] = found["event"]
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(pseudonyms[i] for i in order),
        values,
        time_years,
        event,
    )


def _columns(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, object]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """The column `position` of a query, and its other columns as numbers."""
    table = connection.sql(sql, params=parameters).to_arrow_table()
    positions = table["position"].to_numpy().astype(np.int64)
    names = (name for name in table.column_names if name != "position")
    return positions, {name: table[name].to_numpy().astype(np.float64) for name in names}


def pseudonym(key: bytes, patient_id: str) -> str:
    """HMAC-SHA-256 of the patient's id under the hospital's key, 32 hex digits (128 bits)."""
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()[:_PSEUDONYM_DIGITS]


def _feature_query(feature: Feature) -> tuple[str, dict[str, object]]:
    """SQL for (position, value); patients without a row have no value."""
    match feature.kind:
        case FeatureKind.AGE:
            return f"SELECT position, (index_day - birth_day) / {DAYS_PER_YEAR} AS value FROM member", {}
        case FeatureKind.MALE:
            return (
                "SELECT position, CASE gender WHEN 'male' THEN 1.0 ELSE 0.0 END AS value FROM member "
                "WHERE gender IN ('male', 'female')",
                {},
            )
        case FeatureKind.PRESENT:
            return (
                "SELECT DISTINCT position, 1.0 AS value FROM member JOIN diagnosis USING (patient_id) "
                "WHERE list_contains($concepts, concept) AND day <= index_day",
                {"concepts": list(feature.concepts)},
            )
        case FeatureKind.LAST:
            # Of several on one day the latest by the clock counts; then the id decides, so that the order of lines
            # cannot.
            return (
                """SELECT position, value FROM member JOIN measured USING (patient_id)
                WHERE list_contains($concepts, concept) AND day <= index_day
                    AND ($window IS NULL OR day >= index_day - CAST($window AS INTEGER))
                QUALIFY row_number() OVER (PARTITION BY position ORDER BY day DESC,
                    TRY_CAST(effective AS TIMESTAMPTZ) DESC NULLS LAST, id DESC, value DESC) = 1""",
                {"concepts": list(feature.concepts), "window": feature.window_days},
            )


def _outcome_query(outcome: Outcome) -> tuple[str, dict[str, object]]:
    """SQL for (position, days, event) of every patient."""
    if outcome.kind is OutcomeKind.DEATH:
        return (
            f"SELECT position, end_day - index_day AS days, "
            f"CASE WHEN death_day IS NULL THEN {CENSORED} ELSE {OCCURRED} END AS event FROM member",
            {},
        )
    return (
        f"""WITH first_diagnosis AS (
            SELECT patient_id, min(day) AS day FROM diagnosis
            WHERE list_contains($concepts, concept) GROUP BY patient_id
        )
        SELECT position,
            CASE WHEN day <= index_day THEN 0 WHEN day <= end_day THEN day - index_day
                ELSE end_day - index_day END AS days,
            CASE WHEN day <= index_day THEN {PREVALENT} WHEN day <= end_day THEN {OCCURRED}
                ELSE {CENSORED} END AS event
        FROM member LEFT JOIN first_diagnosis USING (patient_id)""",
        {"concepts": list(outcome.concepts)},
    )


def _orphans(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    counts = {}
    for view in ("observation", "condition", "encounter"):
        [(number,)] = run(
            connection,
            f"SELECT count(DISTINCT id) FROM view_{view} "
            "WHERE patient_id IS NULL OR patient_id NOT IN (SELECT id FROM view_patient WHERE id IS NOT NULL)",
        )
        if number:
            counts[view.capitalize()] = int(number)
    return counts


def _card(
    dataset: Dataset,
    intake: Intake,
    rules: ClinicalRules,
    counts: CohortCounts,
    orphans: dict[str, int],
    superseded: dict[str, int],
) -> DatasetCard:
    present = np.isfinite(dataset.values).sum(axis=0)
    names = {"occurred": OCCURRED, "censored": CENSORED, "prevalent": PREVALENT}
    return DatasetCard(
        programme=dataset.programme,
        programme_version=dataset.programme_version,
        snapshot=dataset.snapshot,
        cohort=counts,
        files=intake.files,
        rejects=dict(sorted(intake.by_code.items())),
        excluded_resources={f"{kind}: {why}": n for (kind, why), n in sorted(rules.excluded.items())},
        superseded=superseded,
        orphans=orphans,
        coverage={name: int(n) for name, n in zip(dataset.features, present, strict=True)},
        events={
            outcome: {name: int((dataset.event[:, i] == value).sum()) for name, value in names.items()}
            for i, outcome in enumerate(dataset.outcomes)
        },
        values=dict(sorted(rules.values.items())),
        implausible=dict(sorted(rules.implausible.items())),
        comparators=dict(sorted(rules.comparators.items())),
        absent=dict(sorted(rules.absent.items())),
        unmapped={f"{s}|{c}": n for (s, c), n in rules.unmapped.most_common(_MOST_FREQUENT)},
        unmapped_total=rules.unmapped.total(),
        partial_dates=dict(sorted(rules.partial_dates.items())),
        unread=intake.unread,
    )
