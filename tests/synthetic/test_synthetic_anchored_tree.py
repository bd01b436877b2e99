"""The anchored tree: inference against enumeration and mbi 2.0, sampling against the model, no exact n, conditions."""

import itertools

import numpy as np
import pytest

from gemel.core.errors import GemelError
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import (
    Query,
    count,
    fit,
    fit_private,
    measure_plan,
    most_pair_cells,
    pair_queries,
    scoring,
    tree_of,
)
from gemel.synthetic.anchored_tree.queries import total_of
from gemel.synthetic.anchored_tree.scores import choose_tree
from gemel.synthetic.columns import Categories, Numbers, Role, Times
from gemel.synthetic.domain import table_domain

SURVIVAL = Times(event_days=(0, 10, 30, 90), censor_days=(0, 90))
DOMAIN = table_domain(
    [
        ("a", Numbers((0.0, 1.0, 2.0, 3.0), 0.1), Role.FEATURE),
        ("b", Categories(("x", "y"), "x"), Role.FEATURE),
        ("c", Categories(("u", "v", "w"), "u"), Role.FEATURE),
        ("d", Numbers((0.0, 1.0, 2.0, 3.0, 4.0), 1.0, stand_in=1.0), Role.FEATURE),
        ("drug", Categories((0.0, 1.0), 0.0), Role.TREATMENT),
        ("death", SURVIVAL, Role.OUTCOME),
        ("stroke", Times(event_days=(0, 10, 30, 90)), Role.OUTCOME),
    ]
)


def population(patients, seed=0):
    random = np.random.default_rng(seed)
    mood = random.random(patients)

    def level(size, weight):
        return np.minimum(
            (size * (weight * mood + (1 - weight) * random.random(patients))).astype(int), size - 1
        )

    codes = {name: level(size, 0.7) for name, size in DOMAIN.sizes.items() if name != "stroke"}
    stroke = level(DOMAIN.sizes["stroke"], 0.3)
    barred = DOMAIN.impossible("death", "stroke")[codes["death"], stroke]
    return {**codes, "stroke": np.where(barred, 3, stroke)}


@pytest.fixture(scope="module")
def fitted():
    return fit_private(DOMAIN, population(4_000), epsilon=3.0, delta=1e-5, noise=NoiseSource.for_tests(1))


def enumerated(model):
    """The joint distribution, cell by cell, from the potentials alone."""
    structure = model.structure
    shape = tuple(DOMAIN.sizes[name] for name in DOMAIN.names)
    cells = dict(zip(DOMAIN.names, np.indices(shape).reshape(len(shape), -1), strict=True))
    state = structure.state_of(cells)
    log = model.state[state] + structure.forest.possible[state]
    for member in structure.members:
        log = log + model.with_state[member][state, cells[member]]
        if member in structure.forest.allowed:
            log = log + structure.forest.allowed[member][state, cells[member]]
        if member in structure.parent:
            log = log + model.with_parent[member][cells[structure.parent[member]], cells[member]]
    shares = np.exp(log - log.max())
    return (shares / shares.sum()).reshape(shape)


def test_every_pair_s_marginal_is_that_of_the_enumerated_joint(fitted):
    joint = enumerated(fitted.model)
    for first, second in itertools.combinations(range(len(DOMAIN.names)), 2):
        others = tuple(i for i in range(len(DOMAIN.names)) if i not in (first, second))
        found = fitted.model.marginal(DOMAIN.names[first], DOMAIN.names[second])
        assert np.allclose(found, joint.sum(axis=others), atol=1e-9)


def test_sampled_marginals_are_the_model_s_for_pairs_that_were_never_measured_too(fitted):
    model, rows = fitted.model, 60_000
    drawn = model.sample(rows, seed=5)
    measured = {frozenset(query.columns) for query in model.queries}
    unmeasured = 0
    for first, second in itertools.combinations(DOMAIN.names, 2):
        unmeasured += frozenset((first, second)) not in measured
        expected = model.marginal(first, second)
        found = np.zeros_like(expected)
        np.add.at(found, (drawn[first], drawn[second]), 1 / rows)
        # Five standard errors of independent rows, which these vary less than.
        assert (np.abs(found - expected) <= 5 * np.sqrt(expected / rows) + 5 / rows).all(), (first, second)
    assert unmeasured >= 3


