"""A study as a data scientist proposes it: a programme's usual training, with the noise that a budget needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.core.mechanism import charge_for, is_evaluation
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import SCHEMA, Study, TrainingPlan, parse_study
from gemel.privacy.accounting import price
from gemel.privacy.planning import Shares, plan
from gemel.synthetic.marginals import marginal_specs
from gemel.twins.metrics import metric_tables

_PLACEHOLDER_NOISE = 1e4


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
    statistics, strategy, pace, cross_site_validation; what they cost is part of the price.

    Raises GEM101 for what cannot go together, GEM305 when no noise meets the budget.
    """
    metrics_tables, marginal_tables = len(metric_tables(programme)), len(marginal_specs(programme))
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "study_id": study_id,
        "title": title or programme.title,
        "purpose": purpose or programme.question,
        "programme": programme.name,
        "programme_version": programme.version,
        "metrics_tables": metrics_tables,
        "marginal_tables": marginal_tables,
        "minimum_patients": minimum_patients,
        "quorum": quorum,
        "round_timeout_s": round_timeout_s,
        "sites": sites,
        **(options or {}),
    }
    evaluations, step_factor = _multiples(fields, training)
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=training.rounds,
        local_steps=training.local_steps * step_factor,
        metrics_tables=metrics_tables * evaluations,
        marginal_tables=marginal_tables,
        shares=shares,
        sample_rate=training.sample_rate,
        clipping=training.clipping,
        fixed=_fixed(fields),
    )
    study = Study(
        **fields,
        training=msgspec.structs.replace(
            training, noise_multiplier=noise.training, quantile_noise_multiplier=noise.quantile
        ),
        privacy=noise.privacy_plan(epsilon=epsilon, delta=delta),
    )
    checked = parse_study(study.to_payload())
    if (cost := price(checked.charges(), delta=delta)) > epsilon:
        raise GemelError("GEM305", f"The study would cost epsilon {cost}, more than {epsilon}.")
    return checked


def _multiples(fields: dict[str, Any], training: TrainingPlan) -> tuple[int, int]:
    """(evaluations, noisy steps for each local step) of a study with these fields, as the study itself says."""
    probe = Study(
        **fields,
        training=msgspec.structs.replace(training, noise_multiplier=_PLACEHOLDER_NOISE),
        privacy=_probe_privacy(),
    )
    evaluations = sum(is_evaluation(task) for task in probe.tasks)
    steps = next(charge for charge in probe.charges() if charge.task == "train/1")
    return evaluations, sum(m.count for m in steps.mechanisms) // training.local_steps


def _fixed(fields: dict[str, Any]) -> tuple[Any, ...]:
    """The charge of the statistics, whose noise is their own."""
    statistics = fields.get("statistics", ())
    mechanisms = [mechanism for request in statistics for mechanism in request.mechanisms()]
    return (charge_for("describe", *mechanisms),) if mechanisms else ()


def _probe_privacy() -> Any:
    from gemel.core.study import PrivacyPlan

    noise = _PLACEHOLDER_NOISE
    return PrivacyPlan(
        epsilon=1.0,
        delta=1e-5,
        count_noise_multiplier=noise,
        metrics_noise_multiplier=noise,
        marginals_noise_multiplier=noise,
    )


def usual_training(programme: Programme, **changes: Any) -> tuple[TrainingPlan, Shares]:
    """A programme's usual training without its noise, and its usual division of the budget.

    Raises GEM104 when the programme declares none.
    """
    try:
        module = importlib.import_module(f"gemel.twins.programmes.{programme.name}.plan")
        usual = module.DEFAULT_TRAINING
    except (ImportError, AttributeError) as error:
        raise GemelError("GEM104", f"Programme {programme.name} declares no usual training.") from error
    names = ("rounds", "local_steps", "learning_rate", "momentum", "max_grad_norm", "sample_rate")
    values = {name: getattr(usual, name) for name in names}
    training = TrainingPlan(**{**values, **changes}, noise_multiplier=0.0)
    shares = Shares(training=usual.training_share, marginals=usual.marginals_share, count=usual.count_share)
    return training, shares


def sign(study: Study, key: SigningKey) -> SignedDocument:
    """Sign a study as its proposer."""
    return sign_document("study", study.to_payload(), key, role="proposer")
