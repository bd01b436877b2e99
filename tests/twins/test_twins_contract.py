"""What the twin of every installed programme keeps: nobody has to trust a twin that this file has not seen."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemel.client_node.audit.people import made_up_dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, TargetKind, TreatmentKind
from gemel.core.series import Series
from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer, check_trainable
from gemel.privacy.noise import NoiseSource
from gemel.twins.design import check_support
from gemel.twins.installed import definition_of, installed, make_twin
from gemel.twins.parameters import Mark
from gemel.twins.person_prior import person_prior
from gemel.twins.physiology import ChainPhysiology, OdePhysiology
from gemel.twins.reporting.credibility import credibility
from gemel.twins.solvers import Inputs, solve_chain, solve_ode
from gemel.twins.treatment_plan import NOTHING_CHANGED, Dose, TreatmentPlan, check_plan, planned_values
from gemel.twins.twin import Twin

PROGRAMMES = {programme.name: programme for programme in installed()}
PEOPLE = 6
# Of a mean over independent paths: five standard errors fail once in two million.
ERRORS = 5.0


@pytest.fixture(scope="module", params=sorted(PROGRAMMES), autouse=True)
def programme(request):
    return PROGRAMMES[request.param]


@pytest.fixture(scope="module")
def definition(programme):
    return definition_of(programme)


@pytest.fixture(scope="module")
def people(programme):
    return made_up_dataset(programme, patients=PEOPLE, seed=7)


@pytest.fixture(scope="module")
def twin(programme) -> Twin:
    """Parameters a little off their public start, so that nothing is without effect."""
    made = make_twin(programme)
    random = np.random.default_rng(1)
    made.load_arrays(
        {
            name: (value + 0.1 * random.standard_normal(value.shape)).astype(np.float32)
            for name, value in made.to_arrays().items()
        }
    )
    return made


@pytest.fixture(scope="module")
def example(programme, definition):
    """Raw values (1, d) of the example patient."""
    known = definition.example.values
    return np.array([[known.get(name, np.nan) for name in programme.feature_names]])


def losses(twin, dataset):
    with torch.no_grad():
        return twin(twin.tensors(dataset))


patterns = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((PEOPLE, 200)) < share,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
)
each_pattern = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@each_pattern
@given(patterns)
def test_loss_and_gradient_are_finite_whatever_is_missing(twin, people, missing):
    values = np.where(missing[:, : people.values.shape[1]], np.nan, people.values)
    loss = twin(twin.tensors(replace(people, values=values)))
    assert loss.shape == (PEOPLE,)
    assert torch.isfinite(loss).all()
    for gradient in torch.autograd.grad(loss.sum(), list(twin.parameters()), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@each_pattern
@given(patterns, st.integers(0, PEOPLE - 1))
def test_a_patients_loss_is_from_that_patients_row_alone(programme, twin, people, missing, row):
    values = np.where(missing[:, : people.values.shape[1]], np.nan, people.values)
    mine = replace(people, values=values)
    other = made_up_dataset(programme, patients=PEOPLE, seed=8)
    parts = {}
    for name in ("values", "time_years", "event", "targets"):
        parts[name] = getattr(mine, name).copy()
        parts[name][row] = getattr(other, name)[row]
    before, after = losses(twin, mine), losses(twin, replace(mine, **parts))
    kept = torch.arange(PEOPLE) != row
    torch.testing.assert_close(after[kept], before[kept], rtol=1e-4, atol=1e-5)
    assert after[row] != before[row]
    alone = losses(twin, mine.take(np.array([row])))
    torch.testing.assert_close(alone[0], before[row], rtol=1e-3, atol=1e-4)


def test_it_trains_under_the_private_engine(programme, twin):
    check_trainable(twin)
    model = copy.deepcopy(twin)
    plan = TrainingPlan(
        rounds=1,
        local_steps=1,
        learning_rate=0.1,
        momentum=0.0,
        max_grad_norm=1.0,
        sample_rate=1.0,
        noise_multiplier=0.5,
    )
    patients = twin.tensors(made_up_dataset(programme, patients=20, seed=3))
    DpTrainer(plan, noise=NoiseSource.for_tests(0), expected_patients=20).train(model, patients)
    before = twin.to_arrays()
    for name, value in model.to_arrays().items():
        assert np.isfinite(value).all()
        assert not np.array_equal(value, before[name])


@each_pattern
@given(patterns)
def test_what_it_predicts_are_probabilities(programme, twin, people, missing):
    values = np.where(missing[:, : people.values.shape[1]], np.nan, people.values)
    found = twin.predict(values)
    times, outcomes = len(programme.times_years), len(programme.outcomes)
    incidence = found.cumulative_incidence
    assert incidence.shape == (PEOPLE, times, outcomes)
    assert not incidence[:, 0].any()
    assert (np.diff(incidence, axis=1) >= -1e-9).all()
    assert ((incidence >= 0) & (incidence <= 1 + 1e-9)).all()
    assert (found.state >= -1e-9).all()
    assert found.state.sum(axis=2) == pytest.approx(found.alive, abs=1e-6)
    assert not incidence[:, :, 1:][
        np.broadcast_to(found.prevalent[:, None, 1:], incidence[:, :, 1:].shape)
    ].any()
    for target in programme.targets:
        if target.name not in found.targets:
            continue
        predicted = found.targets[target.name]
        if target.kind is TargetKind.VALUE_AT:
            assert predicted.shape == (PEOPLE, 2)
            assert np.isfinite(predicted).all()
            assert (predicted[:, 1] > 0).all()
        elif target.kind is TargetKind.ORDINAL:
            assert predicted.shape == (PEOPLE, len(target.levels) + 1)
            assert predicted.sum(axis=1) == pytest.approx(np.ones(PEOPLE))
            assert (predicted >= 0).all()
        else:
            assert predicted.shape == (PEOPLE,)
            assert ((predicted >= 0) & (predicted <= 1)).all()
    for course in found.courses.values():
        assert course.mean.shape == course.spread.shape == (PEOPLE, times)
        assert np.isfinite(course.mean).all()
        assert (course.spread >= 0).all()


def test_every_endpoint_is_predicted(programme, twin, people):
    found = twin.predict(people.values)
    for endpoint in programme.endpoints:
        risk = found.risk(programme, endpoint)
        assert risk.shape == (PEOPLE, max(1, len(endpoint.horizons_days)))
        assert np.isfinite(risk).all()


def test_many_futures_have_the_probabilities_that_are_predicted(programme, twin, people):
    paths, values = 3000, people.values[:3]
    found, drawn = twin.predict(values), twin.simulate(values, seed=11, paths=paths)
    came = np.where(drawn.event == 1, drawn.time_years, np.inf).reshape(3, paths, -1)
    assert drawn.event.shape == drawn.time_years.shape == (3 * paths, len(programme.outcomes))
    for step, years in enumerate(programme.times_years):
        p = found.cumulative_incidence[:, step]
        seen = (came <= np.float32(years) + 1e-6).mean(axis=1)
        # Beside chance: a half event, since a risk may be far below what so many paths can show.
        assert (np.abs(seen - p) <= ERRORS * np.sqrt(p * (1 - p) / paths) + 2.0 / paths).all()
    prevalent = (drawn.event == -1).reshape(3, paths, -1)
    assert (prevalent == found.prevalent[:, None]).all()


def test_many_futures_have_the_targets_that_are_predicted(programme, twin, people):
    paths, values = 3000, people.values[:3]
    found, drawn = twin.predict(values), twin.simulate(values, seed=12, paths=paths)
    for target in programme.targets:
        if target.name not in drawn.targets or target.name not in found.targets:
            continue
        value = drawn.targets[target.name].reshape(3, paths)
        predicted = found.targets[target.name]
        for row in range(3):
            known = value[row][np.isfinite(value[row])]
            if target.kind is TargetKind.ORDINAL:
                seen = np.bincount(known.astype(int), minlength=predicted.shape[1]) / len(known)
                error = np.sqrt(predicted[row] * (1 - predicted[row]) / len(known))
                assert (np.abs(seen - predicted[row]) <= ERRORS * error + 2.0 / len(known)).all()
            elif target.kind is TargetKind.VALUE_AT:
                mean, deviation = predicted[row]
                assert known.mean() == pytest.approx(mean, abs=ERRORS * deviation / math.sqrt(len(known)))
                assert known.std() == pytest.approx(deviation, rel=0.15)
            else:
                p = predicted[row]
                assert known.mean() == pytest.approx(
                    p, abs=ERRORS * math.sqrt(p * (1 - p) / len(known)) + 2 / len(known)
                )


def test_equal_seeds_give_equal_futures_and_others_do_not(twin, people):
    one, same, other = (twin.simulate(people.values, seed=s, paths=50) for s in (1, 1, 2))
    assert same_future(one, same)
    assert not np.array_equal(one.time_years, other.time_years)


def test_a_future_keeps_the_conventions_of_a_data_set(programme, twin, people):
    drawn = twin.simulate(people.values, seed=5, paths=100)
    horizon = np.float32(programme.times_years[-1])
    death, died = drawn.time_years[:, 0], drawn.event[:, 0] == 1
    assert set(np.unique(drawn.event)) <= {-1, 0, 1}
    assert (drawn.event[:, 0] >= 0).all()
    assert (death[~died] == horizon).all()
    for time, event in zip(drawn.time_years.T[1:], drawn.event.T[1:], strict=True):
        assert (time[event == -1] == 0).all()
        assert (time[event == 0] == death[event == 0]).all()
        assert (time[event == 1] <= death[event == 1]).all()
    for target in programme.targets:
        if target.kind is TargetKind.VALUE_AT and target.name in drawn.targets:
            gone = died & (death * DAYS_PER_YEAR < target.at_days - target.tolerance_days)
            assert np.isnan(drawn.targets[target.name][gone]).all()
    for course in drawn.courses.values():
        assert course.shape == (len(death), len(programme.times_years))


def same_future(one, other):
    return (
        np.array_equal(one.time_years, other.time_years)
        and np.array_equal(one.event, other.event)
        and all(np.array_equal(one.targets[n], other.targets[n], equal_nan=True) for n in one.targets)
        and all(np.array_equal(one.courses[n], other.courses[n], equal_nan=True) for n in one.courses)
    )


def test_a_plan_that_changes_nothing_leaves_every_future_as_it_is(programme, twin, example):
    values = example
    plain = twin.simulate(values, seed=3, paths=200)
    assert same_future(plain, twin.simulate(values, seed=3, paths=200, plan=TreatmentPlan(name="named")))
    recorded = {
        treatment.name: float(values[0, programme.feature_names.index(treatment.feature)])
        for treatment in programme.treatments
        if treatment.feature and treatment.feature in programme.feature_names
    }
    recorded = {name: amount for name, amount in recorded.items() if np.isfinite(amount)}
    if recorded:
        same = TreatmentPlan.always(recorded)
        assert same_future(plain, twin.simulate(values, seed=3, paths=200, plan=same))


def test_the_example_plans_change_what_is_expected_and_pair_the_futures(programme, definition, twin, example):
    plans = definition.example.plan, definition.example.other_plan
    for plan in plans:
        check_plan(programme, plan)
    first, second = (twin.predict(example, plan=plan) for plan in plans)
    changes = [not np.allclose(first.cumulative_incidence, second.cumulative_incidence, atol=1e-6)]
    changes += [not np.allclose(first.targets[n], second.targets[n], atol=1e-6) for n in first.targets]
    changes += [not np.allclose(c.mean, second.courses[n].mean, atol=1e-6) for n, c in first.courses.items()]
    assert any(changes)
    drawn = [twin.simulate(example, seed=9, paths=2000, plan=plan) for plan in plans]
    alone = twin.simulate(example, seed=10, paths=2000, plan=plans[1])
    death = [course.time_years[:, 0] for course in (*drawn, alone)]
    # Pairs go together more than strangers do.
    assert np.mean(death[0] == death[1]) >= np.mean(death[0] == death[2])
    paired, strange = (np.mean((drawn[0].event == other.event).all(axis=1)) for other in (drawn[1], alone))
    assert paired >= strange


def test_what_is_done_later_changes_nothing_before(programme, twin, people):
    later = [t for t in programme.treatments if not t.feature]
    if not later:
        pytest.skip("every treatment of this programme is one that the data know at the index date")
    day = programme.times_years[len(programme.times_years) // 2] * DAYS_PER_YEAR
    treatment = later[0]
    amount = 1.0 if treatment.kind is TreatmentKind.BINARY else treatment.high
    none = TreatmentPlan.always({treatment.name: 0.0})
    plan = TreatmentPlan(doses=(Dose(treatment=treatment.name, amount=amount, from_days=day),))
    values = people.values[:2]
    one, other = (twin.simulate(values, seed=4, paths=500, plan=p) for p in (none, plan))
    # Hazards look at the middle of a step: the step in which it starts is left out.
    start = programme.times_years[max(0, programme.step_at(day) - 1)]
    before = np.minimum(one.time_years, other.time_years) < start
    assert np.array_equal(one.time_years[before], other.time_years[before])
    predicted = [twin.predict(values, plan=p) for p in (none, plan)]
    until = programme.step_at(start * DAYS_PER_YEAR) + 1
    first, second = (p.cumulative_incidence[:, :until] for p in predicted)
    assert first == pytest.approx(second, abs=1e-6)


def test_a_plan_of_what_is_not_there_is_refused(twin, people):
    for call in (twin.predict, lambda values, plan: twin.simulate(values, seed=0, plan=plan)):
        with pytest.raises(GemelError) as caught:
            call(people.values, plan=TreatmentPlan.always({"snake_oil": 1.0}))
        assert caught.value.code == "GEM603"


def empty(rows):
    return Series(np.zeros(rows + 1, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))


def test_nothing_observed_is_the_prediction_itself(definition, twin, people, example):
    if not twin.observables:
        pytest.skip("this twin takes no observations")
    for values, plan in ((people.values, NOTHING_CHANGED), (example, definition.example.plan)):
        plain = twin.predict(values, plan=plan)
        for observations in ({}, {name: empty(len(values)) for name in twin.observables}):
            found = twin.assimilate(values, observations).predict(plan=plan)
            assert found.cumulative_incidence == pytest.approx(plain.cumulative_incidence, abs=1e-6)
            for name, predicted in plain.targets.items():
                assert found.targets[name] == pytest.approx(predicted, rel=1e-5, abs=1e-6)
            for name, course in plain.courses.items():
                assert found.courses[name].mean == pytest.approx(course.mean, rel=1e-5, abs=1e-6)
                assert found.courses[name].spread == pytest.approx(course.spread, rel=1e-4, abs=1e-6)


def test_what_is_not_observed_is_refused(twin, people):
    with pytest.raises(GemelError) as caught:
        twin.assimilate(people.values, {"aura": empty(PEOPLE)})
    assert caught.value.code == "GEM604"


def test_an_event_that_was_seen_is_certain(programme, twin, people):
    seen = [name for name in programme.outcome_names[1:] if name in twin.observables]
    if not seen:
        pytest.skip("this twin observes no outcome after the index date")
    outcome = programme.outcome_names.index(seen[0])
    rows = np.flatnonzero(~twin.predict(people.values).prevalent[:, outcome])[:1]
    step = len(programme.times_years) // 2
    day = programme.times_years[step] * DAYS_PER_YEAR
    one = {seen[0]: Series(np.array([0, 1]), np.float32([day]), np.float32([1.0]))}
    incidence = twin.assimilate(people.values[rows], one).predict().cumulative_incidence[0]
    assert (incidence[step:, outcome] == 1.0).all()
    assert not incidence[:step, outcome].any()
    assert not incidence[: step + 1, 0].any()
    none = {seen[0]: Series(np.array([0, 1]), np.float32([day]), np.float32([0.0]))}
    incidence = twin.assimilate(people.values[rows], none).predict().cumulative_incidence[0]
    assert not incidence[: step + 1, outcome].any()


def test_parameters_go_there_and_back(programme, twin, people):
    arrays = twin.to_arrays()
    other = make_twin(programme)
    other.load_arrays(arrays)
    assert {name: value.dtype for name, value in arrays.items()} == dict.fromkeys(arrays, np.float32)
    assert all(np.array_equal(value, arrays[name]) for name, value in other.to_arrays().items())
    first, second = (t.predict(people.values).cumulative_incidence for t in (twin, other))
    assert np.array_equal(first, second)
    broken = dict(arrays)
    broken.pop(next(iter(broken)))
    with pytest.raises(GemelError) as caught:
        other.load_arrays(broken)
    assert caught.value.code == "GEM602"


def test_the_example_patient_works(programme, definition, example):
    twin = make_twin(programme)
    shown = definition.example
    assert set(shown.values) <= set(programme.feature_names)
    check_support(programme, example)
    for plan in (shown.plan, shown.other_plan):
        planned_values(programme, example, plan)
        assert np.isfinite(twin.predict(example, plan=plan).cumulative_incidence).all()
    assert set(shown.observations) <= set(twin.observables)
    for count in range(1, 1 + max((len(pairs) for pairs in shown.observations.values()), default=0)):
        taken = {name: sorted(pairs)[:count] for name, pairs in shown.observations.items()}
        series = {
            name: Series(
                np.array([0, len(pairs)]),
                np.array([day for day, _ in pairs], np.float32),
                np.array([value for _, value in pairs], np.float32),
            )
            for name, pairs in taken.items()
        }
        individual = twin.assimilate(example, series)
        assert np.isfinite(individual.predict(plan=shown.plan).cumulative_incidence).all()
        for mean, deviation in individual.parameters.values():
            assert np.isfinite(mean).all()
            assert (deviation >= 0).all()


def test_every_number_has_a_source_and_a_mark(definition):
    for physiology in definition.physiology:
        names = [parameter.name for parameter in physiology.parameters]
        assert len(names) == len(set(names))
        for parameter in physiology.parameters:
            assert isinstance(parameter.mark, Mark)
            assert len(parameter.source) > 10
            assert parameter.unit
    for baseline in definition.baselines:
        assert isinstance(baseline.mark, Mark)
        assert len(baseline.source) > 10
    # A misspelt credibility factor is refused.
    credibility(definition.context)
    for claim in definition.claims:
        assert isinstance(claim.mark, Mark)
        assert len(claim.source) > 10
        assert claim.low <= claim.value <= claim.high


def drawn_theta(physiology, persons, random):
    """Parameters of random persons; what else a physiology needs it says by bounds, in `covariates`."""
    covariates = {
        name: torch.from_numpy(random.uniform(low, high, persons))
        for name, (low, high) in getattr(physiology, "covariates", {}).items()
    }
    prior = person_prior(physiology.parameters, persons, covariates=covariates)
    return prior.theta(torch.from_numpy(random.standard_normal((persons, len(prior.differing)))))


def drawn_inputs(physiology, programme, horizon, persons, random):
    """Treatments that change twice, within what a plan may ask for."""
    bounds = {t.name: (t.low, t.high) for t in programme.treatments}
    amounts = {
        name: torch.from_numpy(
            random.uniform(*bounds.get(name, (0.0, 1.0)), (persons, 3)) * (random.random((persons, 3)) < 0.7)
        )
        for name in physiology.inputs
    }
    return Inputs((-math.inf, horizon / 5, horizon / 2), amounts)


def days_of(physiology, programme):
    """The programme's grid, or what a physiology says is the time in which it acts."""
    acts = getattr(physiology, "horizon_days", None)
    if acts is not None:
        return np.linspace(0, acts, 13).tolist()
    return [years * DAYS_PER_YEAR for years in programme.times_years]


