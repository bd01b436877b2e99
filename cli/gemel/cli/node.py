"""`gemel node`: make a hospital's node, say what may run there, run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli import node_backup, node_study
from gemel.cli.output import Format, FormatOption, emit, failures, plain, say, table
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="A hospital's node.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The node's home.", show_default=False)]


@app.command()
def init(
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="The coordinator's start kit.", show_default=False)
    ],
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The folder to make.", show_default=False)],
    *,
    export: Annotated[Path, typer.Option(metavar="PATH", help="The hospital's FHIR export, or OMOP tables.")],
    floor: Annotated[int, typer.Option(min=1, help="Fewer patients than this take part in nothing.")],
    epsilon_cap: Annotated[float, typer.Option(help="What any patient may spend over a lifetime.")],
    delta: Annotated[float, typer.Option(help="The delta at which the cap holds.")],
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="F", help="Of the coordinator's key, as it was read out on the phone."),
    ] = None,
    approvals: Annotated[
        int, typer.Option(min=1, max=10, help="How many stewards must approve a study.")
    ] = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a node from the coordinator's start kit; its keys are made here.

    Then send HOME/join.json to the coordinator, and read the fingerprint out on the phone.
    """
    with failures(output):
        from gemel.client_node.joining import Limits, make_node
        from gemel.core.signing import fingerprint as of_key
        from gemel.core.start_kit import transport_fingerprint

        limits = Limits(
            export=export,
            minimum_patients=floor,
            epsilon_cap=epsilon_cap,
            delta=delta,
            approvals_needed=approvals,
        )
        node, request = make_node(home, _read(kit), limits, coordinator_fingerprint=fingerprint)
        result = {
            "ok": True,
            "home": str(home),
            "federation": node.config.federation,
            "site": node.config.site,
            "address": node.config.address,
            "join": str(home / "join.json"),
            "fingerprint": request.fingerprint,
            "transport_fingerprint": transport_fingerprint(request.transport_public_key),
            "coordinator_fingerprint": of_key(node.config.coordinator_public_key),
        }
        emit(result, output, render=lambda console: console.print(_next_steps(result), markup=False))


@app.command()
def update(
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="A newer start kit of the coordinator.", show_default=False)
    ],
    home: Home,
    *,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="F", help="Of the coordinator's new key, as it was read out on the phone."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Take the coordinator's address, CA and key from a newer kit; then start the node again."""
    with failures(output):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.joining import update_node
        from gemel.core.signing import fingerprint as of_key

        node = update_node(NodeHome.open(home), _read(kit), coordinator_fingerprint=fingerprint)
        coordinator = of_key(node.config.coordinator_public_key)
        result = {"ok": True, "address": node.config.address, "coordinator_fingerprint": coordinator}
        text = f"{node.config.address}, coordinator {coordinator}. Start the node again."
        emit(result, output, render=lambda console: console.print(text, markup=False))


@app.command()
def steward(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who decides on studies.", show_default=False)],
    home: Home,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the steward's private key goes.")
    ] = None,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Take the steward off the record: what they approved counts no more."),
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Put a steward on record; the private key goes into a file of their own, out of the node's home."""
    with failures(output):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.permissions import add_steward, remove_steward
        from gemel.core.signing import fingerprint

        node = NodeHome.open(home)
        if remove == (out is not None):
            raise GemelError("GEM419", "A steward is added with --out FILE, or removed with --remove.")
        if out is None:
            remove_steward(node, name)
            result, text = (
                {"ok": True, "steward": name, "removed": True},
                f"{name} decides on studies no more.",
            )
        else:
            public = fingerprint(add_steward(node, name, out))
            result = {"ok": True, "steward": name, "key": str(out), "fingerprint": public}
            text = f"{name}, {public}, may decide on studies. The key is {out}: theirs alone."
        emit(result, output, render=lambda console: console.print(text, markup=False))


