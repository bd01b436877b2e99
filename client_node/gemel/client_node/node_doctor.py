"""Whether a node can work: each thing that it needs, ok or why not, and what to do."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.client_node import approvals, audit_log
from gemel.client_node.coordinator_check import reach
from gemel.client_node.home import NodeHome
from gemel.client_node.key_dates import WARN_DAYS, read_dates
from gemel.client_node.permissions import code_state
from gemel.client_node.rotation import is_unfinished
from gemel.client_node.worker.limits import load_limits
from gemel.client_node.worker.sandbox import what_would_hold
from gemel.core.errors import GemelError
from gemel.core.pki import read_certificate
from gemel.core.software import software_versions

DISK_GIB_NEEDED = 1.0
MEMORY_GIB_NEEDED = 2.0
PINNED = {"torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0", "dp-accounting": "0.6.0"}
WAITING_DAYS = 14
_SECRETS = ("node.key", "transport.key", "pseudonym.key")


@dataclass(frozen=True)
class Finding:
    """One check. What is not `required` is a warning: the node works, for now."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True


def examine(home: NodeHome) -> Iterator[Finding]:
    """Run every check, one after the other; none raises."""
    for name, check in CHECKS.items():
        try:
            yield from check(home)
        except GemelError as error:
            yield Finding(name, False, f"{error.code} {error.message}", error.hint)
        except (OSError, ValueError, sqlite3.Error, msgspec.DecodeError) as error:
            remedy = "Check who owns the home: the node's user must."
            yield Finding(name, False, f"cannot be checked: {type(error).__name__}: {error}", remedy)


def _keys(home: NodeHome) -> Iterator[Finding]:
    folder = home.folder / "keys"
    missing = [name for name in _SECRETS if not (folder / name).exists()]
    loose = [p.name for p in (folder, *folder.glob("*.key")) if p.exists() and p.stat().st_mode & 0o077]
    if missing:
        remedy = "Restore the home from its backup, or make the node again from a start kit."
        yield Finding("keys", False, f"missing: {', '.join(missing)}", remedy)
        return
    open_to = f"others may read {', '.join(loose)}"
    remedy = f"chmod 700 {folder}; chmod 600 {folder}/*.key"
    yield Finding("keys", not loose, open_to if loose else "there, and their owner's alone", remedy)
    if is_unfinished(home):
        remedy = f"gemel node rotate {home.folder}"
        yield Finding("key rotation", False, "was interrupted: the node does not start", remedy)
    left = read_dates(folder).days_left()
    detail = (
        f"{left:.0f} days left" if left >= 0 else f"expired {-left:.0f} days ago: the node answers nothing"
    )
    yield Finding(
        "key expiry",
        left > WARN_DAYS,
        detail,
        f"gemel node rotate {home.folder}, then send join.json to the coordinator.",
        required=left < 0,
    )


def _coordinator(home: NodeHome) -> Iterator[Finding]:
    certificate = read_certificate(home.ca_certificate)
    left = certificate.days_left()
    remedy = "Ask the coordinator for a new start kit, and put its CA in place."
    yield Finding("CA certificate", left >= 0, f"{left} days left", remedy)
    if not home.config.address:
        yield Finding("coordinator", False, "no address is known", "Make the node from a start kit.")
        return
    seen = reach(home.config.address, ca_certificate=home.ca_certificate)
    yield Finding("coordinator's port", seen.reached, seen.reach_detail, seen.reach_remedy)
    if not seen.reached:
        return
    yield Finding("TLS", seen.trusted, seen.trust_detail, seen.trust_remedy)
    if seen.clock_ahead_s is not None:
        # Flower refuses what was signed 5 minutes ago, or 5 seconds in the future.
        fits = -240 < seen.clock_ahead_s < 4
        detail = f"{abs(seen.clock_ahead_s):.0f} s {'ahead of' if seen.clock_ahead_s > 0 else 'behind'} the coordinator's"
        yield Finding("clock", fits, detail, "Set the clock of the machine that is wrong (NTP).")


def _clock(home: NodeHome) -> Iterator[Finding]:
    with home.open_ledger() as ledger:
        newest = dt.datetime.fromisoformat(ledger.entries()[-1].written_at)
    now = dt.datetime.now(dt.UTC)
    sane = now > newest - dt.timedelta(minutes=1)
    detail = f"{now:%Y-%m-%d %H:%M} UTC, after the last entry of the ledger"
    wrong = f"{now:%Y-%m-%d %H:%M} UTC, and the ledger's last entry is of {newest:%Y-%m-%d %H:%M}"
    remedy = (
        "Set the clock (NTP). An entry that was written by a clock that ran ahead blocks until then (GEM310)."
    )
    yield Finding("clock and ledger", sane, detail if sane else wrong, remedy)


def _disk(home: NodeHome) -> Iterator[Finding]:
    free_gib = shutil.disk_usage(home.folder).free / 2**30
    remedy = f"Free {DISK_GIB_NEEDED:g} GiB: a node that cannot write answers nothing."
    yield Finding("disk", free_gib >= DISK_GIB_NEEDED, f"{free_gib:.1f} GiB free", remedy)


