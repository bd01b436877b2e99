"""`gemel node`: from a start kit to a decision, as the hospital's people type it."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gemel.cli.main import app
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Request, read_reply, sign_request
from gemel.core.pki import create_tls
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.core.start_kit import StartKit, read_join, sign_kit
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.core.supervision import free_port
from gemel.core.synthesis_plan import ROUNDS
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.twins.metrics import metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME

RUNNER = CliRunner()


def gemel(*arguments: object) -> Result:
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    result = gemel(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Hospital:
    """A folder with a kit, and what the coordinator of that kit says to the node."""

    def __init__(self, folder: Path, export: Path, *, port: int = 8443) -> None:
        self.folder, self.home, self.export = folder, folder / "node", export
        self.coordinator, self.scientist = SigningKey.generate(), SigningKey.generate()
        create_tls(folder / "tls", hosts=["127.0.0.1"])
        self.kit = self.invite(self.coordinator, port=port)

    def invite(self, key: SigningKey, *, port: int, site: str = "alpha") -> Path:
        now = dt.datetime.now(dt.UTC)
        kit = StartKit(
            federation="Liver of the north",
            site=site,
            address=f"127.0.0.1:{port}",
            ca_certificate=(self.folder / "tls" / "ca.crt").read_text(),
            coordinator_public_key=key.public_hex,
            issued_at=now.isoformat(),
            expires_at=(now + dt.timedelta(days=30)).isoformat(),
        )
        path = self.folder / f"{site}-{port}.kit.json"
        path.write_bytes(sign_kit(kit, key).to_bytes())
        return path

    def init(self, *more: object) -> Result:
        limits = ("--floor", 20, "--epsilon-cap", 3, "--delta", 1e-5)
        return gemel("node", "init", self.kit, self.home, "--export", self.export, *limits, *more)

    def ready(self) -> Hospital:
        assert self.init().exit_code == 0
        told("node", "steward", "Ada", self.home, "-o", self.folder / "ada.key")
        told("node", "allow", f"{PROGRAMME.name}@{PROGRAMME.version}", self.home)
        return self

    def study(self, **changes: Any) -> str:
        """Propose a study over the path that a message takes; its hash."""
        home = NodeHome.open(self.home)
        fields: dict[str, Any] = {
            "schema": SCHEMA,
            "study_id": "liver",
            "title": "Fatty liver",
            "purpose": "to test",
            "programme": PROGRAMME.name,
            "programme_version": PROGRAMME.version,
            "training": TrainingPlan(
                rounds=3,
                local_steps=2,
                learning_rate=0.5,
                momentum=0.0,
                max_grad_norm=1.0,
                sample_rate=1.0,
                noise_multiplier=10.0,
            ),
            "privacy": PrivacyPlan(
                epsilon=3.0,
                delta=1e-5,
                count_noise_multiplier=10.0,
                metrics_noise_multiplier=15.0,
                synthesis_noise_multiplier=4.0,
            ),
            "metrics_tables": len(metric_tables(PROGRAMME)),
            "synthesis": synthesis_plan(domain_of(PROGRAMME)),
            "minimum_patients": 20,
            "quorum": 1,
            "round_timeout_s": 20.0,
            "sites": {"alpha": home.key.public_hex},
        }
        study = Study(**{**fields, **changes})
        self.document = sign_document("study", study.to_payload(), self.scientist, role="proposer")
        self.ask(HELLO)
        return self.document.payload_sha256

    def ask(self, task: str) -> str:
        """The node's status, or the code of its refusal."""
        request = Request(study_sha256=self.document.payload_sha256, task=task, inputs_sha256=sha256_hex(b""))
        envelope = Envelope(
            document=sign_request(request, self.coordinator).to_bytes(), study=self.document.to_bytes()
        )
        reply = read_reply(answer(NodeHome.open(self.home), envelope).document)[0]
        return reply.code or reply.status.value


@pytest.fixture
def hospital(tmp_path: Path, exports: dict[str, Path]) -> Hospital:
    return Hospital(tmp_path, exports["gamma"])


# --- init ----------------------------------------------------------------------------------------


