"""What noisy tables count for: the less, the less their associations exceed their noise; and sums of round 2 as counts."""

import itertools

import numpy as np
import pytest

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import Query, count, fit, fit_private, fitting, measure_plan
from gemel.synthetic.anchored_tree.mechanism import scoring
from gemel.synthetic.anchored_tree.scores import Scores
from gemel.synthetic.anchored_tree.shrinkage import weight_of
from gemel.synthetic.columns import Categories, Numbers, Role, Times
from gemel.synthetic.domain import table_domain

FOUR = Numbers((0.0, 1.0, 2.0, 3.0, 4.0), 1.0, stand_in=1.0)
DOMAIN = table_domain(
    [(name, FOUR, Role.FEATURE) for name in ("x", "y", "z", "w")]
    + [
        ("death", Times(event_days=(0, 10, 30, 90)), Role.OUTCOME),
        ("home", Categories(("no", "yes"), "no"), Role.TARGET),
    ]
)


def people(patients, seed=0, *, with_home=0.0):
    """x and y go together, and x with the target as told; everything else is by chance."""
    random = np.random.default_rng(seed)
    codes = {name: random.integers(0, size, patients) for name, size in DOMAIN.sizes.items()}
    codes["y"] = np.where(random.random(patients) < 0.6, codes["x"], codes["y"])
    follows = random.random(patients) < with_home
    codes["home"] = np.where(follows, (codes["x"] >= 2).astype(int), codes["home"])
    return codes


def weight(codes, sigma, seed=0):
    query = Query("pair/x*home", ("x", "home"), ((0, 0, 1, 2), None), sigma)
    levels = {
        name: count([Query(name, (name,), (None,), 1.0)], DOMAIN, codes)[name] for name in ("x", "home")
    }
    noisy = query.count(DOMAIN, codes) + NoiseSource.for_tests(seed).discrete_gaussian(sigma, (3, 2))
    return weight_of(query, noisy, levels, float(len(codes["x"])))


def test_a_table_of_noise_counts_least_and_one_of_a_strong_association_most():
    noise = np.median([weight(people(2_000, s), 60.0, s) for s in range(9)])
    some = np.median([weight(people(2_000, s, with_home=0.3), 60.0, s) for s in range(9)])
    strong = np.median([weight(people(2_000, s, with_home=0.9), 60.0, s) for s in range(9)])
    assert strong < some / 3 < some < noise / 3
    assert strong < 0.02


def test_without_noise_the_weight_is_one_over_the_patients_that_independence_misses():
    codes = people(4_000, with_home=0.5)
    table = Query("t", ("x", "home"), ((0, 0, 1, 2), None), 1e-6).count(DOMAIN, codes)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / 4_000
    assert weight(codes, 0.01) == pytest.approx(4_000 / ((table - expected) ** 2).sum(), rel=1e-6)


def kept_of_a_target_s_table(with_home: float, seeds: int) -> float:
    """The mean share, over seeds of noise, of a noisy table's association that the model has."""
    kept = []
    for seed in range(seeds):
        codes = people(2_000, seed, with_home=with_home)
        released = fit_private(DOMAIN, codes, epsilon=1.0, delta=1e-5, noise=NoiseSource.for_tests(seed))
        query = next(q for q in released.model.queries if q.name == "pair/x*home")
        noisy = released.tables[query.name] / released.model.total
        apart = noisy - np.outer(noisy.sum(axis=1), noisy.sum(axis=0))
        found = released.model.expected(query)
        own = found - np.outer(found.sum(axis=1), found.sum(axis=0))
        kept.append(float((own * apart).sum() / (apart**2).sum()))
    return float(np.mean(kept))


def test_a_target_s_model_leaves_noise_out(monkeypatch):
    shrunk = kept_of_a_target_s_table(0.0, 15)
    monkeypatch.setattr(fitting, "weight_of", lambda *_: 0.003)
    assert shrunk < kept_of_a_target_s_table(0.0, 15) - 0.1


def test_a_target_s_model_keeps_what_is_there():
    assert 0.9 <= kept_of_a_target_s_table(0.9, 5) <= 1.1


def test_sums_of_marks_are_read_off_the_model_as_off_its_marginals():
    codes = people(2_000)
    model = fit_private(DOMAIN, codes, epsilon=5.0, delta=1e-5, noise=NoiseSource.for_tests(0)).model
    random, read = np.random.default_rng(0), 0
    for pair in itertools.permutations(("x", "y", "z", "w"), 2):
        marks = [random.integers(-1, 2, (4, width)).astype(float) for width in (2, 3)]
        reading = model.structure.reading_of_marks(pair, marks)
        if reading is not None:
            expected = marks[0].T @ model.marginal(*pair) @ marks[1]
            assert np.allclose(reading.read(model.beliefs), expected, atol=1e-9)
            read += 1
    assert read >= 6
    assert model.structure.reading_of_marks(("death", "home"), [np.ones((4, 1)), np.ones((2, 1))]) is None


def test_what_round_two_released_of_an_edge_holds_where_its_table_is_too_noisy():
    """x and y go together in the scores, while their table, of other people, says that they do not."""
    codes, others = people(4_000), people(4_000, 1)
    others["y"] = np.random.default_rng(2).permutation(others["y"])
    plan = measure_plan(DOMAIN, rho=0.5)
    queries = (*plan.one_ways, Query("pair/x*y", ("x", "y"), (None, None), 300.0))
    tables = {**count(plan.one_ways, DOMAIN, codes), **count(queries[-1:], DOMAIN, others)}
    scored = scoring(plan, tables)
    scores = Scores(scored, scored.count(codes), 5.0)

    def together(model):
        joint = model.marginal("x", "y")
        at = np.arange(4.0)
        mean = [at @ joint.sum(axis=1), at @ joint.sum(axis=0)]
        return float((at - mean[0]) @ joint @ (at - mean[1]))

    tree = {"y": "x", "z": "x", "w": "x"}
    assert together(fit(plan, tree, queries, tables)) < 0.1
    real = float(np.cov(codes["x"], codes["y"])[0, 1])
    assert together(fit(plan, tree, queries, tables, scores=scores)) == pytest.approx(real, rel=0.15)
