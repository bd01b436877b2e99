"""Tiers 2 and 3: what is counted, what is learnt, what it costs, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.engine import check_trainable
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.trajectory.autoregressive import VisitNetwork, tensors
from gemel.synthetic.trajectory.histories import NO_VISIT, Field, Histories, Panel
from gemel.synthetic.trajectory.markov import WEIGHT, count_steps, fit_markov
from gemel.synthetic.trajectory.network_model import NetworkModel, fit_network, rules_for
from gemel.synthetic.trajectory.policy import by_lot, everybody
from gemel.twins.treatment_plan import TreatmentPlan

PANEL = Panel(2, (Field("drug", (0.0, 1.0)), Field("score", (0.0, 1.0, 2.0))), visits=4, days_between=90)


def people(patients: int, seed: int = 0, panel: Panel = PANEL) -> Histories:
    """A half of the patients is frail, at every visit; the drug lowers the score; one in ten leaves at each visit."""
    random = np.random.default_rng(seed)
    strata = random.integers(0, panel.strata, patients)
    frail = random.random(patients) < 0.5
    levels = np.full((patients, panel.visits, 2), NO_VISIT)
    here = np.ones(patients, bool)
    for visit in range(panel.visits):
        here = here & ((random.random(patients) < 0.9) | (visit == 0))
        drug = (random.random(patients) < 0.3 + 0.4 * strata).astype(int)
        score = random.binomial(2, np.clip(np.where(frail, 0.85, 0.15) - 0.1 * drug, 0, 1))
        levels[here, visit, 0], levels[here, visit, 1] = drug[here], score[here]
    return Histories(panel, strata, levels)


def without(histories: Histories, row: int) -> Histories:
    return histories.take(np.delete(np.arange(len(histories)), row))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_a_patient_moves_no_table_by_more_than_is_stated(seed: int, visits: int) -> None:
    panel = Panel(2, PANEL.fields, visits=visits, days_between=30)
    histories = people(12, seed, panel)
    row = seed % 12
    whole, rest = count_steps(histories), count_steps(without(histories, row))
    moved = {name: np.abs(whole[name] - rest[name]).sum() for name in whole}
    assert moved["first"] == 1
    assert moved["next"] <= WEIGHT
    assert moved["history"] <= WEIGHT
    assert moved["next"] > WEIGHT // 2


def test_a_history_of_one_visit_says_that_nobody_came_again() -> None:
    levels = np.full((1, 4, 2), NO_VISIT)
    levels[0, 0] = (1, 2)
    tables = count_steps(Histories(PANEL, np.array([0]), levels))
    assert tables["next"][5, -1] == WEIGHT
    assert tables["next"].sum() == WEIGHT
    assert tables["history"].sum() == 0


def test_histories_outside_the_domain_or_with_a_return_are_refused() -> None:
    good = people(5).levels
    for change in ((0, 0, 1, 3), (0, 0, 0, NO_VISIT)):
        levels = good.copy()
        levels[change[0], change[1], change[2]] = change[3]
        with pytest.raises(GemelError, match="domain"):
            Histories(PANEL, np.zeros(5, int), levels)
    returned = good.copy()
    returned[0, 1:] = NO_VISIT
    returned[0, 3] = (0, 0)
    with pytest.raises(GemelError, match="domain"):
        Histories(PANEL, np.zeros(5, int), returned)


def test_the_loss_of_the_network_is_the_likelihood_of_what_it_draws() -> None:
    """Summed over all histories that there are, the likelihoods of a stratum make one."""
    panel = Panel(1, (Field("x", (0.0, 1.0)), Field("y", (0.0, 1.0, 2.0))), visits=2, days_between=1)
    one = [(x, y) for x in range(2) for y in range(3)]
    every = [[a, b] for a in one for b in (*one, (NO_VISIT, NO_VISIT))]
    histories = Histories(panel, np.zeros(len(every), int), np.array(every))
    network = VisitNetwork(panel, classes=3, hidden=4)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        loss = network(tensors(histories)) * panel.visits
    assert torch.exp(-loss).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_the_network_draws_by_the_likelihood_that_it_learns_by() -> None:
    network = VisitNetwork(PANEL, classes=3, hidden=4)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    cost = fit_markov(people(5), epsilon=1.0, delta=1e-5, noise=NoiseSource.for_tests(1)).statement()
    network_model = NetworkModel(network, np.ones(2, int), cost)
    drawn = network_model.histories(np.zeros(40_000, int), np.random.default_rng(2))
    seen, counts = np.unique(drawn.levels.reshape(len(drawn), -1), axis=0, return_counts=True)
    common = np.argsort(-counts)[:10]
    histories = Histories(PANEL, np.zeros(10, int), seen[common].reshape(10, 4, 2))
    with torch.no_grad():
        likelihood = torch.exp(-network_model.network(tensors(histories)) * PANEL.visits).numpy()
    error = np.sqrt(likelihood * (1 - likelihood) / 40_000)
    assert np.all(np.abs(counts[common] / 40_000 - likelihood) < 5 * error)


def test_no_patient_hangs_on_another_in_the_network() -> None:
    network = VisitNetwork(PANEL, classes=4, hidden=3)
    check_trainable(network)
    batch = tensors(people(6))
    alone = torch.cat([network({k: v[i : i + 1] for k, v in batch.items()}) for i in range(6)])
    assert torch.allclose(network(batch), alone, atol=1e-6)


@pytest.mark.heavy
def test_a_frail_patient_stays_frail_in_what_the_network_draws() -> None:
    real = people(2000)
    model = fit_network(real, patients=2000, epsilon=8.0, delta=1e-5, noise=NoiseSource.for_tests(3))
    virtual = model.histories(model.baselines(8000, np.random.default_rng(0)), np.random.default_rng(1))

    def memory(histories: Histories) -> float:
        both = histories.here[:, 3]
        return float(np.corrcoef(histories.levels[both, 0, 1], histories.levels[both, 3, 1])[0, 1])

    assert memory(real) > 0.4
    assert memory(virtual) == pytest.approx(memory(real), abs=0.12)


def test_rules_follow_from_public_numbers_and_stay_small() -> None:
    assert rules_for(patients=300, epsilon=3.0) == rules_for(patients=900, epsilon=1.0)
    rules = [rules_for(patients=n, epsilon=1.0) for n in (100, 1000, 10_000, 1_000_000)]
    steps = [one.learning_rate * one.max_grad_norm for one in rules]
    assert steps == sorted(steps)
    assert [one.local_steps for one in rules] == [20, 20, 5, 5]
    assert [one.hidden for one in rules] == [1, 1, 16, 16]
    largest = rules_for(patients=10**6, epsilon=3.0)
    panel = Panel(50, tuple(Field(f"f{i}", tuple(map(float, range(10)))) for i in range(10)), 20, 30)
    network = VisitNetwork(panel, classes=largest.classes, hidden=largest.hidden)
    assert sum(p.numel() for p in network.parameters()) <= 50_000
    with pytest.raises(GemelError, match="nothing to plan"):
        rules_for(patients=0, epsilon=1.0)


@pytest.mark.parametrize("tier", ["network", "markov"])
@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_a_fit_costs_what_it_was_given_and_no_more(tier: str, epsilon: float) -> None:
    noise = NoiseSource.for_tests(4)
    if tier == "network":
        model = fit_network(people(40), patients=3000, epsilon=epsilon, delta=1e-5, noise=noise)
    else:
        model = fit_markov(people(60), epsilon=epsilon, delta=1e-5, noise=noise)
    stated = model.statement()
    assert 0.97 * epsilon < stated.epsilon <= epsilon
    assert stated.epsilon >= epsilon_of(stated.mechanisms, delta=1e-5) - 1e-6
    assert stated.noise == "test"


def test_the_tables_of_the_fallback_carry_the_noise_that_is_charged() -> None:
    real = people(50)
    model = fit_markov(real, epsilon=1.0, delta=1e-5, noise=NoiseSource.for_tests(5))
    exact = count_steps(real)
    first, following, history = (m.noise_multiplier for m in model.statement().mechanisms)
    for name, sigma in (("next", following * WEIGHT), ("history", history * WEIGHT), ("first", first)):
        added = (model.tables[name] - exact[name]).astype(float)
        assert added.std() == pytest.approx(sigma, rel=5 / np.sqrt(2 * added.size))


def test_a_policy_sets_its_field_and_a_seed_gives_the_same_again() -> None:
    model = fit_markov(people(400), epsilon=3.0, delta=1e-5, noise=NoiseSource.for_tests(6))
    plans = [TreatmentPlan.always({"drug": amount}) for amount in (0.0, 1.0)]
    strata = np.zeros(500, int)
    drawn = model.trajectory(strata, 270, by_lot(plans), 7)
    assert np.array_equal(drawn.values["drug"], drawn.assigned[drawn.rows])
    again = model.trajectory(strata, 270, by_lot(plans), 7)
    assert np.array_equal(drawn.values["score"], again.values["score"])
    assert np.all(np.diff(drawn.days)[np.diff(drawn.rows) == 0] == 90)
    short = model.trajectory(strata, 100, everybody(), 7)
    assert short.days.max() == 90


def test_what_the_panel_does_not_have_is_refused() -> None:
    model = fit_markov(people(40), epsilon=3.0, delta=1e-5, noise=NoiseSource.for_tests(8))
    with pytest.raises(GemelError, match="no treatment"):
        model.trajectory(np.zeros(3, int), 90, everybody(TreatmentPlan.always({"surgery": 1.0})), 1)
    with pytest.raises(GemelError, match="strata"):
        model.trajectory(np.array([2]), 90, everybody(), 1)
    with pytest.raises(GemelError, match="reaches 270 days"):
        model.trajectory(np.zeros(3, int), 400, everybody(), 1)
