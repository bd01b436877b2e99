"""`gemel federation user`: who may use the coordinator's service, as its administrator says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.cli.study_token import ROLES, table_of
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.cli.service_client import ServiceClient

app = typer.Typer(help="Who may use the coordinator's service.", no_args_is_help=True)
RoleOption = Annotated[str, typer.Option(click_type=click.Choice(ROLES), help="What the user may do.")]
UserName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@app.command()
def add(
    name: UserName,
    *,
    role: RoleOption = "viewer",
    subject: Annotated[
        str, typer.Option(help="Whom the identity provider calls so (its `sub`, or e-mail address).")
    ] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Put a user on record; prints the setup token to hand over, once. Needs an administrator's login."""
    with failures(output):
        body: dict[str, Any] = {"name": name, "role": role}
        if subject:
            body["subject"] = subject
        with _client() as client:
            made = client.post("/users", body)
        _emit_setup({"user": made["user"], "setup": made["setup"]["secret"]}, output)


@app.command("list")
def list_(*, output: FormatOption = Format.TABLE) -> None:
    """List the users."""
    with failures(output):
        with _client() as client:
            users = client.get("/users")

        def render(console: Console) -> None:
            made = table("Name", "Role", "State", "Since", ">Keys", "Identity")
            for user in users:
                keys, identity = str(len(user["keys"])), user["identity"] or ""
                made.add_row(
                    user["name"], user["role"], user["state"], user["created_at"][:10], keys, identity
                )
            console.print(made)

        emit({"users": users}, output, render=render)


@app.command()
def role(name: UserName, role: Annotated[str, typer.Argument(click_type=click.Choice(ROLES))]) -> None:
    """Give a user another role."""
    _change(name, {"role": role})


@app.command()
def disable(name: UserName) -> None:
    """Let a user in no more; every token ends."""
    _change(name, {"state": "disabled"})


@app.command()
def enable(name: UserName) -> None:
    """Let a disabled user in again."""
    _change(name, {"state": "active"})


@app.command()
def token(
    name: UserName,
    *,
    setup: Annotated[bool, typer.Option("--setup", help="A new setup token, for a lost password.")] = False,
    revoke: Annotated[str, typer.Option(metavar="ID", help="End one of the user's tokens.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """List a user's tokens (never their secrets), end one, or make a new setup token."""
    with failures(output), _client() as client:
        user = _find(client, name)
        if setup:
            made = client.post(f"/users/{user['id']}/setup")
            _emit_setup({"user": user, "setup": made["secret"]}, output)
            return
        if revoke:
            client.delete(f"/users/{user['id']}/tokens/{revoke}")
        tokens = client.get(f"/users/{user['id']}/tokens")

        emit(
            {"user": user["name"], "tokens": tokens},
            output,
            render=lambda console: console.print(table_of(tokens)),
        )


@app.command()
def audit(
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE")] = Path("audit.json"),
    after: Annotated[int, typer.Option(min=0, help="Only entries after this number.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch the service's audit log as a signed document, its chain verified; keep it elsewhere. Auditors and administrators."""
    with failures(output):
        import json

        from gemel.core.files import write_durably
        from gemel.core.signing import read_signed
        from gemel.server.service.audit_chain import verify_audit_document

        with _client() as client:
            content = json.dumps(client.get("/audit/export", after=after)).encode()
        document = read_signed(content, kind="audit")
        entries = verify_audit_document(document)
        if entries and entries[0].seq != after + 1:
            raise GemelError("GEM912", f"The first entry is {entries[0].seq}, not {after + 1}.")
        write_durably(out, document.to_bytes(), mode=0o600)
        last = entries[-1].seq if entries else after
        result = {"file": str(out), "entries": len(entries), "last": last, "head": document.payload["head"]}
        emit(
            result,
            output,
            render=lambda console: console.print(
                f"{out}: {len(entries)} entries up to {last}, each follows the one before; head {result['head']}.",
                markup=False,
            ),
        )


def _change(name: str, change: dict[str, str]) -> None:
    with failures(Format.TABLE), _client() as client:
        user = client.patch(f"/users/{_find(client, name)['id']}", change)
        say(f"{user['name']}: {user['role']}, {user['state']}.")


def _client() -> ServiceClient:
    from gemel.cli.service_client import ServiceClient

    return ServiceClient.signed_in()


def _find(client: ServiceClient, name: str) -> dict[str, Any]:
    for user in client.get("/users"):
        if user["name"] == name.lower():
            found: dict[str, Any] = user
            return found
    raise GemelError("GEM906", f"There is no user {name}.")


def _emit_setup(result: dict[str, Any], output: Format) -> None:
    def render(console: Console) -> None:
        user = result["user"]
        console.print(f"{user['name']} ({user['role']}): setup token, shown once, for a day:", markup=False)
        console.print(result["setup"], markup=False)
        console.print("Hand it over; then: gemel study login URL --setup", markup=False)

    emit(result, output, render=render)
