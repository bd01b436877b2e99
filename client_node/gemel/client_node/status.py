"""How a node stands, for its hospital: what waits, how budget and keys are, whether it has a coordinator."""

from __future__ import annotations

from typing import Any

import msgspec

from gemel.client_node import approvals, standing
from gemel.client_node.approvals import Decision, Proposal
from gemel.client_node.connection import read_connection
from gemel.client_node.home import NodeHome
from gemel.client_node.key_dates import read_dates
from gemel.client_node.permissions import code_state
from gemel.core.errors import GemelError
from gemel.core.signing import fingerprint
from gemel.core.start_kit import transport_fingerprint
from gemel.core.study import parse_study
from gemel.privacy.ledger import Ledger


def status_of(home: NodeHome) -> dict[str, Any]:
    """Everything that `gemel node status` prints, and metrics are made of. Raises what opening the ledger raises."""
    with home.open_ledger() as ledger:
        states = [study["state"] for study in studies_of(home, ledger)]
        worst = ledger.epsilon_of_worst_person()
        entries = len(ledger.entries())
    connection = read_connection(home.folder)
    return {
        "site": home.config.site,
        "federation": home.config.federation,
        "address": home.config.address,
        "fingerprint": fingerprint(home.key.public_hex),
        "transport_fingerprint": transport_fingerprint(
            (home.folder / "keys" / "transport.pub").read_text(encoding="ascii")
        ),
        "coordinator_fingerprint": fingerprint(home.config.coordinator_public_key),
        "key_days_left": round(read_dates(home.folder / "keys").days_left(), 1),
        "stewards": {name: fingerprint(key) for name, key in home.config.stewards.items()},
        "approvals_needed": home.config.approvals_needed,
        "programmes": {name: code or "as allowed" for name, code in code_state(home).items()},
        "studies": {state: states.count(state) for state in dict.fromkeys(states)},
        "epsilon_cap": home.config.epsilon_cap,
        "epsilon_of_worst_person": worst,
        "ledger_entries": entries,
        "connection": {} if connection is None else msgspec.to_builtins(connection),
    }


def studies_of(home: NodeHome, ledger: Ledger) -> list[dict[str, Any]]:
    """Every study that arrived here, oldest first, and how it stands."""
    return [_row(home, ledger, proposal) for proposal in approvals.proposals(home)]


def state_of(home: NodeHome, ledger: Ledger, study_sha256: str) -> str:
    """waiting, waiting for another steward, approved, over (its time), refused, or the code of an invalid decision."""
    try:
        newest = approvals.find(home, study_sha256)
        if newest is None:
            return "waiting"
        if newest.decision is Decision.REFUSED:
            return "refused"
        if standing.lacks_stewards(home, study_sha256):
            return "waiting for another steward"
        counting = standing.in_force(home, study_sha256)
    except GemelError as error:
        return error.code
    now = standing.latest(ledger)
    return "over" if any(standing.is_over(approval, at=now) for approval in counting) else "approved"


def _row(home: NodeHome, ledger: Ledger, proposal: Proposal) -> dict[str, Any]:
    study = parse_study(proposal.study.payload)
    sha256 = proposal.study.payload_sha256
    released = sum(ledger.released(sha256, task) is not None for task in study.tasks)
    return {
        "study_sha256": sha256,
        "study_id": study.study_id,
        "title": study.title,
        "programme": f"{study.programme}@{study.programme_version}",
        "arrived_at": proposal.arrived_at,
        "state": state_of(home, ledger, sha256),
        "epsilon": study.privacy.epsilon,
        "tasks": len(study.tasks),
        "released": released,
    }