def test_a_node_is_made_from_a_kit_and_says_what_to_read_out(hospital: Hospital) -> None:
    result = hospital.init("--fingerprint", fingerprint(hospital.coordinator.public_hex))
    assert result.exit_code == 0, result.output
    request = read_join((hospital.home / "join.json").read_bytes())
    assert request.fingerprint in result.stdout
    assert fingerprint(hospital.coordinator.public_hex) in result.stdout
    assert request.site == "alpha"
    assert request.node_public_key == NodeHome.open(hospital.home).key.public_hex
    assert b"PRIVATE" not in (hospital.home / "join.json").read_bytes()
    assert hospital.home.stat().st_mode & 0o077 == 0
    status = told("node", "status", hospital.home)
    assert (status["site"], status["address"], status["fingerprint"]) == (
        "alpha", "127.0.0.1:8443", request.fingerprint,
    )  # fmt: skip


def test_a_kit_of_another_coordinator_than_on_the_phone_makes_no_node(hospital: Hospital) -> None:
    result = hospital.init("--fingerprint", "0000-0000-0000-0000")
    assert result.exit_code == 3
    assert "GEM102" in result.stderr
    assert not hospital.home.exists()


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [("--epsilon-cap", "-1", "GEM407"), ("--delta", "0.5", "GEM407"), ("--export", "/nowhere", "GEM208")],
)
def test_limits_that_cannot_be_make_no_node(hospital: Hospital, option: str, value: str, code: str) -> None:
    result = hospital.init(option, value)
    assert code in result.stderr
    assert not (hospital.home / "node.json").exists()


def test_a_node_is_never_made_over_another(hospital: Hospital) -> None:
    hospital.init()
    before = (hospital.home / "join.json").read_bytes()
    result = hospital.init()
    assert "GEM407" in result.stderr
    assert (hospital.home / "join.json").read_bytes() == before


def test_a_newer_kit_of_the_known_key_moves_the_node_to_another_address(hospital: Hospital) -> None:
    hospital.ready()
    kit = hospital.invite(hospital.coordinator, port=9443)
    assert told("node", "update", kit, hospital.home)["address"] == "127.0.0.1:9443"
    assert told("node", "status", hospital.home)["address"] == "127.0.0.1:9443"
    assert told("node", "log", hospital.home)["entries"][-1]["facts"]["address"] == "127.0.0.1:9443"


def test_a_new_key_of_the_coordinator_is_believed_by_its_fingerprint_alone(hospital: Hospital) -> None:
    hospital.ready().study()
    new = SigningKey.generate()
    kit = hospital.invite(new, port=9443)
    for more in ((), ("--fingerprint", fingerprint(hospital.coordinator.public_hex))):
        assert "GEM102" in gemel("node", "update", kit, hospital.home, *more).stderr
    assert told("node", "status", hospital.home)["address"] == "127.0.0.1:8443"
    told("node", "update", kit, hospital.home, "--fingerprint", fingerprint(new.public_hex))
    assert hospital.ask(HELLO) == "GEM102"  # the key of before asks in vain
    hospital.coordinator = new
    assert hospital.ask(HELLO) == "pending"


def test_a_kit_for_another_hospital_changes_nothing(hospital: Hospital) -> None:
    hospital.ready()
    kit = hospital.invite(hospital.coordinator, port=9443, site="beta")
    assert "GEM410" in gemel("node", "update", kit, hospital.home).stderr
    assert told("node", "status", hospital.home)["address"] == "127.0.0.1:8443"


# --- what a steward does -------------------------------------------------------------------------


def test_a_study_is_shown_in_words_before_it_is_approved(hospital: Hospital) -> None:
    sha256 = hospital.ready().study()
    shown = told("node", "show", sha256[:8], hospital.home)
    assert shown["state"] == "waiting"
    tasks = {row["task"]: row for row in shown["tasks"]}
    assert list(tasks) == ["count", "train/1", "evaluate", *ROUNDS]
    assert tasks["train/1"]["times"] == 3
    assert "3 rounds" in tasks["train/1"]["words"]
    assert tasks["count"]["leaves"] == {"patients": {"shape": [1], "dtype": "int64"}}
    assert tasks["count"]["bytes"] == 8
    cost = shown["cost"]
    assert cost["epsilon_of_worst_person_now"] == 0.0
    assert 0 < cost["epsilon_of_worst_person_after"] <= cost["epsilon_cap"] == 3.0
    assert cost["fits"]
    assert shown["changes"] == {}
    page = gemel("node", "show", sha256[:8], hospital.home).stdout
    assert "The first study of its kind here." in page
    assert "four" in page


