"""Under which study a node is audited: one that its steward approved, or the usual one where there is none."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.client_node import approvals
from gemel.client_node.approvals import Decision
from gemel.client_node.home import NodeHome
from gemel.core.programme import Programme
from gemel.core.study import SCHEMA, Study, TrainingPlan, parse_study
from gemel.privacy.planning import Shares, plan
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.twins.metrics import metric_tables

EPSILON, DELTA = 3.0, 1e-5
_USUAL = TrainingPlan(
    rounds=6,
    local_steps=6,
    learning_rate=1.0,
    momentum=0.6,
    max_grad_norm=4.0,
    sample_rate=1.0,
    noise_multiplier=1.0,
)


def usual_study(programme: Programme, *, epsilon: float = EPSILON, delta: float = DELTA) -> Study:
    """A study of a programme at the price of most: everything included, ε = 3 at δ = 1e-5."""
    tables, synthesis = len(metric_tables(programme)), synthesis_plan(domain_of(programme))
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=_USUAL.rounds,
        local_steps=_USUAL.local_steps,
        metrics_tables=tables,
        shares=Shares(),
        synthesis=synthesis,
    )
    return Study(
        schema=SCHEMA,
        study_id="audit",
        title="An audit",
        purpose="To attack what a node promises.",
        programme=programme.name,
        programme_version=programme.version,
        training=msgspec.structs.replace(_USUAL, noise_multiplier=noise.training),
        privacy=noise.privacy_plan(epsilon=epsilon, delta=delta),
        metrics_tables=tables,
        synthesis=synthesis,
        minimum_patients=1,
        quorum=1,
        round_timeout_s=60.0,
        sites={},
    )


def newest_approved(home: NodeHome, *, programme: str | None = None) -> Study | None:
    """The study that a steward of this hospital approved last, of one programme if it is named."""
    found: list[tuple[str, Study]] = []
    for proposal in approvals.proposals(home):
        approval = approvals.find(home, proposal.study.payload_sha256)
        study = parse_study(proposal.study.payload)
        wanted = programme in (None, study.programme)
        if wanted and approval is not None and approval.decision is Decision.APPROVED:
            found.append((approval.decided_at, study))
    return max(found, key=lambda one: one[0])[1] if found else None


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of what an audit must leave alone: ledger, outbox, studies, data."""
    paths = [
        *folder.glob("ledger*"),
        *(p for d in ("outbox", "studies", "data") for p in (folder / d).glob("*")),
    ]
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(paths)}
