"""What a federated round costs beyond its training: ours, stock Flower 1.41 and NVFlare 2.9's POC mode, three nodes on loopback.

Ours is the deployed thing: SuperLink, run starter, coordinator with its state and certificate, three nodes with signatures,
audit log, ledger (begun before, released after, each durable), shut-in workers, gate and outbox, over TLS with node keys.
"trivial" trains the programme's own twin (72 numbers, one private step on 120 patients); "1 MB" and "50 MB" carry a twin of
that size, whose training does nothing (`_rounds_wide`). Stock Flower runs its own processes with TLS and node keys and adds 1
to the arrays; it has no ledger, gate, signature or certificate. NVFlare's POC mode has TLS; its clients add 1 as well.

Round times are between ends of rounds; the first is counted from the submission, and with us holds the steward's approval
(given at once) and the count. Sides take turns. "gate and aggregation" is 50 MB updates of three sites through packing, gate,
hash, unpacking and mean in one process, without a network; memory is what that takes above its inputs, in copies of one update.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import _rounds_flower as stock
import _rounds_gemel as ours
from _rounds_gemel import Timed

HERE = Path(__file__).resolve().parent
NVFLARE = HERE.parent / ".peers" / "nvflare" / "bin" / "python"
CASES = {"trivial": 0, "1 MB": 250_000, "50 MB": 12_500_000}
TRIVIAL_VALUES = 100  # of the other sides; ours has 72
OVERHEAD_S, TIMES_LESS, FIRST_S, GROWTH, RATE_MB_S, COPIES = 1.3, 5.0, 4.0, 0.05, 50.0, 3.0
# Waited for before timing: what a deployment has behind it when a study is submitted.
SETTLED_S = 12.0


def measure_gemel(folder: Path, values: int, rounds: list[int]) -> list[Timed]:
    """One study after another on one deployment."""
    with ours.federation(folder, values=values) as live:
        time.sleep(SETTLED_S)
        return [ours.time_rounds(live, rounds=number) for number in rounds]


def measure_stock(folder: Path, values: int, rounds: list[int]) -> list[Timed]:
    """The same of stock Flower."""
    with stock.deployment(folder / "stock") as deployed:
        time.sleep(SETTLED_S)
        return [stock.time_rounds(deployed, values=values or TRIVIAL_VALUES, rounds=n) for n in rounds]


def measure_nvflare(folder: Path, values: int, rounds: int) -> Timed | None:
    """One job of NVFlare's; None, and a word why, when there is no result."""
    script, home = HERE / "_rounds_nvflare.py", folder / "nvflare"
    home.mkdir()
    command = [str(NVFLARE), str(script), str(home), str(values or TRIVIAL_VALUES), str(rounds)]
    done = subprocess.run(
        command, cwd=home, check=False, capture_output=True, text=True, timeout=400 + 60 * rounds
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    told: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT ")) if lines else {}
    at = told.get("moments", {})
    if "end" not in at:
        print(f"nvflare: no result\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}", file=sys.stderr)
        return None
    moments = [at[str(number)] for number in range(rounds)] + [at["end"]]
    return Timed(moments[1] - told["handed_over"], [b - a for a, b in pairwise(moments[1:])])


def gate_and_aggregation(values: int) -> dict[str, float]:
    """MB/s of three sites' updates through pack, gate, hash, unpack and mean, and the memory of that in copies."""
    command = [sys.executable, str(HERE / "_rounds_path.py"), str(values)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def flat(folder: Path, rounds: int) -> list[tuple[int, float]]:
    """The coordinator's memory by round."""
    with ours.federation(folder, values=0) as live:
        time.sleep(SETTLED_S)
        return ours.time_rounds(live, rounds=rounds, watch_memory=True).memory_mb


def measure(*, quick: bool) -> dict[str, object]:
    """Every case and side, then the bars."""
    rows: list[dict[str, object]] = []
    medians: dict[tuple[str, str], float] = {}
    path = gate_and_aggregation(CASES["50 MB"])
    print(path, file=sys.stderr, flush=True)
    cases = {"trivial": CASES["trivial"]} if quick else CASES
    for case, values in cases.items():
        few = [4] if quick else [3, 6] if case == "50 MB" else [6, 6]
        sides: dict[str, Callable[[Path], list[Timed]]] = {
            "gemel": lambda f, v=values, n=few: measure_gemel(f, v, [*n, n[-1]]),
            "flower 1.41": lambda f, v=values, n=few: measure_stock(f, v, n[:1] if quick else n),
        }
        if NVFLARE.exists() and not quick:
            sides["nvflare 2.9 poc"] = lambda f, v=values: [t] if (t := measure_nvflare(f, v, 5)) else []
        for side, run in sides.items():
            with tempfile.TemporaryDirectory(prefix="rounds-") as name:
                timed = run(Path(name))
            found = _rows(case, side, timed, medians)
            rows += found
            for row in found:
                print(row, file=sys.stderr, flush=True)
    if not NVFLARE.exists():
        print("nvflare is not installed: make peers", file=sys.stderr)
    rounds = 30 if quick else 200
    with tempfile.TemporaryDirectory(prefix="rounds-") as name:
        memory = dict(flat(Path(name), rounds))
    early, late = memory[rounds // 4], memory[rounds]
    rows.append(
        {"case": f"coordinator's memory, round {rounds}", "side": "gemel", "value": round(late, 1), "unit": "MB",
         f"at_round_{rounds // 4}": round(early, 1)}
    )  # fmt: skip
    rows += [
        {"case": "gate and aggregation, 50 MB", "side": "gemel", "value": round(path["mb_s"], 1), "unit": "MB/s"},
        {"case": "memory of it", "side": "gemel", "value": round(path["copies"], 2), "unit": "copies"},
    ]  # fmt: skip
    return {
        "name": "rounds",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        },
        "rows": rows,
        "bars": _bars(medians, growth=late / early - 1, path=path),
    }


def _rows(
    case: str, side: str, timed: list[Timed], medians: dict[tuple[str, str], float]
) -> list[dict[str, object]]:
    if not timed:
        return [{"case": f"{case}, round", "side": side, "value": -1.0, "unit": "s", "note": "no result"}]
    later = [seconds for each in timed for seconds in each.rounds_s]
    # The first study on a deployment warms caches; with one study it is all there is.
    first = [each.first_s for each in (timed[1:] or timed)]
    medians[case, side] = statistics.median(later)
    medians[f"{case}, first", side] = statistics.median(first)
    return [
        {"case": f"{case}, round", "side": side, "value": round(statistics.median(later), 3), "unit": "s",
         "least": round(min(later), 3), "most": round(max(later), 3), "rounds": len(later)},
        {"case": f"{case}, submission to end of round 1", "side": side, "value": round(statistics.median(first), 3),
         "unit": "s", "cold": round(timed[0].first_s, 3)},
    ]  # fmt: skip


def _bars(
    medians: dict[tuple[str, str], float], *, growth: float, path: dict[str, float]
) -> list[dict[str, object]]:
    trivial = medians["trivial", "gemel"]
    found = [
        ("overhead per round, trivial (s)", trivial, OVERHEAD_S, "max"),
        ("times less than stock Flower", medians["trivial", "flower 1.41"] / trivial, TIMES_LESS, "min"),
        ("submission to end of round 1 (s)", medians["trivial, first", "gemel"], FIRST_S, "max"),
        ("growth of the coordinator's memory", growth, GROWTH, "max"),
        ("gate and aggregation (MB/s)", path["mb_s"], RATE_MB_S, "min"),
        ("copies of an update in memory", path["copies"], COPIES, "max"),
    ]
    bars: list[dict[str, object]] = []
    for name, measured, bar, direction in found:
        value = round(measured, 3)
        met = value <= bar if direction == "max" else value >= bar
        bars.append({"name": name, "value": value, "bar": bar, "direction": direction, "ok": met})
    return bars


def main() -> int:
    """Measure, write the result where `--json` says, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick)
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")
    else:
        print(text)
    bars: Any = result["bars"]
    return 0 if all(bar["ok"] for bar in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