def test_a_physiology_stays_within_its_bounds(programme, definition):
    persons, random = 1000, np.random.default_rng(5)
    for physiology in definition.physiology:
        days = days_of(physiology, programme)
        theta = drawn_theta(physiology, persons, random)
        inputs = drawn_inputs(physiology, programme, days[-1], persons, random)
        if isinstance(physiology, OdePhysiology):
            course = solve_ode(physiology, theta, days, inputs=inputs)
            for i, variable in enumerate(physiology.states):
                values = course[:, :, i]
                assert torch.isfinite(values).all(), variable.name
                slack = 1e-6 * (variable.high - variable.low)
                assert float(values.min()) >= variable.low - slack, variable.name
                assert float(values.max()) <= variable.high + slack, variable.name
            for name, seen in physiology.observe(course[:, -1], theta).items():
                assert torch.isfinite(seen).all(), name
        else:
            assert isinstance(physiology, ChainPhysiology)
            course = solve_chain(physiology, theta, days, inputs=inputs)
            assert course.sum(2) == pytest.approx(torch.ones(course.shape[:2]), abs=1e-6)
            assert float(course.min()) >= -1e-9
            rates = physiology.rates(inputs.on(0.0, persons), theta)
            assert rates.sum(2) == pytest.approx(
                torch.zeros(rates.shape[:2]), abs=1e-6 * float(rates.abs().max())
            )
            off = rates * (1 - torch.eye(rates.shape[1]))
            assert float(off.min()) >= 0


def test_half_the_step_changes_nothing_that_matters(programme, definition):
    random = np.random.default_rng(6)
    for physiology in definition.physiology:
        if not isinstance(physiology, OdePhysiology):
            continue
        days = days_of(physiology, programme)
        theta = drawn_theta(physiology, 200, random)
        inputs = drawn_inputs(physiology, programme, days[-1], 200, random)
        whole, half = (
            solve_ode(physiology, theta, days, inputs=inputs, step_days=physiology.step_days / n)
            for n in (1, 2)
        )
        range_ = half.amax(dim=(0, 1)) - half.amin(dim=(0, 1))
        assert ((whole - half).abs() <= 1e-3 * range_ + 1e-9).all()
