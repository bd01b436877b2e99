"""Tier 1: the twin forward, by policy; what it may say of privacy; and a trial of virtual patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemel.core.errors import GemelError
from gemel.core.mechanism import noisy_steps
from gemel.core.programme import DAYS_PER_YEAR
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.model import Trajectories, possible
from gemel.synthetic.trajectory.policy import Policy, by_lot, by_rule, everybody
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated, whole_statement
from gemel.synthetic.trajectory.two_arms import two_arms
from gemel.twins.causal.estimand import declare
from gemel.twins.installed import make_twin
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.reference_cohort import reference_values
from gemel.twins.treatment_plan import TreatmentPlan

ASPIRIN = TreatmentPlan.always({"aspirin": 1.0}, name="aspirin")
NONE = TreatmentPlan.always({"aspirin": 0.0}, name="none")
STEPS = (noisy_steps(8.0, 20, sample_rate=1.0),)


def statement(claimed: float | None = None) -> PrivacyStatement:
    return PrivacyStatement(
        epsilon=epsilon_of(STEPS, delta=1e-5) if claimed is None else claimed,
        delta=1e-5,
        mechanisms=STEPS,
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure",
    )


def model(**changes: object) -> TwinSimulated:
    return TwinSimulated(make_twin(PROGRAMME), visit_days=(0, 14, 182), **changes)  # type: ignore[arg-type]


def people(patients: int) -> np.ndarray:
    return reference_values(PROGRAMME, patients, seed=3)


def test_a_patients_luck_is_the_same_under_every_policy() -> None:
    values, twin = people(200), model()
    given = [twin.trajectory(values, 182, everybody(plan), 5) for plan in (ASPIRIN, NONE)]
    lot = twin.trajectory(values, 182, Policy((ASPIRIN, NONE), lambda b, r: np.arange(len(b)) % 2), 5)
    for arm in (0, 1):
        mine = lot.assigned == arm
        assert np.array_equal(lot.time_years[mine], given[arm].time_years[mine])
        assert np.array_equal(lot.event[mine], given[arm].event[mine])


def test_nobody_is_seen_after_death_or_after_the_horizon() -> None:
    drawn = model().trajectory(people(3000), 100, everybody(), 1)
    assert drawn.days.max() == 14
    end = np.rint(drawn.time_years[:, 0].astype(float) * DAYS_PER_YEAR)
    died = drawn.event[:, 0] == 1
    assert died.any()
    assert end.max() <= 100
    dead_rows = died[drawn.rows]
    assert np.all(drawn.days[dead_rows] <= end[drawn.rows][dead_rows])


def test_impossible_visits_are_left_out_and_the_rest_is_in_order() -> None:
    drawn = Trajectories(
        patients=2,
        rows=np.array([1, 0, 0, 0, 1]),
        days=np.array([5, 30, 3, 3, -1]),
        values={"x": np.arange(5.0)},
        assigned=np.zeros(2, np.int64),
        outcomes=("death",),
        time_years=np.array([[10 / DAYS_PER_YEAR], [1.0]], np.float32),
        event=np.array([[1], [0]], np.int8),
    )
    kept = possible(drawn)
    assert kept.rows.tolist() == [0, 1]
    assert kept.days.tolist() == [3, 5]
    assert kept.values["x"].tolist() == [2.0, 0.0]


def test_a_twin_of_publications_costs_nobody_anything() -> None:
    assert model().statement() is None
    assert whole_statement([None, None]) is None


def test_a_twin_that_learnt_without_a_guarantee_says_nothing_of_privacy_and_simulates_no_trial() -> None:
    changed = model()
    with torch.no_grad():
        next(changed.twin.parameters()).add_(0.1)
    with pytest.raises(GemelError, match="not differentially private") as refused:
        changed.statement()
    assert refused.value.code == "GEM702"
    estimand = declare(PROGRAMME, ASPIRIN, NONE, endpoint="dead_or_dependent", population="virtual people")
    with pytest.raises(GemelError, match="not differentially private"):
        two_arms(changed, people(10), estimand, seed=1, baselines=None)


@pytest.mark.parametrize("claimed", [0.1, float("inf")])
def test_a_statement_that_claims_less_than_was_spent_is_refused(claimed: float) -> None:
    with pytest.raises(GemelError, match="statement of the model"):
        model(trained=statement(claimed)).statement()


def test_sources_of_the_same_patients_add_up() -> None:
    one, two = statement(), whole_statement([statement(), None, statement()])
    assert two is not None
    assert one.epsilon < two.epsilon < 2 * one.epsilon
    assert sum(m.count for m in two.mechanisms) == 40


def test_a_virtual_trial_compares_the_same_people_with_the_same_luck() -> None:
    estimand = declare(PROGRAMME, ASPIRIN, NONE, endpoint="dead_or_dependent", population="virtual people")
    learnt = model(trained=statement())
    with torch.no_grad():
        for number, parameter in enumerate(learnt.twin.parameters()):
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    found = two_arms(learnt, people(400), estimand, seed=2, baselines=statement())
    trial = found.trial
    assert found.privacy is not None
    assert found.privacy.epsilon > statement().epsilon
    assert len(trial.arm) == len(trial.other_arm) == 400
    assert 0 < trial.paired_error < trial.parallel_error
    same = [i for i, name in enumerate(PROGRAMME.feature_names) if name != "aspirin"]
    assert np.array_equal(trial.arm.values[:, same], trial.other_arm.values[:, same], equal_nan=True)


def test_policies_choose_by_rule_and_by_lot() -> None:
    random = np.random.default_rng(0)
    values = people(4000)
    age = PROGRAMME.feature_names.index("age_years")
    rule = by_rule(lambda rows: rows[:, age] > 70, ASPIRIN, NONE)
    assert np.array_equal(rule.assign(values, random) == 0, values[:, age] > 70)
    assert by_lot([ASPIRIN, NONE], [0.25, 0.75]).assign(values, random).mean() == pytest.approx(
        0.75, abs=0.04
    )
    with pytest.raises(GemelError, match="no shares"):
        by_lot([ASPIRIN, NONE], [0.5, 0.6])
    with pytest.raises(GemelError, match="no plan"):
        Policy((ASPIRIN,), lambda rows, r: np.ones(len(rows), int)).assign(values, random)


def test_the_interval_of_a_virtual_trial_holds_how_far_the_twin_may_be_off() -> None:
    estimand = declare(PROGRAMME, ASPIRIN, NONE, endpoint="dead_or_dependent", population="virtual people")
    learnt = model(trained=statement())
    learnt.twin.load_arrays(moved(learnt.twin.to_arrays(), 0.1, 0))
    draws = [moved(learnt.twin.to_arrays(), 0.1, seed) for seed in range(1, 9)]
    without = two_arms(learnt, people(300), estimand, seed=2, baselines=statement())
    assert without.interval is without.parameter_error is None
    found = two_arms(learnt, people(300), estimand, seed=2, baselines=statement(), parameters=draws)
    assert found.trial.difference == without.trial.difference
    assert found.interval is not None
    assert found.parameter_error is not None
    low, high = found.interval
    assert low < found.trial.difference < high
    # Wider than either error alone would have it.
    assert (high - low) / 2 > 1.96 * max(found.trial.paired_error, found.parameter_error)
    same = two_arms(
        learnt, people(300), estimand, seed=2, baselines=None, parameters=[learnt.twin.to_arrays()] * 2
    )
    assert same.parameter_error == pytest.approx(0, abs=1e-12)
    assert same.interval is not None
    assert same.interval[1] - same.interval[0] == pytest.approx(2 * 1.96 * same.trial.paired_error, rel=1e-3)


def moved(arrays: dict[str, np.ndarray], by: float, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: (array + by * random.standard_normal(array.shape)).astype(np.float32)
        for name, array in arrays.items()
    }
