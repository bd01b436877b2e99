import copy
import json

import pytest

from gemel.core.errors import GemelError
from gemel.core.mechanism import MechanismKind, Share, mechanisms_by_patient
from gemel.core.study import SCHEMA, parse_study
from gemel.core.synthesis_plan import ROUNDS

PAYLOAD = {
    "schema": SCHEMA,
    "study_id": "nafld-1",
    "title": "Cardiometabolic course in fatty liver",
    "purpose": "test",
    "programme": "fatty_liver",
    "programme_version": "1",
    "training": {
        "rounds": 5,
        "local_steps": 4,
        "learning_rate": 0.5,
        "momentum": 0.9,
        "max_grad_norm": 1.0,
        "sample_rate": 1.0,
        "noise_multiplier": 8.0,
        "clipping": "flat",
        "target_quantile": 0.5,
        "quantile_noise_multiplier": 0.0,
        "clip_learning_rate": 0.2,
    },
    "privacy": {
        "epsilon": 3.0,
        "delta": 1e-5,
        "count_noise_multiplier": 30.0,
        "metrics_noise_multiplier": 20.0,
        "synthesis_noise_multiplier": 10.0,
    },
    "metrics_tables": 3,
    "synthesis": {
        "levels": {"tables": 12, "share": 0.1},
        "scores": {"tables": 66, "share": 0.1},
        "tables": {"tables": 1, "share": 0.8},
        "sites_of_a_person": 2,
    },
    "minimum_patients": 100,
    "quorum": 2,
    "round_timeout_s": 60.0,
    "sites": {"north": "aa" * 32, "south": "bb" * 32},
    "aggregation": {
        "masking": "none",
        "rule": "mean",
        "threshold": 0,
        "distributed_noise": False,
        "dropouts": 0,
        "colluders": 0,
        "malicious": 0,
    },
    "statistics": [],
    "strategy": {
        "algorithm": "fedavg",
        "proximal_mu": 0.0,
        "server_learning_rate": 1.0,
        "beta_1": 0.9,
        "beta_2": 0.99,
        "tau": 1e-3,
        "personalisation": "none",
        "local_parameters": [],
        "ditto_lambda": 0.0,
    },
    "pace": {
        "enough": 0,
        "buffer": 0,
        "staleness_exponent": 0.5,
        "validate_every": 0,
        "patience": 0,
        "least_improvement": 0.0,
    },
    "cross_site_validation": False,
}
# Those with a default in code: a document must have them all the same.
DEFAULTED = {
    "clipping",
    "target_quantile",
    "quantile_noise_multiplier",
    "clip_learning_rate",
    "aggregation",
    "statistics",
    "strategy",
    "pace",
    "cross_site_validation",
    "sites_of_a_person",
}


def _leaves(value, path=()):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path


def _set(path, value):
    payload = copy.deepcopy(PAYLOAD)
    target = payload
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return payload


def _refusal(payload):
    with pytest.raises(GemelError) as caught:
        parse_study(payload)
    assert caught.value.code == "GEM101"
    return caught.value.message


def test_a_study_survives_its_payload():
    study = parse_study(PAYLOAD)
    assert study.to_payload() == PAYLOAD
    assert parse_study(json.loads(json.dumps(study.to_payload()))) == study


# What is left out takes another field with it, or is refused otherwise: see the ranges below.
@pytest.mark.parametrize(
    "path",
    [
        p
        for p in _leaves(PAYLOAD)
        if p[-1] not in {"schema", "quorum", "clipping", "quantile_noise_multiplier", "share"}
        and p[0] not in {"aggregation", "statistics", "strategy", "pace", "cross_site_validation"}
    ],
    ids=".".join,
)
def test_the_hash_changes_when_any_field_changes(path):
    value = PAYLOAD
    for name in path:
        value = value[name]
    other: object = "cc" * 32
    if path[0] != "sites":
        other = (
            f"{value}-other"
            if isinstance(value, str)
            else value + 1
            if isinstance(value, int)
            else value * 0.5
        )
    assert parse_study(_set(path, other)).sha256 != parse_study(PAYLOAD).sha256


@pytest.mark.parametrize("path", [p for p in _leaves(PAYLOAD) if p[0] != "sites"], ids=".".join)
def test_a_missing_field_is_refused_by_name(path):
    payload = copy.deepcopy(PAYLOAD)
    target = payload
    for name in path[:-1]:
        target = target[name]
    del target[path[-1]]
    message = _refusal(payload)
    assert path[-1] in message or DEFAULTED & set(path)


