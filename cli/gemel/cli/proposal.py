"""A study as a data scientist proposes it: a programme's usual training, with the noise that a budget needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan, parse_study
from gemel.privacy.accounting import price
from gemel.privacy.planning import Shares, planned_study
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.synthetic.releases import check_strategy
from gemel.twins.installed import definition_of
from gemel.twins.metrics import metric_tables

_ANY_NOISE = 1e4  # until it is solved for


def propose(
    programme: Programme,
    training: TrainingPlan,
    shares: Shares,
    *,
    sites: dict[str, str],
    epsilon: float,
    delta: float,
    minimum_patients: int,
    quorum: int,
    round_timeout_s: float,
    study_id: str,
    title: str = "",
    purpose: str = "",
    options: Mapping[str, Any] | None = None,
) -> Study:
    """A study whose tasks together cost each patient at most (epsilon, delta).

    `training` gives everything but the noise, which is solved for. `options` are further fields of a study: aggregation,
    statistics, strategy, pace, cross_site_validation, synthesis; what they cost is part of the price.

    Raises GEM101 and GEM340 for what cannot go together, GEM305 when no noise meets the budget.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "study_id": study_id,
        "title": title or programme.title,
        "purpose": purpose or programme.question,
        "programme": programme.name,
        "programme_version": programme.version,
        "metrics_tables": len(metric_tables(programme)),
        "synthesis": synthesis_plan(domain_of(programme)),
        "minimum_patients": minimum_patients,
        "quorum": quorum,
        "round_timeout_s": round_timeout_s,
        "sites": sites,
        **(options or {}),
    }
    draft = Study(
        **fields,
        training=msgspec.structs.replace(training, noise_multiplier=_ANY_NOISE),
        privacy=PrivacyPlan(
            epsilon=epsilon,
            delta=delta,
            count_noise_multiplier=_ANY_NOISE,
            metrics_noise_multiplier=_ANY_NOISE,
            synthesis_noise_multiplier=_ANY_NOISE,
        ),
    )
    check_strategy(programme, draft.strategy)
    study = parse_study(planned_study(draft, shares=shares).to_payload())
    if (cost := price(study.charges(), delta=delta)) > epsilon:
        raise GemelError("GEM305", f"The study would cost epsilon {cost}, more than {epsilon}.")
    return study


def usual_training(programme: Programme, **changes: Any) -> tuple[TrainingPlan, Shares]:
    """A programme's usual training without its noise, and its usual division of the budget.

    Raises GEM104 for a programme that is not installed.
    """
    usual = definition_of(programme).training
    names = ("rounds", "local_steps", "learning_rate", "momentum", "max_grad_norm", "sample_rate")
    values = {name: getattr(usual, name) for name in names}
    training = TrainingPlan(**{**values, **changes}, noise_multiplier=0.0)
    shares = Shares(training=usual.training_share, synthesis=usual.synthesis_share, count=usual.count_share)
    return training, shares


def sign(study: Study, key: SigningKey) -> SignedDocument:
    """Sign a study as its proposer."""
    return sign_document("study", study.to_payload(), key, role="proposer")
