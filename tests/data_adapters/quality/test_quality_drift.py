"""Drift against a public reference: the numbers by hand, the words by their thresholds, unit mistakes as questions."""

import itertools
import random
import statistics
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_hospital import Hospital, feature, programme

from gemel.core.concepts import LOINC, Code, Concept
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.quality.distributions import (
    count_years,
    counts_sql,
    describe_distributions,
    describe_people,
)
from gemel.data_adapters.quality.drift import FEWEST_PATIENTS, ask_about_units, find_drift

SODIUM = feature(
    "sodium_last",
    "last",
    "sodium",
    low=100,
    high=180,
    reference_mean=140,
    scale=5,
    bin_edges=(100, 130, 140, 150, 180),
)


def drift_of(values, *, one=SODIUM, **person):
    hospital = Hospital()
    for i, value in enumerate(values):
        hospital.patient(f"p{i}", **person)
        hospital.fact("sodium", 1, value, key=f"p{i}")
    with hospital.facts() as facts:
        [found] = find_drift(facts, programme(one))
    return found


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (140, "alike"),
        (141, "alike"),
        (141.1, "differs"),
        (137.5, "differs"),
        (137.4, "differs strongly"),
        (150, "differs strongly"),
    ],
)
def test_the_verdict_follows_the_difference_in_scales(value, verdict):
    found = drift_of([value] * FEWEST_PATIENTS)
    assert found.verdict == verdict
    assert found.smd == pytest.approx((value - 140) / 5)
    assert f"{found.mean:.4g} mmol/L" in found.explanation


def test_of_few_patients_nothing_is_called_different():
    found = drift_of([170] * (FEWEST_PATIENTS - 1))
    assert (found.verdict, found.smd, found.mean) == ("too few patients", None, 170)
    assert drift_of([]).verdict == "no values"


def test_values_are_clipped_as_the_twin_clips_them_and_what_lies_outside_is_counted():
    found = drift_of([140] * 18 + [90, 500])
    assert found.mean == pytest.approx((140 * 18 + 100 + 180) / 20)
    assert (found.share_below, found.share_above) == (0.05, 0.05)
    assert "10.0% of the patients lie outside 100 to 180" in found.explanation
    assert found.bins.counts == [1, 0, 18, 1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(80, 200), min_size=FEWEST_PATIENTS, max_size=40), st.randoms())
def test_mean_median_and_bins_are_those_of_a_plain_count(values, order):
    shuffled = list(values)
    order.shuffle(shuffled)
    found = drift_of(values)
    assert found == drift_of(shuffled)
    assert found.mean == pytest.approx(statistics.fmean(min(max(v, 100), 180) for v in values))
    assert found.median == statistics.median_low(values)
    edges = found.bins.edges
    inner = [sum(low <= v < high for v in values) for low, high in itertools.pairwise(edges)]
    inner[0] += sum(v < edges[0] for v in values)
    inner[-1] += sum(v >= edges[-1] for v in values)
    assert found.bins.counts == inner


def test_one_value_a_patient_counts_by_the_features_own_kind():
    hospital = Hospital()
    for i in range(FEWEST_PATIENTS):
        hospital.patient(f"p{i}")
        for day, value in ((1, 130), (5, 150), (9, 146)):
            hospital.fact("sodium", day, value, key=f"p{i}")
        hospital.fact("sodium", 20, 170, key=f"p{i}", bound=">")
    kinds = {"last": 146, "first": 130, "mean": 142, "min": 130, "max": 150}
    made = programme(*(feature(kind, kind, "sodium", reference_mean=140, scale=5) for kind in kinds))
    with hospital.facts() as facts:
        assert {one.feature: one.mean for one in find_drift(facts, made)} == kinds


def test_children_are_not_held_against_a_reference_of_adults():
    assert drift_of([170] * 30, birth=date(2000, 1, 1)).verdict == "no values"
    assert drift_of([170] * 30, birth=None).verdict == "no values"


def glucose(unit, mean, scale):
    code = Code(LOINC, "test-glucose", verified=False, source="made up for a test")
    concept = Concept(
        name="glucose", title="Glucose", codes=(code,), unit=unit, low=0, high=1000, molar_mass_g_mol=180.156
    )
    one = feature("glucose_last", "last", "glucose", unit=unit, reference_mean=mean, scale=scale)
    return programme(one, concepts=(concept,))


def questions(made, value, examples=()):
    hospital = Hospital()
    for i in range(FEWEST_PATIENTS):
        hospital.patient(f"p{i}")
        hospital.fact("glucose", 1, value, key=f"p{i}")
    with hospital.facts() as facts:
        return ask_about_units(made, find_drift(facts, made), examples)


def test_a_median_that_would_fit_in_another_unit_is_asked_about_and_not_changed():
    [asked] = questions(glucose("mg/dL", 100, 15), 5.5)
    assert (asked.recorded_unit, asked.other_unit) == ("mg/dL", "mmol/L")
    assert asked.question.endswith("only the source can say.")
    assert "99.09" in asked.question
    [asked] = questions(glucose("mmol/L", 5.5, 1), 100)
    assert asked.other_unit == "mg/dL"


def test_no_question_where_the_values_fit_or_no_unit_explains_them():
    assert questions(glucose("mg/dL", 100, 15), 110) == []
    assert questions(glucose("mg/dL", 100, 15), 600) == []


def test_values_left_out_as_implausible_are_asked_about_too():
    asked = questions(glucose("mg/dL", 100, 15), 100, ["glucose = 5.4 mg/dL", "glucose = 5.7 mg/dL"])
    assert [one.other_unit for one in asked] == ["mmol/L"]
    assert "a typical implausible value" in asked[0].question


def test_counts_between_edges_lose_no_value():
    with Facts() as facts:
        values = [random.Random(1).uniform(-5, 15) for _ in range(200)]
        rows = ", ".join(f"({value!r})" for value in values)
        [(counts,)] = facts.run(f"SELECT {counts_sql([0, 1, 5, 10], 'v')} FROM (VALUES {rows}) AS t(v)")
    assert sum(counts) == 200
    assert counts[1] == sum(1 <= value < 5 for value in values)


def test_people_years_and_distributions_are_those_of_the_tables():
    hospital = Hospital()
    hospital.patient("a", sex="female")
    hospital.patient("b", birth=None, death=500)
    hospital.person("c", sex=None, deceased=True)
    hospital.fact("sodium", 0, 140, key="a")
    hospital.fact("sodium", 800, 150, key="a")
    with hospital.facts() as facts:
        people, years = describe_people(facts), count_years(facts)
        [found] = describe_distributions(facts, programme(SODIUM))
    assert people.sex == {"female": 1, "male": 1, "not recorded": 1}
    assert (people.without_birth_date, people.deceased, people.deceased_without_date) == (1, 2, 1)
    assert (people.visits, people.without_visit) == (4, 1)
    assert [(y.year, y.visits, y.facts) for y in years] == [(2010, 2, 1), (2011, 0, 0), (2012, 2, 1)]
    assert (found.values, found.p50, sum(found.histogram.counts)) == (2, 140, 2)
    assert (found.reference_mean, found.plausible_high) == (140, 1000)
