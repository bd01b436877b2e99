"""What a node answers is in its audit log before it leaves, and in neither of its logs is anything of a patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from one_node import Talk

from gemel.cli.demo.federation import Federation
from gemel.client_node import allow_list, audit_log, event_log, patients, permissions, tasks
from gemel.client_node.approvals import Decision
from gemel.client_node.key_dates import KeyDates
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey
from gemel.core.study import Study
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

NAMED = f"{PROGRAMME.name}@{PROGRAMME.version}"

MakeStudy = Callable[..., Study]
TOLD = {
    "study", "task", "request", "status", "code", "payload", "bytes", "signed_by", "decision", "steward", "document",
}  # fmt: skip


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy) -> Talk:
    return Talk(federation, make_study())


def kinds(talk: Talk) -> list[str]:
    return [entry.kind.value for entry in talk.log()]


def test_a_studys_life_is_in_the_log(talk: Talk) -> None:
    talk.propose()
    talk.decide()
    assert talk.ask(HELLO).status is Status.APPROVED
    got = talk.send(talk.envelope("count"))
    talk.decide(Decision.REFUSED)
    assert talk.ask("count").code == "GEM401"
    assert kinds(talk) == ["arrived", "answered", "decided", "answered", "released", "decided", "answered"]
    released = talk.log()[4].facts
    assert released["payload"] == sha256_hex(got.payload) == read_reply(got.document)[0].payload_sha256
    assert released["bytes"] == len(got.payload)
    assert talk.log()[-1].facts["code"] == "GEM401"


def test_a_study_that_waits_fills_no_log(talk: Talk) -> None:
    for _ in range(4):
        assert talk.ask(HELLO).status is Status.PENDING
    assert kinds(talk) == ["arrived", "answered"]


def test_what_somebody_sends_makes_no_long_line_and_no_file(talk: Talk) -> None:
    request = Request(study_sha256="a" * 64, task="x\x1b[2J\n" + "y" * 100_000, inputs_sha256="")
    before = sorted(path.name for path in (talk.home.folder / "studies").iterdir())
    for task in (request.task, HELLO):
        forged = sign_request(msgspec.structs.replace(request, task=task), SigningKey.generate())
        got = talk.send(Envelope(document=forged.to_bytes(), study=talk.study.to_bytes()))
        assert read_reply(got.document)[0].code == "GEM102"
    assert sorted(path.name for path in (talk.home.folder / "studies").iterdir()) == before
    lines = [*(talk.home.folder / "audit").glob("*.jsonl"), talk.home.folder / event_log.NAME]
    assert all(len(line) < 1500 for path in lines for line in path.read_bytes().splitlines())
    assert "\x1b" not in str(talk.log()[0].facts["task"])


def test_neither_log_tells_of_a_patient(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.propose()
    talk.decide()
    talk.ask("count")
    talk.ask("train/1", pack_arrays(make_twin(PROGRAMME).to_arrays()))

    def fail(*_args: object, **_named: object) -> None:
        raise ValueError("patient p1-4711 was born on 1950-01-01")

    monkeypatch.setattr(tasks, "compute", fail)
    assert talk.ask("synthesise/1").status is Status.FAILED
    dataset = patients.load(talk.home, PROGRAMME)
    secrets = [*dataset.patient_ids[:5], "p1-4711", "1950-01-01", "ValueError"]
    count = str(len(dataset))

    def tells(facts: dict[str, Any]) -> bool:
        said = [str(value) for value in facts.values()]
        return count in said or any(secret in one for secret in secrets for one in said)

    for line in (talk.home.folder / event_log.NAME).read_text().splitlines():
        told = json.loads(line)
        assert set(told) <= TOLD | {"at", "level", "event", "site", "seconds"}
        assert not tells(told)
    for entry in talk.log():
        assert set(entry.facts) <= TOLD
        assert not tells(entry.facts)
    modes = {path.stat().st_mode & 0o077 for path in (talk.home.folder / "audit").glob("*.jsonl")}
    assert modes | {(talk.home.folder / event_log.NAME).stat().st_mode & 0o077} == {0}


def test_what_cannot_be_written_down_is_not_sent_and_is_sent_when_it_can(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.propose()
    talk.decide()

    def full(_path: Path, _line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "_write_line", full)
        refused = talk.send(talk.envelope("count"))
    assert read_reply(refused.document)[0].code == "GEM416"
    assert refused.payload == b""
    with talk.home.open_ledger() as ledger:  # the ledger was first: what was computed is charged
        assert ledger.charged(talk.study.payload_sha256, "count") is not None
    assert talk.ask("count").status is Status.RELEASED
    with talk.home.open_ledger() as ledger:
        assert [entry.kind for entry in ledger.entries()].count("begun") == 1


def test_a_node_whose_log_was_cut_off_answers_nothing(talk: Talk) -> None:
    talk.propose()
    talk.decide()
    (path,) = (talk.home.folder / "audit").glob("*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert talk.ask("count").code == "GEM415"
    with talk.home.open_ledger() as ledger:
        assert [entry.kind for entry in ledger.entries()] == ["opened"]


def test_below_its_level_nothing_is_in_the_structured_log(talk: Talk) -> None:
    talk.home = talk.home.changed(log_level="WARNING")
    talk.propose()
    assert not (talk.home.folder / event_log.NAME).exists()
    talk.decide(Decision.REFUSED)
    talk.ask("count")
    (line,) = (talk.home.folder / event_log.NAME).read_text().splitlines()
    assert json.loads(line)["code"] == "GEM401"


# --- which code, which keys ----------------------------------------------------------------------


def test_other_code_than_was_allowed_computes_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.propose()
    talk.decide()
    monkeypatch.setattr(allow_list, "installed_code", lambda: "f" * 64)
    assert talk.ask("count").code == "GEM414"
    talk.home = permissions.allow(talk.home, NAMED)
    assert talk.ask("count").status is Status.RELEASED


def test_a_programme_that_is_withdrawn_runs_no_more(talk: Talk) -> None:
    talk.propose()
    talk.decide()
    talk.home = permissions.withdraw(talk.home, NAMED)
    assert talk.ask("count").code == "GEM104"
    with pytest.raises(GemelError, match="GEM104"):
        permissions.withdraw(talk.home, NAMED)
    with pytest.raises(GemelError, match="GEM104"):
        permissions.allow(talk.home, f"{PROGRAMME.name}@0")


def test_a_configuration_without_a_hash_allows_nothing(talk: Talk) -> None:
    talk.home = talk.home.changed(code={})
    assert talk.ask(HELLO).code == "GEM414"


@pytest.mark.parametrize("room", allow_list.ROOMS)
def test_any_change_of_what_touches_patients_changes_the_hash(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in allow_list.ROOMS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("one = 1\n")
    monkeypatch.setattr(allow_list, "_folder", lambda name: tmp_path / name)
    hashes = [allow_list.installed_code.__wrapped__()]
    changed = tmp_path / room / "code.py"
    changed.write_text("one = 2\n")
    hashes.append(allow_list.installed_code.__wrapped__())
    (tmp_path / room / "more.so").write_bytes(b"\x7fELF")
    hashes.append(allow_list.installed_code.__wrapped__())
    (tmp_path / room / "__pycache__").mkdir()
    (tmp_path / room / "__pycache__" / "code.pyc").write_bytes(b"")  # made by running it
    assert allow_list.installed_code.__wrapped__() == hashes[-1]
    changed.unlink()
    hashes.append(allow_list.installed_code.__wrapped__())
    assert len(set(hashes)) == 4


def test_what_is_hashed_are_the_files_that_run() -> None:
    found = allow_list.file_hashes()
    assert {path.split("/")[0] for path in found} == set(allow_list.ROOMS)
    for module in (tasks, audit_log):
        path = Path(str(module.__file__))
        assert found[f"client_node/{path.name}"] == sha256_hex(path.read_bytes())


def test_under_keys_that_expired_a_node_answers_nothing(talk: Talk) -> None:
    path = talk.home.folder / "keys" / "dates.json"
    dates = msgspec.json.decode(path.read_bytes(), type=KeyDates)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(dates, expires_at=dates.made_at)))
    assert talk.ask(HELLO).code == "GEM417"
    path.unlink()
    assert talk.ask(HELLO).code == "GEM417"
