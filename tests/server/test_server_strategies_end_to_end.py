"""Whole runs of each strategy in one process: real coordinator, real nodes, noise, gate and ledger."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from in_process import certificate, start

from gemel.cli.demo.federation import Federation
from gemel.core.arrays import Arrays, unpack_arrays
from gemel.core.messages import Envelope
from gemel.core.strategy_plan import Algorithm, Pace, Personalisation, StrategyPlan
from gemel.core.study import AggregationPlan, AggregationRule, Masking, Study, parse_study
from gemel.privacy.accounting import price
from gemel.privacy.planning import Shares, planned_study
from gemel.server.flower.strategies import strategy_of
from gemel.server.home import RunFolder, model_name
from gemel.server.strategy import Update
from gemel.synthetic.releases import declared_release, starting_model, travelling
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
LOCAL = {"personalisation": Personalisation.LOCAL_PARAMETERS, "local_parameters": ("level", "slopes")}
EVERYTHING = Pace(validate_every=1)
CASES = {
    "fedprox": StrategyPlan(algorithm=Algorithm.FEDPROX, proximal_mu=0.1),
    "scaffold": StrategyPlan(algorithm=Algorithm.SCAFFOLD),
    "fedadam": StrategyPlan(algorithm=Algorithm.FEDADAM, server_learning_rate=0.1),
    "fedyogi with local parameters": StrategyPlan(
        algorithm=Algorithm.FEDYOGI, server_learning_rate=0.1, **LOCAL
    ),
    "ditto": StrategyPlan(personalisation=Personalisation.DITTO, ditto_lambda=0.1),
}


def _planned(study: Study, **changes: object) -> Study:
    """With the noise that makes all its tasks cost its ε."""
    changed = msgspec.structs.replace(study, **changes)
    return parse_study(
        planned_study(changed, shares=Shares(training=0.6, synthesis=0.2, count=0.2)).to_payload()
    )


def _done(run: RunFolder) -> None:
    payload = certificate(run)
    assert payload["status"] == "complete"
    assert all(not task["missing"] for task in payload["tasks"])


def _replayed(study: Study, run: RunFolder) -> Arrays:
    """The last twin, worked out from the releases that the run kept."""
    strategy, model = strategy_of(study), starting_model(study, PROGRAMME)
    state = strategy.start(model)
    for number in range(1, study.training.rounds + 1):
        task = f"train/{number}"
        declared = declared_release(task, PROGRAMME, study=study)
        updates = [
            Update(
                site,
                run.load_release(task, site, declared),
                max(float(study.minimum_patients), float(run.map_release("count", site)["patients"][0])),
                model,
            )
            for site in sorted(study.sites)
        ]
        model, state = strategy.aggregate(model, updates, state)
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_run_makes_the_twin_that_its_strategy_makes_of_the_releases_at_the_stated_price(
    federation: Federation, make_study: MakeStudy, name: str
) -> None:
    study = _planned(make_study(), strategy=CASES[name], pace=EVERYTHING, cross_site_validation=True)
    sent: list[tuple[str, Envelope]] = []

    def listen(_site: str, task: str, envelope: Envelope) -> Envelope:
        sent.append((task, envelope))
        return envelope

    coordinator, run, _ = start(federation, study, spoil=listen)
    coordinator.run()
    _done(run)
    model = run.load_model(model_name(study.training.rounds), travelling(PROGRAMME, study.strategy))
    for key, array in _replayed(study, run).items():
        assert np.array_equal(model[key], array), key
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5) <= study.privacy.epsilon
    for task, envelope in sent:  # all that left the hospitals
        assert b"kept." not in envelope.payload
        if task.startswith("train/"):
            released = unpack_arrays(envelope.payload, declared_release(task, PROGRAMME, study=study))
            assert set(released).isdisjoint(study.strategy.local_parameters)
    rows = json.loads((run.folder / "cross_site.json").read_text())["rows"]
    assert {(r["model"], r["hospital"]) for r in rows} == {(a, b) for a in study.sites for b in study.sites}


def test_a_robust_rule_is_a_strategy_like_others(federation: Federation, make_study: MakeStudy) -> None:
    study = _planned(make_study(), aggregation=AggregationPlan(rule=AggregationRule.MEDIAN))
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    _done(run)
    model = run.load_model(model_name(study.training.rounds), travelling(PROGRAMME, study.strategy))
    assert all(np.array_equal(model[key], array) for key, array in _replayed(study, run).items())


@pytest.mark.parametrize("algorithm", [Algorithm.FEDAVG, Algorithm.FEDADAM])
def test_local_parameters_stay_under_masks_too(
    federation: Federation, make_study: MakeStudy, algorithm: Algorithm
) -> None:
    plan = StrategyPlan(algorithm=algorithm, server_learning_rate=0.1, **LOCAL)
    study = _planned(
        make_study(), strategy=plan, pace=EVERYTHING, aggregation=AggregationPlan(masking=Masking.SECURE)
    )
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    _done(run)
    model = run.load_model(model_name(study.training.rounds), travelling(PROGRAMME, plan))
    assert set(model) == {"weights", "couplings"}
    for home in federation.nodes.values():
        kept = list((home.folder / "local").glob(f"{study.sha256}.train-*.safetensors"))
        assert len(kept) == 2


def test_every_evaluation_of_a_study_with_shared_noise_waits_for_as_many_shares(
    make_study: MakeStudy,
) -> None:
    """Were a validation under-staffed, its sum would have less noise than was charged."""
    from gemel.privacy.secure_aggregation import plan

    study = make_study(
        aggregation=AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=0),
        pace=EVERYTHING,
        strategy=CASES["ditto"],
    )
    for task in ("evaluate", "validate/1", "personal", "synthesise/1"):
        declared = declared_release(task, PROGRAMME, study=study)
        assert plan.context_of(study, task, declared, attempt=1).least_survivors == len(study.sites), task
