"""`gemel audit`: what it says, how it ends, and that it leaves a home as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gemel.cli import audit as command
from gemel.cli.demo.federation import Federation
from gemel.cli.main import app
from gemel.client_node.audit import own_ledger
from gemel.client_node.audit.studies import files_of, newest_approved, usual_study
from gemel.client_node.node import answer
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.privacy.audit.report import Check
from gemel.twins.programmes.fatty_liver import PROGRAMME

RUNNER = CliRunner()
SITE = "beta"
HELD = Check("noise", "The noise is <b>there</b>.", "1", "1", passed=True, numbers={"measured": 1.0})
CONTROL = Check("canaries", "The attack works.", "ε > 1", "ε >= 4", passed=True, control=True)
BROKEN = Check("gate", "Refused: a forgery.", "GEM102", "released, 9 bytes", passed=False)
MakeStudy = Callable[..., Study]


def _run(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["audit", *map(str, arguments)])


def _finding(patch: pytest.MonkeyPatch, *checks: Check) -> None:
    patch.setattr(command, "_checks", lambda *_args, **_named: iter(checks))


def test_what_held_is_said_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _finding(monkeypatch, HELD, CONTROL)
    result = _run("--quick")
    assert result.exit_code == 0
    for text in ("The noise is <b>there</b>.", "held", "control", "2 of 2 held", "never a proof"):
        assert text in result.stdout
    assert "no budget is spent" in result.stderr


def test_a_broken_promise_is_gem330_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    _finding(monkeypatch, HELD, BROKEN)
    result = _run()
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout
    assert "GEM330" in result.stderr
    assert "1 of 2" in result.stderr


def test_json_is_one_object_with_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    _finding(monkeypatch, HELD, BROKEN)
    result = _run("--format", "json", "--seed", 5)
    found = json.loads(result.stdout)
    assert (found["passed"], found["seed"], found["effort"]) == (False, 5, "full")
    assert found["checks"][0]["numbers"] == {"measured": 1.0}
    assert found["error"]["code"] == "GEM330"
    assert found["exit_code"] == result.exit_code == 1
    assert found["programme"] == f"{PROGRAMME.name}@{PROGRAMME.version}"


def test_the_page_is_whole_and_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _finding(monkeypatch, HELD, CONTROL, BROKEN)
    _run("--html", tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert "&lt;b&gt;there&lt;/b&gt;" in page
    assert "a promise is broken" in page
    assert "<script" not in page
    assert "http" not in page


def test_a_page_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _finding(monkeypatch, HELD)
    assert _run("--html", tmp_path / "nowhere" / "audit.html").exit_code != 0


def test_a_programme_that_is_not_installed_is_refused() -> None:
    result = _run("--programme", "weather")
    assert "GEM104" in result.stderr
    assert result.exit_code != 0


def test_what_is_no_home_is_refused(tmp_path: Path) -> None:
    assert "GEM407" in _run(tmp_path).stderr


def test_the_usual_study_costs_what_it_says() -> None:
    study = usual_study(PROGRAMME)
    assert price(study.charges(), delta=study.privacy.delta) <= study.privacy.epsilon


# --- on a hospital's home ------------------------------------------------------------------------


@pytest.fixture
def audited(federation: Federation, make_study: MakeStudy) -> tuple[Federation, Study]:
    """A hospital with one approved study whose count was released."""
    study = make_study()
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    for task in (HELLO, "count"):
        request = Request(study_sha256=study.sha256, task=task, inputs_sha256=sha256_hex(b""))
        signed = sign_request(request, federation.coordinator.key)
        got = answer(federation.nodes[SITE], Envelope(signed.to_bytes(), document.to_bytes()))
        if task == HELLO:
            federation.approve(SITE, study.sha256)
    assert read_reply(got.document)[0].status is Status.RELEASED
    return federation, study


def test_the_plan_is_that_of_the_newest_approved_study(audited: tuple[Federation, Study]) -> None:
    federation, study = audited
    assert newest_approved(federation.nodes[SITE]) == study
    assert newest_approved(federation.nodes[SITE], programme="weather") is None
    assert newest_approved(federation.nodes["alpha"]) is None


def test_a_ledger_in_order_passes_and_is_left_as_it_was(audited: tuple[Federation, Study]) -> None:
    home = audited[0].nodes[SITE]
    before = files_of(home.folder)
    checks = list(own_ledger.attack(home))
    assert len(checks) == 3
    assert all(check.passed for check in checks), checks
    assert files_of(home.folder) == before
    assert any(name.startswith("ledger") for name in before)


def test_a_release_that_nobody_charged_is_found(audited: tuple[Federation, Study]) -> None:
    home = audited[0].nodes[SITE]
    (kept,) = (home.folder / "outbox").glob("*.json")
    for suffix in (".json", ".safetensors"):
        copy = kept.with_name("ab" * 32 + suffix)
        copy.write_bytes(kept.with_suffix(suffix).read_bytes())
    (broken,) = [check for check in own_ledger.attack(home) if not check.passed]
    assert broken.measured == "1 uncovered of 2"


def test_a_ledger_that_was_changed_is_found(audited: tuple[Federation, Study]) -> None:
    home = audited[0].nodes[SITE]
    path = home.folder / "ledger.sqlite.anchor"
    path.write_bytes(path.read_bytes().replace(b'"seq":', b'"sek":'))
    (check,) = own_ledger.attack(home)
    assert not check.passed


@pytest.mark.heavy
def test_a_sound_hospital_passes_the_whole_audit(audited: tuple[Federation, Study]) -> None:
    federation, study = audited
    result = _run(federation.nodes[SITE].folder, "--quick", "--format", "json")
    found = json.loads(result.stdout)
    assert [check for check in found["checks"] if not check["passed"]] == []
    assert result.exit_code == 0
    assert found["study_sha256"] == study.sha256
    attacks = {check["attack"] for check in found["checks"]}
    assert attacks >= {"sensitivity", "noise", "sampling", "canaries", "membership", "inversion", "gate"}
    assert attacks >= {"table noise", "differencing", "accounting", "ledger", "releases", "own ledger"}
