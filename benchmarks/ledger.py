"""May this plan run on these 100,000 patients? How long the ledger takes to say so after 1,000 studies: the bar is 1 s.

Studies of 24 different plans, a third of which train on samples, each on a random cohort (2 % to 30 % of the patients, a
fifth of them held out), so no two patients have the same history. Asked cold (a new process that opens the file, checks it and answers) and warm (a
ledger that is open), of a plan that fits and one that does not: these have the bar. Beside them one so near the cap that
Rényi curves cannot tell for the worst-off, and compositions must be computed: no bar, it takes what it takes. The
answer is what a node acts on, and no answer to the same question is looked up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SigningKey
from gemel.privacy import accounting
from gemel.privacy.ledger import Ledger
from gemel.privacy.ledger import ledger as ledger_module
from gemel.privacy.ledger.ledger import Quote
from gemel.privacy.ledger.store import LocalAnchor

BAR_S = 1.0
CAP, DELTA = 6.0, 1e-6
TASKS = ("count", "train/1", "train/2", "evaluate", "synthesise/1")
CASES = {"fits": 1.0, "does not fit": 0.02}  # what the noise of the asked plan is multiplied by


def _plan(scale: float, *, sampled: bool = False) -> tuple[Charge, ...]:
    table = MechanismKind.DISCRETE_GAUSSIAN
    step = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=180 * scale, count=20)
    if sampled:
        kind = MechanismKind.POISSON_GAUSSIAN
        step = Mechanism(kind=kind, noise_multiplier=18 * scale, sample_rate=0.1, count=20)
    priced = {
        "count": (Share.EVERYONE, Mechanism(kind=table, noise_multiplier=120 * scale)),
        "train/1": (Share.TRAINING, step),
        "train/2": (Share.TRAINING, step),
        "evaluate": (Share.HELD_OUT, Mechanism(kind=table, noise_multiplier=60 * scale, count=6)),
        "synthesise/1": (Share.TRAINING, Mechanism(kind=table, noise_multiplier=120 * scale, count=12)),
    }
    return tuple(Charge(task=t, share=priced[t][0], mechanisms=(priced[t][1],)) for t in TASKS)


def _people(patients: int, chance: np.random.Generator, part: float) -> dict[Share, list[str]]:
    members = np.flatnonzero(chance.random(patients) < part)
    names = [f"{number:032x}" for number in members.tolist()]
    held_out = members * 2654435761 % 2**32 % 5 == 0
    return {
        Share.EVERYONE: names,
        Share.TRAINING: [n for n, out in zip(names, held_out.tolist(), strict=True) if not out],
        Share.HELD_OUT: [n for n, out in zip(names, held_out.tolist(), strict=True) if out],
    }


@contextmanager
def _unasked(ledger: Ledger) -> Iterator[None]:
    """Fill without asking each time, and without waiting for the disk each time; the chain is the same."""
    ledger._store._database.execute("PRAGMA synchronous = OFF")
    admitted = Quote(0.0, 0.0, CAP, True)
    with (
        mock.patch.object(ledger_module, "price", return_value=0.0),
        mock.patch.object(Ledger, "_quote", return_value=admitted),
        mock.patch.object(LocalAnchor, "write"),
    ):
        yield
    ledger._write_anchor()


def fill(path: Path, key: SigningKey, *, studies: int, patients: int) -> None:
    """A ledger of studies that all ran to their end."""
    chance, dice = np.random.default_rng(1), random.Random(1)
    plans = [_plan(scale, sampled=n % 3 == 0) for n, scale in enumerate(np.linspace(0.7, 1.6, 24).tolist())]
    with Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=DELTA) as ledger, _unasked(ledger):
        for number in range(studies):
            study, snapshot = f"{number:064x}", "33" * 32
            ledger.reserve(
                study_sha256=study,
                programme="fatty_liver@1",
                snapshot=snapshot,
                charges=dice.choice(plans),
                people=_people(patients, chance, 1.0 if number == 0 else dice.uniform(0.02, 0.3)),
            )
            for task in TASKS:
                begun = ledger.begin(
                    study_sha256=study, task=task, request_sha256="22" * 32, snapshot=snapshot
                )
                ledger.record_release(begun, release_sha256="44" * 32)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of this process on a processor (what other jobs do counts less there)."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def ask(
    path: Path, key_path: Path, *, patients: int, scale: float, cap: float, repeats: int
) -> dict[str, Any]:
    """Open, ask, and ask again `repeats` times; seconds for each, and what was said."""
    people, charges = _people(patients, np.random.default_rng(2), 1.0), _plan(scale)
    key = SigningKey.load(key_path)
    start = _now()
    with Ledger.open(path, key=key, site="a", epsilon_cap=cap, delta=DELTA) as ledger:
        opened = _since(start)
        quote = ledger.quote(charges, people)
        cold = _since(start)
        warm = []
        for turn in range(1, repeats + 1):
            accounting._epsilon.cache_clear()
            accounting._distribution.cache_clear()
            again = _plan(scale * (1 + 1e-6 * turn))  # mechanisms that nobody asked about before
            began = _now()
            ledger.quote(again, people)
            warm.append(_since(began))
    return {
        "open": [opened],
        "cold": [cold],
        "warm": warm,
        "admitted": quote.admitted,
        "epsilon": [quote.epsilon_before, quote.epsilon_after],
    }


def _in_a_new_process(options: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--ask", json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    said: dict[str, Any] = json.loads(run.stdout)
    return said


def measure(*, studies: int, patients: int, repeats: int) -> dict[str, object]:
    """Fill one ledger, then ask, the cases by turns."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    said: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = SigningKey.generate()
        key.save(folder / "key.pem")
        path = folder / "ledger.sqlite"
        began = time.perf_counter()
        fill(path, key, studies=studies, patients=patients)
        print(f"filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        cases = {case: (scale, CAP) for case, scale in CASES.items()}
        loose = ask(path, folder / "key.pem", patients=patients, scale=1.0, cap=1e6, repeats=0)
        # Between what the curves say of the worst-off patient and what is true of them lies some 10 %.
        cases["near the cap"] = (1.0, loose["epsilon"][1] * 0.97)
        for _ in range(repeats):
            for case, (scale, cap) in cases.items():
                options = [str(path), str(folder / "key.pem"), patients, scale, cap, 2]
                answer = _in_a_new_process(options)
                said[case] = answer
                for side in ("open", "cold", "warm"):
                    taken.setdefault((case, side), []).extend(answer[side])
        size = sum(part.stat().st_size for part in folder.glob("ledger.sqlite*"))
    print({case: (a["admitted"], a["epsilon"]) for case, a in said.items()}, file=sys.stderr)
    rows: list[dict[str, object]] = [
        {
            "case": f"{case}, {side}",
            "side": "gemel",
            "value": round(statistics.median(clock for clock, _ in seconds), 3),
            "unit": "s",
            "worst": round(max(clock for clock, _ in seconds), 3),
            "processor": round(statistics.median(busy for _, busy in seconds), 3),
            "repeats": len(seconds),
            "admitted": said[case]["admitted"],
        }
        for (case, side), seconds in taken.items()
    ]
    rows.append({"case": "file", "side": "gemel", "value": size, "unit": "bytes"})
    bars = []
    for (case, side), seconds in taken.items():
        if side != "open" and case in CASES:
            value = round(max(clock for clock, _ in seconds), 3)
            bars.append({
                "name": f"worst: {case}, {side}", "value": value, "bar": BAR_S, "direction": "max",
                "ok": value <= BAR_S,
            })  # fmt: skip
    return {
        "name": "ledger",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "studies": studies,
        "patients": patients,
        "rows": rows,
        "bars": bars,
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        path, key, patients, scale, cap, repeats = json.loads(arguments.ask)
        answer = ask(Path(path), Path(key), patients=patients, scale=scale, cap=cap, repeats=repeats)
        print(json.dumps(answer))
        return
    studies, patients = (100, 10_000) if arguments.quick else (1000, 100_000)
    result = json.dumps(
        measure(studies=studies, patients=patients, repeats=2 if arguments.quick else 5), indent=2
    )
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
