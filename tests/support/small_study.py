"""A study of two rounds, small and cheap, for any hospitals; of the fatty-liver programme unless another is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gemel.core.programme import Programme
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.twins.metrics import metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME


def small_study(sites: Mapping[str, str], *, of: Programme = PROGRAMME, **changes: Any) -> Study:
    """The study for `sites` (name -> public key); `of` is its programme; `changes` replace its fields."""
    study = Study(
        schema=SCHEMA,
        study_id="test",
        title="A test",
        purpose="to test",
        programme=of.name,
        programme_version=of.version,
        training=TrainingPlan(
            rounds=2,
            local_steps=2,
            learning_rate=0.5,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=10.0,
        ),
        privacy=PrivacyPlan(
            epsilon=3.0,
            delta=1e-5,
            count_noise_multiplier=10.0,
            metrics_noise_multiplier=15.0,
            synthesis_noise_multiplier=4.0,
        ),
        metrics_tables=len(metric_tables(of)),
        synthesis=synthesis_plan(domain_of(of)),
        minimum_patients=20,
        quorum=2,
        round_timeout_s=20.0,
        sites=dict(sites),
    )
    return msgspec.structs.replace(study, **changes)
