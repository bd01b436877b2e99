"""What records say: agreement of drawn rows with what is read back, on programmes made for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_patients import unrelated_cohort

from gemel.core.programme import Comparison, FeatureKind, Threshold
from gemel.synthetic.export.reading import changed, table_of
from gemel.synthetic.export.records import meeting, meets, records_of, told
from gemel.twins.installed import installed


def as_said(cohort: Any) -> Any:
    table = table_of(records_of(cohort))
    return dataclasses.replace(
        cohort,
        values=table.values,
        time_years=table.time_years,
        event=table.event,
        targets=table.targets,
    )


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_what_records_say_is_said_again_without_a_change(programme: Any, provenance: dict[str, Any]) -> None:
    document = provenance | {"programme": programme.name, "programme_version": programme.version}
    cohort = unrelated_cohort(programme, document, patients=300, seed=5)
    assert changed(cohort, table_of(records_of(cohort)))  # Unrelated columns contradict each other.
    said = as_said(cohort)
    assert changed(said, table_of(records_of(said))) == {}


def test_an_outcome_before_the_index_date_without_its_history_is_counted_as_adjusted(drawn: Any) -> None:
    said = as_said(drawn)
    history = said.programme.feature_names.index("diabetes_history")
    outcome = said.programme.outcome_names.index("diabetes")
    values = said.values.copy()
    values[:7, history] = 1 - values[:7, history]
    again = dataclasses.replace(said, values=values)
    found = changed(again, table_of(records_of(again)))
    assert found == {"outcome diabetes": 7}
    assert np.array_equal(table_of(records_of(again)).event[:7, outcome] == -1, values[:7, history] == 1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FeatureKind.FIRST, "body_mass_index_kg_m2"),
        (FeatureKind.MIN, "body_mass_index_kg_m2"),
        (FeatureKind.MAX, "systolic_blood_pressure_mmhg"),
        (FeatureKind.MEAN, "hdl_cholesterol_mg_dl"),
    ],
)
def test_a_single_value_is_its_own_first_mean_and_extreme(
    kind: FeatureKind, name: str, drawn: Any, provenance: dict[str, Any]
) -> None:
    features = tuple(
        msgspec.structs.replace(f, kind=kind) if f.name == name else f for f in PROGRAMME.features
    )
    programme = msgspec.structs.replace(PROGRAMME, features=features)
    cohort = dataclasses.replace(drawn, programme=programme)
    assert name not in changed(cohort, table_of(records_of(cohort)))


@given(st.lists(st.floats(1e-6, 1e7), min_size=1, max_size=20))
@settings(max_examples=50)
def test_told_values_have_six_digits_and_telling_them_again_changes_nothing(values: list[float]) -> None:
    once = told(np.array(values))
    assert np.allclose(once, values, rtol=5.1e-6)
    assert np.array_equal(told(once), once)


@given(st.sampled_from(list(Comparison)), st.floats(20, 60))
@settings(max_examples=30)
def test_a_value_that_should_meet_a_threshold_meets_it(comparison: Comparison, limit: float) -> None:
    threshold = Threshold(comparison=comparison, value=limit)
    value = meeting(threshold, PROGRAMME.concept("body_mass_index"))
    assert value is not None
    assert meets(threshold, np.array([value])) == [True]
    assert meets(threshold, None) is False


def test_parts_of_records_together_say_what_the_whole_says(drawn: Any) -> None:
    records = records_of(drawn)
    parts = [records.part(first, first + 25) for first in (0, 25, 50)]
    nested = records.part(0, 50).part(25, 50)
    assert nested.first == 25
    assert np.array_equal(nested.born_days, parts[1].born_days)
    whole = table_of(records)
    for name in ("values", "time_years", "event", "targets"):
        pieces = np.concatenate([getattr(table_of(part), name) for part in parts])
        assert np.array_equal(pieces, getattr(whole, name), equal_nan=True)
