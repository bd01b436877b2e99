"""A private epoch beside an ordinary one: Gemel, Opacus' modes and torch.func, one thread (docs/performance.md).

CPU seconds; all sides of a case in one process, one after the other in each round, in an order that moves on, so that a
busy machine is busy for all of them. Ratios are taken within a round. A slow side does a part of its steps, as its row
says, and is scaled up. The private epoch holds Poisson sampling, noise from the cryptographic generator and its share of
the accounting: one uncached epsilon for a study of 50 epochs, by 50. Opacus is not asked for its epsilon. For tabular
models both of Gemel's sides run as machine code (`compile_steps=True`), whose making is in the first epoch's row.
"""

from __future__ import annotations

import argparse
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

HERE = Path(__file__).resolve().parent
EPOCHS_OF_A_STUDY = 50
DELTA = 1e-5
# The longest that a side other than plain and Gemel's takes in one round.
SECONDS_A_ROUND = 1.5
# Private epoch over ordinary epoch.
BARS = {"tabular": 0.35, "GRU": 0.6, "transformer": 1.25, "TCN": 1.3, "U-Net": 1.2}
# Opacus' default over Gemel, where it is to be this many times faster.
OPACUS_BAR = 5.0
OPACUS_FAMILIES = ("tabular", "GRU")
STRICT_BAR = 1.3
WHOLE_EPOCHS = ("plain", "gemel", "gemel without privacy")


def measure_case(name: str, *, rounds: int) -> dict[str, Any]:
    """CPU seconds of one epoch of each side of one case, by round; in a process of its own."""
    import torch
    from _dp_models import CASES
    from _dp_sides import NOT_INSTALLED, sides

    torch.set_num_threads(1)
    case = CASES[name]
    epochs, first, steps = {}, {}, {}
    missing = dict(NOT_INSTALLED)
    for side, make in sides().items():
        torch.manual_seed(1)
        try:
            start = time.perf_counter()
            epoch = make(case)
            epoch(None if side in WHOLE_EPOCHS else 1)
            first[side] = time.perf_counter() - start
            steps[side] = case.steps if side in WHOLE_EPOCHS else _affordable(epoch, case.steps)
        except Exception as error:
            if side in WHOLE_EPOCHS:
                raise
            missing[side] = f"refuses the model: {type(error).__name__}"
            continue
        epochs[side] = epoch
    seconds: dict[str, list[float]] = {side: [] for side in epochs}
    accounting = []
    for turn in range(rounds):
        order = list(epochs)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for side in order:
            done = steps[side]
            seconds[side].append(
                _cpu_seconds(epochs[side], None if done == case.steps else done) * case.steps / done
            )
        accounting.append(_accounting_seconds(case))
    return {
        "family": case.family,
        "steps_of_epoch": case.steps,
        "seconds": seconds,
        "first": first,
        "steps": steps,
        "missing": missing,
        "accounting": accounting,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _cpu_seconds(epoch: Any, steps: int | None) -> float:
    start = time.process_time()
    epoch(steps)
    return time.process_time() - start


def _affordable(epoch: Any, steps: int) -> int:
    """How many steps of an epoch a slow side does in a round."""
    one = max(_cpu_seconds(epoch, 1) for _ in range(3))  # some batches are empty
    return max(1, min(steps, int(SECONDS_A_ROUND / max(one, 1e-6))))


def _accounting_seconds(case: Any) -> float:
    """CPU seconds of epsilon for a whole study of this case, with nothing kept from before."""
    from _dp_gemel import NOISE

    from gemel.core.study import Mechanism, MechanismKind
    from gemel.privacy import accounting, loss_distributions

    for module in (accounting, loss_distributions):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    mechanism = Mechanism(
        kind=MechanismKind.POISSON_GAUSSIAN,
        noise_multiplier=NOISE,
        sample_rate=case.batch / case.patients,
        count=EPOCHS_OF_A_STUDY * case.steps,
    )
    start = time.process_time()
    accounting.epsilon([mechanism], delta=DELTA)
    return time.process_time() - start


def in_its_own_process(name: str, *, rounds: int) -> dict[str, Any]:
    """`measure_case` in a fresh interpreter: no case runs in what another compiled or left in memory."""
    one_thread = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    # A first epoch that finds machine code of an earlier run is no first epoch.
    with tempfile.TemporaryDirectory(prefix="gemel-dp-step-") as cache:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--case", name, "--rounds", str(rounds)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, **one_thread, "TORCHINDUCTOR_CACHE_DIR": cache},
        )
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return answer


