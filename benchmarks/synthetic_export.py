"""How fast virtual cohorts become files: FHIR bundles and lines with every resource checked, OMOP, Parquet, CSV.

Cohorts of every installed programme, levels drawn at random, so that records are as long as they get. Time counts from the cohort in
memory to closed files: records, templates, checks of every resource, hashes, disk. `a core` is by the processor's time of one process;
`two cores` is twice that, which two free cores take; `two workers` is by the wall clock of this machine as busy as it is, with two
processes that stand ready. Beside them, in the same run and on one core: `orjson`, which makes dictionaries of about as many resources
into bundles and checks nothing (the bar's start), and `fhir.resources`, which validates and writes nothing.

Usage: python benchmarks/synthetic_export.py [--quick] [--patients N] [--programme NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Written down once.
BAR_BUNDLES_S = 20_000
CORES = 2
# The bar's start was measured on bundles of a Patient, an Encounter, a Condition and nine Observations.
OBSERVATIONS = 9
PATIENTS, QUICK = 20_000, 2_000
SECOND_OPINIONS = 40
MODEL = "00" * 32


def drawn_cohort(programme: Any, patients: int) -> tuple[Any, dict[str, Any]]:
    """A cohort of unrelated levels, and its provenance."""
    import numpy as np

    from gemel.client_node.audit.studies import usual_study
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.domain import domain_of
    from gemel.synthetic.provenance import read_provenance
    from gemel.synthetic.study_provenance import provenance_of_study

    provenance = provenance_of_study(
        usual_study(programme), sites=1, created="2026-01-01T00:00:00Z", noise="test"
    )
    domain, random = domain_of(programme), np.random.default_rng(1)
    codes = {column.name: random.integers(0, column.size, patients) for column in domain.columns}
    table = domain.decode(codes, seed=1)
    parts = (table.values, table.time_years, table.event, table.targets)
    cohort = VirtualCohort(
        programme, *parts, 1, read_provenance(provenance), float(patients), model_sha256=MODEL
    )
    return cohort, provenance


def clocked(work: Callable[[int], Any]) -> dict[str, float]:
    """Seconds by clock. The processor's time is taken of a single process, for that of workers is not told to who started them."""
    wall = time.perf_counter()
    work(CORES)
    wall, processor = time.perf_counter() - wall, time.process_time()
    work(1)
    processor = time.process_time() - processor
    return {"a core": processor, "two cores": processor / CORES, "two workers": wall}


META = {
    "security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}],
    "tag": [{"system": "urn:gemel:tag", "code": "synthetic"}],
}
CODES = [{"coding": [{"system": "http://loinc.org", "code": f"{n}-1"}], "text": "a title"} for n in range(9)]


