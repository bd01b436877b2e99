import random
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import datetimes_to_durations, survival_table_from_events
from made_up_hospital import DEATH, INDEX, Hospital, programme

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT
from gemel.core.programme import Bounds, Comparison, Outcome, OutcomeKind, Target, TargetKind, Threshold

HIGH = Threshold(comparison=Comparison.AT_LEAST, value=150)
STROKE = Outcome(name="stroke", title="", kind=OutcomeKind.FIRST_DIAGNOSIS, concepts=("stroke", "diabetes"))


def target(kind, *concepts, **more):
    unit = more.pop("unit", "mmol/L")
    return Target(name="t", title="T", kind=TargetKind(kind), concepts=concepts, unit=unit, **more)


def value_of(hospital, wanted):
    dataset, _ = hospital.build(programme(targets=(wanted,)))
    assert dataset.target_names == ("t",)
    return float(dataset.targets[0, 0])


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([(70, 1), (89, 2), (95, 3)], 2),
        ([(89, 2), (91, 3)], 2),  # as near: the earlier
        ([(90.5, 9), (90.5, 8)], 8),  # at one time: the lower
        ([(90.2, 4), (90.1, 5)], 5),
        ([(60, 6)], 6),
        ([(59, 6), (121, 7)], np.nan),
        ([], np.nan),
    ],
)
def test_the_value_at_a_day_is_the_nearest_within_the_tolerance(days, expected):
    hospital = Hospital()
    hospital.patient()
    for day, value in days:
        hospital.fact("sodium", day, value)
    wanted = target("value_at", "sodium", at_days=90, tolerance_days=30)
    np.testing.assert_equal(value_of(hospital, wanted), expected)


def test_a_bound_near_the_day_counts_as_the_target_says():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", 90, 100, bound="<")
    hospital.fact("sodium", 80, 70)
    for bounds, expected in [(Bounds.LEAVE_OUT, 70), (Bounds.HALF, 50), (Bounds.LIMIT, 100)]:
        wanted = target("value_at", "sodium", at_days=90, tolerance_days=30, bounds=bounds)
        assert value_of(hospital, wanted) == expected


@pytest.mark.parametrize(
    ("value", "level"), [(129.9, 0), (130, 1), (139, 1), (140, 2), (999, 2), (None, np.nan)]
)
def test_an_ordinal_target_is_the_level_that_the_value_reaches(value, level):
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", 10, value)
    wanted = target("ordinal", "sodium", at_days=10, levels=(130, 140))
    np.testing.assert_equal(value_of(hospital, wanted), level)


@pytest.mark.parametrize(
    ("patient", "day", "incident", "expected"),
    [
        ({"until": 400}, 365, False, 1),
        ({"until": 400}, 366, False, 0),
        ({"until": 400}, None, False, 0),
        ({"until": 365}, None, False, 0),  # followed to the last day
        ({"until": 364}, None, False, np.nan),  # censored before
        ({"until": 100}, 90, False, 1),
        ({"until": 100}, 101, False, np.nan),  # recorded after the end of follow-up
        ({"until": 5, "death": 100}, None, False, 0),  # after a death it can no longer come
        ({"until": 400}, 0, False, 0),
        ({"until": 400}, 0, True, np.nan),  # had it before
        ({"until": 400}, -500, True, np.nan),
    ],
)
def test_a_binary_target_is_the_event_within_its_days(patient, day, incident, expected):
    hospital = Hospital()
    hospital.patient(**patient)
    if day is not None:
        hospital.fact("diabetes", day)
    np.testing.assert_equal(
        value_of(hospital, target("binary", "diabetes", at_days=365, incident=incident)), expected
    )


def test_a_binary_target_of_a_measurement_needs_its_threshold():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", 5, 149)
    wanted = target("binary", "sodium", at_days=30, threshold=HIGH)
    assert value_of(hospital, wanted) == 0
    hospital.fact("sodium", 6, 150, bound=">")
    assert value_of(hospital, wanted) == 1


@pytest.mark.parametrize(
    ("patient", "expected"),
    [({"death": 30}, 1), ({"death": 31}, 0), ({"until": 30}, 0), ({"until": 29}, np.nan)],
)
def test_death_within_a_month_is_missing_for_those_who_are_not_followed(patient, expected):
    hospital = Hospital()
    hospital.patient(**patient)
    np.testing.assert_equal(value_of(hospital, target("death", at_days=30)), expected)


