"""Kill nodes that run studies, several at once on one ledger, at random instants, and see what the ledger knows.

    python crash_loop.py FOLDER --trials 20 --seed 1

In each trial three forked children run studies of four tasks, reserve → begin → compute → release, until SIGKILL; two
of them ask for the same tasks under different requests. A line in `computed` stands for what touched patients.
Prints one JSON object: kills, computations, begun tasks without a computation, reservations, entries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SigningKey
from gemel.privacy.accounting import epsilon, price
from gemel.privacy.ledger import Ledger, verify_ledger_document

STEP = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=200.0, count=2),)
TASKS = ("train/1", "train/2", "train/3", "train/4")
PLAN = tuple(Charge(task=task, share=Share.TRAINING, mechanisms=STEP) for task in TASKS)
SNAPSHOT = "33" * 32
CHILDREN = 3


def open_ledger(folder: Path, key: SigningKey) -> Ledger:
    return Ledger.open(folder / "ledger.sqlite", key=key, site="a", epsilon_cap=50.0, delta=1e-5)


def cohort(number: int) -> dict[Share, list[str]]:
    """Study `number`'s: the same whenever it is asked for; cohorts overlap."""
    return {Share.TRAINING: [f"{person:032x}" for person in range(7 * (number % 40), 7 * (number % 40) + 30)]}


def work(folder: Path, key: SigningKey, first: int, asker: int) -> None:
    """Run study after study until killed. Studies that were begun before are gone through again, as after a restart."""
    computed = os.open(folder / "computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # The first two are asked to run the same studies, each by its own request: one gets each task.
    line = 0 if asker < 2 else 1
    with open_ledger(folder, key) as ledger:
        for number in range(first, first + 10_000):
            study = f"{2 * number + line:064x}"
            ledger.reserve(
                study_sha256=study, programme="fatty_liver@1", snapshot=SNAPSHOT, charges=PLAN,
                people=cohort(number),
            )  # fmt: skip
            for task in TASKS:
                try:
                    begun = ledger.begin(
                        study_sha256=study, task=task, request_sha256=f"{asker:064x}", snapshot=SNAPSHOT
                    )
                except GemelError as error:
                    if error.code != "GEM304":
                        raise
                    continue
                os.write(computed, f"{study} {task} {asker:064x} {begun.sha256}\n".encode())
                ledger.record_release(begun, release_sha256="44" * 32)


def check(folder: Path, key: SigningKey) -> dict[str, int]:
    """Every computation is covered by a begun entry of its request, and every such by a reservation."""
    with open_ledger(folder, key) as ledger:
        ledger.verify()
        entries = verify_ledger_document(ledger.export())
        reserved = {e.study_sha256: e for e in entries if e.kind == "reserved"}
        begun = {(e.study_sha256, e.task): e for e in entries if e.kind == "begun"}
        released = {e.follows for e in entries if e.kind == "released"}
        lines = (folder / "computed").read_text().splitlines() if (folder / "computed").exists() else []
        requests: dict[tuple[str, str], set[str]] = {}
        for text in lines:
            study, task, request, sha256 = text.split()
            requests.setdefault((study, task), set()).add(request)
            entry = begun[study, task]
            if (entry.sha256, entry.request_sha256) != (sha256, request):
                raise AssertionError(f"computed without being on record: {text}")
        if any(len(asked) > 1 for asked in requests.values()):
            raise AssertionError("a task was computed for two requests")
        if any(entry.follows != reserved[study].sha256 for (study, _), entry in begun.items()):
            raise AssertionError("a task began without a reservation")
        if not released <= {begun[task].sha256 for task in requests}:
            raise AssertionError("released out of thin air")
        if ledger.epsilon_spent() != price(PLAN * len(reserved), delta=1e-5):
            raise AssertionError("the ledger states another epsilon than its reservations cost")
        paid = Counter(p for s in reserved for p in cohort(int(s, 16) // 2)[Share.TRAINING])
        worst = max(paid.values(), default=0)
        if ledger.epsilon_of_worst_person() != epsilon(STEP * 4 * worst, delta=1e-5):
            raise AssertionError(
                "the ledger states another epsilon of the worst-off than was reserved for them"
            )
    return {
        "entries": len(entries),
        "reserved": len(reserved),
        "computed": len(requests),
        "orphans": len(begun) - len(requests),
    }


def trial(
    folder: Path, key: SigningKey, chance: random.Random, *, first: int, longest_s: float
) -> dict[str, int]:
    """Start the children, kill each at its own instant, and check."""
    children = []
    for asker in range(CHILDREN):
        child = os.fork()
        if child == 0:
            try:
                work(folder, key, first, asker)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        children.append((chance.uniform(0, longest_s), child))
    started = time.monotonic()
    for delay_s, child in sorted(children):
        time.sleep(max(0.0, started + delay_s - time.monotonic()))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise AssertionError("the loop failed before it was killed")
    return check(folder, key)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=7, help="three kills each")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    key = SigningKey.generate()
    epsilon(STEP, delta=1e-5)  # loads what the children need, before the clock runs
    totals = {"kills": 0, "orphans": 0, "computed": 0, "reserved": 0, "entries": 0}
    kept, number = options.folder / "kept-0", 0
    for number in range(options.trials):
        # Every third trial is killed while, or soon after, it creates the ledger; the others go on where one ended.
        fresh = number % 3 == 0
        if number % 30 == 0:
            kept = options.folder / f"kept-{number}"
        folder = options.folder / f"fresh-{number}" if fresh else kept
        folder.mkdir(parents=True, exist_ok=True)
        again = 0 if chance.random() < 0.3 else 1000 * number
        result = trial(folder, key, chance, first=again, longest_s=0.15 if fresh else 0.5)
        totals["kills"] += CHILDREN
        for name in ("orphans", "computed", "reserved", "entries"):
            totals[name] += result[name] if fresh else 0
    for folder in options.folder.glob("kept-*"):
        for name, value in check(folder, key).items():
            totals[name] += value
    json.dump(totals, sys.stdout)


if __name__ == "__main__":
    main()
