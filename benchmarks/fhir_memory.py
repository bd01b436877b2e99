"""Memory for a large export: the peak of the process while 10 GB of FHIR become tables, and a data set.

The export is site_a again and again with new people (`_copies.py`). Each task runs in a process of its own, whose peak
resident size the kernel tells; what Python and the libraries take before the first record counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _copies import SITE_A, write_copies

HERE = Path(__file__).resolve().parent
VIEW_TYPES = ("Patient", "Observation", "Condition", "MedicationRequest")
# A cohort needs the encounters too.
TYPES = (*VIEW_TYPES, "Encounter")
PEAK_BAR_MB = 400
_VIEWS = """
from gemel.data_adapters.views.run import load_view, write_views
views = [load_view(path) for path in sorted(Path(sys.argv[2]).glob("*.json"))]
write_views(views, Path(sys.argv[1]), Path(sys.argv[3]), workers={workers})
"""
_BUILD = """
from gemel.data_adapters.dataset.build import build
from gemel.twins.programmes.fatty_liver import PROGRAMME
dataset, card = build(Path(sys.argv[1]), PROGRAMME, pseudonym_key=bytes(32), workers={workers})
dataset.save(Path(sys.argv[3]) / "dataset.safetensors")
"""
TASKS = {
    "data view, one worker": _VIEWS.format(workers=1),
    "data view, two workers": _VIEWS.format(workers=2),
    "data build, one worker": _BUILD.format(workers=1),
    "data build, two workers": _BUILD.format(workers=2),
}


def run(task: str, export: Path, out: Path) -> tuple[float, float]:
    """Peak resident megabytes and seconds of one task."""
    out.mkdir()
    # Not ru_maxrss: a child's starts with what its parent had, which has just written the export.
    end = "\nprint(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    code = f"import re, sys\nfrom pathlib import Path\n{task}{end}"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(export), str(HERE / "fhir_views"), str(out)],
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return int(done.stdout.split()[-1]) / 1024, seconds


def measure(*, megabytes: float) -> dict[str, Any]:
    """The whole benchmark as the result that `run.py` reads."""
    rows: list[dict[str, Any]] = []
    bars = []
    with tempfile.TemporaryDirectory(prefix="gemel-fhir-memory-") as name:
        export = Path(name) / "export"
        export.mkdir()
        written = write_copies(export, TYPES, megabytes=megabytes)
        for task, code in TASKS.items():
            peak, seconds = run(code, export, Path(name) / "out")
            case = f"{written / 1000:.1f} GB"
            rows += [
                {"case": case, "side": task, "value": round(peak), "unit": "MB peak"},
                {"case": case, "side": task, "value": round(written / seconds), "unit": "MB/s wall"},
            ]
            bars.append(
                {
                    "name": f"peak MB, {task}",
                    "value": round(peak),
                    "bar": PEAK_BAR_MB,
                    "direction": "max",
                    "ok": round(peak) <= PEAK_BAR_MB,
                }
            )
    return {
        "name": "fhir_memory",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
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
    result = json.dumps(measure(megabytes=300 if arguments.quick else 10_000), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
