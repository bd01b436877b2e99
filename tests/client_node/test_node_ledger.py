"""How a node uses its ledger: a study charged whole, tasks begun one by one, a rolled-back ledger not answered from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import patients, tasks
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, LedgerHead, Reply, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.privacy.ledger import decide_expiry
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"


def ask(
    federation: Federation, study: Study, task: str, *, heads: dict[str, LedgerHead] | None = None
) -> tuple[Reply, Envelope]:
    """One question of the coordinator's; `heads` is what it has seen of ledgers."""
    request = Request(
        study_sha256=study.sha256, task=task, inputs_sha256=sha256_hex(b""), anchors=heads or {}
    )
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    signed = sign_request(request, federation.coordinator.key)
    envelope = Envelope(document=signed.to_bytes(), study=document.to_bytes())
    got = answer(federation.nodes[SITE], envelope)
    return read_reply(got.document)[0], got


def approve(federation: Federation, study: Study) -> None:
    assert ask(federation, study, HELLO)[0].status is Status.PENDING
    federation.approve(SITE, study.sha256)


def kinds(home: NodeHome) -> list[str]:
    with home.open_ledger() as ledger:
        return [entry.kind.value for entry in ledger.entries()]


def head_of(reply: Reply, home: NodeHome) -> dict[str, LedgerHead]:
    return {home.key.public_hex: LedgerHead(seq=reply.ledger_seq, sha256=reply.ledger_head)}


