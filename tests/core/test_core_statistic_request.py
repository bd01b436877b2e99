from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.statistic_request import (
    MOST_CELLS,
    MOST_REQUESTS,
    Binned,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    check_statistic_names,
    check_statistics,
    parse_statistics,
    statistics_payload,
)

AGE = {"variable": "age_years", "edges": [18.0, 40.0, 60.0, 100.0]}
MALE = {"variable": "male", "edges": [0.0, 0.5, 1.0]}
RISK = {"variable": "risk", "edges": [0.0, 0.1, 0.3, 1.0]}
PAYLOAD = [
    {"kind": "count", "name": "patients", "noise_multiplier": 5.0},
    {"kind": "histogram", "name": "ages", "noise_multiplier": 5.0, "of": AGE, "probabilities": [0.25, 0.5]},
    {"kind": "moments", "name": "m", "noise_multiplier": 5.0, "variable": "bmi", "low": 15.0, "high": 60.0},
    {"kind": "contingency", "name": "age_by_sex", "noise_multiplier": 5.0, "of": [AGE, MALE]},
    {
        "kind": "survival", "name": "km", "noise_multiplier": 5.0, "outcome": "death",
        "edges_years": [0.0, 1.0, 5.0], "by": MALE,
    },
    {
        "kind": "prediction", "name": "twin", "noise_multiplier": 5.0, "score": RISK, "outcome": "stroke",
        "edges_years": [0.0, 5.0, 10.0], "predicted": [0.05, 0.2, 0.5],
    },
]  # fmt: skip
SHAPES = [(1,), (4,), (6,), (4, 3), (3, 5), (4, 7)]


def refusal(payload) -> str:
    with pytest.raises(GemelError) as caught:
        parse_statistics(payload)
    assert caught.value.code == "GEM311"
    return caught.value.message


def changed(kind, **fields):
    payload = copy.deepcopy(next(p for p in PAYLOAD if p["kind"] == kind))
    return [{**payload, **fields}]


def test_requests_survive_json():
    requests = parse_statistics(json.loads(json.dumps(PAYLOAD)))
    again = statistics_payload(requests)
    assert parse_statistics(json.loads(json.dumps(again))) == requests
    assert [sorted(one) for one in again] == [sorted(one) for one in PAYLOAD]


@pytest.mark.parametrize(
    ("payload", "shape"), list(zip(PAYLOAD, SHAPES, strict=True)), ids=lambda p: str(p)[:30]
)
def test_the_table_is_known_before_anything_is_counted(payload, shape):
    assert parse_statistics([payload])[0].shape == shape


def test_one_patient_in_one_cell_is_charged_as_the_scalar_discrete_gaussian_whatever_the_table():
    for request in parse_statistics([p for p in PAYLOAD if p["kind"] != "moments"]):
        assert request.mechanisms() == (
            Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=5.0),
        )
        assert (request.grid, request.noise_sigma) == (1, 5.0)


@given(st.floats(0.1, 5_000))
def test_moments_are_charged_as_a_gaussian_and_their_noise_is_wider_than_that(multiplier):
    request = MomentsRequest(name="m", noise_multiplier=multiplier, variable="x", low=0, high=1)
    assert request.mechanisms() == (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=multiplier),)
    assert request.noise_sigma > multiplier * request.grid
    # Fine enough for the proof (see `mechanisms`), small enough for the noise's table.
    assert 400 < request.noise_sigma <= 5_001
    assert request.grid & (request.grid - 1) == 0


@pytest.mark.parametrize("index", range(len(PAYLOAD)), ids=[p["kind"] for p in PAYLOAD])
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused(index):
    for name in [n for n in PAYLOAD[index] if n not in {"probabilities", "by", "edges_years", "predicted"}]:
        payload = copy.deepcopy(PAYLOAD[index])
        del payload[name]
        refusal([payload])
    for name in PAYLOAD[index]:
        refusal([{**PAYLOAD[index], name: {"no": "such"}}])
    assert "surprise" in refusal([{**PAYLOAD[index], "surprise": 1}])
    for name in ("of", "score", "by"):
        if isinstance(PAYLOAD[index].get(name), dict):
            refusal([{**PAYLOAD[index], name: {**PAYLOAD[index][name], "surprise": 1}}])


