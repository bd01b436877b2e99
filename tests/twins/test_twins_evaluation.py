"""The whole evaluation, on people whose truth is known, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import three_kinds
from three_kinds import PROGRAMME, people, three_kinds_twin

from gemel.core.errors import GemelError
from gemel.twins.evaluation import evaluate_prediction, observed_events
from gemel.twins.evaluation.estimate import Estimate
from gemel.twins.evaluation.evaluation import level_probabilities, observed_levels
from gemel.twins.evaluation.subgroups import age_bands, is_flagged_ratio
from gemel.twins.parameters import Mark
from gemel.twins.published_score import PublishedScore

TWIN = three_kinds_twin()


@pytest.fixture(scope="module")
def data():
    return three_kinds.dataset(TWIN, people(5000, seed=1, missing=0.2), seed=2)


@pytest.fixture(scope="module")
def prediction(data):
    return TWIN.predict(data.values)


def baseline(**changes):
    given = {
        "name": "age",
        "title": "Age alone",
        "source": "nobody",
        "mark": Mark.UNVERIFIED,
        "endpoint": "death",
        "formula": lambda c: c["age_years"],
        "inputs": ("age_years",),
    }
    return PublishedScore(**(given | changes))


@pytest.fixture(scope="module")
def evaluation(data, prediction):
    baselines = (
        baseline(),
        baseline(
            name="weight",
            formula=lambda c: c["body_mass_index_kg_m2"],
            inputs=("body_mass_index_kg_m2",),
            risk_of=lambda score: np.full_like(score, 0.3),
            risk_days=3652.5,
        ),
        baseline(
            name="last",
            endpoint="pressure",
            formula=lambda c: c["systolic_blood_pressure_mmhg"],
            inputs=("systolic_blood_pressure_mmhg",),
        ),
    )
    return evaluate_prediction(prediction, data, PROGRAMME, baselines=baselines)


def test_a_true_twin_is_found_true(evaluation):
    for endpoint in ("death", "grade"):
        found = evaluation.risk(endpoint)
        assert (
            found.calibration.observed_over_expected.low < 1 < found.calibration.observed_over_expected.high
        )
        assert found.calibration.slope.low < 1 < found.calibration.slope.high
        assert found.calibration.ici < 0.02
        assert found.scaled_brier.low > 0
    assert evaluation.value("pressure").scores.bias.low < 0 < evaluation.value("pressure").scores.bias.high
    assert evaluation.value("pressure").scores.normal_80 == pytest.approx(0.8, abs=0.02)
    assert evaluation.flagged == ()


def test_every_endpoint_is_scored_at_each_of_its_days(evaluation):
    assert [(e.endpoint, e.day) for e in evaluation.endpoints] == [
        ("death", 1826),
        ("death", 3652),
        ("pressure", 365),
        ("grade", 365),
    ]
    assert evaluation.risk("death", 1826).day == 1826
    assert evaluation.risk("death").concordance is not None
    assert evaluation.risk("grade").concordance is None
    with pytest.raises(KeyError):
        evaluation.risk("pressure")
    with pytest.raises(KeyError):
        evaluation.value("death")


def test_baselines_are_compared_on_who_has_their_inputs(evaluation):
    age, weight = evaluation.risk("death").baselines
    assert age.share == 1
    assert weight.share == pytest.approx(0.8, abs=0.03)
    assert weight.difference.low > 0
    assert age.difference.value == pytest.approx(age.twin.value - age.baseline.value)
    assert weight.patients < age.patients


def test_a_published_risk_is_compared_at_its_own_day_only(evaluation):
    at_10 = evaluation.risk("death", 3652).baselines[1]
    assert at_10.brier_difference.high < 0
    assert at_10.observed_over_expected.value == pytest.approx(
        evaluation.risk("death").incidence / 0.3, rel=0.05
    )
    assert [threshold for threshold, _ in at_10.net_benefit][:2] == [0.02, 0.05]
    assert evaluation.risk("death", 1826).baselines[1].brier_difference is None


def test_a_baseline_of_a_value_is_compared_by_its_error(evaluation):
    (last,) = evaluation.value("pressure").baselines
    assert last.measure == "RMSE"
    assert last.difference.high < 0
    assert last.twin.value == pytest.approx(three_kinds.NOISE_MMHG, rel=0.05)


def test_a_twin_that_says_too_little_of_the_old_is_flagged_there(data, prediction):
    age = data.values[:, 0]
    changed = prediction.cumulative_incidence.copy()
    changed[age >= 75] *= 0.6
    found = evaluate_prediction(replace(prediction, cumulative_incidence=changed), data, PROGRAMME)
    groups = {(g.by, g.name) for _, _, g in found.flagged}
    assert ("age", "75 to 84") in groups
    assert not any(name == "50 to 64" for _, name in groups)


def test_a_group_of_ones_own_is_scored(data, prediction):
    site = np.where(np.arange(len(data)) % 2 == 0, "north", "south")
    site[:100] = ""
    found = evaluate_prediction(prediction, data, PROGRAMME, groups={"site": site})
    mine = {g.name: g for g in found.risk("death").subgroups if g.by == "site"}
    assert set(mine) == {"north", "south"}
    assert mine["north"].patients + mine["south"].patients == len(data) - 100


def test_a_group_that_is_too_small_is_not_flagged():
    assert is_flagged_ratio(Estimate.of_ratio(2.0, 0.1), compared=5)
    assert not is_flagged_ratio(Estimate.of_ratio(2.0, 0.9), compared=5)
    assert not is_flagged_ratio(Estimate.of_ratio(1.05, 0.01), compared=5)
    assert is_flagged_ratio(Estimate(0.0, 0.0, 0.3), compared=5)
    assert not is_flagged_ratio(Estimate.none(), compared=5)


def test_more_groups_make_a_flag_rarer():
    near = Estimate.of_ratio(1.25, 0.1)
    assert is_flagged_ratio(near, compared=1)
    assert not is_flagged_ratio(near, compared=40)


def test_missing_features_are_counted_and_scored(evaluation):
    assert evaluation.missing["body_mass_index_kg_m2"] == pytest.approx(0.2, abs=0.03)
    assert evaluation.missing["age_years"] == 0
    by = {g.by for g in evaluation.risk("death").subgroups}
    assert {"sex", "age", "missing features", "body_mass_index_kg_m2 known"} <= by


def test_ordinal_levels_count_the_dead_as_the_worst(data, prediction, evaluation):
    grade = PROGRAMME.endpoints[2]
    probabilities = level_probabilities(prediction, PROGRAMME, grade)
    assert probabilities.shape == (len(data), 4)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    level = observed_levels(data, PROGRAMME, grade)
    died = (data.event[:, 0] == 1) & (data.time_years[:, 0] <= 365 / 365.25)
    assert (level[died] == 3).all()
    twin, everybody = evaluation.risk("grade").ordinal
    assert twin.high < everybody.low


def test_the_event_of_a_level_is_the_level_or_worse(data):
    (observed,) = observed_events(PROGRAMME, data, PROGRAMME.endpoints[2])
    level = observed_levels(data, PROGRAMME, PROGRAMME.endpoints[2])
    known = observed.known & np.isfinite(level)
    assert (observed.case[known] == (level[known] >= 2)).all()


def test_the_evaluation_is_json(evaluation):
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert json.loads(text)["endpoints"][0]["auc"]["value"] == evaluation.risk("death", 1826).auc.value


def test_a_number_that_is_none_is_null(data, prediction):
    few = data.take(np.arange(3))
    kept = replace(
        prediction,
        cumulative_incidence=prediction.cumulative_incidence[:3],
        state=prediction.state[:3],
        prevalent=prediction.prevalent[:3],
        targets={name: value[:3] for name, value in prediction.targets.items()},
    )
    found = evaluate_prediction(kept, few, PROGRAMME)
    assert math.isnan(found.risk("death").auc.low)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["endpoints"][0]["auc"]["low"] is None


def test_patients_of_another_programme_are_refused(data, prediction):
    for other in (
        replace(data, programme="other"),
        replace(data, target_names=(), targets=np.zeros((len(data), 0), np.float32)),
    ):
        with pytest.raises(GemelError, match="GEM630"):
            evaluate_prediction(prediction, other, PROGRAMME)


def test_a_prediction_that_is_no_number_is_refused(data, prediction):
    incidence = prediction.cumulative_incidence.copy()
    incidence[7, 10, 0] = np.nan
    with pytest.raises(GemelError, match="GEM634.*of 1 patients"):
        evaluate_prediction(replace(prediction, cumulative_incidence=incidence), data, PROGRAMME)
    values = prediction.targets["pressure"].copy()
    values[:3, 1] = np.inf
    with pytest.raises(GemelError, match="GEM634.*of 3 patients"):
        evaluate_prediction(
            replace(prediction, targets={**prediction.targets, "pressure": values}), data, PROGRAMME
        )


def test_a_baseline_that_nobody_has_the_inputs_of_is_said_to_be_computable_for_nobody(data, prediction):
    values = data.values.copy()
    values[:, 4] = np.nan
    lacking = (
        baseline(name="hdl", formula=lambda c: c["hdl_cholesterol_mg_dl"], inputs=("hdl_cholesterol_mg_dl",)),
        baseline(
            name="of a value",
            endpoint="pressure",
            formula=lambda c: c["hdl_cholesterol_mg_dl"],
            inputs=("hdl_cholesterol_mg_dl",),
        ),
    )
    found = evaluate_prediction(prediction, replace(data, values=values), PROGRAMME, baselines=lacking)
    for compared in (found.risk("death").baselines[0], found.value("pressure").baselines[0]):
        assert (compared.share, compared.patients) == (0, 0)
        assert math.isnan(compared.difference.value)


def test_a_grouping_of_other_patients_is_refused(data, prediction):
    with pytest.raises(GemelError, match="GEM630"):
        evaluate_prediction(prediction, data, PROGRAMME, groups={"site": np.array(["a", "b"])})


def test_nobody_is_refused(data, prediction):
    with pytest.raises(GemelError, match="GEM630"):
        evaluate_prediction(prediction, data.take(np.zeros(0, np.intp)), PROGRAMME)


def test_age_bands_hold_their_lower_end():
    ages = np.array([18, 49.99, 50, 64.99, 65, 75, 84.9, 85, 101])
    assert age_bands(ages).tolist() == [
        "under 50",
        "under 50",
        "50 to 64",
        "50 to 64",
        "65 to 74",
        "75 to 84",
        "75 to 84",
        "85 and over",
        "85 and over",
    ]
