"""Rounds of hospitals on different clocks: each trains at its own pace, the twin moves when enough updates are there.

FedBuff (Nguyen et al., AISTATS 2022). Nobody waits for a slow hospital; its update counts less by how often the twin moved
meanwhile. Each hospital still does each of its rounds at most once, so it pays what the study says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from gemel.core.arrays import unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import Reply, signature_in
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.server.collecting import released
from gemel.server.directory import Directory
from gemel.server.global_twin import GlobalTwin
from gemel.server.home import RunFolder
from gemel.server.outcomes import Outcomes
from gemel.server.run_state import Absence, RunState, as_signed, missing_entries
from gemel.server.strategy import Update
from gemel.server.wire import Arrival, Pause, Wire
from gemel.synthetic.releases import declared_release

_KEY = "asynchronous"


class OwnPace:
    """All rounds of a study whose `pace.buffer` is set.

    The run's state holds which version each site was asked to train from, what came in which order, and which updates each
    version was made of: a run that is started again asks the same and makes the same twins.
    """

    def __init__(
        self,
        study: Study,
        programme: Programme,
        run: RunFolder,
        wire: Wire,
        state: RunState,
        directory: Directory,
        outcomes: Outcomes,
        twin: GlobalTwin,
        *,
        check: Callable[[], None],
        save: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._study, self._run, self._wire, self._state = study, run, wire, state
        self._directory, self._outcomes, self._twin = directory, outcomes, twin
        self._check, self._save, self._clock, self._sleep = check, save, clock, sleep
        self._declared = declared_release("train/1", programme, study=study)
        self._ended: dict[str, Absence] = state.absent()  # who takes no further part, and why
        fresh = {"asked": {}, "arrived": [], "buffer": [], "versions": [], "unused": [], "bytes": 0}
        self._data: dict[str, Any] = state.data.setdefault(_KEY, fresh)
        self._done = Counter(line["site"] for line in self._data["arrived"])

    def run(self) -> list[dict[str, Any]]:
        """Train until every site did its rounds or was given up; returns the entries of the rounds.

        Raises GEM501 when fewer sites than the quorum are in the twin, GEM514 when hospitals know more than this folder.
        """
        started, pause = self._clock(), Pause(self._sleep)
        self._move_if_full()
        while True:
            self._check()
            for site in self._study.sites:
                self._ask(site)
            if self._over():
                break
            arrivals = self._wire.poll()
            for arrival in arrivals:
                self._take(arrival)
            pause(came=bool(arrivals))
        for site in self._wire.waiting:
            gone = self._wire.give_up(site, code="GEM502")
            self._ended[site] = Absence(gone.code, gone.seconds, gone.request_sha256)
        entries = self._entries(seconds=self._clock() - started)
        contributed = {
            part["site"] for version in self._data["versions"] for part in version["contributions"]
        }
        if len(contributed) < self._study.quorum:
            self._state.data["stopped_in"] = entries[-1]
            elsewhere = [site for site, absence in self._ended.items() if absence.code == "GEM304"]
            if len(contributed) + len(elsewhere) >= self._study.quorum:
                raise GemelError("GEM514", f"{len(elsewhere)} sites released rounds for other inputs.")
            raise GemelError("GEM501", f"{len(contributed)} of {self._study.quorum} sites are in the twin.")
        return entries

    def _next_round(self, site: str) -> int:
        return 1 + self._done[site]

    def _over(self) -> bool:
        """True when nobody is left who could still answer in time."""
        timeout_s = self._study.round_timeout_s
        return all(self._wire.waited_s(site) >= timeout_s for site in self._wire.waiting)

    def _ask(self, site: str) -> None:
        """Have a site that is free train its next round, from the newest version; the same as before after a crash."""
        if site in self._wire.waiting or site in self._ended:
            return
        number = self._next_round(site)
        if number > self._study.training.rounds:
            return
        task = f"train/{number}"
        asked = self._data["asked"].get(site)
        if asked is None or asked["task"] != task:
            asked = {"task": task, "version": self._twin.version}
        payload = self._twin.packed_at(asked["version"], site)
        envelope = self._wire.envelope(task, payload)
        self._data["asked"][site] = {**asked, "inputs_sha256": sha256_hex(payload)}
        self._wire.ask(site, envelope)
        self._run.event("task", task=task, site=site, version=asked["version"])

    def _take(self, arrival: Arrival) -> None:
        """Keep an update, durably, and move the twin when it fills the buffer. Who refuses takes no further part."""
        site = arrival.site
        asked = self._data["asked"][site]
        try:
            reply = released(arrival)
            unpack_arrays(arrival.envelope.payload, self._declared)
        except GemelError as error:
            self._ended[site] = Absence(error.code, arrival.seconds, arrival.request_sha256)
            self._run.event("missing", task=asked["task"], site=site, code=error.code)
            return
        self._run.save_release(asked["task"], site, arrival.envelope)
        self._data["arrived"].append(self._line(arrival, reply, asked))
        self._done[site] += 1
        self._data["buffer"].append({"site": site, "task": asked["task"], "started_from": asked["version"]})
        size = len(arrival.envelope.payload) + len(arrival.envelope.document)
        self._data["bytes"] += size
        self._save()
        self._run.event("release", task=asked["task"], site=site, bytes=size, epsilon=reply.epsilon_spent)
        self._move_if_full()

    def _move_if_full(self) -> None:
        buffer = self._data["buffer"]
        for part in list(buffer):
            if self._directory.find(self._study.sites[part["site"]]).code:  # revoked since it answered
                buffer.remove(part)
                self._unused(part)
        if len(buffer) < self._study.pace.buffer:
            return
        version = self._twin.version
        parts = [{**part, "staleness": version - part["started_from"]} for part in buffer]
        facts = self._twin.move([self._update(part) for part in parts])
        self._data["versions"].append({**facts, "contributions": parts})
        self._data["buffer"] = []
        self._save()
        open_now = [
            asked["version"]
            for site, asked in self._data["asked"].items()
            if asked["task"] == f"train/{self._next_round(site)}"
        ]
        in_use = [*open_now, *(part["started_from"] for part in self._data["buffer"])]
        self._twin.forget(before=min([*in_use, self._twin.version]))
        self._run.event("moved", version=facts["version"], contributions=parts)

    def _update(self, part: dict[str, Any]) -> Update:
        return Update(
            site=f"{part['site']}/{part['task']}",  # a fast site may be there twice
            arrays=self._run.map_release(part["task"], part["site"]),
            weight=self._outcomes.weight(part["site"]),
            started_from=self._twin.load(part["started_from"]),
            staleness=part["staleness"],
        )

    def _unused(self, part: dict[str, Any]) -> None:
        staleness = self._twin.version - part["started_from"]
        self._data["unused"].append({**part, "staleness": staleness})

    def _line(self, arrival: Arrival, reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "site": arrival.site,
            "task": asked["task"],
            "inputs_sha256": asked["inputs_sha256"],
            **as_signed(reply, signature_in(arrival.envelope.document)),
            "seconds": round(arrival.seconds, 3),
        }

    def _entries(self, *, seconds: float) -> list[dict[str, Any]]:
        """One entry for each round; the last also says of which updates each version was made, and which were left over."""
        entries: list[dict[str, Any]] = []
        for number in range(1, self._study.training.rounds + 1):
            task = f"train/{number}"
            came = {line["site"]: line for line in self._data["arrived"] if line["task"] == task}
            missing = {site: self._absence(site, number) for site in self._study.sites if site not in came}
            lines = [{k: v for k, v in came[site].items() if k != "task"} for site in sorted(came)]
            entries.append({"task": task, "contributions": lines, "missing": missing_entries(missing)})
        left_over = [
            {**part, "staleness": self._twin.version - part["started_from"]} for part in self._data["buffer"]
        ]
        entries[-1].update(
            versions=self._data["versions"],
            unused=[*self._data["unused"], *left_over],
            seconds=round(seconds, 3),
            bytes=self._data["bytes"],
        )
        return entries

    def _absence(self, site: str, number: int) -> Absence:
        """Why a site is missing from a round: what it was asked belongs to the first that it missed."""
        absence = self._ended[site]
        return absence if number == self._next_round(site) else Absence(absence.code)
