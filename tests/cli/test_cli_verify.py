"""`gemel verify` and `gemel ledger`: what a stranger can check, offline."""

import json
import shutil
import sqlite3

import msgspec
import pytest
from ledgers import OTHER, PLAN, STEWARD, STEWARDS, STUDY, begin, people, reserve
from typer.testing import CliRunner

from gemel.cli.main import app
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.core.canonical import canonical_bytes
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.privacy.accounting import price
from gemel.twins.programmes.fatty_liver import PROGRAMME

RUNNER = CliRunner()
KEY = SigningKey.generate()
SPENT = price((*PLAN, *PLAN), delta=1e-5)


def _run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A node's home whose ledger has two studies, a task of one begun and released."""
    config = NodeConfig(
        schema=SCHEMA,
        site="north",
        export="export",
        coordinator_public_key=KEY.public_hex,
        stewards=STEWARDS,
        programmes=(f"{PROGRAMME.name}@{PROGRAMME.version}",),
        epsilon_cap=3.0,
        delta=1e-5,
        minimum_patients=100,
    )
    made = NodeHome.create(tmp_path_factory.mktemp("node") / "north", config)
    with made.open_ledger() as ledger:
        reserve(ledger)
        reserve(ledger, OTHER, of=people(49, 99))
        ledger.record_release(begin(ledger), release_sha256="dd" * 32)
        ledger._store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made.folder


@pytest.fixture
def home(made, tmp_path):
    return shutil.copytree(made, tmp_path / "north")


@pytest.fixture
def exported(home, tmp_path):
    path = tmp_path / "ledger.json"
    result = _run("ledger", "show", home, "--export", path)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def minutes(tmp_path):
    """A document of a kind that promises nothing beyond its signature."""
    path = tmp_path / "minutes.json"
    path.write_bytes(sign_document("minutes", {"rounds": 5}, KEY, role="coordinator").to_bytes())
    return path


def test_verify_says_who_signed(minutes):
    result = _run("verify", minutes)
    assert result.exit_code == 0
    assert "minutes" in result.stdout
    assert "coordinator" in result.stdout
    assert fingerprint(KEY.public_hex) in result.stdout


def test_verify_as_json_is_one_object(minutes):
    answer = json.loads(_run("verify", minutes, "--format", "json").stdout)
    assert (answer["ok"], answer["kind"]) == (True, "minutes")
    assert answer["signatures"][0]["public_key"] == KEY.public_hex


@pytest.mark.parametrize("key", [KEY.public_hex, fingerprint(KEY.public_hex)], ids=["key", "fingerprint"])
def test_the_wanted_signer_is_found_by_key_or_fingerprint(minutes, key):
    assert _run("verify", minutes, "--signer", key).exit_code == 0


def test_a_document_of_somebody_else_is_refused_although_it_verifies(minutes):
    result = _run("verify", minutes, "--signer", SigningKey.generate().public_hex)
    assert result.exit_code == 3
    assert "GEM102" in result.stderr


