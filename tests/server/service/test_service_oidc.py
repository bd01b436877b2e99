"""Login by an identity provider: a real one on loopback, and what goes wrong when it, or somebody between, lies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from identity_provider import CLIENT, SECRET, IdentityProvider, confused, identity_provider, unsigned
from joserfc.jwk import RSAKey
from running_service import Running, running
from sqlalchemy import text

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.server.service.oidc import Provider, ProviderConfig, provider_of
from gemel.server.service.roles import Role
from gemel.server.store import open_store

KEPT = "the secret that the program keeps"
PORT = 54321


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as it:
        yield it


@pytest.fixture
def hall(idp: IdentityProvider, tmp_path: Path) -> Iterator[Running]:
    """A service that uses the provider; `ada` is on record as its subject-1."""
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    config = ProviderConfig(issuer=idp.issuer, client_id=CLIENT, service_url="http://service.example")
    with running(tmp_path / "home", engine, provider=Provider(config, client_secret=SECRET)) as it:
        _, secret = it.user("boss", Role.ADMIN)
        with it.client(secret) as boss:
            body = {"name": "ada", "role": "scientist", "subject": "subject-1"}
            assert boss.post("/api/v1/users", json=body).status_code == 201
        yield it
    engine.dispose()


class Browser:
    """Somebody's program and browser on the way through a login, step by step."""

    def __init__(self, it: Running, *, kept: str = KEPT) -> None:
        self.client, self.kept = it.client(), kept
        begun = self.client.post(
            "/api/v1/login/oidc", json={"port": PORT, "proof": sha256_hex(kept.encode())}
        )
        self.address = begun.json()["address"]

    def query(self) -> dict[str, str]:
        return dict(httpx.URL(self.address).params)

    def sign_in(self) -> dict[str, str]:
        """At the provider; returns what the browser brings back."""
        return dict(httpx.get(self.address, trust_env=False).next_request.url.params)  # type: ignore[union-attr]

    def back(self, brought: dict[str, str]) -> httpx.Response:
        return self.client.get("/api/v1/login/oidc/callback", params=brought)

    def redeem(self, handoff: str, kept: str | None = None) -> httpx.Response:
        return self.client.post(
            "/api/v1/login/oidc/token", json={"handoff": handoff, "secret": kept or self.kept}
        )

    def whole(self) -> httpx.Response:
        onward = self.back(self.sign_in())
        return onward if onward.status_code != 303 else self.redeem(handoff_of(onward))


def handoff_of(answer: httpx.Response) -> str:
    return str(httpx.URL(answer.headers["location"]).params["handoff"])


def test_who_is_on_record_signs_in(hall: Running, idp: IdentityProvider) -> None:
    browser = Browser(hall)
    asked = browser.query()
    assert asked["code_challenge_method"] == "S256"
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    onward = browser.back(browser.sign_in())
    assert onward.headers["location"].startswith(f"http://127.0.0.1:{PORT}/?handoff=")
    session = browser.redeem(handoff_of(onward)).json()["secret"]
    with hall.client(session) as client:
        assert client.get("/api/v1/me").json()["name"] == "ada"
    assert session not in onward.headers["location"]
    assert idp.token_requests[0]["code_verifier"]


def _refused(answer: httpx.Response) -> bool:
    return answer.status_code == 401 and answer.json()["error"]["code"] == "GEM913"


