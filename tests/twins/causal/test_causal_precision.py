"""How far a twin's parameters are off: the sandwich against an independent one, and the bootstrap of a private training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from treated_people import GIVEN, PROGRAMME, WITHOUT, PlainTwin, Truth, fitted, people

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.twins.causal.estimand import declare
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.causal.precision import retrained, sandwich, sandwich_draws


@pytest.fixture(scope="module")
def hospital():
    return people(2000, Truth(), seed=4)[0]


def at(names, twin):
    """Positions in the flattened parameters: level (2,), log_deviation, then weights row by row."""
    arrays = twin.to_arrays()
    order = sorted(arrays)
    start = sum(arrays[name].size for name in order[: order.index("weights")])
    return [start + twin.design.names.index(name) for name in names]


def test_the_sandwich_is_that_of_a_logistic_regression_by_hand(hospital):
    twin = fitted(hospital)
    used = ["age_years", "pressure", "bleeding", "lot", "drug"]
    mine = np.sqrt(np.diag(sandwich(twin, hospital))[at(used, twin)])
    # By hand, in numpy, with the same columns: White's estimator for the logistic model.
    columns = twin.design.columns(hospital.values).astype(float)
    varying = columns.std(axis=0) > 0
    x = np.column_stack([np.ones(len(columns)), columns[:, varying]])
    weights = twin.to_arrays()
    beta = np.concatenate([weights["level"][:1], weights["weights"][0, varying]])
    chance = 1 / (1 + np.exp(-x @ beta))
    bread = np.linalg.inv((x * (chance * (1 - chance))[:, None]).T @ x)
    score = x * (hospital.targets[:, :1] - chance[:, None])
    variance = bread @ score.T @ score @ bread
    names = [name for name, v in zip(twin.design.names, varying, strict=True) if v]
    by_hand = np.sqrt(np.diag(variance)[[1 + names.index(name) for name in used]])
    assert np.abs(mine / by_hand - 1).max() < 0.02


def test_a_parameter_that_nothing_informs_does_not_move(hospital):
    twin = fitted(hospital)
    draws = sandwich_draws(twin, hospital, draws=50, seed=1)
    (missing,) = at(["pressure:missing"], twin)
    assert sandwich(twin, hospital)[missing, missing] == pytest.approx(0, abs=1e-12)
    column = twin.design.names.index("pressure:missing")
    assert np.std([draw["weights"][0, column] for draw in draws]) < 1e-6
    drug = twin.design.names.index("drug")
    spread = np.std([draw["weights"][0, drug] for draw in draws])
    (position,) = at(["drug"], twin)
    assert spread == pytest.approx(np.sqrt(sandwich(twin, hospital)[position, position]), rel=0.35)


def test_draws_depend_on_the_seed_alone_and_leave_the_twin_as_it_was(hospital):
    twin = fitted(hospital)
    before = twin.to_arrays()
    one, same, other = (sandwich_draws(twin, hospital, draws=3, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a["weights"], b["weights"]) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0]["weights"], other[0]["weights"])
    assert all(np.array_equal(before[name], value) for name, value in twin.to_arrays().items())


def test_a_twin_that_was_not_fitted_to_these_people_has_no_sandwich(hospital):
    for twin in (PlainTwin(), fitted(people(2000, Truth(drug_walks=-0.5), seed=9)[0])):
        with pytest.raises(GemelError) as caught:
            sandwich(twin, hospital)
        assert caught.value.code == "GEM627"


def private(noise_multiplier, rounds=6):
    plan = TrainingPlan(
        rounds=rounds,
        local_steps=6,
        learning_rate=1.0,
        momentum=0.6,
        max_grad_norm=2.0,
        sample_rate=1.0,
        noise_multiplier=noise_multiplier,
    )
    noise = NoiseSource.for_tests(1)

    def train(sites):
        twin = PlainTwin()
        for _ in range(plan.rounds):
            start, trained = twin.to_arrays(), []
            for site in sites:
                twin.load_arrays(start)
                DpTrainer(plan, noise=noise, expected_patients=len(site)).train(twin, twin.tensors(site))
                trained.append(twin.to_arrays())
            twin.load_arrays({name: np.mean([t[name] for t in trained], axis=0) for name in start})
        return twin.to_arrays()

    return train


def released(train, sites):
    twin = PlainTwin()
    twin.load_arrays(train(sites))
    return twin


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_bootstrap_of_a_private_training_holds_noise_and_pull(hospital):
    sites = [hospital.take(np.arange(i, len(hospital), 2)) for i in range(2)]
    asked = declare(PROGRAMME, GIVEN["drug"], WITHOUT["drug"], endpoint="walks", population="people")
    errors = {}
    for noise in (0.01, 30.0):
        train = private(noise)
        twin = released(train, sites)
        draws = retrained(twin, [site.values for site in sites], train, replicas=6, seed=1)
        effect = population_effect(twin, hospital.values, asked, parameters=draws).effect
        errors[noise] = np.sqrt(effect.parameter_error**2 - effect.pull**2)
        if noise == 0.01:
            # Stopping early pulls towards the start, where the drug does nothing.
            assert effect.pull < 0 < effect.value
    assert errors[30.0] > 1.5 * errors[0.01]


def test_each_replica_is_trained_on_courses_of_its_own(hospital):
    seen: list[list[Dataset]] = []

    def train(sites):
        seen.append(list(sites))
        return PlainTwin().to_arrays()

    twin = fitted(hospital)
    sites = [hospital.values[:50], hospital.values[50:90]]
    assert len(retrained(twin, sites, train, replicas=3, seed=1)) == 3
    assert [[len(site) for site in replica] for replica in seen] == [[50, 40]] * 3
    walks = [replica[0].targets[:, 0] for replica in seen]
    assert not np.array_equal(walks[0], walks[1])
    assert np.array_equal(seen[0][0].values, hospital.values[:50])
    seen.clear()
    retrained(twin, sites, train, replicas=1, seed=1)
    assert np.array_equal(seen[0][0].targets[:, 0], walks[0])
