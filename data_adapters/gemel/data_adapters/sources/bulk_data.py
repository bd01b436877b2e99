"""Bulk Data Access: `$export` of a FHIR server into a folder of NDJSON files, resumed where it was broken off.

Source: HL7 FHIR Bulk Data Access 2.0, "Export". Names that the server gives are never used as paths; a file stands under
its name only when all of it is on disk and its lines are as many as the manifest says.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.download import ExpiredError, download
from gemel.data_adapters.sources.fetched import Fetched, prepare_folder, write_private
from gemel.data_adapters.sources.fhir_server import FhirServer, outcome_text
from gemel.data_adapters.sources.files import DELETED_FOLDER, ERROR_FOLDER, MANIFEST_NAME, UNFINISHED_NAME
from gemel.data_adapters.sources.settings import SourceSettings

_TYPE = re.compile(r"[A-Za-z]{1,64}")
_MAX_PAGES = 10_000
_GONE = (404, 410)


class Item(msgspec.Struct):
    """One file of a manifest."""

    url: str
    type: str = "OperationOutcome"
    count: int | None = None


class Link(msgspec.Struct):
    """A link of a manifest."""

    relation: str
    url: str


class Manifest(msgspec.Struct):
    """What an export consists of, as the server says."""

    transactionTime: str
    requiresAccessToken: bool = True
    output: list[Item] = []
    deleted: list[Item] = []
    error: list[Item] = []
    link: list[Link] = []


class _State(msgspec.Struct):
    """What must be known to go on after a stop; `request` is the kick-off, so that two exports never mix."""

    request: str
    status_url: str | None = None
    manifest: Manifest | None = None


class Issue(msgspec.Struct):
    """An issue of an OperationOutcome."""

    severity: str = "unknown"
    code: str = "unknown"


class _Outcome(msgspec.Struct):
    issue: list[Issue] = []


def kick_off_url(settings: SourceSettings) -> str:
    """The address that starts the export."""
    where = {
        "system": "$export",
        "Patient": "Patient/$export",
        "Group": f"Group/{settings.group}/$export",
    }[settings.level]
    query: list[tuple[str, str]] = []
    if settings.types:
        query.append(("_type", ",".join(settings.types)))
    if settings.since is not None:
        query.append(("_since", settings.since))
    query.extend(("_typeFilter", text) for text in settings.type_filters)
    return f"{settings.base_url.rstrip('/')}/{where}" + (f"?{urlencode(query)}" if query else "")


def export(settings: SourceSettings, folder: Path, server: FhirServer) -> Fetched:
    """Export into a folder: a new one, or one in which an export with the same settings was broken off.

    An export that expired meanwhile is started once more, from nothing.

    Raises:
        GemelError: GEM223 to GEM229.
    """
    request = kick_off_url(settings)
    path = folder / UNFINISHED_NAME
    state = _load(path, request) if prepare_folder(folder) is not None else _State(request)
    write_private(path, msgspec.json.encode(state))
    for once_more in (True, False):
        try:
            return _finish(state, folder, server)
        except ExpiredError as error:
            if not once_more:
                raise GemelError("GEM229", f"{error}, also after a new start.") from error
            server.say(f"The server no longer holds the export ({error}). A new one is started from nothing.")
            _clear(folder)
            state = _State(request)
            write_private(path, msgspec.json.encode(state))
    raise AssertionError("unreachable")


def _finish(state: _State, folder: Path, server: FhirServer) -> Fetched:
    path = folder / UNFINISHED_NAME
    if state.status_url is None:
        state.status_url = _kick_off(state.request, server)
        write_private(path, msgspec.json.encode(state))
    if state.manifest is None:
        state.manifest = _poll(state.status_url, server)
        write_private(path, msgspec.json.encode(state))
    fetched, record = _download_all(state.manifest, folder, server)
    record = {"request": state.request, **record}
    write_private(folder / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(record), indent=1))
    path.unlink()
    server.delete(state.status_url)
    return fetched


def _load(path: Path, request: str) -> _State:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError(
            "GEM228", f"The state of the export in {path.parent} cannot be read: {error}."
        ) from error
    if state.request != request:
        raise GemelError(
            "GEM228",
            f"{path.parent} holds the beginning of another export ({state.request}): name a new folder, or ask for the same.",
        )
    return state


def _clear(folder: Path) -> None:
    """Take away what an expired export left: files of two exports must not mix."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _kick_off(request: str, server: FhirServer) -> str:
    headers = {"Accept": "application/fhir+json", "Prefer": "respond-async"}
    answer = server.get(request, headers=headers)
    where = answer.headers.get("content-location")
    if answer.status != 202 or not where:
        said = outcome_text(answer.body)
        raise GemelError(
            "GEM225",
            f"{request} answers {answer.status}{f': {said}' if said else ''}, and not 202 with a Content-Location.",
        )
    server.say("The server accepted the export.")
    return server.own(where)


