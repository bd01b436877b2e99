"""The hosts that the other fault tests use are what they say: separate, reachable, breakable, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hosts import SUPPORT, Host, hosts, skewed

Network = dict[str, Host]

_FETCH = (
    "import sys, urllib.request as u; print(len(u.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read()))"
)
_SERVE = """
import functools, http.server as h
h.ThreadingHTTPServer(("", 8000), functools.partial(h.SimpleHTTPRequestHandler, directory={!r})).serve_forever()
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(bytes(300_000))
    with hosts("server", "client") as made:
        code = _SERVE.format(str(tmp_path / "www"))
        made["server"].start("web", [sys.executable, "-c", code], log=tmp_path / "web.log", restart=True)
        deadline = time.monotonic() + 10
        while not _reached(made["client"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield made


def _reached(client: Host, *, patience_s: float = 2.0) -> bool:
    try:
        return _fetch(client, patience_s=patience_s) == 300_000
    except AssertionError:
        return False


def _fetch(client: Host, *, patience_s: float = 60.0) -> int:
    command = [sys.executable, "-c", _FETCH, "http://server:8000/file", str(patience_s)]
    return int(client.run(command, timeout_s=patience_s + 30))


def test_a_host_has_its_own_name_network_and_processes(network: Network) -> None:
    client = network["client"]
    assert client.run(["hostname"]).strip() == "client"
    assert client.address in client.run(["ip", "-4", "address", "show"])
    assert client.run(["ip", "route", "show", "default"]) == "", "there is no way out"
    inside = client.run(["sh", "-c", "echo /proc/[0-9]*"]).split()
    assert len(inside) <= 3, "only the host's own processes are seen"
    assert network["server"].find("http.server")
    assert client.find("http.server") == []


def test_a_cut_is_silent_and_heals(network: Network) -> None:
    for host in network.values():
        assert _reached(network["client"])
        host.cut()
        assert not _reached(network["client"])
        host.heal()
        assert _reached(network["client"], patience_s=10.0)


def test_what_is_lost_and_late_comes_whole_in_the_end(network: Network) -> None:
    client = network["client"]
    client.weather(loss=0.2, seed=3)
    assert _fetch(client) == 300_000
    client.weather(delay_s=0.3)
    started = time.monotonic()
    assert _fetch(client) == 300_000
    assert time.monotonic() - started > 1.2, "two times there and back, at least"
    client.weather(rate=150_000)
    started = time.monotonic()
    assert _fetch(client) == 300_000
    assert time.monotonic() - started > 1.9
    client.weather()
    started = time.monotonic()
    assert _fetch(client) == 300_000
    assert time.monotonic() - started < 1.2


def test_a_killed_process_is_started_again(network: Network) -> None:
    web = network["server"].processes[0]
    first = web.inner
    assert first is not None
    web.kill()
    deadline = time.monotonic() + 15
    while not _reached(network["client"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert web.inner is not None
    assert web.inner.pid != first.pid
    assert web.restarts == 1


def test_a_disk_of_its_own_can_be_full_and_a_clock_wrong(network: Network, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    seen = network["client"].own_disk(disk, megabytes=1)
    with pytest.raises(OSError, match="No space"):
        (seen / "big").write_bytes(bytes(2_000_000))
    assert list(disk.iterdir()) == [], "others do not see it"
    code = "import time, datetime as d; print(time.time(), d.datetime.now().timestamp(), time.monotonic())"
    told = network["client"].run([sys.executable, "-c", code], env={**os.environ, **skewed(86_400, tmp_path)})
    wall, dated, monotonic = map(float, told.split())
    assert wall == pytest.approx(time.time() + 86_400, abs=30)
    assert dated == pytest.approx(wall, abs=5)
    assert monotonic == pytest.approx(time.monotonic(), abs=30)


def test_a_killed_test_leaves_nothing(tmp_path: Path) -> None:
    mark = f"left-over-{os.getpid()}"
    code = (
        f"import sys, time; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from pathlib import Path\nfrom hosts import hosts\n"
        "with hosts('one', 'two') as network:\n"
        f"    command = [sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}]\n"
        f"    network['one'].start('sleeper', command, log=Path({str(tmp_path / 'log')!r}), restart=True)\n"
        "    network['two'].weather(delay_s=0.1)\n"
        "    print('up', flush=True); time.sleep(60)\n"
    )
    test = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert test.stdout is not None
    assert test.stdout.readline() == b"up\n"
    descendants = psutil.Process(test.pid).children(recursive=True)
    assert any(mark in " ".join(process.cmdline()) for process in descendants)
    os.kill(test.pid, signal.SIGKILL)
    test.communicate()
    _, alive = psutil.wait_procs(descendants, timeout=10)
    assert alive == []