def test_siblings_are_independent_given_what_they_hang_on():
    """The fault of mbi 1.1's default sampler: two columns given a third moved together."""
    random = np.random.default_rng(0)
    domain = table_domain(
        [(n, Categories((0.0, 1.0, 2.0, 3.0), 0.0), Role.FEATURE) for n in ("x", "y")]
        + [("death", Times(event_days=(0, 1, 2, 3)), Role.OUTCOME)]
    )
    codes = {"death": random.integers(0, 4, 4_000)}
    for name in ("x", "y"):
        codes[name] = (codes["death"] + random.integers(0, 2, 4_000)) % 4
    model = fit_private(domain, codes, epsilon=50.0, delta=1e-5, noise=NoiseSource.for_tests(0)).model
    drawn = model.sample(20_000, seed=0)
    assert "x" not in model.structure.parent
    for level in range(4):
        inside = drawn["death"] == level
        assert abs(np.corrcoef(drawn["x"][inside], drawn["y"][inside])[0, 1]) < 0.15


def test_the_fit_is_no_worse_than_mbi_s_on_the_same_tables(fitted):
    mbi = pytest.importorskip("mbi")
    small = table_domain(
        [(n, Categories((0.0, 1.0, 2.0), 0.0), Role.FEATURE) for n in ("x", "y", "z")]
        + [("death", Times(event_days=(0, 1, 2, 3)), Role.OUTCOME)]
    )
    random = np.random.default_rng(3)
    codes = {name: random.integers(0, size, 3_000) for name, size in small.sizes.items()}
    codes["x"] = np.minimum(codes["death"], 2)
    plan = measure_plan(small, rho=0.5)
    queries = (*plan.one_ways, *(Query(f"t/{n}", (n, "death"), (None, None), 8.0) for n in ("x", "y", "z")))
    noise = NoiseSource.for_tests(4)
    tables = {k: v + noise.discrete_gaussian(8.0, v.shape) for k, v in count(queries, small, codes).items()}
    ours = fit(plan, {}, queries, tables)
    measurements = [
        mbi.LinearMeasurement(tables[q.name].astype(float).ravel(), q.columns, stddev=q.sigma)
        for q in queries
    ]
    total = total_of(tables, queries)
    theirs = mbi.estimation.MirrorDescent().estimate(
        mbi.Domain.fromdict(small.sizes), measurements, known_total=total, iters=1_000
    )

    def loss(expected):
        return sum((((tables[q.name] - total * expected(q)) / q.sigma) ** 2).sum() for q in queries)

    mine = loss(lambda q: ours.marginal(*q.columns))
    other = loss(lambda q: np.asarray(theirs.project(q.columns).datavector()).reshape(q.shape(small)) / total)
    assert mine <= 1.02 * other


def test_tables_without_much_noise_are_recovered():
    codes = population(20_000)
    model = fit_private(DOMAIN, codes, epsilon=60.0, delta=1e-5, noise=NoiseSource.for_tests(0)).model
    for query in model.queries:
        if len(query.columns) == 1:
            exact = query.count(DOMAIN, codes) / 20_000
            assert np.allclose(model.marginal(*query.columns), exact, atol=0.005)


def test_what_it_costs_is_what_was_asked_for_and_follows_from_the_tables(fitted):
    assert 2.9 < fitted.epsilon <= 3.0
    assert sum(m.count / m.noise_multiplier**2 for m in fitted.mechanisms) == pytest.approx(
        fitted.plan.whole_multiplier**-2
    )


def test_one_patient_moves_every_table_by_one_cell_and_every_score_by_what_it_is_charged_for():
    codes = population(300)
    fewer = {name: column[1:] for name, column in codes.items()}
    plan = measure_plan(DOMAIN, rho=0.2)
    levels = count(plan.one_ways, DOMAIN, codes)
    scored = scoring(plan, levels)
    scores = [scored.count(c) for c in (codes, fewer)]
    for more, less, sensitivity in zip(*scores, scored.sigmas(1.0), strict=True):
        assert np.linalg.norm(more - less) <= sensitivity + 1e-12
    queries = (*plan.one_ways, *pair_queries(plan, levels, tree_of(plan, levels, scores[0]), multiplier=1.0))
    with_, without = count(queries, DOMAIN, codes), count(queries, DOMAIN, fewer)
    assert all(np.abs(with_[name] - without[name]).sum() == 1 for name in with_)


def test_the_exact_number_of_patients_is_nowhere(fitted):
    assert fitted.model.total != 4_000
    assert abs(fitted.model.total - 4_000) < 100


def test_round_three_follows_from_noisy_answers_alone_and_fits_its_bound(fitted):
    plan = fitted.plan
    levels = {q.name: np.maximum(count([q], DOMAIN, population(500, 1))[q.name], 0) for q in plan.one_ways}
    tree = choose_tree(plan.score_pairs, np.arange(len(plan.score_pairs)))
    queries = pair_queries(plan, levels, tree, multiplier=1.4)
    assert queries == pair_queries(plan, levels, tree, multiplier=1.4)
    assert sum(q.sigma**-2 for q in queries) == pytest.approx(plan.pair_precision)
    assert sum(np.prod(q.shape(DOMAIN)) for q in queries) <= most_pair_cells(plan)


