"""Login by an identity provider (OpenID Connect): authorisation code with PKCE, state and nonce; only users on record.

The browser comes back to the service, and the service sends it on to a port on the user's own machine with a one-time word,
which is worth a session only together with the secret that the user's program kept (RFC 8252): a link that somebody else
sent gives the sender nothing.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.server.service import users
from gemel.server.service.users import User, UserState
from gemel.server.store import metadata

FILE = "oidc.json"
SECRET = "oidc.secret"  # noqa: S105  # a file's name
CALLBACK = "/api/v1/login/oidc/callback"
_logins = Table(
    "oidc_logins",
    metadata,
    Column("state_digest", String(64), primary_key=True),
    Column("nonce", String(64), nullable=False),
    Column("verifier", String(128), nullable=False),
    Column("port", Integer, nullable=False),
    Column("proof", String(64), nullable=False),  # SHA-256 of what the user's program keeps
    Column("expires_at", Float, nullable=False),
    Column("taken", Integer, nullable=False, default=0),
    Column("handoff_digest", String(64), nullable=True, unique=True),
    Column("user_id", String(32), nullable=True),
)
_LOGIN_S, _HANDOFF_S, _METADATA_S, _LEEWAY_S = 600.0, 60.0, 3600.0, 60
_MOST_ANSWER = 1 << 20


class ProviderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`HOME/oidc.json`; the client's secret, where there is one, is `HOME/keys/oidc.secret`.

    Attributes:
        issuer: The provider's address, exactly as in its tokens; https, but for loopback.
        client_id: Our name there.
        service_url: Our own address, which the provider sends browsers back to; the federation's own unless given.
        claim: Whose value names a user: `sub`, or `email` (then `email_verified` must be true).
        required: Further claims that must have, or hold, these values.
        algorithms: Of the ID token's signature; never `none`, never a shared secret.
    """

    issuer: str
    client_id: str
    service_url: str = ""
    claim: str = "sub"
    required: dict[str, str] = {}  # msgspec copies it
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA", "PS256")
    scope: str = "openid"


def provider_of(home: Path, *, service_url: str = "") -> Provider | None:
    """The provider that a coordinator's home names, or None. Raises GEM907 when its settings are malformed."""
    path = home / FILE
    if not path.exists():
        return None
    try:
        config = msgspec.json.decode(path.read_bytes(), type=ProviderConfig)
    except msgspec.DecodeError as error:
        raise GemelError("GEM907", f"{path} is malformed: {error}.") from error
    secret = home / "keys" / SECRET
    if not config.service_url:
        config = msgspec.structs.replace(config, service_url=service_url)
    return Provider(config, client_secret=secret.read_text().strip() if secret.exists() else "")


