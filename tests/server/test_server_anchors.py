"""The coordinator keeps the newest head of each ledger, certifies it, and names a ledger that lacks it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from in_process import certificate, missing, start

from gemel.cli.demo.federation import Federation
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, LedgerHead, read_reply, sign_reply
from gemel.core.study import Study
from gemel.privacy.ledger import require_anchored
from gemel.server.anchors import Anchors
from gemel.server.store import open_store

MakeStudy = Callable[..., Study]


def test_only_a_newer_head_replaces_the_one_that_is_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    anchors = Anchors(open_store(url))
    assert anchors.all() == {}
    for seq in (3, 7, 5, 7):
        anchors.note({"11" * 32: LedgerHead(seq=seq, sha256=f"{seq:064x}")})
    anchors.note({"22" * 32: LedgerHead(seq=1, sha256="aa" * 32)})
    assert Anchors(open_store(url)).all() == {
        "11" * 32: LedgerHead(seq=7, sha256=f"{7:064x}"),
        "22" * 32: LedgerHead(seq=1, sha256="aa" * 32),
    }


def test_runs_that_note_heads_at_once_leave_the_newest_of_each(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    open_store(url)
    keys = [f"{key:064x}" for key in range(4)]

    def one_run(offset: int) -> None:
        anchors = Anchors(open_store(url))
        for seq in range(offset, 60, 3):
            anchors.note({key: LedgerHead(seq=seq, sha256=f"{seq:064x}") for key in keys})

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(one_run, offset) for offset in range(3)]:
            done.result()
    newest = LedgerHead(seq=59, sha256=f"{59:064x}")
    assert Anchors(open_store(url)).all() == dict.fromkeys(keys, newest)


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
        assert missing(task) == {"gamma": "GEM309"}
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
