"""One FHIR server over HTTPS: patience with busy servers, tokens for its own origin only, redirects looked at first."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.settings import SourceSettings
from gemel.data_adapters.sources.smart import BackendToken, TokenReply, load_keys

if TYPE_CHECKING:
    import httpx

_BUSY = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_ANSWER_BYTES = 1 << 27
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Patience:
    """How long to put up with a busy server; `sleep` and `now` are the clock.

    Attributes:
        attempts: Of one request, in a row.
        longest_wait_s: Of one wait, whatever the server asks for.
        total_s: For one export to be made.
    """

    attempts: int = 8
    longest_wait_s: float = 300.0
    total_s: float = 86_400.0
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time

    def wait(self, attempt: int, retry_after: str | None = None) -> None:
        """Wait as long as the server asks (seconds or an HTTP date), or twice as long as the last time."""
        asked = _seconds(retry_after, self.now()) if retry_after is not None else None
        wished = min(2.0**attempt, 60.0) if asked is None else asked
        self.sleep(min(max(wished, 0.05), self.longest_wait_s))


def _seconds(retry_after: str, now: float) -> float | None:
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now


Origin = tuple[str, str, int | None]


def origin(url: str) -> Origin:
    """Scheme, host and port: what a token is for."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def check_address(url: str, *, allow_http: bool = False) -> str:
    """The address, when it may be used: https, or http to this machine. Raises GEM227."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise GemelError("GEM227", f"{_shown(url)} is no address: {error}.") from error
    if parts.username or parts.password:
        raise GemelError("GEM227", "An address must hold no name or password.")
    if not host or parts.scheme not in ("https", "http"):
        raise GemelError("GEM227", f"{_shown(url)} is no https address.")
    if parts.scheme == "http" and not allow_http and not _is_this_machine(host):
        raise GemelError("GEM227", f"{_shown(url)} is plain http to another machine.")
    return url


def _is_this_machine(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """An address without its query, which may hold a signature."""
    return url.partition("?")[0][:200]


@dataclass(frozen=True)
class Answer:
    """A whole answer; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class FhirServer:
    """A connection to one server. Use it as a context.

    Args:
        settings: Where it is, and who asks.
        patience: With a busy server; None takes it from the settings.
        say: Told what a person waiting would like to know; no patient data, no secrets.
    """

    def __init__(
        self,
        settings: SourceSettings,
        *,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        import httpx

        self.base_url = check_address(settings.base_url.rstrip("/"), allow_http=settings.allow_http)
        self.patience = patience or Patience(
            longest_wait_s=settings.longest_wait_s, total_s=settings.total_wait_s
        )
        self.say = say
        self._settings = settings
        self._keys = (
            load_keys(Path(settings.key_file), key_id=settings.key_id)
            if settings.key_file is not None
            else ()
        )
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise GemelError("GEM228", f"ca_file cannot be used: {error}.") from error
        self._http = httpx.Client(verify=context, timeout=_TIMEOUT_S, follow_redirects=False)
        self._token: BackendToken | None = None

    def __enter__(self) -> FhirServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def own(self, url: str) -> str:
        """An address that the server named and that will get the token: of its own origin. Raises GEM227."""
        whole = check_address(urljoin(self.base_url + "/", url), allow_http=self._settings.allow_http)
        if origin(whole) != origin(self.base_url):
            raise GemelError("GEM227", f"The server sends us to {_shown(whole)}, which is not itself.")
        return whole

    def get(self, url: str, *, headers: dict[str, str] | None = None) -> Answer:
        """GET with the token, from the server itself. Raises GEM223, GEM224, GEM225, GEM227."""
        import httpx

        why = ""
        for attempt in range(self.patience.attempts):
            try:
                with self.stream(self.own(url), headers=headers, with_token=True) as response:
                    body = _bounded(response, url)
                return Answer(response.status_code, dict(response.headers), body)
            except (httpx.TransportError, httpx.DecodingError) as error:
                why = f"{type(error).__name__}: {error}"
                self.patience.wait(attempt)
        raise GemelError("GEM223", f"{_shown(url)}: {why}.")

    def delete(self, url: str) -> None:
        """Tell the server that something is no longer needed; whether it listens does not matter."""
        import httpx

        try:
            headers = {"Authorization": self._bearer()} if self._keys else {}
            self._http.delete(self.own(url), headers=headers)
        except (httpx.HTTPError, GemelError) as error:
            self.say(f"The server was not told to forget the export: {type(error).__name__}.")

    @contextmanager
    def stream(
        self, url: str, *, headers: dict[str, str] | None = None, with_token: bool
    ) -> Iterator[httpx.Response]:
        """GET whose body the caller reads; busy answers were waited out. Errors of the transfer are the caller's.

        A token goes to the server's own origin only: an address elsewhere with `with_token` raises GEM227; a redirect
        elsewhere is followed without it, and only by a caller that wants no token sent (a file of an export).
        """
        response = self._patiently(url, dict(headers or {}), with_token=with_token)
        try:
            yield response
        finally:
            response.close()

    def _patiently(self, url: str, headers: dict[str, str], *, with_token: bool) -> httpx.Response:
        import httpx

        renewed, why = False, ""
        for attempt in range(self.patience.attempts):
            try:
                response = self._follow(url, headers, with_token=with_token)
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
                if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error).upper():
                    break
                self.patience.wait(attempt)
                continue
            if response.status_code == 401 and with_token and self._keys and not renewed:
                response.close()
                renewed = True
                if self._token is not None:
                    self._token.forget()
                continue
            if response.status_code in (401, 403):
                text = outcome_text(_bounded(response, url))
                raise GemelError(
                    "GEM224", f"{_shown(url)} answers {response.status_code}{f': {text}' if text else ''}."
                )
            if response.status_code not in _BUSY:
                return response
            why = f"status {response.status_code} {outcome_text(_bounded(response, url))}".strip()
            response.close()
            self.patience.wait(attempt, response.headers.get("retry-after"))
        raise GemelError("GEM223", f"{_shown(url)}: {why}.")

    def _follow(self, url: str, headers: dict[str, str], *, with_token: bool) -> httpx.Response:
        for _ in range(_MAX_REDIRECTS):
            check_address(url, allow_http=self._settings.allow_http)
            sent = dict(headers)
            if with_token:
                self.own(url)
                if self._keys:
                    sent["Authorization"] = self._bearer()
            response = self._http.send(self._http.build_request("GET", url, headers=sent), stream=True)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = urljoin(url, response.headers.get("location", ""))
        raise GemelError("GEM225", f"{_shown(url)} redirects without end.")

    def _bearer(self) -> str:
        if self._token is None:
            self._token = BackendToken(
                self._settings.client_id or "",
                self._keys,
                scopes=self._settings.scopes,
                token_url=self._token_url(),
                post=self._post,
                say=self.say,
                now=self.patience.now,
            )
        return self._token.header()

    def _token_url(self) -> str:
        url = self._settings.token_url
        if url is None:
            where = f"{self.base_url}/.well-known/smart-configuration"
            with self.stream(where, headers={"Accept": "application/json"}, with_token=False) as response:
                body = response.read()
            try:
                url = msgspec.json.decode(body, type=dict[str, Any]).get("token_endpoint")
            except (msgspec.DecodeError, UnicodeDecodeError):
                url = None
            if response.status_code != 200 or not isinstance(url, str):
                raise GemelError(
                    "GEM225", f"{where} names no token endpoint (status {response.status_code})."
                )
        return check_address(url, allow_http=self._settings.allow_http)

    def _post(self, url: str, form: dict[str, str]) -> TokenReply:
        import httpx

        why = ""
        for attempt in range(self.patience.attempts):
            try:
                response = self._http.post(url, data=form, headers={"Accept": "application/json"})
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
                self.patience.wait(attempt)
                continue
            if response.status_code not in _BUSY:
                return TokenReply(response.status_code, response.content)
            why = f"status {response.status_code}"
            self.patience.wait(attempt, response.headers.get("retry-after"))
        raise GemelError("GEM223", f"{_shown(url)}: {why}.")


class _Issue(msgspec.Struct):
    severity: str = ""
    code: str = ""
    diagnostics: str = ""


class _Outcome(msgspec.Struct):
    issue: list[_Issue] = []


def outcome_text(body: bytes) -> str:
    """What an OperationOutcome says about a request of ours (never one about a record), short and printable."""
    try:
        issues = msgspec.json.decode(body, type=_Outcome).issue
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    text = "; ".join(f"{issue.code} {issue.diagnostics}".strip() for issue in issues[:3])
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _bounded(response: httpx.Response, url: str) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise GemelError("GEM225", f"{_shown(url)} answers more than {_MAX_ANSWER_BYTES} bytes.")
        parts.append(part)
    return b"".join(parts)