def test_the_first_task_reserves_the_whole_study_for_the_patients_of_its_shares(
    federation: Federation, make_study: MakeStudy
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    reply, _ = ask(federation, study, "count")
    assert reply.status is Status.RELEASED
    assert kinds(home) == ["opened", "reserved", "begun", "released"]
    dataset = patients.load(home, PROGRAMME)
    with home.open_ledger() as ledger:
        reserved = ledger.reserved(study.sha256)
        assert reserved is not None
        assert reserved.charges == study.charges()
        assert ledger.persons() == len(dataset)
        assert (
            ledger.reserve(
                study_sha256=study.sha256,
                programme=reserved.programme,
                snapshot=dataset.snapshot,
                charges=study.charges(),
                people=dataset.people(),
            )
            == reserved
        )
    assert reply.epsilon_spent == price(study.charges(), delta=home.config.delta)


def test_the_second_task_adds_nothing_but_that_it_began_and_what_left(
    federation: Federation, make_study: MakeStudy
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    first, _ = ask(federation, study, "count")
    second, _ = ask(federation, study, "synthesise/1")
    assert kinds(home)[4:] == ["begun", "released"]
    assert second.epsilon_spent == first.epsilon_spent
    # What a reply says of the ledger is from before its own release is on record.
    assert second.ledger_seq == first.ledger_seq + 2


def test_a_study_once_begun_is_not_refused_for_budget_that_another_took(
    federation: Federation, make_study: MakeStudy
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    ask(federation, study, "count")
    config = msgspec.structs.replace(home.config, epsilon_cap=price(study.charges(), delta=home.config.delta))
    federation.nodes[SITE] = NodeHome(home.folder, config)
    other = make_study(study_id="second")
    assert ask(federation, other, HELLO)[0].code == "GEM301"
    assert ask(federation, study, "synthesise/1")[0].status is Status.RELEASED


def test_patients_of_no_earlier_study_have_their_whole_budget(
    federation: Federation, make_study: MakeStudy
) -> None:
    """The cap is each patient's: a ledger full of others' charges refuses nothing."""
    study, home = make_study(), federation.nodes[SITE]
    config = msgspec.structs.replace(home.config, epsilon_cap=price(study.charges(), delta=home.config.delta))
    home = federation.nodes[SITE] = NodeHome(home.folder, config)
    others = {
        share: tuple(f"other-{p}" for p in some)
        for share, some in patients.load(home, PROGRAMME).people().items()
    }
    with home.open_ledger() as ledger:
        ledger.reserve(
            study_sha256="ab" * 32, programme="fatty_liver@1", snapshot="00" * 32, charges=study.charges(),
            people=others,
        )  # fmt: skip
    approve(federation, study)
    assert ask(federation, study, "count")[0].status is Status.RELEASED


def test_a_task_that_a_steward_gave_back_is_never_computed(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    ask(federation, study, "count")
    with home.open_ledger() as ledger:
        reserved = ledger.reserved(study.sha256)
        assert reserved is not None
        given_back = decide_expiry(
            site=SITE,
            reservation=reserved.sha256,
            tasks=ledger.unused(study.sha256),
            reason="the study was stopped",
            steward=STEWARD,
            key=federation.stewards[SITE],
        )
        ledger.expire(given_back, stewards=home.config.stewards)
    monkeypatch.setattr(tasks, "compute", lambda *_a, **_k: pytest.fail("patients were touched"))
    reply, got = ask(federation, study, "synthesise/1")
    assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM307", b"")


# --- rolled back ---------------------------------------------------------------------------------


def copy_of(home: NodeHome, to: Path) -> Path:
    to.mkdir()
    for part in home.folder.glob("ledger.*"):
        shutil.copy(part, to)
    return to


def put_back(home: NodeHome, copied: Path) -> None:
    for part in home.folder.glob("ledger.*"):
        part.unlink()
    for part in copied.iterdir():
        shutil.copy(part, home.folder)


def test_a_node_whose_ledger_lacks_what_the_coordinator_saw_answers_nothing(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    older = copy_of(home, tmp_path / "older")
    reply, _ = ask(federation, study, "count")
    seen = head_of(reply, home)
    assert ask(federation, study, HELLO, heads=seen)[0].status is Status.APPROVED
    put_back(home, older)
    hello, got = ask(federation, study, HELLO, heads=seen)
    assert (hello.status, hello.code, got.payload) == (Status.REFUSED, "GEM309", b"")


def test_a_head_that_was_told_once_is_remembered_beside_the_ledger(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    older = copy_of(home, tmp_path / "older")
    reply, _ = ask(federation, study, "count")
    ask(federation, study, HELLO, heads=head_of(reply, home))
    anchored = (home.folder / "ledger.anchored.json").read_bytes()
    put_back(home, older)
    (home.folder / "ledger.anchored.json").write_bytes(anchored)
    for task in (HELLO, "count", "synthesise/1"):
        assert ask(federation, study, task)[0].code == "GEM309"


def test_a_head_that_never_was_is_refused_once_and_blocks_nothing(
    federation: Federation, make_study: MakeStudy
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    made_up = {home.key.public_hex: LedgerHead(seq=99, sha256="00" * 32)}
    assert ask(federation, study, HELLO, heads=made_up)[0].code == "GEM309"
    assert ask(federation, study, HELLO)[0].status is Status.PENDING
    others = {"00" * 32: LedgerHead(seq=99, sha256="00" * 32)}
    assert ask(federation, study, HELLO, heads=others)[0].status is Status.PENDING


def test_a_request_for_a_task_is_the_same_bytes_whatever_the_coordinator_saw(make_study: MakeStudy) -> None:
    study = make_study()
    request = Request(study_sha256=study.sha256, task="count", inputs_sha256="00" * 32)
    assert sorted(msgspec.to_builtins(request)) == ["inputs_sha256", "study_sha256", "task"]


def test_a_ledger_that_was_rolled_back_under_its_own_anchor_gives_no_answer_at_all(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    study, home = make_study(), federation.nodes[SITE]
    approve(federation, study)
    older = copy_of(home, tmp_path / "older")
    ask(federation, study, "count")
    newest = (home.folder / "ledger.sqlite.anchor").read_bytes()
    put_back(home, older)
    (home.folder / "ledger.sqlite.anchor").write_bytes(newest)
    with pytest.raises(GemelError, match="^GEM309 "):
        ask(federation, study, HELLO)
