"""How long `gemel --help` takes beside a bare Python start: the bar is 0.3 s (DESIGN.md section 5)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BAR_S = 0.3
SIDES = {
    "gemel --help": [sys.executable, "-m", "gemel.cli.main", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(*, repeats: int) -> dict[str, object]:
    """Alternate both sides; medians and spread over the repeats."""
    for command in SIDES.values():
        _seconds(command)  # byte code is compiled and files are cached before anything counts
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side, command in SIDES.items():
            taken[side].append(_seconds(command))
    rows = [
        {
            "case": "start",
            "side": side,
            "value": round(statistics.median(values), 4),
            "unit": "s",
            "lowest": round(min(values), 4),
            "highest": round(max(values), 4),
            "repeats": repeats,
        }
        for side, values in taken.items()
    ]
    value = round(statistics.median(taken["gemel --help"]), 4)
    return {
        "name": "cli_start",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": rows,
        "bars": [
            {"name": "help_s", "value": value, "bar": BAR_S, "direction": "max", "ok": value <= BAR_S},
        ],
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = json.dumps(measure(repeats=3 if arguments.quick else 15), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
