"""A scientist's and an administrator's commands, against a running service."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from running_service import PASSWORD, Running, running
from study_life import CoordinatorRuns, admit_members
from typer.testing import CliRunner

from gemel.cli.demo.federation import Federation
from gemel.cli.main import app
from gemel.cli.study_options import ALGORITHMS, CLIPPINGS, PERSONALISATIONS, RULES
from gemel.cli.study_token import ROLES
from gemel.client_node.approvals import Decision
from gemel.core.signing import SigningKey
from gemel.core.strategy_plan import Algorithm, Personalisation
from gemel.core.study import AggregationRule, Clipping
from gemel.server.service.roles import Role
from gemel.server.service.watcher import Watcher
from gemel.server.store import open_store

KEYS = {site: SigningKey.generate().public_hex for site in ("north", "south", "west")}


class Person:
    """Somebody at a machine of their own."""

    def __init__(self, folder: Path, service: Running) -> None:
        folder.mkdir()
        self.folder, self.service = folder, service

    def gemel(self, *arguments: str, stdin: str = "", code: int = 0) -> dict:
        environment = {"GEMEL_SERVICE": str(self.folder / "service.json")}
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            got = CliRunner().invoke(app, [*arguments, "--format", "json"], input=stdin, env=environment)
        finally:
            os.chdir(before)
        assert got.exit_code == code, (arguments, got.output, got.exception)
        return json.loads(got.stdout) if got.stdout.strip() else {}


@pytest.fixture
def members(service: Running) -> Running:
    admit_members(service, KEYS)
    return service


@pytest.fixture
def admin(members: Running, tmp_path: Path) -> Person:
    members.user("boss", Role.ADMIN, password=True)
    person = Person(tmp_path / "admin", members)
    person.gemel("study", "login", members.url, "--user", "boss", stdin=PASSWORD + "\n")
    return person


@pytest.fixture
def scientist(admin: Person, tmp_path: Path) -> Person:
    made = admin.gemel("federation", "user", "add", "ada", "--role", "scientist")
    person = Person(tmp_path / "scientist", admin.service)
    person.gemel(
        "study", "login", admin.service.url, "--setup", stdin=f"{made['setup']}\na long enough one\n"
    )
    return person


def test_a_study_goes_from_the_command_line_to_its_certificate(
    federation: Federation, tmp_path: Path
) -> None:
    """Two users, three real hospitals in this process, one of which refuses; all that is typed is documented."""
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with running(federation.coordinator.folder, engine) as it:
        admit_members(it, federation.site_keys)
        runs = CoordinatorRuns(
            federation, lambda site: Decision.REFUSED if site == "gamma" else Decision.APPROVED
        )
        watcher = Watcher(it.service, runs)
        watcher.start()
        try:
            _walk(it, federation, tmp_path)
        finally:
            watcher.stop()
    engine.dispose()


def _walk(it: Running, federation: Federation, tmp_path: Path) -> None:
    it.user("boss", Role.ADMIN, password=True)
    admin, ada = Person(tmp_path / "admin", it), Person(tmp_path / "ada", it)
    admin.gemel("study", "login", it.url, "--user", "boss", stdin=PASSWORD + "\n")
    setup = admin.gemel("federation", "user", "add", "ada", "--role", "scientist")["setup"]
    ada.gemel("study", "login", it.url, "--setup", stdin=f"{setup}\na long enough one\n")
    ada.gemel("study", "key")
    options = ("--rounds", "1", "--minimum-patients", "20", "--round-timeout", "20", "--id", "first")
    new = ada.gemel("study", "new", "--programme", "fatty_liver", *options)
    assert new["study"]["sites"] == federation.site_keys
    assert 2.9 < new["price"]["epsilon"] <= 3.0
    assert ada.gemel("study", "show", "study.json")["price"] == new["price"]
    signed = ada.gemel("study", "sign", "study.json")
    submitted = ada.gemel("study", "submit", "study.signed.json")
    assert submitted["study_sha256"] == signed["study_sha256"]
    assert ada.gemel("study", "submit", "study.signed.json")["id"] == submitted["id"]  # an interrupted one
    ended = ada.gemel("study", "watch", "first")
    assert ended["study"]["state"] == "finished"
    said = {site["site"]: site["status"] for site in ended["sites"]}
    assert said == {"alpha": "approved", "beta": "approved", "gamma": "refused"}
    assert ada.gemel("study", "show", "first")["study"]["state"] == "finished"
    fetched = ada.gemel("study", "pull", "first", "-o", "got")
    names = {path.name for path in (ada.folder / "got").iterdir()}
    assert names == {"certificate.json", *(file["name"] for file in fetched["files"])}
    assert ada.gemel("verify", "got/certificate.json")["ok"]
    fitted = ada.gemel("synth", "fit", "got", "-o", "cohorts.safetensors")
    assert (fitted["hospitals"], fitted["certificate_sha256"]) == (2, fetched["certificate"])
    assert ada.gemel("verify", "cohorts.safetensors")["kind"] == "cohort_model"
    refused = admin.gemel("study", "stop", "first", "--reason", "too late", code=3)
    assert refused["error"]["code"] == "GEM904"  # an administrator steers no studies


def test_a_login_is_kept_readable_by_its_owner_only(scientist: Person) -> None:
    path = scientist.folder / "service.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    scientist.gemel("study", "login", scientist.service.url, "--user", "ada", stdin="a long enough one\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_signing_out_ends_the_session_and_forgets_it(scientist: Person) -> None:
    scientist.gemel("study", "logout")
    assert not (scientist.folder / "service.json").exists()
    assert scientist.gemel("study", "list", code=2)["error"]["code"] == "GEM917"


def test_an_api_token_signs_in_without_a_password(scientist: Person, tmp_path: Path) -> None:
    made = scientist.gemel("study", "token", "--label", "nightly", "--role", "viewer")
    secret = made["secret"]
    robot = Person(tmp_path / "robot", scientist.service)
    robot.gemel("study", "login", scientist.service.url, "--token", stdin=secret + "\n")
    assert robot.gemel("study", "list") == {"studies": []}
    listed = scientist.gemel("study", "token")
    assert secret not in str(listed)
    scientist.gemel("study", "token", "--revoke", made["token"]["id"])
    assert robot.gemel("study", "list", code=3)["error"]["code"] == "GEM901"


def test_a_refusal_of_the_service_is_the_command_s_own(scientist: Person) -> None:
    refused = scientist.gemel("federation", "user", "list", code=3)
    assert refused["error"]["code"] == "GEM904"


def test_no_service_there_is_said_as_such(tmp_path: Path, service: Running) -> None:
    person = Person(tmp_path / "person", service)
    got = person.gemel("study", "login", "http://127.0.0.1:9", "--user", "ada", stdin="x\n", code=4)
    assert got["error"]["code"] == "GEM916"


def test_a_token_is_never_sent_without_tls(tmp_path: Path, service: Running) -> None:
    person = Person(tmp_path / "person", service)
    got = person.gemel("study", "login", "http://example.org", "--user", "ada", stdin="x\n", code=4)
    assert "https" in got["error"]["message"]


def test_the_administrator_lists_disables_and_resets(admin: Person, scientist: Person) -> None:
    names = [user["name"] for user in admin.gemel("federation", "user", "list")["users"]]
    assert names == ["ada", "boss"]
    assert admin.gemel("federation", "user", "token", "ada", "--setup")["setup"].startswith("gemel_setup_")
    got = CliRunner().invoke(
        app,
        ["federation", "user", "disable", "ada"],
        env={"GEMEL_SERVICE": str(admin.folder / "service.json")},
    )
    assert got.exit_code == 0
    assert scientist.gemel("study", "list", code=3)["error"]["code"] == "GEM901"


def test_the_audit_log_is_fetched_whole_and_verified(admin: Person) -> None:
    got = admin.gemel("federation", "user", "audit")
    assert got["last"] == got["entries"] == admin.service.service.log.head()[0]
    assert admin.gemel("verify", "audit.json")["ok"]
    rest = admin.gemel("federation", "user", "audit", "--after", str(got["last"]), "-o", "rest.json")
    assert rest["entries"] == 1  # this very fetch


def test_the_words_of_the_options_are_those_of_the_core() -> None:
    assert tuple(map(str, Algorithm)) == ALGORITHMS
    assert tuple(map(str, Personalisation)) == PERSONALISATIONS
    assert tuple(map(str, AggregationRule)) == RULES
    assert tuple(map(str, Clipping)) == CLIPPINGS
    assert tuple(map(str, Role)) == ROLES


@pytest.mark.parametrize(
    "options",
    [
        ["--validate-every", "1", "--patience", "2"],
        ["--strategy", "fedprox", "--mu", "0.1"],
        ["--personal", "ditto", "--ditto-lambda", "0.5", "--cross-site"],
        ["--masked"],
        ["--buffer", "2"],
        ["--clipping", "adaptive"],
    ],
    ids=" ".join,
)
def test_whatever_is_asked_for_a_new_study_costs_no_more_than_its_budget(
    tmp_path: Path, service: Running, options: list[str]
) -> None:
    sites = [f"--site={site}={key}" for site, key in KEYS.items()]
    person = Person(tmp_path / "person", service)
    made = person.gemel("study", "new", "--programme", "fatty_liver", "--rounds", "2", *sites, *options)
    assert 2.9 < made["price"]["epsilon"] <= 3.0
