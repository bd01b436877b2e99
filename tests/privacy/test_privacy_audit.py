"""The audit's own arithmetic, against oracles: a bound that is too large would accuse, one too small would miss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from any_synthesis import ANY_SYNTHESIS
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.study import Clipping, PrivacyPlan, Study, TrainingPlan
from gemel.privacy.accounting import epsilon
from gemel.privacy.audit import intervals, one_run, probes, tables
from gemel.privacy.audit.canaries import claim, distance_at_least
from gemel.privacy.audit.charges import agreement, gaussian_epsilon, recompute
from gemel.privacy.audit.membership import Attacked
from gemel.privacy.audit.report import AuditReport, Check, carry_out
from gemel.privacy.audit.subject import Watched, flat, one_step
from gemel.privacy.audit.suite import Effort, examine, shortened
from gemel.privacy.noise import NoiseSource

PLAN = TrainingPlan(
    rounds=6,
    local_steps=6,
    learning_rate=1.0,
    momentum=0.6,
    max_grad_norm=4.0,
    sample_rate=1.0,
    noise_multiplier=10.0,
)


def _check(*, passed: bool) -> Check:
    return Check("attack", "It holds.", "1", "2", passed=passed)


# --- from guesses to a bound ---------------------------------------------------------------------


def test_without_delta_the_p_value_is_the_tail_of_a_binomial() -> None:
    for correct in (0, 30, 61, 100):
        p = one_run.p_value(canaries=500, guesses=100, correct=correct, epsilon=0.7, delta=0.0)
        expected = stats.binomtest(
            max(correct, 0), 100, 1 / (1 + math.exp(-0.7)), alternative="greater"
        ).pvalue
        assert p == pytest.approx(expected)


def test_delta_only_ever_raises_the_p_value() -> None:
    values = [
        one_run.p_value(canaries=1000, guesses=200, correct=150, epsilon=0.5, delta=delta)
        for delta in (0.0, 1e-6, 1e-4, 1e-2, 0.1)
    ]
    assert all(a <= b for a, b in pairwise(values))
    assert values[-1] == 1.0


def test_the_ceiling_is_that_of_all_guesses_right() -> None:
    # P(all of 400 right) = 5 % at accuracy 0.05^(1/400).
    accuracy = 0.05 ** (1 / 400)
    bound = one_run.lower_bound(canaries=1000, guesses=400, correct=400, delta=0.0)
    assert bound == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-6)


def test_guesses_at_random_disprove_nothing() -> None:
    assert one_run.lower_bound(canaries=1000, guesses=400, correct=200, delta=0.0) == 0.0


@pytest.mark.parametrize("eps", [0.5, 1.5])
def test_the_bound_is_wrong_at_most_once_in_twenty_for_randomised_response(eps: float) -> None:
    """The mechanism at which the bound is tight: every guess right with probability e^ε / (1 + e^ε)."""
    draw = np.random.default_rng(1)
    right = draw.binomial(200, 1 / (1 + math.exp(-eps)), size=400)
    bounds = {
        int(r): one_run.lower_bound(canaries=200, guesses=200, correct=int(r), delta=0.0) for r in set(right)
    }
    wrong = sum(bounds[int(r)] > eps for r in right)
    assert wrong <= stats.binom.ppf(0.9999, 400, 0.05)
    assert np.median([bounds[int(r)] for r in right]) > eps - 0.5, "and it is not far below either"


def test_more_right_guesses_never_disprove_less() -> None:
    bounds = [
        one_run.lower_bound(canaries=300, guesses=100, correct=correct, delta=1e-5)
        for correct in range(50, 101, 10)
    ]
    assert all(a <= b for a, b in pairwise(bounds))


def test_the_impossible_is_no_outcome() -> None:
    with pytest.raises(ValueError, match="5 of 4 of 10"):
        one_run.p_value(canaries=10, guesses=4, correct=5, epsilon=1.0, delta=0.0)


def test_the_loudest_and_the_quietest_are_guessed() -> None:
    scores = np.array([5.0, -4.0, 0.1, 3.0, -3.0, 0.0, 0.2, -0.1, 0.3, -0.2])
    present = scores > 1
    assert one_run.guess(scores, present, share=0.2) == (4, 4)
    assert one_run.guess(-scores, present, share=0.2) == (4, 0)


@pytest.mark.parametrize("apart", [0.0, 0.5, 2.0])
def test_the_distance_of_two_groups_of_scores_is_bounded_from_below(apart: float) -> None:
    draw = np.random.default_rng(4)
    present = draw.random(4000) < 0.5
    least = [
        distance_at_least(3.0 * (draw.standard_normal(4000) + apart * present), present) for _ in range(50)
    ]
    assert max(least) <= apart
    assert np.median(least) >= max(0.0, apart - 0.25)


def test_scores_without_spread_tell_nothing() -> None:
    assert distance_at_least(np.ones(10), np.arange(10) < 5) == 0.0


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (250, 1000)])
def test_proportions_have_the_limits_of_clopper_and_pearson(successes: int, trials: int) -> None:
    oracle = stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert intervals.at_least(successes, trials) == pytest.approx(oracle.low)
    assert intervals.at_most(successes, trials) == pytest.approx(oracle.high)


def test_a_mean_square_lies_within_its_limits_as_often_as_it_says() -> None:
    low, high = intervals.variance_ratio_limits(50, alpha=0.1)
    ratios = np.mean(np.random.default_rng(2).standard_normal((20_000, 50)) ** 2, axis=1)
    assert np.mean((ratios >= low) & (ratios <= high)) == pytest.approx(0.9, abs=0.01)


@given(
    false_positives=st.floats(1e-4, 0.5),
    eps=st.floats(0.01, 8.0),
    delta=st.sampled_from([0.0, 1e-5, 1e-3]),
)
def test_the_largest_true_positive_rate_disproves_just_its_own_epsilon(
    false_positives: float, eps: float, delta: float
) -> None:
    rate = intervals.most_true_positives(false_positives, eps, delta)
    assert false_positives <= rate <= 1
    assert intervals.epsilon_of_rates(rate, false_positives, delta) <= eps + 1e-6


def test_an_attack_that_is_never_right_disproves_nothing() -> None:
    assert intervals.epsilon_of_rates(0.0, 0.0, 1e-5) == 0.0
    assert intervals.epsilon_of_rates(0.3, 0.3, 0.0) == 0.0


# --- recomputing a price -------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_the_closed_form_of_a_gaussian_agrees_with_the_accountant(mu: float) -> None:
    one = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=1 / mu)
    assert gaussian_epsilon(mu, delta=1e-5) == pytest.approx(epsilon((one,), delta=1e-5), abs=2e-4)


def test_what_is_private_without_epsilon_costs_none() -> None:
    assert gaussian_epsilon(1e-7, delta=1e-5) == 0.0


def test_the_recomputation_agrees_with_the_accountant_on_a_mixed_study() -> None:
    paid = [
        Mechanism(kind=MechanismKind.POISSON_GAUSSIAN, noise_multiplier=1.1, sample_rate=0.05, count=60),
        Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=12.0, count=10),
        Mechanism(kind=MechanismKind.LAPLACE, noise_multiplier=20.0, count=2),
    ]
    assert agreement(epsilon(paid, delta=1e-5), recompute(paid, delta=1e-5)) < 0.01


def test_the_recomputation_counts_every_round() -> None:
    round_of = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=5.0, count=4)
    assert recompute([round_of] * 3, delta=1e-5) > 1.5 * recompute([round_of], delta=1e-5)


# --- tables, membership --------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 3.0, 40.0])
def test_the_law_of_the_discrete_gaussian_is_a_distribution(sigma: float) -> None:
    reach = np.arange(-600, 601)
    assert tables.mass(reach, sigma).sum() == pytest.approx(1.0)
    # Canonne, Kamath & Steinke: no larger than the continuous one, and from σ = 1 on nearly equal.
    assert tables.variance_of(sigma) <= sigma**2
    if sigma > 1:
        assert tables.variance_of(sigma) == pytest.approx(sigma**2)


def test_auc_and_rates_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    present = draw.random(4000) < 0.5
    scores = draw.standard_normal(4000) + 0.7 * present
    attacked = Attacked(scores, present)
    assert attacked.auc == pytest.approx(roc_auc_score(present, scores))
    false, true, _ = roc_curve(present, scores, drop_intermediate=False)
    hits, members, alarms, strangers = attacked.true_positives_at(0.01)
    assert alarms / strangers <= 0.01
    assert hits / members == pytest.approx(true[false <= 0.01].max(), abs=0.005)


# --- watching a trainer --------------------------------------------------------------------------


def test_a_release_is_the_clipped_sum_in_units_of_the_bound() -> None:
    plan = one_step(PLAN, noise_multiplier=0.0)
    watched = Watched(lambda: probes.RollCall(6), plan, NoiseSource.for_tests(0))
    # Gradients of length 1, below the bound of 4: each patient moves its own seat by a quarter.
    assert flat(watched.release(probes.seats(4, of=6))) == pytest.approx([0.25] * 4 + [0, 0])
    assert flat(watched.release(probes.seats(1, of=6))) == pytest.approx([0.25] + [0] * 5)


def test_the_visits_of_a_patient_share_its_length() -> None:
    plan = one_step(PLAN, noise_multiplier=0.0, max_grad_norm=1.0)
    hall = probes.seats_of_visits(2, visits=4)
    moved = flat(Watched(lambda: probes.RollCall(8), plan, NoiseSource.for_tests(0)).release(hall))
    assert moved == pytest.approx([0.5] * 8)


def test_a_shortened_plan_claims_less() -> None:
    short = shortened(PLAN, 12)
    assert short.rounds * short.local_steps == 12
    assert shortened(PLAN, 4).local_steps == 4
    assert shortened(PLAN, 400) == PLAN
    assert claim(short, delta=1e-5) < claim(PLAN, delta=1e-5)


def test_the_claim_is_that_of_sampled_steps_where_the_plan_samples() -> None:
    sampled = msgspec.structs.replace(PLAN, sample_rate=0.1)
    assert claim(sampled, delta=1e-5) < claim(PLAN, delta=1e-5)


# --- the report ----------------------------------------------------------------------------------


def test_an_attack_that_cannot_be_finished_is_a_failed_check_without_its_text() -> None:
    def crash() -> Iterator[Check]:
        yield _check(passed=True)
        raise ValueError("patient 4711")

    def refuse() -> Iterator[Check]:
        raise GemelError("GEM306", "patient 4711")
        yield

    finished, unfinished = carry_out("attack", crash)
    assert (finished.passed, unfinished.passed) == (True, False)
    (refused,) = carry_out("attack", refuse)
    assert "GEM306" in refused.measured
    assert "4711" not in f"{unfinished}{refused}"


def test_a_report_with_one_broken_promise_is_gem330() -> None:
    AuditReport("x", (_check(passed=True),)).require()
    report = AuditReport("x", (_check(passed=True), _check(passed=False)))
    with pytest.raises(GemelError, match="GEM330.*1 of 2") as caught:
        report.require()
    assert caught.value.exit_code == 1
    assert report.as_dict()["passed"] is False


# --- every kind of plan --------------------------------------------------------------------------

SMALL = Effort(victims=8, releases=40, calls=120, draws=5000, canaries=200, shadows=16, steps=8)
KINDS = {
    "layer by layer": {"clipping": Clipping.PER_LAYER},
    "adaptive": {"clipping": Clipping.ADAPTIVE, "quantile_noise_multiplier": 20.0},
    "adaptive, sampled": {
        "clipping": Clipping.ADAPTIVE,
        "quantile_noise_multiplier": 20.0,
        "sample_rate": 0.1,
    },
    "sampled rarely": {"sample_rate": 0.01},
    "small bound": {"max_grad_norm": 1e-3},
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_plan_of_any_kind_passes(kind: str) -> None:
    plan = msgspec.structs.replace(PLAN, **KINDS[kind])
    study = Study(
        schema="gemel/study/1",
        study_id="audit",
        title="An audit",
        purpose="to test it",
        programme="none",
        programme_version="1",
        training=plan,
        privacy=PrivacyPlan(
            epsilon=10.0,
            delta=1e-5,
            count_noise_multiplier=9.0,
            metrics_noise_multiplier=6.0,
            synthesis_noise_multiplier=3.0,
        ),
        metrics_tables=2,
        synthesis=ANY_SYNTHESIS,
        minimum_patients=1,
        quorum=1,
        round_timeout_s=60.0,
        sites={},
    )
    subject = probes.logistic_subject(plan, delta=1e-5, patients=120, inputs=10)
    broken = [check for check in examine(subject, study, effort=SMALL) if not check.passed]
    assert broken == []
