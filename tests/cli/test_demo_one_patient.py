"""The example of each programme in the demo: two plans and their support, and observations one by one."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gemel.cli.demo.one_patient import observed_one_by_one, two_plans
from gemel.cli.demo.summary import Assimilation, WhatIf
from gemel.client_node.audit.people import made_up_dataset
from gemel.core.programme import FeatureKind, Programme
from gemel.twins.installed import definition_of, installed, make_twin
from gemel.twins.treatment_plan import NOTHING_CHANGED

PROGRAMMES = pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)


@PROGRAMMES
def test_two_plans_fit_the_reports_schema_and_curves_never_fall(programme: Programme) -> None:
    people, twin = made_up_dataset(programme, patients=600, seed=1), make_twin(programme)
    told = two_plans(definition_of(programme).example, twin, [twin], people, seed=0)
    assert told is not None
    asked = msgspec.convert(json.loads(json.dumps(told, allow_nan=False)), WhatIf)
    assert bool(asked.reasons) != bool(asked.times)
    for side in (asked.with_plan, asked.with_other):
        for curve in side.values():
            assert len(curve) == len(asked.times)
            assert (np.diff(curve) >= -1e-9).all()
    for name, curve in asked.with_plan.items():
        # One model twice: its range is itself.
        np.testing.assert_allclose(asked.low["plan"][name], curve)
        np.testing.assert_allclose(asked.high["plan"][name], curve)


@PROGRAMMES
def test_what_nobody_was_measured_for_is_not_known_of_the_example(programme: Programme) -> None:
    example, twin = definition_of(programme).example, make_twin(programme)
    people = made_up_dataset(programme, patients=300, seed=1)
    measured = [
        i for i, f in enumerate(programme.columns) if f.kind is FeatureKind.LAST and f.name in example.values
    ]
    people.values[:, measured[0]] = np.nan
    told = two_plans(example, twin, [], people, seed=0)
    assert told is not None
    assert told["patient"][measured[0]]["value"] is None
    assert told["patient"][measured[1]]["value"] is not None


@PROGRAMMES
def test_an_example_without_plans_or_observations_has_no_section(programme: Programme) -> None:
    people, twin = made_up_dataset(programme, patients=50, seed=1), make_twin(programme)
    bare = replace(
        definition_of(programme).example,
        plan=NOTHING_CHANGED,
        other_plan=NOTHING_CHANGED,
        observations={},
    )
    assert two_plans(bare, twin, [], people, seed=0) is None
    assert observed_one_by_one(bare, twin) is None


@PROGRAMMES
def test_observations_of_the_example_fit_the_reports_schema(programme: Programme) -> None:
    definition = definition_of(programme)
    told = observed_one_by_one(definition.example, make_twin(programme))
    if not definition.example.observations:
        assert told is None
        return
    fitted = msgspec.convert(json.loads(json.dumps(told, allow_nan=False)), Assimilation)
    assert fitted.steps[0].taken == ""
    assert all(step.taken.startswith("day ") for step in fitted.steps[1:])
    for step in fitted.steps:
        assert len(step.parameters) == len(fitted.parameters)
        assert len(step.later) == len(fitted.later)