def test_the_number_of_patients_is_noised_unless_it_is_asked_for(hospital: Hospital) -> None:
    sha256 = hospital.ready().study()
    exact = told("node", "show", sha256, hospital.home, "--exact")["patients"]
    assert exact["noise"] == 0
    shown = [told("node", "show", sha256, hospital.home)["patients"] for _ in range(2)]
    assert shown[0] == shown[1]  # looking twice tells no more
    assert shown[0]["noise"] == 10.0
    others = {shown[0]["number"]}
    for number in range(4):
        other = hospital.study(title=f"Fatty liver {number}")
        others.add(told("node", "show", other, hospital.home)["patients"]["number"])
    assert len(others) > 1
    assert all(abs(other - exact["number"]) < 80 for other in others)


def test_what_a_proposer_writes_neither_moves_the_terminal_nor_breaks_the_page(hospital: Hospital) -> None:
    hospital.ready().study(purpose="first")
    sha256 = hospital.study(
        title="[bold]x[/none]\x1b[2J\r\n[link=http://evil]", purpose="[/]\x1b]0;owned\x07"
    )
    for command in (("studies",), ("show", sha256), ("log",)):
        result = gemel("node", *command, hospital.home)
        assert result.exit_code == 0, result.output
        assert not set(result.stdout) & {"\x1b", "\r", "\x07"}
    assert "[bold]x[/none]?[2J" in gemel("node", "show", sha256, hospital.home).stdout


def test_what_changed_since_the_last_study_is_shown(hospital: Hospital) -> None:
    first = hospital.ready().study()
    second = hospital.study(minimum_patients=50, title="Fatty liver, again")
    changes = told("node", "show", second, hospital.home)["changes"]
    assert changes["since"] == first
    assert changes["that_was"] == "never decided"
    assert changes["fields"] == {
        "minimum_patients": {"before": 20, "now": 50},
        "title": {"before": "Fatty liver", "now": "Fatty liver, again"},
    }


def test_a_steward_approves_for_a_time_and_some_runs_and_refuses_again(hospital: Hospital) -> None:
    sha256 = hospital.ready().study()
    key = hospital.folder / "ada.key"
    assert hospital.ask("count") == "GEM401"
    made = told(
        "node", "approve", sha256[:10], hospital.home, "--key", key, "--reason", "ethics", "--until", "2999-01-01",
        "--runs", 2,
    )  # fmt: skip
    assert (made["steward"], made["runs"], made["until"][:10]) == ("Ada", 2, "2999-01-02")
    assert hospital.ask(HELLO) == "approved"
    assert hospital.ask("count") == "released"
    (row,) = told("node", "studies", hospital.home)["studies"]
    assert (row["state"], row["released"]) == ("approved", 1)
    told("node", "refuse", sha256, hospital.home, "--key", key, "--reason", "withdrawn")
    assert hospital.ask("count") == "GEM401"
    assert told("node", "studies", hospital.home)["studies"][0]["state"] == "refused"
    decisions = told("node", "show", sha256, hospital.home)["decisions"]
    assert [(d["decision"], d["reason"]) for d in decisions] == [
        ("approved", "ethics"),
        ("refused", "withdrawn"),
    ]
    spent = told("node", "budget", hospital.home)
    assert spent["studies"][0]["begun"] == 1
    assert 0 < spent["epsilon_of_worst_person"] <= 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key": "stranger.key"}, "GEM419"),
        ({"key": "none.key"}, "GEM407"),
        ({"study": "ffff"}, "GEM419"),
        ({"reason": " "}, "GEM419"),
        ({"until": "2001-01-01"}, "GEM412"),
    ],
)
def test_a_decision_that_is_none_is_refused(hospital: Hospital, change: dict[str, str], code: str) -> None:
    study = hospital.ready().study()
    SigningKey.generate().save(hospital.folder / "stranger.key")
    given = {"study": study, "key": "ada.key", "reason": "yes", "until": ""} | change
    result = gemel(
        "node", "approve", given["study"], hospital.home, "--key", hospital.folder / given["key"],
        "--reason", given["reason"], "--until", given["until"],
    )  # fmt: skip
    assert result.exit_code != 0
    assert code in result.stderr
    assert hospital.ask("count") == "GEM401"


def test_what_a_steward_approved_counts_no_more_once_they_are_off_the_record(hospital: Hospital) -> None:
    sha256 = hospital.ready().study()
    key = hospital.folder / "ada.key"
    told("node", "approve", sha256, hospital.home, "--key", key, "--reason", "ethics")
    assert hospital.ask("count") == "released"
    told("node", "steward", "Ada", hospital.home, "--remove")
    assert hospital.ask("count") == "GEM102"
    assert "GEM419" in gemel("node", "refuse", sha256, hospital.home, "--key", key, "--reason", "x").stderr
    assert told("node", "status", hospital.home)["stewards"] == {}
    for more in ((), ("--remove", "-o", hospital.folder / "x.key"), ("--remove",)):
        assert "GEM419" in gemel("node", "steward", "Ada", hospital.home, *more).stderr


