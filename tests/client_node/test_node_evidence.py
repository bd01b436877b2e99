"""The evidence pack: what was released to whom, in words, and nothing about a person."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.cli.main import app
from gemel.client_node import approvals, patients
from gemel.client_node.approvals import Decision
from gemel.client_node.evidence import evidence
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Request, read_reply, sign_request
from gemel.core.signing import SigningKey, fingerprint, read_signed, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.privacy.ledger import decide_expiry
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"
PROPOSER = SigningKey.generate()


def _ask(federation: Federation, study: Study, task: str) -> Envelope:
    request = Request(study_sha256=study.sha256, task=task, inputs_sha256=sha256_hex(b""))
    document = sign_document("study", study.to_payload(), PROPOSER, role="proposer")
    signed = sign_request(request, federation.coordinator.key)
    got = answer(federation.nodes[SITE], Envelope(document=signed.to_bytes(), study=document.to_bytes()))
    assert read_reply(got.document)[0].code == ""
    return got


def _expire(federation: Federation, study: Study) -> None:
    home = federation.nodes[SITE]
    with home.open_ledger() as ledger:
        reserved = ledger.reserved(study.sha256)
        assert reserved is not None
        decided = decide_expiry(
            site=SITE, reservation=reserved.sha256, tasks=("evaluate",), reason="stopped early",
            steward=STEWARD, key=federation.stewards[SITE],
        )  # fmt: skip
        ledger.expire(decided, stewards=home.config.stewards)


@pytest.fixture
def ran(federation: Federation, make_study: MakeStudy) -> tuple[NodeHome, Study, bytes]:
    """A study that was counted, one task of it given back, and one study that a steward refused."""
    study = make_study(title="Livers <script>alert(1)</script>", purpose="To learn about livers.")
    _ask(federation, study, HELLO)
    federation.approve(SITE, study.sha256)
    released = _ask(federation, study, "count").payload
    _expire(federation, study)
    other = make_study(study_id="other", title="Hearts", purpose="To learn about hearts.")
    _ask(federation, other, HELLO)
    home = federation.nodes[SITE]
    approvals.decide(
        home, approvals.proposal_of(home, other.sha256), Decision.REFUSED, steward=STEWARD,
        key=federation.stewards[SITE], reason="not our patients",
    )  # fmt: skip
    return home, study, released


def _gathered(home: NodeHome) -> dict[str, Any]:
    with home.open_ledger() as ledger:
        return evidence(home, ledger).payload


def test_it_says_what_was_released_to_whom_and_what_became_of_each_task(
    ran: tuple[NodeHome, Study, bytes],
) -> None:
    home, study, released = ran
    found = _gathered(home)
    (told,) = found["studies"]
    assert (told["document"]["title"], told["document"]["purpose"]) == (study.title, study.purpose)
    assert told["document"]["signed_by"] == [{"role": "proposer", "key": fingerprint(PROPOSER.public_hex)}]
    assert told["approved"]["steward"] == STEWARD
    assert found["released_to"] == fingerprint(home.config.coordinator_public_key)
    tasks = {task["task"]: task for task in told["tasks"]}
    assert list(tasks) == list(study.tasks)
    assert (tasks["count"]["state"], tasks["count"]["release_sha256"]) == ("released", sha256_hex(released))
    assert tasks["evaluate"]["state"].startswith("given back")
    assert tasks["evaluate"]["decision"]["reason"] == "stopped early"
    assert tasks["train/1"]["state"] == "not begun: nothing was computed"
    standing = [charge for charge in study.charges() if charge.task != "evaluate"]
    assert told["cost"]["epsilon"] == price(standing, delta=home.config.delta)
    assert [o["document"]["title"] for o in found["refused"]] == ["Hearts"]
    assert found["refused"][0]["said"]["reason"] == "not our patients"
    assert found["waiting"] == []


def test_a_task_that_began_and_was_not_released_counts_as_spent(
    federation: Federation, ran: tuple[NodeHome, Study, bytes]
) -> None:
    home, study, _ = ran
    with home.open_ledger() as ledger:
        reserved = ledger.reserved(study.sha256)
        assert reserved is not None
        ledger.begin(
            study_sha256=study.sha256,
            task="synthesise/1",
            request_sha256="22" * 32,
            snapshot=reserved.snapshot,
        )
    tasks = {task["task"]: task for task in _gathered(home)["studies"][0]["tasks"]}
    assert tasks["synthesise/1"]["state"].startswith("begun, and no release is on record")


def test_it_names_no_person_and_no_count_of_them(ran: tuple[NodeHome, Study, bytes]) -> None:
    home, _, _ = ran
    dataset = patients.load(home, PROGRAMME)
    found = _gathered(home)
    text = json.dumps(found)
    assert not any(name in text for name in dataset.patient_ids)
    people = found["studies"][0]["people"]
    assert people["everyone"] == "between 100 and 1,000"
    training, held_out = dataset.split()
    # The bounds that are named are powers of ten, which a share may number by chance.
    for exact in {len(dataset), len(training), len(held_out)} - {10, 100, 1000}:
        assert not re.search(rf"\b{exact}\b", json.dumps(people))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_the_command_writes_a_signed_document_and_a_page_without_scripts(
    ran: tuple[NodeHome, Study, bytes], tmp_path: Path
) -> None:
    home, _, released = ran
    run = CliRunner().invoke(
        app, ["ledger", "evidence", str(home.folder), "-o", str(tmp_path / "pack"), "--format", "json"]
    )
    assert run.exit_code == 0, run.stderr
    document = read_signed((tmp_path / "pack" / "evidence.json").read_bytes(), kind="evidence")
    assert document.signatures[0].public_key == home.key.public_hex
    html = (tmp_path / "pack" / "evidence.html").read_text()
    page = _Tags()
    page.feed(html)
    assert not page.tags & {"script", "img", "iframe", "link", "form"}
    assert page.links == []
    assert "Livers &lt;script&gt;" in html
    for said in (
        document.payload_sha256, "To learn about livers.", STEWARD, sha256_hex(released), "stopped early",
        "not our patients", "between 100 and 1,000", f"ε {document.payload['cap']['epsilon']}",
    ):  # fmt: skip
        assert said in html
    checked = CliRunner().invoke(
        app,
        ["verify", str(tmp_path / "pack" / "evidence.json"), "--signer", document.payload["node"]],
    )
    assert checked.exit_code == 0, checked.stderr


def test_a_damaged_ledger_gives_no_evidence(ran: tuple[NodeHome, Study, bytes], tmp_path: Path) -> None:
    home, _, _ = ran
    (home.folder / "ledger.sqlite.anchor").write_bytes(b"{}")
    run = CliRunner().invoke(app, ["ledger", "evidence", str(home.folder), "-o", str(tmp_path / "pack")])
    assert run.exit_code == 3
    assert run.stderr.startswith("GEM302")
    assert not (tmp_path / "pack").exists()


def test_a_study_whose_document_is_gone_is_listed_by_its_hash(ran: tuple[NodeHome, Study, bytes]) -> None:
    home, study, _ = ran
    for name in ("proposal", "approval"):
        (home.folder / "studies" / f"{study.sha256}.{name}.json").unlink()
    shutil.rmtree(home.folder / "studies" / f"{study.sha256}.decisions")
    (told,) = _gathered(home)["studies"]
    assert (told["document"], told["approved"], told["study_sha256"]) == (None, None, study.sha256)
    msgspec.json.encode(told)
