"""The audit log holds what a node did: nobody can change, move, remove or cut off a line without its being seen."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gemel.client_node import audit_log
from gemel.client_node.audit_log import EventKind, verify_audit_log_document
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.client_node.rotation import is_unfinished, rotate_keys
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document

LINES = 6


def make_home(folder: Path) -> NodeHome:
    config = NodeConfig(
        schema=SCHEMA,
        site="alpha",
        export=str(folder),
        coordinator_public_key=SigningKey.generate().public_hex,
        stewards={},
        programmes=(),
        epsilon_cap=3.0,
        delta=1e-5,
        minimum_patients=20,
    )
    return NodeHome.create(folder / "node", config)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return make_home(tmp_path)


@pytest.fixture
def written(home: NodeHome) -> NodeHome:
    for number in range(LINES):
        audit_log.record(home, EventKind.ANSWERED, task=f"train/{number}", status="released", bytes=number)
    return home


def segments(home: NodeHome) -> list[Path]:
    return sorted((home.folder / "audit").glob("*.jsonl"))


def fails(home: NodeHome) -> bool:
    with pytest.raises(GemelError) as error:
        audit_log.entries(home)
    return error.value.code == "GEM415"


# --- what is written stays -----------------------------------------------------------------------


def test_lines_follow_one_another_and_verify(written: NodeHome) -> None:
    found = audit_log.entries(written)
    assert [entry.seq for entry in found] == list(range(1, LINES + 1))
    assert [entry.facts["bytes"] for entry in found] == list(range(LINES))


def test_segments_are_closed_when_full_and_the_next_one_goes_on_from_their_head(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "SEGMENT_BYTES", 1500)
    for number in range(12):
        audit_log.record(home, EventKind.ANSWERED, task=str(number))
    assert len(segments(home)) > 2
    assert [entry.facts["task"] for entry in audit_log.entries(home)] == [str(n) for n in range(12)]
    assert [int(path.stem) for path in segments(home)][:2] == [
        1,
        segments(home)[0].read_bytes().count(b"\n") + 1,
    ]
    segments(home)[1].unlink()
    assert fails(home)


def _edited(lines: list[bytes]) -> list[bytes]:
    entry = json.loads(lines[2])
    entry["facts"]["bytes"] = 99
    return [*lines[:2], json.dumps(entry).encode(), *lines[3:]]


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a fact is edited": _edited,
    "two lines change places": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a line is removed": lambda lines: lines[:2] + lines[3:],
    "the first line is removed": lambda lines: lines[1:],
    "the end is cut off": lambda lines: lines[:-1],
    "all is removed": lambda _lines: [],
    "a line is there twice": lambda lines: [*lines, lines[-1]],
    "a line is no line": lambda lines: [*lines[:2], b"{}", *lines[3:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_log_that_was_changed_is_seen(written: NodeHome, change: str) -> None:
    (path,) = segments(written)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in CHANGES[change](lines)))
    assert fails(written)


@pytest.mark.parametrize("change", ["the end is cut off", "all is removed"])
def test_nothing_is_added_to_a_log_whose_end_was_cut_off(written: NodeHome, change: str) -> None:
    (path,) = segments(written)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in CHANGES[change](lines)))
    for attempt in (lambda: audit_log.check(written), lambda: audit_log.record(written, EventKind.STOPPED)):
        with pytest.raises(GemelError, match="GEM415"):
            attempt()


def test_a_line_of_another_key_does_not_count(written: NodeHome) -> None:
    (path,) = segments(written)
    other = SigningKey.generate()
    newest = audit_log.entries(written)[-1]
    forged = msgspec.structs.replace(
        newest, seq=newest.seq + 1, previous=audit_log.link(newest), public_key=other.public_hex
    )
    digest = audit_log.sha256_hex(audit_log._body(forged))
    signature = other.sign(audit_log._signed_bytes(digest))
    forged = msgspec.structs.replace(forged, sha256=digest, signature=signature)
    path.write_bytes(path.read_bytes() + msgspec.json.encode(forged) + b"\n")
    assert fails(written)


@pytest.mark.parametrize("anchor", ["gone", "of another key", "older"])
def test_the_end_cannot_be_cut_off_with_its_anchor_changed(written: NodeHome, anchor: str) -> None:
    (path,) = segments(written)
    file = written.folder / "audit" / "anchor.json"
    older, lines = file.read_bytes(), path.read_bytes()
    for _ in range(2):
        audit_log.record(written, EventKind.STOPPED)
    path.write_bytes(lines[:-10] if anchor == "older" else lines)
    if anchor == "gone":
        file.unlink()
    elif anchor == "of another key":
        told = json.loads(older)
        content = audit_log._anchor_bytes(written, told["seq"], told["link"])
        file.write_text(json.dumps({**told, "signature": SigningKey.generate().sign(content)}))
    else:
        file.write_bytes(older)
    assert fails(written)


# --- crashes, full disks -------------------------------------------------------------------------


def test_a_line_that_was_torn_is_dropped_and_said_to_be(written: NodeHome) -> None:
    (path,) = segments(written)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:150])
    audit_log.check(written)
    audit_log.record(written, EventKind.STARTED)
    assert [entry.kind for entry in audit_log.entries(written)[LINES:]] == ["torn", "started"]


@pytest.mark.parametrize("behind", [1, 3])
def test_a_crash_between_a_line_and_its_anchor_loses_nothing(written: NodeHome, behind: int) -> None:
    file = written.folder / "audit" / "anchor.json"
    before = file.read_bytes()
    for _ in range(behind):
        audit_log.record(written, EventKind.STARTED)
    file.write_bytes(before)
    audit_log.record(written, EventKind.STOPPED)
    assert [entry.kind for entry in audit_log.entries(written)[LINES:]] == ["started"] * behind + ["stopped"]


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_half_a_line_is_an_error_and_leaves_no_half(written: NodeHome) -> None:
    (path,) = segments(written)
    whole = path.read_bytes()
    with files_at_most(len(whole) + 100), pytest.raises(GemelError, match="GEM416"):
        audit_log.record(written, EventKind.STARTED)
    assert path.read_bytes() == whole
    audit_log.record(written, EventKind.STARTED)
    assert len(audit_log.entries(written)) == LINES + 1


def _killed_while_writing(home: NodeHome, after_s: float) -> list[str]:
    loop = Path(__file__).with_name("audit_log_loop.py")
    process = subprocess.Popen(
        [sys.executable, str(loop), str(home.folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [process.stdout.readline()]
    time.sleep(after_s)
    process.kill()
    told += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line for line in told if line.endswith("\n")]


def test_every_line_that_was_durable_is_there_after_kill_9(home: NodeHome) -> None:
    rng = random.Random(0)
    for _ in range(5):
        told = _killed_while_writing(home, rng.uniform(0.0, 0.05))
        found = {f"{entry.seq} {entry.sha256}\n" for entry in audit_log.entries(home)}
        assert told
        assert set(told) <= found
        audit_log.record(home, EventKind.STARTED)


# --- outside the hospital ------------------------------------------------------------------------


def test_an_exported_log_verifies_with_nothing_but_itself(written: NodeHome) -> None:
    assert verify_audit_log_document(audit_log.export(written)) == audit_log.entries(written)
    assert [e.seq for e in verify_audit_log_document(audit_log.export(written, since=4))] == [4, 5, 6]


@pytest.mark.parametrize("change", ["a line less", "a fact", "the order", "the head", "the key", "the end"])
def test_an_exported_log_that_was_changed_does_not_verify(written: NodeHome, change: str) -> None:
    payload = json.loads(audit_log.export(written).to_bytes())["payload"]
    lines = payload["entries"]
    signer = written.key
    if change == "a line less":
        del lines[2]
    elif change == "a fact":
        lines[2]["facts"]["bytes"] = 7
    elif change == "the order":
        lines[1], lines[2] = lines[2], lines[1]
    elif change == "the head":
        payload["head"] = "0" * 64
    elif change == "the key":
        signer = SigningKey.generate()
        payload["public_key"] = signer.public_hex
    else:
        lines.pop()
    with pytest.raises(GemelError, match="GEM415"):
        verify_audit_log_document(sign_document("audit-log", payload, signer, role="node"))


# --- a new key -----------------------------------------------------------------------------------


def test_the_log_goes_on_under_a_new_key(written: NodeHome) -> None:
    old = written.key.public_hex
    request = rotate_keys(written)
    assert request.succeeds == old
    audit_log.record(written, EventKind.STARTED)
    found = verify_audit_log_document(audit_log.export(written))
    assert [entry.kind for entry in found[LINES:]] == ["succeeded", "started"]
    assert [entry.public_key == old for entry in found] == [True] * (LINES + 1) + [False]
    with written.open_ledger() as ledger:
        ledger.verify()
        assert ledger.keys() == (old,)  # nothing was written under the new one yet


@pytest.mark.parametrize("step", range(18))
def test_a_rotation_that_dies_at_any_step_is_finished_by_asking_again(
    written: NodeHome, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from gemel.client_node import rotation

    class Died(BaseException):
        pass

    count = 0
    real_sync, real_replace, real_succeed = rotation._sync, rotation.os.replace, rotation.audit_log.succeed

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == step + 1:
                raise Died
            return real(*args, **named)

        return call

    old = written.key.public_hex
    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_sync", dying(real_sync))
        patch.setattr(rotation.os, "replace", dying(real_replace))
        patch.setattr(rotation.audit_log, "succeed", dying(real_succeed))
        try:
            rotate_keys(written)
        except Died:
            assert is_unfinished(written)
    if is_unfinished(written):
        rotate_keys(written)
    join = json.loads((written.folder / "join.json").read_bytes())["payload"]
    assert join["succeeds"] == old
    assert join["node_public_key"] == written.key.public_hex != old
    assert sorted(p.name for p in (written.folder / "keys").iterdir()) == [
        "dates.json", "node.key", "pseudonym.key", "transport.key", "transport.pub",
    ]  # fmt: skip
    kinds = [entry.kind for entry in audit_log.entries(written)]
    assert kinds.count(EventKind.SUCCEEDED) == 1
    with written.open_ledger() as ledger:
        ledger.verify()
        assert [entry.kind for entry in ledger.entries()] == ["opened", "succeeded"]
