import random
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_hospital import INDEX, Hospital, feature, programme

from gemel.core.programme import Bounds, Missing

MEASURED = ("last", "first", "mean", "min", "max", "slope", "count", "time_since", "present")


def value_of(hospital, one, patient=0):
    dataset, _ = hospital.build(programme(one))
    return float(dataset.values[patient, 0])


@pytest.fixture
def sodium():
    """Five values before the index date and one after it, two of them at one time."""
    hospital = Hospital()
    hospital.patient()
    for day, value in [(-400, 90), (-10, 100), (-5.5, 110), (-5.5, 111), (-1, 120), (1, 999)]:
        hospital.fact("sodium", day, value)
    return hospital


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("last", 120),
        ("first", 100),
        ("mean", 110.25),
        ("min", 100),
        ("max", 120),
        ("count", 4),
        ("time_since", 1),
        ("present", 1),
        ("slope", np.polyfit([-10, -5.5, -5.5, -1], [100, 110, 111, 120], 1)[0] * 365.25),
    ],
)
def test_each_kind_of_feature_gives_its_known_value_within_a_window(kind, expected, sodium):
    assert value_of(sodium, feature("x", kind, "sodium", window_days=30)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, 5),
        ({"window_days": 10}, 4),
        ({"window_days": 9}, 3),
        ({"from_days": -10}, 4),
        ({"from_days": -400, "to_days": -10}, 2),
        ({"to_days": -11}, 1),
        ({"from_days": -5, "to_days": -2}, 0),
    ],
)
def test_a_window_holds_both_its_ends(window, expected, sodium):
    assert value_of(sodium, feature("x", "count", "sodium", **window)) == expected


def test_a_series_holds_each_value_of_the_window_with_its_hour(sodium):
    parts = (feature("x", "series", "sodium", window_days=30), feature("age", "age"))
    dataset, _ = sodium.build(programme(*parts))
    days, values = dataset.series["x"].of(0)
    assert days.tolist() == [-10, -5.5, -5.5, -1]
    assert values.tolist() == [100, 110, 111, 120]
    assert dataset.features == ("age",)
    assert dataset.values.shape == (1, 1)


@pytest.mark.parametrize(("kind", "expected"), [("last", 7), ("first", 5)])
def test_of_values_at_one_time_the_highest_is_last_and_the_lowest_first(kind, expected):
    hospital = Hospital()
    hospital.patient()
    for value in (6, 5, 7):
        hospital.fact("sodium", -1, value)
    assert value_of(hospital, feature("x", kind, "sodium")) == expected


def test_a_statement_recorded_twice_counts_once():
    hospital = Hospital()
    hospital.patient()
    for value in (5, 5, 8):
        hospital.fact("sodium", -1, value)
    assert value_of(hospital, feature("x", "count", "sodium")) == 2
    assert value_of(hospital, feature("x", "mean", "sodium")) == 6.5


@pytest.mark.parametrize("kind", ["last", "slope", "mean", "time_since"])
def test_what_is_not_measured_is_missing(kind):
    hospital = Hospital()
    hospital.patient()
    assert np.isnan(value_of(hospital, feature("x", kind, "sodium")))


@pytest.mark.parametrize("kind", ["count", "present"])
def test_what_is_not_recorded_counts_as_none_unless_it_is_masked(kind):
    hospital = Hospital()
    hospital.patient()
    assert value_of(hospital, feature("x", kind, "diabetes")) == 0
    assert np.isnan(value_of(hospital, feature("x", kind, "diabetes", missing=Missing.MASK)))


def test_a_slope_needs_two_distinct_times():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", -1, 100)
    hospital.fact("sodium", -1, 200)
    assert np.isnan(value_of(hospital, feature("x", "slope", "sodium")))
    hospital.fact("sodium", -366.25, 50)
    assert value_of(hospital, feature("x", "slope", "sodium")) == pytest.approx(100)


@pytest.mark.parametrize(
    ("bounds", "expected"), [(Bounds.LEAVE_OUT, 30), (Bounds.HALF, 2.5), (Bounds.LIMIT, 5)]
)
def test_a_bound_is_left_out_or_counts_as_the_feature_says(bounds, expected):
    hospital = Hospital()
    hospital.patient()
    hospital.fact("troponin", -3, 30)
    hospital.fact("troponin", -1, 5, bound="<")
    assert value_of(hospital, feature("x", "last", "troponin", unit="ng/L", bounds=bounds)) == expected
    assert value_of(hospital, feature("x", "count", "troponin", unit="ng/L", bounds=bounds)) == 2


def test_an_upper_bound_is_never_halved():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("troponin", -1, 50_000, bound=">")
    assert value_of(hospital, feature("x", "max", "troponin", unit="ng/L", bounds=Bounds.HALF)) == 50_000


def test_a_treatment_that_lasts_is_present_on_each_of_its_days():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("statin", -500, until=-100)
    assert value_of(hospital, feature("x", "present", "statin", window_days=100)) == 1
    assert value_of(hospital, feature("x", "present", "statin", window_days=99)) == 0
    assert value_of(hospital, feature("x", "count", "statin", window_days=100)) == 0


@pytest.mark.parametrize(("sex", "expected"), [("male", 1), ("female", 0), ("other", np.nan), (None, np.nan)])
def test_sex_is_missing_when_it_is_neither_male_nor_female(sex, expected):
    hospital = Hospital()
    hospital.patient(sex=sex)
    np.testing.assert_equal(value_of(hospital, feature("x", "male")), expected)


def test_several_concepts_are_read_as_one():
    hospital = Hospital()
    hospital.patient()
    hospital.fact("sodium", -2, 140)
    hospital.fact("potassium", -1, 4)
    assert value_of(hospital, feature("x", "last", "sodium", "potassium")) == 4


