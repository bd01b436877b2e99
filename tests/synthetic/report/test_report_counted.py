"""A report about other patients than those who were counted says so: attacks on these would find nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import add_noise, count
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.report import Verdict
from gemel.synthetic.report.counted import counted_row

COLUMNS = [("sex",), ("age",), ("race",), ("albumin", "death"), ("age", "death"), ("age", "albumin", "icu")]


@pytest.fixture(scope="module")
def released(ward_columns, make_ward):
    """Tables of 2,000 patients with little, and with much noise."""

    def release(sigma, patients=None):
        queries = tuple(Query("/".join(c), c, (None,) * len(c), sigma) for c in COLUMNS)
        codes = ward_columns.encode_columns(make_ward(2000, 1) if patients is None else patients)
        return queries, add_noise(queries, count(queries, ward_columns, codes), NoiseSource.for_tests(3))

    return release


@pytest.mark.parametrize("sigma", [3.0, 12.0])
def test_those_who_were_counted_differ_from_what_was_released_by_the_noise_alone(
    sigma, table, make_ward, released
):
    row = counted_row(table(make_ward(2000, 1)), *released(sigma))
    assert row.verdict is Verdict.PASS
    assert row.value == pytest.approx(1.0, abs=0.2)
    assert (row.internal, row.gates) == (True, True)


@pytest.mark.parametrize("people", [2000, 2400])
def test_other_patients_of_the_same_kind_fail(people, table, make_ward, released):
    row = counted_row(table(make_ward(people, 2)), *released(3.0))
    assert row.verdict is Verdict.FAIL
    assert "others than those" in row.detail


def test_one_hospitals_part_of_those_who_were_counted_is_told_apart_from_others(table, make_ward, released):
    part = table(make_ward(2000, 1)).take(slice(0, 700))
    row = counted_row(part, *released(3.0))
    assert (row.verdict, row.gates) == (Verdict.INFORMATION, False)
    assert "about 35%" in row.detail


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_row_holds_whatever_the_noise_was(ward_columns, table, make_ward, released, seed):
    patients = make_ward(300, seed)
    assert counted_row(table(patients), *released(4.0, patients)).verdict is Verdict.PASS


def test_without_released_tables_nobody_can_tell(table, make_ward):
    assert counted_row(table(make_ward(50, 1)), (), {}).verdict is Verdict.NOT_TESTED