LIES: dict[str, dict[str, Any]] = {
    "another nonce": {"claims": {"nonce": "another"}},
    "no nonce": {"claims": {"nonce": None}},
    "another audience": {"claims": {"aud": "another-client"}},
    "audiences without us": {"claims": {"aud": ["a", "b"]}},
    "meant for another party": {"claims": {"aud": [CLIENT, "other"], "azp": "other"}},
    "another issuer": {"claims": {"iss": "https://evil.example"}},
    "no issuer": {"claims": {"iss": None}},
    "expired": {"claims": {"exp": 1_000_000_000}},
    "no end": {"claims": {"exp": None}},
    "from the future": {"claims": {"iat": 4_000_000_000}},
    "not valid yet": {"claims": {"nbf": 4_000_000_000}},
    "no subject": {"claims": {"sub": None}},
    "somebody who is not on record": {"user": "subject-2"},
    "no token": {"raw_token": "not.a.token"},
    "an access token of another answer": {"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_what_is_not_true_signs_nobody_in(hall: Running, idp: IdentityProvider, lie: str) -> None:
    assert Browser(hall).whole().status_code == 200
    for name, value in LIES[lie].items():
        setattr(idp, name, value)
    assert _refused(Browser(hall).whole())


def test_an_unsigned_token_signs_nobody_in(hall: Running, idp: IdentityProvider) -> None:
    browser = Browser(hall)
    now = int(time.time())
    claims = {"iss": idp.issuer, "sub": "subject-1", "aud": CLIENT, "iat": now, "exp": now + 300}
    idp.raw_token = unsigned({**claims, "nonce": browser.query()["nonce"]})
    assert _refused(browser.whole())


def test_the_public_key_is_no_shared_secret(hall: Running, idp: IdentityProvider) -> None:
    browser = Browser(hall)
    now = int(time.time())
    claims = {"iss": idp.issuer, "sub": "subject-1", "aud": CLIENT, "iat": now, "exp": now + 300}
    idp.raw_token = confused({**claims, "nonce": browser.query()["nonce"]}, idp.key)
    assert _refused(browser.whole())


def test_another_s_key_under_the_same_name_is_refused(hall: Running, idp: IdentityProvider) -> None:
    idp.sign_with = RSAKey.generate_key(2048, {"kid": "k1"})
    assert _refused(Browser(hall).whole())


def test_a_key_that_the_token_brings_along_is_not_used(hall: Running, idp: IdentityProvider) -> None:
    own = RSAKey.generate_key(2048, {"kid": "k1"})
    idp.sign_with, idp.header = own, {"jwk": own.as_dict(private=False)}
    assert _refused(Browser(hall).whole())


def test_a_new_key_of_the_provider_is_fetched(hall: Running, idp: IdentityProvider) -> None:
    assert Browser(hall).whole().status_code == 200
    idp.key = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig"})
    idp.header = {"kid": "k2"}
    assert Browser(hall).whole().status_code == 200


def test_the_same_way_back_twice_signs_in_once(hall: Running, idp: IdentityProvider) -> None:
    idp.forgetful = True  # the provider itself would take the code again
    browser = Browser(hall)
    brought = browser.sign_in()
    assert browser.back(brought).status_code == 303
    assert _refused(browser.back(brought))


def test_a_state_that_nobody_began_is_refused(hall: Running) -> None:
    browser = Browser(hall)
    brought = browser.sign_in()
    assert _refused(browser.back({**brought, "state": "x" * 43}))
    assert browser.back(brought).status_code == 303


def test_a_code_of_another_login_does_not_fit(hall: Running) -> None:
    """Codes that were swapped: PKCE binds each to its own login."""
    one, two = Browser(hall), Browser(hall)
    first, second = one.sign_in(), two.sign_in()
    assert _refused(one.back({**first, "code": second["code"]}))


def test_an_answer_of_another_issuer_is_refused(hall: Running) -> None:
    browser = Browser(hall)
    assert _refused(browser.back({**browser.sign_in(), "iss": "https://evil.example"}))


def test_a_login_that_took_too_long_is_over(hall: Running) -> None:
    browser = Browser(hall)
    brought = browser.sign_in()
    with hall.service.engine.begin() as connection:
        connection.execute(text("UPDATE oidc_logins SET expires_at = 1"))
    assert _refused(browser.back(brought))


def test_a_link_that_somebody_sent_gives_the_sender_nothing(hall: Running) -> None:
    """The victim signs in by the attacker's link: the word goes to the victim's own machine."""
    attacker = Browser(hall, kept="the attacker's")
    handoff = handoff_of(attacker.back(attacker.sign_in()))
    victim = Browser(hall)
    assert _refused(victim.redeem(handoff))  # nor does the victim's program take it for its own
    for guess in ("", "x" * 43):
        assert attacker.redeem(guess or "y").status_code == 401


def test_the_word_is_worth_something_once_and_for_a_minute(hall: Running) -> None:
    browser = Browser(hall)
    handoff = handoff_of(browser.back(browser.sign_in()))
    assert _refused(browser.redeem(handoff, "another secret"))
    assert browser.redeem(handoff).status_code == 200
    assert _refused(browser.redeem(handoff))
    late = Browser(hall)
    handoff = handoff_of(late.back(late.sign_in()))
    with hall.service.engine.begin() as connection:
        connection.execute(text("UPDATE oidc_logins SET expires_at = 1"))
    assert _refused(late.redeem(handoff))


def test_a_disabled_user_does_not_sign_in(hall: Running) -> None:
    with hall.service.engine.begin() as connection:
        connection.execute(text("UPDATE users SET state = 'disabled' WHERE name = 'ada'"))
    assert _refused(Browser(hall).whole())


def test_metadata_of_another_issuer_or_without_tls_is_not_believed(
    idp: IdentityProvider, tmp_path: Path
) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    for lie in ({"issuer": "https://evil.example"}, {"token_endpoint": "http://evil.example/token"}):
        idp.metadata = lie
        config = ProviderConfig(issuer=idp.issuer, client_id=CLIENT, service_url="http://service.example")
        with pytest.raises(GemelError, match="GEM913"):
            Provider(config).begin(engine, port=PORT, proof="0" * 64)
    with pytest.raises(GemelError, match="GEM913"):
        Provider(ProviderConfig(issuer="http://idp.example", client_id=CLIENT, service_url="x"))
    for algorithm in ("none", "HS256"):
        config = ProviderConfig(issuer=idp.issuer, client_id=CLIENT, service_url="x", algorithms=(algorithm,))
        with pytest.raises(GemelError, match="GEM907"):
            Provider(config)
    engine.dispose()


def test_an_address_names_somebody_only_when_it_is_verified_and_the_group_is_right(
    idp: IdentityProvider, tmp_path: Path
) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    config = ProviderConfig(
        issuer=idp.issuer,
        client_id=CLIENT,
        service_url="http://service.example",
        claim="email",
        required={"groups": "gemel"},
    )
    with running(tmp_path / "home", engine, provider=Provider(config, client_secret=SECRET)) as it:
        _, secret = it.user("boss", Role.ADMIN)
        with it.client(secret) as boss:
            boss.post("/api/v1/users", json={"name": "ada", "role": "viewer", "subject": "ada@example.org"})
        right = {"email": "ada@example.org", "email_verified": True, "groups": ["other", "gemel"]}
        for claims, expected in (
            (right, 200),
            ({**right, "email_verified": False}, 401),
            ({**right, "email_verified": "true"}, 401),
            ({**right, "groups": ["other"]}, 401),
            ({**right, "groups": "gemel-not"}, 401),
        ):
            idp.claims = claims
            assert Browser(it).whole().status_code == expected, claims
    engine.dispose()


def test_without_a_provider_there_is_no_such_login(service: Running, tmp_path: Path) -> None:
    with service.client() as client:
        answer = client.post("/api/v1/login/oidc", json={"port": PORT, "proof": "0" * 64})
        assert answer.status_code == 404
    assert provider_of(tmp_path) is None
    (tmp_path / "oidc.json").write_text('{"issuer": "https://a.example", "client_id": "c"}')
    provider = provider_of(tmp_path, service_url="https://our.example")
    assert provider is not None
    assert provider.config.service_url == "https://our.example"
    (tmp_path / "oidc.json").write_text('{"issuer": "https://a.example", "extra": 1}')
    with pytest.raises(GemelError, match="GEM907"):
        provider_of(tmp_path)


def test_the_command_line_signs_in_through_a_browser(
    hall: Running, idp: IdentityProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading
    import webbrowser

    from typer.testing import CliRunner

    from gemel.cli.main import app

    threads: list[threading.Thread] = []

    def opened(address: str) -> bool:
        def walk() -> None:
            back = dict(httpx.get(address, trust_env=False).next_request.url.params)  # type: ignore[union-attr]
            onward = hall.client().get("/api/v1/login/oidc/callback", params=back).headers["location"]
            assert httpx.get(onward, trust_env=False).status_code == 200

        threads.append(threading.Thread(target=walk))
        threads[-1].start()
        return True

    monkeypatch.setattr(webbrowser, "open", opened)
    environment = {"GEMEL_SERVICE": str(tmp_path / "login.json")}
    got = CliRunner().invoke(app, ["study", "login", hall.url, "--oidc", "--format", "json"], env=environment)
    for thread in threads:
        thread.join()
    assert got.exit_code == 0, got.output
    assert '"user": "ada"' in got.stdout
