"""What a study's plan means for its aggregations, at nodes and coordinator alike."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from any_synthesis import ANY_SYNTHESIS

from gemel.core.arrays import ArraySpec
from gemel.core.errors import GemelError
from gemel.core.study import SCHEMA, AggregationPlan, Masking, PrivacyPlan, Study, TrainingPlan
from gemel.privacy.secure_aggregation import encoding, plan

TABLES = {"a": ArraySpec((3,), "int64"), "b": ArraySpec((2, 2), "int64")}
PARAMETERS = {"w": ArraySpec((5,), "float32")}


def _study(sites: int = 5, *, quorum: int = 2, **changes: object) -> Study:
    aggregation = AggregationPlan(**{"masking": Masking.SECURE, **changes})  # type: ignore[arg-type]
    return Study(
        schema=SCHEMA,
        study_id="s",
        title="t",
        purpose="p",
        programme="fatty_liver",
        programme_version="1",
        training=TrainingPlan(
            rounds=2,
            local_steps=1,
            learning_rate=0.1,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=5.0,
        ),
        privacy=PrivacyPlan(
            epsilon=9.0,
            delta=1e-5,
            count_noise_multiplier=10.0,
            metrics_noise_multiplier=12.0,
            synthesis_noise_multiplier=5.0,
        ),
        metrics_tables=2,
        synthesis=ANY_SYNTHESIS,
        minimum_patients=20,
        quorum=quorum,
        round_timeout_s=10.0,
        sites={f"site{i}": f"{i:064x}" for i in range(sites)},
        aggregation=aggregation,
    )


def test_a_sum_has_at_least_threshold_quorum_and_what_shared_noise_needs() -> None:
    def least(task: str, **changes: object) -> tuple[int, int]:
        context = plan.context_of(_study(**changes), task, TABLES, attempt=1)  # type: ignore[arg-type]
        return context.threshold, context.least_survivors

    assert least("count") == (4, 4)
    assert least("count", threshold=3) == (3, 3)
    assert least("count", threshold=3, quorum=5) == (3, 5)
    shared: dict[str, object] = {"distributed_noise": True, "dropouts": 1, "threshold": 3}
    assert least("synthesise/1", **shared) == least("evaluate", **shared) == (3, 4)
    assert least("count", **shared) == least("train/1", **shared) == (3, 3)  # their noise is whole


def test_every_field_of_a_context_comes_from_the_study() -> None:
    study = _study()
    context = plan.context_of(study, "train/1", PARAMETERS, attempt=3)
    assert (context.study_sha256, context.sites, context.attempt) == (study.sha256, study.sites, 3)
    assert context.length == 6, "the parameters and their weight"
    other = plan.context_of(msgspec.structs.replace(study, title="u"), "train/1", PARAMETERS, attempt=3)
    assert other.sha256 != context.sha256


def test_tables_are_added_and_parameters_averaged() -> None:
    assert not plan.is_weighted(TABLES)
    assert plan.is_weighted(PARAMETERS)
    layout = plan.layout_of(PARAMETERS, sites=3)
    values = [np.full(5, v, np.float32) for v in (1.0, -3.25, 900.0)]
    weights = [100.0, 50.0, 3_000_000.0]
    total = sum(
        encoding.weighted(layout, {"w": v}, weight=w, most=plan.MOST_PATIENTS)
        for v, w in zip(values, weights, strict=True)
    )
    mean = encoding.weighted_mean(layout.decode(np.asarray(total)))["w"]
    assert mean == pytest.approx(np.average(values, axis=0, weights=weights), rel=1e-6)
    tables = plan.layout_of(TABLES, sites=500)
    assert tables.length == 7
    with pytest.raises(GemelError, match="GEM324"):
        tables.encode({"a": np.array([2**41, 0, 0]), "b": np.zeros((2, 2), np.int64)})


def test_the_layout_fits_as_many_sites_as_an_aggregation_takes() -> None:
    for declared in (TABLES, PARAMETERS):
        assert plan.layout_of(declared, sites=500).ring.bits == 64


def test_shares_of_noise_are_smaller_and_charged_as_the_sum() -> None:
    study = _study(distributed_noise=True, dropouts=1, colluders=1)
    plan.check_noise(study)
    added = plan.as_added(study)
    assert added.privacy.metrics_noise_multiplier == pytest.approx(12 / math.sqrt(3))
    # Of a person at two of the hospitals: twice the noise, from three of them.
    assert added.privacy.synthesis_noise_multiplier == pytest.approx(2 * 5 / math.sqrt(3))
    assert added.privacy.count_noise_multiplier == study.privacy.count_noise_multiplier
    assert added.training == study.training
    assert study.charge("evaluate").mechanisms[0].noise_multiplier == 12.0
    whole = plan.as_added(_study()).privacy
    assert whole.metrics_noise_multiplier == 12.0
    assert whole.synthesis_noise_multiplier == pytest.approx(5 * math.sqrt(2))


@pytest.mark.parametrize("field", ["metrics_noise_multiplier", "synthesis_noise_multiplier"])
def test_shares_that_do_not_add_up_are_refused(field: str) -> None:
    study = _study(distributed_noise=True)
    privacy = msgspec.structs.replace(study.privacy, **{field: 2.0})
    with pytest.raises(GemelError, match="GEM305"):
        plan.check_noise(msgspec.structs.replace(study, privacy=privacy))


def test_a_plain_study_is_not_masked() -> None:
    study = msgspec.structs.replace(_study(), aggregation=AggregationPlan())
    assert not plan.is_masked(study)
    assert plan.as_added(study).privacy.synthesis_noise_multiplier == pytest.approx(5 * math.sqrt(2))
    plan.check_noise(study)