@app.command()
def allow(
    programme: Annotated[
        str, typer.Argument(metavar="PROGRAMME@VERSION", help="What may run.", show_default=False)
    ],
    home: Home,
    *,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Not any more.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Let studies of a programme run here, by the code that is installed now.

    After an upgrade the code is another: allow it again, or its studies are refused with GEM414.
    """
    with failures(output):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.permissions import allow as allow_programme
        from gemel.client_node.permissions import withdraw as withdraw_programme

        node = NodeHome.open(home)
        node = withdraw_programme(node, programme) if withdraw else allow_programme(node, programme)
        config = node.config
        result = {"ok": True, "programmes": {name: config.code.get(name, "") for name in config.programmes}}

        def render(console: Console) -> None:
            made = table("Allowed", "Code")
            for name in config.programmes:
                made.add_row(name, config.code.get(name, "")[:16])
            console.print(made)
            say("A node that is running goes on with the code that it started with: start it again.")

        emit(result, output, render=render)


@app.command()
def start(
    home: Home,
    *,
    metrics_port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Prometheus metrics on loopback; 0 for none.")
    ] = 0,
) -> None:
    """Run the node until it is stopped; systemd runs this. One outbound connection, nothing inbound."""
    with failures(Format.TABLE):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.serving import serve

        node = NodeHome.open(home)
        say(f"{node.config.site} connects to {node.config.address}; stop with Ctrl-C.")
        serve(node, metrics_port=metrics_port)


@app.command()
def status(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """Say what the node is, what waits for a steward, how its keys and its budget stand."""
    with failures(output):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.status import status_of

        result: dict[str, Any] = status_of(NodeHome.open(home))

        def render(console: Console) -> None:
            made = table("", "")
            for name, value in result.items():
                shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
                made.add_row(
                    name.replace("_", " "), _connection(value) if name == "connection" else plain(shown)
                )
            console.print(made)

        emit(result, output, render=render)


@app.command()
def log(
    home: Home,
    *,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write it as a signed document for others to verify."),
    ] = None,
    since: Annotated[int, typer.Option(min=1, metavar="N", help="From this line on.")] = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what the node did, line by line, from its signed audit log; every line is verified first."""
    with failures(output):
        from gemel.cli.ledger import write_document
        from gemel.client_node import audit_log
        from gemel.client_node.home import NodeHome

        node = NodeHome.open(home)
        found = [entry for entry in audit_log.entries(node) if entry.seq >= since]
        if export is not None:
            write_document(export, audit_log.export(node, since=since))
        result = {
            "site": node.config.site,
            "entries": [
                {"seq": e.seq, "at": e.written_at, "kind": e.kind.value, "facts": e.facts} for e in found
            ],
        }

        def render(console: Console) -> None:
            made = table(">#", "When (UTC)", "What", "About")
            for entry in found:
                at = entry.written_at[:19].replace("T", " ")
                told = ", ".join(f"{name} {_short(value)}" for name, value in entry.facts.items())
                made.add_row(str(entry.seq), at, entry.kind.value, plain(told))
            console.print(made)

        emit(result, output, render=render)


@app.command()
def rotate(
    home: Home,
    *,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the new keys are good.")] = 365,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make new keys, signed for by the old ones, and a new HOME/join.json for the coordinator.

    Stop the node first. Studies that name the old key end: they must be proposed again with the new one.
    """
    with failures(output):
        from gemel.client_node.home import NodeHome
        from gemel.client_node.rotation import rotate_keys
        from gemel.core.start_kit import transport_fingerprint

        request = rotate_keys(NodeHome.open(home), days=days)
        result = {
            "ok": True,
            "join": str(home / "join.json"),
            "fingerprint": request.fingerprint,
            "transport_fingerprint": transport_fingerprint(request.transport_public_key),
            "succeeds": request.succeeds,
        }
        text = (
            f"New keys, good for {days} days. Send {home / 'join.json'} to the coordinator and read out\n"
            f"   {request.fingerprint}\nThe node connects again once they admitted it."
        )
        emit(result, output, render=lambda console: console.print(text, markup=False))


app.command("backup")(node_backup.backup)
app.command("restore")(node_backup.restore)
app.command("studies")(node_study.studies)
app.command("show")(node_study.show)
app.command("approve")(node_study.approve)
app.command("refuse")(node_study.refuse)
app.command("budget")(node_study.budget)


def _next_steps(made: dict[str, Any]) -> str:
    home = made["home"]
    return (
        f"{made['site']} of {made['federation']}: {home} holds its node. Next:\n"
        f"1. Send {made['join']} to the coordinator; it holds no secret.\n"
        f"2. Call them. Read out   {made['fingerprint']}\n"
        f"   and let them read out {made['coordinator_fingerprint']}\n"
        f"3. gemel node steward NAME {home} -o steward.key; gemel node allow PROGRAMME@VERSION {home};\n"
        f"   gemel doctor --node {home}; gemel node start {home}"
    )


def _connection(told: dict[str, Any]) -> str:
    import datetime as dt

    if not told:
        return "the node has never run"
    since = dt.datetime.fromtimestamp(told["since"], dt.UTC).isoformat(" ", timespec="seconds")
    code = f" ({told['code']})" if told["code"] else ""
    return f"{told['standing']}{code} since {since}"


def _short(value: str | int) -> str:
    """Hashes as people read them."""
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GemelError("GEM106", f"{path} cannot be read: {error.strerror}.") from error
