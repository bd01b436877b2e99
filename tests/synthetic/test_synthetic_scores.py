"""Scores of pairs: their sensitivity, how they add up over hospitals, and the trees that follow from noisy ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.synthetic.anchored_tree.scores import (
    Scoring,
    choose_tree,
    marks_of,
    scoring_of,
    sums_shape,
)
from gemel.synthetic.columns import Categories, Column, Form, Numbers, Role, Times
from gemel.synthetic.domain import Codes, Domain, table_domain

COLUMNS = ("a", "b", "c", "d", "e")
PAIRS = tuple(itertools.combinations(COLUMNS, 2))

NUMBER = Numbers((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 0.1)
EVERYBODYS = Numbers((0.0, 1.0, 2.0, 3.0, 4.0), 0.1, stand_in=1.0)
MANY = Categories(tuple("abcdefghi"), stand_in="a")
YES_NO = Categories((0.0, 1.0), stand_in=0.0)
ONSET = Times((0.0, 30.0, 365.0), prevalent=True)
DOMAIN = table_domain(
    [
        ("number", NUMBER, Role.FEATURE),
        ("everybodys", EVERYBODYS, Role.FEATURE),
        ("many", MANY, Role.FEATURE),
        ("yes or no", YES_NO, Role.FEATURE),
        ("onset", ONSET, Role.OUTCOME),
    ]
)
ALL = tuple(itertools.combinations(DOMAIN.names, 2))


def _column(form: Form) -> Column:
    return Column("x", "x", Role.FEATURE, form)


def _codes(rows: np.ndarray, domain: Domain = DOMAIN) -> Codes:
    return {name: rows[:, j].astype(np.intp) for j, name in enumerate(domain.names)}


def _levels(codes: Codes, domain: Domain = DOMAIN) -> dict[str, np.ndarray]:
    return {name: np.bincount(codes[name], minlength=domain.sizes[name]) for name in domain.names}


def _scoring(codes: Codes, domain: Domain = DOMAIN) -> Scoring:
    return scoring_of(domain, tuple(itertools.combinations(domain.names, 2)), _levels(codes, domain))


def _population(patients: int, seed: int = 0) -> Codes:
    """`number` and `everybodys` go together, `many` goes by `number`'s middle; the rest by itself."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal(patients)
    near = hidden + 0.7 * random.standard_normal(patients)
    middle = np.abs(hidden) < 0.7
    columns = [
        np.digitize(hidden, [-0.8, -0.25, 0.25, 0.8]),
        np.digitize(near, [-0.8, 0.0, 0.8]),
        np.where(random.random(patients) < 0.8, middle, random.integers(0, 9, patients)),
        random.random(patients) < 0.3,
        random.integers(0, 4, patients),
    ]
    return _codes(np.stack([np.asarray(c, np.intp) for c in columns], axis=1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_patient_changes_scores_by_no_more_than_they_are_charged_for(data: st.DataObject) -> None:
    """Whatever the levels are said to be: a coordinator that lies about them makes nobody pay more."""
    levels = {
        name: np.array(data.draw(st.lists(st.integers(-(10**9), 10**9), min_size=size, max_size=size)))
        for name, size in DOMAIN.sizes.items()
    }
    row = st.tuples(*(st.integers(0, size - 1) for size in DOMAIN.sizes.values()))
    rows = np.array(data.draw(st.lists(row, min_size=1, max_size=20)))
    scoring = scoring_of(DOMAIN, ALL, levels)
    both = (scoring.count(_codes(rows)), scoring.count(_codes(rows[:-1])))
    for more, fewer, noise in zip(*both, scoring.sigmas(1.0), strict=True):
        assert np.linalg.norm(more - fewer) <= noise + 1e-12


def test_a_patient_can_change_a_score_by_all_it_is_charged_for_so_no_smaller_noise_would_do() -> None:
    codes = _population(200)
    scoring = _scoring(codes)
    none = scoring.count({name: levels[:0] for name, levels in codes.items()})
    one = scoring.count({name: levels[:1] for name, levels in codes.items()})
    changes = [np.linalg.norm(b - a) for a, b in zip(none, one, strict=True)]
    assert changes[0] == pytest.approx(scoring.sigmas(1.0)[0]) == pytest.approx(2.0)


def test_hospitals_scores_add_up_to_those_of_one_table_however_unlike_they_are() -> None:
    codes = _population(3000)
    scoring = _scoring(codes)
    # Each kind of patient at a hospital of its own: there nothing goes together any more.
    parts = [
        scoring.count({n: levels[codes["number"] == kind] for n, levels in codes.items()})
        for kind in range(DOMAIN.sizes["number"])
    ]
    for number, whole in enumerate(scoring.count(codes)):
        assert np.array_equal(whole, sum(part[number] for part in parts))


def test_what_goes_together_is_strong_and_what_does_not_is_nothing() -> None:
    codes = _population(20_000)
    scoring = _scoring(codes)
    strength = dict(
        zip(ALL, scoring.strengths(_levels(codes), scoring.count(codes), 200.0).edges, strict=True)
    )
    together = {("number", "everybodys"), ("number", "many"), ("everybodys", "many")}
    assert min(strength[pair] for pair in together) > 1000
    # Chance alone moves a sum of 20,000 products by some 141.
    assert max(strength[pair] for pair in set(ALL) - together) < 300


def test_a_hospital_that_dropped_out_after_the_levels_makes_no_association() -> None:
    codes = _population(20_000)
    scoring = _scoring(codes)
    stayed = scoring.count({name: levels[:12_000] for name, levels in codes.items()})
    strength = dict(zip(ALL, scoring.strengths(_levels(codes), stayed, 200.0).edges, strict=True))
    assert strength["number", "many"] > 1000
    assert max(strength["yes or no", "onset"], strength["number", "yes or no"]) < 300


def test_nobody_scores_nothing() -> None:
    empty = _codes(np.zeros((0, len(DOMAIN.names)), int))
    scoring = _scoring(empty)
    assert not scoring.strengths(_levels(empty), scoring.count(empty), 1.0).edges.any()


def test_a_number_is_marked_by_its_halves_and_by_whether_it_is_there() -> None:
    often, seldom = np.array([100, 100, 100, 100, 100, 60]), np.array([100, 100, 100, 100, 100, 20])
    assert marks_of(_column(NUMBER), often).of_level.tolist() == [
        [1, -1], [1, -1], [-1, -1], [-1, -1], [-1, -1], [0, 1],
    ]  # fmt: skip
    assert marks_of(_column(NUMBER), seldom).of_level.tolist() == [
        [1, -1], [1, 1], [-1, 1], [-1, 1], [-1, -1], [0, 0],
    ]  # fmt: skip


def test_the_commonest_categories_have_a_mark_each_and_the_others_one() -> None:
    marks = marks_of(_column(MANY), np.array([5, 90, 1, 80, 70, 60, 50, 2, 3])).of_level
    assert [int(np.argmax(row)) for row in marks] == [5, 0, 5, 1, 2, 3, 4, 5, 5]
    assert marks.sum(axis=1).tolist() == [1] * 9


def test_of_two_levels_one_mark_is_enough() -> None:
    assert marks_of(_column(YES_NO), np.array([10, 90])).of_level.tolist() == [[-1], [1]]


def test_an_outcome_is_marked_by_whether_it_came_or_was_there_before() -> None:
    assert marks_of(_column(ONSET), np.ones(4)).of_level.tolist() == [
        [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1],
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_how_many_sums_a_pair_has_is_a_public_fact(data: st.DataObject) -> None:
    levels = {
        name: np.array(data.draw(st.lists(st.integers(-50, 5000), min_size=size, max_size=size)))
        for name, size in DOMAIN.sizes.items()
    }
    nobody = {name: np.zeros(0, np.intp) for name in DOMAIN.names}
    counted = scoring_of(DOMAIN, ALL, levels).count(nobody)
    assert [table.shape for table in counted] == [sums_shape(DOMAIN, pair) for pair in ALL]


@given(st.lists(st.integers(1, 10_000), min_size=len(PAIRS), max_size=len(PAIRS), unique=True))
def test_no_other_tree_has_a_larger_sum_of_scores(scores: list[int]) -> None:
    tree = {tuple(sorted(pair)) for pair in choose_tree(PAIRS, np.array(scores)).items()}
    assert len(tree) == len(COLUMNS) - 1
    best = sum(scores[PAIRS.index(pair)] for pair in tree)
    for trees in itertools.combinations(PAIRS, 4):
        if _connects(trees):
            assert sum(scores[PAIRS.index(pair)] for pair in trees) <= best


def _connects(pairs: tuple[tuple[str, str], ...]) -> bool:
    reached = {"a"}
    for _ in COLUMNS:
        reached |= {x for pair in pairs if reached & set(pair) for x in pair}
    return reached == set(COLUMNS)


def test_a_score_of_nothing_is_no_edge() -> None:
    assert choose_tree(PAIRS, np.full(len(PAIRS), -3)) == {}


def test_the_hub_is_the_only_root_and_what_goes_together_most_with_all_others() -> None:
    scores = np.array([1 + 50 * ("c" in pair) for pair in PAIRS])
    parent = choose_tree(PAIRS, scores, hubs=("b", "c"))
    assert set(parent) == set(COLUMNS) - {"c"}


def test_a_column_of_nearly_one_level_is_weighed_less_as_an_edge_than_as_a_hub() -> None:
    generator = np.random.default_rng(0)
    rare = generator.random(20_000) < 0.05
    rows = np.stack([rare, rare, np.zeros(20_000, bool)], axis=1).astype(int)
    three = table_domain([(name, YES_NO, Role.FEATURE) for name in "xyz"])
    codes = _codes(rows, three)
    scoring = _scoring(codes, three)
    found = scoring.strengths(_levels(codes, three), scoring.count(codes), 10.0)
    apart = 4 * 20_000 * rare.mean() * (1 - rare.mean())  # of marks that are 1 or -1
    variety = 2 * rare.mean() * (1 - rare.mean())
    assert found.edges[0] == pytest.approx(variety * apart, rel=0.02)
    assert found.hubs[0] == pytest.approx(variety**0.25 * apart, rel=0.02)
    assert found.edges[1:].tolist() == found.hubs[1:].tolist() == [0, 0]


def test_what_pulls_chooses_the_hub_alone() -> None:
    scores = np.array([1 + 50 * ("c" in pair) for pair in PAIRS])
    pull = np.array([1 + 50 * ("b" in pair) for pair in PAIRS])
    parent = choose_tree(PAIRS, scores, hubs=("b", "c"), pull=pull)
    assert set(parent) == set(COLUMNS) - {"b"}


@pytest.mark.parametrize("factor", [1, 3])
def test_equal_scores_give_the_same_tree_to_everybody(factor: int) -> None:
    assert choose_tree(PAIRS, np.full(len(PAIRS), 7 * factor)) == choose_tree(PAIRS, np.full(len(PAIRS), 7))
