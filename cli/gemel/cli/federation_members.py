"""`gemel federation invite|admit|list|revoke`: who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.federation_home import Home, HomeOption, open_home, show_pairs, superlink
from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.server.members import Members


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

        config, members, key = open_home(home)
        ca = (home / "tls" / "ca.crt").read_text()
        kit = administration.invite(members, config, key, site=site, ca_certificate=ca, days=days)
        write_durably(out, kit.to_bytes())
        result = {
            "site": site,
            "file": str(out),
            "expires_at": kit.payload["expires_at"],
            "coordinator_fingerprint": fingerprint(key.public_hex),
        }
    emit(result, output, render=lambda console: show_pairs(console, result))
    say("Send the file by any way; tell the coordinator's fingerprint by another, such as the phone.")


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
        config, members, key = open_home(home)
        admission = administration.admit(
            members,
            superlink(home, config),
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
    emit(result, output, render=lambda console: show_pairs(console, result))


def list_(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """The hospitals: who is invited, admitted with which key, and for how many days still."""
    with failures(output):
        _, members, _ = open_home(home)
        result = {"members": member_rows(members)}

    def render(console: Console) -> None:
        made = table("hospital", "state", "fingerprint", ">days left", "until")
        for row in result["members"]:
            days = "" if row["days_left"] is None else str(row["days_left"])
            made.add_row(row["site"], row["state"], row["fingerprint"], days, row["until"])
        console.print(made)

    emit(result, output, render=render)


def revoke(
    site: Annotated[str, typer.Argument(help="The hospital.", show_default=False)],
    *,
    home: HomeOption,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a hospital's membership: no study reaches its keys any more, and its node cannot connect."""
    with failures(output):
        from gemel.server import administration

        config, members, _ = open_home(home)
        ended = administration.revoke(members, superlink(home, config), site)
        result = {"site": site, "keys": [{"public_key": m.public_key, "state": str(m.state)} for m in ended]}
    emit(result, output, render=lambda console: show_pairs(console, result))


def member_rows(members: Members) -> list[dict[str, Any]]:
    """A row for each key that was ever admitted, and for each hospital that is only invited."""
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
