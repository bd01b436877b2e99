"""The doctor of a node: each check is ok on a healthy node, and says why and what to do when its thing is wrong."""

from __future__ import annotations

import datetime as dt
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gemel.client_node import node_doctor, permissions
from gemel.client_node.home import NodeHome
from gemel.client_node.joining import Limits, make_node
from gemel.client_node.key_dates import KeyDates
from gemel.client_node.node_doctor import Finding, examine
from gemel.client_node.worker.sandbox import what_would_hold
from gemel.core.pki import create_tls
from gemel.core.signing import SigningKey
from gemel.core.start_kit import StartKit, sign_kit
from gemel.core.supervision import free_port
from gemel.twins.programmes.fatty_liver import PROGRAMME

NAMED = f"{PROGRAMME.name}@{PROGRAMME.version}"


@contextmanager
def coordinator(tls: Path, *, clock_s: float = 0.0) -> Iterator[int]:
    """An HTTPS server with a certificate of the folder, whose clock is so much ahead; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=clock_s), usegmt=True)

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_args: None  # type: ignore[method-assign]  # who does not trust it, hangs up
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_home(folder: Path, export: Path, *, port: int, ca: Path, host: str = "127.0.0.1") -> NodeHome:
    key, now = SigningKey.generate(), dt.datetime.now(dt.UTC)
    kit = StartKit(
        federation="test",
        site="alpha",
        address=f"{host}:{port}",
        ca_certificate=ca.read_text(),
        coordinator_public_key=key.public_hex,
        issued_at=now.isoformat(),
        expires_at=(now + dt.timedelta(days=1)).isoformat(),
    )
    limits = Limits(export=export, minimum_patients=20, epsilon_cap=3.0, delta=1e-5)
    home, _ = make_node(folder / "node", sign_kit(kit, key).to_bytes(), limits)
    permissions.add_steward(home, "Ada", folder / "ada.key")
    return permissions.allow(NodeHome.open(home.folder), NAMED)


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    create_tls(tmp_path / "tls", hosts=["127.0.0.1"])
    return tmp_path / "tls"


@pytest.fixture
def home(tmp_path: Path, exports: dict[str, Path], tls: Path) -> NodeHome:
    """A node whose coordinator does not run."""
    return make_home(tmp_path, exports["gamma"], port=free_port(), ca=tls / "ca.crt")


def findings(home: NodeHome) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(home)}


def test_a_healthy_node_is_ok_in_everything(tmp_path: Path, exports: dict[str, Path], tls: Path) -> None:
    with coordinator(tls) as port:
        found = findings(make_home(tmp_path, exports["gamma"], port=port, ca=tls / "ca.crt"))
    assert found["workers"].ok == what_would_hold(user="", secret=tmp_path).is_shut  # not every kernel can
    assert {name for name, finding in found.items() if not finding.ok} <= {"workers"}
    assert {"coordinator's port", "TLS", "clock", "records", "ledger", "audit log", "versions"} <= set(found)


@pytest.mark.parametrize(("clock_s", "ok"), [(3.0, True), (-86_400.0, False), (600.0, False), (-30.0, False)])
def test_the_clock_is_held_against_the_coordinators(
    tmp_path: Path, exports: dict[str, Path], tls: Path, clock_s: float, ok: bool
) -> None:
    with coordinator(tls, clock_s=clock_s) as port:
        found = findings(make_home(tmp_path, exports["gamma"], port=port, ca=tls / "ca.crt"))
    assert found["clock"].ok == ok


def test_a_coordinator_that_does_not_run_is_said_to_refuse(home: NodeHome) -> None:
    found = findings(home)["coordinator's port"]
    assert not found.ok
    assert "refused" in found.detail
    assert "whether it runs" in found.remedy


@pytest.mark.parametrize("wrong", ["another CA", "another name", "no TLS"])
def test_a_certificate_that_is_not_believed_is_said(
    tmp_path: Path, exports: dict[str, Path], tls: Path, wrong: str
) -> None:
    ca, host, serving = tls / "ca.crt", "127.0.0.1", tls
    if wrong == "another CA":
        create_tls(tmp_path / "other", hosts=["127.0.0.1"])
        ca = tmp_path / "other" / "ca.crt"
    elif wrong == "another name":
        host = "localhost"
    if wrong == "no TLS":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = findings(make_home(tmp_path, exports["gamma"], port=server.server_port, ca=ca))
        server.shutdown()
        server.server_close()
    else:
        with coordinator(serving) as port:
            found = findings(make_home(tmp_path, exports["gamma"], port=port, ca=ca, host=host))
    assert found["coordinator's port"].ok
    assert not found["TLS"].ok
    assert found["TLS"].detail
    assert found["TLS"].remedy


def _loose_key(home: NodeHome) -> str:
    (home.folder / "keys" / "node.key").chmod(0o644)
    return "keys"


def _lost_key(home: NodeHome) -> str:
    (home.folder / "keys" / "pseudonym.key").unlink()
    return "keys"


def _expiring(days: int) -> Callable[[NodeHome], str]:
    def harm(home: NodeHome) -> str:
        now = dt.datetime.now(dt.UTC)
        dates = KeyDates(made_at=now.isoformat(), expires_at=(now + dt.timedelta(days=days)).isoformat())
        (home.folder / "keys" / "dates.json").write_bytes(msgspec.json.encode(dates))
        return "key expiry"

    return harm


def _half_rotated(home: NodeHome) -> str:
    (home.folder / "keys" / "next").mkdir()
    return "key rotation"


def _lost_ca(home: NodeHome) -> str:
    home.ca_certificate.unlink()
    return "coordinator"


def _no_export(home: NodeHome) -> str:
    home.changed(export=str(home.folder / "nowhere"))
    return "records"


def _odd_export(home: NodeHome) -> str:
    (home.folder / "odd").mkdir()
    (home.folder / "odd" / "Patient.ndjson").write_text("<Patient/>\n")
    home.changed(export=str(home.folder / "odd"))
    return "records"


def _changed_ledger(home: NodeHome) -> str:
    (home.folder / "ledger.sqlite.anchor").write_text("{}")
    return "ledger"


def _changed_log(home: NodeHome) -> str:
    (path,) = (home.folder / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Ada", b"Eve"))
    return "ledger"


def _no_stewards(home: NodeHome) -> str:
    home.changed(stewards={})
    return "stewards"


def _two_names_one_key(home: NodeHome) -> str:
    (key,) = home.config.stewards.values()
    home.changed(approvals_needed=2, stewards={"Ada": key, "Eve": key})
    return "stewards"


def _other_code(home: NodeHome) -> str:
    home.changed(code={NAMED: "0" * 64})
    return "programmes"


def _nothing_allowed(home: NodeHome) -> str:
    home.changed(programmes=(), code={})
    return "programmes"


HARM: dict[str, Callable[[NodeHome], str]] = {
    "a key that others read": _loose_key,
    "a key that is lost": _lost_key,
    "keys that expire soon": _expiring(10),
    "keys that expired": _expiring(-1),
    "a rotation that was interrupted": _half_rotated,
    "no CA": _lost_ca,
    "no export": _no_export,
    "an export of something else": _odd_export,
    "a changed ledger": _changed_ledger,
    "a changed audit log": _changed_log,
    "no steward": _no_stewards,
    "one steward under two names": _two_names_one_key,
    "other code": _other_code,
    "no programme": _nothing_allowed,
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_wrong_is_found_with_what_to_do(home: NodeHome, harm: str) -> None:
    name = HARM[harm](home)
    found = findings(NodeHome.open(home.folder))
    assert not found[name].ok, found[name]
    assert found[name].detail
    assert found[name].remedy
    if harm == "keys that expire soon":
        assert not found[name].required


def test_a_check_that_breaks_does_not_end_the_others(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_home: NodeHome) -> Iterator[Finding]:
        raise OSError(5, "Input/output error")
        yield

    checks: dict[str, Any] = {**node_doctor.CHECKS, "disk": broken}
    monkeypatch.setattr(node_doctor, "CHECKS", checks)
    found = findings(home)
    assert not found["disk"].ok
    assert "memory" in found
