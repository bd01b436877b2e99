"""A ledger to try things on: one plan, made-up pseudonyms, and the calls that most tests make."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SignedDocument, SigningKey
from gemel.privacy.ledger import Ledger, LedgerEntry, decide_expiry

DELTA = 1e-5
STUDY, OTHER, THIRD = "11" * 32, "77" * 32, "99" * 32
SNAPSHOT = "33" * 32
REQUEST = "22" * 32
STEWARD = SigningKey.generate()
STEWARDS = {"ann": STEWARD.public_hex}

COUNT = Charge(
    task="count",
    share=Share.EVERYONE,
    mechanisms=(Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=20.0),),
)
TRAIN = Charge(
    task="train/1",
    share=Share.TRAINING,
    mechanisms=(Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=8.0, count=5),),
)
EVALUATE = Charge(
    task="evaluate",
    share=Share.HELD_OUT,
    mechanisms=(Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=12.0, count=6),),
)
PLAN = (COUNT, TRAIN, EVALUATE)


def refused(code: str) -> pytest.RaisesExc[GemelError]:
    """Within, this code is raised."""
    return pytest.raises(GemelError, match=f"^{code} ")


def open_ledger(path: Path, key: SigningKey, *, cap: float = 3.0, site: str = "north") -> Ledger:
    """The ledger at a path."""
    return Ledger.open(path, key=key, site=site, epsilon_cap=cap, delta=DELTA)


def pseudonym(number: int) -> str:
    """A person's, of 32 hex digits."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def people(first: int = 0, last: int = 50) -> dict[Share, tuple[str, ...]]:
    """Persons `first` to `last` - 1: every fifth is held out, and always the same."""
    numbers = range(first, last)
    return {
        Share.EVERYONE: tuple(map(pseudonym, numbers)),
        Share.TRAINING: tuple(pseudonym(n) for n in numbers if n % 5),
        Share.HELD_OUT: tuple(pseudonym(n) for n in numbers if n % 5 == 0),
    }


def reserve(
    ledger: Ledger,
    study: str = STUDY,
    charges: Sequence[Charge] = PLAN,
    *,
    of: dict[Share, tuple[str, ...]] | None = None,
    snapshot: str = SNAPSHOT,
) -> LedgerEntry:
    """Reserve a study's plan for some people, the first fifty unless told."""
    return ledger.reserve(
        study_sha256=study,
        programme="fatty_liver@1",
        snapshot=snapshot,
        charges=charges,
        people=people() if of is None else of,
    )


def begin(
    ledger: Ledger,
    task: str = "count",
    study: str = STUDY,
    *,
    request: str = REQUEST,
    snapshot: str = SNAPSHOT,
) -> LedgerEntry:
    """Begin a task."""
    return ledger.begin(study_sha256=study, task=task, request_sha256=request, snapshot=snapshot)


def decision(
    reservation: LedgerEntry,
    *tasks: str,
    site: str = "north",
    key: SigningKey = STEWARD,
    steward: str = "ann",
) -> SignedDocument:
    """A steward's decision to give tasks back."""
    return decide_expiry(
        site=site, reservation=reservation.sha256, tasks=tasks, reason="stopped", steward=steward, key=key
    )
