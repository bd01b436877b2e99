"""Signing in: passwords, setup tokens, sessions, API tokens, and how often anybody may try."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from running_service import PASSWORD, QUICK, Running
from sqlalchemy import text

from gemel.server.service import users
from gemel.server.service.attempts import OF_ACCOUNT, OF_ADDRESS, WINDOW_S, Attempts
from gemel.server.service.bootstrap import bootstrap_token
from gemel.server.service.passwords import Passwords
from gemel.server.service.roles import Role


def _login(service: Running, name: str, password: str = PASSWORD, **headers: str):
    with service.client() as client:
        return client.post("/api/v1/login", json={"name": name, "password": password}, headers=headers)


def test_the_first_administrator_comes_in_with_a_token_that_works_once(tmp_path, monkeypatch) -> None:
    from running_service import running

    from gemel.core.errors import GemelError
    from gemel.server.home import CoordinatorHome
    from gemel.server.store import open_store, store_url

    home = CoordinatorHome.create(tmp_path / "home").folder
    older, token = bootstrap_token(home), bootstrap_token(home)
    engine = open_store(store_url(home))
    with running(home, engine) as it, it.client() as client:
        body = {"token": older, "password": PASSWORD}
        assert client.post("/api/v1/setup", json=body).json()["error"]["code"] == "GEM905"
        first = client.post("/api/v1/setup", json={"token": token, "password": PASSWORD})
        assert first.status_code == 200
        again = client.post("/api/v1/setup", json={"token": token, "password": "another long password"})
        assert again.json()["error"]["code"] == "GEM905"
        assert _login(it, "admin").status_code == 200
        with pytest.raises(GemelError, match="GEM905"):
            bootstrap_token(home)
    engine.dispose()


def test_there_is_nobody_to_sign_in_as_before_the_bootstrap(service: Running) -> None:
    for name in ("admin", "root", "gemel"):
        for password in ("admin", "root", "gemel", "password", "changeme-changeme"):
            assert _login(service, name, password).status_code in (401, 422, 429)


def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(service: Running) -> None:
    service.user("known", Role.VIEWER, password=True)
    service.user("no.password", Role.VIEWER)
    answers = [_login(service, name, "wrong password here") for name in ("known", "unknown", "no.password")]
    assert len({(a.status_code, a.text) for a in answers}) == 1
    headers = [{k: v for k, v in a.headers.items() if k != "date"} for a in answers]
    assert headers[0] == headers[1] == headers[2]


def test_an_unknown_user_takes_the_same_time_as_a_wrong_password() -> None:
    passwords = Passwords()
    stored = passwords.hash(PASSWORD, name="known")

    def seconds(stored: str | None) -> float:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            assert not passwords.matches(stored, "wrong password here")
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    known, unknown = seconds(stored), seconds(None)
    assert 0.5 < known / unknown < 2  # without the decoy: a factor of more than a thousand


def test_a_flood_of_logins_leaves_threads_for_others() -> None:
    import threading

    from gemel.server.service.attempts import TooManyAttempts

    passwords, outcomes = Passwords(memory_kib=64, passes=1), []

    def attempt() -> None:
        try:
            outcomes.append(passwords.matches(None, "wrong password here"))
        except TooManyAttempts:
            outcomes.append("busy")

    for _ in range(2):  # both that may compute are taken: whoever comes waits
        passwords._turn.acquire()
    threads = [threading.Thread(target=attempt) for _ in range(30)]
    for thread in threads:
        thread.start()
    while outcomes.count("busy") < 14:
        time.sleep(0.01)
    passwords._turn.release(2)
    for thread in threads:
        thread.join()
    assert (outcomes.count("busy"), outcomes.count(False)) == (14, 16)


def test_counts_that_are_over_are_forgotten(service: Running) -> None:
    attempts = Attempts(service.service.engine)
    attempts.count(account="a-name", address="10.0.0.1")
    with service.service.engine.begin() as connection:
        connection.execute(text("UPDATE attempts SET since = since - 2000 WHERE counted LIKE 'account%'"))
    attempts.forget_old()
    with service.service.engine.connect() as connection:
        left = connection.execute(text("SELECT counted FROM attempts")).scalars().all()
    assert [key.split(":")[0] for key in left] == ["address"]


def test_an_account_is_closed_after_ten_failures_and_opens_when_the_window_is_over(service: Running) -> None:
    service.user("known", Role.VIEWER, password=True)
    for _ in range(OF_ACCOUNT):
        assert _login(service, "known", "wrong password here").status_code == 401
    refused = _login(service, "known")  # the right password
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "GEM903")
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW_S
    with service.service.engine.begin() as connection:  # time passes
        connection.execute(text("UPDATE attempts SET since = since - 1000"))
    assert _login(service, "known").status_code == 200


def test_unknown_accounts_are_limited_alike(service: Running) -> None:
    codes = [_login(service, "nobody-here", "wrong password here").status_code for _ in range(OF_ACCOUNT + 1)]
    assert codes == [401] * OF_ACCOUNT + [429]


def test_an_address_is_closed_whatever_accounts_it_tries(service: Running) -> None:
    codes = [_login(service, f"user{i}", "wrong password here").status_code for i in range(OF_ADDRESS + 1)]
    assert codes == [401] * OF_ADDRESS + [429]


def test_the_counts_outlive_the_service(service: Running) -> None:
    for _ in range(OF_ACCOUNT):
        _login(service, "known", "wrong password here")
    from gemel.server.service.attempts import TooManyAttempts

    with pytest.raises(TooManyAttempts):
        Attempts(service.service.engine).count(account="KNOWN", address="elsewhere")


def test_no_other_header_than_nginx_s_names_the_address(service: Running) -> None:
    """uvicorn takes X-Forwarded-For from loopback; a client's own X-Real-IP or Forwarded changes nothing."""
    for i in range(OF_ADDRESS):
        _login(
            service,
            f"user{i}",
            "wrong password here",
            **{"X-Real-IP": f"10.0.0.{i}", "Forwarded": f"for=10.1.1.{i}"},
        )
    assert _login(service, "user-x", "wrong password here").status_code == 429


