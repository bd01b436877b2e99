"""A ledger goes on under a new key: said by both, once, and nobody else can say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.privacy.ledger import EntryKind, Ledger, require_anchored, verify_ledger_document
from gemel.privacy.ledger.entries import seal
from gemel.privacy.ledger.succession import read_succession, sign_succession

ONE = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=20.0)
LIMITS: dict[str, Any] = {"site": "alpha", "epsilon_cap": 3.0, "delta": 1e-5}


def reserve(ledger: Ledger, study: str) -> None:
    ledger.reserve(
        study_sha256=study * 64,
        programme="p@1",
        snapshot="s",
        charges=(Charge(task="count", share=Share.EVERYONE, mechanisms=(ONE,)),),
        people={Share.EVERYONE: ["one", "two"]},
    )


def code_of(error: pytest.ExceptionInfo[GemelError]) -> str:
    return error.value.code


class Two:
    """A ledger with one study under the old key, and the two keys."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.old, self.new = SigningKey.generate(), SigningKey.generate()
        with Ledger.open(self.path, key=self.old, **LIMITS) as ledger:
            reserve(ledger, "a")

    def succeed(self) -> None:
        with Ledger.open(self.path, key=self.old, successor=self.new, **LIMITS) as ledger:
            ledger.succeed()


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_what_was_spent_under_the_old_key_counts_under_the_new_one(two: Two) -> None:
    with Ledger.open(two.path, key=two.old, **LIMITS) as ledger:
        before = ledger.epsilon_spent()
    two.succeed()
    with Ledger.open(two.path, key=two.new, **LIMITS) as ledger:
        assert ledger.epsilon_spent() == before > 0
        reserve(ledger, "b")
        assert ledger.epsilon_spent() > before
        ledger.verify()
        assert ledger.keys() == (two.old.public_hex, two.new.public_hex)
        entries = verify_ledger_document(ledger.export())
    assert [entry.kind for entry in entries] == ["opened", "reserved", "succeeded", "reserved"]
    assert [entry.public_key == two.new.public_hex for entry in entries] == [False, False, False, True]


def test_the_old_key_opens_the_ledger_no_more(two: Two) -> None:
    two.succeed()
    with pytest.raises(GemelError) as error:
        Ledger.open(two.path, key=two.old, **LIMITS)
    assert code_of(error) == "GEM302"


def test_a_key_that_nobody_named_does_not_open_it(two: Two) -> None:
    two.succeed()
    with pytest.raises(GemelError) as error:
        Ledger.open(two.path, key=SigningKey.generate(), **LIMITS)
    assert code_of(error) == "GEM302"


def test_a_rotation_that_was_interrupted_is_taken_up_again_with_one_entry(two: Two) -> None:
    two.succeed()
    two.succeed()
    with Ledger.open(two.path, key=two.new, **LIMITS) as ledger:
        assert [entry.kind for entry in ledger.entries()].count(EntryKind.SUCCEEDED) == 1


def test_a_rotation_that_ended_before_its_anchor_is_taken_up_again(two: Two) -> None:
    anchor = two.path.with_name(two.path.name + ".anchor")
    before = anchor.read_bytes()
    two.succeed()
    anchor.write_bytes(before)
    with pytest.raises(GemelError) as error:
        Ledger.open(two.path, key=two.new, **LIMITS)
    assert code_of(error) == "GEM302"  # an anchor of the old key counts for nothing, outside a rotation
    two.succeed()
    Ledger.open(two.path, key=two.new, **LIMITS).close()


def test_whoever_has_the_old_key_cannot_write_another_past(two: Two, tmp_path: Path) -> None:
    two.succeed()
    with Ledger.open(two.path, key=two.new, **LIMITS) as ledger:
        statement = ledger.entries()[2].decision
    assert statement is not None
    forged = tmp_path / "forged.sqlite"
    with Ledger.open(forged, key=two.old, **LIMITS) as ledger:
        ledger._append(ledger._next(EntryKind.SUCCEEDED, decision=statement))
    with pytest.raises(GemelError) as error:
        Ledger.open(forged, key=two.new, **LIMITS)
    assert code_of(error) == "GEM302"


@pytest.mark.parametrize("signers", ["old alone", "new alone", "another"])
def test_a_statement_without_both_keys_names_no_successor(two: Two, signers: str) -> None:
    document = sign_succession(site="alpha", old=two.old, new=two.new, follows="0" * 64)
    other = sign_document(document.kind, document.payload, SigningKey.generate(), role="successor")
    old, new = document.signatures
    kept = {"old alone": (old,), "new alone": (new,), "another": (old, other.signatures[0])}[signers]
    with pytest.raises(GemelError) as error:
        read_succession(msgspec.structs.replace(document, signatures=kept))
    assert code_of(error) == "GEM417"


def exported(two: Two) -> tuple[SignedDocument, SigningKey]:
    two.succeed()
    with Ledger.open(two.path, key=two.new, **LIMITS) as ledger:
        reserve(ledger, "b")
        return ledger.export(), two.new


@pytest.mark.parametrize("change", ["no statement", "other chain", "other site"])
def test_an_export_whose_succession_was_changed_does_not_verify(two: Two, change: str) -> None:
    document, key = exported(two)
    entries = list(verify_ledger_document(document))
    statement = {
        "no statement": None,
        "other chain": sign_succession(site="alpha", old=two.old, new=two.new, follows="0" * 64),
        "other site": sign_succession(site="beta", old=two.old, new=two.new, follows=entries[2].previous),
    }[change]
    # Even the old key's owner, who can sign that entry again, cannot make it hold.
    entries[2] = seal(msgspec.structs.replace(entries[2], decision=statement), two.old)
    entries = entries[:3]
    payload = json.loads(document.to_bytes())["payload"]
    payload |= {"entries": msgspec.to_builtins(entries), "head": entries[-1].sha256}
    payload["public_key"] = two.old.public_hex if statement is None else two.new.public_hex
    with pytest.raises(GemelError) as error:
        verify_ledger_document(
            sign_document("ledger", payload, two.old if statement is None else key, role="node")
        )
    assert code_of(error) == "GEM302"


def test_a_certificate_of_before_anchors_a_ledger_that_goes_on_under_a_new_key(two: Two) -> None:
    with Ledger.open(two.path, key=two.old, **LIMITS) as ledger:
        newest = ledger.entries()[-1]
    told = {"public_key": two.old.public_hex, "ledger_seq": newest.seq, "ledger_head": newest.sha256}
    certificate = sign_document(
        "certificate", {"sites": {"alpha": told}}, SigningKey.generate(), role="coordinator"
    )
    document, _ = exported(two)
    assert require_anchored(verify_ledger_document(document), certificate) == newest.seq
