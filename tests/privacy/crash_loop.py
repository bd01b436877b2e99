"""Kill a node's reserve → compute → release loop at random instants, and see what its ledger knows.

    python crash_loop.py FOLDER --trials 20 --seed 1

Each trial forks a child that works until SIGKILL. A line in `computed` stands for what touched patients.
Prints one JSON object: trials, kills that left a reservation without a computation, computations, entries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey
from gemel.privacy.accounting import epsilon
from gemel.privacy.ledger import Ledger

STEP = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=50.0, count=2),)


def open_ledger(folder: Path, key: SigningKey) -> Ledger:
    return Ledger.open(folder / "ledger.sqlite", key=key, site="a", epsilon_cap=50.0, delta=1e-5)


def work(folder: Path, key: SigningKey, first: int) -> None:
    """Reserve, compute, release, until killed. Goes on where the ledger ends, as a restarted node does."""
    computed = os.open(folder / "computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open_ledger(folder, key) as ledger:
        for number in range(first, first + 10_000):
            task = f"train/{number}"
            entry = ledger.reserve(
                study_sha256="11" * 32,
                programme="fatty_liver/1",
                task=task,
                request_sha256="22" * 32,
                snapshot="33" * 32,
                patients=None,
                mechanisms=STEP,
            )
            os.write(computed, f"{task} {entry.sha256}\n".encode())
            ledger.record_release(entry, release_sha256="44" * 32)


def check(folder: Path, key: SigningKey) -> dict[str, int]:
    """Every computation is covered, the chain verifies, and ε is that of the reservations."""
    with open_ledger(folder, key) as ledger:
        entries = ledger.entries()
        reserved = {e.sha256 for e in entries if e.kind == "reserved"}
        released = {e.reservation for e in entries if e.kind == "spent"}
        lines = (folder / "computed").read_text().splitlines() if (folder / "computed").exists() else []
        computed = {line.split()[1] for line in lines}
        if not (released <= computed <= reserved):
            raise AssertionError(
                f"not covered: {computed - reserved}; out of thin air: {released - computed}"
            )
        if ledger.epsilon_spent() != epsilon(STEP * len(reserved), delta=1e-5):
            raise AssertionError("the ledger states another epsilon than its reservations cost")
    return {"entries": len(entries), "computed": len(computed), "orphans": len(reserved - computed)}


def trial(folder: Path, key: SigningKey, delay_s: float, first: int) -> dict[str, int]:
    child = os.fork()
    if child == 0:
        try:
            work(folder, key, first)
        finally:
            os._exit(1)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError("the loop failed before it was killed")
    return check(folder, key)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    key = SigningKey.generate()
    epsilon(STEP, delta=1e-5)  # loads what the children need, before the clock runs
    totals = {"trials": 0, "orphans": 0, "computed": 0, "entries": 0}
    for number in range(options.trials):
        # Every third trial is killed while, or soon after, it creates the ledger.
        fresh = number % 3 == 0
        folder = options.folder / (f"fresh-{number}" if fresh else "kept")
        folder.mkdir(parents=True, exist_ok=True)
        delay_s = chance.uniform(0, 0.08 if fresh else 0.25)
        result = trial(folder, key, delay_s, first=1 + 10_000 * number)
        totals["trials"] += 1
        for name in ("orphans", "computed", "entries"):
            totals[name] += result[name] if fresh else 0
    if (options.folder / "kept").exists():
        for name, value in check(options.folder / "kept", key).items():
            totals[name] += value
    json.dump(totals, sys.stdout)


if __name__ == "__main__":
    main()