class Provider:
    """An identity provider, as its configuration and its published metadata say."""

    def __init__(self, config: ProviderConfig, *, client_secret: str = "") -> None:
        if any(alg == "none" or alg.startswith("HS") for alg in config.algorithms):
            raise GemelError("GEM907", f"{FILE}: algorithms must be of public keys.")
        _require_safe(config.issuer)
        self.config, self._client_secret = config, client_secret
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0

    def identity(self, subject: str) -> str:
        """How a user of this provider is put on record."""
        return f"{self.config.issuer} {subject}"

    def begin(self, engine: Engine, *, port: int, proof: str) -> str:
        """Where the browser goes. `proof` is the SHA-256 (hex) of a secret that the user's program keeps."""
        published = self._published()  # before the transaction: the store does not wait for the provider
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        now = time.time()
        values = {"state_digest": sha256_hex(state.encode()), "nonce": nonce, "verifier": verifier}
        with engine.begin() as connection:
            connection.execute(delete(_logins).where(_logins.c.expires_at < now))
            connection.execute(
                insert(_logins).values(**values, port=port, proof=proof, expires_at=now + _LOGIN_S, taken=0)
            )
        address: str = prepare_grant_uri(
            published["authorization_endpoint"],
            client_id=self.config.client_id,
            response_type="code",
            redirect_uri=self._redirect_uri,
            scope=self.config.scope,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return address

    def take(self, connection: Connection, state: str) -> dict[str, Any]:
        """The login under way of that state, once. Raises GEM913."""
        digest = sha256_hex(state.encode())
        taken = connection.execute(
            update(_logins)
            .where(_logins.c.state_digest == digest, _logins.c.taken == 0, _logins.c.expires_at > time.time())
            .values(taken=1)
        )
        if taken.rowcount != 1:
            raise GemelError("GEM913", "state: no login under way has it.")
        row = connection.execute(select(_logins).where(_logins.c.state_digest == digest)).mappings().one()
        return dict(row)

    def subject(self, login: dict[str, Any], code: str) -> str:
        """Exchange the code and check the ID token; returns the value that names the user. Raises GEM913."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "client_id": self.config.client_id,
            "code_verifier": login["verifier"],
        }
        auth = (self.config.client_id, self._client_secret) if self._client_secret else None
        answer = _json("token", "POST", self._published()["token_endpoint"], data=form, auth=auth)
        claims = self._checked(str(answer.get("id_token", "")), nonce=login["nonce"], answer=answer)
        for name, wanted in self.config.required.items():
            has = claims.get(name)
            if not (has == wanted or (isinstance(has, list) and wanted in has)):
                raise GemelError("GEM913", f"claims: {name} is not what is required.")
        if self.config.claim == "email" and claims.get("email_verified") is not True:
            raise GemelError("GEM913", "claims: the e-mail address is not verified.")
        subject = claims.get(self.config.claim)
        if not isinstance(subject, str) or not subject:
            raise GemelError("GEM913", f"claims: no {self.config.claim}.")
        return subject

    def hand_over(self, connection: Connection, login: dict[str, Any], subject: str) -> str:
        """Where the browser goes next: to its own machine, with a word that holds a minute. Raises GEM913."""
        user = users.by_identity(connection, self.identity(subject))
        if user is None or user.state is not UserState.ACTIVE:
            raise GemelError("GEM913", "user: nobody on record is meant by this identity.")
        handoff = secrets.token_urlsafe(32)
        connection.execute(
            update(_logins)
            .where(_logins.c.state_digest == login["state_digest"])
            .values(
                handoff_digest=sha256_hex(handoff.encode()),
                user_id=user.id,
                expires_at=time.time() + _HANDOFF_S,
            )
        )
        return f"http://127.0.0.1:{login['port']}/?handoff={handoff}"

    @staticmethod
    def redeem(connection: Connection, *, handoff: str, secret: str) -> User:
        """The user whom the word and the program's secret together stand for, once. Raises GEM913."""
        digest = sha256_hex(handoff.encode())
        row = connection.execute(select(_logins).where(_logins.c.handoff_digest == digest)).mappings().first()
        if row is None or row["expires_at"] <= time.time():
            raise GemelError("GEM913", "handoff: unknown, used or too old.")
        gone = connection.execute(delete(_logins).where(_logins.c.handoff_digest == digest))
        if gone.rowcount != 1:  # another was a moment faster
            raise GemelError("GEM913", "handoff: unknown, used or too old.")
        if not hmac.compare_digest(sha256_hex(secret.encode()), row["proof"]):
            raise GemelError("GEM913", "handoff: another program's.")
        user = users.by_id(connection, row["user_id"])
        if user.state is not UserState.ACTIVE:
            raise GemelError("GEM913", "user: disabled.")
        return user

    @property
    def _redirect_uri(self) -> str:
        return self.config.service_url.rstrip("/") + CALLBACK

    def _checked(self, id_token: str, *, nonce: str, answer: dict[str, Any]) -> dict[str, Any]:
        """The claims of an ID token: signature, issuer, audience, time, nonce (OpenID Connect Core, 3.1.3.7)."""
        for again in (False, True):
            try:
                token = jwt.decode(
                    id_token, self._key_set(again=again), algorithms=list(self.config.algorithms)
                )
                break
            except (JoseError, ValueError) as error:
                if again or not isinstance(error, JoseError) or "kid" not in str(error).lower():
                    raise GemelError("GEM913", f"id_token: {type(error).__name__}.") from error
        options = {
            "iss": {"essential": True, "value": self.config.issuer},
            "aud": {"essential": True, "value": self.config.client_id},
            "exp": {"essential": True},
            "iat": {"essential": True},
            "sub": {"essential": True},
            "nonce": {"essential": True, "value": nonce},
        }
        params = {"nonce": nonce, "client_id": self.config.client_id}
        if answer.get("access_token"):
            params["access_token"] = str(answer["access_token"])
        claims = CodeIDToken(token.claims, token.header, options, params)
        try:
            claims.validate(leeway=_LEEWAY_S)
        except (JoseError, ValueError, TypeError) as error:
            raise GemelError("GEM913", f"id_token: {type(error).__name__} {error}.") from error
        return dict(token.claims)

    def _published(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._read_at > _METADATA_S or not self._metadata:
                address = self.config.issuer.rstrip("/") + "/.well-known/openid-configuration"
                found = _json("metadata", "GET", address)
                if found.get("issuer") != self.config.issuer:
                    raise GemelError("GEM913", "metadata: another issuer.")
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                    _require_safe(str(found.get(name, "")))
                self._metadata, self._keys, self._read_at = found, None, time.monotonic()
            return self._metadata

    def _key_set(self, *, again: bool) -> KeySet:
        address = self._published()["jwks_uri"]
        with self._lock:
            if self._keys is None or again:
                found = _json("keys", "GET", address)
                try:
                    self._keys = KeySet.import_key_set(found)  # type: ignore[arg-type]  # checked by the import
                except (JoseError, ValueError, KeyError, TypeError) as error:
                    raise GemelError("GEM913", f"keys: {type(error).__name__}.") from error
            return self._keys


def _require_safe(address: str) -> None:
    parts = urlsplit(address)
    loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise GemelError("GEM913", f"metadata: {address} is not https.")


def _json(what: str, method: str, address: str, **request: Any) -> dict[str, Any]:
    """One small JSON object of the provider; no redirects. Raises GEM913."""
    try:
        with httpx.Client(timeout=10.0, follow_redirects=False, trust_env=False) as client:
            answer = client.request(method, address, **request)
        if answer.status_code != 200 or len(answer.content) > _MOST_ANSWER:
            raise GemelError("GEM913", f"{what}: the provider answered {answer.status_code}.")
        found = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise GemelError("GEM913", f"{what}: {type(error).__name__}.") from error
    if not isinstance(found, dict):
        raise GemelError("GEM913", f"{what}: no JSON object.")
    return found