def test_a_changed_document_exits_with_three(minutes):
    minutes.write_bytes(minutes.read_bytes().replace(b'"rounds":5', b'"rounds":9'))
    result = _run("verify", minutes, "--format", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "GEM103"


def test_a_certificate_that_claims_nothing_is_no_certificate(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(sign_document("certificate", {"rounds": 5}, KEY, role="coordinator").to_bytes())
    result = _run("verify", path)
    assert result.exit_code == 3
    assert result.stderr.startswith("GEM512")


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
    assert [(e["kind"], e["study_sha256"][:2], e["task"]) for e in answer["entries"]] == [
        ("opened", "", ""), ("reserved", "11", ""), ("reserved", "77", ""), ("begun", "11", "count"),
        ("released", "11", "count"),
    ]  # fmt: skip
    assert answer["epsilon_spent"] == answer["inside"]["epsilon_of_worst_person"] == SPENT
    assert answer["inside"]["persons"] == 99
    assert answer["inside"]["epsilon_remaining"] == pytest.approx(3.0 - SPENT)


def test_the_table_of_the_ledger_names_cap_and_spent_and_what_stays_inside(home):
    result = _run("ledger", "show", home)
    assert f"north: epsilon {SPENT} at delta" in result.stdout.replace("\n", " ")
    assert "train/1 (training): 5 x gaussian z=8" in result.stdout
    assert "Only for the hospital: of 99 patients" in result.stdout


def test_an_export_does_not_say_what_stays_inside(exported):
    result = _run("ledger", "show", exported, "--format", "json")
    assert "inside" not in json.loads(result.stdout)
    assert b"epsilon_of_worst_person" not in exported.read_bytes()


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


def test_a_document_of_another_kind_is_no_ledger(minutes):
    result = _run("ledger", "show", minutes)
    assert result.exit_code == 2
    assert "GEM106" in result.stderr


# --- rolled back, flipped, expired ----------------------------------------------------------------


def _certified(home, tmp_path):
    """A run certificate that has seen the ledger as it is."""
    head = json.loads(_run("ledger", "verify", home, "--format", "json").stdout)
    sites = {"north": {k: head[k] for k in ("public_key",)} | {
        "ledger_seq": head["entries"], "ledger_head": head["head"]}}  # fmt: skip
    path = tmp_path / "seen.json"
    path.write_bytes(sign_document("certificate", {"sites": sites}, KEY, role="coordinator").to_bytes())
    return path


def test_a_ledger_that_a_certificate_saw_is_anchored(home, exported, tmp_path):
    seen = _certified(home, tmp_path)
    answer = json.loads(_run("ledger", "verify", home, "--anchor", seen, "--format", "json").stdout)
    assert answer["anchored_entry"] == 5
    result = _run("verify", exported, "--anchor", seen)
    assert result.exit_code == 0, result.stderr
    assert "the certificate's entry 5 is in the chain" in " ".join(result.stdout.split())


def test_a_ledger_rolled_back_with_its_own_anchor_is_named_by_a_certificate(home, exported, tmp_path):
    older = shutil.copytree(home, tmp_path / "older")
    assert _expire(home, STUDY).exit_code == 0
    seen = _certified(home, tmp_path)
    for part in older.glob("ledger.sqlite*"):
        shutil.copy(part, home)
    assert _run("ledger", "verify", home).exit_code == 0, "nothing inside the home shows it"
    for command in (("ledger", "verify", home), ("ledger", "verify", exported), ("verify", exported)):
        result = _run(*command, "--anchor", seen)
        assert result.exit_code == 3
        assert result.stderr.startswith("GEM309")


def test_an_anchor_that_is_no_certificate_or_of_no_ledger_is_refused(exported, minutes, home, tmp_path):
    assert _run("verify", exported, "--anchor", exported).exit_code == 2
    assert _run("verify", exported, "--anchor", minutes).exit_code == 2
    assert _run("verify", minutes, "--anchor", _certified(home, tmp_path)).exit_code == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), 'count', 'c0unt') AS BLOB) WHERE seq = 4",
        "UPDATE people SET content = zeroblob(length(content)) WHERE seq = 2 AND name = 'training'",
        "DELETE FROM people WHERE seq = 3",
    ],
)
@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_changed_file_exits_with_three_and_is_named(home, statement, command):
    database = sqlite3.connect(home / "ledger.sqlite")
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute(statement)
    database.commit()
    database.close()
    result = _run("ledger", command, home)
    assert result.exit_code == 3
    assert result.stderr.startswith("GEM302")


def _expire(home, study, *more, key=STEWARD, steward="ann"):
    path = home.parent / f"{key.public_hex[:8]}.key"
    if not path.exists():
        key.save(path)
    return _run(
        "ledger", "expire", home, study, "--steward", steward, "--key", path, "--reason", "stopped", *more
    )


def test_a_steward_gives_back_what_never_began(home):
    result = _expire(home, OTHER[:8], "--task", "train/1", "--format", "json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["study"], answer["tasks"], answer["entry"]) == (OTHER, ["train/1"], 6)
    assert answer["epsilon_spent"] < SPENT
    assert "Given back: train/1, evaluate" in _expire(home, STUDY).stdout


def test_what_began_or_a_stranger_gives_back_nothing(home):
    for result in (
        _expire(home, STUDY, "--task", "count"),
        _expire(home, STUDY, key=SigningKey.generate()),
        _expire(home, STUDY, steward="bob"),
        _expire(home, "ffff"),
        _expire(home, ""),
    ):
        assert result.exit_code == 3
        assert result.stderr.startswith("GEM308")
