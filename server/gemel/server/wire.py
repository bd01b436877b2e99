"""How requests leave and which replies are believed: signed by the site's own key, for the very request that is open."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import (
    HELLO,
    PROTOCOL,
    Envelope,
    LedgerHead,
    Reply,
    Request,
    Status,
    read_reply,
    read_request,
    sign_request,
)
from gemel.core.signing import SignedDocument, SigningKey, read_signed, signed_by
from gemel.core.software import software_versions
from gemel.core.study import Study
from gemel.server.directory import Directory
from gemel.server.transport import Transport

RESEND_S = 2.0
# A node that was killed, or a cable that was cut, at the wrong instant loses a request or its answer, and the engine does not
# see it: who is silent is asked again. Nodes give the same answer to the same request, at no cost.
SILENT_S, LONGEST_SILENT_S = 10.0, 300.0
REMEMBERED = 16  # of the requests to a site: more than a task has steps
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.05

NOTHING = Envelope(document=b"")


@dataclass(frozen=True)
class Arrival:
    """What came of an open request: a verified reply, or why there is none.

    `code` is empty for a reply that may be used; `told` is what a peer of another protocol says of itself (GEM409).
    """

    site: str
    code: str
    seconds: float
    request_sha256: str
    reply: Reply | None = None
    envelope: Envelope = NOTHING
    told: Mapping[str, Any] | None = None


@dataclass
class _Open:
    """A request that a site has not answered yet. `due`: when to send it (again); `sent`: how often it was."""

    envelope: Envelope
    request: Request
    request_sha256: str
    since: float
    due: float
    sent: int = 0
    wrong: str = ""  # the code of the last answer that was of something else


# Told of each verified reply, before it is used, and whether it answers what is open now.
Note = Callable[[Reply, bool], None]
# Told of a reply that answers no open request; true when that request was open once.
Late = Callable[[Reply, Envelope], bool]
Event = Callable[..., None]


class Wire:
    """The open requests of a run, at most one for each site.

    Only nodes that the directory names for the study's keys are sent to or believed. A duplicate finds its request
    answered; a reply of another study, task or attempt names another request: neither counts.

    Args:
        study: The study as it is signed.
        key: The coordinator's.
        transport, directory: The way to the nodes, and who they are.
        note, late: See `Note` and `Late`.
        event: Told of sites that are away and of replies that are ignored.
    """

    def __init__(
        self,
        study: Study,
        document: SignedDocument,
        *,
        key: SigningKey,
        transport: Transport,
        directory: Directory,
        note: Note,
        late: Late,
        event: Event,
        clock: Callable[[], float],
    ) -> None:
        self._study, self._study_bytes, self._key = study, document.to_bytes(), key
        self._transport, self._directory = transport, directory
        self._note, self._late, self._event, self._clock = note, late, event, clock
        self._open: dict[str, _Open] = {}
        self._site_of: dict[int, str] = {}
        self._look_again = 0.0
        self._asked: dict[str, deque[str]] = {}

    def envelope(
        self,
        task: str,
        payload: bytes = b"",
        *,
        phase: str = "",
        attempt: int = 0,
        anchors: Mapping[str, LedgerHead] | None = None,
        run: str = "",
    ) -> Envelope:
        """The signed request for a task; a hello says what this side speaks and runs, and which ledger heads it saw."""
        hello = task == HELLO
        request = Request(
            study_sha256=self._study.sha256,
            task=task,
            inputs_sha256=sha256_hex(payload),
            phase=phase,
            attempt=attempt,
            anchors=dict(anchors or {}),
            protocol=PROTOCOL if hello else 0,
            software=software_versions() if hello else {},
            run=run,
        )
        document = sign_request(request, self._key).to_bytes()
        return Envelope(document=document, study=self._study_bytes, payload=payload)

    def ask(self, site: str, envelope: Envelope) -> None:
        """Open a request; it is sent as soon as the site's node is connected. A request that was open is given up."""
        request, document = read_request(envelope.document)
        now = self._clock()
        self._asked.setdefault(site, deque(maxlen=REMEMBERED)).append(document.payload_sha256)
        self._open[site] = _Open(envelope, request, document.payload_sha256, since=now, due=now)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The sites with an open request."""
        return tuple(self._open)

    def waited_s(self, site: str) -> float:
        """For how long a site has been asked."""
        return self._clock() - self._open[site].since

    def give_up(self, site: str, *, code: str) -> Arrival:
        """Close an open request; what its site says to it later is late. `code` unless the site said something wrong."""
        gone = self._open.pop(site)
        return Arrival(site, gone.wrong or code, self._clock() - gone.since, gone.request_sha256)

    def poll(self) -> list[Arrival]:
        """Send what is due, and return what came of open requests, which are closed by it."""
        arrivals = self._send_due()
        for answer in self._transport.receive():
            site = self._site_of.get(answer.node_id)
            if site is None:
                self._event("ignored", code="GEM521")
            elif answer.envelope is None:
                self._away(site)
            else:
                arrivals += self._receive(site, answer.envelope)
        return arrivals

    def _send_due(self) -> list[Arrival]:
        """Send to each site that was not sent to, or that was away and is back. Who may not be asked is an arrival too."""
        now = self._clock()
        look = now >= self._look_again
        due = [site for site, opened in self._open.items() if look or opened.due <= now]
        if not due:
            return []
        if look:
            self._look_again = now + RESEND_S
        refused, ready = [], {}
        connected: frozenset[int] | None = None
        for site in due:
            opened, listing = self._open[site], self._directory.find(self._study.sites[site])
            if listing.code:
                refused.append(self._closed(site, code=listing.code))
                continue
            if opened.due > now:
                continue
            connected = self._transport.nodes() if connected is None else connected
            if listing.node is None or listing.node not in connected:
                opened.due = now + RESEND_S
                continue
            self._site_of[listing.node] = site
            ready[listing.node] = opened.envelope
            patience_s = min(SILENT_S * 2**opened.sent, LONGEST_SILENT_S)
            opened.due = now + (patience_s if self._transport.loses_messages else math.inf)
            opened.sent += 1
        if ready:
            self._transport.send(ready)
        return refused

    def _away(self, site: str) -> None:
        opened = self._open.get(site)
        if opened is not None and opened.sent and opened.due > self._clock() + RESEND_S:
            opened.due = self._clock() + RESEND_S
            self._event("away", task=opened.request.task, site=site)

    def _receive(self, site: str, got: Envelope) -> list[Arrival]:
        opened = self._open.get(site)
        try:
            reply = self._believe(site, got)
        except GemelError as error:
            self._event("ignored", site=site, code=error.code)
            if opened is None:
                return []
            told = _other_protocol(got, self._study.sites[site]) if error.code == "GEM409" else None
            return [self._closed(site, code=error.code, told=told)]
        if opened is None or reply.request_sha256 != opened.request_sha256:
            self._note(reply, False)
            # An answer to what was asked before is nothing wrong: who is silent is asked more than once.
            asked = reply.request_sha256 in self._asked.get(site, ())
            if not self._late(reply, got) and not asked and opened is not None:
                opened.wrong = "GEM503"
                self._event("ignored", site=site, code="GEM503")
            return []
        self._note(reply, True)
        if reply.status is Status.RELEASED and sha256_hex(got.payload) != reply.payload_sha256:
            return [self._closed(site, code="GEM503")]
        return [self._closed(site, code="", reply=reply, envelope=got)]

    def _believe(self, site: str, got: Envelope) -> Reply:
        """Verify a reply's signature and its site (GEM503), and that the federation still believes the key (GEM521-523)."""
        reply, document = read_reply(got.document)
        if reply.site != site or not signed_by(document, self._study.sites[site]):
            raise GemelError("GEM503", f"The reply is not {site}'s, signed with its key.")
        if code := self._directory.find(self._study.sites[site]).code:
            raise GemelError(code, f"{site}'s key is not believed any more.")
        return reply

    def _closed(self, site: str, *, code: str, **facts: Any) -> Arrival:
        gone = self._open.pop(site)
        return Arrival(site, code, self._clock() - gone.since, gone.request_sha256, **facts)


class Pause:
    """How long to wait before looking again: from 5 ms on, half as much more each time that nothing came, up to 50 ms."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep, self._next = sleep, SHORTEST_PAUSE_S

    def __call__(self, *, came: bool) -> None:
        """Wait."""
        self._next = SHORTEST_PAUSE_S if came else min(self._next * 1.5, LONGEST_PAUSE_S)
        self._sleep(self._next)


def _other_protocol(got: Envelope, public_key: str) -> dict[str, Any] | None:
    """What a verified reply in another protocol says of its side; its other fields are not read."""
    document = read_signed(got.document, kind="reply")
    if not signed_by(document, public_key):
        return None
    software = document.payload.get("software")
    named = software if isinstance(software, dict) else {}
    return {
        "protocol": document.payload["protocol"],
        "software": {str(name)[:64]: str(version)[:64] for name, version in list(named.items())[:16]},
    }
