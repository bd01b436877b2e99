import random
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_hospital import INDEX, Hospital, feature, programme

from gemel.core.errors import GemelError
from gemel.core.programme import (
    Comparison,
    Criterion,
    IndexEvent,
    IndexKind,
    Missing,
    Occurrence,
    Threshold,
)
from gemel.core.programme_check import COHORT_REASONS
from gemel.data_adapters.dataset import cohort
from gemel.data_adapters.dataset.assemble import assemble
from gemel.data_adapters.dataset.cohort import select_cohort


def high(value):
    return Threshold(comparison=Comparison.ABOVE, value=value)


def select(hospital, *features, **definition):
    """(days of each patient from INDEX to the index date, counts of who is out)."""
    with hospital.facts() as facts:
        counts = select_cohort(
            facts, programme(*features, cohort=definition), pseudonym_key=b"0123456789abcdef"
        )
        rows = facts.run("SELECT patient_id, index_day, position, pseudonym FROM member ORDER BY position")
    assert [row[2] for row in rows] == list(range(len(rows)))
    assert [row[3] for row in rows] == sorted(row[3] for row in rows)
    assert counts.included == len(rows) == counts.patients - sum(counts.excluded.values())
    return {row[0]: (row[1] - INDEX).days for row in rows}, counts.excluded


def test_the_first_finished_visit_of_age_is_the_index_date():
    hospital = Hospital()
    hospital.person("p", birth=date(1992, 1, 11))
    hospital.visit("p", 0)  # ten days before the eighteenth birthday
    hospital.visit("p", 5, finished=False)
    hospital.visit("p", 10)
    hospital.visit("p", 100)
    assert select(hospital) == ({"p": 10}, {})


@pytest.mark.parametrize(
    ("which", "days"), [(Occurrence.FIRST, 0), (Occurrence.FIRST_EVER, 0), (Occurrence.LAST, 700)]
)
def test_first_and_last_visits_set_the_index_date(which, days):
    hospital = Hospital()
    hospital.person("p")
    for day in (0, 300, 700, 800, 1000):
        hospital.visit("p", day)
    # The last visit with 300 days of follow-up.
    found = select(hospital, index=IndexEvent(which=which), minimum_follow_up_days=300)
    assert found == ({"p": days}, {})


def test_one_of_many_visits_is_drawn_by_the_pseudonym_and_stays():
    hospital = Hospital()
    for i in range(60):
        hospital.person(f"p{i}")
        for day in range(0, 1000, 100):
            hospital.visit(f"p{i}", day)
    one = IndexEvent(which=Occurrence.ONE)
    days, _ = select(hospital, index=one, minimum_follow_up_days=100)
    assert set(days.values()) == set(range(0, 900, 100))
    for rows in hospital.rows.values():
        random.Random(1).shuffle(rows)
    assert select(hospital, index=one, minimum_follow_up_days=100)[0] == days


@pytest.mark.parametrize("kind", [IndexKind.DIAGNOSIS, IndexKind.TREATMENT])
def test_a_first_diagnosis_or_treatment_sets_the_index_date(kind):
    hospital = Hospital()
    hospital.patient("p")
    hospital.fact("diabetes", 40)
    hospital.fact("diabetes", 30)
    hospital.fact("stroke", 10)
    hospital.patient("without")
    event = IndexEvent(kind=kind, concepts=("diabetes",))
    assert select(hospital, index=event) == ({"p": 30}, {"no index event": 1})


def test_a_first_measurement_beyond_a_threshold_sets_the_index_date():
    hospital = Hospital()
    hospital.patient("p")
    for day, value, bound in [(1, None, None), (2, 150, None), (3, 150, "<"), (4, 150, ">"), (5, 151, None)]:
        hospital.fact("sodium", day, value, bound=bound)
    for threshold, day in [(None, 2), (high(150), 4), (high(150.5), 5)]:
        event = IndexEvent(kind=IndexKind.MEASUREMENT, concepts=("sodium",), threshold=threshold)
        assert select(hospital, index=event)[0] == {"p": day}


def test_the_first_ever_diagnosis_is_not_replaced_by_a_later_one_that_fits():
    """A diagnosis in childhood makes a later record of it no first diagnosis."""
    hospital = Hospital()
    hospital.person("p", birth=INDEX - timedelta(365 * 17))
    hospital.visit("p", 0)
    hospital.visit("p", 1000)
    hospital.fact("diabetes", 1)
    hospital.fact("diabetes", 600)
    event = {"kind": IndexKind.DIAGNOSIS, "concepts": ("diabetes",)}
    assert select(hospital, index=IndexEvent(**event)) == ({"p": 600}, {})
    first = IndexEvent(**event, which=Occurrence.FIRST_EVER)
    assert select(hospital, index=first) == ({}, {"too young at every index event": 1})


