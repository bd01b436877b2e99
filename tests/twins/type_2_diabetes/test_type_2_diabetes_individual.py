"""Patients who were seen after the start: the twin fits them better, and stays the twin where nothing was seen."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.core.series import Series
from gemel.twins.assimilation import twinness
from gemel.twins.programmes.type_2_diabetes import PROGRAMME
from gemel.twins.programmes.type_2_diabetes.definition import DEFINITION
from gemel.twins.programmes.type_2_diabetes.simulated_records import series_after


def series(pairs) -> Series:
    days, values = zip(*pairs, strict=True)
    return Series(np.array([0, len(days)]), np.float32(days), np.float32(values))


def test_a_good_response_is_taken_for_one(trained, example):
    expected = trained.predict(example, plan=DEFINITION.example.plan).targets["hba1c_182"][0]
    values = example.copy()
    values[:, PROGRAMME.feature_names.index("sglt2_inhibitor")] = 1.0
    at_91 = trained.predict(values).courses["hba1c"].mean[0, 1]
    better, worse = (trained.assimilate(values, {"hba1c": series([(91.0, at_91 + d)])}) for d in (-0.8, 0.8))
    low, high = (known.predict().targets["hba1c_182"][0] for known in (better, worse))
    assert low[0] < expected[0] < high[0]
    assert max(low[1], high[1]) < expected[1]
    assert better.parameters["response"][0] > worse.parameters["response"][0]


def test_a_low_fasting_glucose_and_a_low_weight_are_heeded(trained, example):
    usual = trained.predict(example)
    lower = trained.assimilate(
        example, {"fasting_glucose": series([(30.0, 95.0)]), "body_weight": series([(90.0, 90.0)])}
    ).predict()
    assert lower.targets["hba1c_182"][0, 0] < usual.targets["hba1c_182"][0, 0]
    assert lower.targets["weight_182"][0, 0] < usual.targets["weight_182"][0, 0] - 2
    assert lower.targets["weight_182"][0, 1] < usual.targets["weight_182"][0, 1]


def test_who_was_seen_on_a_day_was_alive_on_it(trained, example):
    known = trained.assimilate(example, {"hba1c": series([(300.0, 7.6)])}).predict()
    before = PROGRAMME.step_at(274)
    assert (known.cumulative_incidence[0, : before + 1] == 0).all()
    assert (known.cumulative_incidence[0, -1] > 0).all()


def test_another_plan_keeps_the_person(trained, example):
    known = trained.assimilate(example, {"hba1c": series([(60.0, 7.0), (120.0, 6.9)])})
    plans = DEFINITION.example.plan, DEFINITION.example.other_plan
    first, second = (known.predict(plan=plan).targets["hba1c_182"][0, 0] for plan in plans)
    usual = [trained.predict(example, plan=plan).targets["hba1c_182"][0, 0] for plan in plans]
    assert first < usual[0]
    assert second < usual[1]
    assert first != second


@pytest.mark.parametrize(
    ("target", "last", "counts"),
    [("hba1c_182", 125, (0, 1)), ("hba1c_365", 300, (0, 1, 2)), ("weight_182", 125, (0, 1, 2))],
)
def test_the_error_falls_with_each_observation_of_people_simulated_by_other_equations(
    trained, hospitals, datasets, target, last, counts
):
    number = PROGRAMME.target_names.index(target)
    known = np.flatnonzero(np.isfinite(datasets[1].targets[:, number]))[:200]
    measured = datasets[1].targets[known, number].astype(float)
    observations = {
        concept: series_after(hospitals[1], concept, first=1, last=last).take(known)
        for concept in ("hba1c", "fasting_glucose", "body_weight")
    }
    found = twinness(
        trained,
        datasets[1].values[known],
        observations,
        lambda p: (p.targets[target][:, 0] - measured) ** 2,
        counts=counts,
    )
    assert found.falls, found
