"""Strategies: whatever the order of updates the same bits, and each does what its paper says."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from any_synthesis import ANY_SYNTHESIS
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.serverapp.strategy import FedAdam, FedYogi
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.core.strategy_plan import Algorithm, Pace, StrategyPlan
from gemel.core.study import (
    SCHEMA,
    AggregationPlan,
    AggregationRule,
    PrivacyPlan,
    Study,
    TrainingPlan,
    parse_study,
)
from gemel.server.aggregate import weighted_mean
from gemel.server.flower import strategies
from gemel.server.flower.strategies import strategy_class, strategy_of
from gemel.server.flower.strategies.buffered import staleness_weight
from gemel.server.strategy import Update

SITES = ("alpha", "beta", "gamma")
LEARNING_RATE, STEPS = 0.1, 10
EVERY = [*Algorithm, *(rule for rule in AggregationRule if rule is not AggregationRule.MEAN)]
AVERAGING = list(Algorithm)


def _study(name: str, *, sites: tuple[str, ...] = SITES, momentum: float = 0.0, pace: Pace | None = None,
           **plan: float) -> Study:  # fmt: skip
    if name in list(AggregationRule):
        strategy, aggregation = StrategyPlan(), AggregationPlan(rule=AggregationRule(name))
    else:
        mu = 0.1 if name == Algorithm.FEDPROX else 0.0
        strategy = StrategyPlan(algorithm=Algorithm(name), proximal_mu=mu, **plan)
        aggregation = AggregationPlan()
    return Study(
        schema=SCHEMA,
        study_id="s",
        title="t",
        purpose="p",
        programme="fatty_liver",
        programme_version="1",
        training=TrainingPlan(
            rounds=10,
            local_steps=STEPS,
            learning_rate=LEARNING_RATE,
            momentum=momentum,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=5.0,
        ),
        privacy=PrivacyPlan(
            epsilon=1.0,
            delta=1e-5,
            count_noise_multiplier=10.0,
            metrics_noise_multiplier=10.0,
            synthesis_noise_multiplier=2.5,
        ),
        metrics_tables=1,
        synthesis=ANY_SYNTHESIS,
        minimum_patients=5,
        quorum=1,
        round_timeout_s=60.0,
        sites={site: f"{i:064x}" for i, site in enumerate(sites)},
        strategy=strategy,
        aggregation=aggregation,
        pace=pace or Pace(),
    )


def _model(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "w": random.standard_normal((3, 2)).astype(np.float32),
        "b": random.standard_normal(2).astype(np.float32),
    }


def _updates(model: Arrays, *, seed: int, sites: tuple[str, ...] = SITES) -> list[Update]:
    random = np.random.default_rng(seed)
    return [
        Update(
            site,
            {n: (a + random.standard_normal(a.shape)).astype(np.float32) for n, a in model.items()},
            float(random.uniform(5, 500)),
            model,
        )
        for site in sites
    ]


def _same(one: Arrays, other: Arrays) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_updates_changes_no_bit(name: str) -> None:
    strategy, model = strategy_of(_study(name)), _model()
    updates = _updates(model, seed=1)
    expected = strategy.aggregate(model, updates, strategy.start(model))
    for order in itertools.permutations(updates):
        got = strategy.aggregate(model, order, strategy.start(model))
        assert _same(got[0], expected[0]), name
        assert _same(got[1], expected[1]), name


@pytest.mark.parametrize("name", EVERY)
def test_equal_updates_are_the_next_model_or_its_direction(name: str) -> None:
    strategy, model = strategy_of(_study(name)), _model()
    trained = _model(5)
    updates = [
        Update(site, trained, weight, model) for site, weight in zip(SITES, (7.0, 50.0, 3.3), strict=True)
    ]
    got, _ = strategy.aggregate(model, updates, strategy.start(model))
    if name in (Algorithm.FEDADAM, Algorithm.FEDYOGI):  # they take the direction, and their own length
        assert all(np.array_equal(np.sign(got[n] - model[n]), np.sign(trained[n] - model[n])) for n in model)
    else:
        assert _same(got, trained)


@pytest.mark.parametrize("name", [Algorithm.FEDAVG, Algorithm.FEDPROX, Algorithm.SCAFFOLD])
def test_one_hospital_alone_trains_as_if_there_were_no_federation(name: str) -> None:
    strategy, model = strategy_of(_study(name, sites=("alpha",))), _model()
    state = strategy.start(model)
    for number in range(3):
        sent = strategy.inputs(model, state, "alpha")
        corrections = [a for n, a in sent.items() if n.startswith("correction.")]
        assert all(not a.any() for a in corrections), "its own drift is everybody's"
        [update] = _updates(model, seed=number, sites=("alpha",))
        model, state = strategy.aggregate(model, [update], state)
        assert _same(model, update.arrays)


@pytest.mark.parametrize("name", EVERY)
def test_what_a_strategy_remembers_keeps_its_names_shapes_and_types(name: str) -> None:
    strategy, model = strategy_of(_study(name)), _model()
    state = strategy.start(model)
    specs = {n: (a.shape, a.dtype) for n, a in state.items()}
    for number in range(3):
        model, state = strategy.aggregate(model, _updates(model, seed=number), state)
        assert {n: (a.shape, a.dtype) for n, a in state.items()} == specs
        assert all(a.dtype == np.float32 for a in model.values())


def test_the_mean_is_the_weighted_mean_of_before() -> None:
    model = _model()
    updates = _updates(model, seed=3)
    got, _ = strategy_of(_study("fedavg")).aggregate(model, updates, {})
    assert _same(got, weighted_mean({u.site: u.arrays for u in updates}, {u.site: u.weight for u in updates}))


@pytest.mark.parametrize("name", AVERAGING)
def test_a_masked_mean_moves_the_model_as_the_updates_it_hides_would(name: str) -> None:
    if name == Algorithm.SCAFFOLD:
        pytest.skip("a masked study refuses scaffold")
    strategy, model = strategy_of(_study(name)), _model()
    updates = _updates(model, seed=4)
    mean = weighted_mean({u.site: u.arrays for u in updates}, {u.site: u.weight for u in updates})
    seen, _ = strategy.aggregate(model, updates, strategy.start(model))
    hidden, _ = strategy.aggregate_total(model, mean, strategy.start(model))
    for n in model:
        np.testing.assert_allclose(hidden[n], seen[n], rtol=1e-4, atol=1e-6)


# --- against Flower's own classes -------------------------------------------------------------


def _flower_reply(update: Update) -> Message:
    metadata = Metadata(0, "", 0, 0, "", "", 0.0, 1.0, "train")
    record = RecordDict(
        {
            "arrays": ArrayRecord({n: Array(a.astype(np.float64)) for n, a in update.arrays.items()}),
            "metrics": MetricRecord({"num-examples": update.weight}),
        }
    )
    return make_message(metadata, record)


@pytest.mark.parametrize(("name", "flower"), [("fedadam", FedAdam), ("fedyogi", FedYogi)])
def test_adaptive_optimisers_are_flowers_over_many_rounds_though_their_memory_lies_elsewhere(
    name: str, flower: type[FedAdam | FedYogi]
) -> None:
    numbers = {"beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
    strategy = strategy_of(_study(name, server_learning_rate=0.3, **numbers))
    oracle = flower(eta=0.3, **numbers)
    model: Arrays = _model()
    theirs = {n: a.astype(np.float64) for n, a in model.items()}
    state = strategy.start(model)
    for number in range(1, 6):
        updates = _updates(model, seed=number)
        model, state = strategy.aggregate(model, updates, state)
        oracle.current_arrays = theirs  # Flower's object lives on; ours is made anew from the state
        moved, _ = oracle.aggregate_train(number, [_flower_reply(u) for u in updates])
        assert moved is not None
        theirs = {n: moved[n].numpy() for n in theirs}
        for n in model:
            np.testing.assert_allclose(model[n], theirs[n], rtol=1e-4, atol=1e-5)


# --- drift ------------------------------------------------------------------------------------

# f_i(w) = a_i/2 · (w - m_i)²: hospitals that pull apart, one of them much harder than the others.
CURVATURE = {"alpha": 0.2, "beta": 1.0, "gamma": 4.0}
MINIMUM = {"alpha": 8.0, "beta": 0.0, "gamma": -2.0}
PATIENTS = {"alpha": 100.0, "beta": 300.0, "gamma": 200.0}


def _optimum() -> float:
    pull = sum(PATIENTS[s] * CURVATURE[s] * MINIMUM[s] for s in SITES)
    return pull / sum(PATIENTS[s] * CURVATURE[s] for s in SITES)


def _trained(sent: Arrays, site: str, *, momentum: float) -> dict[str, np.ndarray]:
    """What a node does: steps of gradient and correction, by hand."""
    w = sent["w"].astype(np.float64)
    correction = sent.get("correction.w", np.zeros_like(w)).astype(np.float64)
    velocity = np.zeros_like(w)
    for _ in range(STEPS):
        velocity = momentum * velocity + CURVATURE[site] * (w - MINIMUM[site]) + correction
        w = w - LEARNING_RATE * velocity
    return {"w": w.astype(np.float32)}


def _converged(name: str, *, momentum: float = 0.0, absent: str = "") -> float:
    strategy = strategy_of(_study(name, momentum=momentum))
    model: Arrays = {"w": np.array([3.0], np.float32)}
    state = strategy.start(model)
    for number in range(300):
        present = [s for s in SITES if not (s == absent and number % 3)]
        updates = [
            Update(
                s,
                _trained(strategy.inputs(model, state, s), s, momentum=momentum),
                PATIENTS[s],
                {"w": model["w"]},
            )
            for s in present
        ]
        model, state = strategy.aggregate(model, updates, state)
    return float(model["w"][0])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_scaffold_reaches_the_optimum_that_averaging_drifts_from(momentum: float) -> None:
    assert abs(_converged("fedavg", momentum=momentum) - _optimum()) > 0.3
    assert abs(_converged("scaffold", momentum=momentum) - _optimum()) < 1e-3


def test_scaffold_is_the_papers_second_option_step_by_step() -> None:
    strategy = strategy_of(_study("scaffold", server_learning_rate=0.7))
    model: Arrays = {"w": np.array([3.0], np.float32)}
    state, x, total = strategy.start(model), 3.0, sum(PATIENTS.values())
    variates: dict[str, float] = {}
    for _ in range(10):
        c = sum(PATIENTS[s] * variates[s] for s in variates) / total
        updates, moved, new = [], 0.0, {}
        for s in SITES:
            own = variates.get(s, c)
            y = x
            for _ in range(STEPS):
                y -= LEARNING_RATE * (CURVATURE[s] * (y - MINIMUM[s]) - own + c)
            new[s] = own - c + (x - y) / (STEPS * LEARNING_RATE)
            moved += PATIENTS[s] / total * (y - x)
            sent = strategy.inputs(model, state, s)
            updates.append(Update(s, _trained(sent, s, momentum=0.0), PATIENTS[s], model))
        x, variates = x + 0.7 * moved, new
        model, state = strategy.aggregate(model, updates, state)
        assert float(model["w"][0]) == pytest.approx(x, abs=1e-4)
        for s in SITES:
            assert float(state[f"{s}/w"][0]) == pytest.approx(variates[s], abs=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_scaffold_finds_a_constant_gradient_exactly_with_momentum_too(momentum: float) -> None:
    strategy = strategy_of(_study("scaffold", momentum=momentum))
    gradient = {"alpha": 0.5, "beta": -0.2, "gamma": 0.1}
    model: Arrays = {"w": np.array([1.0], np.float32)}
    state = strategy.start(model)
    for _ in range(3):
        updates = []
        for site in SITES:
            correction = float(strategy.inputs(model, state, site)["correction.w"][0])
            w, velocity = float(model["w"][0]), 0.0
            for _ in range(STEPS):
                velocity = momentum * velocity + gradient[site] + correction
                w -= LEARNING_RATE * velocity
            updates.append(Update(site, {"w": np.array([w], np.float32)}, PATIENTS[site], model))
        model, state = strategy.aggregate(model, updates, state)
        for site in SITES:
            assert float(state[f"{site}/w"][0]) == pytest.approx(gradient[site], abs=1e-4)


def test_scaffold_goes_on_without_a_hospital_that_misses_rounds_and_takes_it_back() -> None:
    assert np.isfinite(_converged("scaffold", absent="gamma"))


# --- updates of different ages -----------------------------------------------------------------


@settings(deadline=None)
@given(age=st.integers(0, 50), exponent=st.floats(0, 5))
def test_an_update_weighs_less_with_age_and_never_more_than_a_fresh_one(age: int, exponent: float) -> None:
    assert staleness_weight(age + 1, exponent) <= staleness_weight(age, exponent) <= 1


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedyogi"])
def test_a_stale_update_moves_the_model_by_what_it_changed_less_its_age(name: str) -> None:
    strategy = strategy_of(_study(name, pace=Pace(buffer=2, staleness_exponent=0.5)))
    old, model = _model(1), _model(2)
    changed = {n: np.full(a.shape, 0.5, np.float32) for n, a in model.items()}
    stale = Update("alpha", {n: old[n] + changed[n] for n in old}, 10.0, old, staleness=3)
    fresh = Update("alpha", {n: (model[n] + 0.5 * changed[n]) for n in model}, 10.0, model)
    start = strategy.start(model)
    got, expected = (strategy.aggregate(model, [u], start)[0] for u in (stale, fresh))
    for n in model:
        np.testing.assert_allclose(got[n], expected[n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", AVERAGING)
def test_nobody_is_counted_twice_in_one_move(name: str) -> None:
    strategy, model = strategy_of(_study(name)), _model()
    update = _updates(model, seed=0)[0]
    with pytest.raises(GemelError) as caught:
        strategy.aggregate(model, [update, update], strategy.start(model))
    assert caught.value.code == "GEM403"


def test_a_model_that_runs_off_is_stopped() -> None:
    strategy = strategy_of(_study("fedadam", server_learning_rate=100.0))
    high = {"w": np.full(3, 3.4e38, np.float32)}
    update = Update("alpha", high, 1.0, high)
    state = {**strategy.start(high), "m.w": np.full(3, 1e38), "v.w": np.zeros(3)}
    with pytest.raises(GemelError) as caught, np.errstate(all="ignore"):
        strategy.aggregate(high, [update], state)
    assert caught.value.code == "GEM403"


# --- the registry -------------------------------------------------------------------------------

ONE_MORE = '''
"""The model stands still."""
from gemel.server.strategy import Strategy

class Still(Strategy):
    def aggregate(self, model, updates, state):
        return model, state

STRATEGY = Still
'''


def test_a_strategy_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "still.py").write_text(ONE_MORE, encoding="utf-8")
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    model = _model()
    strategy = strategy_class("still")(_study("fedavg"))
    assert strategy.aggregate(model, _updates(model, seed=0), {}) == (model, {})


@pytest.mark.parametrize("name", ["", "no_such", "../robust", "buffered", "Fedavg"])
def test_no_other_name_is_a_strategy(name: str) -> None:
    with pytest.raises(GemelError) as caught:
        strategy_class(name)
    assert caught.value.code == "GEM343"


def test_every_algorithm_and_rule_that_a_study_may_name_is_installed() -> None:
    for name in EVERY:
        study = parse_study(_study(name).to_payload())
        assert type(strategy_of(study)).__name__.lower() == name.replace("_", "")


def test_scaffold_needs_rounds_that_all_take_together() -> None:
    study = msgspec.structs.replace(_study("scaffold"), pace=Pace(buffer=2))
    with pytest.raises(GemelError) as caught:
        parse_study(study.to_payload())
    assert caught.value.code == "GEM101"
