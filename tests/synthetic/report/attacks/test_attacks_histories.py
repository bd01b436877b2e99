"""Attacks on trajectories: what hands histories on is caught, a model that never saw them is accused of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.report.attacks import Verdict, published
from gemel.synthetic.report.attacks.histories import HistoryCandidates, attack, attack_with_shadows, control
from gemel.synthetic.trajectory.autoregressive import VisitNetwork
from gemel.synthetic.trajectory.histories import NO_VISIT, Field, Histories, Panel
from gemel.synthetic.trajectory.markov import fit_markov
from gemel.synthetic.trajectory.network_model import NetworkModel

PANEL = Panel(
    strata=2,
    fields=(Field("pain", (0.0, 1.0, 2.0, 3.0)), Field("treated", (0.0, 1.0)), Field("at_work", (0.0, 1.0))),
    visits=5,
    days_between=30,
)


def made_up(people: int, seed: int) -> Histories:
    """Pain that stays much as it is; one in ten of those who are left goes at each visit."""
    random = np.random.default_rng(seed)
    levels = np.full((people, 5, 3), NO_VISIT, np.int64)
    pain, here = random.integers(0, 4, people), np.ones(people, bool)
    for visit in range(5):
        pain = np.clip(pain + random.integers(-1, 2, people), 0, 3)
        others = random.integers(0, 2, (people, 2))
        levels[here, visit] = np.column_stack([pain, others])[here]
        here = here & (random.random(people) > 0.1)
    return Histories(PANEL, random.integers(0, 2, people), levels)


@pytest.fixture(scope="module")
def candidates():
    return HistoryCandidates.of(made_up(800, 1), made_up(800, 2), seed=0)


def markov(histories, *, epsilon, seed=0):
    model = fit_markov(histories, epsilon=epsilon, delta=1e-5, noise=NoiseSource.for_tests(seed))
    return model.log_likelihood


def test_histories_that_are_handed_on_are_found(candidates):
    (row,) = control(candidates)
    assert row.control
    assert row.verdict is Verdict.PASS


def test_a_model_of_other_patients_is_accused_of_nothing(candidates):
    found = list(attack(candidates, markov(made_up(800, 3), epsilon=3.0), name="Markov"))
    assert len(found) == 3
    assert [f.measure for f in found if f.verdict is Verdict.FAIL] == []
    assert found[0].low <= 0.5 <= found[0].high
    assert published(found) == ()


def test_hardly_any_noise_over_few_patients_is_found_out():
    few, others = made_up(150, 4), made_up(800, 5)
    candidates = HistoryCandidates.of(few, others, seed=0)
    first = next(attack(candidates, markov(few, epsilon=200.0), name="Markov"))
    assert first.low > 0.55
    assert first.verdict is Verdict.FAIL
    private = next(attack(candidates, markov(few, epsilon=1.0), name="Markov"))
    assert private.value < first.value


def test_shadow_models_find_members_of_a_model_without_noise():
    few, others = made_up(150, 6), made_up(150, 7)
    candidates = HistoryCandidates.of(few, others, seed=0)

    def trainer(histories, seed):
        return markov(histories, epsilon=200.0, seed=seed)

    first = next(
        attack_with_shadows(candidates, trainer(few, 99), trainer, name="Markov", shadows=12, seed=0)
    )
    assert first.low > 0.6


def test_likelihoods_of_a_visit_network_are_chances_of_whole_histories():
    """Of a panel of two visits all histories are written down: their chances sum to one."""
    panel = Panel(strata=1, fields=(Field("pain", (0.0, 1.0)),), visits=2, days_between=30)
    levels = [[[a], [b]] for a in (0, 1) for b in (NO_VISIT, 0, 1)]
    every = Histories(panel, np.zeros(6, np.int64), np.array(levels, np.int64))
    network = VisitNetwork(panel, classes=3, hidden=2)
    model = NetworkModel(network, np.array([1]), None)
    tables = fit_markov(made_up(300, 8), epsilon=3.0, delta=1e-5, noise=NoiseSource.for_tests(0))
    assert np.exp(model.log_likelihood(every)).sum() == pytest.approx(1, abs=1e-5)
    assert np.all(tables.log_likelihood(made_up(50, 9)) <= 0)


def test_a_markov_model_draws_histories_as_often_as_it_says():
    panel = Panel(strata=1, fields=(Field("pain", (0.0, 1.0)),), visits=2, days_between=30)
    levels = [[[a], [b]] for a in (0, 1) for b in (NO_VISIT, 0, 1)]
    every = Histories(panel, np.zeros(6, np.int64), np.array(levels, np.int64))
    model = fit_markov(every, epsilon=50.0, delta=1e-5, noise=NoiseSource.for_tests(0))
    chances = np.exp(model.log_likelihood(every))
    drawn = model.histories(np.zeros(20_000, np.int64), np.random.default_rng(0))
    seen = [np.mean((drawn.levels == one).all(axis=(1, 2))) for one in every.levels]
    assert chances.sum() == pytest.approx(1, abs=1e-6)
    assert seen == pytest.approx(chances, abs=0.02)
