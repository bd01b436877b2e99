"""`gemel study submit|list|watch|stop|resume|certificate|pull`: a study's life at the coordinator's service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.cli.service_client import ServiceClient

_ID = 32
_LONG_POLL_S = 20.0
_ENDED = ("finished", "stopped", "failed")

StudyRef = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A study's id, the start of it, its name or its hash.", show_default=False
    ),
]
Days = Annotated[float, typer.Option(min=0.001, max=90, help="How long hospitals have to decide.")]


def submit(
    signed: Annotated[Path, typer.Argument(metavar="FILE", help="A signed study.", show_default=False)],
    *,
    approval_days: Days = 14.0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Send a signed study to its hospitals; what was interrupted is sent on, never twice."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient
        from gemel.cli.verify import read_document

        document = read_document(signed)
        if document.kind != "study":
            raise GemelError("GEM106", f"{signed} holds a {document.kind}, not a signed study.")
        plain = json.loads(document.to_bytes())
        with ServiceClient.signed_in() as client:
            known = [s for s in client.get("/studies") if s["study_sha256"] == document.payload_sha256]
            if known:
                study = known[0]
            else:
                study = client.post("/studies", {"study": plain["payload"]})
                study = client.post(f"/studies/{study['id']}/signed", {"document": plain})
            if study["state"] == "signed":
                study = client.post(f"/studies/{study['id']}/submit", {"approval_days": approval_days})
        emit(study, output, render=lambda console: _render_one(console, study))


def list_(*, output: FormatOption = Format.TABLE) -> None:
    """List the studies of the federation, and your drafts."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient

        with ServiceClient.signed_in() as client:
            studies = client.get("/studies")

        def render(console: Console) -> None:
            made = table("Id", "Study", "State", ">Tasks", "Why", "Changed")
            for s in studies:
                done = f"{s['tasks_done']}/{s['tasks']}"
                made.add_row(s["id"][:8], s["study_id"], _state(s), done, s["code"], s["changed_at"][:19])
            console.print(made)

        emit({"studies": studies}, output, render=render)


def watch(study: StudyRef, *, output: FormatOption = Format.TABLE) -> None:
    """Follow a study until it ends; exit code 1 when it failed or was stopped. Interrupting ends the watching only."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient

        with ServiceClient.signed_in() as client:
            study_id = find(client, study)
            _follow(client, study_id)
            detail = client.get(f"/studies/{study_id}")
        emit(detail, output, render=lambda console: _render_end(console, detail))
        if detail["study"]["state"] != "finished":
            raise typer.Exit(int(ExitCode.FAILED))


def stop(
    study: StudyRef,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is put on record.", show_default=False)],
    output: FormatOption = Format.TABLE,
) -> None:
    """End a study's run; what was done and spent until then is certified."""
    _steer(study, "stop", {"reason": reason}, output)


def resume(study: StudyRef, *, approval_days: Days = 14.0, output: FormatOption = Format.TABLE) -> None:
    """Go on with a stopped or failed study from its last completed task; nothing is charged twice."""
    _steer(study, "resume", {"approval_days": approval_days}, output)