def test_every_way_of_trying_a_credential_is_limited(service: Running) -> None:
    _, secret = service.user("known", Role.VIEWER, password=True)

    def tries():
        with service.client() as client, service.client(secret) as known:
            yield lambda: client.post("/api/v1/setup", json={"token": "x" * 40, "password": PASSWORD})
            yield lambda: client.get("/api/v1/me", headers={"Authorization": "Bearer gemel_s_" + "x" * 43})
            yield lambda: known.post("/api/v1/me/password", json={"old": "wrong wrong", "new": PASSWORD})

    for attempt in tries():
        with service.service.engine.begin() as connection:
            connection.execute(text("DELETE FROM attempts"))
        codes = [attempt().status_code for _ in range(OF_ADDRESS + 1)]
        assert codes[0] == 401
        assert codes[-1] == 429


def test_a_token_that_holds_is_never_locked_out(service: Running) -> None:
    _, secret = service.user("known", Role.VIEWER)
    with service.client() as client:
        for _ in range(OF_ADDRESS + 5):
            client.get("/api/v1/me", headers={"Authorization": "Bearer gemel_s_" + "x" * 43})
    with service.client(secret) as client:
        assert client.get("/api/v1/me").status_code == 200


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "my name is known ok", "x" * 300])
def test_a_weak_password_is_refused(service: Running, password: str) -> None:
    from gemel.core.errors import GemelError

    with pytest.raises(GemelError, match="GEM914"):
        QUICK.hash(password, name="known")


def test_the_same_letters_written_differently_are_the_same_password() -> None:
    stored = QUICK.hash("a\u0308rger mit Umlauten", name="known")
    assert QUICK.matches(stored, "\u00e4rger mit Umlauten")


def test_passwords_and_tokens_are_stored_as_hashes_only(service: Running) -> None:
    service.user("known", Role.VIEWER, password=True)
    secret = _login(service, "known").json()["secret"]
    path = str(service.service.engine.url.database)
    stored = b"".join(Path(path + suffix).read_bytes() for suffix in ("", "-wal"))
    assert b"$argon2id$" in stored
    assert secret.encode() not in stored
    assert PASSWORD.encode() not in stored


def test_no_secret_is_in_any_log(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    service.user("known", Role.VIEWER, password=True)
    secret = _login(service, "known").json()["secret"]
    with service.client(secret) as client:
        client.get("/api/v1/me")
        client.get("/api/v1/studies", params={"after": secret})  # even where it does not belong
        client.get("/api/v1/nothing/" + secret)
        client.post("/api/v1/login", content=secret.encode() + b"{")
    assert "gemel.service" in {record.name for record in caplog.records}
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("gemel", "uvicorn"))]
    assert not [line for line in ours if secret in line or PASSWORD in line]
    assert secret not in str(service.service.log.entries())