def _poll(status_url: str, server: FhirServer) -> Manifest:
    """Ask until the export is there."""
    patience = server.patience
    end = patience.now() + patience.total_s
    attempt, shown = 0, ""
    while True:
        answer = server.get(status_url, headers={"Accept": "application/json"})
        if answer.status == 200:
            return _whole_manifest(answer.body, server)
        if answer.status in _GONE:
            raise ExpiredError(f"its status address answers {answer.status}")
        if answer.status != 202:
            raise GemelError(
                "GEM225",
                f"The export failed: status {answer.status} {outcome_text(answer.body)}".strip() + ".",
            )
        if patience.now() >= end:
            raise GemelError("GEM223", f"The export was not ready after {patience.total_s:.0f} seconds.")
        progress = "".join(c for c in answer.headers.get("x-progress", "")[:100] if c.isprintable())
        if progress and progress != shown:
            server.say(f"The server says: {progress}")
            shown = progress
        patience.wait(attempt, answer.headers.get("retry-after"))
        attempt += 1


def _whole_manifest(body: bytes, server: FhirServer) -> Manifest:
    """The manifest with its further pages, each file's type fit for a name and its address fit to be asked."""
    manifest = _manifest(body)
    seen: set[str] = set()
    page = manifest
    while following := [link.url for link in page.link if link.relation == "next"]:
        url = server.own(following[0])
        if url in seen or len(seen) >= _MAX_PAGES:
            raise GemelError("GEM225", "The pages of the manifest have no end.")
        seen.add(url)
        page = _manifest(server.get(url, headers={"Accept": "application/json"}).body)
        manifest.output += page.output
        manifest.deleted += page.deleted
        manifest.error += page.error
    for item in (*manifest.output, *manifest.deleted, *manifest.error):
        if not _TYPE.fullmatch(item.type):
            raise GemelError("GEM225", "The manifest names a file of something that is no resource type.")
        if manifest.requiresAccessToken:
            server.own(item.url)
    return manifest


def _manifest(body: bytes) -> Manifest:
    try:
        return msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM225", f"The manifest of the export is malformed: {error}.") from error


def _download_all(manifest: Manifest, folder: Path, server: FhirServer) -> tuple[Fetched, dict[str, Any]]:
    """Fetch what is not there yet; also what manifest.json will say."""
    lines: Counter[str] = Counter()
    notes: list[str] = []
    record: dict[str, Any] = {"transactionTime": manifest.transactionTime}

    def fetch_all(items: list[Item], part: str, on_file: Callable[[Item, Path, int], None]) -> None:
        numbers: Counter[str] = Counter()
        target = folder / part if part else folder
        if items:
            target.mkdir(exist_ok=True)
        said = []
        for item in items:
            path = target / f"{item.type}.{numbers[item.type]:03}.ndjson"
            numbers[item.type] += 1
            # Only of resources is it clear what `count` counts.
            expected = item.count if not part else None
            size, count = download(
                item.url,
                path,
                server=server,
                with_token=manifest.requiresAccessToken,
                expected_lines=expected,
            )
            on_file(item, path, count)
            if not part and item.count is None:
                notes.append(f"{path.name}: the server gives no count to check it against")
            said.append(
                {
                    "type": item.type,
                    "url": item.url.partition("?")[0],
                    "count": item.count,
                    "file": str(path.relative_to(folder)),
                    "bytes": size,
                    "lines": count,
                }
            )
        record[part or "output"] = said

    fetch_all(manifest.output, "", lambda item, _, count: lines.update({item.type: count}))
    fetch_all(manifest.deleted, DELETED_FOLDER, lambda *_: None)
    problems: Counter[str] = Counter()
    fetch_all(manifest.error, ERROR_FOLDER, lambda _, path, __: problems.update(_issues(path)))
    fetched = Fetched(
        folder,
        manifest.transactionTime,
        dict(sorted(lines.items())),
        deleted_files=len(manifest.deleted),
        problems=dict(sorted(problems.items())),
        notes=tuple(notes),
    )
    return fetched, record


def _issues(path: Path) -> Counter[str]:
    """Issues of the OperationOutcomes in a file, by severity and code; their texts stay in the file."""
    found: Counter[str] = Counter()
    with path.open("rb") as file:
        for line in file:
            if line.isspace():
                continue
            try:
                issues = msgspec.json.decode(line, type=_Outcome).issue
            except (msgspec.DecodeError, UnicodeDecodeError):
                issues = []
            found.update(f"{issue.severity} {issue.code}"[:80] for issue in issues or [Issue()])
    return found
