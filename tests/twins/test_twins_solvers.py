"""What moves physiologies: convergence, conservation, treatments and jumps, against scipy and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch.func import functional_call, grad, vmap

from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer, check_trainable
from gemel.privacy.noise import NoiseSource
from gemel.twins.parameters import StateVariable
from gemel.twins.physiology import ChainPhysiology, OdePhysiology
from gemel.twins.solvers import (
    Inputs,
    Jump,
    observed_course,
    ode_states,
    planned_inputs,
    solve_chain,
    solve_ode,
    transition_matrices,
)
from gemel.twins.treatment_plan import Dose, TreatmentPlan


def variable(name, low=-1e9, high=1e9):
    return StateVariable(name, name, "1", low, high)


class Predation:
    """Lotka-Volterra: nonlinear, with a quantity that it conserves."""

    states = (variable("prey"), variable("predators"))
    parameters = ()
    inputs = ("hunting",)
    step_days = 0.05

    def start(self, theta):
        return torch.stack([theta["prey"], theta["predators"]], dim=1)

    def derivative(self, state, inputs, theta, day):
        prey, predators = state.unbind(1)
        hunted = inputs["hunting"] * prey
        return torch.stack(
            [theta["a"] * prey - prey * predators - hunted, prey * predators - theta["d"] * predators], 1
        )

    def observe(self, state, theta):
        return {"total": state.sum(1)}


class Stages:
    """Three stages in a row; a drug slows the first passage."""

    states = (variable("mild"), variable("severe"), variable("dead"))
    parameters = ()
    inputs = ("drug",)

    def start(self, theta):
        one = torch.ones_like(theta["on"])
        return torch.stack([one, 0 * one, 0 * one], dim=1)

    def rates(self, inputs, theta):
        on, off, die = theta["on"] * (1 - 0.5 * inputs["drug"]), theta["off"], theta["die"]
        none = torch.zeros_like(on)
        rows = [[-on, on, none], [off, -off - die, die], [none, none, none]]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def doubles(**values):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


PEOPLE = doubles(prey=[1.0, 0.4, 2.0], predators=[0.5, 1.0, 1.5], a=[1.1, 0.8, 1.4], d=[0.4, 0.6, 0.5])
NOT_HUNTED = Inputs(amounts={"hunting": torch.zeros(1, 1, dtype=torch.float64)})
RATES = doubles(on=[0.1, 0.3], off=[0.05, 0.0], die=[0.2, 0.02])


def by_scipy(person, days, hunting=lambda day: 0.0):
    theta = {name: float(value[person]) for name, value in PEOPLE.items()}

    def f(day, x):
        return [
            theta["a"] * x[0] - x[0] * x[1] - hunting(day) * x[0],
            x[0] * x[1] - theta["d"] * x[1],
        ]

    start = [theta["prey"], theta["predators"]]
    return solve_ivp(
        f, (days[0], days[-1]), start, t_eval=days, rtol=1e-11, atol=1e-12, method="DOP853", max_step=0.05
    ).y.T


def test_the_examples_are_physiologies():
    assert isinstance(Predation(), OdePhysiology)
    assert isinstance(Stages(), ChainPhysiology)


def test_an_ode_equals_scipys_solution():
    days = [0.0, 1.0, 2.5, 7.0]
    states = solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED, step_days=0.01)
    for person in range(3):
        assert states[person].numpy() == pytest.approx(by_scipy(person, days), abs=1e-8)


def test_the_error_falls_sixteenfold_when_the_step_is_halved():
    exact = torch.tensor(np.stack([by_scipy(i, [0.0, 4.0]) for i in range(3)]))
    errors = [
        (solve_ode(Predation(), PEOPLE, [0.0, 4.0], inputs=NOT_HUNTED, step_days=4 / n) - exact).abs().max()
        for n in (20, 40, 80, 160)
    ]
    ratios = [float(a / b) for a, b in pairwise(errors)]
    assert ratios[-1] == pytest.approx(16, rel=0.1)
    assert min(ratios) > 12


def test_the_order_is_kept_by_a_treatment_that_starts_and_stops_between_the_times_asked_for():
    plan = TreatmentPlan(doses=(Dose(treatment="hunting", amount=0.7, from_days=0.77, to_days=2.345),))
    inputs = planned_inputs(("hunting",), plan)
    days = [0.0, 4.0]

    def after(steps):
        return solve_ode(Predation(), PEOPLE, days, inputs=inputs, step_days=4 / steps)[:, -1]

    # Piecewise by scipy, so that its own step sees the edges as well.
    pieces = []
    for person in range(3):
        theta = {name: float(value[person]) for name, value in PEOPLE.items()}
        x = [theta["prey"], theta["predators"]]
        for left, right, hunting in ((0, 0.77, 0.0), (0.77, 2.345, 0.7), (2.345, 4, 0.0)):

            def f(_, y, theta=theta, hunting=hunting):
                return [theta["a"] * y[0] - y[0] * y[1] - hunting * y[0], y[0] * y[1] - theta["d"] * y[1]]

            x = solve_ivp(f, (left, right), x, rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]
        pieces.append(x)
    exact = torch.tensor(np.stack(pieces))
    coarse, fine = ((after(n) - exact).abs().max() for n in (40, 80))
    assert fine < 1e-6
    assert float(coarse / fine) == pytest.approx(16, rel=0.25)


def test_what_the_equations_conserve_is_conserved():
    days = np.linspace(0, 10, 21).tolist()
    states = solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED)
    prey, predators = states.unbind(2)
    conserved = prey - PEOPLE["d"][:, None] * prey.log() + predators - PEOPLE["a"][:, None] * predators.log()
    assert conserved == pytest.approx(conserved[:, :1].expand_as(conserved), abs=1e-5)


def test_a_jump_is_taken_on_its_day_and_the_state_there_is_the_one_after_it():
    jump = Jump(2.0, lambda state: state * torch.tensor([0.5, 1.0]))
    days = [0.0, 2.0, 4.0]
    states = solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED, jumps=[jump])
    before = solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED)
    assert states[:, 1, 0] == pytest.approx(0.5 * before[:, 1, 0])
    on = solve_ode(Predation(), PEOPLE, [2.0, 4.0], inputs=NOT_HUNTED, start=states[:, 1])
    assert states[:, 2] == pytest.approx(on[:, 1])
    between = solve_ode(Predation(), PEOPLE, [0.0, 4.0], inputs=NOT_HUNTED, jumps=[jump])
    assert between[:, 1] == pytest.approx(states[:, 2], abs=1e-7)
    first = solve_ode(Predation(), PEOPLE, [2.0, 4.0], inputs=NOT_HUNTED, start=before[:, 1], jumps=[jump])
    assert first == pytest.approx(states[:, 1:])


def test_states_come_one_after_the_other_as_in_the_whole():
    days = [0.0, 1.0, 3.0]
    whole = solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED)
    for t, state in enumerate(ode_states(Predation(), PEOPLE, days, inputs=NOT_HUNTED)):
        assert torch.equal(state, whole[:, t])
    assert torch.equal(observed_course(Predation(), PEOPLE, whole)["total"], whole.sum(2))


def test_a_treatment_that_the_plan_does_not_name_stays_as_recorded():
    recorded = {"hunting": torch.tensor([0.0, 0.3])}
    inputs = planned_inputs(("hunting", "fishing"), TreatmentPlan(), recorded=recorded)
    assert inputs.on(100.0, 2)["hunting"].tolist() == pytest.approx([0.0, 0.3])
    assert inputs.on(0.0, 2)["fishing"].tolist() == [0.0, 0.0]
    planned = planned_inputs(("hunting",), TreatmentPlan.always({"hunting": 0.9}), recorded=recorded)
    assert planned.on(0.0, 2)["hunting"].tolist() == pytest.approx([0.9, 0.9])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_amounts_are_those_of_the_plan_on_every_day(data):
    ends = sorted(data.draw(st.sets(st.integers(0, 50), min_size=2, max_size=8)))
    doses = tuple(
        Dose(treatment="x", amount=float(i + 1), from_days=float(a), to_days=float(b))
        for i, (a, b) in enumerate(zip(ends[::2], ends[1::2], strict=False))
    )
    plan = TreatmentPlan(doses=doses)
    day = data.draw(st.floats(0, 60))
    assert planned_inputs(("x",), plan).on(day, 1)["x"].item() == plan.amount("x", day)
    assert plan.amounts("x", np.array([[day, 0.0]])).tolist() == [
        [plan.amount("x", day), plan.amount("x", 0.0)]
    ]


@pytest.mark.parametrize("days", [[0.0, 0.0], [0.0, 2.0, 1.0]])
def test_days_that_do_not_increase_are_refused(days):
    with pytest.raises(ValueError, match="increase"):
        solve_ode(Predation(), PEOPLE, days, inputs=NOT_HUNTED)
    with pytest.raises(ValueError, match="increase"):
        solve_chain(Stages(), RATES, days, inputs=planned_inputs(("drug",), TreatmentPlan()))


@st.composite
def generators(draw):
    states = draw(st.integers(2, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    size = draw(st.floats(0.0, 20.0))
    rates = np.random.default_rng(seed).exponential(size, (3, states, states))
    rates *= np.random.default_rng(seed + 1).random(rates.shape) < 0.6
    rates[:, range(states), range(states)] = 0
    rates[:, range(states), range(states)] = -rates.sum(2)
    return torch.from_numpy(rates)


@settings(max_examples=60, deadline=None)
@given(generators(), st.floats(0, 20), st.floats(0, 20))
def test_transition_probabilities_are_probabilities_and_a_semigroup(rates, s, t):
    there = transition_matrices(rates, s)
    assert there.sum(2) == pytest.approx(torch.ones(there.shape[:2], dtype=torch.float64), abs=1e-8)
    assert float(there.min()) > -1e-9
    both = there @ transition_matrices(rates, t)
    assert transition_matrices(rates, s + t) == pytest.approx(both, abs=1e-7)
    years = torch.full((len(rates),), s, dtype=torch.float64)
    assert torch.equal(transition_matrices(rates, years), there)


@settings(max_examples=40, deadline=None)
@given(generators(), st.floats(0, 10))
def test_transition_probabilities_equal_scipys_exponential(rates, years):
    mine = transition_matrices(rates, years)
    for i, generator in enumerate(rates.numpy()):
        assert mine[i].numpy() == pytest.approx(expm(generator * years), abs=1e-9)


def test_a_chain_under_a_plan_equals_the_product_of_its_pieces():
    plan = TreatmentPlan(doses=(Dose(treatment="drug", amount=1.0, from_days=100.0, to_days=500.0),))
    inputs = planned_inputs(("drug",), plan)
    days = [0.0, 365.25, 730.5]
    states = solve_chain(Stages(), RATES, days, inputs=inputs)
    on = {"drug": torch.ones(2, dtype=torch.float64)}
    off = {"drug": torch.zeros(2, dtype=torch.float64)}
    for person in range(2):
        q_on, q_off = (Stages().rates(given, RATES)[person].numpy() for given in (on, off))
        middle = np.array([1.0, 0, 0]) @ expm(q_off * 100 / 365.25) @ expm(q_on * 265.25 / 365.25)
        end = middle @ expm(q_on * (500 - 365.25) / 365.25) @ expm(q_off * (730.5 - 500) / 365.25)
        assert states[person, 1].numpy() == pytest.approx(middle, abs=1e-12)
        assert states[person, 2].numpy() == pytest.approx(end, abs=1e-12)


def test_shared_rates_give_everybody_the_course_of_one():
    shared = {name: value[:1] for name, value in RATES.items()}
    inputs = planned_inputs(("drug",), TreatmentPlan())
    start = torch.eye(3, dtype=torch.float64)
    days = np.linspace(0, 3652.5, 11).tolist()
    together = solve_chain(Stages(), shared, days, inputs=inputs, start=start)
    assert together.shape == (3, 11, 3)
    alone = solve_chain(Stages(), shared, days, inputs=inputs)
    assert together[0] == pytest.approx(alone[0])
    assert together[2, -1].tolist() == [0.0, 0.0, 1.0]


def test_each_persons_gradient_by_vmap_is_that_of_the_batch():
    inputs = planned_inputs(("hunting",), TreatmentPlan.always({"hunting": 0.2}))

    def ode(theta):
        return solve_ode(Predation(), theta, [0.0, 1.0, 2.0], inputs=inputs)[:, -1].sum(1)

    def chain(theta):
        none = planned_inputs(("drug",), TreatmentPlan())
        return solve_chain(Stages(), theta, [0.0, 400.0], inputs=none)[:, -1, 2]

    for function, theta in ((ode, PEOPLE), (chain, RATES)):
        apart = vmap(grad(lambda one, f=function: f({k: v[None] for k, v in one.items()})[0]))(theta)
        together = grad(lambda all_, f=function: f(all_).sum())(theta)
        for name in theta:
            assert apart[name] == pytest.approx(together[name])
    step = 1e-6
    more = {**RATES, "on": RATES["on"] + step}
    assert ((chain(more) - chain(RATES)) / step) == pytest.approx(
        grad(lambda t: chain(t).sum())(RATES)["on"], rel=1e-4
    )


class Learner(torch.nn.Module):
    """A patient's rate from a covariate, through an ODE and a chain."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.encoder.weight.copy_(torch.tensor([[0.2, -0.1], [0.1, 0.3]]))
            self.encoder.bias.zero_()

    def forward(self, batch):
        moved = self.encoder(batch["x"])
        ones = torch.ones_like(moved[:, 0])
        theta = {"prey": ones, "predators": 0.5 * ones, "a": moved[:, 0].exp(), "d": 0.5 * ones}
        theta |= {"on": 0.1 * moved[:, 1].exp(), "off": 0.05 * ones, "die": 0.1 * ones}
        hunted = Inputs((-math.inf, 0.5), {"hunting": batch["hunting"]})
        state = solve_ode(Predation(), theta, [0.0, 1.0], inputs=hunted, step_days=0.25)[:, -1, 0]
        plan = planned_inputs(("drug",), TreatmentPlan())
        chain = solve_chain(Stages(), theta, [0.0, 365.25], inputs=plan)[:, -1, 2]
        return (state - batch["y"]) ** 2 - chain.log()


def test_a_twin_over_both_solvers_trains_under_the_private_engine():
    model = Learner()
    check_trainable(model)
    generator = torch.Generator().manual_seed(1)
    patients = {
        "x": torch.randn(40, 2, generator=generator),
        "y": torch.rand(40, generator=generator),
        "hunting": torch.rand(40, 2, generator=generator),
    }
    plan = TrainingPlan(
        rounds=1,
        local_steps=2,
        learning_rate=0.02,
        momentum=0.0,
        max_grad_norm=1e9,
        sample_rate=1.0,
        noise_multiplier=0.0,
    )
    by_hand = Learner()
    by_hand.load_state_dict(model.state_dict())
    DpTrainer(plan, noise=NoiseSource.for_tests(0), expected_patients=40).train(model, patients)
    for _ in range(2):
        parameters = dict(by_hand.named_parameters())
        slopes = grad(lambda p: functional_call(by_hand, p, (patients,)).mean())(parameters)
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                parameter -= 0.02 * slopes[name]
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=1e-3, atol=1e-4)