def test_the_log_is_shown_and_its_export_verifies_offline(hospital: Hospital) -> None:
    hospital.ready().study()
    file = hospital.folder / "audit.json"
    shown = told("node", "log", hospital.home, "--export", file)
    assert [entry["kind"] for entry in shown["entries"]] == [
        "configured",
        "configured",
        "arrived",
        "answered",
    ]
    assert told("verify", file)["kind"] == "audit-log"
    (path,) = (hospital.home / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Ada", b"Eve"))
    result = gemel("node", "log", hospital.home)
    assert result.exit_code == 3
    assert "GEM415" in result.stderr


def test_new_keys_are_signed_for_by_the_old_and_end_studies_that_name_those(hospital: Hospital) -> None:
    hospital.ready().study()
    before = read_join((hospital.home / "join.json").read_bytes())
    rotated = told("node", "rotate", hospital.home, "--days", 90)
    after = read_join((hospital.home / "join.json").read_bytes())
    assert after.succeeds == before.node_public_key == rotated["succeeds"]
    assert after.transport_public_key != before.transport_public_key
    assert 89 < told("node", "status", hospital.home)["key_days_left"] <= 90
    assert hospital.ask(HELLO) == "GEM404"
    assert told("ledger", "verify", hospital.home)["fingerprint"] == rotated["fingerprint"]
    sha256 = hospital.study()
    told("node", "approve", sha256, hospital.home, "--key", hospital.folder / "ada.key", "--reason", "again")
    assert hospital.ask("count") == "released"


def test_the_doctor_of_a_node_says_what_is_wrong_and_fails(hospital: Hospital) -> None:
    assert hospital.init().exit_code == 0
    result = gemel("doctor", "--node", hospital.home, "--format", "json")
    assert result.exit_code == 1
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert not checks["programmes"]["ok"]
    assert "gemel node allow" in checks["programmes"]["remedy"]
    assert checks["ledger"]["ok"]
    assert "GEM407" in gemel("doctor", "--node", hospital.folder).stderr


# --- start ---------------------------------------------------------------------------------------


def test_a_home_without_a_coordinator_is_not_started(hospital: Hospital) -> None:
    hospital.ready()
    home = NodeHome.open(hospital.home)
    home.changed(address="")
    assert "GEM407" in gemel("node", "start", hospital.home).stderr
    home.changed(address="127.0.0.1:1")
    (hospital.home / "keys" / "next").mkdir()
    assert "GEM417" in gemel("node", "start", hospital.home).stderr


def test_a_node_runs_until_it_is_told_to_stop_and_shows_metrics_on_loopback(
    tmp_path: Path, exports: dict[str, Path]
) -> None:
    """The coordinator does not run: the node waits for it, and can be watched meanwhile."""
    hospital = Hospital(tmp_path, exports["gamma"], port=free_port()).ready()
    hospital.study()
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gemel.cli.main",
        "node",
        "start",
        str(hospital.home),
        "--metrics-port",
        str(port),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        metrics = _metrics(port, process)
        assert metrics["gemel_node_epsilon_cap"] == 3.0
        assert metrics['gemel_node_studies{state="waiting"}'] == 1.0
        assert metrics['gemel_node_answers_total{code="",status="pending"}'] == 1.0
        assert 364 < metrics["gemel_node_key_days_left"] <= 365
        assert not [name for name in metrics if "patient" in name or "person" in name]
        with pytest.raises(OSError):
            socket.create_connection((_own_address(), port), timeout=2)
        assert "GEM407" in gemel("node", "rotate", hospital.home).stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    kinds = [entry["kind"] for entry in told("node", "log", hospital.home)["entries"]]
    assert kinds[-2:] == ["started", "stopped"]
    assert told("node", "status", hospital.home)["connection"]["standing"] == "stopped"


def _metrics(port: int, process: subprocess.Popen[str]) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                lines = response.read().decode().splitlines()
        except OSError:
            time.sleep(0.2)
            continue
        running = (Path(process.args[-3]) / "connection.json").exists()  # type: ignore[index]
        if not running:
            time.sleep(0.2)
            continue
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }
    raise AssertionError("no metrics")


def _own_address() -> str:
    """An address of this machine that is not loopback; one that is nobody's when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "192.0.2.1"
        return str(probe.getsockname()[0])
