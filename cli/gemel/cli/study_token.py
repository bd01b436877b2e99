"""`gemel study token`: a token for a program of one's own, shown once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from gemel.cli.output import Format, FormatOption, emit, failures, table

if TYPE_CHECKING:
    from rich.console import Console

ROLES = ("viewer", "scientist", "operator", "auditor", "admin")


def token(
    *,
    label: Annotated[str, typer.Option(help="What it is for; a new token is made when given.")] = "",
    days: Annotated[int, typer.Option(min=1, max=366, help="How long it holds.")] = 90,
    role: Annotated[
        str | None, typer.Option(click_type=click.Choice(ROLES), help="A weaker role than your own.")
    ] = None,
    revoke: Annotated[str, typer.Option(metavar="ID", help="End one of your tokens.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """List your tokens, make one for a program (its secret is shown once), or end one."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient

        with ServiceClient.signed_in() as client:
            if revoke:
                client.delete(f"/me/tokens/{revoke}")
            if label:
                made = client.post("/me/tokens", {"label": label, "days": days, "role": role})
                emit(made, output, render=lambda console: _show_once(console, made))
                return
            tokens = client.get("/me/tokens")
        emit({"tokens": tokens}, output, render=lambda console: console.print(table_of(tokens)))


def _show_once(console: Console, made: dict[str, Any]) -> None:
    console.print(made["secret"], markup=False)
    console.print(f"Shown once; role {made['token']['role']}, until {day(made['token']['expires_at'])}.")


def table_of(tokens: list[dict[str, Any]]) -> Any:
    """Tokens for people, without their secrets."""
    made = table("Id", "Kind", "Role", "Label", "Ends", "Ended")
    for each in tokens:
        ended = day(each["ended_at"]) if each["ended_at"] else ""
        made.add_row(each["id"], each["kind"], each["role"], each["label"], day(each["expires_at"]), ended)
    return made


def day(seconds: float) -> str:
    """A time on record, for people."""
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="minutes")
