"""The one door out of a node: nothing leaves that this module did not admit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gemel.client_node.allow_list import admit_code
from gemel.client_node.approvals import Approval, Decision
from gemel.client_node.home import NodeConfig
from gemel.client_node.key_dates import KeyDates
from gemel.core.arrays import Arrays, ArraySpec, check_arrays
from gemel.core.errors import GemelError
from gemel.core.mechanism import Share
from gemel.core.programme import Programme
from gemel.core.statistic_request import check_statistic_names
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.privacy.ledger import EntryKind, Ledger, LedgerEntry
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import check_plan
from gemel.synthetic.trajectory.study_rounds import check_trajectories


def admit_study(study: Study, config: NodeConfig, *, node_public_key: str) -> None:
    """Refuse a study that does not name this node (GEM404) or whose programme is not allowed here (GEM104).

    GEM414 when it was allowed, and the installed code is another since.
    """
    if study.sites.get(config.site) != node_public_key:
        raise GemelError("GEM404", f"The study does not name {config.site} with this node's key.")
    programme = f"{study.programme}@{study.programme_version}"
    if programme not in config.programmes:
        raise GemelError("GEM104", f"{programme} is not allowed here.")
    admit_code(programme, config.code)
    if study.privacy.delta > config.delta:
        raise GemelError(
            "GEM301", f"The study's δ {study.privacy.delta} exceeds the hospital's {config.delta}."
        )


def admit_keys(dates: KeyDates) -> None:
    """Refuse (GEM417) to answer under keys that have expired."""
    if dates.days_left() < 0:
        raise GemelError("GEM417", f"The node's keys expired on {dates.expires_at}.")


def admit_statistics(study: Study, programme: Programme) -> None:
    """Refuse (GEM311) a study that asks about a variable or an outcome that the programme's data sets do not have."""
    check_statistic_names(
        study.statistics,
        variables=(*programme.feature_names, *programme.target_names),
        outcomes=programme.outcome_names,
    )


def admit_synthesis(study: Study, programme: Programme) -> None:
    """Refuse (GEM720, GEM730) a study that is charged for other tables of virtual cohorts, or other visits, than its programme has."""
    check_plan(domain_of(programme), study.synthesis)
    check_trajectories(study, programme)


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


def admit_price(study: Study) -> None:
    """Refuse (GEM305) a study that costs more than it says."""
    own, stated = price(study.charges(), delta=study.privacy.delta), study.privacy.epsilon
    if own > stated:
        raise GemelError("GEM305", f"The study states ε {stated}, its mechanisms cost {own}.")


def admit_plan(study: Study, ledger: Ledger, *, people: Mapping[Share, Sequence[str]]) -> None:
    """Refuse (GEM301) a study that would take any of these patients over the hospital's cap before its end.

    What is reserved already is paid for.
    """
    if ledger.reserved(study.sha256) is not None:
        return
    quote = ledger.quote(study.charges(), people)
    if not quote.admitted:
        raise GemelError(
            "GEM301",
            f"With this study a patient's ε would be {quote.epsilon_after}, the cap is {quote.epsilon_cap}.",
        )


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
    reserved: LedgerEntry | None,
    begun: LedgerEntry | None,
    study: Study,
    task: str,
    request_sha256: str,
) -> None:
    """Refuse a payload that was not charged for (GEM307) or is not what the task may release (GEM403)."""
    if (
        reserved is None
        or reserved.kind is not EntryKind.RESERVED
        or reserved.study_sha256 != study.sha256
        or study.charge(task) not in reserved.charges
        or begun is None
        or begun.kind is not EntryKind.BEGUN
        or begun.follows != reserved.sha256
        or begun.task != task
        or begun.request_sha256 != request_sha256
    ):
        raise GemelError("GEM307", f"No ledger entry covers {task}.")
    check_arrays(arrays, declared)