def test_more_noise_means_fewer_cells_and_none_all_levels():
    wide = Numbers(tuple(map(float, range(12))), 0.1, stand_in=1.0)
    features = [(name, wide, Role.FEATURE) for name in "xyz"]
    domain = table_domain(
        [*features, ("death", SURVIVAL, Role.OUTCOME), ("drug", Categories((0, 1)), Role.TREATMENT)]
    )
    plan = measure_plan(domain, rho=0.2)
    levels = {q.name: np.full(q.shape(domain), 300) for q in plan.one_ways}

    def cells(multiplier):
        queries = pair_queries(plan, levels, {"x": "y", "y": "z"}, multiplier=multiplier)
        return {q.name: np.prod(q.shape(domain)) for q in queries if "death" not in q.columns}

    none, some, much = cells(0.0), cells(3.0), cells(100.0)
    assert none["pair/y*x"] == 121 > some["pair/y*x"] > much["pair/y*x"] == 9
    assert all(much[name] <= some[name] <= none[name] for name in none)


def test_a_rare_outcome_that_is_no_anchor_is_counted_as_a_whole_too():
    outcomes = [(f"o{i}", Times(event_days=(0, 10, 30, 90), prevalent=True), Role.OUTCOME) for i in range(9)]
    domain = table_domain(
        [("death", SURVIVAL, Role.OUTCOME), *outcomes, ("x", Categories(("u", "v")), Role.FEATURE)]
    )
    plan = measure_plan(domain, rho=0.5)
    late = set(domain.names) - {a.column for a in plan.anchors} - {"x"}
    assert late
    levels = {q.name: np.full(q.shape(domain), 50) for q in plan.one_ways}
    found = {q.name: q.shape(domain) for q in pair_queries(plan, levels, {}, multiplier=1.0)}
    assert {name: found[f"came/{name}"] for name in late} == dict.fromkeys(late, (3,))


def test_a_draw_s_counts_by_level_of_the_clock_are_the_model_s_to_within_a_few_patients(fitted):
    rows = 5_000
    drawn = fitted.model.sample(rows, seed=8)
    for name in ("a", "b", "c", "d"):
        found = np.zeros((DOMAIN.sizes["death"], DOMAIN.sizes[name]))
        np.add.at(found, (drawn["death"], drawn[name]), 1)
        expected = rows * fitted.model.marginal("death", name)
        # Independent rows would miss by the root of the count: 15 and more where there are hundreds.
        assert np.abs(found - expected).max() < 8, name


def test_an_impossible_course_is_never_drawn(fitted):
    drawn = fitted.model.sample(50_000, seed=2)
    assert not DOMAIN.impossible("death", "stroke")[drawn["death"], drawn["stroke"]].any()


def test_a_conditional_cohort_is_the_model_conditioned(fitted):
    model = fitted.model
    given = {"a": [2], "stroke": [0, 1]}
    drawn = model.sample(30_000, seed=4, given=given)
    assert set(drawn["a"]) == {2}
    assert set(drawn["stroke"]) <= {0, 1}
    joint = enumerated(model)
    inside = joint[2][..., [0, 1]]
    assert model.probability(given) == pytest.approx(inside.sum(), rel=1e-6)
    expected = inside.sum(axis=(1, 2, 3, 4, 5)) / inside.sum()
    found = np.bincount(drawn["b"], minlength=2) / 30_000
    assert np.allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("given", [{"nobody": [0]}, {"a": [17]}, {"a": []}, {"death": [0], "stroke": [2]}])
def test_an_impossible_condition_is_refused(fitted, given):
    with pytest.raises(GemelError, match="GEM704"):
        fitted.model.sample(10, seed=0, given=given)


def test_equal_seeds_draw_equal_rows_and_others_do_not(fitted):
    first, second, third = (fitted.model.sample(500, seed=s) for s in (7, 7, 8))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], third[name]) for name in first)


def test_scores_find_the_tree_of_what_goes_together():
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    scores = np.array([900, 10, 5, 800, 20, 700])
    tree = choose_tree(pairs, scores)
    assert {frozenset(edge) for edge in tree.items()} == {
        frozenset(p) for p in (("a", "b"), ("b", "c"), ("c", "d"))
    }
    assert choose_tree(pairs, scores, hubs=["a", "b"]) == {"a": "c", "c": "b", "d": "c"}


def test_a_table_of_another_domain_is_refused(fitted):
    with pytest.raises(GemelError, match="GEM705"):
        Query("t", ("a", "nothing"), (None, None), 1.0).count(DOMAIN, population(10))
    with pytest.raises(GemelError, match="GEM705"):
        measure_plan(table_domain([("a", Categories((0.0, 1.0)), Role.FEATURE)]), rho=0.1)
