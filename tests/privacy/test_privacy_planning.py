from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import pytest
from any_synthesis import ANY_SYNTHESIS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share, mechanisms_by_patient
from gemel.core.strategy_plan import Pace, Personalisation, StrategyPlan
from gemel.core.study import Clipping, Study, TrainingPlan, parse_study
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.accounting import price
from gemel.privacy.planning import NoisePlan, Shares, delta_for, order_of, plan, planned_study, solve_noise


def study_of(
    noise: NoisePlan,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    steps: int,
    q: float = 1.0,
    clipping: Clipping = Clipping.FLAT,
) -> Study:
    study = Study(
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
            clipping=clipping,
            quantile_noise_multiplier=noise.quantile,
        ),
        privacy=noise.privacy_plan(epsilon=epsilon, delta=delta),
        metrics_tables=6,
        synthesis=ANY_SYNTHESIS,
        minimum_patients=50,
        quorum=1,
        round_timeout_s=60.0,
        sites={"a": "00" * 32, "b": "01" * 32},
    )
    return parse_study(study.to_payload())


def assert_spends_its_epsilon(
    epsilon: float,
    delta: float,
    rounds: int,
    steps: int,
    *,
    q: float = 1.0,
    clipping: Clipping = Clipping.FLAT,
) -> NoisePlan:
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        local_steps=steps,
        metrics_tables=6,
        synthesis=ANY_SYNTHESIS,
        shares=Shares(),
        sample_rate=q,
        clipping=clipping,
    )
    study = study_of(noise, epsilon=epsilon, delta=delta, rounds=rounds, steps=steps, q=q, clipping=clipping)
    spent = price(study.charges(), delta=delta)
    assert spent == noise.epsilon
    assert epsilon - 1e-3 <= spent <= epsilon
    for paid in mechanisms_by_patient(study.charges()).values():
        assert epsilon - 1e-3 <= epsilon_of(paid, delta=delta) <= epsilon
    return noise


@given(
    epsilon=st.floats(0.2, 6),
    delta=st.sampled_from([1e-4, 1e-5, 1e-6]),
    rounds=st.integers(1, 10),
    steps=st.integers(1, 8),
)
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
def test_a_planned_study_spends_its_epsilon_and_never_more(
    epsilon: float, delta: float, rounds: int, steps: int
) -> None:
    assert_spends_its_epsilon(epsilon, delta, rounds, steps)


@pytest.mark.parametrize(("epsilon", "q"), [(3.0, 0.1), (1.0, 0.02)])
def test_a_planned_study_that_samples_patients_spends_its_epsilon(epsilon: float, q: float) -> None:
    assert_spends_its_epsilon(epsilon, 1e-5, 5, 8, q=q)


@pytest.mark.parametrize("q", [1.0, 0.1])
def test_adaptive_clipping_pays_for_its_quantile_out_of_training(q: float) -> None:
    flat = assert_spends_its_epsilon(2.0, 1e-5, 3, 4, q=q)
    adaptive = assert_spends_its_epsilon(2.0, 1e-5, 3, 4, q=q, clipping=Clipping.ADAPTIVE)
    assert flat.quantile == 0
    assert adaptive.training > flat.training
    assert (adaptive.training / adaptive.quantile) ** 2 == pytest.approx(0.05 / 0.95, rel=1e-5)


def test_charges_with_noise_of_their_own_are_part_of_the_price() -> None:
    statistics = Charge(
        task="describe",
        share=Share.EVERYONE,
        mechanisms=(Mechanism(kind=MechanismKind.DISCRETE_LAPLACE, noise_multiplier=4.0, count=3),),
    )
    request: dict[str, Any] = {
        "epsilon": 2.0,
        "delta": 1e-5,
        "rounds": 3,
        "local_steps": 4,
        "metrics_tables": 6,
        "shares": Shares(),
    }
    alone, beside = plan(**request), plan(**request, fixed=(statistics,))
    assert beside.training > alone.training
    study = study_of(beside, epsilon=2.0, delta=1e-5, rounds=3, steps=4)
    assert 1.999 <= price((*study.charges(), statistics), delta=1e-5) <= 2
    with pytest.raises(GemelError, match="GEM305"):
        plan(**{**request, "epsilon": 0.5}, fixed=(statistics,))


