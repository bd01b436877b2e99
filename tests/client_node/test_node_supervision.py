"""A node's connection: a real SuperLink, TLS and node keys; killed peers, unknown keys, wrong clocks, a network that is gone."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from gemel.client_node.connection import Connection, ConnectionNote, Standing, read_connection
from gemel.client_node.flower import internals, supernode
from gemel.client_node.flower.internals import Fleet, Refused, Unreachable
from gemel.client_node.flower.supernode import Node
from gemel.core.errors import GemelError
from gemel.core.files import takes_no_writes
from gemel.core.pki import create_transport_key
from gemel.core.supervision import Process, free_port, wait_for_port
from gemel.server.flower.superlink import SuperLink
from gemel.server.home import CoordinatorHome

pytestmark = pytest.mark.timeout(180)
HOST = "127.0.0.1"


class Link:
    """A SuperLink that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.superlink = SuperLink(CoordinatorHome.create(folder / "coordinator"), HOST, free_port())
        self.superlink.prepare()
        self.folder = folder
        self.process: Process | None = None
        self.fleets: list[Fleet] = []

    def start(self) -> None:
        command = self.superlink.commands()[0]
        self.process = Process(
            "superlink", command.arguments, log=self.folder / "link.log", environment=command.environment
        )
        self.process.start()
        wait_for_port(HOST, self.superlink.port, self.process, timeout_s=120)

    def stop(self) -> None:
        assert self.process is not None
        self.process.stop()

    def fleet(self, name: str, *, admitted: bool = True) -> Fleet:
        keys = self.folder / name
        keys.mkdir()
        create_transport_key(keys)
        if admitted:
            self.superlink.admit_node((keys / "transport.pub").read_bytes())
        return self.connect(name)

    def connect(self, name: str) -> Fleet:
        fleet = Fleet(
            self.superlink.address,
            ca_certificate=self.superlink.ca_certificate,
            key=self.folder / name / "transport.key",
        )
        self.fleets.append(fleet)
        return fleet

    def end(self) -> None:
        for fleet in self.fleets:
            fleet.close()
        self.stop()


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    made = Link(tmp_path_factory.mktemp("link"))
    made.start()
    yield made
    made.end()


@pytest.fixture
def run_node(tmp_path: Path) -> Iterator[Callable[[Fleet], Path]]:
    """Serve a node that answers anything, in a thread; gives the folder with its `connection.json`."""
    nodes: list[tuple[Node, threading.Thread]] = []

    def run(fleet: Fleet) -> Path:
        app = ClientApp()

        @app.query()
        def query(message: Message, _context: Any) -> Message:
            return Message(RecordDict({"gemel": ConfigRecord({"document": b""})}), reply_to=message)

        node = Node(tmp_path, fleet, app)
        thread = threading.Thread(target=node.serve, daemon=True)
        thread.start()
        nodes.append((node, thread))
        return tmp_path

    yield run
    for node, thread in nodes:
        node._stopping.set()
        node._fleet.stop()
        thread.join(30)
        node._fleet.close()


def _wait(folder: Path, standing: Standing, *, seconds: float = 60.0) -> Connection:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = read_connection(folder)
        if found is not None and found.standing is standing:
            return found
        time.sleep(0.05)
    pytest.fail(f"not {standing} in {seconds} s: {read_connection(folder)}")


def test_a_node_that_was_killed_comes_back_at_once(link: Link) -> None:
    fleet = link.fleet("killed")
    node = fleet.activate(earlier=0)
    again = link.connect("killed")
    with pytest.raises(Refused) as refused:
        again.activate(earlier=0)
    assert refused.value.code == 2004, "Flower takes the dead one for online"
    assert again.activate(earlier=node) == node
    assert again.beat()


def test_a_node_cannot_end_the_session_of_another(link: Link) -> None:
    one, other = link.fleet("one"), link.fleet("other")
    node = one.activate(earlier=0)
    other.activate(earlier=node)
    assert one.beat()
    with pytest.raises(Refused):
        link.connect("one").activate(earlier=0)


