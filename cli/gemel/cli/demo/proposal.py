"""The demo's study: what the data scientist proposes, with its price worked out before anything runs."""

from __future__ import annotations

import msgspec

from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import SCHEMA, Study, TrainingPlan, parse_study
from gemel.privacy.planning import Shares, plan
from gemel.synthetic.marginals import marginal_specs
from gemel.twins.metrics import metric_tables


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
) -> Study:
    """A study whose tasks together cost each patient at most (epsilon, delta).

    `training` gives everything but the noise, which is solved for.
    """
    metrics_tables, marginal_tables = len(metric_tables(programme)), len(marginal_specs(programme))
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=training.rounds,
        local_steps=training.local_steps,
        metrics_tables=metrics_tables,
        marginal_tables=marginal_tables,
        shares=shares,
        sample_rate=training.sample_rate,
        clipping=training.clipping,
    )
    study = Study(
        schema=SCHEMA,
        study_id=study_id,
        title=programme.title,
        purpose=programme.question,
        programme=programme.name,
        programme_version=programme.version,
        training=msgspec.structs.replace(
            training, noise_multiplier=noise.training, quantile_noise_multiplier=noise.quantile
        ),
        privacy=noise.privacy_plan(epsilon=epsilon, delta=delta),
        metrics_tables=metrics_tables,
        marginal_tables=marginal_tables,
        minimum_patients=minimum_patients,
        quorum=quorum,
        round_timeout_s=round_timeout_s,
        sites=sites,
    )
    return parse_study(study.to_payload())


def sign(study: Study, key: SigningKey) -> SignedDocument:
    """Sign a study as its proposer."""
    return sign_document("study", study.to_payload(), key, role="proposer")
