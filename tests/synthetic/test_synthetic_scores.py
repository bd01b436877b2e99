"""Scores of pairs: their sensitivity, what they add up to, and the trees that follow from noisy ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.synthetic.anchored_tree.scores import choose_tree, count_scores
from gemel.synthetic.columns import Categories, Role
from gemel.synthetic.domain import Domain, table_domain

COLUMNS = ("a", "b", "c", "d", "e")
PAIRS = tuple(itertools.combinations(COLUMNS, 2))


def _domain(*sizes: int) -> Domain:
    columns = zip("xyz", sizes, strict=False)
    return table_domain((n, Categories(tuple(range(s)), stand_in=0), Role.FEATURE) for n, s in columns)


def _scores(domain: Domain, table: np.ndarray) -> np.ndarray:
    codes = {name: table[:, j].astype(np.intp) for j, name in enumerate(domain.names)}
    return count_scores(domain, codes, tuple(itertools.combinations(domain.names, 2)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_patient_more_changes_no_score_by_more_than_one(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.integers(2, 5)) for _ in range(3))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = np.array(data.draw(st.lists(row, min_size=1, max_size=40)))
    scores = _scores(_domain(*sizes), rows)
    assert np.abs(scores - _scores(_domain(*sizes), rows[:-1])).max() <= 1


def test_a_patient_can_change_a_score_by_one_so_no_smaller_sensitivity_is_claimed() -> None:
    # Of two rare values that come together: 2 (1 - p) times 2 (1 - q), both near 2.
    rare = [(0, 0)] * 1000 + [(1, 1)] * 2
    changes = [
        _scores(_domain(2, 2), np.array(rare + [(1, 1)] * more))[0]
        - _scores(_domain(2, 2), np.array(rare + [(1, 1)] * (more - 1)))[0]
        for more in range(1, 5)
    ]
    assert max(changes) == 1


def test_scores_are_a_quarter_of_the_distance_from_independence() -> None:
    generator = np.random.default_rng(3)
    rows = np.stack([generator.integers(0, 3, 500), generator.integers(0, 4, 500)], axis=1)
    table = np.zeros((3, 4))
    np.add.at(table, tuple(rows.T), 1)
    expected = np.abs(table - np.outer(table.sum(1), table.sum(0)) / 500).sum() / 4
    assert _scores(_domain(3, 4), rows) == [int(expected)]


def test_hospitals_that_differ_are_no_association() -> None:
    # In each hospital the columns are independent; together they are not.
    generator = np.random.default_rng(0)
    scores = [
        _scores(_domain(2, 2), (generator.random((4000, 2)) < share).astype(int))[0] for share in (0.1, 0.9)
    ]
    assert sum(scores) < 2000 * 0.05  # pooled it would be 2000 · 0.64


def test_nobody_scores_nothing() -> None:
    assert _scores(_domain(2, 2), np.zeros((0, 2), int))[0] == 0


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


@pytest.mark.parametrize("factor", [1, 3])
def test_equal_scores_give_the_same_tree_to_everybody(factor: int) -> None:
    assert choose_tree(PAIRS, np.full(len(PAIRS), 7 * factor)) == choose_tree(PAIRS, np.full(len(PAIRS), 7))
