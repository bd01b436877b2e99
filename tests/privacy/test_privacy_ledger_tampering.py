"""A flipped bit, a deleted or swapped row, a rolled-back file, a clock moved back: each is named."""

from __future__ import annotations

import copy
import datetime as dt
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledgers import (
    COUNT,
    OTHER,
    PLAN,
    SNAPSHOT,
    STEWARD,
    STEWARDS,
    STUDY,
    THIRD,
    TRAIN,
    begin,
    decision,
    people,
    reserve,
)
from ledgers import open_ledger as open_with

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey, sign_document
from gemel.privacy.ledger import Ledger, LedgerEntry, require_anchored, verify_ledger_document
from gemel.privacy.ledger import ledger as ledger_module
from gemel.privacy.ledger.entries import entry_body, link, seal

KEY = SigningKey.generate()
ENTRIES = 7


def open_ledger(path: Path) -> Ledger:
    return open_with(path, KEY, cap=8.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with entries 1 opened, 2 and 3 reserved, 4 and 6 begun, 5 released, 7 expired."""
    path = tmp_path_factory.mktemp("made") / "l.sqlite"
    with open_ledger(path) as ledger:
        reserve(ledger)
        other = reserve(ledger, OTHER, of=people(30, 80))
        ledger.record_release(begin(ledger), release_sha256="44" * 32)
        begin(ledger, study=OTHER)
        ledger.expire(decision(other, "evaluate"), stewards=STEWARDS)
        ledger._store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return copied(made, tmp_path / "l.sqlite")


def copied(path: Path, to: Path) -> Path:
    shutil.copy(path, to)
    shutil.copy(f"{path}.anchor", f"{to}.anchor")
    return to


def tamper(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    database = sqlite3.connect(path)
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    for statement, values in statements:
        database.execute(statement, values)
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def column(path: Path, name: str, seq: int) -> Any:
    database = sqlite3.connect(path)
    (value,) = database.execute(f"SELECT {name} FROM entries WHERE seq = ?", (seq,)).fetchone()
    database.close()
    return value


def entry_at(path: Path, seq: int) -> LedgerEntry:
    entry = msgspec.json.decode(column(path, "body", seq), type=LedgerEntry)
    sha256, signature = column(path, "sha256", seq), column(path, "signature", seq)
    return msgspec.structs.replace(entry, sha256=sha256, signature=signature)


def put(path: Path, entry: LedgerEntry, seq: int | None = None) -> None:
    values = (entry_body(entry), entry.sha256, entry.signature, entry.seq if seq is None else seq)
    tamper(path, ("UPDATE entries SET body = ?, sha256 = ?, signature = ? WHERE seq = ?", values))


def assert_named(path: Path, code: str = "GEM302") -> None:
    with pytest.raises(GemelError) as caught:
        open_ledger(path).close()
    assert caught.value.code == code


def test_the_untouched_ledger_opens(path: Path) -> None:
    with open_ledger(path) as ledger:
        assert len(ledger.entries()) == ENTRIES
        ledger.verify()


# --- rows of the chain ---------------------------------------------------------------------------


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
def test_a_deleted_row_is_found_wherever_it_was(path: Path, seq: int) -> None:
    tamper(path, ("DELETE FROM entries WHERE seq = ?", (seq,)))
    assert_named(path, "GEM309" if seq == ENTRIES else "GEM302")


def test_all_rows_deleted_is_found(path: Path) -> None:
    tamper(path, ("DELETE FROM people", ()), ("DELETE FROM entries", ()))
    assert_named(path, "GEM309")


def test_swapped_rows_are_found(path: Path) -> None:
    two, three = entry_at(path, 2), entry_at(path, 3)
    put(path, two, seq=3)
    put(path, three, seq=2)
    assert_named(path)


def test_renumbered_rows_are_found(path: Path) -> None:
    tamper(
        path,
        ("DELETE FROM entries WHERE seq = 5", ()),
        ("UPDATE entries SET seq = seq - 1 WHERE seq > 5", ()),
    )
    assert_named(path)


@pytest.mark.parametrize("name", ["body", "sha256", "signature"])
def test_a_flipped_bit_of_any_entry_is_found(path: Path, tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    for number in range(12):
        seq = chance.randint(1, ENTRIES)
        value = column(path, name, seq)
        raw = bytearray(value if name == "body" else value.encode())
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(7)
        spoiled = copied(path, tmp_path / f"{number}.sqlite")
        changed = bytes(raw) if name == "body" else raw.decode()
        tamper(spoiled, (f"UPDATE entries SET {name} = ? WHERE seq = ?", (changed, seq)))
        assert_named(spoiled)


@pytest.mark.parametrize(
    "field", ["epsilon_after", "charges", "seq", "previous", "kind", "people", "programme"]
)
def test_an_entry_changed_and_hashed_again_without_the_key_is_found(path: Path, field: str) -> None:
    entry = entry_at(path, 3)
    values: dict[str, Any] = {"epsilon_after": 0.1, "charges": PLAN[:1], "seq": 9, "previous": "00" * 32}
    values |= {"kind": "begun", "people": entry_at(path, 2).people, "programme": "x"}
    forged = seal(msgspec.structs.replace(entry, **{field: values[field]}), SigningKey.generate())
    put(path, msgspec.structs.replace(forged, signature=entry.signature), seq=3)
    assert_named(path)


def test_a_newest_entry_of_another_key_is_found(path: Path) -> None:
    put(path, seal(entry_at(path, ENTRIES), SigningKey.generate()))
    assert_named(path)


@pytest.mark.parametrize("respell", [str.upper, lambda signature: f"{signature[:2]} {signature[2:]}"])
def test_a_signature_spelled_in_another_way_is_found(path: Path, respell: Callable[[str], str]) -> None:
    entry = entry_at(path, ENTRIES)
    put(path, msgspec.structs.replace(entry, signature=respell(entry.signature)))
    assert_named(path)


def test_a_row_changed_under_an_open_ledger_is_found_at_the_next_step(path: Path) -> None:
    with open_ledger(path) as ledger:
        tamper(path, ("DELETE FROM entries WHERE seq = ?", (ENTRIES,)))
        with pytest.raises(GemelError, match="GEM302"):
            ledger.entries()


# --- who was touched -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["salt", "content"])
@pytest.mark.parametrize("of", ["added", "everyone", "training", "held_out"])
def test_a_flipped_bit_of_who_was_touched_is_found(path: Path, tmp_path: Path, name: str, of: str) -> None:
    chance = random.Random(f"{name} {of}")
    database = sqlite3.connect(path)
    rows = database.execute(f"SELECT seq, {name} FROM people WHERE name = ?", (of,)).fetchall()
    database.close()
    assert [seq for seq, _ in rows] == [2, 3]
    for number, (seq, value) in enumerate(rows):
        raw = bytearray(value)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        spoiled = copied(path, tmp_path / f"{number}.sqlite")
        tamper(spoiled, (f"UPDATE people SET {name} = ? WHERE seq = ? AND name = ?", (bytes(raw), seq, of)))
        assert_named(spoiled)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM people WHERE seq = 2 AND name = 'training'",
        "DELETE FROM people WHERE seq = 3",
        "DELETE FROM people",
        "INSERT INTO people VALUES (4, 'training', x'00', x'00')",
        "INSERT INTO people VALUES (9, 'training', x'00', x'00')",
        "INSERT INTO people VALUES (2, 'more', x'00', x'00')",
        "UPDATE people SET name = 'x' WHERE seq = 2 AND name = 'training'",
        "UPDATE people SET seq = CASE seq WHEN 2 THEN 103 ELSE 102 END",
        "UPDATE people SET name = CASE name WHEN 'training' THEN 'held-out' ELSE name END",
    ],
)
def test_rows_of_people_deleted_added_or_swapped_are_found(path: Path, statement: str) -> None:
    tamper(path, (statement, ()))
    if "103" in statement:
        tamper(path, ("UPDATE people SET seq = seq - 100", ()))
    assert_named(path)


# --- rolled back ---------------------------------------------------------------------------------


def later(path: Path) -> tuple[int, str]:
    """Go on with the ledger; returns its newest head."""
    with open_ledger(path) as ledger:
        reserve(ledger, THIRD)
        ledger._store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(ledger.entries()), ledger.head


def test_an_older_copy_of_the_file_is_found(path: Path, made: Path) -> None:
    later(path)
    shutil.copy(made, path)
    assert_named(path, "GEM309")


def test_a_deleted_file_is_found(path: Path) -> None:
    path.unlink()
    assert_named(path, "GEM309")


def test_a_file_rolled_back_with_its_anchor_is_found_by_who_saw_a_later_head(path: Path, made: Path) -> None:
    seq, head = later(path)
    copied(made, path)
    with open_ledger(path) as ledger:
        with pytest.raises(GemelError, match="^GEM309 "):
            ledger.require(seq=seq, sha256=head)
        ledger.require(seq=ENTRIES, sha256=ledger.head)
        export = ledger.export()
    sites = {"north": {"public_key": KEY.public_hex, "ledger_seq": seq, "ledger_head": head}}
    seen = sign_document("certificate", {"sites": sites}, KEY, role="coordinator")
    with pytest.raises(GemelError, match="^GEM309 "):
        require_anchored(verify_ledger_document(export), seen)


def test_another_history_of_the_same_length_is_found_by_who_saw_the_first(path: Path, made: Path) -> None:
    seq, head = later(path)
    copied(made, path)
    with open_ledger(path) as ledger:
        reserve(ledger, "55" * 32, of=people(0, 1))
        assert len(ledger.entries()) == seq
        with pytest.raises(GemelError, match="^GEM309 "):
            ledger.require(seq=seq, sha256=head)


def test_a_certificate_that_says_nothing_of_a_ledger_anchors_nothing(path: Path) -> None:
    with open_ledger(path) as ledger:
        entries = ledger.entries()
    for payload in ({}, {"sites": {}}, {"sites": {"north": {"public_key": KEY.public_hex}}}, {"sites": [1]}):
        with pytest.raises(GemelError, match="^GEM106 "):
            require_anchored(entries, sign_document("certificate", payload, KEY, role="coordinator"))


def test_a_removed_or_forged_anchor_is_found(path: Path) -> None:
    anchor = Path(f"{path}.anchor")
    true = anchor.read_text()
    forged = json.dumps(json.loads(true) | {"seq": 1})
    for wrong in (None, "", "{}", forged, true.replace(true[-5], "x")):
        anchor.unlink(missing_ok=True)
        if wrong is not None:
            anchor.write_text(wrong)
        assert_named(path)
    anchor.write_text(true)
    open_ledger(path).close()


def test_a_file_that_is_no_ledger_or_an_earlier_versions_is_found(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"no database at all, but long enough to be one" * 50)
    assert_named(tmp_path / "l.sqlite")
    database = sqlite3.connect(tmp_path / "old.sqlite")
    database.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, content TEXT NOT NULL) STRICT")
    database.close()
    assert_named(tmp_path / "old.sqlite")


# --- the clock -----------------------------------------------------------------------------------


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    moved = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    monkeypatch.setattr(ledger_module, "_now", lambda: moved)


def test_nothing_is_written_while_the_clock_is_before_the_newest_entry(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(path) as ledger:
        at(monkeypatch, -3600)
        for refused in (lambda: reserve(ledger, THIRD), lambda: begin(ledger, "train/1")):
            with pytest.raises(GemelError, match="^GEM310 "):
                refused()
        assert len(ledger.entries()) == ENTRIES
        at(monkeypatch, -20)  # clocks are set right by seconds
        begin(ledger, "train/1")


def test_an_entry_dated_before_the_one_it_follows_is_named(path: Path) -> None:
    entry = entry_at(path, ENTRIES)
    put(path, seal(msgspec.structs.replace(entry, written_at="2020-01-01T00:00:00+00:00"), KEY))
    Path(f"{path}.anchor").write_bytes(anchor_of(entry_at(path, ENTRIES)))
    assert_named(path, "GEM310")


def anchor_of(entry: LedgerEntry) -> bytes:
    signature = KEY.sign(f"gemel/ledger/2 anchor north {entry.seq} {entry.sha256}".encode())
    return msgspec.json.encode({"seq": entry.seq, "sha256": entry.sha256, "signature": signature})


@pytest.mark.parametrize("time", ["", "yesterday", "2026-01-01T00:00:00"])
def test_an_entry_without_a_time_is_named(path: Path, time: str) -> None:
    put(path, seal(msgspec.structs.replace(entry_at(path, ENTRIES), written_at=time), KEY))
    assert_named(path)


# --- what even its owner cannot export -----------------------------------------------------------


def resealed(
    payload: dict[str, Any], change: Callable[[list[LedgerEntry]], list[LedgerEntry]]
) -> dict[str, Any]:
    """The payload as its owner could forge it: entries changed, then chained and signed again."""
    entries = change(msgspec.convert(payload["entries"], list[LedgerEntry]))
    chained: list[LedgerEntry] = []
    names: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        previous = link(chained[-1]) if chained else "0" * 64
        moved = msgspec.structs.replace(
            entry, seq=number, previous=previous, follows=names.get(entry.follows, entry.follows)
        )
        if moved.decision is not None:
            decided = moved.decision.payload | {"reservation": moved.follows}
            signed = sign_document("ledger-decision", decided, STEWARD, role="steward")
            moved = msgspec.structs.replace(moved, decision=signed)
        chained.append(seal(moved, KEY))
        names[entry.sha256] = chained[-1].sha256
    return payload | {"entries": msgspec.to_builtins(chained), "head": chained[-1].sha256}


def replaced(index: int, **fields: Any) -> Callable[[list[LedgerEntry]], list[LedgerEntry]]:
    def change(entries: list[LedgerEntry]) -> list[LedgerEntry]:
        entries[index] = msgspec.structs.replace(entries[index], **fields)
        return entries

    return change


def without(index: int) -> Callable[[list[LedgerEntry]], list[LedgerEntry]]:
    return lambda entries: entries[:index] + entries[index + 1 :]


def twice(index: int) -> Callable[[list[LedgerEntry]], list[LedgerEntry]]:
    return lambda entries: [*entries, entries[index]]


CHEAPER = (
    msgspec.structs.replace(
        COUNT, mechanisms=(Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=99.0),)
    ),
    *PLAN[1:],
)


def test_resealing_alone_changes_nothing_but_hashes(path: Path) -> None:
    with open_ledger(path) as ledger:
        payload = ledger.export().payload
    forged = resealed(copy.deepcopy(payload), replaced(0, programme="other bytes, so other hashes"))
    assert forged["head"] != payload["head"]
    assert len(verify_ledger_document(sign_document("ledger", forged, KEY, role="node"))) == ENTRIES


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda p: p | {"epsilon_spent": p["epsilon_spent"] - 0.01}, "GEM302"),
        (lambda p: p | {"delta": 1e-3}, "GEM302"),
        (lambda p: p | {"unit": "record"}, "GEM302"),
        (lambda p: p | {"site": "south"}, "GEM302"),
        (lambda p: p | {"entries": p["entries"][:4]}, "GEM105"),
        (lambda p: p | {"entries": p["entries"][:2], "head": p["entries"][1]["sha256"]}, "GEM302"),
        (lambda p: p | {"entries": p["entries"][:1] + p["entries"][2:]}, "GEM105"),
        (lambda p: p | {"entries": []}, "GEM105"),
        (lambda p: resealed(p, replaced(2, charges=CHEAPER)), "GEM302"),
        (lambda p: resealed(p, replaced(2, charges=())), "GEM302"),
        (lambda p: resealed(p, replaced(2, charges=(TRAIN, TRAIN))), "GEM302"),
        (lambda p: resealed(p, replaced(2, study_sha256=STUDY)), "GEM302"),
        (lambda p: resealed(p, replaced(3, task="train/9")), "GEM302"),
        (lambda p: resealed(p, replaced(3, follows="00" * 32)), "GEM302"),
        (lambda p: resealed(p, replaced(4, follows="00" * 32)), "GEM302"),
        (lambda p: resealed(p, replaced(4, epsilon_after=0.001)), "GEM302"),
        (lambda p: resealed(p, replaced(6, tasks=("count",))), "GEM302"),
        (lambda p: resealed(p, replaced(6, decision=None)), "GEM302"),
        (lambda p: resealed(p, without(1)), "GEM302"),
        (lambda p: resealed(p, without(3)), "GEM302"),
        (lambda p: resealed(p, twice(1)), "GEM302"),
        (lambda p: resealed(p, twice(3)), "GEM302"),
        (lambda p: resealed(p, twice(4)), "GEM302"),
        (lambda p: resealed(p, replaced(2, site="south")), "GEM105"),
        (lambda p: resealed(p, replaced(2, written_at="2020-01-01T00:00:00+00:00")), "GEM310"),
    ],
)
def test_even_its_owner_cannot_export_a_ledger_that_does_not_add_up(
    path: Path, forge: Callable[[dict[str, Any]], dict[str, Any]], code: str
) -> None:
    with open_ledger(path) as ledger:
        payload = ledger.export().payload
    forged = forge(copy.deepcopy(payload))
    with pytest.raises(GemelError) as caught:
        verify_ledger_document(sign_document("ledger", forged, KEY, role="node"))
    assert caught.value.code == code


def test_an_entry_signed_by_another_key_is_found_in_an_export(path: Path) -> None:
    with open_ledger(path) as ledger:
        payload = copy.deepcopy(ledger.export().payload)
    payload["entries"][-1]["signature"] = payload["entries"][2]["signature"]
    with pytest.raises(GemelError) as caught:
        verify_ledger_document(sign_document("ledger", payload, KEY, role="node"))
    assert caught.value.code == "GEM102"


def test_the_full_check_reads_every_signature(path: Path) -> None:
    """A forger without the key who chains anew from an old entry on is found by the newest signature already."""
    entries = [entry_at(path, seq) for seq in range(1, ENTRIES + 1)]
    forged = seal(msgspec.structs.replace(entries[4], release_sha256="00" * 32), SigningKey.generate())
    put(path, forged)
    put(path, seal(msgspec.structs.replace(entries[5], previous=link(forged)), SigningKey.generate()))
    assert_named(path)
    assert sha256_hex(entry_body(entries[5])) == entries[5].sha256
    assert entries[3].snapshot == SNAPSHOT