@pytest.mark.parametrize("path", [("code",), ("training", "script"), ("privacy", "refund")], ids=".".join)
def test_an_unknown_field_is_refused_by_name(path):
    assert path[-1] in _refusal(_set(path, "x"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "gemel/study/2"),
        (("training", "rounds"), 0),
        (("training", "rounds"), "5"),
        (("training", "local_steps"), 0),
        (("training", "learning_rate"), 0.0),
        (("training", "learning_rate"), float("nan")),
        (("training", "momentum"), 1.0),
        (("training", "max_grad_norm"), -1.0),
        (("training", "max_grad_norm"), float("inf")),
        (("training", "sample_rate"), 0.0),
        (("training", "sample_rate"), 1.01),
        (("training", "noise_multiplier"), 0.0),
        (("training", "noise_multiplier"), float("nan")),
        (("training", "clipping"), "none"),
        (("training", "target_quantile"), 1.0),
        (("training", "quantile_noise_multiplier"), 1.0),  # only adaptive clipping counts
        (("training", "clip_learning_rate"), 0.0),
        (("privacy", "epsilon"), 0.0),
        (("privacy", "epsilon"), 101.0),
        (("privacy", "delta"), 0.0),
        (("privacy", "delta"), 0.01),
        (("privacy", "count_noise_multiplier"), -1.0),
        (("privacy", "metrics_noise_multiplier"), 0.0),
        (("privacy", "synthesis_noise_multiplier"), 0.0),
        (("metrics_tables",), 0),
        (("synthesis", "levels", "tables"), 0),
        (("synthesis", "scores", "share"), 0.0),
        (("synthesis", "tables", "share"), 0.9),
        (("synthesis", "sites_of_a_person"), 0),
        (("minimum_patients",), 0),
        (("quorum",), 0),
        (("quorum",), 3),
        (("round_timeout_s",), 0.0),
        (("sites",), {}),
    ],
)
def test_a_value_out_of_its_range_is_refused(path, value):
    assert path[-1] in _refusal(_set(path, value)) or path == ("sites",)


def test_tasks_are_count_rounds_evaluate_synthesise():
    assert parse_study(PAYLOAD).tasks == (
        "count", "train/1", "train/2", "train/3", "train/4", "train/5", "evaluate",
        "synthesise/1", "synthesise/2", "synthesise/3",
    )  # fmt: skip


def test_full_batches_cost_gaussians_and_sampled_ones_poisson_gaussians():
    full = parse_study(PAYLOAD).charge("train/1").mechanisms[0]
    sampled = parse_study(_set(("training", "sample_rate"), 0.1)).charge("train/1").mechanisms[0]
    assert (full.kind, full.count) == (MechanismKind.GAUSSIAN, 4)
    assert (sampled.kind, sampled.sample_rate) == (MechanismKind.POISSON_GAUSSIAN, 0.1)


def test_every_table_of_metrics_and_synthesis_is_paid_for():
    study = parse_study(PAYLOAD)
    assert [m.count for m in study.charge("evaluate").mechanisms] == [3]
    charged = [m for task in ROUNDS for m in study.charge(task).mechanisms]
    assert [m.count for m in charged] == [12, 66, 1]
    # All of synthesis together is one Gaussian of the plan's multiplier.
    assert sum(m.count / m.noise_multiplier**2 for m in charged) == pytest.approx(10.0**-2)
    paid = mechanisms_by_patient(study.charges())
    assert sum(m.count for m in paid[Share.TRAINING]) == 1 + 5 * 4 + 12 + 66 + 1
    assert sum(m.count for m in paid[Share.HELD_OUT]) == 1 + 3


def test_statistics_are_a_task_of_their_own_with_their_own_price():
    payload = copy.deepcopy(PAYLOAD)
    payload["statistics"] = [{"kind": "count", "name": "everybody", "noise_multiplier": 20.0}]
    study = parse_study(payload)
    assert study.tasks[:3] == ("count", "describe", "train/1")
    assert study.charge("describe").mechanisms == study.statistics[0].mechanisms()
    assert study.charge("describe").share is Share.EVERYONE
    payload["statistics"][0]["noise_multiplier"] = 0.0
    with pytest.raises(GemelError, match="GEM311"):
        parse_study(payload)


def test_an_adaptive_step_is_charged_for_its_count_too():
    payload = _set(("training", "clipping"), "adaptive")
    assert "quantile_noise_multiplier" in _refusal(payload)
    payload["training"]["quantile_noise_multiplier"] = 6.0
    (step,) = parse_study(payload).charge("train/1").mechanisms
    assert step.noise_multiplier == pytest.approx((8.0**-2 + 6.0**-2) ** -0.5)


