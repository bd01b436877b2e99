"""What a steward reads before deciding on a study: in words, what it computes, on whom, what leaves, and what it costs."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from gemel.client_node import approvals, patients, standing
from gemel.client_node.approvals import Approval, Decision, Proposal
from gemel.client_node.home import NodeHome
from gemel.client_node.status import state_of
from gemel.client_node.task_words import words_of, words_of_all
from gemel.core.arrays import ArraySpec
from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, kind_of
from gemel.core.signing import fingerprint
from gemel.core.study import Masking, Study, parse_study
from gemel.privacy.ledger import Ledger
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import find

# The least noise on the number of patients that is shown: at this standard deviation one more or less does not show.
_LEAST_NOISE = 3.0


def view(home: NodeHome, ledger: Ledger, proposal: Proposal, *, exact: bool = False) -> dict[str, Any]:
    """Everything about a proposed study, for its steward.

    The number of patients is noised, as it would be in a release, unless `exact`: the number is the hospital's own and a
    steward may know it, but what is shown ends up in mails and minutes. The same study shows the same number each time,
    so that looking twice tells no more. Neither is charged: nothing leaves.

    Raises what reading the hospital's data raises, GEM104 for a programme that is not installed.
    """
    study = parse_study(proposal.study.payload)
    sha256 = proposal.study.payload_sha256
    dataset = patients.load(home, find(study.programme, study.programme_version))
    quote = ledger.quote(study.charges(), dataset.people())
    reserved = ledger.reserved(sha256) is not None
    return {
        "study_sha256": sha256,
        "study_id": study.study_id,
        "title": study.title,
        "purpose": study.purpose,
        "signed_by": [
            {"role": s.role, "fingerprint": fingerprint(s.public_key)} for s in proposal.study.signatures
        ],
        "arrived_at": proposal.arrived_at,
        "state": state_of(home, ledger, sha256),
        "programme": f"{study.programme}@{study.programme_version}",
        "sites": sorted(study.sites),
        "masked": study.aggregation.masking is Masking.SECURE,
        "patients": _patients(home, proposal, study, exact=exact),
        "data_changed": dataset.snapshot != proposal.snapshot,
        "tasks": _tasks(study),
        "cost": {
            "epsilon_of_study": study.privacy.epsilon,
            "delta": study.privacy.delta,
            "reserved_already": reserved,
            "epsilon_of_worst_person_now": quote.epsilon_before,
            "epsilon_of_worst_person_after": quote.epsilon_before if reserved else quote.epsilon_after,
            "epsilon_cap": quote.epsilon_cap,
            "fits": reserved or quote.admitted,
        },
        "changes": changes(home, proposal),
        "decisions": [_decision(home, approval) for approval in approvals.decisions(home, sha256)],
        "approvals_missing": _missing(home, sha256),
    }


def changes(home: NodeHome, proposal: Proposal) -> dict[str, Any]:
    """What is different from the last study of the same id, or else of the same signer; empty when it is the first."""
    before = _before(home, proposal)
    if before is None:
        return {}
    old, new = _flat(before.study.payload), _flat(proposal.study.payload)
    return {
        "since": before.study.payload_sha256,
        "that_was": _newest(home, before.study.payload_sha256),
        "fields": {
            name: {"before": old.get(name), "now": new.get(name)}
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        },
    }


def _before(home: NodeHome, proposal: Proposal) -> Proposal | None:
    study_id = proposal.study.payload.get("study_id")
    signers = {signature.public_key for signature in proposal.study.signatures}
    earlier = [
        other
        for other in approvals.proposals(home)
        if other.study.payload_sha256 != proposal.study.payload_sha256
        and other.arrived_at <= proposal.arrived_at
    ]
    same = [other for other in earlier if other.study.payload.get("study_id") == study_id]
    if not same:
        same = [
            other
            for other in earlier
            if signers & {signature.public_key for signature in other.study.signatures}
        ]
    return same[-1] if same else None


def _newest(home: NodeHome, study_sha256: str) -> str:
    try:
        approval = approvals.find(home, study_sha256)
    except GemelError as error:
        return error.code
    return "never decided" if approval is None else approval.decision.value


def _flat(value: object, name: str = "") -> dict[str, object]:
    """Nested JSON as dotted names and plain values."""
    if isinstance(value, dict) and value:
        parts = [_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
        return {key: inner for part in parts for key, inner in part.items()}
    return {name: value}


def _patients(home: NodeHome, proposal: Proposal, study: Study, *, exact: bool) -> dict[str, Any]:
    if exact:
        return {"number": proposal.patients, "noise": 0.0}
    deviation = max(_LEAST_NOISE, study.privacy.count_noise_multiplier)
    number = round(proposal.patients + deviation * _normal(home, proposal))
    return {"number": max(0, number), "noise": deviation}


def _normal(home: NodeHome, proposal: Proposal) -> float:
    """A standard normal number that only this home can draw, the same for the same study and data."""
    content = f"shown {proposal.study.payload_sha256} {proposal.snapshot}".encode()
    digest = hashlib.blake2b(content, key=home.pseudonym_key, digest_size=16).digest()
    u, v = (int.from_bytes(half, "big") / 2**64 for half in (digest[:8], digest[8:]))
    return math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)


def _tasks(study: Study) -> list[dict[str, Any]]:
    """One row for each kind of task: rounds are alike, and are one row."""
    programme = find(study.programme, study.programme_version)
    rows: dict[str, dict[str, Any]] = {}
    for charge in study.charges():
        row = rows.get(_kind(charge))
        if row is not None:
            row["times"] += 1
            row["words"] = words_of_all(charge, times=row["times"])
            continue
        leaves = declared_release(charge.task, programme, study=study)
        rows[_kind(charge)] = {
            "task": charge.task,
            "times": 1,
            **words_of(charge),
            "leaves": {
                name: {"shape": list(spec.shape), "dtype": spec.dtype} for name, spec in leaves.items()
            },
            "bytes": sum(_bytes(spec) for spec in leaves.values()),
        }
    return list(rows.values())


def _kind(charge: Charge) -> str:
    return kind_of(charge.task)


def _bytes(spec: ArraySpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _decision(home: NodeHome, approval: Approval) -> dict[str, Any]:
    told: dict[str, Any] = {
        "decision": approval.decision.value,
        "steward": approval.steward,
        "at": approval.decided_at,
        "reason": approval.reason,
    }
    if approval.decision is Decision.APPROVED:
        told |= {
            "until": approval.until,
            "runs": approval.runs,
            "runs_started": standing.runs_of(home, approval.study_sha256, approval),
        }
    return told


def _missing(home: NodeHome, study_sha256: str) -> int:
    counting = standing.in_force(home, study_sha256)
    return max(0, home.config.approvals_needed - len(counting))
