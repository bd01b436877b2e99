"""`gemel federation`: a coordinator is set up and run, hospitals are invited, admitted and revoked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli import federation_backup, federation_certificates, federation_members, federation_users
from gemel.cli.federation_backup import Database, DatabaseFile, database_url
from gemel.cli.federation_certificates import certificate_rows
from gemel.cli.federation_home import Home, open_home, show_pairs, superlink
from gemel.cli.federation_members import member_rows
from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(help="The coordinator: set it up, run it, and say who takes part.", no_args_is_help=True)


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
        url = database_url(database, database_file)
        key = federation_setup.create(home, config, database=url).key.public_hex
        result = {
            "federation": name,
            "coordinator_public_key": key,
            "fingerprint": fingerprint(key),
            "hospitals": config.fleet_address,
            "people": config.service_url,
            "nginx": str(nginx.configuration_file(home)),
            "units": ["gemel-coordinator.service", "gemel-proxy.service"],
            "bootstrap_token": _bootstrap_token(home),
        }
    emit(result, output, render=lambda console: show_pairs(console, result))
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
def show(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """The federation's name, addresses, key and certificates."""
    with failures(output):
        from gemel.core.signing import fingerprint

        config, _, key = open_home(home)
        result = {
            "federation": config.name,
            "hospitals": config.fleet_address,
            "people": config.service_url,
            "coordinator_public_key": key.public_hex,
            "fingerprint": fingerprint(key.public_hex),
            "certificates": certificate_rows(home),
        }
    emit(result, output, render=lambda console: show_pairs(console, result))


@app.command()
def status(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """What runs, which nodes are connected, and what ends soon; exit code 4 when a part does not run."""
    with failures(output):
        from gemel.core.errors import GemelError
        from gemel.server.supervisor import running_pid

        config, members, _ = open_home(home)
        unreachable, nodes = None, {}
        try:
            nodes = {node.transport_key: node.status for node in superlink(home, config).nodes()}
        except GemelError as error:
            unreachable = error
        rows = member_rows(members)
        keys = {member.public_key: member.transport_key for member in members.all()}
        for row in rows:
            row["connection"] = nodes.get(keys.get(row["public_key"], ""), "")
        result: dict[str, Any] = {
            "supervisor": running_pid(home),
            "superlink": unreachable is None,
            "service": _listens(config.service_port),
            "certificates": certificate_rows(home),
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


def _bootstrap_token(home: Path) -> str:
    import importlib.util

    if importlib.util.find_spec("gemel.server.service") is None:
        return ""
    from gemel.server.service.bootstrap import bootstrap_token

    return bootstrap_token(home)


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


app.command("invite")(federation_members.invite)
app.command("admit")(federation_members.admit)
app.command("list")(federation_members.list_)
app.command("revoke")(federation_members.revoke)
app.command("rotate-tls")(federation_certificates.rotate_tls)
app.command("rotate-ca")(federation_certificates.rotate_ca)
app.command("backup")(federation_backup.backup)
app.command("restore")(federation_backup.restore)
app.add_typer(federation_users.app, name="user")
