"""SMART Backend Services: a token for a signed assertion (client_credentials with private_key_jwt).

Source: HL7 SMART App Launch 2.2, "Backend Services". The token lives in memory only; nothing writes or prints it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gemel.core.errors import GemelError

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# The standard allows five minutes.
ASSERTION_LIFETIME_S = 240
_RENEW_BEFORE_S = 30.0
_DEFAULT_LIFETIME_S = 300.0


@dataclass(frozen=True)
class SigningKey:
    """A private key with its algorithm (RS384 or ES384) and its name at the server."""

    algorithm: str
    key_id: str | None
    key: Any = field(repr=False)


def load_keys(path: Path, *, key_id: str | None = None) -> tuple[SigningKey, ...]:
    """The private keys of a PEM or JWKS file; the one named `key_id` comes first. Raises GEM228."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GemelError("GEM228", f"The key file {path.name} cannot be read: {error.strerror}.") from error
    if not content.lstrip().startswith(b"{"):
        return (_pem_key(content, path.name, key_id),)
    try:
        document = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise GemelError("GEM228", f"The key file {path.name} is no JWKS: {error}.") from error
    listed = document.get("keys", [document])
    keys = [key for jwk in listed if (key := _jwk_key(jwk)) is not None]
    named = [key for key in keys if key.key_id == key_id]
    if key_id is not None and not named:
        raise GemelError("GEM228", f"The key file {path.name} has no usable private key named {key_id}.")
    if not keys:
        raise GemelError("GEM228", f"The key file {path.name} has no private key for RS384 or ES384.")
    return tuple(named + [key for key in keys if key not in named]) if key_id is not None else tuple(keys)


def _pem_key(content: bytes, name: str, key_id: str | None) -> SigningKey:
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    kinds: dict[str, Any] = {"RS384": RSAAlgorithm, "ES384": ECAlgorithm}
    for algorithm, kind in kinds.items():
        try:
            key = kind(kind.SHA384).prepare_key(content)
            # A public key cannot sign.
            kind(kind.SHA384).sign(b"", key)
        except Exception:  # noqa: S112 - the library raises whatever its backend raises
            continue
        if algorithm == "ES384" and getattr(getattr(key, "curve", None), "key_size", 0) != 384:
            continue
        return SigningKey(algorithm, key_id, key)
    raise GemelError("GEM228", f"The key file {name} holds no private RSA or P-384 key in PEM, nor a JWKS.")


def _jwk_key(jwk: object) -> SigningKey | None:
    """A private signing key, or None for any other."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    if not isinstance(jwk, dict) or "d" not in jwk or jwk.get("use", "sig") != "sig":
        return None
    algorithm = {"RSA": "RS384", "EC P-384": "ES384"}.get(f"{jwk.get('kty')} {jwk.get('crv', '')}".strip())
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        return SigningKey(algorithm, jwk.get("kid"), PyJWK(jwk, algorithm=algorithm).key)
    except (PyJWTError, ValueError):
        return None


@dataclass(frozen=True)
class TokenReply:
    """What a token endpoint answered."""

    status: int
    body: bytes


class _Granted(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - no secret
    expires_in: float = _DEFAULT_LIFETIME_S


class _Refused(msgspec.Struct):
    error: str = ""


class BackendToken:
    """An access token that renews itself.

    Args:
        client_id: At the server.
        keys: Tried in their order when the server says `invalid_client`; the one that worked stays first.
        scopes: Asked for.
        token_url: The token endpoint; also the audience of the assertion.
        post: Sends the form and gives the reply.
        say: Told when another key had to be used.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        client_id: str,
        keys: tuple[SigningKey, ...],
        *,
        scopes: tuple[str, ...],
        token_url: str,
        post: Callable[[str, dict[str, str]], TokenReply],
        say: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client_id, self._keys, self._scopes = client_id, list(keys), scopes
        self._token_url, self._post, self._say, self._now = token_url, post, say, now
        self._token: str | None = None
        self._renew_at = 0.0

    def header(self) -> str:
        """The Authorization header; asks for a new token when there is none or it is about to end. Raises GEM224."""
        if self._token is None or self._now() >= self._renew_at:
            self._ask()
        return f"Bearer {self._token}"

    def forget(self) -> None:
        """The server refused the token: ask for another the next time."""
        self._token = None

    def _ask(self) -> None:
        self._token = None
        said = ""
        for number, key in enumerate(list(self._keys)):
            reply = self._post(self._token_url, self._form(key))
            if reply.status == 200:
                self._take(reply.body)
                if number:
                    self._keys.remove(key)
                    self._keys.insert(0, key)
                    self._say(
                        f"The server took key {key.key_id or number + 1} and none before it in the key file."
                    )
                return
            said = _error_word(reply.body)
            if said != "invalid_client":
                break
        raise GemelError(
            "GEM224",
            f"The token endpoint refuses client {self._client_id} ({said or f'status {reply.status}'}), "
            f"scopes {' '.join(self._scopes)}.",
        )

    def _take(self, body: bytes) -> None:
        try:
            granted = msgspec.json.decode(body, type=_Granted, strict=False)
        except msgspec.DecodeError:
            raise GemelError("GEM225", "The token endpoint's answer holds no access_token.") from None
        if granted.token_type.lower() != "bearer" or not granted.access_token.isascii():
            raise GemelError("GEM225", "The token endpoint's answer is no bearer token.")
        self._token = granted.access_token
        life = max(granted.expires_in, 0.0)
        self._renew_at = self._now() + life - min(_RENEW_BEFORE_S, life / 4)

    def _form(self, key: SigningKey) -> dict[str, str]:
        import jwt

        now = int(self._now())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._token_url,
            "iat": now,
            "exp": now + ASSERTION_LIFETIME_S,
            "jti": str(uuid.uuid4()),
        }
        headers = {"kid": key.key_id} if key.key_id else {}
        return {
            "grant_type": "client_credentials",
            "scope": " ".join(self._scopes),
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": jwt.encode(claims, key.key, algorithm=key.algorithm, headers=headers),
        }


def _error_word(body: bytes) -> str:
    """The OAuth error code of a refusal, when it is one of its plain words."""
    try:
        word = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return word[:60] if word.replace("_", "").isalpha() else ""
