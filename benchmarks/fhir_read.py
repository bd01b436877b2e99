"""Reading FHIR: four tables of one hospital's export, ours beside nine other ways (docs/performance.md).

CPU seconds of one pinned core; all sides in one run, one after the other in each round, so that a busy machine is busy
for all of them. Ratios are taken within a round. The slow sides do a twentieth of the lines, as their rate says.
Peers live in .peers (`make peers`); one that is not there is named.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _copies import SITE_A, write_copies

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VIEWS = HERE / "fhir_views"
TYPES = ("Patient", "Observation", "Condition", "MedicationRequest")
READERS = ROOT / ".peers" / "readers" / "bin" / "python"
FHIR4DS = ROOT / ".peers" / "fhir4ds" / "bin" / "python"
OURS = Path(sys.executable)
# side: (interpreter, one line in so many)
SIDES = {
    "gemel": (OURS, 1),
    "duckdb": (READERS, 1),
    "msgspec": (READERS, 1),
    "orjson": (READERS, 1),
    "duckdb, schema inferred": (READERS, 1),
    "polars": (READERS, 1),
    "fhir4ds-v2": (FHIR4DS, 20),
    "pandas json_normalize": (READERS, 20),
    "fhirpathpy": (READERS, 20),
    "fhir.resources": (READERS, 20),
}
# How many times the rate of a side ours must reach.
BARS = {"duckdb": 0.9, "msgspec": 1.3, "polars": 4.5, "fhir.resources": 45.0}
EXPLODED_ROWS = {"Patient": 615, "Observation": 94_338, "Condition": 4_546, "MedicationRequest": 4_712}
TWO_CORES_BAR = 1.7
MEGABYTES_FOR_TWO_CORES = 500


class Side:
    """One side in its own process, pinned to one core, that does the task for each line it is sent."""

    def __init__(self, name: str, folder: Path, *, share: int) -> None:
        python, _ = SIDES[name]
        self.name = name
        self.megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        one_thread = {key: "1" for key in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
        self._process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "_fhir_sides.py"), name, str(folder), str(VIEWS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread},
        )
        os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})
        self.share = share

    def once(self) -> dict[str, Any]:
        """CPU seconds and rows of one pass over the task."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Close its input, which ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def unpack(folder: Path) -> dict[int, Path]:
    """The four files of the export, whole and every twentieth line, by share."""
    folders = {1: folder / "whole", 20: folder / "twentieth"}
    for share, target in folders.items():
        target.mkdir()
        for name in TYPES:
            lines = gzip.decompress((SITE_A / f"{name}.ndjson.gz").read_bytes()).splitlines(keepends=True)
            (target / f"{name}.ndjson").write_bytes(b"".join(lines[::share]))
    return folders


def compare(folders: dict[int, Path], *, rounds: int) -> tuple[dict[str, list[float]], list[str]]:
    """MB per CPU second of each side, by round, and the sides that are not installed."""
    missing = [name for name, (python, _) in SIDES.items() if not python.exists()]
    sides = [
        Side(name, folders[share], share=share) for name, (_, share) in SIDES.items() if name not in missing
    ]
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(rounds + 1):
        for side in sides:
            answer = side.once()
            if side.share == 1 and answer["rows"] != EXPLODED_ROWS:
                raise SystemExit(f"{side.name} gives {answer['rows']}, expected {EXPLODED_ROWS}")
            if turn:  # the first pass warms caches and compiles
                rates[side.name].append(side.megabytes / answer["cpu_s"])
    for side in sides:
        side.end()
    return rates, missing


def two_cores(folder: Path, *, rounds: int) -> list[float]:
    """How much faster a second worker makes the four views, wall clock, by round."""
    from gemel.data_adapters.views.run import load_view, write_views

    many = folder / "many"
    many.mkdir()
    write_copies(many, TYPES, megabytes=MEGABYTES_FOR_TWO_CORES)
    views = [load_view(path) for path in sorted(VIEWS.glob("*.json"))]

    def seconds(workers: int) -> float:
        start = time.perf_counter()
        write_views(views, many, folder / f"out{workers}", workers=workers)
        return time.perf_counter() - start

    seconds(2)
    return [seconds(1) / seconds(2) for _ in range(rounds)]


def _bar(name: str, value: float, bar: float) -> dict[str, Any]:
    value = round(value, 3)
    return {"name": name, "value": value, "bar": bar, "direction": "min", "ok": value >= bar}


def measure(*, rounds: int) -> dict[str, Any]:
    """The whole benchmark as the result that `run.py` reads."""
    with tempfile.TemporaryDirectory(prefix="gemel-fhir-read-") as name:
        folder = Path(name)
        folders = unpack(folder)
        rates, missing = compare(folders, rounds=rounds)
        speedups = two_cores(folder, rounds=max(2, rounds // 2))
    rows: list[dict[str, Any]] = [
        {
            "case": "four views of site_a",
            "side": side,
            "value": round(statistics.median(values), 1),
            "unit": "MB/s/core",
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "gemel_times": round(statistics.median(map(float.__truediv__, rates["gemel"], values)), 2),
        }
        for side, values in rates.items()
    ]
    rows += [
        {"case": "four views of site_a", "side": side, "value": None, "unit": "not installed"}
        for side in missing
    ]
    value = statistics.median(speedups)
    rows.append({"case": "a second core", "side": "gemel", "value": round(value, 2), "unit": "times"})
    bars = [
        _bar(
            f"gemel over {side}", statistics.median(map(float.__truediv__, rates["gemel"], rates[side])), bar
        )
        for side, bar in BARS.items()
        if side in rates
    ]
    bars.append(_bar("two workers over one", value, TWO_CORES_BAR))
    return {
        "name": "fhir_read",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
        "rows": rows,
        "bars": bars,
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not SITE_A.exists():
        raise SystemExit(f"The export {SITE_A.name} is not beside the project: nothing to measure.")
    result = json.dumps(measure(rounds=2 if arguments.quick else 7), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
