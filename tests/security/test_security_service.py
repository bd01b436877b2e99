"""The coordinator's service, attacked by its own users.

Stands for NVFlare CVE-2026-24178 (an id of another's, and fields that nobody may set), vantage6 CVE-2023-41881 and
CVE-2023-41882 (nested and expanded reads), GHSA-99r4-cjp4-3hmx (one's own scope widened), CVE-2026-24204 (what is not
checked is told). Who may open which door, and whose object it is: `tests/server/service/test_service_access.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_service import Running, running

from gemel.core.signing import SigningKey
from gemel.server.service.roles import Role
from gemel.server.store import open_store

# What a user would like to set about himself, or about an object that is not his.
WISHES = {
    "id": "00" * 16,
    "owner": "00" * 16,
    "user_id": "00" * 16,
    "role": "admin",
    "state": "finished",
    "password_hash": "x",
    "identity": "x",
    "permissions": ["users_write"],
    "is_admin": True,
    "code": "",
    "created_at": "2000-01-01",
    "certificate_sha256": "00" * 32,
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with running(tmp_path / "home", engine) as it:
        yield it
    engine.dispose()


def _forms(service: Running) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and form of every door that takes a body, from the service's own description."""
    _, secret = service.user("reader", Role.ADMIN)
    with service.client(secret) as client:
        described = client.get("/api/v1/openapi.json").json()
    found = []
    for path, methods in described["paths"].items():
        for method, door in methods.items():
            body = door.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body and "$ref" in body:
                form = described["components"]["schemas"][body["$ref"].rpartition("/")[2]]
                found.append((method.upper(), path, form))
    return found


def test_no_form_takes_a_field_that_it_does_not_declare(service: Running) -> None:
    """NVFlare CVE-2026-24178 and #4343: mass assignment."""
    forms = _forms(service)
    assert len(forms) >= 8
    for method, path, form in forms:
        assert form.get("additionalProperties") is False, (method, path)


@pytest.mark.parametrize("role", [Role.SCIENTIST, Role.OPERATOR, Role.ADMIN])
def test_a_field_that_was_wished_for_is_refused_at_every_door_and_changes_nothing(
    service: Running, role: Role
) -> None:
    """NVFlare CVE-2026-24178: the field is sent, for every door, by a user who may open it or not."""
    user, secret = service.user("wishful", role)
    with service.client(secret) as client:
        before = client.get("/api/v1/me").json()
        for method, path, form in _forms(service):
            place = (
                path.replace("{study}", "00" * 16).replace("{user}", user.id).replace("{token}", "00" * 16)
            )
            for name, value in WISHES.items():
                if name in form["properties"]:
                    continue
                body = {**_plausible(form), name: value}
                answer = client.request(method, place, json=body)
                assert answer.status_code in (400, 401, 403, 404, 405, 409, 422, 429), (method, place, name)
        assert client.get("/api/v1/me").json() == before


def _plausible(form: dict[str, Any]) -> dict[str, Any]:
    """A body with every required field: something of the right kind."""
    made: dict[str, Any] = {}
    for name in form.get("required", []):
        kind = form["properties"][name].get("type", "string")
        made[name] = {"string": "aaaaaaaaaaaaaaaaaaaa", "integer": 1, "number": 1.0, "object": {}}.get(
            kind, "aaa"
        )
    return made


@pytest.mark.parametrize("role", [Role.SCIENTIST, Role.VIEWER, Role.OPERATOR, Role.AUDITOR])
def test_nobody_widens_what_he_may(service: Running, role: Role) -> None:
    """vantage6 GHSA-99r4-cjp4-3hmx: a scope that its holder could edit."""
    user, secret = service.user("climber", role)
    with service.client(secret) as client:
        for body in ({"role": "admin"}, {"state": "active"}):
            assert client.patch(f"/api/v1/users/{user.id}", json=body).status_code in (403, 404)
        wider = client.post("/api/v1/me/tokens", json={"label": "x", "role": "admin"})
        assert wider.status_code in (403, 422), wider.text
        assert client.get("/api/v1/me").json()["role"] == role


@pytest.mark.parametrize(
    "query", ["?include=users", "?expand=owner", "?fields=password_hash", "?embed=*", "?all=1"]
)
def test_no_read_can_be_widened_by_a_query(service: Running, query: str) -> None:
    """vantage6 CVE-2023-41882: `include=` showed what the door itself did not."""
    _, secret = service.user("curious", Role.VIEWER)
    with service.client(secret) as client:
        for path in ("/api/v1/studies", "/api/v1/members", "/api/v1/me"):
            plain, asked = client.get(path), client.get(path + query)
            assert asked.status_code in (200, 422)
            assert asked.status_code == 422 or asked.json() == plain.json()
            assert "password" not in asked.text


@pytest.mark.parametrize(
    "place",
    [
        "/api/v1/studies/..%2f..%2fkeys%2fcoordinator.key",
        "/api/v1/studies/%00",
        "/api/v1/models/..%2f..%2fkeys%2fcoordinator.key",
        "/api/v1/models/x/files/..%2f..%2f..%2fkeys%2fcoordinator.key",
        "/api/v1/../../keys/coordinator.key",
        "//etc/passwd",
        "/static/../keys/coordinator.key",
    ],
)
def test_no_address_is_a_path(service: Running, place: str) -> None:
    """NVFlare CWE-22 (#4229)."""
    key = service.service.home.key
    assert isinstance(key, SigningKey)
    _, secret = service.user("walker", Role.SCIENTIST)
    with service.client(secret) as client:
        answer = client.get(place)
    assert answer.status_code in (400, 403, 404, 405, 422), answer.text
    assert "PRIVATE" not in answer.text


def test_a_fault_of_a_request_tells_nothing_of_the_machine(service: Running) -> None:
    """NVFlare CVE-2026-24204: what came in unchecked went out again."""
    _, secret = service.user("prober", Role.SCIENTIST)
    with service.client(secret) as client:
        for content in (
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"a":' * 2000,
            b"\xff\xfe",
            json.dumps({"study": []}).encode(),
        ):
            answer = client.post(
                "/api/v1/studies", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (400, 413, 422), answer.text
            for word in ("Traceback", "site-packages", str(Path.cwd()), "sqlalchemy", "pydantic", ".py"):
                assert word not in answer.text
