"""Scores of pairs: their sensitivity, what they add up to, and the trees that follow from noisy ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.synthetic.anchored_tree.scores import (
    SCORE_SENSITIVITY,
    candidate_count,
    candidates,
    check_pairs,
    chosen_tree,
    count_scores,
    scored_pairs,
    spanning_tree,
)

COLUMNS = ("a", "b", "c", "d", "e")
PAIRS = scored_pairs(COLUMNS)


def _rows(draw: st.DrawFn, *, sizes: tuple[int, ...], least: int) -> np.ndarray:
    rows = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), min_size=least, max_size=40))
    return np.array(rows, np.intp).reshape(-1, len(sizes))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_patient_more_changes_no_score_by_more_than_the_sensitivity(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.integers(2, 5)) for _ in range(3))
    rows = _rows(data.draw, sizes=sizes, least=1)
    names, pairs = ("x", "y", "z"), scored_pairs(("x", "y", "z"))
    by_name = dict(zip(names, sizes, strict=True))

    def scores(table: np.ndarray) -> np.ndarray:
        return count_scores({n: table[:, j] for j, n in enumerate(names)}, by_name, pairs)

    assert np.abs(scores(rows) - scores(rows[:-1])).max() <= SCORE_SENSITIVITY


def test_the_sensitivity_is_reached_so_a_smaller_one_would_be_a_lie() -> None:
    # Two rare values that come together, in a hospital where they had not: 2 (1 - p) times 2 (1 - q), both near 2.
    before = np.array([0] * 1000 + [1] * 2, np.intp)
    after = np.append(before, 1)
    sizes, pair = {"x": 2, "y": 2}, [("x", "y")]
    change = count_scores({"x": after, "y": after}, sizes, pair) - count_scores(
        {"x": before, "y": before}, sizes, pair
    )
    assert change[0] == SCORE_SENSITIVITY


def test_scores_are_the_distance_from_independence() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.integers(0, 3, 500), generator.integers(0, 4, 500)
    table = np.zeros((3, 4))
    np.add.at(table, (x, y), 1)
    expected = np.abs(table - np.outer(table.sum(1), table.sum(0)) / 500).sum()
    assert count_scores({"x": x, "y": y}, {"x": 3, "y": 4}, [("x", "y")]) == [int(expected)]


def test_hospitals_that_differ_are_no_association() -> None:
    # In each hospital the columns are independent; together they are not.
    generator = np.random.default_rng(0)
    scores = []
    for share in (0.1, 0.9):
        x, y = (generator.random(4000) < share).astype(int), (generator.random(4000) < share).astype(int)
        scores.append(count_scores({"x": x, "y": y}, {"x": 2, "y": 2}, [("x", "y")])[0])
    assert sum(scores) < 8000 * 0.05  # pooled it would be 8000 · 0.64


def test_nobody_scores_nothing() -> None:
    empty = np.array([], np.intp)
    assert count_scores({"x": empty, "y": empty}, {"x": 2, "y": 2}, [("x", "y")])[0] == 0


@given(st.lists(st.integers(-1000, 1000), min_size=len(PAIRS), max_size=len(PAIRS)))
def test_no_exchange_of_a_pair_makes_the_tree_better(scores: list[int]) -> None:
    values = np.array(scores)
    tree = spanning_tree(COLUMNS, PAIRS, values)
    best = sum(scores[PAIRS.index(pair)] for pair in tree)
    for leaving in tree:
        for entering in set(PAIRS) - set(tree):
            other = [pair for pair in tree if pair != leaving] + [entering]
            try:
                check_pairs(COLUMNS, other, count=4)
            except GemelError:
                continue
            assert sum(scores[PAIRS.index(pair)] for pair in other) <= best


@given(st.lists(st.integers(-1000, 1000), min_size=len(PAIRS), max_size=len(PAIRS)))
def test_candidates_are_as_many_as_is_charged_for_and_hold_a_tree(scores: list[int]) -> None:
    again = candidates(COLUMNS, np.array(scores))
    check_pairs(COLUMNS, again, count=candidate_count(COLUMNS))


def test_the_second_score_decides_where_it_has_less_noise() -> None:
    first = np.zeros(len(PAIRS), np.int64)
    again = candidates(COLUMNS, first)
    second = np.arange(len(again), dtype=np.int64)
    tree = chosen_tree(COLUMNS, first, again, second, sigmas=(100.0, 1.0))
    assert tree == spanning_tree(COLUMNS, again, second)


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([("a", "b"), ("b", "c"), ("a", "c"), ("d", "e")], "a cycle"),
        ([("a", "b"), ("b", "c"), ("c", "d")], "a column left out"),
        ([("a", "b"), ("a", "b"), ("b", "c"), ("c", "d")], "a pair twice"),
        ([("a", "b"), ("b", "c"), ("c", "d"), ("d", "secret")], "a column that is not public"),
        ([("b", "a"), ("b", "c"), ("c", "d"), ("d", "e")], "a pair the wrong way round"),
        (list(PAIRS[:5]), "a pair too many"),
    ],
)
def test_what_is_no_spanning_tree_is_refused(pairs: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(GemelError, match="GEM720"):
        check_pairs(COLUMNS, pairs, count=4)
