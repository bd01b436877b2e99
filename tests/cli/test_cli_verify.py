"""`gemel verify` and `gemel ledger`: what a stranger can check, offline."""

import json

import msgspec
import pytest
from typer.testing import CliRunner

from gemel.cli.main import app
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.privacy.accounting import epsilon

RUNNER = CliRunner()
KEY = SigningKey.generate()
MECHANISMS = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=8.0, count=3),)


def _run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A node's home whose ledger has two charges, one of them released."""
    config = NodeConfig(
        schema=SCHEMA,
        site="north",
        export="export",
        coordinator_public_key=KEY.public_hex,
        stewards={},
        programmes=("fatty_liver@1",),
        epsilon_cap=3.0,
        delta=1e-5,
        minimum_patients=100,
    )
    made = NodeHome.create(tmp_path_factory.mktemp("node") / "north", config)
    with made.open_ledger() as ledger:
        for task in ("train/1", "train/2"):
            entry = ledger.reserve(
                study_sha256="aa" * 32,
                programme="fatty_liver@1",
                task=task,
                request_sha256=document_hash(task),
                snapshot="cc" * 32,
                patients=None,
                mechanisms=MECHANISMS,
            )
        ledger.record_release(entry, release_sha256="dd" * 32)
    return made.folder


@pytest.fixture
def exported(home, tmp_path):
    path = tmp_path / "ledger.json"
    result = _run("ledger", "show", home, "--export", path)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(sign_document("certificate", {"rounds": 5}, KEY, role="coordinator").to_bytes())
    return path


def test_verify_says_who_signed(certificate):
    result = _run("verify", certificate)
    assert result.exit_code == 0
    assert "certificate" in result.stdout
    assert "coordinator" in result.stdout
    assert fingerprint(KEY.public_hex) in result.stdout


def test_verify_as_json_is_one_object(certificate):
    answer = json.loads(_run("verify", certificate, "--format", "json").stdout)
    assert (answer["ok"], answer["kind"]) == (True, "certificate")
    assert answer["signatures"][0]["public_key"] == KEY.public_hex


@pytest.mark.parametrize("key", [KEY.public_hex, fingerprint(KEY.public_hex)], ids=["key", "fingerprint"])
def test_the_wanted_signer_is_found_by_key_or_fingerprint(certificate, key):
    assert _run("verify", certificate, "--signer", key).exit_code == 0


def test_a_document_of_somebody_else_is_refused_although_it_verifies(certificate):
    result = _run("verify", certificate, "--signer", SigningKey.generate().public_hex)
    assert result.exit_code == 3
    assert "GEM102" in result.stderr


def test_a_changed_document_exits_with_three(certificate):
    certificate.write_bytes(certificate.read_bytes().replace(b'"rounds":5', b'"rounds":9'))
    result = _run("verify", certificate, "--format", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "GEM103"


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b"# Readme"])
def test_what_is_no_document_exits_with_two(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    result = _run("verify", path)
    assert result.exit_code == 2
    assert "GEM106" in result.stderr


def test_a_missing_file_exits_with_two(tmp_path):
    result = _run("verify", tmp_path / "absent.json")
    assert result.exit_code == 2
    assert "GEM106" in result.stderr


def test_a_signed_study_that_is_malformed_is_named(tmp_path):
    path = tmp_path / "study.json"
    path.write_bytes(sign_document("study", {"schema": "x"}, KEY, role="proposer").to_bytes())
    result = _run("verify", path)
    assert result.exit_code == 2
    assert "GEM101" in result.stderr


def test_the_ledger_shows_every_charge_and_what_is_spent(home):
    answer = json.loads(_run("ledger", "show", home, "--format", "json").stdout)
    assert [(e["kind"], e["task"]) for e in answer["entries"]] == [
        ("opened", ""), ("reserved", "train/1"), ("reserved", "train/2"), ("spent", "train/2"),
    ]  # fmt: skip
    assert answer["epsilon_spent"] == epsilon(MECHANISMS * 2, delta=1e-5)
    assert answer["epsilon_remaining"] == pytest.approx(3.0 - answer["epsilon_spent"])


def test_the_table_of_the_ledger_names_cap_and_spent(home):
    result = _run("ledger", "show", home)
    spent = epsilon(MECHANISMS * 2, delta=1e-5)
    assert f"north: epsilon {spent} of 3.0 spent" in result.stdout
    assert "3 x gaussian z=8" in result.stdout


def test_the_ledgers_own_file_is_read_as_the_ledger_of_its_home(home):
    by_file = _run("ledger", "verify", home / "ledger.sqlite", "--format", "json")
    assert json.loads(by_file.stdout) == json.loads(_run("ledger", "verify", home, "--format", "json").stdout)


@pytest.mark.parametrize("command", [("verify",), ("ledger", "verify"), ("ledger", "show")])
def test_an_exported_ledger_holds_for_a_stranger(exported, command):
    result = _run(*command, exported)
    assert result.exit_code == 0, result.stderr


def _rewritten(path, change):
    """The export with a change to its payload, hash and signature made good by another key."""
    payload = json.loads(path.read_bytes())["payload"]
    change(payload)
    path.write_bytes(sign_document("ledger", payload, SigningKey.generate(), role="node").to_bytes())


def _forget_the_last(payload):
    payload["entries"].pop()


def _lower_the_epsilon(payload):
    payload["entries"][1]["epsilon_after"] = 0.001


def _spend_less(payload):
    payload["epsilon_spent"] = 0.001


@pytest.mark.parametrize("change", [_forget_the_last, _lower_the_epsilon, _spend_less])
@pytest.mark.parametrize("command", [("verify",), ("ledger", "verify"), ("ledger", "show")])
def test_a_changed_ledger_exits_with_three_even_when_signed_anew(exported, command, change):
    _rewritten(exported, change)
    result = _run(*command, exported)
    assert result.exit_code == 3
    assert result.stderr[:6] in {"GEM102", "GEM105", "GEM302"}


def test_a_damaged_signature_exits_with_three(exported):
    document = msgspec.json.decode(exported.read_bytes())
    document["signatures"][0]["value"] = "00" * 64
    exported.write_bytes(canonical_bytes(document))
    assert _run("verify", exported).exit_code == 3


def test_a_home_without_its_ledger_is_not_shown_as_nothing_spent(home, tmp_path):
    (tmp_path / "node.json").write_bytes((home / "node.json").read_bytes())
    result = _run("ledger", "show", tmp_path)
    assert result.exit_code == 2
    assert "GEM407" in result.stderr
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_document_of_another_kind_is_no_ledger(certificate):
    result = _run("ledger", "show", certificate)
    assert result.exit_code == 2
    assert "GEM106" in result.stderr
