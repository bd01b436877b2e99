"""Counting: what one patient can move, the fixed rules for odd values, sums over hospitals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from described_population import draw, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.statistic_request import (
    Binned,
    ContingencyRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    SurvivalRequest,
)
from gemel.privacy.statistics import sum_tables, tabulate

SEX = Binned(variable="male", edges=(0.0, 0.5, 1.0))
LAB = Binned(variable="lab", edges=(-1.0, 0.0, 0.5, 2.0))
EVERY_KIND = (
    HistogramRequest(name="h", noise_multiplier=1.0, of=LAB),
    MomentsRequest(name="m", noise_multiplier=1.0, variable="lab", low=-2.0, high=3.0),
    MomentsRequest(name="m_coarse", noise_multiplier=900.0, variable="lab", low=-2.0, high=3.0),
    ContingencyRequest(name="c", noise_multiplier=1.0, of=(SEX, LAB)),
    ContingencyRequest(
        name="c3", noise_multiplier=1.0, of=(SEX, LAB, Binned(variable="t", edges=(0.0, 1.0)))
    ),
    SurvivalRequest(name="s", noise_multiplier=1.0, outcome="stroke", edges_years=(0.0, 1.0, 3.0), by=LAB),
    SurvivalRequest(name="d", noise_multiplier=1.0, outcome="death", edges_years=(0.0, 2.0)),
    PredictionRequest(
        name="p", noise_multiplier=1.0, score=LAB, outcome="stroke", edges_years=(0.0, 1.0, 3.0)
    ),
    PredictionRequest(name="b", noise_multiplier=1.0, score=LAB, outcome="t"),
)

odd = st.one_of(
    st.floats(-3, 3, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.0, 2.0, 3.0, 1e30, -1e30]),
)
patients = st.tuples(
    odd, st.sampled_from([0.0, 1.0, np.nan]), odd, odd, odd,
    st.sampled_from([-1, 0, 1, 2]), st.sampled_from([-1, 0, 1, 2]),
)  # fmt: skip


def of_rows(rows) -> Dataset:
    columns = np.array(rows, dtype=np.float32).reshape(len(rows), 7)
    return Dataset(
        "p", "1", ("lab", "male"), ("death", "stroke"),
        tuple(f"{i:064x}" for i in range(len(rows))),
        columns[:, :2], columns[:, 3:5], columns[:, 5:].astype(np.int8), ("t",), columns[:, 2:3],
    )  # fmt: skip


@pytest.mark.parametrize("request_", EVERY_KIND, ids=lambda r: r.name)
@settings(max_examples=30)
@given(rows=st.lists(patients, min_size=1, max_size=12), data=st.data())
def test_without_any_one_patient_a_table_moves_by_no_more_than_it_is_charged_for(request_, rows, data):
    dataset = of_rows(rows)
    leaver = data.draw(st.integers(0, len(rows) - 1))
    table = tabulate(request_, dataset)[request_.name]
    fewer = tabulate(request_, dataset.take(np.arange(len(rows)) != leaver))[request_.name]
    assert (table.shape, table.dtype) == (request_.shape, np.int64)
    moved = table - fewer
    assert moved.min() >= 0
    assert moved.sum() <= request_.grid
    assert math.sqrt(int((moved.astype(object) ** 2).sum())) <= request_.grid
    if request_.grid == 1:
        assert moved.max() <= 1
        assert np.count_nonzero(moved) <= 1


def test_the_bound_is_reached():
    """At either bound a patient moves one cell by the whole grid: the charge is not only safe but needed."""
    request = EVERY_KIND[1]
    for lab in (-2.0, 3.0, np.nan):
        table = tabulate(request, of_rows([(lab, 0, 0, 0, 0, 0, 0)]))["m"]
        assert table.max() == table.sum() == request.grid


@pytest.mark.parametrize("request_", EVERY_KIND, ids=lambda r: r.name)
@settings(max_examples=10)
@given(rows=st.lists(patients, min_size=2, max_size=12), data=st.data())
def test_the_sum_over_hospitals_is_the_table_of_all(request_, rows, data):
    dataset = of_rows(rows)
    at = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
    parts = [tabulate(request_, dataset.take(at == h)) for h in range(3)]
    summed = sum_tables([request_], parts)[request_.name]
    assert np.array_equal(summed, tabulate(request_, dataset)[request_.name])


def histogram(*values):
    return tabulate(EVERY_KIND[0], of_rows([(v, 0, 0, 0, 0, 0, 0) for v in values]))["h"].tolist()


def test_a_bin_holds_its_lower_edge_and_the_last_both():
    assert histogram(-1.0, -0.5) == [2, 0, 0, 0]
    assert histogram(0.0, 0.25) == [0, 2, 0, 0]
    assert histogram(0.5, 2.0) == [0, 0, 2, 0]


def test_values_beyond_the_edges_count_in_the_nearest_bin_and_no_number_in_its_own_cell():
    assert histogram(-9.0, 9.0, 1e30) == [1, 0, 2, 0]
    assert histogram(np.nan, np.inf, -np.inf) == [0, 0, 0, 3]


def survival(*rows):
    dataset = of_rows([(0, 0, 0, 0, time, 0, event) for time, event in rows])
    request = SurvivalRequest(name="s", noise_multiplier=1.0, outcome="stroke", edges_years=(0.0, 1.0, 3.0))
    return tabulate(request, dataset)["s"][0].tolist()  # event, left, event, left, beyond


def test_an_event_at_the_end_of_an_interval_is_in_it_and_who_leaves_then_was_followed_through():
    assert survival((1.0, 1), (3.0, 1)) == [1, 0, 1, 0, 0]
    assert survival((1.0, 0), (3.0, 0)) == [0, 0, 0, 1, 1]
    assert survival((0.0, 1), (0.0, 0)) == [1, 1, 0, 0, 0]


def test_who_had_the_event_before_or_has_no_time_is_in_no_cell():
    assert survival((1.0, -1), (np.nan, 1), (np.inf, 0)) == [0, 0, 0, 0, 0]
    assert survival((-1.0, 1)) == [1, 0, 0, 0, 0]


def test_death_is_leaving_for_a_curve_and_dying_first_for_a_prediction():
    # Died at 2 years without the outcome; left at 2 years.
    dataset = of_rows([(0.2, 0, 0, 2, 2, 1, 0), (0.2, 0, 0, 2, 2, 0, 0)])
    assert tabulate(EVERY_KIND[5], dataset)["s"].sum(axis=0).tolist() == [0, 0, 0, 2, 0]
    assert tabulate(EVERY_KIND[7], dataset)["p"].sum(axis=0).tolist() == [0, 0, 0, 0, 1, 1, 0]


def test_moments_lose_nothing_on_average_even_on_the_coarsest_grid():
    """The shift by pseudonym rounds up as often as it should: the mean of many equal values is theirs."""
    coarse = MomentsRequest(name="m", noise_multiplier=1000.0, variable="lab", low=0.0, high=1.0)
    assert coarse.grid == 1
    table = tabulate(coarse, of_rows([(0.3, 0, 0, 0, 0, 0, 0)] * 20_000))["m"][:5]
    assert (np.arange(5) / 4) @ table / 20_000 == pytest.approx(0.3, abs=4 * 0.25 / math.sqrt(20_000))


def test_a_patients_parts_do_not_depend_on_the_others():
    request = MomentsRequest(name="m", noise_multiplier=200.0, variable="creatinine", low=0.0, high=3.0)
    dataset = draw(200, seed=3)
    alone = [tabulate(request, dataset.take(np.array([i])))["m"] for i in range(200)]
    assert np.array_equal(sum(alone), tabulate(request, dataset)["m"])


def test_predictions_are_variables_and_must_fit():
    dataset = draw(50, seed=1)
    request = HistogramRequest(
        name="h", noise_multiplier=1.0, of=Binned(variable="risk", edges=(0.0, 0.5, 1.0))
    )
    table = tabulate(request, dataset, predictions={"risk": np.linspace(0, 1, 50)})["h"]
    assert table.tolist() == [25, 25, 0]
    for wrong in ({}, {"risk": np.zeros(49)}, {"risk": np.zeros(50), "male": np.zeros(50)}):
        with pytest.raises(GemelError) as caught:
            tabulate(request, dataset, predictions=wrong)
        assert caught.value.code == "GEM311"


def test_a_hospital_without_patients_has_tables_of_zeros():
    empty = draw(5, seed=0).take(np.zeros(5, dtype=bool))
    for request in requests(5.0):
        assert tabulate(request, empty)[request.name].sum() == 0
