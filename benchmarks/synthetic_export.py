"""How fast virtual cohorts become files: FHIR bundles and lines with every resource checked, OMOP, Parquet, CSV.

Cohorts of every installed programme, levels drawn at random, so that records are as long as they get. `processor` is the
processor's time of one process over two: what two free cores take, since a busy machine makes the wall clock long. Time counts
from the cohort in memory to closed files: records, templates, checks of every resource, disk. The bar is about a bundle of
about 12 resources, as its start was measured; longer ones are printed beside it, and all as resources.

Usage: python benchmarks/synthetic_export.py [--quick] [--patients N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Written down once.
BAR_BUNDLES_S = 20_000
CORES = 2
# The start was measured on bundles of 12 resources; a programme's mean may be this much longer or shorter.
RESOURCES, TOLERANCE = 12.0, 2.0
PATIENTS, QUICK = 20_000, 2_000
SECOND_OPINIONS = 40


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
    return VirtualCohort(programme, *parts, 1, read_provenance(provenance), float(patients)), provenance


def clocked(work: Callable[[int], Any]) -> dict[str, float]:
    """Seconds of the wall clock with a process for each core, and of one process over the cores.

    The processor's time is taken of a single process, for that of workers is not told to who started them.
    """
    wall = time.perf_counter()
    work(CORES)
    wall, processor = time.perf_counter() - wall, time.process_time()
    work(1)
    return {"wall": wall, "processor": (time.process_time() - processor) / CORES}


def second_opinion(folder: Path) -> float:
    """Bundles a second that fhir.resources validates, in one process, of the first ones."""
    from fhir.resources.R4B.bundle import Bundle

    with (sorted((folder / "bundles").iterdir())[0]).open("rb") as file:
        lines = [file.readline() for _ in range(SECOND_OPINIONS)]
    start = time.process_time()
    for line in lines:
        Bundle.model_validate_json(line)
    return SECOND_OPINIONS / (time.process_time() - start)


def measure(programme: Any, patients: int) -> list[tuple[str, str, float, str]]:
    """(case, side, value, unit) of one programme."""
    from gemel.synthetic.export import Format, write
    from gemel.synthetic.export.records import records_of

    cohort, provenance = drawn_cohort(programme, patients)
    records = records_of(cohort)
    each = 3 + bool(records.look_back_days) + sum(len(s.rows) for s in records.statements) / patients
    rows = [(f"{programme.name}: resources a bundle", "gemel", round(each, 1), "")]
    for format in (Format.BUNDLES, Format.FHIR, Format.OMOP, Format.PARQUET, Format.CSV):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "cohort"

            def work(workers: int, format: Any = format, folder: Path = folder) -> None:
                write(cohort, folder, provenance=provenance, formats=[format], workers=workers)

            taken = clocked(work)
            for side, seconds in taken.items():
                rows.append((f"{programme.name}: {format}", side, round(patients / seconds), "patients/s"))
            if format is Format.BUNDLES:
                size = sum(path.stat().st_size for path in (folder / "bundles").iterdir()) / patients
                rows += [
                    (f"{programme.name}: bytes a bundle", "gemel", round(size), "bytes"),
                    (
                        f"{programme.name}: bundles as resources",
                        "processor",
                        round(patients * each / taken["processor"]),
                        "resources/s",
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
    from gemel.twins.installed import installed

    patients = options.patients or (QUICK if options.quick else PATIENTS)
    programmes = [p for p in installed() if options.programme in (None, p.name)]
    rows = [row for programme in programmes for row in measure(programme, patients)]
    found = {(case, side): value for case, side, value, _ in rows}
    like_the_start = [
        programme.name
        for programme in programmes
        if abs(found[f"{programme.name}: resources a bundle", "gemel"] - RESOURCES) <= TOLERANCE
    ]
    bars = [
        {
            "name": f"{name}: bundles with every resource checked, two cores, processor",
            "value": (value := found[f"{name}: bundles", "processor"]),
            "bar": BAR_BUNDLES_S,
            "direction": "min",
            "ok": value >= BAR_BUNDLES_S,
        }
        for name in like_the_start
    ]
    result = {
        "name": "synthetic_export",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rows": [dict(zip(("case", "side", "value", "unit"), row, strict=True)) for row in rows],
        "bars": bars,
    }
    for case, side, value, unit in rows:
        print(f"{case:<44} {side:<16} {value:>10,} {unit}")
    for bar in bars:
        print(f"bar {bar['name']}: {bar['value']:,} >= {bar['bar']:,} {'ok' if bar['ok'] else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if bars and all(bar["ok"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
