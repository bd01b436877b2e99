"""Nodes that lie, keys that were stolen, messages that come twice, homes that come from an old backup."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consortium import FEDERATION, PROXY, Consortium
from hosts import SUPPORT
from verdict import judge, missing

from gemel.client_node.connection import Standing, read_connection
from gemel.client_node.home import NodeHome
from gemel.server import administration, federation_config
from gemel.server.backup import backup, restore
from gemel.server.members import Members
from gemel.server.store import open_store, store_url
from gemel.server.supervisor import superlink_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(500)]

PASSPHRASE = b"a long enough passphrase of a test"
# Each spoils one round; the code is why the coordinator did not count it. What is not from the site at all is passed
# over, and the round goes on without an answer: GEM502, or GEM503 where the site had signed something wrong.
LIES = {
    "train/1": "not finite",
    "train/2": "other shapes",
    "train/3": "huge",
    "train/4": "pickled",
    "train/5": "another site",
    "train/6": "unsigned",
    "train/7": "changed after",
    "train/8": "earlier",
    "train/9": "no document",
}


def spoil(live: Consortium, site: str, folder: Path, wishes: dict[str, str], *, echo: bool = False) -> None:
    """Replace a hospital's node by one that spoils what it says."""
    folder.mkdir()
    (folder / "spoil").write_text(json.dumps(wishes))
    if echo:
        (folder / "echo").touch()
    live.services.pop(site).stop()
    command = [sys.executable, SUPPORT / "spoiled_node.py", live.folder / "nodes" / site, folder]
    live.start_node(site, command=command)


def restored(live: Consortium, site: str) -> None:
    """The honest node again."""
    live.services.pop(site).stop()
    live.start_node(site)


def test_what_a_node_may_say_wrong_is_never_counted_and_named_by_a_code(
    live: Consortium, tmp_path: Path
) -> None:
    spoil(live, "delta", tmp_path / "told", LIES)
    try:
        study = live.study("lies", rounds=10, round_timeout_s=15.0)
        tasks = judge(live, study, live.run(study, timeout_s=380), liars=("delta",))
    finally:
        restored(live, "delta")
    said = (tmp_path / "told" / "spoiled").read_text().split()
    assert set(said) == set(LIES), "every lie was told"
    assert {site for who in missing(tasks).values() for site in who} == {"delta"}
    codes = {task: who["delta"] for task, who in missing(tasks).items()}
    assert set(LIES) <= set(codes), codes
    assert set(codes.values()) <= {"GEM101", "GEM102", "GEM103", "GEM403", "GEM502", "GEM503"}, codes
    honest = [c["site"] for c in tasks["synthesise/3"]["contributions"]]
    assert "delta" in honest, "what it says rightly counts"
    superlink = (live.home.folder / "logs" / "superlink.log").read_text()
    assert "Traceback" not in superlink


def test_what_is_sent_twice_or_again_counts_once(live: Consortium, tmp_path: Path) -> None:
    spoil(live, "delta", tmp_path / "told", {}, echo=True)
    try:
        study = live.study("echoes", rounds=5, round_timeout_s=60.0)
        tasks = judge(live, study, live.run(study, timeout_s=280))
    finally:
        restored(live, "delta")
    echoed = (tmp_path / "told" / "echoed").read_text().splitlines()
    assert len(echoed) > 20
    assert missing(tasks) == {}


def _revoke(live: Consortium, site: str) -> None:
    config = federation_config.load(live.home.folder)

    def revoke() -> None:
        engine = open_store(store_url(live.home.folder))
        try:
            administration.revoke(Members(engine), superlink_of(live.home.folder, config), site)
        finally:
            engine.dispose()

    live.control(revoke)


