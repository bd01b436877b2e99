"""The hello: which sites take part, what they run and speak, and what their ledgers say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, LedgerHead, Reply, Status
from gemel.core.study import Study
from gemel.server.anchors import Anchors
from gemel.server.directory import Directory
from gemel.server.run_state import RunState
from gemel.server.wire import Arrival, Event, Pause, Wire

ASK_AGAIN_S = 1.0
LAST_WORD_S = 10.0


class Hello:
    """Asks the sites of a study how far they are.

    Args:
        anchors: The newest ledger heads seen: who shows a shorter ledger takes no part (GEM309).
        check: Called between looks; raises to end the wait.
    """

    def __init__(
        self,
        study: Study,
        wire: Wire,
        state: RunState,
        directory: Directory,
        anchors: Anchors,
        *,
        event: Event,
        check: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._study, self._wire, self._state = study, wire, state
        self._directory, self._anchors = directory, anchors
        self._event, self._check, self._clock, self._sleep = event, check, clock, sleep
        self._asked: dict[str, Mapping[str, LedgerHead]] = {}

    def wait_for_approval(self, *, timeout_s: float, resumed: bool) -> None:
        """Say hello until every site is approved or refused, or time is up. Raises GEM501 below the quorum."""
        decided: dict[str, tuple[Status, str]] = {}
        announced: dict[str, tuple[Status, str]] = {}
        again = dict.fromkeys(self._study.sites, self._clock())
        deadline, pause = self._clock() + timeout_s, Pause(self._sleep)
        while set(decided) != set(self._study.sites) and self._clock() < deadline:
            self._check()
            self._ask(site for site, at in again.items() if site not in decided and at <= self._clock())
            arrivals = self._wire.poll()
            for arrival in arrivals:
                again[arrival.site] = self._clock() + ASK_AGAIN_S
                status, code = said = self._hear(arrival)
                if announced.get(arrival.site) != said:
                    announced[arrival.site] = said
                    self._event("site", site=arrival.site, status=str(status), code=code)
                if status is not Status.PENDING:
                    decided[arrival.site] = said
            pause(came=bool(arrivals))
        self._give_up()
        for site in self._study.sites:
            default = announced.get(site, (Status.PENDING, "GEM502" if resumed else "GEM401"))
            status, code = decided.get(site, default)
            self._state.site(site).update(status=str(status), code=code)
        approved = [site for site, (status, _) in decided.items() if status is Status.APPROVED]
        if len(approved) < self._study.quorum:
            raise GemelError("GEM501", f"{len(approved)} sites approved, {self._study.quorum} needed.")

    def hear_last_word(self, *, after: str) -> None:
        """Ask sites whose last answer was lost what they have spent: it counts all the same."""
        self._give_up()
        silent = [s for s in self._study.sites if self._state.site(s).get("reported_after") != after]
        if not after or not silent:
            return
        self._ask(silent)
        deadline, pause = self._clock() + LAST_WORD_S, Pause(self._sleep)
        while self._wire.waiting and self._clock() < deadline:
            pause(came=bool(self._wire.poll()))
        self._give_up()

    def _give_up(self) -> None:
        for site in self._wire.waiting:
            self._wire.give_up(site, code="")

    def _ask(self, sites: Iterable[str]) -> None:
        waiting = set(self._wire.waiting)
        due = [site for site in sites if site not in waiting]
        if not due:
            return
        ours = set[str]().union(*map(self._directory.keys, self._study.sites.values()))
        heads = {key: head for key, head in self._anchors.all().items() if key in ours}
        envelope = self._wire.envelope(HELLO, anchors=heads, run=self._state.data["run"])
        for site in due:
            self._asked[site] = heads
            self._wire.ask(site, envelope)

    def _hear(self, arrival: Arrival) -> tuple[Status, str]:
        """What a site says; who is too old or too new is told by its own message, and named with what it runs."""
        if arrival.told is not None:
            self._state.site(arrival.site).update(arrival.told)
        if arrival.reply is None:
            # A reply that does not verify may be a fault of the moment, an unknown key or another protocol is not.
            lasting = arrival.told is not None or arrival.code in ("GEM521", "GEM522", "GEM523")
            return (Status.REFUSED if lasting else Status.PENDING), arrival.code
        reply = arrival.reply
        if self._rolled_back(reply):
            return Status.REFUSED, "GEM309"
        return reply.status, reply.code

    def _rolled_back(self, reply: Reply) -> bool:
        """A fresh reply from a ledger that is shorter than the one seen before."""
        head = self._asked[reply.site].get(self._study.sites[reply.site])
        if head is None or reply.ledger_seq > head.seq:
            return False
        return (reply.ledger_seq, reply.ledger_head) != (head.seq, head.sha256)