def test_a_series_target_starts_after_the_index_date():
    hospital = Hospital()
    hospital.patient("p")
    hospital.patient("q")
    for day, value in [(-1, 1), (0.5, 2), (1.25, 3), (30, 5), (30, 4), (31, 6)]:
        hospital.fact("sodium", day, value)
    dataset, _ = hospital.build(programme(targets=(target("series", "sodium", to_days=30),)))
    row = dataset.patient_ids.index(hospital.pseudonym("p"))
    days, values = dataset.series["t"].of(row)
    assert days.tolist() == [1.25, 30, 30]
    assert values.tolist() == [3, 4, 5]
    assert dataset.series["t"].lengths.sum() == 3
    assert dataset.targets.shape == (2, 0)


def test_the_next_diagnosis_is_the_first_after_the_index_date_whoever_had_it_before():
    outcome = Outcome(name="o", title="O", kind=OutcomeKind.NEXT_DIAGNOSIS, concepts=("stroke",))
    hospital = Hospital()
    for key in ("again", "once", "never"):
        hospital.patient(key, until=500)
    for key, day in [("again", -40), ("again", 0), ("again", 100), ("again", 90), ("once", 0)]:
        hospital.fact("stroke", day, key=key)
    dataset, _ = hospital.build(programme(outcomes=(DEATH, outcome)))
    found = {key: dataset.patient_ids.index(hospital.pseudonym(key)) for key in ("again", "once", "never")}
    assert [int(dataset.event[found[key], 1]) for key in ("again", "once", "never")] == [1, 0, 0]
    days = dataset.time_years[:, 1] * 365.25
    assert [round(float(days[found[key]])) for key in ("again", "once", "never")] == [90, 500, 500]


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [
        (OutcomeKind.FIRST_DIAGNOSIS, None),
        (OutcomeKind.FIRST_TREATMENT, None),
        (OutcomeKind.FIRST_MEASUREMENT, None),
        (OutcomeKind.FIRST_MEASUREMENT, HIGH),
    ],
)
def test_each_kind_of_outcome_is_timed_to_its_first_event(kind, threshold):
    name = "sodium" if kind is OutcomeKind.FIRST_MEASUREMENT else "diabetes"
    outcome = Outcome(name="o", title="O", kind=kind, concepts=(name,), threshold=threshold)
    hospital = Hospital()
    for key, until in [("occurred", 500), ("censored", 500), ("prevalent", 500), ("late", 50)]:
        hospital.patient(key, until=until)
    for key, day in [("occurred", 100), ("occurred", 200), ("prevalent", 0), ("late", 51)]:
        hospital.fact(name, day, 200, key=key)
    if threshold is not None:
        hospital.fact(name, 60, 149, key="occurred")
    dataset, _ = hospital.build(programme(outcomes=(DEATH, outcome)))
    rows = [dataset.patient_ids.index(hospital.pseudonym(p["patient_id"])) for p in hospital.rows["person"]]
    assert dataset.event[rows, 1].tolist() == [OCCURRED, CENSORED, PREVALENT, CENSORED]
    expected = np.float32(np.array([100, 500, 0, 50]) / 365.25)
    assert dataset.time_years[rows, 1].tolist() == expected.tolist()


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_competing_events_and_censoring_agree_with_lifelines(seed):
    """Durations and events by `lifelines` from the raw dates, and the risk sets that come of them."""
    chance = random.Random(seed)
    hospital = Hospital()
    ends, deaths, firsts = [], [], []
    for i in range(40):
        until = chance.randint(1, 2000)
        death = chance.choice([None, None, chance.randint(1, 2500)])
        strokes = [chance.randint(1, 2600) for _ in range(chance.choice([0, 0, 1, 3]))]
        hospital.patient(f"p{i}", until=until, death=death)
        for day in strokes:
            hospital.fact(chance.choice(["stroke", "diabetes"]), day, key=f"p{i}")
        ends.append(INDEX + timedelta(death if death is not None else until))
        deaths.append(INDEX + timedelta(death) if death is not None else None)
        firsts.append(INDEX + timedelta(min(strokes)) if strokes else None)
    dataset, _ = hospital.build(programme(outcomes=(DEATH, STROKE)))
    rows = [dataset.patient_ids.index(hospital.pseudonym(f"p{i}")) for i in range(40)]
    for column, happened in enumerate((deaths, firsts)):
        durations, observed = datetimes_to_durations([INDEX] * 40, happened, fill_date=ends)
        # An event after the end of follow-up is none.
        limits, _ = datetimes_to_durations([INDEX] * 40, ends)
        observed = observed & (durations <= limits)
        durations = np.minimum(durations, limits)
        assert dataset.event[rows, column].tolist() == observed.astype(int).tolist()
        days = np.rint(dataset.time_years[:, column].astype(float) * 365.25)
        ours = survival_table_from_events(days, dataset.event[:, column] == OCCURRED)
        assert ours.equals(survival_table_from_events(durations, observed))