def _memory(_home: NodeHome) -> Iterator[Finding]:
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    gib = int(told["MemAvailable"].split()[0]) / 2**20
    remedy = f"Training wants {MEMORY_GIB_NEEDED:g} GiB."
    yield Finding("memory", gib >= MEMORY_GIB_NEEDED, f"{gib:.1f} GiB available", remedy, required=False)


def _versions(home: NodeHome) -> Iterator[Finding]:
    found = software_versions()
    wrong = [
        f"{name} {found.get(name, 'missing')}, expected {exact}"
        for name, exact in PINNED.items()
        if found.get(name, "").split("+")[0] != exact
    ]
    detail = "; ".join(wrong) or ", ".join(f"{name} {found[name]}" for name in PINNED)
    remedy = "Install the versions that constraints.txt names."
    yield Finding("versions", not wrong, detail, remedy)
    states = code_state(home)
    changed = [f"{name}: {code}" for name, code in states.items() if code]
    if not states:
        yield Finding("programmes", False, "none is allowed", "gemel node allow PROGRAMME@VERSION HOME")
        return
    remedy = "Read what changed, then: " + "; ".join(
        f"gemel node allow {name} {home.folder}" for name, code in states.items() if code
    )
    yield Finding("programmes", not changed, ", ".join(changed or states), remedy)


def _workers(home: NodeHome) -> Iterator[Finding]:
    limits = load_limits(home.folder)
    held = what_would_hold(user=limits.user, secret=home.folder)
    shut = ", ".join(
        f"{name}: {by or 'open'}" for name, by in (("network", held.network), ("files", held.files))
    )
    detail = f"{shut}; run as {held.user or 'the node'}"
    remedy = (
        "Allow network namespaces and Landlock (Linux 5.13 or newer) to the node's user; else it computes nothing "
        '(GEM420), unless limits.json says "unconfined": true.'
    )
    yield Finding("workers", held.is_shut, detail, remedy, required=not limits.unconfined)


def _source(home: NodeHome) -> Iterator[Finding]:
    from gemel.data_adapters.omop.source import is_omop

    if is_omop(home.config.export):
        yield Finding("records", True, f"an OMOP CDM at {home.export}")
        return
    from gemel.data_adapters.sources.files import open_export

    files = open_export(home.export)
    unread = [file.name for file in files if not _reads(file.path)]
    detail = f"{len(files)} files in {home.export}"
    remedy = f"gemel data check {home.export} says what is wrong, line by line."
    if unread:
        detail = f"the first line is no FHIR resource in {', '.join(unread[:5])}"
    yield Finding("records", not unread, detail, remedy)


def _reads(path: Path) -> bool:
    """Whether the first line of a plain NDJSON file is a JSON object that names its resource type."""
    if path.suffix != ".ndjson":
        return True  # compressed, or a Bundle: `gemel data check` reads those
    with path.open("rb") as file:
        line = file.readline(1 << 24).removeprefix(b"\xef\xbb\xbf").strip()
    try:
        return not line or isinstance(msgspec.json.decode(line).get("resourceType"), str)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        return False


def _books(home: NodeHome) -> Iterator[Finding]:
    with home.open_ledger() as ledger:
        ledger.verify()
        entries = len(ledger.entries())
        left = ledger.epsilon_cap - ledger.epsilon_of_worst_person()
    yield Finding(
        "ledger", True, f"{entries} entries verify; epsilon {max(0.0, left):.4f} left for the worst-off"
    )
    lines = len(audit_log.entries(home))
    lost = lines == 0 and entries > 1
    detail = "is empty, and the ledger is not: it was removed" if lost else f"{lines} lines verify"
    yield Finding("audit log", not lost, detail, "Keep the home as evidence; restore audit/ from its backup.")


def _people(home: NodeHome) -> Iterator[Finding]:
    stewards, needed = home.config.stewards, home.config.approvals_needed
    remedy = f"gemel node steward NAME {home.folder} -o FILE"
    detail = f"{len(stewards)} on record, {needed} must approve"
    yield Finding("stewards", len(set(stewards.values())) >= needed, detail, remedy)
    waiting = [p for p in approvals.proposals(home) if approvals.find(home, p.study.payload_sha256) is None]
    oldest = min((p.arrived_at for p in waiting), default="")
    days = 0.0
    if oldest:
        days = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(oldest)).total_seconds() / 86_400
    detail = f"{len(waiting)} studies wait" + (f", one for {days:.0f} days" if days >= 1 else "")
    yield Finding(
        "approvals", days < WAITING_DAYS, detail, f"gemel node studies {home.folder}", required=False
    )


CHECKS: dict[str, Callable[[NodeHome], Iterator[Finding]]] = {
    "keys": _keys,
    "coordinator": _coordinator,
    "clock and ledger": _clock,
    "disk": _disk,
    "memory": _memory,
    "versions": _versions,
    "workers": _workers,
    "records": _source,
    "ledger": _books,
    "stewards": _people,
}