def rows_of(name: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one case: each side over plain, first epochs, accounting, and who is missing."""
    rows = []
    for side, values in found["seconds"].items():
        ratios = _ratios(found, side)
        row = {
            "case": name,
            "side": side,
            "value": round(statistics.median(ratios), 3),
            "unit": "of an ordinary epoch",
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
            "cpu_ms_an_epoch": round(1e3 * statistics.median(values), 2),
        }
        if found["steps"][side] != found["steps_of_epoch"]:
            row["note"] = f"{found['steps'][side]} of {found['steps_of_epoch']} steps measured and scaled up"
        rows.append(row)
    account = statistics.median(found["accounting"])
    every_epoch = [
        (own + whole) / other
        for own, whole, other in zip(
            found["seconds"]["gemel"], found["accounting"], found["seconds"]["plain"], strict=True
        )
    ]
    rows += [
        _row(
            name,
            "gemel, first epoch",
            found["first"]["gemel"],
            "s",
            note="recording included, and compiling where the case is tabular",
        ),
        _row(name, "plain, first epoch", found["first"]["plain"], "s"),
        _row(
            name,
            "accounting of a study",
            1e3 * account,
            "ms",
            note=f"{EPOCHS_OF_A_STUDY} epochs, nothing cached",
        ),
        _row(
            name,
            "gemel, accounting each epoch",
            statistics.median(every_epoch),
            "of an ordinary epoch",
            note="if the whole study's epsilon were computed anew after every epoch; no bar",
        ),
        _row(name, "peak memory of the case", found["peak_rss_mb"], "MB"),
    ]
    return rows + [
        {"case": name, "side": side, "value": None, "unit": reason}
        for side, reason in found["missing"].items()
    ]


def _row(case: str, side: str, value: float, unit: str, **further: str) -> dict[str, Any]:
    return {"case": case, "side": side, "value": round(value, 3), "unit": unit, **further}


def _private(found: dict[str, Any]) -> list[float]:
    """Seconds of Gemel's private epochs, accounting included, by round."""
    return [
        own + account / EPOCHS_OF_A_STUDY
        for own, account in zip(found["seconds"]["gemel"], found["accounting"], strict=True)
    ]


def _ratios(found: dict[str, Any], side: str) -> list[float]:
    own = _private(found) if side == "gemel" else found["seconds"][side]
    return [a / b for a, b in zip(own, found["seconds"]["plain"], strict=True)]


def bars_of(name: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the case is held to."""
    family = found["family"]
    bars = [_bar(f"{name}: private over ordinary epoch", _ratios(found, "gemel"), BARS[family], "max")]
    opacus = {side: values for side, values in found["seconds"].items() if side.startswith("Opacus")}
    private = _private(found)
    if family in OPACUS_FAMILIES:
        faster = [a / b for a, b in zip(opacus["Opacus hooks"], private, strict=True)]
        bars.append(_bar(f"{name}: Opacus' default over gemel", faster, OPACUS_BAR, "min"))
    best = min(opacus, key=lambda side: statistics.median(opacus[side]))
    faster = [a / b for a, b in zip(opacus[best], private, strict=True)]
    bars.append(_bar(f"{name}: Opacus' best ({best.split()[1]}) over gemel", faster, 1.0, "min"))
    strict = [
        a / b
        for a, b in zip(found["seconds"]["gemel"], found["seconds"]["gemel without privacy"], strict=True)
    ]
    bars.append(_bar(f"{name}: with over without privacy", strict, STRICT_BAR, "max"))
    return bars


def _bar(name: str, values: list[float], bar: float, direction: str) -> dict[str, Any]:
    value = round(statistics.median(values), 3)
    ok = value >= bar if direction == "min" else value <= bar
    return {"name": name, "value": value, "bar": bar, "direction": direction, "ok": ok}


def measure(names: list[str], *, rounds: int, judged: bool) -> dict[str, Any]:
    """The whole benchmark as the result that `run.py` reads."""
    import torch

    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for name in names:
        found = in_its_own_process(name, rounds=rounds)
        rows += rows_of(name, found)
        bars += bars_of(name, found) if judged else []
    return {
        "name": "dp_step",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": 1,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "rows": rows,
        # A moment's look at a part of the cases is no measurement: nothing is judged by it.
        "bars": bars,
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    from _dp_models import CASES, QUICK

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one case of each family, two rounds, no bars")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="cases whose name has this in it")
    parser.add_argument("--case", help="one case, in this process: its raw numbers on the last line")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure_case(arguments.case, rounds=arguments.rounds)))
        return
    names = [name for name in (QUICK if arguments.quick else CASES) if (arguments.only or "") in name]
    rounds = 2 if arguments.quick else arguments.rounds
    result = json.dumps(measure(names, rounds=rounds, judged=not arguments.quick), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
