from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.core.study import PrivacyPlan, Study, TrainingPlan
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.planning import NoisePlan, Shares, plan


def study_of(noise: NoisePlan, *, epsilon: float, delta: float, rounds: int, steps: int, q: float) -> Study:
    return Study(
        schema="gemel/study/1",
        study_id="s",
        title="t",
        purpose="p",
        programme="fatty_liver",
        programme_version="1",
        training=TrainingPlan(
            rounds=rounds,
            local_steps=steps,
            learning_rate=0.1,
            momentum=0.9,
            max_grad_norm=1.0,
            sample_rate=q,
            noise_multiplier=noise.training,
        ),
        privacy=PrivacyPlan(
            epsilon=epsilon,
            delta=delta,
            count_noise_multiplier=noise.count,
            metrics_noise_multiplier=noise.metrics,
            marginals_noise_multiplier=noise.marginals,
        ),
        metrics_tables=6,
        marginal_tables=15,
        minimum_patients=50,
        quorum=1,
        round_timeout_s=60.0,
        sites={"a": "00" * 32},
    )


def assert_spends_its_epsilon(epsilon: float, delta: float, rounds: int, steps: int, q: float) -> None:
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        local_steps=steps,
        metrics_tables=6,
        marginal_tables=15,
        shares=Shares(),
        sample_rate=q,
    )
    study = study_of(noise, epsilon=epsilon, delta=delta, rounds=rounds, steps=steps, q=q)
    spent = epsilon_of(study.all_mechanisms(), delta=delta)
    assert spent == noise.epsilon
    assert epsilon - 1e-3 <= spent <= epsilon


@given(
    epsilon=st.floats(0.2, 6),
    delta=st.sampled_from([1e-4, 1e-5, 1e-6]),
    rounds=st.integers(1, 10),
    steps=st.integers(1, 8),
)
@settings(max_examples=5, deadline=None)
def test_a_planned_study_spends_its_epsilon_and_never_more(
    epsilon: float, delta: float, rounds: int, steps: int
) -> None:
    assert_spends_its_epsilon(epsilon, delta, rounds, steps, 1.0)


@pytest.mark.parametrize(("epsilon", "q"), [(3.0, 0.1), (1.0, 0.02)])
def test_a_planned_study_that_samples_patients_spends_its_epsilon(epsilon: float, q: float) -> None:
    assert_spends_its_epsilon(epsilon, 1e-5, 5, 8, q)


def test_shares_divide_the_precision_of_the_releases() -> None:
    shares = Shares(training=0.5, metrics=0.25, marginals=0.15, count=0.1)
    noise = plan(
        epsilon=3,
        delta=1e-5,
        rounds=8,
        local_steps=5,
        metrics_tables=6,
        marginal_tables=15,
        shares=shares,
    )
    precision = [40 / noise.training**2, 6 / noise.metrics**2, 15 / noise.marginals**2, 1 / noise.count**2]
    total = math.fsum(precision)
    assert [p / total for p in precision] == pytest.approx([0.5, 0.25, 0.15, 0.1], rel=1e-5)


def test_multipliers_have_six_decimals_and_planning_is_quick() -> None:
    started = time.process_time()
    noise = plan(
        epsilon=3,
        delta=1e-5,
        rounds=20,
        local_steps=10,
        metrics_tables=6,
        marginal_tables=30,
        shares=Shares(),
    )
    assert time.process_time() - started < 10
    for multiplier in (noise.training, noise.metrics, noise.marginals, noise.count):
        assert multiplier == round(multiplier, 6)


@pytest.mark.parametrize(
    "changed",
    [
        {"epsilon": 0.0},
        {"epsilon": 101.0},
        {"epsilon": math.nan},
        {"epsilon": 1e-5},  # would need tables noisier than can be drawn
        {"delta": 0.0},
        {"delta": 0.1},
        {"rounds": 0},
        {"marginal_tables": 0},
        {"sample_rate": 0.0},
        {"shares": Shares(training=0.9)},
        {"shares": Shares(training=0.8, metrics=0.2, marginals=0.0, count=0.0)},
    ],
)
def test_an_impossible_plan_is_refused(changed: dict[str, object]) -> None:
    request: dict[str, object] = {
        "epsilon": 3.0,
        "delta": 1e-5,
        "rounds": 5,
        "local_steps": 5,
        "metrics_tables": 4,
        "marginal_tables": 4,
        "shares": Shares(),
    }
    with pytest.raises(GemelError) as caught:
        plan(**{**request, **changed})  # type: ignore[arg-type]
    assert caught.value.code == "GEM305"
