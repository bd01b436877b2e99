"""Every installed programme: an interval for any subset of its features, an evaluation, a calibration at one hospital."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gemel.core.programme import TargetKind
from gemel.twins.evaluation import evaluate
from gemel.twins.installed import definition_of, installed, make_twin
from gemel.twins.reference_cohort import reference_values, sample_cohort
from gemel.twins.scores import is_risk
from gemel.twins.uncertainty import calibrate_set, calibrate_value, interval

PROGRAMMES = pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)


@PROGRAMMES
def test_any_subset_of_the_features_gives_an_interval(programme):
    twin, random = make_twin(programme), np.random.default_rng(0)
    whole = reference_values(programme, 12, seed=1).astype(np.float64)
    values = np.where(random.random(whole.shape) < 0.5, np.nan, whole)
    values[0] = np.nan
    values[1] = whole[1]
    found = interval(twin, values, level=0.9)
    assert set(found.risks) == {e.name for e in programme.endpoints if is_risk(programme, e)}
    wanted = {t.name for t in programme.targets if t.kind is TargetKind.VALUE_AT}
    assert set(found.values) == wanted & set(twin.predict(whole).targets)
    for band in (*found.risks.values(), *found.values.values(), *found.courses.values()):
        assert np.isfinite(band.middle[:, 0] if band.middle.ndim > 1 else band.middle).all()
        # What is known by everybody, or without a second model, has no interval to order.
        assert not (band.low > band.middle).any()
        assert not (band.middle > band.high).any()
        assert (band.widening >= 1).all()
        assert band.widening[1] == 1


@PROGRAMMES
def test_virtual_people_can_be_evaluated_and_calibrated_on(programme):
    twin = make_twin(programme)
    values = reference_values(programme, 400, seed=2)
    data = sample_cohort(twin, values, seed=3)
    found = evaluate(twin, data, definition_of(programme))
    assert len(json.dumps(found.to_json(), allow_nan=False)) > 1000
    named = {e.name for e in programme.endpoints}
    assert {e.endpoint for e in found.endpoints} == named
    compared = {b.name for e in found.endpoints for b in e.baselines}
    assert compared == {b.name for b in definition_of(programme).baselines if b.endpoint in named}
    prediction = twin.predict(data.values)
    for endpoint in programme.endpoints:
        calibrate = calibrate_set if is_risk(programme, endpoint) else calibrate_value
        held, weight = calibrate(prediction, data, programme, endpoint.name, level=0.8).covered(
            prediction, data
        )
        # On the very patients that it was calibrated on: at least its level.
        assert (weight * held).sum() / weight.sum() >= 0.8 - 1e-6


@PROGRAMMES
def test_an_interval_holds_what_the_twin_itself_simulates(programme):
    twin = make_twin(programme)
    values = reference_values(programme, 150, seed=4).astype(np.float64)
    found, future = interval(twin, values, level=0.8), twin.simulate(values, seed=99)
    pairs = [(band, future.targets[name]) for name, band in found.values.items()]
    pairs += [(band, future.courses[name]) for name, band in found.courses.items()]
    for band, measured in pairs:
        alive = np.isfinite(measured)
        # A course that starts at what is known, or moves in steps, has ties at the ends of its interval.
        held = (band.low - 1e-6 <= measured) & (measured <= band.high + 1e-6)
        assert held[alive].mean() >= 0.73
