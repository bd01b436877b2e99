"""`gemel study login|logout`: sign in to the coordinator's service, by password, setup token or identity provider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.cli.service_client import ServiceClient

_WAIT_S = 300.0

Url = Annotated[str, typer.Argument(metavar="URL", help="https://HOST[:PORT].", show_default=False)]
Ca = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The federation's CA certificate, PEM.", show_default=False),
]


def login(
    url: Url,
    *,
    user: Annotated[str, typer.Option(metavar="NAME", help="Asked for when not given.")] = "",
    ca: Ca = None,
    setup: Annotated[
        bool, typer.Option("--setup", help="The first time: set a password with a setup token.")
    ] = False,
    oidc: Annotated[bool, typer.Option("--oidc", help="By the federation's identity provider.")] = False,
    token: Annotated[
        bool, typer.Option("--token", help="With an API token, asked for or from the standard input.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Sign in to a coordinator's service.

    Passwords and tokens are asked for without echo, or read as lines of the standard input; never given as arguments,
    which other users of the machine could see. The session is kept in a file that only you can read.
    """
    with failures(output):
        from gemel.cli.service_client import Login, ServiceClient, save

        pem = _pem(ca)
        with ServiceClient(url, ca=pem) as client:
            if oidc:
                secret = _by_provider(client)
            elif setup:
                secret = _by_setup(client)
            elif token:
                secret = _ask("API token")
            else:
                name = user or typer.prompt("User", err=True)
                body = {"name": name, "password": _ask("Password")}
                secret = client.post("/login", body)["secret"]
        with ServiceClient(url, ca=pem, secret=secret) as client:
            me = client.get("/me")
        path = save(Login(url=url, ca=pem, user=me["name"], user_id=me["id"], secret=secret))
        result = {"url": url, "user": me["name"], "role": me["role"], "kept_in": str(path)}
        emit(
            result,
            output,
            render=lambda console: console.print(
                f"Signed in as {me['name']} ({me['role']}) at {url}; kept in {path}.", markup=False
            ),
        )


def logout(*, output: FormatOption = Format.TABLE) -> None:
    """End the session, there and here."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient, settings_path

        try:
            with ServiceClient.signed_in() as client:
                client.post("/logout")
        except GemelError as error:
            if error.code not in ("GEM901", "GEM916"):
                raise
            say(f"The service was not told: {error.message}")
        settings_path().unlink(missing_ok=True)
        emit({"signed_in": False}, output, render=lambda console: console.print("Signed out."))


def _pem(ca: Path | None) -> str:
    if ca is None:
        return ""
    try:
        return ca.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise GemelError("GEM106", f"{ca} cannot be read: {type(error).__name__}.") from error


def _ask(what: str) -> str:
    """A secret: without echo at a terminal, else a line of the standard input."""
    import sys

    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, err=True))
    line = sys.stdin.readline().rstrip("\n")
    if not line:
        raise GemelError("GEM902", f"{what}: the standard input has no line.")
    return line


def _by_setup(client: ServiceClient) -> str:
    import sys

    secret, password = _ask("Setup token"), _ask("New password")
    if sys.stdin.isatty() and _ask("Again") != password:
        raise GemelError("GEM914", "The two passwords differ.")
    return str(client.post("/setup", {"token": secret, "password": password})["secret"])


def _by_provider(client: ServiceClient) -> str:
    """The browser does the rest, and comes back to a port of this machine (RFC 8252)."""
    import secrets
    import webbrowser

    from gemel.core.canonical import sha256_hex

    kept = secrets.token_urlsafe(32)
    with _Landing() as landing:
        body = {"port": landing.port, "proof": sha256_hex(kept.encode())}
        address = client.post("/login/oidc", body)["address"]
        say(f"Open this address in a browser on this machine:\n  {address}")
        webbrowser.open(address)
        handoff = landing.wait(_WAIT_S)
    return str(client.post("/login/oidc/token", {"handoff": handoff, "secret": kept})["secret"])


class _Landing:
    """A port of this machine that waits for one word from the browser."""

    def __init__(self) -> None:
        import http.server
        import threading

        self._came = threading.Event()
        self._word = ""
        landing = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                from urllib.parse import parse_qs, urlsplit

                word = parse_qs(urlsplit(self.path).query).get("handoff", [""])[0]
                self.send_response(200 if word else 404)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(b"Signed in; this page can be closed.\n" if word else b"\n")
                if word and not landing._came.is_set():
                    landing._word = word
                    landing._came.set()

            def log_message(self, *_: Any) -> None:
                """Nothing: the line would hold the word."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> _Landing:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> str:
        if not self._came.wait(seconds):
            raise GemelError("GEM913", f"No browser came back within {seconds:g} s.")
        return self._word
