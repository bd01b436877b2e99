"""One file of an export, fetched so that a broken line costs no more than what was in flight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.fhir_server import FhirServer, outcome_text

if TYPE_CHECKING:
    import httpx

_CHUNK_BYTES = 1 << 20
_COUNT_ATTEMPTS = 3
_GONE = (404, 410)


class ExpiredError(Exception):
    """The server no longer holds an export or a file of it."""


def download(
    url: str, path: Path, *, server: FhirServer, with_token: bool, expected_lines: int | None
) -> tuple[int, int]:
    """Fetch a file under its name, and give (bytes, lines); one that is there already is only counted.

    It grows under NAME.part. When the server offers ranges, that is continued; else it is begun again.

    Raises:
        ExpiredError: When the file is gone.
        GemelError: GEM223 when the transfer keeps breaking off, GEM226 when it is never complete; as the server's.
    """
    import httpx

    if path.exists():
        return path.stat().st_size, count_lines(path)[0]
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".tag")
    why = ""
    short = 0
    for attempt in range(server.patience.attempts):
        try:
            _transfer(url, part, tag, server=server, with_token=with_token)
        except (httpx.TransportError, httpx.DecodingError) as error:
            why = f"{type(error).__name__}: {error}"
            server.patience.wait(attempt)
            continue
        lines, whole = count_lines(part)
        size = part.stat().st_size
        tag.unlink(missing_ok=True)
        if whole and expected_lines in (None, lines):
            # Not made durable one by one: after a crash, a file whose name was lost is fetched again.
            os.replace(part, path)
            return size, lines
        part.unlink()
        why = f"{lines} lines{'' if whole else ', the last one cut'}; the server counts {expected_lines}"
        short += 1
        if short == _COUNT_ATTEMPTS:
            raise GemelError("GEM226", f"{path.name} has {why}.")
    raise GemelError("GEM223", f"{path.name} could not be fetched: {why}.")


def _transfer(url: str, part: Path, tag: Path, *, server: FhirServer, with_token: bool) -> None:
    import httpx

    headers = {"Accept": "application/fhir+ndjson"}
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    if have:
        # Ranges are of the bytes as sent: of a compressed body they could not be joined.
        headers |= {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        if mark := tag.read_text("ascii"):
            headers["If-Range"] = mark
    target = server.own(url) if with_token else url
    with server.stream(target, headers=headers, with_token=with_token) as response:
        if response.status_code in _GONE:
            raise ExpiredError(f"a file of it answers {response.status_code}")
        continued = response.status_code == 206 and response.headers.get("content-range", "").startswith(
            f"bytes {have}-"
        )
        if response.status_code == 416 or (response.status_code == 206 and not continued):
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            raise httpx.ReadError("the server does not continue the file; it is begun again")
        if response.status_code not in (200, 206):
            response.read()
            raise GemelError(
                "GEM225",
                f"A file of the export answers {response.status_code} {outcome_text(response.content)}".strip()
                + ".",
            )
        _remember(response, tag, continued=continued)
        descriptor = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if continued else os.O_TRUNC), 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            try:
                for data in response.iter_bytes():
                    file.write(data)
            finally:
                # What came before a break is continued, also after a crash.
                file.flush()
                os.fsync(file.fileno())


def _remember(response: httpx.Response, tag: Path, *, continued: bool) -> None:
    """Note beside the part whether it can be continued, and by which mark the server knows that version."""
    if continued:
        return
    plain = response.headers.get("content-encoding", "identity") == "identity"
    if not plain or response.headers.get("accept-ranges", "").lower() != "bytes":
        tag.unlink(missing_ok=True)
        return
    mark = response.headers.get("etag", "")
    if not mark.startswith('"'):
        mark = response.headers.get("last-modified", "")
    tag.write_text(mark if mark.isascii() else "", "ascii")


def count_lines(path: Path) -> tuple[int, bool]:
    """The lines that are not blank, and whether the last is whole: ended by LF or a brace. Lines of any length."""
    count, blank, last = 0, True, b"\n"
    with path.open("rb") as file:
        while piece := file.readline(_CHUNK_BYTES):
            if blank and not piece.isspace():
                count += 1
                blank = False
            last = piece
            if piece.endswith(b"\n"):
                blank = True
    return count, blank or last.rstrip().endswith(b"}")