def test_signing_out_ends_the_session(service: Running) -> None:
    _, secret = service.user("known", Role.VIEWER)
    with service.client(secret) as client:
        assert client.post("/api/v1/logout").status_code == 204
        assert client.get("/api/v1/me").status_code == 401


def test_a_token_ends_when_its_time_is_over(service: Running) -> None:
    _, secret = service.user("known", Role.VIEWER)
    with service.service.engine.begin() as connection:
        connection.execute(
            text("UPDATE tokens SET created_at = created_at - 4000, expires_at = expires_at - 4000")
        )
    with service.client(secret) as client:
        assert client.get("/api/v1/me").status_code == 401


def test_disabling_a_user_ends_what_he_has(service: Running) -> None:
    user, secret = service.user("known", Role.SCIENTIST)
    _, admin = service.user("boss", Role.ADMIN)
    with service.client(secret) as client, service.client(admin) as boss:
        assert client.get("/api/v1/me").status_code == 200
        assert boss.patch(f"/api/v1/users/{user.id}", json={"state": "disabled"}).status_code == 200
        assert client.get("/api/v1/me").status_code == 401


def test_a_token_never_may_more_than_its_user_as_he_is_now(service: Running) -> None:
    user, secret = service.user("known", Role.OPERATOR)
    _, admin = service.user("boss", Role.ADMIN)
    with service.client(secret) as client, service.client(admin) as boss:
        api = client.post("/api/v1/me/tokens", json={"label": "cron"}).json()["secret"]
        boss.patch(f"/api/v1/users/{user.id}", json={"role": "viewer"})
    with service.client(api) as client:
        answer = client.post(f"/api/v1/studies/{'0' * 32}/stop", json={"reason": "x"})
        assert answer.json()["error"]["code"] == "GEM904"


def test_nobody_makes_a_token_that_may_more_than_he(service: Running) -> None:
    _, secret = service.user("known", Role.SCIENTIST)
    with service.client(secret) as client:
        for role in (Role.ADMIN, Role.AUDITOR, Role.OPERATOR):
            assert client.post("/api/v1/me/tokens", json={"label": "x", "role": role}).status_code == 403
        weaker = client.post("/api/v1/me/tokens", json={"label": "x", "role": "viewer"}).json()["secret"]
    with service.client(weaker) as client:  # nor does the weaker token
        assert client.post("/api/v1/me/tokens", json={"label": "x", "role": "scientist"}).status_code == 403


def test_a_new_setup_token_ends_the_older_and_setting_up_ends_every_session(service: Running) -> None:
    user, secret = service.user("known", Role.VIEWER, password=True)
    _, admin = service.user("boss", Role.ADMIN)
    with service.client(admin) as boss, service.client() as client:
        first, second = (boss.post(f"/api/v1/users/{user.id}/setup").json()["secret"] for _ in range(2))
        assert (
            client.post("/api/v1/setup", json={"token": first, "password": "a new long password"}).status_code
            == 401
        )
        assert (
            client.get("/api/v1/me", headers={"Authorization": f"Bearer {second}"}).status_code == 401
        )  # no session
        assert (
            client.post(
                "/api/v1/setup", json={"token": second, "password": "a new long password"}
            ).status_code
            == 200
        )
    with service.client(secret) as client:
        assert client.get("/api/v1/me").status_code == 401
    assert _login(service, "known").status_code == 401
    assert _login(service, "known", "a new long password").status_code == 200


def test_a_change_of_password_needs_the_old_one_and_ends_other_sessions(service: Running) -> None:
    service.user("known", Role.VIEWER, password=True)
    one, two = (_login(service, "known").json()["secret"] for _ in range(2))
    with service.client(one) as client:
        wrong = client.post(
            "/api/v1/me/password", json={"old": "not the old one", "new": "a new long password"}
        )
        assert wrong.status_code == 401
        body = {"old": PASSWORD, "new": "a new long password"}
        assert client.post("/api/v1/me/password", json=body).status_code == 204
        assert client.get("/api/v1/me").status_code == 200
    with service.client(two) as client:
        assert client.get("/api/v1/me").status_code == 401


def test_the_last_administrator_stays(service: Running) -> None:
    user, secret = service.user("boss", Role.ADMIN)
    with service.client(secret) as boss:
        for change in ({"role": "viewer"}, {"state": "disabled"}):
            answer = boss.patch(f"/api/v1/users/{user.id}", json=change)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "GEM920")
    with service.service.engine.connect() as connection:
        assert users.by_id(connection, user.id).role is Role.ADMIN
