"""The coordinator keeps the newest head of each ledger, certifies it, and names a ledger that lacks it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from in_process import certificate, start

from gemel.cli.demo.federation import Federation
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, LedgerHead, Reply, Status, read_reply, sign_reply
from gemel.core.study import Study
from gemel.privacy.ledger import require_anchored
from gemel.server.anchors import Anchors

MakeStudy = Callable[..., Study]


def _reply(seq: int, sha256: str = "aa" * 32) -> Reply:
    return Reply(
        site="north", study_sha256="", task="", request_sha256="", status=Status.APPROVED, code="",
        payload_sha256="", epsilon_spent=0.0, ledger_seq=seq, ledger_head=sha256,
    )  # fmt: skip


def test_only_a_newer_head_replaces_the_one_that_is_kept(tmp_path: Path) -> None:
    anchors = Anchors(tmp_path / "anchors.json")
    assert anchors.all() == {}
    for seq in (3, 7, 5, 7):
        anchors.note("11" * 32, _reply(seq, f"{seq:064x}"))
    anchors.note("22" * 32, _reply(1))
    assert Anchors(tmp_path / "anchors.json").all() == {
        "11" * 32: LedgerHead(seq=7, sha256=f"{7:064x}"),
        "22" * 32: LedgerHead(seq=1, sha256="aa" * 32),
    }


def test_the_certificate_anchors_the_ledgers_that_took_part(
    federation: Federation, make_study: MakeStudy
) -> None:
    coordinator, run, _ = start(federation, make_study())
    coordinator.run()
    document = run.certificate
    assert document is not None
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            entries = ledger.entries()
        seq = require_anchored(entries, document)
        # A release is on record after its reply is made, so the reply knows all but that entry.
        assert seq == len(entries) - 1
        with pytest.raises(GemelError, match="^GEM309 "):
            require_anchored(entries[: seq - 1], document)


def test_a_hospital_whose_ledger_was_rolled_back_takes_no_part_and_is_named(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    gamma = federation.nodes["gamma"].folder
    older = tmp_path / "older"
    older.mkdir()
    for part in gamma.glob("ledger.*"):
        shutil.copy(part, older)
    first, _, _ = start(federation, make_study())
    first.run()
    for part in gamma.glob("ledger.*"):
        part.unlink()
    for part in older.iterdir():
        shutil.copy(part, gamma)
    second, run, _ = start(federation, make_study(study_id="second"))
    second.run()
    assert certificate(run)["sites"]["gamma"]["code"] == "GEM309"
    for task in certificate(run)["tasks"]:
        assert task["missing"] == [{"site": "gamma", "code": "GEM309"}]
        assert [c["site"] for c in task["contributions"]] == ["alpha", "beta"]


def test_a_node_that_does_not_mind_its_own_rollback_is_named_by_the_coordinator(
    federation: Federation, make_study: MakeStudy
) -> None:
    """What a node with changed software would say: approved, from a ledger shorter than the one seen before."""
    first, _, _ = start(federation, make_study())
    first.run()

    def shorter(site: str, task: str, envelope: Envelope) -> Envelope:
        if (site, task) != ("gamma", HELLO):
            return envelope
        reply, _ = read_reply(envelope.document)
        changed = msgspec.structs.replace(reply, ledger_seq=1, ledger_head="ee" * 32)
        return Envelope(document=sign_reply(changed, federation.nodes[site].key).to_bytes())

    second, run, _ = start(federation, make_study(study_id="second"), shorter)
    second.run()
    assert certificate(run)["sites"]["gamma"]["code"] == "GEM309"
    assert certificate(run)["sites"]["alpha"]["code"] == ""