@pytest.mark.parametrize(("look_back", "days"), [(0, 0), (1, 200), (200, 200), (201, 450), (451, None)])
def test_the_record_must_reach_back_before_the_index_date(look_back, days):
    hospital = Hospital()
    hospital.person("p")
    for day in (0, 200, 450):
        hospital.visit("p", day, finished=day != 450 or None)
    hospital.visit("p", 450)
    hospital.visit("p", 900, finished=False)
    found, excluded = select(hospital, minimum_look_back_days=look_back)
    assert found == ({"p": days} if days is not None else {})
    assert excluded == ({} if days is not None else {"look-back too short": 1})


def test_a_diagnosis_before_the_first_visit_is_not_within_the_record():
    hospital = Hospital()
    hospital.patient("p")
    hospital.fact("diabetes", -4000)
    event = IndexEvent(kind=IndexKind.DIAGNOSIS, concepts=("diabetes",))
    assert select(hospital, index=event) == ({}, {"look-back too short": 1})


def test_each_reason_to_be_out_is_counted_by_the_first_that_applies():
    hospital = Hospital()
    hospital.patient("in")
    hospital.patient("no birth", birth=None, death=-5)
    hospital.person("no visit", death=-5)
    hospital.person("not finished")
    hospital.visit("not finished", 0, finished=False)
    hospital.patient("young", birth=date(2009, 1, 1), until=2)
    hospital.patient("old", birth=date(1909, 12, 31), until=0)
    hospital.patient("undated", deceased=True)
    hospital.patient("dead before", death=-1)
    hospital.patient("short", until=0)
    hospital.patient("dead on the day", death=0)
    assert select(hospital)[1] == {
        "no birth date": 1,
        "no finished encounter": 2,
        "too young at every encounter": 1,
        "too old at the index date": 1,
        "death without a date": 1,
        "death before the index date": 1,
        "follow-up too short": 2,
    }


def criterion(name, *concepts, **more):
    return Criterion(name=name, reason=f"because of {name}", concepts=concepts, **more)


@pytest.mark.parametrize(
    ("day", "value", "more", "found"),
    [
        (-30, None, {"from_days": -30}, True),
        (-31, None, {"from_days": -30}, False),
        (0, None, {}, True),
        (1, None, {}, False),
        (1, None, {"to_days": None}, True),
        (7, None, {"from_days": 1, "to_days": 7}, True),
        (-1, None, {"minimum_count": 2}, False),
    ],
)
def test_a_criterion_looks_within_its_window(day, value, more, found):
    hospital = Hospital()
    hospital.patient()
    hospital.fact("diabetes", day, value)
    rule = criterion("rule", "diabetes", **more)
    assert select(hospital, required=(rule,)) == (({"p": 0}, {}) if found else ({}, {"rule": 1}))
    assert select(hospital, exclusions=(rule,)) == (({}, {"rule": 1}) if found else ({"p": 0}, {}))


def test_a_treatment_counts_as_long_as_it_lasts():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("statin", -900, until=-50)
    assert select(hospital, exclusions=(criterion("rule", "statin", from_days=-50),))[0] == {}
    assert select(hospital, exclusions=(criterion("rule", "statin", from_days=-49),))[0] == {"p": 0}


@pytest.mark.parametrize(
    ("comparison", "limit", "value", "bound", "met"),
    [
        ("<", 5, 4.9, None, True),
        ("<", 5, 5, None, False),
        ("<=", 5, 5, None, True),
        (">", 5, 5, None, False),
        (">=", 5, 5, None, True),
        ("<", 5, 5, "<", True),  # below 5: below 5
        ("<", 5, 5, "<=", False),  # may be 5
        ("<=", 5, 5, "<=", True),
        ("<=", 5, 6, "<", False),  # may be 5.5
        ("<", 5, 3, ">", False),
        (">", 5, 5, ">", True),
        (">", 5, 5, ">=", False),
        (">=", 5, 5, ">=", True),
        (">=", 5, 5, ">", True),
        (">=", 5, 4, ">", False),
        (">", 5, 9, "<", False),
        (">", 5, None, None, False),
    ],
)
def test_a_value_or_bound_meets_a_threshold_only_when_it_surely_does(comparison, limit, value, bound, met):
    hospital = Hospital()
    hospital.patient()
    hospital.fact("potassium", -1, value, bound=bound)
    rule = criterion("rule", "potassium", threshold=Threshold(comparison=Comparison(comparison), value=limit))
    assert bool(select(hospital, exclusions=(rule,))[1]) is met