def planned(shares: Shares) -> NoisePlan:
    return plan(
        epsilon=3,
        delta=1e-5,
        rounds=8,
        local_steps=5,
        metrics_tables=6,
        shares=shares,
    )


def precisions(noise: NoisePlan) -> list[float]:
    """Of training, synthesis, count and metrics."""
    return [40 / noise.training**2, 1 / noise.synthesis**2, 1 / noise.count**2, 6 / noise.metrics**2]


def test_shares_divide_the_precision_of_the_releases() -> None:
    training, synthesis, count, metrics = precisions(
        planned(Shares(training=0.65, synthesis=0.2, count=0.15, metrics=0.25))
    )
    whole = training + synthesis + count
    shares = [part / whole for part in (training, synthesis, count, metrics)]
    assert shares == pytest.approx([0.65, 0.2, 0.15, 0.25], rel=1e-5)


def test_metrics_have_all_that_the_count_leaves_because_no_patient_pays_for_both_halves() -> None:
    training, synthesis, count, metrics = precisions(
        planned(Shares(training=0.65, synthesis=0.2, count=0.15))
    )
    assert count + metrics == pytest.approx(training + synthesis + count, rel=5e-3)


def test_metrics_of_a_small_share_leave_their_patients_a_rest() -> None:
    noise = planned(Shares(training=0.65, synthesis=0.2, count=0.15, metrics=0.25))
    study = study_of(noise, epsilon=3.0, delta=1e-5, rounds=8, steps=5)
    paid = mechanisms_by_patient(study.charges())
    assert epsilon_of(paid[Share.HELD_OUT], delta=1e-5) < 2.5
    assert 2.999 <= epsilon_of(paid[Share.TRAINING], delta=1e-5) <= 3


def test_multipliers_have_six_decimals_and_planning_is_quick() -> None:
    started = time.process_time()
    noise = plan(
        epsilon=3,
        delta=1e-5,
        rounds=20,
        local_steps=10,
        metrics_tables=6,
        shares=Shares(),
    )
    assert time.process_time() - started < 10
    for multiplier in (noise.training, noise.metrics, noise.synthesis, noise.count):
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
        {"sample_rate": 0.0},
        {"shares": Shares(training=0.9)},
        {"shares": Shares(training=1.0, synthesis=0.0, count=0.0)},
        {"shares": Shares(metrics=0.96)},
        {"shares": Shares(metrics=0.0)},
        {"shares": Shares(metrics=math.nan)},
        {"shares": Shares(quantile=1.0), "clipping": Clipping.ADAPTIVE},
    ],
)
def test_an_impossible_plan_is_refused(changed: dict[str, object]) -> None:
    request: dict[str, object] = {
        "epsilon": 3.0,
        "delta": 1e-5,
        "rounds": 5,
        "local_steps": 5,
        "metrics_tables": 4,
        "shares": Shares(),
    }
    with pytest.raises(GemelError) as caught:
        plan(**{**request, **changed})  # type: ignore[arg-type]
    assert caught.value.code == "GEM305"


def test_noise_is_solved_for_from_epsilon_rounds_and_the_size_of_the_cohort() -> None:
    answer = solve_noise(epsilon=2, rounds=4, local_steps=5, cohort=740, batch=100)
    assert (answer.delta, answer.sample_rate, answer.cohort_order) == (1e-4, 0.1, 1000)
    assert 1.999 <= answer.noise.epsilon <= 2
    more = solve_noise(epsilon=2, rounds=4, local_steps=5, cohort=740)
    assert more.sample_rate == 1
    assert more.noise.training > answer.noise.training


@pytest.mark.parametrize(
    ("cohort", "order", "delta"),
    [
        (1, 1, 1e-3),
        (2, 10, 1e-3),
        (10, 10, 1e-3),
        (100, 100, 1e-3),
        (101, 1000, 1e-4),
        (999, 1000, 1e-4),
        (1000, 1000, 1e-4),
        (1001, 10_000, 1e-5),
        (10**9, 10**9, 1e-10),
    ],
)
def test_delta_is_a_tenth_of_one_over_the_order_of_the_cohort(cohort: int, order: int, delta: float) -> None:
    assert order_of(cohort) == order
    assert delta_for(cohort) == pytest.approx(delta, rel=1e-12)