@pytest.mark.parametrize("noise", [0, -1, 0.05, 5_001, float("nan"), float("inf")])
def test_noise_that_protects_nobody_or_drowns_everything_is_refused(noise):
    for payload in PAYLOAD:
        assert "noise_multiplier" in refusal([{**payload, "noise_multiplier": noise}])


BAD_EDGES = [[], [1.0], [1.0, 1.0], [2.0, 1.0], [0.0, float("nan")], [0.0, float("inf")], [-1e300, 1e300]]


@pytest.mark.parametrize("edges", [*BAD_EDGES, [float(i) for i in range(202)]], ids=lambda e: str(e)[:20])
def test_edges_that_are_no_public_grid_are_refused(edges):
    refusal(changed("histogram", of={"variable": "x", "edges": edges}))
    refusal(changed("contingency", of=[MALE, {"variable": "x", "edges": edges}]))
    refusal(changed("survival", edges_years=edges))
    refusal(changed("prediction", score={"variable": "x", "edges": edges}))
    if edges:
        refusal(changed("prediction", edges_years=edges))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (changed("count", name="Patients"), "lower-case"),
        (changed("count", name="a" * 65), "lower-case"),
        (changed("count", name="../x"), "lower-case"),
        (changed("histogram", of={"variable": "", "edges": [0.0, 1.0]}), "no name"),
        (changed("histogram", probabilities=[0.5, 0.25]), "probabilities"),
        (changed("histogram", probabilities=[0.0]), "probabilities"),
        (changed("moments", low=60.0), "bounds"),
        (changed("moments", variable=""), "no name"),
        (changed("contingency", of=[AGE]), "2 or 3"),
        (changed("contingency", of=[AGE, AGE]), "twice"),
        (changed("contingency", of=[AGE, {"variable": "x", "edges": [0.0, 1.0]}]), "two bins"),
        (changed("survival", edges_years=[1.0, 2.0]), "start at 0"),
        (changed("prediction", edges_years=[1.0, 2.0]), "start at 0"),
        (changed("prediction", score={"variable": "x", "edges": [0.0, 1.0]}), "two bins"),
        (changed("prediction", predicted=[0.5]), "predicted"),
        (changed("prediction", predicted=[0.1, 0.2, 1.5]), "predicted"),
        ([PAYLOAD[0], PAYLOAD[0]], "same name"),
        ([{**PAYLOAD[0], "name": f"n{i}"} for i in range(MOST_REQUESTS + 1)], "At most"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(payload, said):
    assert said in refusal(payload)


def test_a_table_of_more_cells_than_a_node_will_noise_is_refused():
    long = [float(i) for i in range(100)]
    of = [{"variable": v, "edges": long} for v in "xy"]
    assert f"at most {MOST_CELLS}" in refusal(changed("contingency", of=of))


def test_a_name_that_the_data_set_lacks_is_refused():
    requests = parse_statistics(PAYLOAD)
    names = {"variables": ["age_years", "male", "bmi", "risk"], "outcomes": ["death", "stroke"]}
    check_statistic_names(requests, **names)
    for kind, values in names.items():
        for left_out in values:
            fewer = {**names, kind: [v for v in values if v != left_out]}
            with pytest.raises(GemelError, match=left_out) as caught:
                check_statistic_names(requests, **fewer)
            assert caught.value.code == "GEM311"


def test_an_outcome_without_times_is_a_variable():
    (request,) = parse_statistics(changed("prediction", edges_years=[], outcome="died_in_hospital"))
    assert request.shape == (4, 2)
    check_statistic_names([request], variables=["risk", "died_in_hospital"], outcomes=[])


def test_requests_made_in_code_are_checked_too():
    check_statistics([CountRequest(name="n", noise_multiplier=1.0)])
    bad = HistogramRequest(name="h", noise_multiplier=1.0, of=Binned(variable="x", edges=(2.0, 1.0)))
    with pytest.raises(GemelError) as caught:
        check_statistics([bad])
    assert caught.value.code == "GEM311"
