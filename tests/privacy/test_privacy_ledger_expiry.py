"""Only what never began is given back, and only by a steward who signed for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import (
    COUNT,
    DELTA,
    OTHER,
    PLAN,
    STEWARD,
    STEWARDS,
    STUDY,
    TRAIN,
    begin,
    decision,
    open_ledger,
    people,
    refused,
    reserve,
)

from gemel.core.signing import SigningKey, sign_document
from gemel.privacy.accounting import price
from gemel.privacy.ledger import Ledger, verify_ledger_document

KEY = SigningKey.generate()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "l.sqlite", KEY) as opened:
        yield opened


def test_a_steward_gives_back_what_never_began_and_the_chain_shows_why(ledger: Ledger) -> None:
    reserved = reserve(ledger)
    begin(ledger, "count")
    decided = decision(reserved, "train/1", "evaluate")
    entry = ledger.expire(decided, stewards=STEWARDS)
    assert (entry.kind, entry.tasks, entry.follows) == ("expired", ("train/1", "evaluate"), reserved.sha256)
    assert entry.decision is not None
    assert entry.decision.payload["reason"] == "stopped"
    assert ledger.epsilon_spent() == ledger.epsilon_of_worst_person() == price((COUNT,), delta=DELTA)
    assert ledger.expire(decided, stewards=STEWARDS) == entry, "once"
    assert ledger.unused(STUDY) == ()
    verify_ledger_document(ledger.export())
    ledger.verify()


def test_what_began_is_never_given_back_even_if_nothing_was_released(ledger: Ledger) -> None:
    reserved = reserve(ledger)
    begin(ledger, "count")
    for tasks in (("count",), ("train/1", "count")):
        with refused("GEM308"):
            ledger.expire(decision(reserved, *tasks), stewards=STEWARDS)
    assert ledger.epsilon_spent() == price(PLAN, delta=DELTA)


def test_what_was_given_back_never_begins_and_is_not_given_back_twice(ledger: Ledger) -> None:
    reserved = reserve(ledger)
    ledger.expire(decision(reserved, "train/1"), stewards=STEWARDS)
    with refused("GEM307"):
        begin(ledger, "train/1")
    with refused("GEM308"):
        ledger.expire(decision(reserved, "train/1", "evaluate"), stewards=STEWARDS)
    begin(ledger, "count")
    assert reserve(ledger) == reserved, "the plan is on record as it was, and stays without the task"
    assert ledger.epsilon_spent() == price([c for c in PLAN if c is not TRAIN], delta=DELTA)


def test_a_decision_that_is_not_by_a_steward_on_record_is_refused(ledger: Ledger) -> None:
    reserved = reserve(ledger)
    stranger = SigningKey.generate()
    for document in (
        decision(reserved, "train/1", key=stranger),
        decision(reserved, "train/1", key=stranger, steward="bob"),
        sign_document("approval", decision(reserved, "train/1").payload, STEWARD, role="steward"),
        sign_document("ledger-decision", {"tasks": ["train/1"]}, STEWARD, role="steward"),
    ):
        with refused("GEM308"):
            ledger.expire(document, stewards=STEWARDS)
    with refused("GEM308"):
        ledger.expire(decision(reserved, "train/1"), stewards={})
    assert len(ledger.entries()) == 2


def test_a_decision_about_another_ledger_study_or_task_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with open_ledger(tmp_path / "other.sqlite", KEY) as other:
        elsewhere = reserve(other, OTHER)
    reserved = reserve(ledger)
    for document in (
        decision(elsewhere, "train/1"),
        decision(reserved, "train/1", site="south"),
        decision(reserved, "train/9"),
        decision(reserved),
        decision(reserved, "train/1", "train/1"),
    ):
        with refused("GEM308"):
            ledger.expire(document, stewards=STEWARDS)


def test_an_expiry_survives_reopening(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite", KEY) as ledger:
        reserved = reserve(ledger)
        reserve(ledger, OTHER, of=people(25, 75))
        ledger.expire(decision(reserved, "count", "train/1", "evaluate"), stewards=STEWARDS)
    with open_ledger(tmp_path / "l.sqlite", KEY) as ledger:
        assert ledger.epsilon_spent() == ledger.epsilon_of_worst_person() == price(PLAN, delta=DELTA)
        assert ledger.quote(PLAN, people(0, 25)).epsilon_before == 0
