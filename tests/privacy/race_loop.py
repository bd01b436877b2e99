"""Let two studies, in two processes, race for the last of a budget, again and again.

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
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SigningKey
from gemel.privacy.accounting import price
from gemel.privacy.ledger import Ledger

STEPS = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=12.0, count=5),)
PLAN = tuple(Charge(task=f"train/{n}", share=Share.TRAINING, mechanisms=STEPS) for n in (1, 2))
CAP = price((*PLAN, *PLAN), delta=1e-5) * 0.999  # enough for one study and for most of a second
# The two studies share one patient.
PEOPLE = {
    "11" * 32: {Share.TRAINING: [f"{n:032x}" for n in range(20)]},
    "22" * 32: {Share.TRAINING: [f"{n:032x}" for n in range(19, 40)]},
}


def race(path: Path, key: SigningKey, study: str, gate: int, result: int) -> None:
    with Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=1e-5) as ledger:
        os.read(gate, 1)  # returns when the parent closes the other end
        try:
            ledger.reserve(
                study_sha256=study,
                programme="fatty_liver@1",
                snapshot="33" * 32,
                charges=PLAN,
                people=PEOPLE[study],
            )
            os.write(result, b"won\n")
        except GemelError as error:
            os.write(result, f"{error.code}\n".encode())


def trial(path: Path, key: SigningKey) -> tuple[list[str], int]:
    Ledger.open(path, key=key, site="a", epsilon_cap=CAP, delta=1e-5).close()
    gate, opens = os.pipe()
    outcomes, result = os.pipe()
    for study in PEOPLE:
        if os.fork() == 0:
            try:
                os.close(opens)
                race(path, key, study, gate, result)
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
