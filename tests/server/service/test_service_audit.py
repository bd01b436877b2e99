"""The audit log: one chain, whoever writes at the same time; what was changed or left out is found, offline."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_service import Running
from sqlalchemy import text

from gemel.core.errors import GemelError
from gemel.core.signing import read_signed, sign_document
from gemel.server.service.audit import SERVICE, Actor, AuditLog
from gemel.server.service.audit_chain import AuditEntry, verify_audit_document, verify_chain
from gemel.server.service.roles import Role
from gemel.server.store import open_store


def _log(tmp_path: Path, entries: int = 0) -> AuditLog:
    log = AuditLog(open_store(f"sqlite:///{tmp_path / 'a.sqlite'}"))
    log.begin()
    for number in range(entries):
        with log.act(Actor("u1", "ada"), "thing.do", target=str(number), size="1"):
            pass
    return log


def test_what_is_done_and_its_entry_are_one_transaction(tmp_path: Path) -> None:
    log = _log(tmp_path)
    with log.engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name TEXT)"))
    with log.act(SERVICE, "thing.make", target="one") as act:
        act.connection.execute(text("INSERT INTO things VALUES ('one')"))
    for name, fault in (("two", GemelError("GEM904", "no")), ("three", ZeroDivisionError())):
        with pytest.raises(type(fault)):
            _make(log, name, fault)
    with log.engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM things")).scalars().all() == ["one"]
    assert [(e.target, e.outcome, e.code) for e in log.entries()] == [
        ("one", "ok", ""),
        ("two", "refused", "GEM904"),
    ]
    verify_chain(log.entries())
    log.engine.dispose()


def _make(log: AuditLog, name: str, fault: Exception) -> None:
    with log.act(SERVICE, "thing.make", target=name) as act:
        act.connection.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})
        raise fault


def test_many_at_once_write_one_chain(tmp_path: Path) -> None:
    log = _log(tmp_path)
    faults: list[Exception] = []

    def write(who: int) -> None:
        try:
            for number in range(8):
                with log.act(Actor(f"u{who}", ""), "thing.do", target=str(number)):
                    pass
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    entries = log.entries()
    assert [entry.seq for entry in entries] == list(range(1, 49))
    assert verify_chain(entries) == log.head()[1]
    log.engine.dispose()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[AuditEntry]:
    log = _log(tmp_path_factory.mktemp("chain"), entries=12)
    entries = log.entries()
    log.engine.dispose()
    return entries


FIELDS = ("seq", "at", "actor", "actor_name", "action", "target", "outcome", "code", "previous", "sha256")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_an_exported_log_is_found(chain: list[AuditEntry], data: st.DataObject) -> None:
    entries = [msgspec.to_builtins(entry) for entry in chain]
    how = data.draw(st.sampled_from(["change", "remove", "swap", "repeat", "cut", "detail"]))
    at = data.draw(st.integers(0, len(entries) - 2))
    if how == "change":
        field = data.draw(st.sampled_from(FIELDS))
        entries[at][field] = entries[at][field] + 1 if field == "seq" else entries[at][field] + "x"
    elif how == "detail":
        entries[at]["detail"] = {"size": "2"}
    elif how == "remove":
        del entries[at]
    elif how == "swap":
        entries[at], entries[at + 1] = entries[at + 1], entries[at]
    elif how == "repeat":
        entries.insert(at, entries[at])
    else:
        entries = entries[: at + 1]
    payload = {"schema": "gemel/audit/1", "before": "0" * 64, "head": chain[-1].sha256, "entries": entries}
    document = sign_document("audit", payload, _key(), role="coordinator")
    with pytest.raises(GemelError, match="GEM912"):
        verify_audit_document(document)


def test_an_export_is_verified_offline_by_the_command_line(service: Running, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gemel.cli.main import app

    _, secret = service.user("auditor", Role.AUDITOR)
    with service.client(secret) as client:
        exported = client.get("/api/v1/audit/export").content
        rest = client.get("/api/v1/audit/export", params={"after": 1}).content
    document = read_signed(exported, kind="audit")
    entries = verify_audit_document(document)
    assert [e.action for e in entries][-1] == "audit.export"
    assert verify_audit_document(read_signed(rest, kind="audit"))[0].seq == 2
    path = tmp_path / "audit.json"
    path.write_bytes(exported)
    got = CliRunner().invoke(app, ["verify", str(path), "--format", "json"])
    assert got.exit_code == 0, got.output
    assert "entries" in json.dumps(json.loads(got.stdout)["checks"])


def test_who_did_what_and_what_was_refused_is_on_record(service: Running) -> None:
    ada, secret = service.user("ada", Role.VIEWER)
    with service.client(secret) as client:
        client.post("/api/v1/me/tokens", json={"label": "cron"})
        client.get("/api/v1/users")  # not permitted
    with service.client() as client:
        client.post("/api/v1/login", json={"name": "ada", "password": "my other password"})
        client.post("/api/v1/login", json={"name": "oops-my-password", "password": "x"})
    got = [(e.actor, e.action, e.outcome, e.code, e.target) for e in service.service.log.entries()][1:]
    token = got[0][4]
    assert got == [
        (ada.id, "token.make", "ok", "", token),
        (ada.id, "door.refused", "refused", "GEM904", "users_read"),
        ("nobody", "session.begin", "refused", "GEM902", ada.id),
        ("nobody", "session.begin", "refused", "GEM902", "unknown"),
    ]
    assert "oops" not in str(service.service.log.entries())


def test_a_row_that_was_changed_in_the_store_is_found(service: Running) -> None:
    for number in range(3):
        service.user(f"user{number}", Role.VIEWER)
    with service.service.engine.begin() as connection:
        connection.execute(text("UPDATE audit SET actor_name = 'eve' WHERE seq = 2"))
    with pytest.raises(GemelError, match="Entry 2 was changed"):
        verify_chain(service.service.log.entries())


def _key():  # type: ignore[no-untyped-def]
    from gemel.core.signing import SigningKey

    return SigningKey.generate()