def _wait(what: Callable[[], Any], *, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _copy_of_a_run(live: Consortium, copy: Path) -> None:
    shutil.copytree(live.folder / "nodes" / "beta", copy)


def test_a_node_restored_from_an_old_backup_is_refused_and_named(live: Consortium, tmp_path: Path) -> None:
    home = live.folder / "nodes" / "beta"
    before = live.study("before the backup", rounds=2)
    judge(live, before, live.run(before, timeout_s=200))
    live.services.pop("beta").stop()
    _copy_of_a_run(live, tmp_path / "old")
    live.start_node("beta")
    between = live.study("after the backup", rounds=2)
    judge(live, between, live.run(between, timeout_s=200))
    live.services.pop("beta").stop()
    shutil.move(home, tmp_path / "new")
    shutil.copytree(tmp_path / "old", home)
    live.start_node("beta")
    try:
        study = live.study("with an old ledger", rounds=3, round_timeout_s=10.0)
        run = live.run(study, timeout_s=200)
        certificate = run.certificate
        assert certificate is not None
        assert certificate.payload["status"] == "complete"
        said = certificate.payload["sites"]["beta"]
        assert (said["status"], said["code"]) == ("refused", "GEM309")
        with NodeHome.open(home).open_ledger() as ledger:
            charged = [e.task for e in ledger.entries() if e.study_sha256 == study.sha256]
        assert charged == [], "nothing is computed by a ledger that forgot what was spent"
    finally:
        live.services.pop("beta").stop()
        shutil.rmtree(home)
        shutil.move(tmp_path / "new", home)
        live.start_node("beta")
    judge(live, study, run)
    after = live.study("with the right ledger again", rounds=2)
    assert missing(judge(live, after, live.run(after, timeout_s=200))) == {}


def test_a_coordinator_restored_from_an_old_backup_goes_on_with_the_same_releases(
    live: Consortium, tmp_path: Path
) -> None:
    study = live.study("restored", rounds=10, round_timeout_s=60.0)
    run, home, made = live.submit(study), live.home.folder, tmp_path / "backup"
    seen: list[str] = []

    class Restored(Exception):
        pass

    def watch(event: dict[str, Any]) -> None:
        if event["event"] != "task_done":
            return
        seen.append(event["task"])
        if event["task"] == "train/2":
            backup(home, made, PASSPHRASE)
        if event["task"] == "train/5":
            raise Restored

    with pytest.raises(Restored):
        live.follow(study, run, watch=watch, timeout_s=200)
    for name in (PROXY, FEDERATION):
        live.services.pop(name).stop()
    lost = json.loads((run.folder / "state.json").read_bytes())["tasks"]
    shutil.move(home, tmp_path / "lost")
    restore(made, home, PASSPHRASE)
    kept = json.loads((run.folder / "state.json").read_bytes())["tasks"]
    assert len(kept) < len(lost)
    live.start_coordinator()
    tasks = judge(live, study, live.follow(study, run, timeout_s=240))
    assert missing(tasks) == {}
    for entry in lost:
        again = tasks[entry["task"]]
        assert again["contributions"][0]["payload_sha256"] == entry["contributions"][0]["payload_sha256"]
        assert again.get("model_sha256") == entry.get("model_sha256"), "the same twins, by the same releases"


def test_a_stolen_key_is_worth_nothing_once_it_is_revoked(live: Consortium, tmp_path: Path) -> None:
    study = live.study("revoked in the middle", rounds=8, round_timeout_s=15.0)
    thief = tmp_path / "thief"

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "task" and event["task"] == "train/3":
            _revoke(live, "gamma")

    shutil.copytree(live.folder / "nodes" / "gamma", thief)
    tasks = judge(live, study, live.run(study, watch=watch, timeout_s=240))
    gone = {task: who["gamma"] for task, who in missing(tasks).items() if "gamma" in who}
    assert "train/8" in gone
    assert set(gone.values()) <= {"GEM522", "GEM502"}
    assert "GEM522" in gone.values()
    assert "train/2" not in gone
    live.services.pop("gamma").stop()
    (thief / "connection.json").unlink(missing_ok=True)
    # The thief has the whole home of gamma, and a host in the network.
    live.network["gamma"].start(
        "thief",
        [Path(sys.executable).with_name("gemel"), "node", "start", thief],
        log=live.log("thief"),
        restart=True,
    )
    standing = _wait(
        lambda: (found := read_connection(thief)) and found.standing is Standing.REFUSED, timeout_s=60
    )
    assert standing, "the SuperLink does not take it"
    other = live.study("without the thief", rounds=2, round_timeout_s=15.0)
    tasks = judge(live, other, live.run(other, timeout_s=120))
    assert all(who == {"gamma": "GEM522"} for who in missing(tasks).values())
    assert set(missing(tasks)) == set(tasks)