def test_a_pull_is_held_and_costs_no_questions(link: Link) -> None:
    fleet = link.fleet("held")
    fleet.activate(earlier=0)
    assert fleet.pull(wait_s=1.0) is None
    assert fleet.wakes
    started = time.monotonic()
    assert fleet.pull(wait_s=1.0) is None
    assert time.monotonic() - started > 0.9


def test_an_unknown_key_is_refused_and_the_node_says_so(
    link: Link, run_node: Callable[[Fleet], Path]
) -> None:
    found = _wait(run_node(link.fleet("unknown", admitted=False)), Standing.REFUSED)
    assert found.code == "GEM425"
    assert abs(found.clock_ahead_s) < 5


@pytest.mark.parametrize("ahead_s", [86_400.0, -86_400.0])
def test_a_clock_that_is_wrong_by_a_day_is_told_as_that(
    link: Link, run_node: Callable[[Fleet], Path], monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    from datetime import timedelta

    from flwr.supernode import node_auth_http_interceptor as signing

    true_now, true_time = signing.now, time.time
    monkeypatch.setattr(signing, "now", lambda: true_now() + timedelta(seconds=ahead_s))
    monkeypatch.setattr(internals.time, "time", lambda: true_time() + ahead_s)
    found = _wait(run_node(link.fleet(f"clock{ahead_s:.0f}")), Standing.REFUSED)
    assert found.code == "GEM426"
    assert found.clock_ahead_s == pytest.approx(ahead_s, abs=60)


def test_a_coordinator_that_is_gone_is_waited_for(tmp_path: Path, run_node: Callable[[Fleet], Path]) -> None:
    link = Link(tmp_path / "other")
    link.start()
    try:
        folder = run_node(link.fleet("waiting"))
        node_id = _wait(folder, Standing.CONNECTED).node_id
        link.stop()
        _wait(folder, Standing.UNREACHABLE)
        link.start()
        assert _wait(folder, Standing.CONNECTED).node_id == node_id
    finally:
        link.stop()


def test_what_is_not_there_is_unreachable_not_refused(tmp_path: Path, link: Link) -> None:
    create_transport_key(tmp_path)
    fleet = Fleet(
        f"{HOST}:{free_port()}",
        ca_certificate=link.superlink.ca_certificate,
        key=tmp_path / "transport.key",
    )
    with pytest.raises(Unreachable):
        fleet.activate(earlier=0)
    fleet.close()


def test_two_processes_do_not_run_one_node(tmp_path: Path) -> None:
    with (
        supernode._only_one(tmp_path),
        pytest.raises(GemelError, match="GEM407"),
        supernode._only_one(tmp_path),
    ):
        pytest.fail("a second one ran")


def test_a_full_disk_does_not_stop_the_note_keeper(tmp_path: Path) -> None:
    note = ConnectionNote(tmp_path / "gone")
    assert note.write(Standing.CONNECTED, node_id=7)
    assert note.node_id == 7
    (tmp_path / "gone").mkdir()
    note.write(Standing.CONNECTED)
    found = read_connection(tmp_path / "gone")
    assert found is not None
    assert (found.standing, found.node_id) == (Standing.CONNECTED, 7)


def test_a_full_disk_is_told_apart_from_other_faults() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("could not keep the release")
    wrapped.__cause__ = full
    for error in (full, wrapped, sqlite3.OperationalError("database or disk is full")):
        assert takes_no_writes(error)
    for error in (
        FileNotFoundError(errno.ENOENT, "x"),
        ValueError("full"),
        sqlite3.OperationalError("locked"),
    ):
        assert not takes_no_writes(error)


def test_a_note_that_is_torn_is_none(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text('{"standing": "conn')
    assert read_connection(tmp_path) is None
    assert ConnectionNote(tmp_path).node_id == 0
