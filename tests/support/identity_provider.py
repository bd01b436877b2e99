"""An OpenID provider on a loopback port: real HTTP endpoints, signed tokens; it can be told to lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

# Made once: an RSA key takes a while.
KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
CLIENT, SECRET = "gemel", "the client's secret"


@dataclass
class IdentityProvider:
    """Signs in whoever is `user`. What it would rightly say, a test may change before it is signed or after."""

    issuer: str = ""
    user: str = "subject-1"
    key: RSAKey = field(default_factory=lambda: KEY)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)  # in place of the true ones; None leaves one out
    header: dict[str, Any] = field(default_factory=dict)
    sign_with: Any = None
    raw_token: str = ""  # sent as it is
    metadata: dict[str, Any] = field(default_factory=dict)
    forgetful: bool = False  # takes a code more than once
    token_requests: list[dict[str, str]] = field(default_factory=list)

    def authorize(self, query: dict[str, str]) -> str:
        """The browser's way back."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return (
            query["redirect_uri"]
            + "?"
            + urlencode({"code": code, "state": query["state"], "iss": self.issuer})
        )

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The token endpoint, as the standards have it: client, code once, redirect address, PKCE."""
        self.token_requests.append(form)
        expected = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        asked = (
            self.codes.get(form.get("code", ""))
            if self.forgetful
            else self.codes.pop(form.get("code", ""), None)
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            authorization != expected
            or asked is None
            or asked["redirect_uri"] != form.get("redirect_uri")
            or asked.get("code_challenge_method") != "S256"
            or asked["code_challenge"] != challenge.rstrip(b"=").decode()
        ):
            return 400, {"error": "invalid_grant"}
        token = self.raw_token or self._id_token(asked["nonce"])
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def _id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.user,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
        }
        claims = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        header = {"alg": "RS256", "kid": "k1", **self.header}
        return jwt.encode(header, claims, self.sign_with or self.key, algorithms=[header["alg"]])

    def published(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            **self.metadata,
        }

    def key_set(self) -> dict[str, Any]:
        return dict(KeySet([self.key]).as_dict(private=False))


def unsigned(claims: dict[str, Any], *, alg: str = "none") -> str:
    """A token with algorithm `none`, which no library should make."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': alg, 'kid': 'k1'})}.{part(claims)}."


def confused(claims: dict[str, Any], key: RSAKey) -> str:
    """A token signed with the provider's public key as if it were a shared secret (algorithm confusion)."""
    unsigned_token = unsigned(claims, alg="HS256").rstrip(".")
    mac = hmac.new(key.as_pem(private=False), unsigned_token.encode(), hashlib.sha256).digest()
    return f"{unsigned_token}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """Serve one; ends with the block."""
    provider = IdentityProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self._json(200, provider.published())
            elif parts.path == "/keys":
                self._json(200, provider.key_set())
            elif parts.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", provider.authorize(query))
                self.end_headers()
            else:
                self._json(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._json(*provider.token(form, self.headers.get("Authorization", "")))

        def _json(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