@given(st.integers(1, 10**9 - 1))
def test_neighbouring_cohorts_have_the_same_delta_except_at_powers_of_ten(cohort: int) -> None:
    changes = delta_for(cohort) != delta_for(cohort + 1)
    assert changes == (cohort in {10**k for k in range(2, 9)})
    assert delta_for(cohort) <= max(1 / (10 * cohort), 1e-3)


@pytest.mark.parametrize("cohort", [0, -5, 10**9 + 1])
def test_an_impossible_cohort_is_refused(cohort: int) -> None:
    with pytest.raises(GemelError, match="GEM305"):
        delta_for(cohort)


@pytest.mark.parametrize("batch", [0, 1001])
def test_a_batch_larger_than_the_cohort_s_order_is_refused(batch: int) -> None:
    with pytest.raises(GemelError, match="GEM305"):
        solve_noise(epsilon=2, rounds=4, local_steps=5, cohort=740, batch=batch)


DITTO = StrategyPlan(personalisation=Personalisation.DITTO, ditto_lambda=0.5)


@pytest.mark.parametrize(
    ("ditto", "validate_every", "cross", "clipping"),
    [
        (False, 0, False, Clipping.FLAT),
        (True, 0, False, Clipping.FLAT),
        (False, 1, False, Clipping.ADAPTIVE),
        (False, 4, True, Clipping.FLAT),
        (True, 4, True, Clipping.ADAPTIVE),
    ],
)
def test_a_study_with_validations_personal_twins_and_a_matrix_costs_what_it_states(
    ditto: bool, validate_every: int, cross: bool, clipping: Clipping
) -> None:
    any_noise = NoisePlan(training=9.0, metrics=9.0, synthesis=9.0, count=9.0, epsilon=1.0, quantile=9.0)
    if clipping is Clipping.FLAT:
        any_noise = msgspec.structs.replace(any_noise, quantile=0.0)
    draft = msgspec.structs.replace(
        study_of(any_noise, epsilon=2.0, delta=1e-5, rounds=8, steps=3, q=0.5, clipping=clipping),
        strategy=DITTO if ditto else StrategyPlan(),
        pace=Pace(validate_every=validate_every),
        cross_site_validation=cross,
    )
    study = parse_study(planned_study(draft, shares=Shares()).to_payload())
    assert 2.0 - 1e-3 <= price(study.charges(), delta=1e-5) <= 2.0
    # The held-out patients' share is spent too, whatever the number of evaluations.
    paid = mechanisms_by_patient(study.charges())
    assert epsilon_of(paid[Share.HELD_OUT], delta=1e-5) >= 2.0 - 1e-3
    assert epsilon_of(paid[Share.TRAINING], delta=1e-5) >= 2.0 - 1e-3


def test_more_evaluations_and_a_second_twin_need_more_noise() -> None:
    numbers: dict[str, Any] = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "rounds": 5,
        "local_steps": 2,
        "metrics_tables": 2,
        "shares": Shares(),
    }
    one, many, two = (plan(**numbers, **more) for more in ({}, {"evaluations": 4}, {"twins": 2}))
    assert many.metrics == pytest.approx(2 * one.metrics, rel=1e-2)
    assert two.training == pytest.approx(math.sqrt(2) * one.training, rel=1e-2)
    assert (many.training, two.metrics) == pytest.approx((one.training, one.metrics), rel=1e-2)


@pytest.mark.parametrize("wrong", [{"evaluations": 0}, {"twins": 0}])
def test_no_evaluation_and_no_twin_are_no_plan(wrong: dict[str, int]) -> None:
    with pytest.raises(GemelError) as caught:
        plan(epsilon=1.0, delta=1e-5, rounds=1, local_steps=1, metrics_tables=1,
             shares=Shares(), **wrong)  # fmt: skip
    assert caught.value.code == "GEM305"