def test_criteria_and_excluding_features_are_counted_in_their_order():
    hospital = Hospital()
    for name in ("in", "a", "b", "c", "d", "ab"):
        hospital.patient(name)
        if name in ("in", "b", "c", "d"):
            hospital.fact("statin", -1, key=name)
        if name in ("b", "ab"):
            hospital.fact("stroke", -1, key=name)
        if name in ("in", "a", "b", "ab", "d"):
            hospital.fact("sodium", -1, 140, key=name)
        if name in ("in", "a", "b", "ab", "c"):
            hospital.fact("potassium", -1, 4, key=name)
    features = (
        feature("sodium", "last", "sodium", missing=Missing.EXCLUDE),
        feature("potassium", "series", "potassium", missing=Missing.EXCLUDE),
    )
    rules = {"required": (criterion("A", "statin"),), "exclusions": (criterion("B", "stroke"),)}
    days, excluded = select(hospital, *features, **rules)
    assert list(days) == ["in"]
    assert excluded == {"A": 2, "B": 1, "no value: sodium": 1, "no value: potassium": 1}


def test_who_is_left_keeps_the_own_values():
    """Positions change when patients leave; values must follow their patients."""
    hospital = Hospital()
    for i in range(40):
        hospital.patient(f"p{i}", until=100 + i)
        hospital.fact("sodium", -1, 100 + i, key=f"p{i}")
        if i % 3 == 0:
            hospital.fact("stroke", -1, key=f"p{i}")
    built = programme(feature("x", "last", "sodium"), cohort={"exclusions": (criterion("B", "stroke"),)})
    dataset, counts = hospital.build(built)
    assert counts.excluded == {"B": 14}
    for i in range(40):
        name = hospital.pseudonym(f"p{i}")
        assert (name in dataset.patient_ids) is (i % 3 != 0)
        if i % 3:
            row = dataset.patient_ids.index(name)
            assert dataset.values[row, 0] == 100 + i
            assert dataset.time_years[row, 0] * 365.25 == pytest.approx(100 + i)


def test_a_patient_who_stands_there_twice_is_gem245():
    hospital = Hospital()
    hospital.patient("p")
    hospital.person("p", birth=date(1950, 1, 1))
    with pytest.raises(GemelError) as caught:
        select(hospital)
    assert caught.value.code == "GEM245"


def test_nobody_in_the_cohort_is_gem212_and_a_short_key_is_refused():
    hospital = Hospital()
    hospital.person("p")
    with pytest.raises(GemelError) as caught:
        hospital.build(programme())
    assert caught.value.code == "GEM212"
    with pytest.raises(ValueError, match="16 bytes"):
        hospital.build(programme(), key=b"short")


def test_two_programmes_can_be_built_from_the_same_facts():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", -1, 140)
    parts = programme(feature("x", "last", "sodium"))
    with hospital.facts() as facts:
        first, _ = assemble(facts, parts, pseudonym_key=b"0123456789abcdef")
        other, _ = assemble(
            facts, programme(feature("x", "count", "sodium")), pseudonym_key=b"0123456789abcdef"
        )
        again, _ = assemble(facts, parts, pseudonym_key=b"0123456789abcdef")
    assert other.values[0, 0] == 1
    assert first.snapshot == again.snapshot


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000), which=st.sampled_from(list(Occurrence)), look_back=st.sampled_from([0, 200])
)
def test_index_dates_are_those_of_a_slow_reading(seed, which, look_back):
    chance = random.Random(seed)
    hospital = Hospital()
    visits = {}
    for i in range(30):
        key = f"p{i}"
        hospital.person(key, birth=INDEX - timedelta(chance.randint(17 * 365, 20 * 365)))
        visits[key] = sorted(chance.sample(range(1500), chance.randint(1, 5)))
        for day in visits[key]:
            hospital.visit(key, day)
    days, _ = select(
        hospital, index=IndexEvent(which=which), minimum_look_back_days=look_back, minimum_follow_up_days=30
    )
    for person in hospital.rows["person"]:
        key, born = person["patient_id"], person["birth_day"]
        first, last = visits[key][0], visits[key][-1]
        grown = date(born.year + 18, born.month, born.day if (born.month, born.day) != (2, 29) else 28)
        fits = [d for d in visits[key] if INDEX + timedelta(d) >= grown and d - first >= look_back]
        late = [d for d in fits if last - d >= 30]
        if which is Occurrence.LAST:
            assert days.get(key) == (late[-1] if late else None)
        elif which is Occurrence.ONE:
            assert (key in days) is bool(late)
            assert days.get(key) in [*late, None]
        else:
            fits = fits if which is Occurrence.FIRST else [d for d in fits if d == first]
            assert days.get(key) == (fits[0] if fits and last - fits[0] >= 30 else None)


def test_a_cohorts_own_reasons_are_names_that_no_criterion_may_take():
    """`programme_check` keeps the list, the cohort's SQL has the words: they must not drift apart."""
    sql = Path(cohort.__file__).read_text("utf-8")
    for reason in COHORT_REASONS:
        assert reason.removesuffix("encounter").removesuffix("index event") in sql