def random_hospital(chance, patients=15):
    hospital = Hospital()
    for i in range(patients):
        key = f"p{i}"
        hospital.patient(key, until=chance.randint(1, 900), sex=chance.choice(["male", "female", "other"]))
        for _ in range(chance.choice([0, 1, 3, 12])):
            day = chance.choice([-1.0, -30.25, chance.uniform(-800, 20), -chance.randint(0, 700)])
            bound = chance.choice([None, None, None, "<", ">"])
            hospital.fact("sodium", day, chance.choice([5.0, chance.uniform(0.1, 999)]), key=key, bound=bound)
    return hospital


def oracle(hospital, kind, start, end, bounds):
    """The same by pandas, a patient at a time."""
    table = pd.DataFrame(hospital.rows["fact"]).drop_duplicates()
    start_of_index = datetime.combine(INDEX, datetime.min.time())
    table["days"] = (table["at"].dt.floor("s") - start_of_index) / pd.Timedelta(days=1)
    day = (pd.to_datetime(table["day"]) - pd.Timestamp(INDEX)).dt.days
    table = table[(day <= end) & (day >= (start if start is not None else -np.inf))].assign(whole=day)
    if kind not in ("count", "present", "time_since"):
        if bounds is Bounds.LEAVE_OUT:
            table = table[table["bound"].isna()]
        elif bounds is Bounds.HALF:
            table = table.assign(value=table["value"].where(table["bound"] != "<", table["value"] / 2))
    table = table.sort_values(["at", "value"])
    found = {}
    for key, rows in table.groupby("patient_id"):
        if kind == "slope":
            if rows["days"].nunique() > 1:
                x = rows["days"] - rows["days"].mean()
                found[key] = (x * (rows["value"] - rows["value"].mean())).sum() / (x**2).sum() * 365.25
            continue
        found[key] = {
            "last": rows["value"].iloc[-1],
            "first": rows["value"].iloc[0],
            "mean": rows["value"].mean(),
            "min": rows["value"].min(),
            "max": rows["value"].max(),
            "count": len(rows),
            "present": 1,
            "time_since": -rows["whole"].max(),
        }[kind]
    return found


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    start=st.sampled_from([None, -365, -30]),
    end=st.sampled_from([0, -30]),
    bounds=st.sampled_from(list(Bounds)),
)
def test_all_kinds_agree_with_pandas_on_random_records(seed, start, end, bounds):
    hospital = random_hospital(random.Random(seed))
    window = {"from_days": start, "to_days": end, "bounds": bounds}
    features = [feature(kind, kind, "sodium", **window) for kind in MEASURED]
    dataset, _ = hospital.build(programme(*features))
    names = [hospital.pseudonym(person["patient_id"]) for person in hospital.rows["person"]]
    assert sorted(names) == list(dataset.patient_ids)
    for column, kind in enumerate(MEASURED):
        expected = oracle(hospital, kind, start, end, bounds)
        absent = 0.0 if kind in ("count", "present") else np.nan
        for person, name in zip(hospital.rows["person"], names, strict=True):
            wanted = expected.get(person["patient_id"], absent)
            found = dataset.values[dataset.patient_ids.index(name), column]
            np.testing.assert_allclose(
                found, wanted, rtol=1e-6, atol=1e-4 if kind == "slope" else 0, err_msg=kind
            )


def everything():
    kinds = [feature(kind, kind, "sodium") for kind in (*MEASURED, "series")]
    return programme(feature("age", "age"), feature("male", "male"), *kinds)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_changes_not_one_bit(seed):
    chance = random.Random(seed)
    hospital = random_hospital(chance)
    reference, _ = hospital.build(everything())
    for rows in hospital.rows.values():
        chance.shuffle(rows)
    again, _ = hospital.build(everything())
    assert again.snapshot == reference.snapshot


def test_sums_of_many_values_are_exact_in_every_order():
    """Sums of floats depend on their order in the last bit; these are sums of whole numbers."""
    chance = random.Random(3)
    hospital = Hospital()
    hospital.patient()
    values = [chance.uniform(0, 1000) for _ in range(5000)]
    for i, value in enumerate(values):
        hospital.fact("sodium", -1 - i / 100, value)
    parts = programme(feature("mean", "mean", "sodium"), feature("slope", "slope", "sodium"))
    snapshots = set()
    for _ in range(4):
        dataset, _ = hospital.build(parts)
        snapshots.add(dataset.snapshot)
        chance.shuffle(hospital.rows["fact"])
    assert len(snapshots) == 1
    assert dataset.values[0, 0] == np.float32(np.mean(values))


def test_one_hospital_gives_this_snapshot_on_any_machine():
    """Approvals name this hash: it may not drift with the database's version or the processor."""
    hospital = random_hospital(random.Random(42))
    dataset, _ = hospital.build(everything())
    assert dataset.snapshot == "6a21c3992214808641200f670156b88f9691f2b38cb291d57888154c5aa9397a"


def test_nothing_but_numbers_and_pseudonyms_is_in_a_data_set(tmp_path):
    hospital = Hospital()
    hospital.patient("Mustermann-1960", sex="male")
    hospital.fact("sodium", -1, 140, key="Mustermann-1960")
    dataset, _ = hospital.build(everything())
    arrays = [dataset.values, dataset.time_years, dataset.event, dataset.targets]
    for series in dataset.series.values():
        arrays += [series.offsets, series.days, series.values]
    assert {array.dtype.kind for array in arrays} <= {"f", "i"}
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in dataset.patient_ids)
    dataset.save(tmp_path / "d")
    content = (tmp_path / "d").read_bytes()
    assert b"Mustermann" not in content
    assert b"1960" not in content
    assert b"2010-01" not in content
