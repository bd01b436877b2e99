"""schemathesis against the service's own OpenAPI: whatever is sent, no fault inside, and every error is a code in JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running_service import Running, running
from schemathesis import Case
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from gemel.core.error_catalogue import CATALOGUE
from gemel.server.service.roles import Role
from gemel.server.store import open_store

# GEMEL_SCHEMA_EXAMPLES=200 for the long form.
EXAMPLES = int(os.environ.get("GEMEL_SCHEMA_EXAMPLES", "6"))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[Role, str]]]:
    folder = tmp_path_factory.mktemp("schema")
    engine = open_store(f"sqlite:///{folder / 'store.sqlite'}")
    with running(folder / "home", engine) as it:
        yield it, {role: it.user(f"the-{role}", role)[1] for role in Role}
    engine.dispose()


@pytest.mark.parametrize("role", [Role.SCIENTIST, Role.ADMIN])
def test_whatever_is_sent_every_answer_is_as_published(
    hall: tuple[Running, dict[Role, str]], role: Role
) -> None:
    it, secrets = hall
    schema = schemathesis.openapi.from_dict(it.app.openapi())
    answered: list[str] = []
    for operation in schema.get_all_operations():
        _send(operation.ok(), it.url, secrets[role], answered.append)
    paths = {path for path in it.app.openapi()["paths"] if not path.endswith("/logout")}
    assert paths <= set(answered)


def _send(operation: Any, url: str, secret: str, note: Callable[[str], None]) -> None:
    if operation.path.endswith("/logout"):  # it would end the token
        return

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def one(case: Case) -> None:
        answer = case.call(base_url=url, headers={"Authorization": f"Bearer {secret}"})
        note(operation.path)
        if answer.status_code >= 400:
            assert answer.json()["error"]["code"] in CATALOGUE
        case.validate_response(answer, checks=CHECKS)

    one()
