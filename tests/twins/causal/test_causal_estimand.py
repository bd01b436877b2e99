"""Declaring a comparison: what it is of, and what it may claim."""

from __future__ import annotations

import pytest
from treated_people import DAY, GIVEN, PROGRAMME, WITHOUT

from gemel.core.errors import GemelError
from gemel.twins.causal.estimand import Basis, Measure, declare
from gemel.twins.treatment_plan import NOTHING_CHANGED, Dose, TreatmentPlan


def estimand(plan, other, endpoint="walks", **asked):
    return declare(PROGRAMME, plan, other, endpoint=endpoint, population="people of the test", **asked)


def test_an_estimand_says_itself_in_a_sentence():
    declared = estimand(GIVEN["drug"], WITHOUT["drug"])
    assert declared.sentence == (
        "Risk difference of Walks at day 180, with drug against without drug, in people of the test."
    )
    assert declared.measure is Measure.RISK_DIFFERENCE
    assert any("Positivity" in assumption for assumption in declared.assumptions)


def test_the_last_horizon_is_meant_where_none_is_named():
    assert estimand(GIVEN["lot"], WITHOUT["lot"], "death").horizon_days == DAY
    early = estimand(GIVEN["lot"], WITHOUT["lot"], "death", horizon_days=90)
    assert (early.horizon_days, early.horizon) == (90, 0)


def test_a_measured_value_is_compared_by_its_mean():
    assert estimand(GIVEN["drug"], WITHOUT["drug"], "pressure").measure is Measure.MEAN_DIFFERENCE


@pytest.mark.parametrize(
    ("plan", "other", "basis"),
    [
        (GIVEN["lot"], WITHOUT["lot"], Basis.RANDOMISED),
        (GIVEN["drug"], WITHOUT["drug"], Basis.ASSOCIATION),
        (GIVEN["published"], NOTHING_CHANGED, Basis.LITERATURE),
        (
            TreatmentPlan.always({"lot": 1, "drug": 1}),
            TreatmentPlan.always({"lot": 0, "drug": 1}),
            Basis.RANDOMISED,
        ),
        (
            TreatmentPlan.always({"lot": 1, "drug": 1}),
            TreatmentPlan.always({"lot": 0, "drug": 0}),
            Basis.ASSOCIATION,
        ),
        (TreatmentPlan.always({"lot": 1, "published": 1}), WITHOUT["lot"], Basis.LITERATURE),
    ],
)
def test_a_comparison_claims_no_more_than_the_weakest_of_what_differs(plan, other, basis):
    assert estimand(plan, other).basis is basis


@pytest.mark.parametrize(
    ("plan", "other", "asked"),
    [
        (GIVEN["drug"], GIVEN["drug"], {}),
        (NOTHING_CHANGED, NOTHING_CHANGED, {}),
        (GIVEN["drug"], WITHOUT["drug"], {"endpoint": "happiness"}),
        (GIVEN["drug"], WITHOUT["drug"], {"horizon_days": 17}),
        (GIVEN["drug"], WITHOUT["drug"], {"endpoint": "pressure", "measure": Measure.RISK_RATIO}),
        (GIVEN["drug"], WITHOUT["drug"], {"measure": Measure.MEAN_DIFFERENCE}),
    ],
)
def test_what_is_no_comparison_is_refused(plan, other, asked):
    with pytest.raises(GemelError) as caught:
        estimand(plan, other, **asked)
    assert caught.value.code == "GEM625"


def test_the_order_of_doses_makes_no_other_plan():
    first, second = (
        Dose(treatment="published", amount=a, from_days=a * 10, to_days=a * 10 + 5) for a in (1, 2)
    )
    with pytest.raises(GemelError):
        estimand(TreatmentPlan(doses=(first, second)), TreatmentPlan(doses=(second, first)))


def test_an_unknown_treatment_is_refused_as_a_plan():
    with pytest.raises(GemelError) as caught:
        estimand(TreatmentPlan.always({"leeches": 1.0}), WITHOUT["lot"])
    assert caught.value.code == "GEM603"
