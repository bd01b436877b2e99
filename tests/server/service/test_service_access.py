"""Who comes through which door: every route with every role, objects of others, and what is refused before it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from running_service import Running, running

from gemel.core.signing import SigningKey, sign_document
from gemel.server.service import access
from gemel.server.service.application import ALL_DOORS, build
from gemel.server.service.guard import MOST_BODY
from gemel.server.service.roles import PERMISSIONS, Permission, Role
from gemel.server.store import open_store

# What each role may do, written down a second time: a slip in the table of the service does not pass.
_ALL = {"self", "members_read", "studies_read"}
EXPECTED = {
    "viewer": _ALL | {"models_read"},
    "scientist": _ALL | {"models_read", "studies_write", "studies_steer"},
    "operator": _ALL | {"models_read", "studies_steer", "studies_steer_any"},
    "auditor": _ALL | {"users_read", "audit_read"},
    "admin": _ALL | {"users_read", "users_write", "audit_read"},
}
PUBLIC = {
    ("GET", "/api/v1/health"),
    ("POST", "/api/v1/login"),
    ("POST", "/api/v1/setup"),
    ("POST", "/api/v1/login/oidc"),
    ("GET", "/api/v1/login/oidc/callback"),
    ("POST", "/api/v1/login/oidc/token"),
}
DOORS = sorted((door.method, door.path, door.permission) for doors in ALL_DOORS for door in doors.declared)


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, httpx.Client]]]:
    """One service with a user of each role."""
    folder = tmp_path_factory.mktemp("hall")
    engine = open_store(f"sqlite:///{folder / 'store.sqlite'}")
    with running(folder / "home", engine) as it:
        clients = {str(role): it.client(it.user(f"the-{role}", role)[1]) for role in Role}
        yield it, {**clients, "nobody": it.client()}
    engine.dispose()


def test_the_table_of_roles_is_the_one_that_is_meant() -> None:
    assert {str(role): {str(p) for p in permissions} for role, permissions in PERMISSIONS.items()} == EXPECTED


def test_only_these_doors_ask_for_no_token() -> None:
    assert {(method, path) for method, path, p in DOORS if p is Permission.ANYBODY} == PUBLIC
    assert [path for _, path, p in DOORS if p is Permission.LOCAL] == ["/metrics"]


def test_a_route_without_a_declared_permission_does_not_start(service: Running) -> None:
    app = build(service.service)
    app.add_api_route("/api/v1/planted", lambda: {}, methods=["GET"])
    with pytest.raises(RuntimeError, match="planted"):
        access.require_all_declared(app)
    other = build(service.service)
    other.mount("/planted", FastAPI())
    with pytest.raises(RuntimeError, match="planted"):
        access.require_all_declared(other)


def _filled(path: str, ids: str = "0" * 32) -> str:
    for name, value in {"sha256": "0" * 64, "key": "0" * 64, "name": "0" * 64, "file": "card.json"}.items():
        path = path.replace("{" + name + "}", value)
    for name in ("study", "user", "token"):
        path = path.replace("{" + name + "}", ids)
    return path


@settings(max_examples=250, deadline=None)
@given(door=st.sampled_from(DOORS), role=st.sampled_from([*map(str, Role), "nobody"]))
def test_every_door_lets_in_whom_the_table_names_and_nobody_else(
    hall: tuple[Running, dict[str, httpx.Client]], door: tuple[str, str, Permission], role: str
) -> None:
    _, clients = hall
    method, path, permission = door
    if permission is Permission.LOCAL or path.endswith("logout"):
        return  # the first has a test of its own; the second would end the token
    client = clients[role]
    answer = client.request(method, _filled(path), json={} if method in ("POST", "PUT", "PATCH") else None)
    code = answer.json()["error"]["code"] if answer.status_code >= 400 else ""
    if permission is Permission.ANYBODY:
        assert code not in ("GEM901", "GEM904")
    elif role == "nobody":
        assert (answer.status_code, code) == (401, "GEM901")
    elif permission in EXPECTED[role]:
        assert code not in ("GEM901", "GEM904")
    else:
        assert (answer.status_code, code) == (403, "GEM904")


@settings(max_examples=100, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"]),
    path=st.sampled_from(
        [path for _, path, _ in DOORS]
        + [
            "/",
            "/docs",
            "/openapi.json",
            "/redoc",
            "/api",
            "/api/v1",
            "/api/v1/../v1/users",
            "//api/v1/users",
        ]
        + [
            "/api/v1/users/",
            "/API/v1/users",
            "/api/v1/users%2f",
            "/api/v1/%75sers",
            "/api/v1/users;x",
            "/metrics/",
        ]
    ),
)
def test_no_spelling_of_an_address_and_no_other_method_opens_a_door_to_nobody(
    hall: tuple[Running, dict[str, httpx.Client]], method: str, path: str
) -> None:
    _, clients = hall
    if (method, path) in PUBLIC or path == "/metrics":
        return
    answer = clients["nobody"].request(method, _filled(path))
    assert answer.status_code in (401, 404)


class Mine:
    """A study of one scientist, in a state."""

    def __init__(self, it: Running, name: str, make: Any) -> None:
        self.user, self.client, self.key = it.scientist(name)
        self.study = make
        self.id = self.client.post("/api/v1/studies", json={"study": make}).json()["id"]

    def sign(self) -> httpx.Response:
        document = json.loads(sign_document("study", self.study, self.key, role="proposer").to_bytes())
        return self.client.post(f"/api/v1/studies/{self.id}/signed", json={"document": document})


@pytest.fixture(scope="module")
def payload() -> dict[str, Any]:
    from gemel.cli.proposal import propose, usual_training
    from gemel.twins.installed import installed

    training, shares = usual_training(installed()[0], rounds=2)
    sites = {site: SigningKey.generate().public_hex for site in ("north", "south", "west")}
    study = propose(
        installed()[0],
        training,
        shares,
        sites=sites,
        epsilon=3.0,
        delta=1e-5,
        minimum_patients=10,
        quorum=2,
        round_timeout_s=60.0,
        study_id="access",
    )
    return study.to_payload()


OBJECT_DOORS = [(m, p, str(perm)) for m, p, perm in DOORS if "{study}" in p]


@pytest.mark.parametrize(("method", "path", "permission"), OBJECT_DOORS)
def test_nobody_reaches_another_s_draft_and_cannot_tell_it_from_none(
    service: Running, payload: dict[str, Any], method: str, path: str, permission: str
) -> None:
    mine = Mine(service, "ada", payload)
    others = {role: service.client(service.user(f"other-{role}", role)[1]) for role in Role}
    body = {"study": payload, "document": {}, "reason": "x", "approval_days": 1}
    wanted = {
        "draft": {"study": payload},
        "signed": {"document": {}},
        "stop": {"reason": "x"},
        "submit": {},
        "resume": {},
    }
    sent = wanted.get(path.rsplit("/", 1)[-1]) if method != "GET" else None
    assert body
    for role, client in others.items():
        if permission not in EXPECTED[role]:
            continue
        theirs = client.request(method, _filled(path, mine.id), json=sent)
        none = client.request(method, _filled(path, "f" * 32), json=sent)
        assert (theirs.status_code, theirs.text) == (none.status_code, none.text), role
        assert theirs.json()["error"]["code"] == "GEM906"


def test_only_its_owner_changes_a_study_and_only_owner_or_operator_stops_it(
    service: Running, payload: dict[str, Any]
) -> None:
    from study_life import admit_members

    admit_members(service, payload["sites"])
    mine = Mine(service, "ada", payload)
    assert mine.sign().status_code == 200
    assert mine.client.post(f"/api/v1/studies/{mine.id}/submit", json={}).status_code == 200
    _, other, _ = service.scientist("eve")
    operator = service.client(service.user("opera", Role.OPERATOR)[1])
    admin = service.client(service.user("boss", Role.ADMIN)[1])
    assert other.get(f"/api/v1/studies/{mine.id}").status_code == 200  # to be seen, once proposed
    for verb, body in (
        ("submit", {}),
        ("stop", {"reason": "x"}),
        ("resume", {}),
        ("signed", {"document": {}}),
    ):
        assert other.post(f"/api/v1/studies/{mine.id}/{verb}", json=body).json()["error"]["code"] == "GEM904"
    assert other.put(f"/api/v1/studies/{mine.id}/draft", json={"study": payload}).status_code == 403
    assert admin.post(f"/api/v1/studies/{mine.id}/stop", json={"reason": "x"}).status_code == 403
    assert operator.post(f"/api/v1/studies/{mine.id}/stop", json={"reason": "x"}).status_code == 200


def test_a_study_is_believed_for_a_key_of_its_owner_only(service: Running, payload: dict[str, Any]) -> None:
    mine = Mine(service, "ada", payload)
    _, _, eves = service.scientist("eve")
    mine.key = eves
    assert mine.sign().json()["error"]["code"] == "GEM911"
    mine.key = SigningKey.generate()
    assert mine.sign().json()["error"]["code"] == "GEM911"


def test_a_study_that_was_changed_after_signing_is_refused(service: Running, payload: dict[str, Any]) -> None:
    mine = Mine(service, "ada", payload)
    document = json.loads(sign_document("study", payload, mine.key, role="proposer").to_bytes())
    document["payload"]["quorum"] = 1
    answer = mine.client.post(f"/api/v1/studies/{mine.id}/signed", json={"document": document})
    assert answer.json()["error"]["code"] == "GEM103"


def test_a_key_that_was_taken_back_submits_nothing(service: Running, payload: dict[str, Any]) -> None:
    mine = Mine(service, "ada", payload)
    mine.sign()
    assert mine.client.delete(f"/api/v1/me/keys/{mine.key.public_hex}").status_code == 204
    answer = mine.client.post(f"/api/v1/studies/{mine.id}/submit", json={})
    assert answer.json()["error"]["code"] == "GEM911"


def test_a_key_is_put_on_record_only_by_who_holds_it_and_for_one_user(service: Running) -> None:
    from running_service import proof

    ada, _, key = service.scientist("ada")
    eve, eves, _ = service.scientist("eve")
    foreign = SigningKey.generate()
    stolen = proof(ada.id, key)  # a proof that was seen
    assert eves.post("/api/v1/me/keys", json={"proof": stolen}).json()["error"]["code"] == "GEM911"
    assert (
        eves.post("/api/v1/me/keys", json={"proof": proof(eve.id, key)}).json()["error"]["code"] == "GEM909"
    )
    claimed = proof(eve.id, foreign)
    claimed["payload"]["public_key"] = SigningKey.generate().public_hex
    assert eves.post("/api/v1/me/keys", json={"proof": claimed}).status_code in (403, 422)


@pytest.mark.parametrize("fault", ["unknown", "revoked", "expired", "renamed"])
def test_no_study_reaches_a_hospital_that_is_no_member_now(
    service: Running, payload: dict[str, Any], fault: str
) -> None:
    from study_life import admit_members

    from gemel.server.members import MemberState

    members = service.service.members
    sites = dict(payload["sites"])
    if fault == "unknown":
        sites.pop("west")
    admit_members(service, sites)
    west = payload["sites"]["west"]
    if fault == "revoked":
        members.end(west, MemberState.REVOKED)
    if fault == "expired":
        members.admit(
            site="west",
            public_key=west,
            transport_key="",
            flower_node=9,
            expires_at="2001-01-01T00:00:00+00:00",
        )
    if fault == "renamed":
        members.end(west, MemberState.REVOKED)
    mine = Mine(service, "ada", payload)
    mine.sign()
    answer = mine.client.post(f"/api/v1/studies/{mine.id}/submit", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "GEM921")


# --- before anything is read ------------------------------------------------------------------------------


def test_a_body_is_not_read_before_its_sender_is_known(service: Running) -> None:
    with service.client() as client:
        broken = client.post(
            "/api/v1/studies", content=b"{" * 1000, headers={"Content-Type": "application/json"}
        )
        assert broken.json()["error"]["code"] == "GEM901"


def test_too_much_is_refused_whether_it_is_announced_or_not(service: Running) -> None:
    _, secret = service.user("ada", Role.SCIENTIST)

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (MOST_BODY // 10)

    for content in (b"x" * (MOST_BODY + 1), chunks()):
        with service.client(secret) as client:
            answer = client.post("/api/v1/studies", content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "GEM908")


def test_every_answer_carries_the_headers_and_no_software_s_name(
    hall: tuple[Running, dict[str, httpx.Client]],
) -> None:
    it, clients = hall
    for answer in (
        it.client().get("/api/v1/health"),
        it.client().get("/nothing"),
        it.client().get("/api/v1/users"),
        clients["admin"].get("/api/v1/users"),
        clients["viewer"].post("/api/v1/studies", json={}),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers  # bearer tokens only: no request is made in another's name
        assert "access-control-allow-origin" not in answer.headers


def test_a_fault_inside_leaves_a_number_and_no_trace(
    service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gemel.server.members import Members

    def broken(_self: object) -> list[object]:
        raise ValueError("patient 4711 at /srv/secret")

    monkeypatch.setattr(Members, "all", broken)
    _, secret = service.user("ada", Role.VIEWER)
    answer = service.client(secret).get("/api/v1/members")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "GEM915")
    assert "4711" not in answer.text
    assert "Traceback" not in answer.text
    number = answer.json()["error"]["message"].rsplit(" ", 1)[-1].rstrip(".")
    assert any(number in record.getMessage() for record in caplog.records)


def test_a_malformed_request_names_the_field_and_never_the_value(service: Running) -> None:
    with service.client() as client:
        answer = client.post(
            "/api/v1/login", json={"name": "ada", "password": "secret-value", "role": "admin"}
        )
        assert answer.json()["error"]["code"] == "GEM907"  # no field is ever taken that is not in the form
        assert "body.role" in answer.text
        assert "secret-value" not in client.post("/api/v1/login", json={"password": "secret-value"}).text


ODD = {
    "deep": "[" * 900 + "]" * 900,
    "very deep": "[" * 100_000 + "]" * 100_000,
    "half a character": '"\\ud800"',
    "nothing": '"\\u0000"',
    "a long number": "9" * 4000,
    "a longer number": "9" * 6000,
    "no number": "NaN",
    "infinity": "1e999",
    "twice": '1, "study_id": 2',
}


@pytest.mark.parametrize("odd", list(ODD))
def test_odd_json_is_refused_and_never_a_fault(service: Running, payload: dict[str, Any], odd: str) -> None:
    mine = Mine(service, "ada", payload)
    text = json.dumps({**payload, "study_id": "ODD"}).replace('"ODD"', ODD[odd])
    document = json.loads(sign_document("study", payload, mine.key, role="proposer").to_bytes())
    signed = json.dumps({**document, "payload": "ODD"}).replace('"ODD"', text)
    headers = {"Content-Type": "application/json"}
    for method, path, body in (
        ("POST", "/api/v1/studies", f'{{"study": {text}}}'),
        ("POST", f"/api/v1/studies/{mine.id}/signed", f'{{"document": {signed}}}'),
        ("POST", "/api/v1/me/keys", f'{{"proof": {signed}}}'),
        ("POST", "/api/v1/me/tokens", f'{{"label": {ODD[odd]}}}'),
        ("POST", f"/api/v1/studies/{mine.id}/stop", f'{{"reason": {ODD[odd]}}}'),
        ("POST", "/api/v1/login", f'{{"name": {ODD[odd]}, "password": {ODD[odd]}}}'),
    ):
        answer = mine.client.request(method, path, content=body, headers=headers)
        if odd == "nothing" and path == "/api/v1/studies":
            assert answer.status_code == 201  # a title with a NUL is odd, and harmless: it is stored escaped
        else:
            assert answer.status_code in (401, 403, 404, 409, 422), (path, answer.text)


def test_metrics_are_for_this_machine_only(service: Running) -> None:
    with service.client() as client:
        page = client.get("/metrics")
        assert page.status_code == 200
        assert 'gemel_studies{state="running"} 0.0' in page.text
        assert client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 404
        assert client.get("/metrics", headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 404


def test_the_service_listens_on_loopback_only(tmp_path: Path) -> None:
    from gemel.core.errors import GemelError
    from gemel.server.service.serving import only_one, serve

    with pytest.raises(GemelError, match="GEM919"):
        serve(tmp_path, host="0.0.0.0", port=1)
    with only_one(tmp_path), pytest.raises(GemelError, match="GEM922"), only_one(tmp_path):
        pass