def certificate(
    study: StudyRef,
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE")] = Path("certificate.json"),
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch the certificate of a run that has ended, verified."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient

        with ServiceClient.signed_in() as client:
            document = _certificate(client, find(client, study), out)
        result = {"file": str(out), "sha256": document.payload_sha256, "status": document.payload["status"]}
        emit(
            result,
            output,
            render=lambda console: console.print(f"{out}: {result['status']}, verified.", markup=False),
        )


def pull(
    study: StudyRef,
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder.", show_default=False)],
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch what a run brought: certificate, global twins, what virtual cohorts are drawn from, statistics; each by its hash."""
    with failures(output):
        from gemel.cli.service_client import ServiceClient
        from gemel.core.canonical import sha256_hex
        from gemel.core.files import write_durably

        out.mkdir(parents=True, exist_ok=True)
        with ServiceClient.signed_in() as client:
            study_id = find(client, study)
            document = _certificate(client, study_id, out / "certificate.json")
            fetched = []
            for file in client.get(f"/studies/{study_id}/files"):
                content = client.read(f"/studies/{study_id}/files/{file['sha256']}")
                name = Path(file["name"]).name
                if sha256_hex(content) != file["sha256"] or name != file["name"] or name.startswith("."):
                    raise GemelError("GEM103", f"{file['name']} is not what the service said it is.")
                write_durably(out / name, content)
                fetched.append(file)
        last = document.payload["model_sha256"]
        if last and last not in {file["sha256"] for file in fetched}:
            raise GemelError("GEM103", "No file is the twin that the certificate names.")
        result = {"folder": str(out), "files": fetched, "certificate": document.payload_sha256}
        emit(
            result,
            output,
            render=lambda console: console.print(
                f"{out}: certificate and {len(fetched)} files, as the certificate names them.", markup=False
            ),
        )


def find(client: ServiceClient, named: str) -> str:
    """The id of the one study that an id, the start of one, a name or a hash means. Raises GEM906."""
    if len(named) == _ID and set(named) <= set("0123456789abcdef"):
        return named
    found = {
        s["id"]
        for s in client.get("/studies")
        if named in (s["study_id"], s["study_sha256"]) or (len(named) >= 4 and s["id"].startswith(named))
    }
    if len(found) != 1:
        raise GemelError("GEM906", f"{named!r} means {len(found)} studies.")
    return str(found.pop())


def _steer(study: str, verb: str, body: dict[str, Any], output: Format) -> None:
    with failures(output):
        from gemel.cli.service_client import ServiceClient

        with ServiceClient.signed_in() as client:
            changed = client.post(f"/studies/{find(client, study)}/{verb}", body)
        emit(changed, output, render=lambda console: _render_one(console, changed))


def _follow(client: ServiceClient, study_id: str) -> None:
    after, state = 0, ""
    while True:
        got = client.get(f"/studies/{study_id}/events", after=after, wait=_LONG_POLL_S)
        for event in got["events"]:
            if line := tell(event):
                say(line)
        after = got["next"]
        if got["state"] != state:
            state = got["state"]
            say(f"The study is {state}.")
        if state in _ENDED or state in ("draft", "signed"):
            return


def tell(event: dict[str, Any]) -> str:
    """One event of a run, for people; "" for what says little."""
    kind, code = event.get("event"), event.get("code") or ""
    if kind == "site":
        return f"{event['site']}: {event['status']} {code}".rstrip()
    if kind == "task":
        return f"{event['task']} …"
    if kind == "missing":
        return f"{event['task']}: without {event['site']} ({code})"
    if kind == "task_done":
        contributed = len(event.get("contributions", ()))
        return f"{event['task']}: {contributed} hospitals, {event.get('seconds', 0):.1f} s"
    if kind == "finished":
        return f"The run ended: {code or 'complete'}."
    return ""


def _certificate(client: ServiceClient, study_id: str, path: Path) -> Any:
    from gemel.cli.verify import examine
    from gemel.core.files import write_durably
    from gemel.core.signing import read_signed

    content = json.dumps(client.get(f"/studies/{study_id}/certificate")).encode()
    document = read_signed(content, kind="certificate")
    examine(document)
    write_durably(path, document.to_bytes())
    return document


def _state(study: dict[str, Any]) -> str:
    return f"{study['state']} (stopping)" if study["stop_asked"] else str(study["state"])


def _render_one(console: Console, study: dict[str, Any]) -> None:
    console.print(f"{study['id']} {study['study_id']}: {_state(study)}.", markup=False)


def _render_end(console: Console, detail: dict[str, Any]) -> None:
    study = detail["study"]
    why = f" {study['code']}: gemel explain {study['code']}" if study["code"] else ""
    console.print(f"{study['study_id']}: {study['state']}.{why}", markup=False)
    console.print(_sites_table(detail))


def _sites_table(detail: dict[str, Any]) -> Any:
    made = table("Hospital", "Said", "Code", "At")
    said = {site["site"]: site for site in detail["sites"]}
    for name in sorted(detail["document"]["payload"]["sites"]):
        site = said.get(name, {"status": "nothing yet", "code": "", "at": ""})
        made.add_row(name, site["status"], site["code"], site["at"][:19])
    return made


def render_detail(console: Console, detail: dict[str, Any]) -> None:
    """A study at the service: the study, its hospitals, its past."""
    from gemel.cli.study_draft import render_study
    from gemel.core.study import parse_study

    render_study(console, parse_study(detail["document"]["payload"]), detail["price"])
    study = detail["study"]
    console.print(f"  state      {_state(study)} {study['code']}".rstrip(), markup=False)
    console.print(_sites_table(detail))
    past = table("State", "When", "By", "Why")
    for step in detail["history"]:
        past.add_row(step["state"], step["at"][:19], step["actor"][:8], step["reason"] or step["code"])
    console.print(past)
