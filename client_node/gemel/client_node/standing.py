"""Whether an approval still holds: until when, for which runs, and by how many stewards.

A run is what people start at the coordinator (a submitted study, or one that they resumed); a program that goes on
after a crash is the same run. The coordinator says which run it is when it says hello. One that lies gains nothing but
more starts: each task of a study is computed and charged once, however many runs ask for it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gemel.client_node import approvals
from gemel.client_node.approvals import Approval, Decision
from gemel.client_node.home import NodeHome
from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.privacy.ledger import Ledger


class _Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`current`: the run that said hello last; `counted`: the runs under each approval, by its hash."""

    current: str
    counted: dict[str, tuple[str, ...]]


def in_force(home: NodeHome, study_sha256: str) -> tuple[Approval, ...]:
    """The approvals that count now: the newest of each steward since the last refusal, on the newest one's snapshot.

    Empty while nobody decided, and after a refusal. Two names with one key are one steward.
    """
    found = approvals.decisions(home, study_sha256)
    return _counting(home, found)


def _counting(home: NodeHome, found: Sequence[Approval]) -> tuple[Approval, ...]:
    since: list[Approval] = []
    for decision in found:
        since = [] if decision.decision is Decision.REFUSED else [*since, decision]
    newest = {
        home.config.stewards[approval.steward]: approval
        for approval in since
        if approval.snapshot == since[-1].snapshot
    }
    return tuple(newest.values())


def lacks_stewards(home: NodeHome, study_sha256: str) -> int:
    """How many more stewards must approve; 0 when enough did, or nobody decided."""
    counting = in_force(home, study_sha256)
    return max(0, home.config.approvals_needed - len(counting)) if counting else 0


def admit(home: NodeHome, ledger: Ledger, study_sha256: str, *, run: str | None) -> None:
    """Refuse what was approved, but not by enough stewards (GEM413), or not for now or for this run (GEM412).

    `run`: from a hello; None for a task, which belongs to the run that said hello last.
    """
    counting = in_force(home, study_sha256)
    if len(counting) < home.config.approvals_needed:
        raise GemelError("GEM413", f"{len(counting)} of {home.config.approvals_needed} stewards approved.")
    now = latest(ledger)
    for approval in counting:
        if is_over(approval, at=now):
            raise GemelError("GEM412", f"{approval.steward} approved until {approval.until}; it is {now}.")
    _admit_run(home, study_sha256, counting, run=run)


def is_over(approval: Approval, *, at: str) -> bool:
    """Whether an approval's time is past at a time in UTC (ISO 8601, to the millisecond). Raises GEM412 when it is none."""
    return bool(approval.until) and not at < approvals.in_utc(approval.until)


def runs_of(home: NodeHome, study_sha256: str, approval: Approval) -> int:
    """How many runs were counted under an approval."""
    return len(_read(_path(home, study_sha256)).counted.get(_hash(approval), ()))


def _admit_run(home: NodeHome, study_sha256: str, counting: Sequence[Approval], *, run: str | None) -> None:
    path = _path(home, study_sha256)
    before = _read(path)
    current = before.current if run is None else run
    counted = dict(before.counted)
    refused: Approval | None = None
    for approval in counting:
        runs = counted.get(_hash(approval), ())
        if current in runs:
            continue
        if approval.runs and len(runs) >= approval.runs:
            refused = refused or approval
        else:
            counted[_hash(approval)] = (*runs, current)
    # A run that is refused is kept as the current one, and counts for nobody: its tasks are refused as well.
    after = _Runs(current, dict(before.counted) if refused else counted)
    if after != before:
        write_durably(path, msgspec.json.encode(after))
    if refused is not None:
        raise GemelError(
            "GEM412", f"{refused.steward} approved {refused.runs} runs, and so many were started."
        )


def latest(ledger: Ledger) -> str:
    """Now, but not before the ledger's newest entry: a clock that was set back must not give an approval more time."""
    newest = dt.datetime.fromisoformat(ledger.entries()[-1].written_at).astimezone(dt.UTC)
    return max(dt.datetime.now(dt.UTC), newest).isoformat(timespec="milliseconds")


def _read(path: Path) -> _Runs:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Runs)
    except FileNotFoundError:
        return _Runs("", {})
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM412", f"{path.name} cannot be read: runs cannot be counted.") from error


def _path(home: NodeHome, study_sha256: str) -> Path:
    return home.folder / "studies" / f"{study_sha256}.runs.json"


def _hash(approval: Approval) -> str:
    return document_hash(msgspec.to_builtins(approval))
