"""`gemel federation start`: what dies comes back, registrations follow the members, and nothing is left at the end."""

import json
import os
import signal
import sqlite3

import psutil
import pytest
from running_coordinator import admit, make_coordinator, make_keys, running, wait_for

from gemel.core.errors import GemelError
from gemel.core.start_kit import read_kit
from gemel.server.supervisor import running_pid


def _processes(coordinator):
    """Name -> process id of what the supervisor started, as its log tells."""
    log = coordinator.folder.parent / f"{coordinator.folder.name}.start.log"
    found = {}
    for line in log.read_text().splitlines():
        told = json.loads(line)
        if told["event"] == "started":
            found[told["process"]] = told["pid"]
    return found


def _reachable(coordinator):
    try:
        return coordinator.superlink.nodes()
    except GemelError:
        return None


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    with running(make_coordinator(tmp_path_factory.mktemp("supervisor") / "home")) as it:
        yield it


def test_a_second_coordinator_of_the_same_home_does_not_start(coordinator):
    done = coordinator.gemel("federation", "start", str(coordinator.folder), code=1)
    assert "runs already" in done.stderr
    assert str(running_pid(coordinator.folder)) in done.stderr


def test_a_superlink_that_is_killed_and_has_lost_its_store_knows_the_members_again(coordinator, tmp_path):
    keys = admit(coordinator, "alpha", tmp_path / "alpha")
    first = _processes(coordinator)["superlink"]
    for path in coordinator.folder.glob("superlink.db*"):
        path.unlink()
    os.kill(first, signal.SIGKILL)
    key = keys.request.transport_public_key

    def known_again():
        nodes = _reachable(coordinator)
        return nodes and {node.transport_key for node in nodes if node.registered} == {key}

    wait_for(lambda: _processes(coordinator)["superlink"] != first, what="it is started again")
    wait_for(known_again, what="the member is registered", timeout_s=120)
    with coordinator.members() as members:
        (node,) = _reachable(coordinator)
        assert members.of(keys.key.public_hex).flower_node == node.flower_node


def test_the_commands_invite_admit_list_and_revoke(coordinator, tmp_path):
    home = str(coordinator.folder)
    said = coordinator.gemel("federation", "show", home, "--format", "json")
    key = json.loads(said.stdout)["coordinator_public_key"]
    kit = tmp_path / "beta.kit.json"
    coordinator.gemel("federation", "invite", "beta", "--home", home, "-o", str(kit))
    assert read_kit(kit.read_bytes()).coordinator_public_key == key
    keys = make_keys(tmp_path / "beta", "beta", key)
    join = tmp_path / "join.json"
    join.write_bytes(keys.join)
    words = ["federation", "admit", str(join), "--home", home, "--format", "json", "--fingerprint"]
    refused = json.loads(coordinator.gemel(*words, "0000-0000-0000-0000", code=3).stdout)
    assert refused["error"]["code"] == "GEM527"
    admitted = json.loads(coordinator.gemel(*words, keys.request.fingerprint).stdout)
    assert (admitted["site"], admitted["fingerprint"]) == ("beta", keys.request.fingerprint)
    assert "beta" in coordinator.gemel("federation", "list", home).stdout
    coordinator.gemel("federation", "revoke", "beta", "--home", home)
    rows = json.loads(coordinator.gemel("federation", "list", home, "--format", "json").stdout)["members"]
    assert [row["state"] for row in rows if row["site"] == "beta"] == ["revoked"]


def test_only_loopback_is_listened_on(coordinator):
    family = psutil.Process(running_pid(coordinator.folder))
    listening = [
        connection.laddr.ip
        for process in (family, *family.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_secrets_are_in_no_argument_and_no_log(coordinator):
    secret = (coordinator.folder / "keys" / "superexec.secret").read_text()
    family = psutil.Process(running_pid(coordinator.folder)).children(recursive=True)
    assert not [process for process in family if secret in " ".join(process.cmdline())]
    for path in coordinator.folder.rglob("*.log"):
        assert secret not in path.read_text(), path


def test_asked_to_stop_it_leaves_nothing_running_and_a_sound_store(tmp_path):
    made = make_coordinator(tmp_path / "home")
    with running(made):
        family = psutil.Process(running_pid(made.folder)).children(recursive=True)
        assert len(family) >= 2
    assert running_pid(made.folder) is None
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    log = (tmp_path / "home.start.log").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "stopped"
    for name in ("coordinator.sqlite", "superlink.db"):
        connection = sqlite3.connect(made.folder / name)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()
