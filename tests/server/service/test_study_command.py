"""A scientist's and an administrator's commands, against a running service."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from running_service import PASSWORD, Running
from typer.testing import CliRunner

from gemel.cli.main import app
from gemel.cli.study_options import ALGORITHMS, CLIPPINGS, PERSONALISATIONS, RULES
from gemel.core.signing import SigningKey
from gemel.core.strategy_plan import Algorithm, Personalisation
from gemel.core.study import AggregationRule, Clipping
from gemel.server.service.roles import Role

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
    for site, key in KEYS.items():
        service.service.members.admit(
            site=site, public_key=key, transport_key="", flower_node=1, expires_at="2999-01-01T00:00:00+00:00"
        )
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


def test_a_study_goes_from_the_command_line_to_its_certificate(scientist: Person) -> None:
    from study_life_support import Coordinated

    watcher = scientist.service.watcher
    scientist.gemel("study", "key")
    new = scientist.gemel("study", "new", "--programme", "fatty_liver", "--rounds", "2", "--id", "first")
    assert new["study"]["sites"] == KEYS
    assert new["price"]["epsilon"] <= 3.0
    shown = scientist.gemel("study", "show", "study.json")
    assert shown["price"] == new["price"]
    signed = scientist.gemel("study", "sign", "study.json")
    submitted = scientist.gemel("study", "submit", "study.signed.json")
    assert submitted["state"] == "proposed"
    again = scientist.gemel("study", "submit", "study.signed.json")  # an interrupted one
    assert again["id"] == submitted["id"]
    watcher.look()
    run = Coordinated(scientist.service, signed["study_sha256"])
    run.approve("north", "south").refuse("west").tasks().finish()
    watcher.look()
    ended = scientist.gemel("study", "watch", "first")
    assert ended["study"]["state"] == "finished"
    assert {site["site"]: site["status"] for site in ended["sites"]}["west"] == "refused"
    fetched = scientist.gemel("study", "pull", "first", "-o", "got")
    assert sorted(p.name for p in (scientist.folder / "got").iterdir()) == sorted(
        ["certificate.json", *(file["name"] for file in fetched["files"])]
    )
    assert scientist.gemel("verify", "got/certificate.json")["ok"]


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
    login = json.loads((scientist.folder / "service.json").read_text())
    with scientist.service.client(login["secret"]) as client:
        secret = client.post("/api/v1/me/tokens", json={"label": "nightly"}).json()["secret"]
    robot = Person(tmp_path / "robot", scientist.service)
    robot.gemel("study", "login", scientist.service.url, "--token", stdin=secret + "\n")
    assert robot.gemel("study", "list") == {"studies": []}


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


def test_the_words_of_the_options_are_those_of_the_core() -> None:
    assert tuple(map(str, Algorithm)) == ALGORITHMS
    assert tuple(map(str, Personalisation)) == PERSONALISATIONS
    assert tuple(map(str, AggregationRule)) == RULES
    assert tuple(map(str, Clipping)) == CLIPPINGS


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
