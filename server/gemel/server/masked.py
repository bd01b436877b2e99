"""The coordinator's part in a masked task: five steps, each kept before the next is asked, attempt after attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, Reply, read_reply, signature_in
from gemel.core.study import Study
from gemel.privacy.secure_aggregation import Collector, encoding, plan
from gemel.privacy.secure_aggregation.collector import Step
from gemel.privacy.secure_aggregation.wire import pack_parts, unpack_parts
from gemel.server.home import RunFolder
from gemel.server.run_state import Absence

MOST_ATTEMPTS = 3

Take = Callable[[str, Reply, Envelope], None]
# Asks each site its envelope; calls `take` for each verified answer, which may refuse it; stops early once `enough`.
# Returns why the others are missing.
Exchange = Callable[[Mapping[str, Envelope], Take, Callable[[], bool]], dict[str, Absence]]
# (step, attempt, payload) -> the signed request.
Address = Callable[[Step, int, bytes], Envelope]


@dataclass
class MaskedSum:
    """What a masked task brought: the sum, who is in it, why the others are not."""

    arrays: Arrays = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Absence] = field(default_factory=dict)
    steps: dict[str, list[str]] = field(default_factory=dict)  # who answered in each
    attempt: int = 0
    bytes: int = 0


class MaskedTask:
    """One task whose releases only add up.

    A coordinator that was killed takes the answers that it kept, and asks the same again: nodes answer with the same
    bytes. A new attempt begins only while no node was asked to unmask.

    Args:
        run: Where answers are kept.
        study, task, declared: What is aggregated.
        inputs: The task's inputs, packed.
        enough: With how many masked vectors the others are left out; never fewer than it takes to unmask.
        state: The run's state; `masked` in it says which steps of which attempt are closed.
        save: Makes the state durable.
    """

    def __init__(
        self,
        run: RunFolder,
        study: Study,
        task: str,
        declared: dict[str, ArraySpec],
        *,
        inputs: bytes,
        enough: int,
        state: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        self._run, self._study, self._task, self._declared = run, study, task, declared
        self._inputs, self._state, self._save = inputs, state, save
        self._enough = enough
        self.missing: dict[str, Absence] = {}  # of the last attempt, until an input came
        if state.get("masked", {}).get("task") != task:
            self._begin(attempt=1)

    def collect(self, sites: list[str], *, exchange: Exchange, address: Address) -> MaskedSum:
        """Drive the task to its sum. Raises GEM322 when too few nodes are left in every attempt."""
        while True:
            attempt = int(self._state["masked"]["attempt"])
            try:
                return self._attempt(attempt, sites, exchange, address)
            except GemelError as error:
                unmasking = _name(Step.CONFIRM) in self._state["masked"]["closed"]
                if error.code != "GEM322" or unmasking or attempt % MOST_ATTEMPTS == 0:
                    if not unmasking:
                        self._begin(attempt=attempt + 1)  # for a run that is started again
                    raise
                self._run.event("masked_again", task=self._task, attempt=attempt + 1, code=error.code)
                self._begin(attempt=attempt + 1)

    def _begin(self, *, attempt: int) -> None:
        self._state["masked"] = {"task": self._task, "attempt": attempt, "closed": {}}
        self._save()

    def _attempt(self, attempt: int, sites: list[str], exchange: Exchange, address: Address) -> MaskedSum:
        context = plan.context_of(self._study, self._task, self._declared, attempt=attempt)
        self.missing = {}
        collector = Collector(context, inputs_sha256=sha256_hex(self._inputs))
        result = MaskedSum(missing=self.missing, attempt=attempt)
        asked: dict[str, bytes] = dict.fromkeys(sites, b"")
        for step in Step:
            take = self._taker(collector, step, attempt, result)
            closed: list[str] | None = self._state["masked"]["closed"].get(_name(step))
            if closed is None:
                envelopes = {site: address(step, attempt, content) for site, content in asked.items()}
                enough = self._when(collector, step, result, asked=len(asked))
                missing = exchange(envelopes, take, enough)
                if step <= Step.MASK:
                    self.missing.update(missing)
                closed = sorted(set(asked) - set(missing))
            else:
                for site in closed:
                    self._take_kept(collector, step, attempt, site, result)
            result.steps[_name(step)] = closed
            if step is Step.MASK:
                result.inputs_sha256 = {site: sha256_hex(asked[site]) for site in closed}
            if step is Step.UNMASK:
                break
            asked = self._close(collector, step, closed)
            self._state["masked"]["closed"][_name(step)] = closed
            self._save()
        layout = plan.layout_of(self._declared, sites=len(self._study.sites))
        result.arrays = layout.decode(collector.result())
        return result

    def _when(self, collector: Collector, step: Step, result: MaskedSum, *, asked: int) -> Callable[[], bool]:
        """When a step may close before all have answered."""
        if step is Step.UNMASK:
            return lambda: collector.complete
        limit = max(self._enough, collector.context.least_survivors)
        if step is Step.MASK and limit < asked:
            return lambda: len(result.replies) >= limit
        return lambda: False

    def _taker(self, collector: Collector, step: Step, attempt: int, result: MaskedSum) -> Take:
        def take(site: str, reply: Reply, got: Envelope) -> None:
            _take(collector, step, site, got.payload)
            self._run.save_release(self._folder(step, attempt), site, got)
            _note(result, step, site, reply, got)

        return take

    def _take_kept(
        self, collector: Collector, step: Step, attempt: int, site: str, result: MaskedSum
    ) -> None:
        got = self._run.load_envelope(self._folder(step, attempt), site)
        _take(collector, step, site, got.payload)
        _note(result, step, site, read_reply(got.document)[0], got)

    def _close(self, collector: Collector, step: Step, closed: list[str]) -> dict[str, bytes]:
        """What to ask in the next step, of whom."""
        if step is Step.SHARE:
            return {
                site: pack_parts(content, self._inputs) for site, content in collector.close_shares().items()
            }
        close = {
            Step.ADVERTISE: collector.close_advertisements,
            Step.MASK: collector.close_masked,
            Step.CONFIRM: collector.close_confirmations,
        }[step]
        return dict.fromkeys(closed, close())

    def _folder(self, step: Step, attempt: int) -> str:
        return f"{self._task}/attempt-{attempt}/{_name(step)}"


def made_again(
    run: RunFolder,
    study: Study,
    task: str,
    declared: dict[str, ArraySpec],
    *,
    inputs: bytes,
    attempt: int,
    steps: Mapping[str, Sequence[str]],
) -> MaskedSum:
    """The sum of a closed task once more, from the answers that the run kept. Raises GEM320 to GEM322 when they do not give one."""

    def never(*_anything: object, **_named: object) -> Any:
        raise GemelError("GEM322", f"{task}: an answer is missing.")

    closed = {step: list(sites) for step, sites in steps.items()}
    state = {"masked": {"task": task, "attempt": attempt, "closed": closed}}
    replay = MaskedTask(run, study, task, declared, inputs=inputs, enough=0, state=state, save=lambda: None)
    return replay.collect(list(study.sites), exchange=never, address=never)


def mean_of(total: Arrays) -> dict[str, NDArray[Any]]:
    """The weighted mean from a task's summed parameters."""
    return dict(encoding.weighted_mean(total))


def _take(collector: Collector, step: Step, site: str, content: bytes) -> None:
    if step is Step.MASK:
        document, vector = unpack_parts(content)
        collector.take_masked(site, document, vector)
        return
    {
        Step.ADVERTISE: collector.take_advertisement,
        Step.SHARE: collector.take_shares,
        Step.CONFIRM: collector.take_confirmation,
        Step.UNMASK: collector.take_unmasking,
    }[step](site, content)


def _note(result: MaskedSum, step: Step, site: str, reply: Reply, got: Envelope) -> None:
    result.bytes += len(got.payload) + len(got.document)
    if step is Step.MASK:
        result.replies[site] = reply
        result.signatures[site] = signature_in(got.document)


def _name(step: Step) -> str:
    return step.name.lower()
