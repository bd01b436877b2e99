"""The one door out of a node: nothing leaves that this module did not admit."""

from __future__ import annotations

from collections.abc import Mapping

from gemel.client_node.approvals import Approval, Decision
from gemel.client_node.home import NodeConfig
from gemel.core.arrays import Arrays, ArraySpec, check_arrays
from gemel.core.errors import GemelError
from gemel.core.study import Study
from gemel.privacy.accounting import epsilon, price
from gemel.privacy.ledger import Ledger
from gemel.privacy.ledger_chain import LedgerEntry


def admit_study(study: Study, config: NodeConfig, *, node_public_key: str) -> None:
    """Refuse a study that does not name this node (GEM404) or whose programme is not allowed here (GEM104)."""
    if study.sites.get(config.site) != node_public_key:
        raise GemelError("GEM404", f"The study does not name {config.site} with this node's key.")
    if f"{study.programme}@{study.programme_version}" not in config.programmes:
        raise GemelError("GEM104", f"{study.programme}@{study.programme_version} is not allowed here.")
    if study.privacy.delta > config.delta:
        raise GemelError(
            "GEM301", f"The study's δ {study.privacy.delta} exceeds the hospital's {config.delta}."
        )


def admit_people(config: NodeConfig, *, patients: int) -> None:
    """Refuse (GEM402) below the hospital's floor.

    The floor is the hospital's alone: with one that a study chooses, refusals would tell the exact count.
    """
    if patients < config.minimum_patients:
        raise GemelError("GEM402", f"{patients} people, fewer than the floor of {config.minimum_patients}.")


def admit_count(study: Study, *, noisy_patients: float) -> None:
    """Refuse (GEM402) when the released, noisy count is below the study's floor. It cannot lower the hospital's."""
    if noisy_patients < study.minimum_patients:
        raise GemelError("GEM402", f"About {noisy_patients} people, the study's floor is higher.")


def admit_price(study: Study, ledger: Ledger) -> None:
    """Refuse a study that the hospital's budget cannot carry to its end (GEM301), or that understates its cost (GEM305).

    Each task is charged anew.
    """
    others = [m for e in ledger.entries() if e.study_sha256 != study.sha256 for m in e.mechanisms]
    own_mechanisms = [m for charge in study.charges() for m in charge.mechanisms]
    after = epsilon([*others, *own_mechanisms], delta=ledger.delta)
    if after > ledger.epsilon_cap:
        raise GemelError("GEM301", f"With this study ε would be {after}, the cap is {ledger.epsilon_cap}.")
    own, stated = price(study.charges(), delta=study.privacy.delta), study.privacy.epsilon
    if own > stated:
        raise GemelError("GEM305", f"The study states ε {stated}, its mechanisms cost {own}.")


def admit_approved(study_sha256: str, approval: Approval | None) -> Approval:
    """Refuse (GEM401) what no steward approved, or what one has refused since."""
    if approval is None or approval.decision is not Decision.APPROVED:
        raise GemelError("GEM401", f"Study {study_sha256} is not approved.")
    return approval


def admit_data(approval: Approval, *, snapshot: str) -> None:
    """Refuse (GEM405) data that changed since the approval."""
    if approval.snapshot != snapshot:
        raise GemelError("GEM405", "The data set differs from the one that the steward approved.")


def admit_release(
    arrays: Arrays,
    declared: Mapping[str, ArraySpec],
    *,
    charge: LedgerEntry | None,
    study: Study,
    task: str,
    request_sha256: str,
) -> None:
    """Refuse a payload that was not charged for (GEM307) or is not what the task may release (GEM403)."""
    if (
        charge is None
        or charge.study_sha256 != study.sha256
        or charge.task != task
        or charge.request_sha256 != request_sha256
        or tuple(charge.mechanisms) != study.charge(task).mechanisms
    ):
        raise GemelError("GEM307", f"No ledger entry covers {task}.")
    check_arrays(arrays, declared)
