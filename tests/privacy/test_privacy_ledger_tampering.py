from __future__ import annotations

import copy
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey, sign_document
from gemel.privacy.ledger import Ledger
from gemel.privacy.ledger_chain import LedgerEntry, seal, verify_ledger_document

KEY = SigningKey.generate()
STEPS = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=12.0, count=5),)


def open_ledger(path: Path) -> Ledger:
    return Ledger.open(path, key=KEY, site="north", epsilon_cap=8.0, delta=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with entries 1 opened, 2 and 4 reserved, 3 and 5 spent."""
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        for task in ("train/1", "train/2"):
            entry = ledger.reserve(
                study_sha256="11" * 32,
                programme="fatty_liver/1",
                task=task,
                request_sha256="22" * 32,
                snapshot="33" * 32,
                patients=None,
                mechanisms=STEPS,
            )
            ledger.record_release(entry, release_sha256="44" * 32)
    return tmp_path / "l.sqlite"


def tamper(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    database = sqlite3.connect(path)
    for trigger in ("never_update", "never_delete", "only_at_the_end"):
        database.execute(f"DROP TRIGGER {trigger}")
    for statement, values in statements:
        database.execute(statement, values)
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def content(path: Path, seq: int) -> str:
    database = sqlite3.connect(path)
    (text,) = database.execute("SELECT content FROM entries WHERE seq = ?", (seq,)).fetchone()
    database.close()
    return str(text)


def assert_damaged(path: Path) -> None:
    with pytest.raises(GemelError) as caught:
        open_ledger(path).close()
    assert caught.value.code == "GEM302"


def test_the_untouched_ledger_opens(path: Path) -> None:
    with open_ledger(path) as ledger:
        assert len(ledger.entries()) == 5


@pytest.mark.parametrize("seq", [1, 2, 3, 4, 5])
def test_a_deleted_row_is_found_wherever_it_was(path: Path, seq: int) -> None:
    tamper(path, ("DELETE FROM entries WHERE seq = ?", (seq,)))
    assert_damaged(path)


def test_all_rows_deleted_is_found(path: Path) -> None:
    tamper(path, ("DELETE FROM entries", ()))
    assert_damaged(path)


def test_a_deleted_file_is_found(path: Path) -> None:
    for part in path.parent.glob("l.sqlite*"):
        if part.suffix != ".anchor":
            part.unlink()
    assert_damaged(path)


def test_an_older_copy_of_the_file_is_found(path: Path, tmp_path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "old")
    with open_ledger(path) as ledger:
        ledger.reserve(
            study_sha256="11" * 32,
            programme="fatty_liver/1",
            task="evaluate",
            request_sha256="22" * 32,
            snapshot="33" * 32,
            patients=None,
            mechanisms=STEPS,
        )
    for part in path.parent.glob("l.sqlite-*"):
        part.unlink()
    shutil.copy(tmp_path / "old", path)
    assert_damaged(path)


def test_swapped_rows_are_found(path: Path) -> None:
    two, four = content(path, 2), content(path, 4)
    update = "UPDATE entries SET content = ? WHERE seq = ?"
    tamper(path, (update, (four, 2)), (update, (two, 4)))
    assert_damaged(path)


def test_renumbered_rows_are_found(path: Path) -> None:
    tamper(
        path,
        ("DELETE FROM entries WHERE seq = 3", ()),
        ("UPDATE entries SET seq = seq - 1 WHERE seq > 3", ()),
    )
    assert_damaged(path)


def test_any_flipped_byte_of_any_entry_is_found(path: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    for number in range(25):
        seq = chance.randint(1, 5)
        raw = bytearray(content(path, seq), "ascii")
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(7)
        copied = tmp_path / f"copy-{number}.sqlite"
        shutil.copy(path, copied)
        shutil.copy(f"{path}.anchor", f"{copied}.anchor")
        tamper(copied, ("UPDATE entries SET content = ? WHERE seq = ?", (raw.decode("ascii"), seq)))
        assert_damaged(copied)


@pytest.mark.parametrize(
    "field", ["epsilon_after", "task", "mechanisms", "seq", "previous", "kind", "sha256"]
)
def test_an_entry_changed_and_hashed_again_without_the_key_is_found(path: Path, field: str) -> None:
    entry = msgspec.json.decode(content(path, 4), type=LedgerEntry)
    values: dict[str, Any] = {"epsilon_after": 0.1, "task": "x", "mechanisms": STEPS[:0], "seq": 9}
    values |= {"previous": "00" * 32, "kind": "spent", "sha256": "00" * 32}
    forged = msgspec.structs.replace(entry, **{field: values[field]})
    if field != "sha256":
        resealed = seal(forged, SigningKey.generate())
        forged = msgspec.structs.replace(resealed, signature=entry.signature)
    text = canonical_bytes(msgspec.to_builtins(forged)).decode()
    tamper(path, ("UPDATE entries SET content = ? WHERE seq = 4", (text,)))
    assert_damaged(path)


def test_a_removed_or_forged_anchor_is_found(path: Path) -> None:
    anchor = Path(f"{path}.anchor")
    true = anchor.read_text()
    forged = json.dumps(json.loads(true) | {"seq": 1})
    for wrong in (None, "", "{}", forged, true.replace(true[-5], "x")):
        anchor.unlink(missing_ok=True)
        if wrong is not None:
            anchor.write_text(wrong)
        assert_damaged(path)
    anchor.write_text(true)
    open_ledger(path).close()


def test_a_file_that_is_no_ledger_is_found(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"no database at all, but long enough to be one" * 50)
    assert_damaged(tmp_path / "l.sqlite")


def test_a_row_changed_under_an_open_ledger_is_found_at_the_next_step(path: Path) -> None:
    with open_ledger(path) as ledger:
        tamper(path, ("DELETE FROM entries WHERE seq = 5", ()))
        with pytest.raises(GemelError, match="GEM302"):
            ledger.entries()


def resealed(
    payload: dict[str, Any], change: Callable[[list[LedgerEntry]], list[LedgerEntry]]
) -> dict[str, Any]:
    """The payload as its owner could forge it: entries changed, then chained and signed again."""
    entries = change(msgspec.convert(payload["entries"], list[LedgerEntry]))
    chained: list[LedgerEntry] = []
    for number, entry in enumerate(entries, start=1):
        previous = chained[-1].sha256 if chained else "0" * 64
        chained.append(seal(msgspec.structs.replace(entry, seq=number, previous=previous), KEY))
    return payload | {"entries": msgspec.to_builtins(chained), "head": chained[-1].sha256}


def replaced(index: int, **fields: Any) -> Callable[[list[LedgerEntry]], list[LedgerEntry]]:
    def change(entries: list[LedgerEntry]) -> list[LedgerEntry]:
        entries[index] = msgspec.structs.replace(entries[index], **fields)
        return entries

    return change


CHEAPER = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=99.0),)


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda p: p | {"epsilon_spent": p["epsilon_spent"] - 0.01}, "GEM302"),
        (lambda p: p | {"delta": 1e-3}, "GEM302"),
        (lambda p: p | {"unit": "record"}, "GEM302"),
        (lambda p: p | {"site": "south"}, "GEM302"),
        (lambda p: p | {"entries": p["entries"][:3]}, "GEM105"),
        (lambda p: p | {"entries": p["entries"][:3], "head": p["entries"][2]["sha256"]}, "GEM302"),
        (lambda p: p | {"entries": p["entries"][:1] + p["entries"][2:]}, "GEM105"),
        (lambda p: p | {"entries": []}, "GEM105"),
        (lambda p: resealed(p, replaced(1, mechanisms=CHEAPER)), "GEM302"),
        (lambda p: resealed(p, replaced(1, epsilon_cap=0.01)), "GEM302"),
        (lambda p: resealed(p, replaced(3, task="train/1")), "GEM302"),
        (lambda p: resealed(p, replaced(2, reservation="00" * 32)), "GEM302"),
        (lambda p: resealed(p, replaced(2, site="south")), "GEM105"),
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


@pytest.mark.parametrize("respell", [str.upper, lambda signature: f"{signature[:2]} {signature[2:]}"])
def test_a_signature_spelled_in_another_way_is_found(path: Path, respell: Callable[[str], str]) -> None:
    entry = msgspec.json.decode(content(path, 4), type=LedgerEntry)
    forged = msgspec.structs.replace(entry, signature=respell(entry.signature))
    text = canonical_bytes(msgspec.to_builtins(forged)).decode()
    tamper(path, ("UPDATE entries SET content = ? WHERE seq = 4", (text,)))
    assert_damaged(path)


def test_an_entry_signed_by_another_key_is_found_in_an_export(path: Path) -> None:
    with open_ledger(path) as ledger:
        payload = copy.deepcopy(ledger.export().payload)
    payload["entries"][1]["signature"] = payload["entries"][2]["signature"]
    with pytest.raises(GemelError) as caught:
        verify_ledger_document(sign_document("ledger", payload, KEY, role="node"))
    assert caught.value.code == "GEM102"


def test_what_is_on_disk_covers_what_was_computed_whenever_the_node_is_killed(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_loop.py")
    run = subprocess.run(
        [sys.executable, script, tmp_path, "--trials", "20", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["trials"] == 20
    assert seen["computed"] > 0
