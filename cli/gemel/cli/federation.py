"""`gemel federation`: a coordinator is set up and run, hospitals are invited, admitted and revoked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli import federation_backup, federation_users
from gemel.cli.federation_backup import Database, DatabaseFile, database_url
from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.server.federation_config import FederationConfig
    from gemel.server.members import Members

app = typer.Typer(help="The coordinator: set it up, run it, and say who takes part.", no_args_is_help=True)
app.command("backup")(federation_backup.backup)
app.command("restore")(federation_backup.restore)
app.add_typer(federation_users.app, name="user")

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's home.", show_default=False)]
HomeOption = Annotated[Path, typer.Option("--home", help="The coordinator's home.", show_default=False)]


@app.command()
def init(
    home: Home,
    *,
    host: Annotated[
        str,
        typer.Option(help="DNS name or IP address that hospitals and people connect to.", show_default=False),
    ],
    name: Annotated[str, typer.Option(help="What the federation is called.")] = "federation",
    alias: Annotated[
        list[str] | None, typer.Option(help="A further name of the host; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Hospitals' port.")] = 8443,
    people_port: Annotated[int, typer.Option(min=1, max=65535, help="People's port.")] = 443,
    listen: Annotated[str, typer.Option(help="Address of this machine on which nginx listens.")] = "0.0.0.0",  # noqa: S104
    superlink_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the SuperLink, on loopback.")
    ] = 9400,
    service_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the service, on loopback.")] = 9401,
    largest_update_mb: Annotated[
        int,
        typer.Option(min=1, max=2000, help="A hospital sends no more at once; the largest twin must fit."),
    ] = 64,
    database: Database = "",
    database_file: DatabaseFile = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a coordinator's home: keys, CA, certificates, store, nginx's configuration; prints the first admin's token."""
    with failures(output):
        from gemel.core.signing import fingerprint
        from gemel.server import federation_setup, nginx
        from gemel.server.federation_config import SCHEMA, FederationConfig

        config = FederationConfig(
            schema=SCHEMA,
            name=name,
            host=host.lower(),
            aliases=tuple(alias or ()),
            port=port,
            people_port=people_port,
            superlink_port=superlink_port,
            service_port=service_port,
            listen=listen,
            largest_update_mb=largest_update_mb,
        )
        made = federation_setup.create(home, config, database=database_url(database, database_file))
        key = made.key.public_hex
        result = {
            "federation": name,
            "home": str(home.resolve()),
            "coordinator_public_key": key,
            "fingerprint": fingerprint(key),
            "hospitals": config.fleet_address,
            "people": config.service_url,
            "nginx": str(nginx.configuration_file(home)),
            "units": ["gemel-coordinator.service", "gemel-proxy.service"],
            "bootstrap_token": _bootstrap_token(home),
        }
    emit(result, output, render=lambda console: _show_pairs(console, result))
    say(
        "The token makes the first admin, once; it is shown only now. Next: `gemel federation start`, and nginx."
    )


@app.command()
def start(home: Home) -> None:
    """Run the coordinator in the foreground: SuperLink, SuperExec and service, each started again when it dies."""
    with failures(Format.TABLE):
        from gemel.server.supervisor import run

        run(home)


