"""A hospital's own ledger, read from a copy: verified, recomputed, and held against what lies in the outbox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from gemel.client_node.audit.accounts import recomputed
from gemel.client_node.home import NodeHome
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import mechanisms_by_patient
from gemel.core.messages import read_reply
from gemel.privacy.audit.report import Check
from gemel.privacy.ledger import EntryKind, Ledger

ATTACK = "own ledger"
_SLACK = 0.03


def attack(home: NodeHome) -> Iterator[Check]:
    """Verify a copy of the ledger, recompute its ε, and look for releases that it does not cover.

    Nothing in the home is written; no patient is read.
    """
    with TemporaryDirectory(prefix="gemel-audit-") as name:
        copy = _copy(home, Path(name))
        config = home.config
        try:
            ledger = Ledger.open(
                copy,
                key=home.key,
                site=config.site,
                epsilon_cap=config.epsilon_cap,
                delta=config.delta,
            )
        except GemelError as error:
            yield Check(ATTACK, "The ledger verifies.", "it verifies", error.code, passed=False)
            return
        with ledger:
            ledger.verify()
            entries = ledger.entries()
            yield Check(
                ATTACK, "The ledger verifies.", "it verifies", f"{len(entries)} entries do", passed=True
            )
            yield _price(ledger)
            yield _outbox(home, ledger)


def _copy(home: NodeHome, folder: Path) -> Path:
    """Database, write-ahead log and anchor of one moment: a node that runs waits for as long as this takes."""
    with home.locked():
        for path in home.folder.glob("ledger.sqlite*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, folder / path.name)
    return folder / "ledger.sqlite"


def _price(ledger: Ledger) -> Check:
    entries = ledger.entries()
    given_back = {(e.study_sha256, t) for e in entries if e.kind == EntryKind.EXPIRED for t in e.tasks}
    charges = [c for e in entries for c in e.charges if (e.study_sha256, c.task) not in given_back]
    owed = recomputed(mechanisms_by_patient(charges), delta=ledger.delta) if charges else 0.0
    stated = ledger.epsilon_spent()
    return Check(
        ATTACK,
        "ε on record is what its charges cost.",
        f"{stated:.4f}",
        f"{owed:.4f} recomputed",
        abs(owed - stated) <= _SLACK,
        numbers={"claimed": stated, "measured": owed},
    )


def _outbox(home: NodeHome, ledger: Ledger) -> Check:
    """Whatever lies ready to leave was begun in the ledger for its very request, and left as what is recorded."""
    kept = sorted((home.folder / "outbox").glob("*.json"))
    uncovered = 0
    for path in kept:
        reply, _ = read_reply(path.read_bytes())
        begun = ledger.charged(reply.study_sha256, reply.task)
        released = ledger.released(reply.study_sha256, reply.task)
        payload = sha256_hex(path.with_suffix(".safetensors").read_bytes())
        covered = begun is not None and begun.request_sha256 == path.stem
        uncovered += not covered or (released is not None and released.release_sha256 != payload)
    return Check(
        ATTACK,
        "Every release that was kept is charged for, and is what the ledger says.",
        "0 uncovered",
        f"{uncovered} uncovered of {len(kept)}",
        uncovered == 0,
    )