def dictionaries(number: str) -> list[dict[str, Any]]:
    """The twelve resources of a patient."""
    subject = {"reference": f"Patient/{number}"}
    visit = {
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": subject,
        "period": {"start": "2000-01-01", "end": "2000-01-01"},
    }
    category = [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category"}]}]
    unit = {"unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    diagnosis = {"code": CODES[0], "subject": subject, "onsetDateTime": "2000-01-01"}
    return [
        {"resourceType": "Patient", "id": number, "meta": META, "gender": "male", "birthDate": "1950-01-01"},
        {"resourceType": "Encounter", "id": f"{number[:30]}-e", "meta": META, **visit},
        {"resourceType": "Condition", "id": f"{number[:30]}-c", "meta": META, **diagnosis},
        *(
            {
                "resourceType": "Observation",
                "id": f"{number[:30]}-{n}",
                "meta": META,
                "status": "final",
                "category": category,
                "code": CODES[n],
                "subject": subject,
                "effectiveDateTime": "2000-01-01",
                "valueQuantity": {"value": 17.5 + n, **unit},
            }
            for n in range(OBSERVATIONS)
        ),
    ]


def by_orjson(bundles: int) -> tuple[float, float]:
    """Bundles a second, and bytes a bundle, of dictionaries that are written and not checked."""
    import uuid

    import orjson

    numbers = [str(uuid.uuid4()) for _ in range(bundles)]
    start, size = time.process_time(), 0
    for number in numbers:
        entries = [
            {
                "fullUrl": f"https://virtual-patients.invalid/fhir/{r['resourceType']}/{r['id']}",
                "resource": r,
                "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"},
            }
            for r in dictionaries(number)
        ]
        bundle = {
            "resourceType": "Bundle",
            "id": number,
            "meta": META,
            "type": "transaction",
            "entry": entries,
        }
        size += len(orjson.dumps(bundle))
    return bundles / (time.process_time() - start), size / bundles


def second_opinion(folder: Path) -> float:
    """Bundles a second that fhir.resources validates, in one process, of the first ones."""
    from fhir.resources.R4B.bundle import Bundle

    with (sorted((folder / "bundles").iterdir())[0]).open("rb") as file:
        lines = [file.readline() for _ in range(SECOND_OPINIONS)]
    start = time.process_time()
    for line in lines:
        Bundle.model_validate_json(line)
    return SECOND_OPINIONS / (time.process_time() - start)


def written(
    programme: Any, patients: int, formats: Sequence[str] = ("bundles", "fhir", "omop", "parquet", "csv")
) -> list[tuple[str, str, float, str]]:
    """(case, side, value, unit) of one programme."""
    from gemel.synthetic.export import Format, write
    from gemel.synthetic.export.records import records_of
    from gemel.synthetic.report.gate import Decision, Outcome

    cohort, provenance = drawn_cohort(programme, patients)
    decision = Decision("00" * 32, MODEL, Outcome.PASSED)
    records = records_of(cohort)
    each = 3 + bool(records.look_back_days) + sum(len(s.rows) for s in records.statements) / patients
    rows = [(f"{programme.name}: resources a bundle", "gemel", round(each, 1), "")]
    for format in map(Format, formats):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "cohort"

            def work(workers: int, format: Any = format, folder: Path = folder) -> None:
                write(
                    cohort,
                    folder,
                    provenance=provenance,
                    decision=decision,
                    formats=[format],
                    workers=workers,
                )

            for side, seconds in clocked(work).items():
                rows.append((f"{programme.name}: {format}", side, round(patients / seconds), "patients/s"))
            if format is Format.BUNDLES:
                size = sum(path.stat().st_size for path in (folder / "bundles").iterdir()) / patients
                rows += [
                    (f"{programme.name}: bytes a bundle", "gemel", round(size), "bytes"),
                    (
                        f"{programme.name}: bundles",
                        "orjson, unchecked",
                        round(by_orjson(patients)[0]),
                        "patients/s",
                    ),
                    (
                        f"{programme.name}: bundles",
                        "fhir.resources",
                        round(second_opinion(folder)),
                        "patients/s",
                    ),
                ]
    return rows


def main() -> int:
    """Measure, print, and judge the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small cohorts: does it still run?")
    parser.add_argument("--patients", type=int, default=None)
    parser.add_argument("--programme", help="only this one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from gemel.synthetic.export.writing import PATIENTS_PER_FILE
    from gemel.twins.installed import installed

    patients = options.patients or (QUICK if options.quick else PATIENTS)
    programmes = [p for p in installed() if options.programme in (None, p.name)]
    # The processes that other processes start from are there from the first export on.
    written(programmes[0], PATIENTS_PER_FILE + 1, formats=["bundles"])
    rows = [("orjson: bytes a bundle", "12 resources", round(by_orjson(100)[1]), "bytes")]
    rows += [row for programme in programmes for row in written(programme, patients)]
    found = {(case, side): value for case, side, value, _ in rows}
    bars = [
        {
            "name": f"{programme.name}: bundles of {found[f'{programme.name}: resources a bundle', 'gemel']:g} resources, each "
            "checked, two cores",
            "value": (value := found[f"{programme.name}: bundles", "two cores"]),
            "bar": BAR_BUNDLES_S,
            "direction": "min",
            "ok": value >= BAR_BUNDLES_S,
        }
        for programme in programmes
    ]
    result = {
        "name": "synthetic_export",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rows": [dict(zip(("case", "side", "value", "unit"), row, strict=True)) for row in rows],
        "bars": bars,
    }
    for case, side, value, unit in rows:
        print(f"{case:<44} {side:<18} {value:>10,} {unit}")
    for bar in bars:
        print(f"bar {bar['name']}: {bar['value']:,} >= {bar['bar']:,} {'ok' if bar['ok'] else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if bars and all(bar["ok"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
