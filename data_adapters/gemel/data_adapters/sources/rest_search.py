"""FHIR REST search, page by page, into a folder of NDJSON files such as a Bulk export gives.

A search that is broken off is begun again from its first page: pages of a live server cannot be continued safely.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.bundles import Unpacked
from gemel.data_adapters.sources.fetched import Fetched, prepare_folder, write_private
from gemel.data_adapters.sources.fhir_server import FhirServer, outcome_text
from gemel.data_adapters.sources.files import MANIFEST_NAME, UNFINISHED_NAME
from gemel.data_adapters.sources.settings import SourceSettings

_MAX_PAGES = 100_000


class _Link(msgspec.Struct):
    relation: str = ""
    url: str = ""


class _Search(msgspec.Struct):
    mode: str = "match"


class _Entry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw(b"")
    search: _Search | None = None


class _Page(msgspec.Struct):
    resourceType: str
    total: int | None = None
    link: list[_Link] = []
    entry: list[_Entry] = []


class _Type(msgspec.Struct):
    resourceType: str = ""


def search(settings: SourceSettings, folder: Path, server: FhirServer) -> Fetched:
    """Run the searches of the settings (or one of each type) into a new folder, or one where this was broken off.

    Raises:
        GemelError: GEM223 to GEM228.
    """
    queries = settings.searches or settings.types
    if not queries:
        raise GemelError("GEM228", "A search needs types, or queries.")
    request = msgspec.json.encode(
        {"base_url": settings.base_url, "searches": queries, "since": settings.since}
    )
    state = prepare_folder(folder)
    if state is not None and state.read_bytes() != request:
        raise GemelError("GEM228", f"{folder} holds the beginning of another export: name a new folder.")
    write_private(folder / UNFINISHED_NAME, request)
    lines: Counter[str] = Counter()
    notes: list[str] = []
    began, record = None, []
    for number, query in enumerate(queries):
        kind, _, text = query.partition("?")
        path = folder / f"{kind}.{number:03}.ndjson"
        counts, began_now = _run(kind, text, path, settings, server, notes)
        began = began or began_now
        lines.update(counts)
        record.append({"type": kind, "search": text, "file": path.name, "lines": counts.total()})
    manifest: dict[str, Any] = {"request": settings.base_url, "transactionTime": began, "output": record}
    write_private(folder / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    (folder / UNFINISHED_NAME).unlink()
    return Fetched(folder, began, dict(sorted(lines.items())), notes=tuple(notes))


def _run(
    kind: str, text: str, path: Path, settings: SourceSettings, server: FhirServer, notes: list[str]
) -> tuple[Counter[str], str | None]:
    """One search into one file: resources by type, and the server's time at its first page."""
    query = [*parse_qsl(text, keep_blank_values=True)]
    if not any(name == "_count" for name, _ in query):
        query.append(("_count", str(settings.page_size)))
    if settings.since is not None:
        query.append(("_lastUpdated", f"ge{settings.since}"))
    url: str | None = f"{server.base_url}/{kind}?{urlencode(query)}"
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    began, total, matches = None, None, 0
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        while url is not None:
            if url in seen or len(seen) >= _MAX_PAGES:
                raise GemelError("GEM225", f"The pages of {kind} have no end.")
            seen.add(url)
            answer = server.get(url, headers={"Accept": "application/fhir+json"})
            page = _page(kind, answer.status, answer.body)
            if began is None:
                began, total = _instant(answer.headers.get("date", "")), page.total
            found = Unpacked()
            matches += _take(kind, page, found)
            for line in found.lines:
                file.write(line + b"\n")
                counts[msgspec.json.decode(line, type=_Type).resourceType] += 1
            url = next((server.own(link.url) for link in page.link if link.relation == "next"), None)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    if total is not None and total != matches:
        notes.append(f"{kind}: the server said {total} at first and gave {matches}")
    return counts, began


def _page(kind: str, status: int, body: bytes) -> _Page:
    if status != 200:
        raise GemelError(
            "GEM225", f"The search of {kind} answers {status} {outcome_text(body)}".strip() + "."
        )
    try:
        page = msgspec.json.decode(body, type=_Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM225", f"A page of {kind} is malformed: {error}.") from error
    if page.resourceType != "Bundle":
        raise GemelError("GEM225", f"A page of {kind} is no Bundle but {page.resourceType[:60]}.")
    return page


def _take(kind: str, page: _Page, into: Unpacked) -> int:
    """Add the page's resources; how many of them match (the others were included). Raises GEM225 for an outcome."""
    matches = 0
    for number, entry in enumerate(page.entry):
        mode = entry.search.mode if entry.search is not None else "match"
        if not bytes(entry.resource):
            raise GemelError("GEM225", f"A page of {kind} has an entry without a resource.")
        content = msgspec.json.format(bytes(entry.resource), indent=-1)
        if mode == "outcome":
            said = outcome_text(content)
            if '"error"' in content.decode("utf-8", "replace") or '"fatal"' in content.decode(
                "utf-8", "replace"
            ):
                raise GemelError("GEM225", f"The search of {kind} reports: {said}.")
            continue
        matches += mode == "match"
        into.add(content, f"entry[{number}]")
    return matches


def _instant(date: str) -> str | None:
    """An HTTP date as a FHIR instant."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, TypeError):
        return None
