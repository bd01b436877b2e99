"""The service on a real PostgreSQL: the same chain, limits, tokens and study life as on SQLite; many at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running_service import PASSWORD, Running, running
from sqlalchemy import text
from study_life import Told, admit_members

from gemel.cli.proposal import propose, usual_training
from gemel.core.signing import SigningKey, sign_document
from gemel.server.service.attempts import OF_ACCOUNT
from gemel.server.service.audit_chain import verify_chain
from gemel.server.service.roles import Role
from gemel.server.store import open_store, store_url
from gemel.twins.installed import installed


@pytest.fixture
def hall(postgresql_url: str, tmp_path: Path) -> Iterator[Running]:
    """A service whose home names the PostgreSQL; its tables are empty."""
    from gemel.server.home import CoordinatorHome
    from gemel.server.store import metadata

    home = CoordinatorHome.create(tmp_path / "home")
    (home.folder / "keys" / "database.url").write_text(postgresql_url)
    engine = open_store(store_url(home.folder))
    metadata.drop_all(engine)
    metadata.create_all(engine)
    with running(home.folder, engine) as it:
        yield it
    engine.dispose()


def test_twenty_logins_at_once_get_ten_tries_between_them_and_write_one_chain(hall: Running) -> None:
    hall.user("known", Role.VIEWER, password=True)

    def login(number: int) -> int:
        body = {"name": "known", "password": f"wrong password {number}"}
        with hall.client() as client:
            return client.post("/api/v1/login", json=body).status_code

    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(login, range(20)))
    assert sorted(codes) == [401] * OF_ACCOUNT + [429] * (20 - OF_ACCOUNT)
    entries = hall.service.log.entries()
    assert verify_chain(entries) == hall.service.log.head()[1]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


def test_a_setup_token_works_once_however_many_try_at_once(hall: Running) -> None:
    _, boss = hall.user("boss", Role.ADMIN)
    with hall.client(boss) as client:
        made = client.post("/api/v1/users", json={"name": "ada", "role": "viewer"}).json()

    def setup(_number: int) -> int:
        with hall.client() as client:
            body = {"token": made["setup"]["secret"], "password": PASSWORD}
            return client.post("/api/v1/setup", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(setup, range(8)))
    assert codes.count(200) == 1
    assert all(code >= 400 for code in codes if code != 200)


def test_a_study_lives_in_postgresql(hall: Running) -> None:
    training, shares = usual_training(installed()[0], rounds=1)
    sites = {site: SigningKey.generate().public_hex for site in ("north", "south")}
    study = propose(
        installed()[0],
        training,
        shares,
        sites=sites,
        epsilon=3.0,
        delta=1e-5,
        minimum_patients=10,
        quorum=1,
        round_timeout_s=60.0,
        study_id="postgres",
    )
    admit_members(hall, sites)
    _, client, key = hall.scientist("ada")
    document = json.loads(sign_document("study", study.to_payload(), key, role="proposer").to_bytes())
    study_id = client.post("/api/v1/studies", json={"study": study.to_payload()}).json()["id"]
    for path, body in (("signed", {"document": document}), ("submit", {})):
        assert client.post(f"/api/v1/studies/{study_id}/{path}", json=body).status_code == 200
    hall.watcher.look()
    run = Told(hall.service.home, study.sha256)
    run.says("approved", "north").says("refused", "south", code="GEM402").begins("count")
    hall.watcher.look()
    run.ends("GEM501")
    hall.watcher.look()
    detail = client.get(f"/api/v1/studies/{study_id}").json()
    assert [step["state"] for step in detail["history"]] == [
        "draft",
        "signed",
        "proposed",
        "approved",
        "running",
        "failed",
    ]
    assert {site["site"]: site["status"] for site in detail["sites"]} == {
        "north": "approved",
        "south": "refused",
    }
    with hall.service.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM studies")).scalar() == 1