@app.command()
def invite(
    site: Annotated[
        str, typer.Argument(help="The hospital's name, as studies will call it.", show_default=False)
    ],
    *,
    home: HomeOption,
    out: Annotated[Path, typer.Option("--output", "-o", help="The kit's file.", show_default=False)],
    days: Annotated[int, typer.Option(min=1, help="How long a node can be made from the kit.")] = 30,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a hospital's start kit: addresses, CA, the coordinator's key, signed; it holds no secret."""
    with failures(output):
        from gemel.core.files import write_durably
        from gemel.core.signing import fingerprint
        from gemel.server import administration

        config, members, key = _open(home)
        ca = (home / "tls" / "ca.crt").read_text()
        kit = administration.invite(members, config, key, site=site, ca_certificate=ca, days=days)
        write_durably(out, kit.to_bytes())
        result = {
            "site": site,
            "file": str(out),
            "expires_at": kit.payload["expires_at"],
            "coordinator_fingerprint": fingerprint(key.public_hex),
        }
    emit(result, output, render=lambda console: _show_pairs(console, result))
    say("Send the file by any way; tell the coordinator's fingerprint by another, such as the phone.")


@app.command()
def admit(
    join: Annotated[
        Path, typer.Argument(metavar="JOIN.json", help="The node's request to join.", show_default=False)
    ],
    *,
    home: HomeOption,
    fingerprint: Annotated[
        str, typer.Option(help="As the hospital reads it out on the phone.", show_default=False)
    ],
    days: Annotated[int, typer.Option(min=1, help="How long the keys are admitted for.")] = 365,
    output: FormatOption = Format.TABLE,
) -> None:
    """Admit a hospital's keys after the phone call; keys that it had before end. The coordinator must run."""
    with failures(output):
        from gemel.cli.verify import read_document
        from gemel.core.signing import fingerprint as short
        from gemel.core.start_kit import transport_fingerprint
        from gemel.server import administration

        content = read_document(join).to_bytes()
        config, members, key = _open(home)
        admission = administration.admit(
            members,
            _superlink(home, config),
            content,
            coordinator=key.public_hex,
            fingerprint=fingerprint,
            days=days,
        )
        member = admission.member
        result = {
            "site": member.site,
            "public_key": member.public_key,
            "fingerprint": short(member.public_key),
            "transport_fingerprint": transport_fingerprint(member.transport_key),
            "expires_at": member.expires_at,
            "replaced": list(admission.replaced),
            "software": admission.software,
        }
    emit(result, output, render=lambda console: _show_pairs(console, result))


@app.command("list")
def list_(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """The hospitals: who is invited, admitted with which key, and for how many days still."""
    with failures(output):
        _, members, _ = _open(home)
        result = {"members": _members(members)}

    def render(console: Console) -> None:
        made = table("hospital", "state", "fingerprint", ">days left", "until")
        for row in result["members"]:
            days = "" if row["days_left"] is None else str(row["days_left"])
            made.add_row(row["site"], row["state"], row["fingerprint"], days, row["until"])
        console.print(made)

    emit(result, output, render=render)


@app.command()
def show(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """The federation's name, addresses, key and certificates."""
    with failures(output):
        from gemel.core.signing import fingerprint

        config, _, key = _open(home)
        result = {
            "federation": config.name,
            "hospitals": config.fleet_address,
            "people": config.service_url,
            "coordinator_public_key": key.public_hex,
            "fingerprint": fingerprint(key.public_hex),
            "certificates": _certificates(home),
        }
    emit(result, output, render=lambda console: _show_pairs(console, result))


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The hospital.", show_default=False)],
    *,
    home: HomeOption,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a hospital's membership: no study reaches its keys any more, and its node cannot connect."""
    with failures(output):
        from gemel.server import administration

        config, members, _ = _open(home)
        ended = administration.revoke(members, _superlink(home, config), site)
        result = {"site": site, "keys": [{"public_key": m.public_key, "state": str(m.state)} for m in ended]}
    emit(result, output, render=lambda console: _show_pairs(console, result))


@app.command()
def status(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """What runs, which nodes are connected, and what ends soon; exit code 4 when a part does not run."""
    with failures(output):
        from gemel.core.errors import GemelError
        from gemel.server.supervisor import running_pid

        config, members, _ = _open(home)
        unreachable, nodes = None, {}
        try:
            nodes = {node.transport_key: node.status for node in _superlink(home, config).nodes()}
        except GemelError as error:
            unreachable = error
        rows = _members(members)
        keys = {member.public_key: member.transport_key for member in members.all()}
        for row in rows:
            row["connection"] = nodes.get(keys.get(row["public_key"], ""), "")
        result = {
            "supervisor": running_pid(home),
            "superlink": unreachable is None,
            "service": _listens(config.service_port),
            "certificates": _certificates(home),
            "members": rows,
        }
        result["warnings"] = _warnings(result)
    emit(result, output, render=lambda console: _show_status(console, result))
    with failures(Format.TABLE):
        if unreachable is not None:
            raise unreachable
        if not result["service"]:
            raise GemelError(
                "GEM505", f"The service does not run; its log is {home / 'logs' / 'service.log'}."
            )


@app.command("rotate-tls")
def rotate_tls(
    home: Home,
    *,
    days: Annotated[int, typer.Option(min=1, max=825, help="Validity of the new certificate.")] = 365,
    output: FormatOption = Format.TABLE,
) -> None:
    """A fresh certificate and key for the outer ports, under the same CA: no hospital has to do anything."""
    with failures(output):
        from gemel.server import federation_setup

        config, _, _ = _open(home)
        made = federation_setup.rotate(home, config, days=days)
        result = {
            "names": list(made.names),
            "not_after": made.not_after.isoformat(),
            "days_left": made.days_left(),
            "serial": made.serial,
        }
    emit(result, output, render=lambda console: _show_pairs(console, result))
    say("Let nginx read it: `systemctl reload gemel-proxy`, or `nginx -c HOME/nginx/nginx.conf -s reload`.")


@app.command("rotate-ca")
def rotate_ca(
    home: Home,
    *,
    switch: Annotated[
        bool, typer.Option("--switch", help="Use the CA that was prepared; the coordinator must not run.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replace the federation's CA, in two steps: prepare it and give it to every hospital; then switch."""
    with failures(output):
        from gemel.core.errors import GemelError
        from gemel.core.pki import read_certificate
        from gemel.server import federation_setup
        from gemel.server.supervisor import running_pid

        config, _, _ = _open(home)
        if switch and running_pid(home):
            raise GemelError(
                "GEM525", "Stop the coordinator first: what runs still shows the old certificates."
            )
        if switch:
            federation_setup.switch_ca(home, config)
        path = home / "tls" / "ca.crt" if switch else federation_setup.prepare_ca(home)
        made = read_certificate(path)
        result = {"file": str(path), "sha256": made.sha256, "not_after": made.not_after.isoformat()}
    emit(result, output, render=lambda console: _show_pairs(console, result))
    if switch:
        say(
            "Start the coordinator and reload nginx. Kits of before are void: invite again who has not joined."
        )
    else:
        say(
            "Each hospital compares the fingerprint and adds the file to its node's tls/ca.crt. Then, with --switch."
        )


def _open(home: Path) -> tuple[FederationConfig, Members, Any]:
    from gemel.server import federation_config
    from gemel.server.home import CoordinatorHome
    from gemel.server.members import Members
    from gemel.server.store import open_store, store_url

    config = federation_config.load(home)
    return config, Members(open_store(store_url(home))), CoordinatorHome(home).key


def _superlink(home: Path, config: FederationConfig) -> Any:
    from gemel.server.supervisor import superlink_of

    return superlink_of(home.resolve(), config)


def _bootstrap_token(home: Path) -> str:
    import importlib.util

    if importlib.util.find_spec("gemel.server.service") is None:
        return ""
    from gemel.server.service.bootstrap import bootstrap_token

    return bootstrap_token(home)


def _members(members: Members) -> list[dict[str, Any]]:
    from gemel.core.signing import fingerprint
    from gemel.server.members import MemberState

    known = members.all()
    rows: list[dict[str, Any]] = [
        {
            "site": member.site,
            "state": "expired"
            if member.state is MemberState.ADMITTED and members.refusal(member.public_key)
            else str(member.state),
            "public_key": member.public_key,
            "fingerprint": fingerprint(member.public_key),
            "days_left": member.days_left() if member.state is MemberState.ADMITTED else None,
            "until": member.ended_at or member.expires_at,
        }
        for member in known
    ]
    rows += [
        {
            "site": invitation.site,
            "state": "invited",
            "public_key": "",
            "fingerprint": "",
            "days_left": None,
            "until": invitation.expires_at,
        }
        for invitation in members.invitations()
        if not members.admitted(invitation.site)
    ]
    return rows


def _certificates(home: Path) -> dict[str, dict[str, Any]]:
    from gemel.server import federation_setup

    return {
        what: {
            "sha256": made.sha256,
            "not_after": f"{made.not_after:%Y-%m-%d}",
            "days_left": made.days_left(),
            "names": list(made.names),
        }
        for what, made in federation_setup.certificates(home).items()
    }


def _warnings(status: dict[str, Any]) -> list[str]:
    """What must be done within a month."""
    from gemel.server.federation_setup import WARN_DAYS

    remedies = {"public": "gemel federation rotate-tls", "people": "put a new one into tls/"}
    found = [
        f"certificate {what}: {made['days_left']} days left; {remedies.get(what, 'gemel federation rotate-ca')}"
        for what, made in status["certificates"].items()
        if made["days_left"] < WARN_DAYS
    ]
    found += [
        f"{row['site']}: {row['days_left']} days left; gemel node rotate, or admit its request again"
        for row in status["members"]
        if row["days_left"] is not None and row["days_left"] < WARN_DAYS
    ]
    return found


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _show_pairs(console: Console, result: dict[str, Any]) -> None:
    made = table("", "")
    for name, value in result.items():
        made.add_row(name.replace("_", " "), _words(value))
    console.print(made)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "\n".join(_words(inner) for inner in value) or "none"
    return str(value)


def _show_status(console: Console, result: dict[str, Any]) -> None:
    for name in ("supervisor", "superlink", "service"):
        console.print(f"{name}: {'runs' if result[name] else 'does not run'}")
    for what, certificate in result["certificates"].items():
        console.print(f"certificate {what}: {certificate['days_left']} days left")
    made = table("hospital", "state", ">days left", "connection")
    for row in result["members"]:
        days = "" if row["days_left"] is None else str(row["days_left"])
        made.add_row(row["site"], row["state"], days, row["connection"])
    console.print(made)
    for warning in result["warnings"]:
        console.print(f"SOON: {warning}")
