"""What a run has done so far: all that a restart needs, and all that the certificate will say. JSON values throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gemel.core.messages import Reply, Status
from gemel.core.study import Study


@dataclass(frozen=True)
class Absence:
    """Why a site is missing from a task, after how long, and what it was asked (empty when it was not)."""

    code: str
    seconds: float = 0.0
    request_sha256: str = ""


@dataclass
class RunState:
    """The state of one run; `data` is what is written.

    `tasks`: one entry for each closed task; `sites`: status, software and ledger of each; `late`: releases that came after
    their task was closed; `early_stop`, `stopped_in`, `masked`, `asynchronous`: as far as they apply.
    """

    study: Study
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, empty in (("tasks", []), ("sites", {}), ("late", [])):
            self.data.setdefault(name, empty)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The closed tasks, in order."""
        tasks: list[dict[str, Any]] = self.data["tasks"]
        return tasks

    def entry(self, task: str) -> dict[str, Any] | None:
        """What is said of a closed task."""
        return next((entry for entry in self.tasks if entry["task"] == task), None)

    def remaining(self) -> list[str]:
        """The tasks that are still to do: those that early stopping skips are not."""
        over = {entry["task"] for entry in self.tasks} | set(self.skipped)
        return [task for task in self.study.tasks if task not in over]

    @property
    def skipped(self) -> list[str]:
        """The tasks that early stopping leaves out."""
        stop = self.data.get("early_stop")
        skipped: list[str] = stop["skipped"] if stop else []
        return skipped

    def close(self, entry: dict[str, Any]) -> None:
        """A task is done."""
        self.tasks.append(entry)
        for leftover in ("stopped_in", "masked", "asynchronous"):
            self.data.pop(leftover, None)

    @property
    def last_move(self) -> dict[str, Any] | None:
        """The newest version of the twin that a closed task made."""
        for entry in reversed(self.tasks):
            if entry.get("versions"):
                return dict(entry["versions"][-1])
            if "model_sha256" in entry:
                return dict(entry)
        return None

    @property
    def moved(self) -> dict[str, Any] | None:
        """The newest version of the twin, also within rounds at hospitals' own pace."""
        under_way = self.data.get("asynchronous", {}).get("versions", [])
        return dict(under_way[-1]) if under_way else self.last_move

    def site(self, site: str) -> dict[str, Any]:
        """What is on record of a site."""
        facts: dict[str, Any] = self.data["sites"].setdefault(site, {})
        return facts

    def absent(self) -> dict[str, Absence]:
        """The sites that take no part, with the reason that they or the federation gave."""
        sites = self.data["sites"]
        return {
            site: Absence(sites.get(site, {}).get("code") or "GEM401")
            for site in self.study.sites
            if sites.get(site, {}).get("status") != Status.APPROVED
        }

    def note(self, reply: Reply, *, after: str) -> None:
        """Keep what a site says of its ledger; `after`: the task that it knows of, empty when that is uncertain.

        The chain only grows: a lower number is an older one, from an outbox.
        """
        site = self.site(reply.site)
        if reply.ledger_seq >= site.get("ledger_seq", 0):
            site.update(
                epsilon_spent=reply.epsilon_spent, ledger_seq=reply.ledger_seq, ledger_head=reply.ledger_head
            )
            if after:
                site["reported_after"] = after
        if reply.protocol:
            site.update(protocol=reply.protocol, software=dict(reply.software))

    def note_late(self, reply: Reply, signature: str, *, task: str) -> None:
        """Record a release that came too late for its task."""
        self.data["late"].append({"site": reply.site, "task": task, **as_signed(reply, signature)})

    def missed(self, site: str, request_sha256: str) -> str | None:
        """The closed task that a site was asked for with this request, and was missing from."""
        for entry in self.tasks if request_sha256 else ():
            for missing in entry["missing"]:
                if (missing["site"], missing["request_sha256"]) == (site, request_sha256):
                    return str(entry["task"])
        return None

    def answered(self, site: str, request_sha256: str) -> bool:
        """True when a release for this request is counted in a closed task, or was late for it."""
        counted = (c for entry in self.tasks for c in entry["contributions"])
        under_way = self.data.get("asynchronous", {}).get("arrived", [])
        return any(
            (line["site"], line["request_sha256"]) == (site, request_sha256)
            for line in (*counted, *under_way, *self.data["late"])
        )

    def epsilons(self) -> dict[str, float]:
        """Site -> what one who were part of everything had spent there, as far as it told."""
        return {s: f["epsilon_spent"] for s, f in self.data["sites"].items() if "epsilon_spent" in f}


def as_signed(reply: Reply, signature: str) -> dict[str, Any]:
    """What a site signed of its release: with its name, the study and the task it is the whole reply again."""
    return {
        "request_sha256": reply.request_sha256,
        "payload_sha256": reply.payload_sha256,
        "epsilon_spent": reply.epsilon_spent,
        "ledger_seq": reply.ledger_seq,
        "ledger_head": reply.ledger_head,
        "signature": signature,
    }


def missing_entries(missing: Mapping[str, Absence]) -> list[dict[str, Any]]:
    """Absences as state and certificate say them, by site."""
    return [
        {
            "site": site,
            "code": absence.code,
            "seconds": round(absence.seconds, 3),
            "request_sha256": absence.request_sha256,
        }
        for site, absence in sorted(missing.items())
    ]
