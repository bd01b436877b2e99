"""The converter of the International Stroke Trial: what a row says, and what it must not say."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stroke_trial_rows import row

from gemel.cli.demo.open_datasets import datasets_of
from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.programmes.stroke import OUTCOME_DAY, PROGRAMME
from gemel.twins.programmes.stroke.open_data import (
    FILE,
    RANKIN,
    InternationalStrokeTrial,
    home_day,
    person,
    randomised,
    read_rows,
)

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
ABSENT = pytest.mark.skipif(not (DATA / FILE).exists(), reason="the trial's file is not in ../shared/data")
MONTHS = ("sty", "lut", "mar", "kwi", "maj", "cze", "lip", "sie", "wrz", "pa?", "lis", "gru")
NEVER_KNOWN_AT_START = {"modified_rankin_scale", "intracerebral_haemorrhage"}


def recorded(of, concept):
    day_0 = of.visits[0][0]
    return [((item.day - day_0).days, item.value) for item in of.recorded if item.concept == concept]


def test_a_person_has_what_was_known_at_randomisation():
    it = person(row(), "1")
    assert it.visits[0][0] == date(1993, 2, 2)  # the first Tuesday of February 1993
    assert it.birth == date(1923, 2, 1)
    assert (it.hospital, it.male, it.died) == ("XX-7", True, None)
    assert recorded(it, "stroke") == [(0, None)]
    assert recorded(it, "nihss_consciousness") == [(0, 1.0)]
    assert recorded(it, "nihss_arm") == [(0, 1.0)]
    assert recorded(it, "nihss_leg") == [(0, 0.0)]
    assert recorded(it, "systolic_blood_pressure") == [(0, 150.0)]
    assert recorded(it, "atrial_fibrillation") == [(0, None)]
    assert recorded(it, "aspirin") == [(-1, None), (0, None)]


def test_a_deficit_that_could_not_be_assessed_is_not_written():
    assert recorded(person(row(RDEF5="C"), "1"), "nihss_visual") == []


@pytest.mark.parametrize(
    ("dose", "given_it"), [("L", True), ("M", True), ("H", True), ("N", False), ("", False)]
)
def test_any_dose_of_heparin_counts_and_an_empty_cell_does_not(dose, given_it):
    assert bool(recorded(person(row(RXHEP=dose), "1"), "heparin")) is given_it


def test_what_the_pilot_did_not_ask_for_is_not_recorded():
    it = person(row(RATRIAL="", RASP3=""), "1")
    assert recorded(it, "atrial_fibrillation") == []
    assert recorded(it, "aspirin") == [(0, None)]


def test_an_infarct_seen_on_a_scan_is_coded_as_one():
    it = person(row(RVISINF="Y"), "1")
    assert recorded(it, "ischaemic_stroke") == [(0, None)]
    assert recorded(it, "stroke") == []


@pytest.mark.parametrize(("code", "value"), [("4", 0.0), ("3", 1.5), ("2", 3.5)])
def test_the_status_at_six_months_is_written_on_the_day_of_the_form(code, value):
    assert recorded(person(row(OCCODE=code), "1"), "modified_rankin_scale") == [(190, value)]


def test_who_died_after_six_months_counts_as_dependent_then():
    it = person(row(OCCODE="2", DIED="1", TD="225", FDEAD="Y"), "1")
    assert recorded(it, "modified_rankin_scale") == [(OUTCOME_DAY, 3.5)]
    assert it.died == it.visits[0][0] + timedelta(days=225)


def test_who_died_before_has_no_status():
    it = person(row(OCCODE="1", DIED="1", TD="0", FDEAD="Y", DALIVE="N", DALIVED="", DPLACE=""), "1")
    assert it.died == it.visits[0][0] == it.visits[-1][1]
    assert recorded(it, "modified_rankin_scale") == []


def test_an_unknown_end_is_the_last_that_is_known():
    it = person(row(FDEAD="U", OCCODE="9", TD="300", FLASTD="40"), "1")
    assert it.died is None
    assert (it.visits[-1][1] - it.visits[0][0]).days == 40
    assert recorded(it, "modified_rankin_scale") == []


def test_a_recurrence_of_the_first_day_is_written_on_the_next():
    it = person(row(DRSISC="Y", DRSISCD="0", DRSUNK="Y", DRSUNKD="9", DRSH="Y", DRSHD="3"), "1")
    assert recorded(it, "ischaemic_stroke") == [(1, None)]
    assert (9, None) in recorded(it, "stroke")
    assert recorded(it, "intracerebral_haemorrhage") == [(3, None)]


def test_an_event_without_a_day_is_not_written():
    assert recorded(person(row(DRSISC="Y", DRSISCD=""), "1"), "ischaemic_stroke") == []


def test_home_is_a_home_or_that_of_relatives():
    assert home_day(row()) == 12
    assert home_day(row(DPLACE="B")) == 12
    assert home_day(row(DPLACE="E")) is None


@given(st.sampled_from(MONTHS), st.integers(91, 96), st.integers(1, 7))
def test_the_day_has_the_month_and_the_weekday_of_the_file(month, year, weekday):
    day = randomised({"RDATE": f"{month}-{year}", "DAYLOCAL": str(weekday)})
    assert (day.year, day.month) == (1900 + year, MONTHS.index(month) + 1)
    assert day.isoweekday() % 7 + 1 == weekday
    assert day.day <= 7


def test_nothing_of_later_is_written_before_the_first_day_is_over():
    it = person(row(DRSISC="Y", DRSISCD="0", DRSH="Y", DRSHD="0"), "1")
    for concept in NEVER_KNOWN_AT_START:
        assert all(day > 0 for day, _ in recorded(it, concept))


def directly(people):
    """What a data set must hold, from the persons alone: the oracle of the way through FHIR."""
    found = []
    for it in people:
        day_0, names = it.visits[0][0], PROGRAMME.feature_names
        end = it.died or max(last for _, last in it.visits)
        given = dict.fromkeys(names, np.nan)
        given |= {f.name: 0.0 for f in PROGRAMME.columns if f.kind == "present"}
        given["age_years"] = (day_0 - it.birth).days / DAYS_PER_YEAR
        given["male"] = float(it.male)
        for feature in PROGRAMME.columns[2:]:
            for day, value in sorted(p for c in feature.concepts for p in recorded(it, c)):
                if (feature.start_days or -(10**6)) <= day <= feature.to_days:
                    given[feature.name] = 1.0 if value is None else value
        rankin = [(abs(d - OUTCOME_DAY), d, v) for d, v in recorded(it, "modified_rankin_scale")]
        near = [v for away, _, v in sorted(rankin) if away <= 150]
        found.append([*given.values(), (end - day_0).days, it.died is not None, near[0] if near else np.nan])
    return np.array(sorted(map(tuple, found)), np.float64)


def test_the_way_through_fhir_gives_what_the_converter_meant():
    rows = [
        row(AGE=str(50 + i), HOSPNUM=str(i % 3), RXHEP="NLM"[i % 3], OCCODE="234"[i % 3], RDEF4="YNC"[i % 3])
        for i in range(30)
    ] + [row(AGE=str(81 + i), DIED="1", TD=str(i), FDEAD="Y", OCCODE="1", DALIVE="N") for i in range(10)]
    people = [person(r, str(i)) for i, r in enumerate(rows)]
    dataset = datasets_of(PROGRAMME, {"north": people})["north"]
    days = dataset.time_years[:, 0] * DAYS_PER_YEAR
    value = dataset.targets[:, dataset.target_names.index("rankin_value_6_months")]
    read = np.column_stack([dataset.values, days, dataset.event[:, 0] == 1, value]).astype(np.float64)
    expected = directly(people)
    # Sorted by age, which no two have in common within a group of the made-up rows.
    np.testing.assert_allclose(read[np.argsort(read[:, 0])], expected, atol=0.01)


def test_without_the_file_people_are_simulated_and_said_to_be():
    people = list(InternationalStrokeTrial().people(None, seed=3))
    assert len(people) == 4000
    assert all(it.hospital.startswith("simulated") for it in people)
    assert people == list(InternationalStrokeTrial().people(None, seed=3))


@ABSENT
def test_the_whole_file_is_converted_and_nobody_is_lost():
    rows = list(read_rows(DATA / FILE))
    people = list(InternationalStrokeTrial().people(DATA, seed=0))
    assert len(people) == len(rows)
    assert sum(it.died is not None for it in people) == sum(r["DIED"] == "1" for r in rows)
    assert len({it.hospital for it in people}) == len({r["HOSPNUM"] for r in rows})
    status = [v for it in people for _, v in recorded(it, "modified_rankin_scale")]
    for code, value in RANKIN.items():
        assert status.count(value) == sum(r["OCCODE"] == code for r in rows)
    assert {it.identity for it in people} == {str(i) for i in range(len(rows))}
