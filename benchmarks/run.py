"""Run every benchmark of this folder, check what it wrote, and fail when a bar is missed.

Usage: python benchmarks/run.py [--quick] [NAME ...]
Each benchmark is `benchmarks/NAME.py [--quick] [--json FILE]`; its result goes to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The benchmarks of this folder."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run" and path.stem[0] != "_")


def faults(result: Any, name: str) -> list[str]:
    """What a result has wrong against the contract of DESIGN.md section 7; empty when nothing."""
    if not isinstance(result, dict):
        return ["the result is no object"]
    found = [f"{key} is missing" for key in ("name", "machine", "rows", "bars") if key not in result]
    if found:
        return found
    if result["name"] != name:
        found.append(f"name is {result['name']!r}, expected {name!r}")
    for i, row in enumerate(result["rows"]):
        found += [
            f"rows[{i}].{key} is missing" for key in ("case", "side", "value", "unit") if key not in row
        ]
    for i, bar in enumerate(result["bars"]):
        missing = [key for key in ("name", "value", "bar", "direction", "ok") if key not in bar]
        found += [f"bars[{i}].{key} is missing" for key in missing]
        if missing:
            continue
        if bar["direction"] not in ("min", "max"):
            found.append(f"bars[{i}].direction is {bar['direction']!r}")
            continue
        met = bar["value"] >= bar["bar"] if bar["direction"] == "min" else bar["value"] <= bar["bar"]
        if met != bar["ok"]:
            found.append(f"bars[{i}].ok is {bar['ok']}, but {bar['value']} against {bar['bar']} says {met}")
    return found


def run(name: str, *, quick: bool) -> bool:
    """Run one benchmark; True when it kept the contract and met every bar."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(path), *(["--quick"] if quick else [])]
    status = subprocess.run(command, check=False).returncode
    if not path.exists():
        print(f"{name}: no result (exit code {status})")
        return False
    result = json.loads(path.read_text(encoding="utf-8"))
    for fault in (found := faults(result, name)):
        print(f"{name}: {fault}")
    for row in result.get("rows", ()):
        print(
            f"{name:<20} {row.get('case')!s:<28} {row.get('side')!s:<20} {row.get('value')} {row.get('unit')}"
        )
    for bar in result.get("bars", ()):
        sign = ">=" if bar.get("direction") == "min" else "<="
        verdict = "ok" if bar.get("ok") else "MISSED"
        print(f"{name:<20} bar {bar.get('name')}: {bar.get('value')} {sign} {bar.get('bar')} {verdict}")
    # A benchmark may itself exit with 1 for a missed bar: what counts is what it measured.
    return not found and all(bar["ok"] for bar in result["bars"])


def main() -> int:
    """Run the benchmarks that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    outcomes = [run(name, quick=arguments.quick) for name in arguments.names or names()]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
