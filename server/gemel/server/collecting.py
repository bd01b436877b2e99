"""One task, asked of every site that takes part: what came, and who is missing and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemel.core.arrays import Arrays, ArraySpec, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import kind_of
from gemel.core.messages import Envelope, Reply, Status, signature_in
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.secure_aggregation import plan
from gemel.server.directory import Directory
from gemel.server.home import RunFolder
from gemel.server.masked import MaskedTask
from gemel.server.run_state import Absence, RunState, as_signed, missing_entries
from gemel.server.wire import Arrival, Pause, Wire
from gemel.synthetic.releases import declared_release


@dataclass
class Collected:
    """What one task brought. `releases` are read from the run's folder when they are needed, not held."""

    task: str
    replies: dict[str, Reply] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Absence] = field(default_factory=dict)
    seconds_of: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    total: Arrays | None = None  # of a masked task: all that is known of the releases
    attempt: int = 0
    steps: dict[str, list[str]] = field(default_factory=dict)  # of a masked task: who answered in each

    def entry(self) -> dict[str, Any]:
        """What state and certificate say of the task."""
        entry: dict[str, Any] = {
            "task": self.task,
            "contributions": [
                {
                    "site": site,
                    "inputs_sha256": self.inputs_sha256[site],
                    **as_signed(reply, self.signatures[site]),
                    "seconds": round(self.seconds_of.get(site, self.seconds), 3),
                }
                for site, reply in sorted(self.replies.items())
            ],
            "missing": missing_entries(self.missing),
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
        }
        if self.total is None:
            return entry
        return {**entry, "masked_attempt": self.attempt, "masked_steps": self.steps}


class Collector:
    """Brings in the releases of one task after the other.

    Args:
        check: Called between looks; raises to end the run.
        save: Makes the state durable.
    """

    def __init__(
        self,
        study: Study,
        programme: Programme,
        run: RunFolder,
        wire: Wire,
        state: RunState,
        directory: Directory,
        *,
        check: Callable[[], None],
        save: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._study, self._programme, self._run, self._wire = study, programme, run, wire
        self._state, self._directory, self._check, self._save = state, directory, check, save
        self._clock, self._sleep = clock, sleep
        self._specs: dict[str, dict[str, ArraySpec]] = {}

    def collect(self, task: str, inputs: Mapping[str, bytes]) -> Collected:
        """Ask the sites that take part and have inputs, until all answered, it is enough, or time is up."""
        started, absent = self._clock(), self._state.absent()
        asked = {site: inputs[site] for site in inputs if site not in absent}
        if plan.is_masked(self._study):
            collected = self._masked(task, asked, absent)
        else:
            collected = self._plain(task, asked)
        collected.missing = {**absent, **collected.missing}
        collected.seconds = self._clock() - started
        for site in list(collected.replies):
            code = self._directory.find(self._study.sites[site]).code
            if code and collected.total is None:  # revoked since it answered
                reply = collected.replies.pop(site)
                collected.missing[site] = Absence(code, collected.seconds_of[site], reply.request_sha256)
        for line in missing_entries(collected.missing):
            self._run.event("missing", task=task, **line)
        return collected

    def _declared(self, task: str) -> dict[str, ArraySpec]:
        """What a site may release for a task; the same for all of its kind."""
        kind = kind_of(task)
        if kind not in self._specs:
            self._specs[kind] = declared_release(task, self._programme, study=self._study)
        return self._specs[kind]

    def enough(self, task: str) -> int:
        """With how many releases a task closes before all sites answered."""
        enough = self._study.pace.enough
        return enough if enough and task.startswith(("train/", "validate/")) else len(self._study.sites)

    def _plain(self, task: str, inputs: Mapping[str, bytes]) -> Collected:
        result = Collected(task)
        declared = self._declared(task)
        made = {content: self._wire.envelope(task, content) for content in set(inputs.values())}
        asked = {site: made[content] for site, content in inputs.items()}
        hashes = {site: sha256_hex(content) for site, content in inputs.items()}

        def take(arrival: Arrival, reply: Reply) -> None:
            got = arrival.envelope
            unpack_arrays(got.payload, declared)  # checked here, read again when all are there
            self._run.save_release(task, reply.site, got)
            result.replies[reply.site] = reply
            result.signatures[reply.site] = signature_in(got.document)
            result.inputs_sha256[reply.site] = hashes[reply.site]
            result.seconds_of[reply.site] = arrival.seconds
            size = len(got.payload) + len(got.document)
            result.bytes += size
            self._run.event("release", task=task, site=reply.site, bytes=size, epsilon=reply.epsilon_spent)

        limit = self.enough(task)
        result.missing = self._exchange(
            asked, take, lambda: limit < len(asked) and len(result.replies) >= limit
        )
        return result

    def _masked(self, task: str, inputs: Mapping[str, bytes], absent: Mapping[str, Absence]) -> Collected:
        """Bring the sites' releases to a sum, of which alone the coordinator learns."""
        masked = MaskedTask(
            self._run,
            self._study,
            task,
            self._declared(task),
            inputs=next(iter(inputs.values()), b""),
            enough=self.enough(task),
            state=self._state.data,
            save=self._save,
        )
        try:
            total = masked.collect(
                list(inputs),
                exchange=lambda asked, take, enough: self._exchange(
                    asked, lambda arrival, reply: take(reply.site, reply, arrival.envelope), enough
                ),
                address=lambda step, attempt, payload: self._wire.envelope(
                    task, payload, phase=step.name.lower(), attempt=attempt
                ),
            )
        except GemelError:
            self._state.data["stopped_in"] = Collected(task, missing={**absent, **masked.missing}).entry()
            raise
        return Collected(
            task,
            replies=total.replies,
            signatures=total.signatures,
            inputs_sha256=total.inputs_sha256,
            missing=dict(total.missing),
            total=total.arrays,
            attempt=total.attempt,
            steps=total.steps,
            bytes=total.bytes,
        )

    def _exchange(
        self,
        asked: Mapping[str, Envelope],
        take: Callable[[Arrival, Reply], None],
        enough: Callable[[], bool],
    ) -> dict[str, Absence]:
        """Ask sites, and take what they release, until all answered, it is enough, or time is up; who is missing."""
        for site, envelope in asked.items():
            self._wire.ask(site, envelope)
        missing: dict[str, Absence] = {}
        deadline, pause = self._clock() + self._study.round_timeout_s, Pause(self._sleep)
        while self._wire.waiting and self._clock() < deadline and not enough():
            self._check()
            arrivals = self._wire.poll()
            for arrival in arrivals:
                try:
                    take(arrival, released(arrival))
                except GemelError as error:
                    missing[arrival.site] = Absence(error.code, arrival.seconds, arrival.request_sha256)
            if self._wire.waiting:
                pause(came=bool(arrivals))
        code = "GEM511" if enough() else "GEM502"
        for site in self._wire.waiting:
            gone = self._wire.give_up(site, code=code)
            missing[site] = Absence(gone.code, gone.seconds, gone.request_sha256)
        return missing


def released(arrival: Arrival) -> Reply:
    """The reply that brings a release; a refusal, or one that is not believed, raises with its code."""
    if arrival.reply is None:
        raise GemelError(arrival.code, f"{arrival.site} sent nothing that can be used.")
    if arrival.reply.status is not Status.RELEASED:
        raise GemelError(arrival.reply.code or "GEM406", f"{arrival.site} did not release.")
    return arrival.reply
