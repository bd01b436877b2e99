"""What tasks compute under each strategy: what leaves, what stays, what pulls, and what a crash may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from any_synthesis import a_choice
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gemel.client_node import local_state, tasks
from gemel.core.arrays import Arrays, check_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.strategy_plan import Algorithm, Pace, Personalisation, StrategyPlan
from gemel.core.study import Study, TrainingPlan, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.data_adapters.dataset.build import build
from gemel.privacy.engine import DpTrainer, Pull, train_round
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.domain import domain_of
from gemel.synthetic.releases import (
    CORRECTION,
    KEPT,
    check_strategy,
    declared_inputs,
    declared_kept,
    declared_release,
    travelling,
)
from gemel.twins.installed import make_twin
from gemel.twins.metrics import count_metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"
NAMES = sorted(make_twin(PROGRAMME).array_specs())
STRATEGIES = {
    "fedavg": StrategyPlan(),
    "fedprox": StrategyPlan(algorithm=Algorithm.FEDPROX, proximal_mu=0.5),
    "scaffold": StrategyPlan(algorithm=Algorithm.SCAFFOLD),
    "a local level": StrategyPlan(
        personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=("level",)
    ),
    "local but one": StrategyPlan(
        personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=("level", "slopes", "couplings")
    ),
    "ditto": StrategyPlan(personalisation=Personalisation.DITTO, ditto_lambda=0.5),
    "scaffold with a local level": StrategyPlan(
        algorithm=Algorithm.SCAFFOLD,
        personalisation=Personalisation.LOCAL_PARAMETERS,
        local_parameters=("level",),
    ),
}


def _with(study: Study, strategy: StrategyPlan, **more: Any) -> Study:
    changed = msgspec.structs.replace(study, strategy=strategy, **more)
    return parse_study(changed.to_payload())


def _inputs(
    study: Study, task: str, *, offset: float = 0.0, correction: float = 0.0
) -> dict[str, np.ndarray]:
    """The start values, moved; a correction of this size where one is declared; for synthesis what a coordinator may choose."""
    if task in ROUNDS:
        return a_choice(domain_of(PROGRAMME), task)
    start = make_twin(PROGRAMME).to_arrays()
    return {
        name: np.full(spec.shape, correction, np.float32)
        if name.startswith(CORRECTION)
        else (start[name] + offset).astype(np.float32)
        for name, spec in declared_inputs(task, PROGRAMME, study=study).items()
    }


@pytest.fixture(scope="module")
def people(exports: dict[str, Path]) -> Dataset:
    return build(exports[SITE], PROGRAMME, pseudonym_key=bytes(32))[0]


def _compute(
    task: str, study: Study, people: Dataset, inputs: Arrays, *, seed: int = 1
) -> dict[str, np.ndarray]:
    return tasks.compute(
        task,
        study,
        PROGRAMME,
        dataset=people,
        inputs=inputs,
        noisy_patients=110.0,
        noise=NoiseSource.for_tests(seed),
    )


# --- what leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_whatever_the_task_only_what_is_declared_leaves_and_the_rest_stays(
    make_study: MakeStudy, people: Dataset, name: str
) -> None:
    study = _with(make_study(), STRATEGIES[name], pace=Pace(validate_every=1), cross_site_validation=True)
    kept: dict[str, np.ndarray] = {}
    for task in study.tasks:
        given = {n: a for n, a in kept.items() if n in declared_kept(task, PROGRAMME, study=study)}
        computed = _compute(task, study, people, {**_inputs(study, task), **given})
        leaves, stays = local_state.split(computed)
        check_arrays(leaves, declared_release(task, PROGRAMME, study=study))
        assert not any(n.startswith(KEPT) for n in leaves)
        assert set(leaves).isdisjoint(study.strategy.local_parameters)
        if task.startswith("train/"):
            check_arrays(stays, declared_kept(task, PROGRAMME, study=study))
            kept = stays or kept
        else:
            assert not stays


@given(local=st.sets(st.sampled_from(NAMES), min_size=1, max_size=len(NAMES) - 1))
def test_any_choice_of_local_parameters_divides_the_twin(local: set[str]) -> None:
    plan = StrategyPlan(
        personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=tuple(sorted(local))
    )
    assert set(travelling(PROGRAMME, plan)) == set(NAMES) - local


@pytest.mark.parametrize("local", [("no_such",), tuple(NAMES), ("level", "time_basis")])
def test_parameters_that_the_twin_lacks_or_all_of_them_are_refused(local: tuple[str, ...]) -> None:
    plan = StrategyPlan(personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=local)
    with pytest.raises(GemelError) as caught:
        check_strategy(PROGRAMME, plan)
    assert caught.value.code == "GEM340"


# --- what stays -----------------------------------------------------------------------------------


def test_local_parameters_go_on_from_where_they_were(make_study: MakeStudy, people: Dataset) -> None:
    study = _with(make_study(), STRATEGIES["a local level"])
    first = _compute("train/1", study, people, _inputs(study, "train/1"))
    start = make_twin(PROGRAMME).to_arrays()["level"]
    assert not np.array_equal(first["kept.level"], start)
    moved = {"kept.level": first["kept.level"] + np.float32(0.3)}
    again = _compute("train/2", study, people, {**_inputs(study, "train/2"), **moved})
    # One learning rate, one bound: two steps lead no farther than this from where they start.
    assert np.abs(again["kept.level"] - moved["kept.level"]).max() < 0.3
    assert np.abs(again["kept.level"] - start).max() > 0.2


@pytest.mark.parametrize("task", ["evaluate", "validate/1", "cross/alpha"])
def test_an_evaluation_takes_what_came_and_what_is_kept(
    make_study: MakeStudy, people: Dataset, task: str
) -> None:
    study = _with(
        make_study(), STRATEGIES["a local level"], pace=Pace(validate_every=1), cross_site_validation=True
    )
    kept = make_twin(PROGRAMME).to_arrays()["level"] + np.float32(1.5)
    inputs = _inputs(study, task)
    whole = make_twin(PROGRAMME)
    whole.load_arrays({**inputs, "level": kept})
    _, held_out = people.split()
    exact = count_metric_tables(PROGRAMME, whole.predict(held_out.values), held_out)
    quiet = msgspec.structs.replace(
        study, privacy=msgspec.structs.replace(study.privacy, metrics_noise_multiplier=0.1)
    )
    merged = _compute(task, quiet, people, {**inputs, "kept.level": kept})
    alone = _compute(task, quiet, people, inputs)
    for name, table in exact.items():
        assert np.abs(merged[name] - table).max() <= 1
        assert np.abs(alone[name] - table).max() > 1


def test_ditto_trains_a_personal_twin_beside_the_global_and_evaluates_it(
    make_study: MakeStudy, people: Dataset
) -> None:
    study = _with(make_study(), STRATEGIES["ditto"])
    inputs = _inputs(study, "train/1")
    computed = _compute("train/1", study, people, inputs)
    leaves, stays = local_state.split(computed)
    assert any(not np.array_equal(leaves[n], stays[f"{KEPT}{n}"]) for n in NAMES)
    plain = _compute("train/1", _with(make_study(), StrategyPlan()), people, inputs)
    for n in NAMES:  # the global twin is trained as without: on other noise, by the same rule
        assert np.abs(leaves[n] - plain[n]).max() < 2.0
    personal = {n: a + np.float32(2.0 * (n == f"{KEPT}level")) for n, a in stays.items()}
    twin = make_twin(PROGRAMME)
    twin.load_arrays({n.removeprefix(KEPT): a for n, a in personal.items()})
    _, held_out = people.split()
    exact = count_metric_tables(PROGRAMME, twin.predict(held_out.values), held_out)
    quiet = msgspec.structs.replace(
        study, privacy=msgspec.structs.replace(study.privacy, metrics_noise_multiplier=0.1)
    )
    for name, table in _compute("personal", quiet, people, personal).items():
        assert np.abs(table - exact[name]).max() <= 1


def test_a_personal_twin_that_was_never_trained_is_not_made_up(
    make_study: MakeStudy, people: Dataset
) -> None:
    study = _with(make_study(), STRATEGIES["ditto"])
    with pytest.raises(GemelError) as caught:
        _compute("personal", study, people, {})
    assert caught.value.code == "GEM342"


def test_ditto_is_charged_for_both_twins_steps(make_study: MakeStudy) -> None:
    plain, ditto = _with(make_study(), StrategyPlan()), _with(make_study(), STRATEGIES["ditto"])
    [one], [two] = (s.charge("train/1").mechanisms for s in (plain, ditto))
    assert (one.count, two.count) == (2, 4)
    drawn: list[int] = []

    class Counting(NoiseSource):
        def gaussian(self, shape: tuple[int, ...]) -> np.ndarray:
            drawn.append(int(np.prod(shape)))
            return super().gaussian(shape)

    model = nn.Linear(2, 1, bias=False)  # what a trainer draws for one step is one vector of the model's size
    for study in (plain, ditto):
        trainer = DpTrainer(study.training, noise=Counting(lambda: bytes(32), is_secure=False),
                            expected_patients=9.0)  # fmt: skip
        train_round(
            study.strategy,
            trainer,
            lambda _: _Linear(model),
            {"x": torch.ones(9, 2)},
            shared={"layer.weight": np.zeros((1, 2), np.float32)},
            kept={},
            correction={},
        )
        drawn.append(0)
    cut = drawn.index(0)
    assert sum(drawn[cut:]) == 2 * sum(drawn[:cut]) == 2 * 2 * one.count


class _Linear(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layer(batch["x"]).squeeze(1)


# --- what pulls -----------------------------------------------------------------------------------


def test_no_pull_and_a_pull_of_nothing_are_plain_training_to_the_bit(
    make_study: MakeStudy, people: Dataset
) -> None:
    inputs = _inputs(make_study(), "train/1")
    plain = _compute("train/1", make_study(), people, inputs)
    still = _with(make_study(), STRATEGIES["scaffold"])
    corrected = _compute("train/1", still, people, _inputs(still, "train/1", correction=0.0))
    for name in NAMES:
        assert np.array_equal(plain[name], corrected[name])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_a_pull_is_added_to_the_noised_gradient_and_never_bounded_with_it(
    momentum: float, sample_rate: float
) -> None:
    """By hand: the same draws with and without; what differs is strength · (w - centre) + offset, whatever patients say."""
    plan = TrainingPlan(rounds=1, local_steps=1, learning_rate=0.1, momentum=momentum, max_grad_norm=0.01,
                        sample_rate=sample_rate, noise_multiplier=2.0)  # fmt: skip
    random = np.random.default_rng(0)
    start = random.standard_normal((1, 3)).astype(np.float32)
    centre = random.standard_normal((1, 3)).astype(np.float32)
    offset = (50 * random.standard_normal((1, 3))).astype(np.float32)  # far above the bound
    patients = {"x": torch.from_numpy(random.standard_normal((40, 3)).astype(np.float32))}

    def trained(pull: Pull | None) -> np.ndarray:
        model = _Linear(nn.Linear(3, 1, bias=False))
        with torch.no_grad():
            model.layer.weight.copy_(torch.from_numpy(start))
        DpTrainer(plan, noise=NoiseSource.for_tests(3), expected_patients=40.0).train(
            model, patients, pull=pull
        )
        return model.layer.weight.detach().numpy()

    name = "layer.weight"
    pulled = trained(Pull(0.7, centre={name: centre}, offset={name: offset}))
    expected = trained(None) - 0.1 * (0.7 * (start - centre) + offset)
    np.testing.assert_allclose(pulled, expected, rtol=1e-5, atol=1e-5)


def test_a_strong_pull_keeps_a_round_near_the_global_twin(make_study: MakeStudy, people: Dataset) -> None:
    inputs = _inputs(make_study(), "train/1")
    distance = {}
    for mu in (0.01, 1.0):
        study = _with(make_study(), StrategyPlan(algorithm=Algorithm.FEDPROX, proximal_mu=mu))
        computed = _compute("train/1", study, people, inputs)
        distance[mu] = sum(float(np.square(computed[n] - inputs[n]).sum()) for n in NAMES)
    assert distance[1.0] < distance[0.01]


@pytest.mark.parametrize(
    "pull",
    [
        Pull(1.0, centre={"elsewhere": np.zeros((1, 3), np.float32)}),
        Pull(1.0, centre={"layer.weight": np.zeros(3, np.float32)}),
        Pull(offset={"layer.weight": np.full((1, 3), np.nan, np.float32)}),
        Pull(-1.0, centre={"layer.weight": np.zeros((1, 3), np.float32)}),
        Pull(float("inf"), centre={"layer.weight": np.zeros((1, 3), np.float32)}),
    ],
)
def test_a_pull_that_does_not_fit_is_refused_before_a_step(pull: Pull) -> None:
    plan = TrainingPlan(rounds=1, local_steps=1, learning_rate=0.1, momentum=0.0, max_grad_norm=1.0,
                        sample_rate=1.0, noise_multiplier=1.0)  # fmt: skip
    model = _Linear(nn.Linear(3, 1, bias=False))
    before = model.layer.weight.detach().clone()
    with pytest.raises(GemelError) as caught:
        DpTrainer(plan, noise=NoiseSource.for_tests(0), expected_patients=4.0).train(
            model, {"x": torch.ones(4, 3)}, pull=pull
        )
    assert caught.value.code == "GEM403"
    assert torch.equal(model.layer.weight, before)


@pytest.mark.parametrize("correction", [2e6, -1e30])
def test_a_correction_that_no_round_leads_to_is_refused(
    make_study: MakeStudy, people: Dataset, correction: float
) -> None:
    study = _with(make_study(), STRATEGIES["scaffold"])
    with pytest.raises(GemelError) as caught:
        _compute("train/1", study, people, _inputs(study, "train/1", correction=correction))
    assert caught.value.code == "GEM341"
