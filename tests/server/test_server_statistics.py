"""Statistics that a study asks for, through real nodes and the real coordinator, plain and masked."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from in_process import certificate, start

from gemel.cli.demo.federation import Federation
from gemel.client_node import patients
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Share
from gemel.core.statistic_request import (
    Binned,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    StatisticRequest,
    SurvivalRequest,
)
from gemel.core.study import AggregationPlan, Masking, Study
from gemel.privacy.accounting import price
from gemel.twins.installed import find

MakeStudy = Callable[..., Study]
ASKED: tuple[StatisticRequest, ...] = (
    CountRequest(name="everybody", noise_multiplier=20.0),
    HistogramRequest(
        name="ages",
        noise_multiplier=20.0,
        of=Binned(variable="age_years", edges=(18.0, 40.0, 60.0, 80.0, 100.0)),
        probabilities=(0.5,),
    ),
    MomentsRequest(name="age", noise_multiplier=20.0, variable="age_years", low=18.0, high=100.0),
    SurvivalRequest(name="alive", noise_multiplier=20.0, outcome="death", edges_years=(0.0, 2.0, 5.0, 10.0)),
)


def one_round(study: Study) -> Study:
    return msgspec.structs.replace(study, training=msgspec.structs.replace(study.training, rounds=1))


@pytest.mark.parametrize("masking", list(Masking))
def test_a_study_learns_what_the_hospitals_patients_are_like(
    federation: Federation, make_study: MakeStudy, masking: Masking
) -> None:
    study = one_round(make_study(statistics=ASKED, aggregation=AggregationPlan(masking=masking)))
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    payload = certificate(run)
    (task,) = (task for task in payload["tasks"] if task["task"] == "describe")
    content = (run.folder / "statistics.json").read_bytes()
    assert task["statistics_sha256"] == sha256_hex(content)
    told = {result["name"]: result for result in json.loads(content)["statistics"]}
    assert set(told) == {request.name for request in ASKED}
    programme = find(study.programme, study.programme_version)
    true = sum(len(patients.load(home, programme)) for home in federation.nodes.values())
    # Three hospitals' noise of 20 each: a standard deviation of 34.6.
    counted = told["everybody"]["patients"]
    assert abs(counted["value"] - true) < 6 * 34.7
    assert counted["standard_error"] == pytest.approx(20 * 3**0.5, rel=0.01)
    for site, home in federation.nodes.items():
        with home.open_ledger() as ledger:
            spent = payload["sites"][site]["epsilon_spent"]
            assert spent == ledger.epsilon_spent() == price(study.charges(), delta=1e-5)
    assert study.charge("describe").share is Share.EVERYONE


def test_a_variable_that_the_programme_does_not_have_is_refused_before_anything_is_charged(
    federation: Federation, make_study: MakeStudy
) -> None:
    asked = MomentsRequest(name="x", noise_multiplier=20.0, variable="shoe_size", low=30.0, high=50.0)
    coordinator, run, _ = start(federation, make_study(statistics=(asked,)))
    with pytest.raises(GemelError, match="GEM501"):
        coordinator.run()
    assert {facts["code"] for facts in certificate(run)["sites"].values()} == {"GEM311"}
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == 0
