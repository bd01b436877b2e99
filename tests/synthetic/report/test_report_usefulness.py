"""What the rows of usefulness say of cohorts that follow the patients, and of cohorts each wrong in one way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.synthetic.report import Evidence, Verdict
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.usefulness import usefulness_rows


def rows_of(domain, draws, evidence):
    tables = [PeopleTable(domain, columns) for columns in draws]
    return list(usefulness_rows(tables, evidence))


def by_measure(rows, *parts):
    found = [row for row in rows if all(part in f"{row.block}: {row.measure}" for part in parts)]
    assert len(found) == 1, [row.measure for row in found]
    return found[0]


@pytest.fixture(scope="module")
def right(ward_columns, faithful, patients):
    return rows_of(ward_columns, faithful, patients)


def broken(draws, change):
    """Each draw with some columns changed."""
    return [{**draw, **change(draw, np.random.default_rng(seed))} for seed, draw in enumerate(draws)]


def test_a_cohort_that_follows_the_patients_fails_nothing_that_decides(right):
    assert [row.measure for row in right if row.gates and row.verdict is Verdict.FAIL] == []
    passed = {row.block for row in right if row.verdict is Verdict.PASS}
    assert passed >= {
        "pairs", "survival", "regression", "prediction", "treatment effect", "correlations", "fairness",
    }  # fmt: skip


def test_every_row_has_its_range_over_the_draws_its_threshold_and_its_baseline(right):
    for row in right:
        assert row.internal
        if row.verdict is not Verdict.NOT_TESTED and not row.control:
            assert row.low <= row.value <= row.high
            assert row.threshold
        assert row.gates == (row.verdict is not Verdict.INFORMATION and row.block != "smoke test")


WRONG = {
    "columns that have nothing to do with each other": (
        lambda draw, random: {"albumin": random.permutation(draw["albumin"]), "age": random.permutation(draw["age"])},
        [("regression", "death", "difference"), ("prediction", "death by day", "logistic")],
    ),
    "columns each by itself": (
        lambda draw, random: {
            name: random.permutation(draw[name]) for name in ("sex", "age", "albumin", "race", "aspirin", "icu")
        },
        [("pairs", "two columns"), ("correlations", "mean absolute")],
    ),
    "a time that does not know the event": (
        lambda draw, random: {"death": (random.permutation(draw["death"][0]), draw["death"][1])},
        [("pairs", "with time and event"), ("survival", "death: largest", "the curves"[:3])],
    ),
    "people who live longer": (
        lambda draw, random: {"death": (draw["death"][0], draw["death"][1] * (random.random(len(draw["age"])) < 0.8))},
        [("survival", "death: restricted mean")],
    ),
    "a treatment that harms": (
        lambda draw, random: {"aspirin": draw["death"][1] * (random.random(len(draw["age"])) < 0.8)},
        [("treatment effect", "aspirin on death")],
    ),
    "too few women": (
        lambda draw, random: {"sex": np.where(random.random(len(draw["age"])) < 0.4, "male", draw["sex"])},
        [("fairness", "sex", "share")],
    ),
    "an outcome in hospital that nobody can predict": (
        lambda draw, random: {"icu": random.permutation(draw["icu"])},
        [("prediction", "icu", "boosted")],
    ),
    "an outcome in hospital that is all too clear": (
        lambda draw, random: {"icu": (draw["albumin"] < 3.4).astype(float)},
        [("prediction", "icu", "slope")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_each_fault_of_a_cohort_fails_the_row_that_is_for_it(fault, ward_columns, faithful, patients):
    change, rows = WRONG[fault]
    found = rows_of(ward_columns, broken(faithful[:2], change), patients)
    for parts in rows:
        if parts[0] == "survival" and "largest" in parts[1]:
            parts = ("survival: death: largest difference of the curves",)
            matching = [r for r in found if f"{r.block}: {r.measure}" == parts[0]]
            assert matching[0].verdict is Verdict.FAIL
        else:
            assert by_measure(found, *parts).verdict is Verdict.FAIL, parts


def test_a_cohort_that_is_wrong_about_women_alone_fails_the_rows_by_sex(ward_columns, faithful, patients):
    def change(draw, random):
        women = draw["sex"] == "female"
        days, died = draw["death"]
        spared = women & (random.random(len(women)) < 0.7)
        return {"death": (np.where(spared, 365.0, days), np.where(spared, 0, died))}

    found = rows_of(ward_columns, broken(faithful[:2], change), patients)
    by_sex = by_measure(found, "fairness", "death: curves by sex")
    assert by_sex.verdict is Verdict.FAIL
    assert "female 0." in by_sex.detail
    assert by_measure(found, "fairness", "death: curves by race").verdict is Verdict.PASS


def test_a_slope_that_real_patients_do_not_reach_either_says_nothing_of_a_cohort(ward_columns, make_ward):
    other_law, training = make_ward(1200, 3), make_ward(1500, 1)
    other_law["icu"] = (other_law["albumin"] < 3.4).astype(float)
    evidence = Evidence(ward_columns, training, other_law)
    row = by_measure(rows_of(ward_columns, [training], evidence), "prediction", "icu", "slope")
    assert row.verdict is Verdict.NOT_TESTED
    assert "too few" in row.detail


def test_people_of_the_patients_law_pass_the_smoke_test(ward_columns, make_ward, patients):
    found = rows_of(ward_columns, [make_ward(1500, 70), make_ward(1500, 71)], patients)
    assert by_measure(found, "smoke test", "nearer").verdict is Verdict.PASS


def test_a_group_in_which_too_little_happened_is_left_out_and_never_counts_as_served_well(
    ward_columns, make_ward, faithful
):
    def spare_women(people):
        women = people["sex"] == "female"
        return people | {"death": (people["death"][0], np.where(women, 0, people["death"][1]))}

    evidence = Evidence(ward_columns, spare_women(make_ward(1500, 1)), spare_women(make_ward(1200, 3)))
    found = rows_of(ward_columns, [spare_women(faithful[0])], evidence)
    row = by_measure(found, "fairness", "death: Cox coefficients by sex")
    assert (row.verdict, row.detail) == (Verdict.NOT_TESTED, "no two groups with enough people who had it")


def test_copies_of_the_training_patients_fail_the_smoke_test_and_the_control_says_that_it_can(
    ward_columns, patients
):
    found = rows_of(ward_columns, [patients.training], patients)
    assert by_measure(found, "smoke test", "nearer").verdict is Verdict.FAIL
    control = by_measure(found, "smoke test", "a copy")
    assert control.control
    assert control.verdict is Verdict.PASS
    assert not control.gates


def test_sites_are_compared_by_how_well_their_patients_are_predicted(ward_columns, faithful, patients):
    sites = tuple(np.where(np.arange(n) % 2 == 0, "north", "south") for n in (1500, 1200))
    evidence = Evidence(ward_columns, patients.training, patients.holdout, sites)
    row = by_measure(rows_of(ward_columns, faithful[:2], evidence), "fairness", "death by day", "by site")
    assert row.verdict is Verdict.PASS
    assert "north" in row.detail


def test_without_patients_every_block_says_not_tested(ward_columns, faithful):
    found = rows_of(ward_columns, faithful, None)
    assert {row.verdict for row in found} == {Verdict.NOT_TESTED}
    assert {"pairs", "survival", "fairness", "prediction"} <= {row.block for row in found}


def test_open_data_make_exact_numbers_public_but_never_the_smoke_test(ward_columns, faithful, patients):
    evidence = Evidence(ward_columns, patients.training, patients.holdout, open_data=True)
    found = rows_of(ward_columns, faithful[:2], evidence)
    assert {row.block for row in found if row.internal} == {"smoke test"}


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.sampled_from(["as they are", "no events", "all missing", "one kind"]),
)
@settings(max_examples=12, deadline=None)
def test_few_or_odd_patients_are_told_by_the_rows_and_never_end_the_report(
    ward_columns, make_ward, training, holdout, seed, oddity
):
    def people(count, number):
        found = make_ward(count, number)
        if oddity == "no events":
            found |= {name: (found[name][0], np.zeros(count, int)) for name in ("death", "relapse")}
        elif oddity == "all missing":
            found |= {"albumin": np.full(count, np.nan)}
        elif oddity == "one kind":
            found |= {"sex": np.full(count, "male"), "aspirin": np.zeros(count), "icu": np.ones(count)}
        return found

    evidence = Evidence(ward_columns, people(training, seed), people(holdout, seed + 1))
    with np.errstate(all="raise", under="ignore"):
        found = rows_of(ward_columns, [people(training, seed + 2 + n) for n in range(2)], evidence)
    for row in found:
        assert row.value is None or np.isfinite(row.value)
        if row.block == "prediction":
            assert row.verdict is Verdict.NOT_TESTED or training >= 40
