"""The command line's side of the coordinator's service: where it is, who one is there, and its answers as errors."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemel.core.error_catalogue import CATALOGUE
from gemel.core.errors import GemelError
from gemel.core.files import write_durably

if TYPE_CHECKING:
    import httpx

SETTINGS = "GEMEL_SERVICE"  # an environment variable that names another file
_WAIT_S = 60.0
_MOST_ANSWER = 1 << 30


@dataclass(frozen=True)
class Login:
    """A service and a session there; `ca` is PEM, empty for the system's authorities."""

    url: str
    ca: str
    user: str
    user_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Login({self.user} at {self.url})"


def settings_path() -> Path:
    """Where the login is kept."""
    named = os.environ.get(SETTINGS)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "gemel" / "service.json"


def save(login: Login) -> Path:
    """Keep a login, readable by its owner only."""
    path = settings_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)  # an older file's mode would stay
    write_durably(path, json.dumps(asdict(login)).encode(), mode=0o600)
    return path


def load() -> Login:
    """The login that is kept. Raises GEM917 when there is none."""
    path = settings_path()
    try:
        return Login(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise GemelError("GEM917", f"{path} does not exist.") from error
    except (OSError, ValueError, TypeError) as error:
        raise GemelError("GEM917", f"{path} cannot be used: {type(error).__name__}.") from error


class ServiceClient:
    """Requests to a service; a refusal becomes the GemelError that the service names."""

    def __init__(self, url: str, *, ca: str = "", secret: str = "") -> None:
        import ssl

        import httpx

        _require_safe(url)
        try:
            verify: Any = ssl.create_default_context(cadata=ca) if ca else True
        except ssl.SSLError as error:
            raise GemelError("GEM916", "The CA certificate is no PEM.") from error
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, verify=verify, timeout=_WAIT_S, follow_redirects=False
        )

    @classmethod
    def signed_in(cls) -> ServiceClient:
        """A client for the login that is kept. Raises GEM917."""
        login = load()
        return cls(login.url, ca=login.ca, secret=login.secret)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._http.close()

    def get(self, path: str, **query: str | float) -> Any:
        """A GET's JSON."""
        return _content(self._send("GET", path, params=query))

    def read(self, path: str) -> bytes:
        """A GET's bytes."""
        return self._send("GET", path).content

    def post(self, path: str, body: object = None) -> Any:
        """A POST's JSON."""
        return _content(self._send("POST", path, json={} if body is None else body))

    def patch(self, path: str, body: object) -> Any:
        """A PATCH's JSON."""
        return _content(self._send("PATCH", path, json=body))

    def delete(self, path: str) -> None:
        """A DELETE."""
        self._send("DELETE", path)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, f"/api/v1{path}", **request)
        except httpx.HTTPError as error:
            raise GemelError("GEM916", f"{self._http.base_url}: {_cause(error)}.") from error
        if not answer.is_success:
            raise _refusal(answer)
        return answer


def _require_safe(url: str) -> None:
    """A token goes over TLS, or stays on this machine. Raises GEM916."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise GemelError("GEM916", f"{url} is not https://…")


def _content(answer: httpx.Response) -> Any:
    if answer.status_code == 204:
        return {}
    try:
        return answer.json()
    except ValueError as error:
        raise GemelError("GEM916", "The answer is no JSON: is that a Gemel service?") from error


def _refusal(answer: httpx.Response) -> GemelError:
    """What the service said; a text that is none of its own is not shown."""
    try:
        said = answer.json()["error"]
        code, message, hint = str(said["code"]), str(said["message"]), str(said["hint"])
    except (ValueError, KeyError, TypeError):
        if answer.status_code == 429:  # nginx's own limit
            return GemelError("GEM903", "Too many requests from this address; wait a minute.")
        return GemelError("GEM916", f"The answer was {answer.status_code}: is that a Gemel service?")
    if code not in CATALOGUE:
        return GemelError("GEM916", f"The service answered {code}, which this version does not know.")
    return GemelError(code, message, hint=hint)


def _cause(error: Exception) -> str:
    """The innermost cause, which says more than httpx's own words."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return f"{type(inner).__name__} {inner}".strip()