def _aggregated(sites, **plan):
    payload = copy.deepcopy(PAYLOAD)
    payload["sites"] = {f"site{i}": f"{i:02x}" * 32 for i in range(1, sites + 1)}
    payload["aggregation"].update(plan)
    return payload


@pytest.mark.parametrize(
    ("sites", "plan"),
    [
        (3, {"masking": "secure"}),
        (5, {"masking": "secure", "threshold": 3}),
        (6, {"masking": "secure", "distributed_noise": True, "dropouts": 2, "colluders": 1}),
        (5, {"rule": "krum", "malicious": 1}),
    ],
)
def test_an_aggregation_that_can_hold_is_taken(sites, plan):
    assert parse_study(_aggregated(sites, **plan)).to_payload() == _aggregated(sites, **plan)


@pytest.mark.parametrize(
    ("sites", "plan"),
    [
        (2, {"masking": "secure"}),  # the other hospital would see the rest
        (5, {"masking": "secure", "threshold": 2}),  # two disjoint halves could both lift masks
        (5, {"masking": "secure", "threshold": 6}),
        (5, {"threshold": 4}),
        (5, {"masking": "secure", "rule": "median"}),
        (5, {"distributed_noise": True}),
        (5, {"masking": "secure", "dropouts": 1}),
        (5, {"masking": "secure", "distributed_noise": True, "dropouts": 2, "colluders": 2}),
        (5, {"malicious": 1}),
        (4, {"rule": "krum", "malicious": 1}),
        (3, {"rule": "median", "malicious": -1}),
    ],
)
def test_an_aggregation_that_cannot_hold_is_refused(sites, plan):
    assert "aggregation" in _refusal(_aggregated(sites, **plan))


@pytest.mark.parametrize("task", ["train/6", "train/0", "train/01", "pickle", ""])
def test_a_task_outside_the_study_is_refused(task):
    with pytest.raises(GemelError, match="GEM404"):
        parse_study(PAYLOAD).charge(task)


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": {"algorithm": "fedprox", "proximal_mu": 0.1}},
        {"strategy": {"algorithm": "fedadam"}},
        {"strategy": {"server_learning_rate": 0.5}},
        {"strategy": {"personalisation": "ditto", "ditto_lambda": 1.0}},
        {"strategy": {"personalisation": "local_parameters", "local_parameters": ["level"]}},
        {"pace": {"enough": 2}},
        {"pace": {"buffer": 1}},
        {"pace": {"validate_every": 2, "patience": 1}},
        {"cross_site_validation": True},
    ],
    ids=str,
)
def test_strategy_and_pace_are_part_of_what_is_signed(change):
    assert parse_study(_merged(change)).sha256 != parse_study(PAYLOAD).sha256


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": {"algorithm": "fedprox"}},
        {"strategy": {"proximal_mu": 0.1}},
        {"strategy": {"local_parameters": ["level"]}},
        {"strategy": {"personalisation": "ditto"}},
        {"strategy": {"server_learning_rate": 0.0}},
        {"pace": {"enough": 1}},
        {"pace": {"buffer": 3}},
        {"pace": {"patience": 1}},
        {"pace": {"buffer": 1, "validate_every": 1}},
    ],
    ids=str,
)
def test_a_strategy_that_cannot_be_is_refused(change):
    _refusal(_merged(change))


def test_tasks_are_in_their_order_and_evaluations_touch_the_held_out_only():
    study = parse_study(
        _merged(
            {
                "pace": {"validate_every": 2},
                "strategy": {"personalisation": "ditto", "ditto_lambda": 1.0},
                "cross_site_validation": True,
            }
        )
    )
    assert study.tasks == (
        *("count", "train/1", "train/2", "validate/2", "train/3", "train/4", "validate/4", "train/5"),
        *("evaluate", "personal", "cross/north", "cross/south", *ROUNDS),
    )
    shares = {charge.task: charge.share for charge in study.charges()}
    assert {shares[t] for t in ("validate/2", "personal", "cross/north")} == {Share.HELD_OUT}
    assert study.charge("train/1").mechanisms[0].count == 2 * 4, "a personal twin's steps are charged too"


def _merged(change):
    payload = copy.deepcopy(PAYLOAD)
    for name, value in change.items():
        payload[name] = {**payload[name], **value} if isinstance(value, dict) else value
    return payload
