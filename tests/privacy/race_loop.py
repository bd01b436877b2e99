"""Let two processes race for the last of a budget, again and again.

    python race_loop.py FOLDER --trials 10

Prints one JSON list: for each trial the sorted outcomes of the two, and how many entries the ledger has then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey
from gemel.privacy.accounting import epsilon
from gemel.privacy.ledger import Ledger

STEPS = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=12.0, count=5),)
CAP = epsilon(STEPS, delta=1e-5)  # enough for one


def race(path: Path, key: SigningKey, task: str, gate: int, result: int) -> None:
    with Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=1e-5) as ledger:
        os.read(gate, 1)  # returns when the parent closes the other end
        try:
            ledger.reserve(
                study_sha256="11" * 32,
                programme="fatty_liver/1",
                task=task,
                request_sha256="22" * 32,
                snapshot="33" * 32,
                patients=None,
                mechanisms=STEPS,
            )
            os.write(result, b"won\n")
        except GemelError as error:
            os.write(result, f"{error.code}\n".encode())


def trial(path: Path, key: SigningKey) -> tuple[list[str], int]:
    Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=1e-5).close()
    gate, opens = os.pipe()
    outcomes, result = os.pipe()
    for task in ("train/1", "train/2"):
        if os.fork() == 0:
            try:
                os.close(opens)
                race(path, key, task, gate, result)
            finally:
                os._exit(0)
    os.close(opens)
    os.close(result)
    for _ in range(2):
        os.wait()
    with (
        os.fdopen(outcomes) as lines,
        Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=1e-5) as ledger,
    ):
        os.close(gate)
        return sorted(lines.read().split()), len(ledger.entries())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    key = SigningKey.generate()
    json.dump([trial(options.folder / f"{n}.sqlite", key) for n in range(options.trials)], sys.stdout)


if __name__ == "__main__":
    main()
