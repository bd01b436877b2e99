"""Published scores: points, formulas, what is missing, published risks."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.twins.parameters import Mark
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.published_score import Points, PublishedScore, points, risk_table

NAMES = PROGRAMME.feature_names


def patients(**columns):
    n = len(next(iter(columns.values())))
    values = np.full((n, len(NAMES)), np.nan)
    for name, column in columns.items():
        values[:, NAMES.index(name)] = column
    return values


def score(**changes):
    given = {
        "name": "example",
        "title": "An example",
        "source": "nobody, 2001",
        "mark": Mark.UNVERIFIED,
        "endpoint": "death",
        "formula": points(Points("age_years", (65, 75), (0, 1, 2)), Points.flag("hypertension", 3)),
        "inputs": ("age_years", "hypertension"),
    }
    return PublishedScore(**(given | changes))


def test_points_are_given_from_a_limit_on():
    values = patients(age_years=[64.9, 65, 74.9, 75, 75], hypertension=[0, 0, 0, 0, 1])
    assert score()(values, PROGRAMME).tolist() == [0, 1, 1, 2, 5]


def test_points_may_be_given_above_a_limit_only():
    part = Points("age_years", (80,), (0, 1), above=True)
    assert part({"age_years": np.array([80.0, 80.5])}).tolist() == [0, 1]


def test_without_an_input_there_is_no_score():
    values = patients(age_years=[70, np.nan, 70], hypertension=[1, 1, np.nan])
    assert np.isnan(score()(values, PROGRAMME)).tolist() == [False, True, True]


def test_an_optional_input_that_is_missing_counts_as_absent():
    values = patients(age_years=[70.0], hypertension=[np.nan])
    only_age = score(inputs=("age_years",), optional=("hypertension",))
    assert only_age(values, PROGRAMME).tolist() == [1]


def test_a_feature_that_the_programme_lacks_is_an_error():
    with pytest.raises(KeyError):
        score(inputs=("shoe_size",))(patients(age_years=[70.0]), PROGRAMME)


def test_published_risks_go_with_the_score():
    table = score(risk_of=risk_table({0: 0.01, 1: 0.02, 2: 0.2, 3: 0.4}), risk_days=3652)
    values = patients(age_years=[20, 70, 80, np.nan], hypertension=[0, 0, 1, 0])
    assert table.risk(values, PROGRAMME)[:3].tolist() == [0.01, 0.02, 0.4]
    assert np.isnan(table.risk(values, PROGRAMME)[3])
    assert score().risk(values, PROGRAMME) is None


def test_a_table_of_risks_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="gaps"):
        risk_table({0: 0.1, 2: 0.3})


@pytest.mark.parametrize(
    "changes", [{"source": ""}, {"inputs": ()}, {"risk_of": risk_table({0: 0.1})}, {"risk_days": 30}]
)
def test_a_score_without_source_inputs_or_day_is_refused(changes):
    with pytest.raises(ValueError, match="example"):
        score(**changes)


@pytest.mark.parametrize(
    ("limits", "given"), [((65, 75), (0, 1)), ((75, 65), (0, 1, 2)), ((1, 1), (0, 1, 2))]
)
def test_points_that_do_not_fit_their_limits_are_refused(limits, given):
    with pytest.raises(ValueError, match="age"):
        Points("age", limits, given)
