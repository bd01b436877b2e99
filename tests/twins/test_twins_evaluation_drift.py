"""Drift: what changed is flagged, what did not is not, and chance alone hardly ever is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import three_kinds
from three_kinds import PROGRAMME, people, three_kinds_twin

from gemel.core.errors import GemelError
from gemel.twins.evaluation import evaluate_prediction
from gemel.twins.evaluation.drift import input_drift, performance_drift

TWIN = three_kinds_twin()


def patients(seed, number=2500):
    return three_kinds.dataset(TWIN, people(number, seed=seed, missing=0.1), seed=seed + 1)


def evaluated(data, *, times=1.0):
    prediction = TWIN.predict(data.values)
    changed = np.clip(prediction.cumulative_incidence * times, 0, 1)
    return evaluate_prediction(replace(prediction, cumulative_incidence=changed), data, PROGRAMME)


def test_other_patients_of_the_same_kind_are_no_drift():
    flagged = 0
    for seed in range(5):
        then, now = patients(2 * seed), patients(2 * seed + 101)
        flagged += sum(f.flagged for f in input_drift(PROGRAMME, then, now))
        flagged += sum(e.flagged for e in performance_drift(evaluated(then), evaluated(now)))
    assert flagged == 0


def test_older_patients_are_flagged_by_their_age_alone():
    then, now = patients(1), patients(50)
    values = now.values.copy()
    values[:, 0] += 6
    found = input_drift(PROGRAMME, then, replace(now, values=values))
    assert [f.feature for f in found if f.flagged] == ["age_years"]
    assert next(f for f in found if f.flagged).shift.value == pytest.approx(6 / 15, abs=0.08)


def test_a_laboratory_that_stopped_measuring_is_flagged():
    then, now = patients(1), patients(50)
    values = now.values.copy()
    values[::2, 4] = np.nan
    found = input_drift(PROGRAMME, then, replace(now, values=values))
    assert [f.feature for f in found if f.flagged] == ["hdl_cholesterol_mg_dl"]


def test_risks_that_are_too_low_now_are_flagged():
    then, now = evaluated(patients(1)), evaluated(patients(50), times=0.7)
    found = {(e.endpoint, e.day): e for e in performance_drift(then, now)}
    assert found["death", 3652].flagged
    assert found["death", 3652].ratio.value == pytest.approx(1 / 0.7, rel=0.15)
    assert not found["pressure", 365].flagged


def test_an_order_that_was_lost_is_flagged():
    data = patients(50)
    shuffled = replace(data, values=data.values[np.random.default_rng(0).permutation(len(data))])
    found = performance_drift(evaluated(patients(1)), evaluated(shuffled))
    lost = next(e for e in found if (e.endpoint, e.day) == ("death", 1826))
    assert lost.flagged
    assert lost.auc.value < -0.1
    grown = next(e for e in found if e.endpoint == "pressure")
    assert grown.flagged == (grown.ratio.value > 1.1)


def test_data_of_another_programme_are_refused():
    data = patients(1, 50)
    with pytest.raises(GemelError, match="GEM630"):
        input_drift(PROGRAMME, data, replace(data, programme="other"))
